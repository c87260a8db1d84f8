"""The search loop: runs the compiled steps, logs them, and saves and restores their state."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas import checkpoint
from dnas.algorithms.players import Method
from dnas.data import Dataset, epoch_indices, steps_per_epoch
from dnas.engine.compile import Examples, diagnosis, evaluation
from dnas.engine.diagnose import collapse, skips
from dnas.engine.host import initial
from dnas.engine.lanes import Epoch, NonFiniteLoss, advanced, epochs_of
from dnas.engine.progress import SILENT, Display, display, shared
from dnas.journal import journal
from dnas.run import Run
from dnas.types import Array, Genotype, SearchSpace, Tree


class Result(NamedTuple):
    """What a search ends with.

    state: the method's last state; genotype: what the method's own rule selects.
    holdout: {"loss": nats, "accuracy": in [0, 1]} of the supernet, with batch statistics.
    records: a mapping for each epoch, the lines of metrics.jsonl; seconds: spent by this process.
    """

    state: Tree
    genotype: Genotype
    holdout: Mapping[str, float]
    records: list[dict[str, Any]]
    seconds: float


def search(space: SearchSpace, method: Method, data: Dataset, *, epochs: int, batch: int, seed: int = 0,
           run: Run | None = None, progress: bool = True, diagnose: int = 0, stop_on_collapse: bool = False) -> Result:
    """Searches `space` by `method` on the train and valid splits, looking at the hold-out split after each epoch.

    The same arguments give the same bits. With `run` everything of note is written into its directory, and a search
    that was interrupted there goes on from its last whole checkpoint.

    diagnose: epochs between diagnoses (see `dnas.engine.diagnose`), 0 for none; what they say of a collapse is shown, and
    with `stop_on_collapse` ends the search with the genotype of the epoch before it.

    Raises ValueError for a batch larger than a split, NonFiniteLoss, and what `dnas.checkpoint` and `dnas.run` raise.
    """
    [result] = search_seeds(space, method, data, epochs=epochs, batch=batch, seeds=[seed], runs=[run], progress=progress,
                            diagnose=diagnose, stop_on_collapse=stop_on_collapse)
    if isinstance(result, NonFiniteLoss):
        raise result
    return result


def search_seeds(space: SearchSpace, method: Method, data: Dataset, *, epochs: int, batch: int, seeds: Sequence[int],
                 runs: Sequence[Run | None] | None = None, progress: bool = True, diagnose: int = 0,
                 stop_on_collapse: bool = False, at_once: bool | None = None) -> list[Result | NonFiniteLoss]:
    """The searches of several seeds by one program, each equal to `search` with its seed up to rounding.

    runs: a directory for each. Where an interrupted search left them at different epochs, those behind catch up first.
    at_once: see `dnas.engine.compile.epochs_of`; in turn, as on a CPU, each is equal to `search` bit for bit.

    A search whose loss is not finite ends there, with the error in place of its result; the others go on.
    Raises ValueError where a seed is named twice, and otherwise what `search` raises.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are {', '.join(map(str, seeds)) or 'none'}; it takes one or more, each once")
    started, steps, runs = time.monotonic(), steps_per_epoch(data, batch), runs or [None] * len(seeds)
    found = [_latest(method, data, batch, seed, run) for seed, run in zip(seeds, runs, strict=True)]

    @functools.cache
    def programs():
        begun = time.monotonic()
        shown.say("compiling the search step and the evaluation ...")
        images = Examples(jnp.asarray(data.inputs), jnp.asarray(data.targets))
        state = jax.tree.map(jnp.asarray, found[0].tree)
        together = epochs_of(method, data, images, state, steps, batch, len(seeds), at_once=at_once)
        evaluate = evaluation(space, data, images, state, method.gates(state), batch)
        inspect = diagnosis(space, method, data, images, state, batch) if diagnose else None
        shown.say(f"compiled in {time.monotonic() - begun:.1f} s")
        if len(seeds) > 1:
            shown.say(together.note)
        return together, evaluate, inspect

    with contextlib.ExitStack() as stack:
        done = {seed: latest.epoch * steps for seed, latest in zip(seeds, found)}
        shown = stack.enter_context(display(epochs, steps * len(seeds), sum(done.values()))) if progress else SILENT
        displays, finish_epoch = shared(shown, done) if len(seeds) > 1 else ([shown], lambda: None)
        courses = [stack.enter_context(contextlib.closing(
            _course(space, method, data, programs, one, latest, epochs=epochs, batch=batch, seed=seed, run=run,
                    diagnose=diagnose, stop_on_collapse=stop_on_collapse)))
            for one, latest, seed, run in zip(displays, found, seeds, runs)]
        asked, results = {}, {}

        def go_on(place, answer=None):
            try:
                asked[place] = courses[place].throw(answer) if isinstance(answer, NonFiniteLoss) \
                    else courses[place].send(answer)
            except StopIteration as end:
                results[place] = Result(*end.value, time.monotonic() - started)
            except NonFiniteLoss as error:
                results[place] = error
                if len(seeds) > 1:
                    displays[place].say(str(error))

        for place in range(len(seeds)):
            go_on(place)
        while asked:
            together, epoch = programs()[0], min(one.number for one in asked.values())
            for start in range(0, len(seeds), together.width):
                due = {place: asked.pop(start + place) for place in range(together.width)
                       if start + place in asked and asked[start + place].number == epoch}
                for place, answer in advanced(together, due).items() if due else ():
                    go_on(start + place, answer)
            finish_epoch()
    return [results[place] for place in range(len(seeds))]


