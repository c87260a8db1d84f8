"""A few-shot search: the stages of a search whose supernet is split into several, and the choice of one of them.

    RUN/                     the supernet until the first split; in the end, the search of the child that was chosen
    RUN/split.json           the edge on which it was split, and why
    RUN/children/0, 1        its children, each a run that begins with all that its parent has
    RUN/children/0-0, 0-1    the children of the first of them
    RUN/children/halving     the training of the last children's networks
    RUN/children/choice.json the last children, their networks and results, and which was chosen
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.method import Method
from dnas.algorithms.players import SearchState
from dnas.api.open import Run
from dnas.api.search_plan import SearchPlan, Setting
from dnas.api.supernet import Supernet
from dnas.engine.compile import on_device
from dnas.engine.host import initial
from dnas.engine.lanes import NonFiniteLoss
from dnas.engine.search import Lane, Result, input_shape
from dnas.fewshot.gradient_matching import best_edge, similarity_across
from dnas.fewshot.gradients import compile_gradient, edge_distances, own_weights, shared_weights
from dnas.fewshot.split import (
    Part,
    Split,
    child_mask,
    choosable,
    contains,
    divisible,
    drawn_split,
    part_of,
    parts_text,
    read_split,
)
from dnas.runs.children import CHOICE, children_of, read_choice
from dnas.runs.directory import CHILDREN, FAILED, RunDirectory, load_genotype, open_run
from dnas.runs.files import read_bytes, records, write_atomic, write_json, write_records
from dnas.runs.recorder import Begun
from dnas.selection.halving import RUNGS, halved
from dnas.selection.select import select
from dnas.task import task_of
from dnas.types import Genotype

Advance = Callable[..., list[Result | NonFiniteLoss]]
"""(lanes, until) -> the results of the lanes after that epoch."""


class Node(NamedTuple):
    """A supernet of a few-shot search. setting: the number of its search; path: its number among its parent's children,
    below those of its ancestors; parts: the operations that make it, by split."""

    setting: int
    path: tuple[int, ...]
    parts: tuple[Part, ...]
    lane: Lane

    @property
    def name(self) -> str:
        """Of its folder."""
        return "-".join(map(str, self.path))


class FewShot(NamedTuple):
    """The end of a few-shot search. result: of the child that was chosen; choice: what choice.json holds; children: the runs
    of the last children, [] where they ended before."""

    result: Result
    choice: Mapping[str, Any]
    children: list[Run]


def search_few_shot(plan: SearchPlan, group: Sequence[Setting], method: Method, lanes: Sequence[Lane], advance: Advance,
                    choose_from: Callable[[Run], Genotype], mesh_sizes: Mapping[str, int] | None,
                    say: Callable[[str], None]) -> list[FewShot | NonFiniteLoss]:
    """Carries out the searches of a group, each of which is split as the plan says. What is done is not repeated.

    method: of all of them, within the budget. lanes: of their first supernets. choose_from: the genotype of a child.
    A child whose loss is not finite leaves the race; if none is left, the search ends with its error.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        stages = Stages(plan, group, method, advance, mesh_sizes, say, stack)
        waiting = [n for n, lane in enumerate(lanes) if lane.run is None or not children_of(lane.run.folder)]
        leaves = stages.carry_out([Node(n, (), (), lanes[n]) for n in waiting]) if waiting else []
        ends: list[FewShot | NonFiniteLoss] = []
        for n, (setting, lane) in enumerate(zip(group, lanes)):
            own = [(node, result) for node, result in leaves if node.setting == n]
            if n in stages.failed and not own:
                if lane.run:
                    write_json(lane.run.folder / FAILED, {"error": str(stages.failed[n])})
                ends.append(stages.failed[n])
                continue
            children = [_child_run(plan, setting, *each, choose_from, say) for each in own]
            if own:
                choice = _choice(plan, stages.spent[n], own, children, lane.run and lane.run.folder / CHILDREN, say)
            if lane.run is None:
                result, genotype = own[choice["chosen"]][1], children[choice["chosen"]].genotype
            else:
                if own:
                    write_json(lane.run.folder / CHILDREN / CHOICE, choice)
                choice = read_choice(lane.run.folder)
                folder = children_of(lane.run.folder)[choice["chosen"]]
                if not (lane.run.folder / "results.json").exists():
                    _take_over(lane.run, folder, plan.epochs, plan.split.epochs[0])
                [result] = advance([lane._replace(restarted=plan.split.restarted)], plan.epochs)
                genotype = load_genotype(folder)
            result = result._replace(genotype=genotype, seconds=time.monotonic() - began)
            ends.append(FewShot(result, choice, children))
        return ends


