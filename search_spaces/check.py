"""What every search space must do, tried on one: `dnas spaces check` says where a space falls short."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from dnas.types import REMOVED, Genotype, SearchSpace

TOLERANCE = 1e-9
"""Relative, in float64."""


class Finding(NamedTuple):
    """The outcome of one trial: what was tried, and what is wrong with it, None if nothing."""

    tried: str
    wrong: str | None


def check(space: SearchSpace, inputs: np.ndarray, outputs: int | tuple[int, ...], *, seed: int = 0) -> Iterator[Finding]:
    """Tries `space` on a few normalised inputs `[B, ...]`, in float64 where that is exact (tokens stay integers), with
    random gates; yields a Finding for each trial as it is done.

    outputs: how many a network has, or their shape where an input has more than one row of them (`Dataset.outputs`).

    A trial whose ground is missing, because an earlier one failed, is left out.
    """
    shape = (outputs,) if isinstance(outputs, int) else outputs
    trials = _Trials(space, np.asarray(inputs), shape, np.random.default_rng(seed))
    more = [trials.reorders] if getattr(space, "reorder", None) else []
    for tried in (trials.builds, trials.applies, trials.is_deterministic, trials.round_trips, trials.inherits, trials.counts,
                  trials.one_hot_is_discrete, trials.uses_every_edge, *more):
        try:
            wrong = tried()
        except Exception as error:
            wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        yield Finding(tried.__doc__, wrong)
        if wrong and tried in (trials.builds, trials.applies):
            return


def draw_example(space: SearchSpace, shape: tuple[int, ...], classes: int, *, count: int = 4,
                 seed: int = 0) -> tuple[np.ndarray, tuple[int, ...]]:
    """Random inputs `[count, *shape]` as the space takes them, tokens below `classes` or numbers of N(0, 1), and the shape
    of a network's outputs for one of them, whose last axis must be `classes`."""
    draw, shape = np.random.default_rng(seed), (count, *shape)
    tokens = space.input_dtype == "int32"
    inputs = draw.integers(0, classes, shape, np.int32) if tokens else draw.normal(size=shape).astype(np.float32)

    def outputs(inputs):
        gates = {name: group.allowed / group.allowed.sum(-1, keepdims=True) for name, group in space.groups.items()}
        gates = jax.tree.map(np.float32, gates)
        return space.apply(*space.init(jax.random.key(0), inputs), gates, inputs, train=True, key=None)[0]

    return inputs, (*jax.eval_shape(outputs, inputs).shape[1:-1], classes)