def _course(space: SearchSpace, method: Method, data: Dataset, programs: Callable, shown: Display,
            found: checkpoint.Latest, *, epochs: int, batch: int, seed: int, run: Run | None, diagnose: int,
            stop_on_collapse: bool) -> Generator[Epoch, tuple, tuple]:
    """One search from where it was left: asks for epochs, is sent what `dnas.engine.lanes.advanced` gives for each, and
    returns the parts of its Result but the seconds. programs() -> Together, evaluation, diagnosis or None."""
    steps = steps_per_epoch(data, batch)
    first, state, warned = found.epoch, jax.tree.map(jnp.asarray, found.tree), False
    key = jax.random.fold_in(jax.random.key(seed), 1)
    with journal(run, space, first, state.arch) as notes:
        for message in found.skipped:
            shown.say(message)
        if first:
            shown.say(f"continuing after epoch {first} of {epochs}" if first < epochs else f"all {epochs} epochs are done")
        stopped = collapse(notes.records) if stop_on_collapse else None

        for epoch in range(first + 1, epochs + 1):
            if stopped:
                break
            train, valid = epoch_indices(seed, epoch - 1, data.splits["train"], data.splits["valid"], batch)

            def look(infos, done, seconds, epoch=epoch):
                refuse_non_finite(infos, (epoch - 1) * steps, notes.last())
                means = {name: float(np.mean(values, dtype=np.float64)) for name, values in infos.items()}
                rate = 2 * batch * done / seconds
                shown.step((epoch - 1) * steps + done, tagged(means), rate)
                return means, rate

            state, (means, rate), seconds = yield Epoch(epoch, state, key, train, valid, look)
            begun, (_, evaluate, inspect) = time.monotonic() - seconds, programs()
            gates, genotype = method.gates(state), method.select(state)
            mixture = evaluate(state, gates)
            record = {"epoch": epoch, "step": epoch * steps, **tagged(means | mixture), "entropy": entropy(gates)}
            if inspect and epoch % diagnose == 0:
                discrete = evaluate(state, genotype.gates(space.groups))
                record |= {"gap": mixture["holdout_accuracy"] - discrete["holdout_accuracy"], **inspect(state),
                           "skips": skips(genotype), "edges": sum(map(len, genotype.choices.values()))}
            timing = {"epoch": epoch, "images_per_second": rate, "seconds": time.monotonic() - begun}
            notes.epoch(record, timing, state, genotype)
            shown.epoch(record, rate)
            found = collapse(notes.records)
            if found and not warned:
                shown.say(found.sentence)
            warned, stopped = bool(found), found if stop_on_collapse else None

        records, genotype = notes.records, method.select(state)
        if stopped:
            arch = {name: jnp.asarray(rows[stopped.epoch]) for name, rows in notes.trajectory.items()}
            genotype = method.select(state._replace(arch=arch))
        notes.end(genotype)
    holdout = {name: records[-1][name]["holdout"] for name in ("loss", "accuracy")}
    return state, genotype, holdout, records


def _latest(method: Method, data: Dataset, batch: int, seed: int, run: Run | None) -> checkpoint.Latest:
    """Where a search was left: the last whole checkpoint of its run, else its first state."""
    state = initial(method.init, jax.random.fold_in(jax.random.key(seed), 0),
                    jax.ShapeDtypeStruct((batch, *data.image), jnp.float32))
    return run and checkpoint.latest(run.checkpoints, state) or checkpoint.Latest(0, state, [])


def estimate(space: SearchSpace, method: Method, data: Dataset, *, batch: int, searches: int = 1) -> dict[str, Any]:
    """What a search, or several by one program, would need, without a step of it.

    weights, macs: parameters and multiply-adds per image of the supernet; memory_bytes: peak of one step as XLA plans
    it, None where it does not say; compile_seconds: of the step, from the cache where it is there. note: how several
    searches would go, and in how much memory.
    """
    steps_per_epoch(data, batch)
    state = jax.eval_shape(method.init, jax.random.key(0), jax.ShapeDtypeStruct((batch, *data.image), jnp.float32))
    images = Examples(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (data.inputs, data.targets)))
    started = time.monotonic()
    together = epochs_of(method, data, images, state, 1, batch, searches)
    seconds = time.monotonic() - started
    cost = space.cost(None)
    return {"weights": cost["params"], "macs": cost["macs"], "memory_bytes": together.memory, "compile_seconds": seconds,
            "note": together.note}


def tagged(values: Mapping[str, float]) -> dict[str, Any]:
    """{"train_loss": x} as {"loss": {"train": x}}, so that the curves of one quantity stand together."""
    record = {}
    for name, value in values.items():
        split, _, quantity = name.rpartition("_")
        record.setdefault(quantity, {})[split] = value
    return record


def entropy(gates: Mapping[str, Array]) -> dict[str, float]:
    """Mean entropy in nats of each group's rows of gates, each scaled to sum to one; 0 when all edges are decided."""
    def mean(rows):
        rows = np.asarray(rows, np.float64)
        share = rows / np.maximum(rows.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
        return float(-(share * np.log(np.where(share > 0, share, 1))).sum(-1).mean())

    return {name: mean(rows) for name, rows in gates.items()}


def refuse_non_finite(infos: Mapping[str, np.ndarray], before: int, last: str) -> None:
    """Raises NonFiniteLoss for the first value that is not finite, of a step after the first `before`."""
    for name, values in infos.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise NonFiniteLoss(f"{name} became {values[bad[0]]} at step {before + int(bad[0]) + 1}; {last}; "
                                "a smaller learning rate may help, in another run directory")