class Stages:
    """The stages of several few-shot searches by one program. spent: by search, the epochs of all its supernets, and the
    gradients that were matched; failed: the error of each search that lost supernets."""

    def __init__(self, plan: SearchPlan, group: Sequence[Setting], method: Method, advance: Advance, mesh_sizes, say, stack):
        self.plan, self.group, self.method, self.advance, self.mesh_sizes = plan, group, method, advance, mesh_sizes
        self.say, self.stack = say, stack
        self.split: Split = plan.split
        self.space, self.data = group[0].space, plan.data
        self.chosen = choosable(self.space)
        self.algorithm = method.bind(self.space, task_of(plan.data))
        self.spent = [{"epochs": 0, "gradients": 0} for _ in group]
        self.failed: dict[int, NonFiniteLoss] = {}

    def carry_out(self, nodes: list[Node]) -> list[tuple[Node, Result]]:
        """The last children, after all epochs."""
        ends, begun = [*self.split.epochs, self.plan.epochs], 0
        for stage, end in enumerate(ends):
            results = self.advance([node.lane for node in nodes], end)
            for node, result in zip(nodes, results):
                self.spent[node.setting]["epochs"] += end - begun
                if isinstance(result, NonFiniteLoss):
                    self.failed[node.setting] = result
                    self.say(f"split     supernet {node.name or 'of the first stage'} leaves the race: {result}")
            done = [(node, result) for node, result in zip(nodes, results) if isinstance(result, Result)]
            begun = end
            if end == ends[-1] or not done:
                return done
            nodes = [child for node, result in done for child in self.children(node, result, stage + 1 == len(ends) - 1)]

    def children(self, node: Node, result: Result, last: bool) -> list[Node]:
        """The supernets into which one is split after a stage."""
        state, setting = jax.device_get(result.state), self.group[node.setting]
        hyper = node.lane.method.numbers_of(epochs=self.plan.epochs, steps=self.plan.steps)
        edges = divisible(self.chosen, state.mask, state.decisions, node.parts)
        (name, e), groups, why = self.decided(node, state, hyper, edges)
        divided, parts = edges[name, e], [part_of(self.space.groups, (name, e), ops) for ops in groups]
        about = f" (mean cosine across {why['similarity']:.2f})" if "similarity" in why else ""
        self.say(f"split     {node.name and node.name + ' '}after epoch {len(result.records)}, {name} "
                 f"{'->'.join(map(str, self.space.groups[name].edges[e]))}: "
                 + " | ".join(" ".join(part.ops) for part in parts) + about)
        nodes = []
        for number, (ops, part) in enumerate(zip(groups, parts)):
            mask = child_mask(state.mask, (name, e), ops, divided)
            fresh = last and self.split.weights == "fresh"
            first = self.fresh(node, state, mask) if fresh else state._replace(mask=mask)
            begins = Begun(len(result.records), jax.device_get(first), result.records, result.trajectory)
            path, within = (*node.path, number), (*node.parts, part)
            run = self.opened(setting, node, path, within)
            title = ", ".join([*([setting.title] if len(self.group) > 1 else []), f"child {'-'.join(map(str, path))}"])
            nodes.append(Node(node.setting, path, within, node.lane._replace(
                run=run, name=title, begins=begins, restarted=self.split.restarted if last else 0)))
        return nodes

    def decided(self, node: Node, state: SearchState, hyper, edges) -> tuple[tuple[str, int], Sequence[Sequence[int]], dict]:
        """The edge on which a supernet is split, the operations of its children, and what spoke for it: as it was decided
        before, if it was."""
        file = node.lane.run and node.lane.run.folder / "split.json"
        if file and file.exists():
            edge, groups, said = read_split(file, self.space.groups, edges)
            self.spent[node.setting]["gradients"] += said["gradients"]
            return edge, groups, said
        if self.split.by == "gm":
            apart = self.distances(state, hyper, edges, node.lane.seed)
            edge, halves = best_edge(apart)
            groups = [[edges[edge][k] for k in half] for half in halves]
            why = {"similarity": similarity_across(apart[edge], halves),
                   "distances": {f"{name} {e}": rows.tolist() for (name, e), rows in apart.items()}}
        else:
            edge, groups = drawn_split(edges, self.split.by, np.random.default_rng([node.lane.seed, 4, *node.path]))
            why = {}
        count = self.split.batches * sum(map(len, edges.values())) if self.split.by == "gm" else 0
        self.spent[node.setting]["gradients"] += count
        if file:
            names = [list(part_of(self.space.groups, edge, ops).ops) for ops in groups]
            write_json(file, {"group": edge[0], "edge": edge[1], "ops": names, "gradients": count, **why})
        return edge, groups, why

    def distances(self, state: SearchState, hyper, edges, seed: int) -> dict[tuple[str, int], np.ndarray]:
        """Of the operations of each edge, by matching their gradients."""
        gradient, examples, places = self.matching
        return edge_distances(gradient, self.data, examples, jax.tree.map(jnp.asarray, state), hyper, self.plan.batch, edges,
                              places, self.split.batches, seed)

    @functools.cached_property
    def matching(self) -> tuple[Callable, Any, dict]:
        """The compiled gradient, the data on the device, and the places of the weights whose gradients count by edge."""
        state = self.initial(self.group[0].seed, 0)
        hyper = self.method.numbers_of(epochs=self.plan.epochs, steps=self.plan.steps)
        self.say("compiling the gradients that are matched ...")
        examples = on_device(self.data)
        gradient = compile_gradient(self.algorithm, self.data, examples, state, hyper, self.plan.batch)
        return gradient, examples, shared_weights(own_weights(self.space, state.weights))

    def initial(self, seed: int, left_out: int) -> SearchState:
        """The first state of a search by this seed."""
        hyper = self.method.numbers_of(epochs=self.plan.epochs - left_out, steps=self.plan.steps)
        return initial(self.algorithm.init, jax.random.fold_in(jax.random.key(seed), 0),
                       input_shape(self.data, self.plan.batch), hyper)

    def fresh(self, node: Node, state: SearchState, mask) -> SearchState:
        """The state of a child that has the logits of its parent, and weights that begin anew."""
        first = self.initial(node.lane.seed, self.split.restarted)
        inherited = {"arch": state.arch, "decisions": state.decisions, "mask": mask}
        return self.algorithm.begin(first._replace(**jax.tree.map(jnp.array, inherited)))

    def opened(self, setting: Setting, node: Node, path: Sequence[int], parts: Sequence[Part]) -> RunDirectory | None:
        """The run of a child, open until the search ends; None in memory."""
        if node.lane.run is None:
            return None
        top = node.lane.run.folder if not node.path else node.lane.run.folder.parent.parent
        config = _child_config(setting, parts)
        return self.stack.enter_context(open_run(top / CHILDREN / "-".join(map(str, path)), config, self.mesh_sizes))