class _Trials:
    """Each method tries one thing and returns what is wrong, or None; its docstring is the thing."""

    def __init__(self, space: SearchSpace, inputs: np.ndarray, outputs: tuple[int, ...], rng: np.random.Generator):
        self.space, self.outputs, self.rng, tokens = space, tuple(outputs), rng, inputs.dtype.kind in "iu"
        self.single, self.exact = (inputs.astype(np.int32 if tokens else kind) for kind in (np.float32, np.float64))

    def builds(self):
        """it has groups of edges, whose operations are those of the module, and initial weights that are finite"""
        if not isinstance(self.space, SearchSpace) or not self.space.groups:
            return "the factory returns no SearchSpace with at least one group of edges"
        for genotype in self.genotypes():
            try:
                self.space.cost(genotype)
            except Exception as error:  # what else is wrong, the supernet says better
                if "has the operations" in str(error):
                    return str(error)
        self.weights, self.stats = self.space.init(jax.random.key(0), self.single)
        bad = [path for path, leaf in jax.tree.leaves_with_path(self.weights) if not np.isfinite(leaf).all()]
        return f"initial weights are not finite: {jax.tree_util.keystr(bad[0])}" if bad else None

    def applies(self):
        """the supernet takes any gates as an array, in one program, and returns logits [batch, ..., classes]"""
        logits, stats = jax.eval_shape(lambda *args: self.space.apply(*args, train=True, key=None), self.weights, self.stats,
                                       self.gates(), self.single)
        if logits.shape != (len(self.single), *self.outputs):
            return f"logits have shape {logits.shape}; {len(self.single)} inputs of {self.outputs[-1]} classes need " \
                   f"{(len(self.single), *self.outputs)}"
        if jax.tree.structure(stats) != jax.tree.structure(self.stats):
            return "apply returns other stats than init"
        return None

    def is_deterministic(self):
        """in evaluation equal inputs give equal logits, without a key"""
        images = self.single
        evaluate = lambda gates: self.space.apply(self.weights, self.stats, gates, images, train=False, key=None)[0]
        first, second = jax.jit(lambda gates: [evaluate(gates) for _ in range(2)])(self.gates())
        return None if np.array_equal(first, second) else \
            "two equal calls give different logits; a module may draw only from the keys that Flax gives it"

    def round_trips(self):
        """its own rule gives genotypes that fit its groups and read back equal, from JSON and from its notation"""
        for _ in range(3):
            genotype = self.space.draw(self.rng)
            genotype.decisions(self.space.groups)
            if Genotype.from_json(genotype.to_json()) != genotype:
                return "a genotype is not the same after to_json and from_json; options must be what JSON knows"
            try:
                text = self.space.format(genotype)
                again = self.space.parse(text)
            except ValueError as error:
                if "no notation of its own" in str(error):
                    continue
                raise
            if again.choices != genotype.choices:
                return f"parse(format(genotype)) is another genotype: {text}"
        return None

    def inherits(self):
        """the discrete network runs on the weights that it inherits, and uses all of them"""
        images = self.single
        for genotype in self.genotypes():
            weights, stats = (self.space.inherit(tree, genotype) for tree in (self.weights, self.stats))
            run = lambda w, s=stats, g=genotype: self.space.apply(w, s, g, images, train=True, key=None)[0]
            traced = jax.make_jaxpr(run)(weights).jaxpr
            _, used = dce_jaxpr(traced, [True] * len(traced.outvars))
            for (path, _), use in zip(jax.tree.leaves_with_path(weights), used):
                if not use:
                    return f"{self.space.format(genotype)} inherits {jax.tree_util.keystr(path)}, which it does not use"
        return None

    def counts(self):
        """cost(genotype) counts the parameters that the stand-alone network has"""
        shape = jax.ShapeDtypeStruct(self.single.shape, self.single.dtype)
        for genotype in self.genotypes():
            weights, _ = jax.eval_shape(lambda key, g=genotype: self.space.network(g).init(key, shape), jax.random.key(0))
            has, counted = sum(leaf.size for leaf in jax.tree.leaves(weights)), self.space.cost(genotype)["params"]
            if has != counted:
                return f"{self.space.format(genotype)} has {has:,} parameters, cost says {counted:,}"
        return None

    def one_hot_is_discrete(self):
        """one-hot gates in the supernet give the logits of the discrete network"""
        with jax.enable_x64(True):
            weights, stats, images = self.double()
            for train in True, False:
                supernet = jax.jit(lambda gates, train=train: self.space.apply(weights, stats, gates, images, train=train,
                                                                               key=None)[0])
                for genotype in self.genotypes():
                    mixed = supernet(jax.tree.map(np.float64, genotype.gates(self.space.groups)))
                    parts = self.space.inherit(weights, genotype), self.space.inherit(stats, genotype)
                    single = jax.jit(lambda parts, g=genotype, train=train: self.space.apply(
                        *parts, g, images, train=train, key=None)[0])(parts)
                    apart = np.abs(mixed - single).max() / max(np.abs(mixed).max(), 1e-9)
                    if apart > TOLERANCE:
                        return f"{self.space.format(genotype)}: logits differ by {apart:.1e} of their size " \
                               f"({'training' if train else 'evaluation'})"
        return None

    def uses_every_edge(self):
        """every gate moves the logits, but those of operations that put out zeros"""
        with jax.enable_x64(True):
            weights, stats, images = self.double()
            direction = self.rng.normal(size=(len(images), *self.outputs))
            logits = lambda gates: self.space.apply(weights, stats, gates, images, train=True, key=None)[0]
            project = lambda gates: (direction * logits(gates)).sum()
            slopes = jax.device_get(jax.jit(jax.grad(project))(jax.tree.map(np.float64, self.gates())))
        missing = []
        for name, group in self.space.groups.items():
            for e, (source, target) in enumerate(group.edges):
                ops = group.edge_ops(e)
                still = [op for k, op in enumerate(ops) if slopes[name][e, k] == 0]
                if len(still) == len(ops):
                    missing.append(f"edge {source}->{target} of group {name!r}")
                elif len(still) > 1:
                    missing.append(f"operations {', '.join(still)} on edge {source}->{target} of group {name!r}")
        return f"the logits do not depend on {'; '.join(missing)}" if missing else None

    def reorders(self):
        """the order of its channels does not matter to the largest network"""
        with jax.enable_x64(True):
            *trees, images = self.double()
            trees = jax.tree.map(lambda leaf: leaf + self.rng.uniform(-0.1, 0.1, leaf.shape), trees)
            gates = jax.tree.map(np.float64, self.space.largest().gates(self.space.groups))
            logits = jax.jit(lambda trees: self.space.apply(*trees, gates, images, train=False, key=None)[0])
            before, after = logits(trees), logits(self.space.reorder(trees[0], trees))
            apart = np.abs(before - after).max() / max(np.abs(before).max(), 1e-9)
        return f"logits differ by {apart:.1e} of their size" if apart > TOLERANCE else None

    def gates(self):
        drawn = {name: group.allowed * self.rng.uniform(0.5, 1, group.shape) for name, group in self.space.groups.items()}
        return {name: (rows / rows.sum(-1, keepdims=True)).astype(np.float32) for name, rows in drawn.items()}

    def double(self):
        return (*(jax.tree.map(np.float64, tree) for tree in (self.weights, self.stats)), self.exact)

    @functools.cache  # noqa: B019 (an instance lives as long as one check)
    def genotypes(self):
        """Two random ones, an edge of the second removed where a group has several into its node. Without `none`, behind
        which nothing is used."""
        def drawn(ops):
            return self.rng.choice([k for k, op in enumerate(ops) if op != "none"] or len(ops))

        genotypes = []
        for i in range(2):
            rows = {name: np.array([drawn(group.edge_ops(e)) for e in range(len(group.edges))])
                    for name, group in self.space.groups.items()}
            for name, group in self.space.groups.items():
                if i and sum(target == group.edges[0][1] for _, target in group.edges) > 1:
                    rows[name][0] = REMOVED
            genotypes.append(Genotype.from_decisions(self.space, rows))
        return genotypes