def _child_config(setting: Setting, parts: Sequence[Part]) -> dict[str, Any]:
    return {**setting.config, "within": [dataclasses.asdict(part) for part in parts]}


def _child_run(plan: SearchPlan, setting: Setting, node: Node, result: Result,
               choose_from: Callable[[Run], Genotype], say: Callable[[str], None]) -> Run:
    """The run of a last child, with the genotype that is chosen from it: by the selection, unless that heeds no masks."""
    folder, config = node.lane.run and node.lane.run.folder, _child_config(setting, node.parts)
    supernet = Supernet(folder, config, setting.space, setting.method, plan.data, result.state, len(result.records))
    genotype = result.genotype
    if plan.selection:
        try:
            plan.selection.begin(supernet.context)  # which refuses a child that has too few networks for it
            suits = True
        except ValueError as error:
            say(f"selection  child {node.name}: {error}; the method's own rule chooses")
            suits = False
        chosen = choose_from(Run(folder, config, {}, result, supernet)) if suits else genotype
        if contains(result.state.mask, setting.space.groups, chosen):
            genotype = chosen
        else:
            say(f"selection  child {node.name}: the network that was chosen is not in it; the method's own rule chooses")
    if node.lane.run:
        node.lane.run.save_genotype(genotype)
    result = result._replace(genotype=genotype)
    outcome = {"holdout": dict(result.holdout), "cell": setting.space.format(genotype), **setting.space.cost(genotype)}
    if node.lane.run:
        write_json(folder / "results.json", outcome)
    return Run(folder, config, outcome, result, supernet)


def _choice(plan: SearchPlan, spent: Mapping[str, int], leaves: Sequence[tuple[Node, Result]], children: Sequence[Run],
            folder: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Which of the last children is chosen, by training their networks, and what is known of all."""
    candidates = list(dict.fromkeys(child.genotype for child in children))
    best, scores = 0, np.full((1, len(candidates)), np.nan)
    if len(candidates) > 1:
        rungs = max(1, int(math.log2(min(len(candidates), 2 * plan.split.train_epochs))))
        say(f"children  {len(candidates)} networks of {len(children)} children: trained and halved in {rungs} "
            f"round{'s' * (rungs > 1)}, the last of {plan.split.train_epochs} epochs")
        selection = halved(lambda context: candidates, len(candidates), epochs=plan.split.train_epochs, rungs=rungs)
        chosen = select(selection, children[0].supernet.context, folder=folder and folder / "halving", say=say)
        best, scores = candidates.index(chosen.genotype), chosen.scores[RUNGS]
    number = next(n for n, child in enumerate(children) if child.genotype == candidates[best])
    rounds = lambda genotype: [float(score) for score in scores[:, candidates.index(genotype)] if np.isfinite(score)]
    rows = [{"name": node.name, "within": parts_text(node.parts, child.supernet.space.groups), "cell": child.results["cell"],
             "trained": rounds(child.genotype), "holdout": dict(child.holdout)}
            for (node, _), child in zip(leaves, children)]
    return {"chosen": number, "children": rows, "supernet_epochs": spent["epochs"], "gradients": spent["gradients"]}


def _take_over(run: RunDirectory, child: Path, epochs: int, first: int) -> None:
    """Makes a run that of its chosen child: its last checkpoint first, so that what was not written is written again."""
    name = f"{epochs:05d}.safetensors"
    for path in (f"checkpoints/{name}", "arch.npz", "metrics.jsonl"):
        write_atomic(run.folder / path, read_bytes(child / path))
    seconds: dict[int, float] = {}
    for timing in (row for path in sorted((run.folder / CHILDREN).glob("*/timing.jsonl")) for row in records(path)):
        seconds[timing["epoch"]] = seconds.get(timing["epoch"], 0.0) + timing["seconds"]
    rates = {row["epoch"]: row["examples_per_second"] for row in records(child / "timing.jsonl")}
    before = [row for row in run.timings() if row["epoch"] <= first]
    after = [{"epoch": epoch, "examples_per_second": rates.get(epoch), "seconds": total}
             for epoch, total in sorted(seconds.items())]
    write_records(run.folder / "timing.jsonl", before + after)
