"""The search loop: runs the compiled steps, logs them, and saves and restores their state."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas import checkpoint
from dnas.bilevel import Method
from dnas.data import Dataset, epoch_indices, steps_per_epoch
from dnas.diagnostics import collapse, skips
from dnas.journal import journal
from dnas.programs import Images, compile_steps, diagnosis, epoch_of, evaluation
from dnas.progress import SILENT, display
from dnas.run import Run
from dnas.types import Array, Genotype, SearchSpace, Tree


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite. The message names the step and the last good checkpoint."""


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

    diagnose: epochs between diagnoses (see `dnas.diagnostics`), 0 for none; what they say of a collapse is shown, and
    with `stop_on_collapse` ends the search with the genotype of the epoch before it.

    Raises ValueError for a batch larger than a split, NonFiniteLoss, and what `dnas.checkpoint` and `dnas.run` raise.
    """
    started = time.monotonic()
    steps = steps_per_epoch(data, batch)
    key = jax.random.key(seed)
    state = method.init(jax.random.fold_in(key, 0), jax.ShapeDtypeStruct((batch, *data.image), jnp.float32))
    found = checkpoint.latest(run.checkpoints, state) if run else None
    first = found.epoch if found else 0
    state = jax.tree.map(jnp.asarray, found.tree) if found else state
    warned = False

    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(display(epochs, steps, first)) if progress else SILENT
        notes = stack.enter_context(journal(run, space, first, state.arch))
        for message in found.skipped if found else ():
            shown.say(message)
        if found:
            shown.say(f"continuing after epoch {first} of {epochs}" if first < epochs
                      else f"all {epochs} epochs are done")
        stopped = collapse(notes.records) if stop_on_collapse else None
        if first < epochs and not stopped:
            begun = time.monotonic()
            shown.say("compiling the search step and the evaluation ...")
            images = Images(jnp.asarray(data.images), jnp.asarray(data.labels))
            advance = epoch_of(method, data, images, state, steps, batch)
            evaluate = evaluation(space, data, images, state, method.gates(state), batch)
            inspect = diagnosis(space, method, data, images, state, batch) if diagnose else None
            shown.say(f"compiled in {time.monotonic() - begun:.1f} s")

        for epoch in range(first + 1, epochs + 1):
            if stopped:
                break
            begun = time.monotonic()
            train, valid = epoch_indices(seed, epoch - 1, data.splits["train"], data.splits["valid"], batch)

            def look(infos, done, epoch=epoch, begun=begun):
                refuse_non_finite(infos, (epoch - 1) * steps, notes.last())
                means = {name: float(np.mean(values, dtype=np.float64)) for name, values in infos.items()}
                rate = 2 * batch * done / (time.monotonic() - begun)
                shown.step((epoch - 1) * steps + done, tagged(means), rate)
                return means, rate

            state, (means, rate) = advance(state, jax.random.fold_in(key, 1), train, valid, look=look)
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
    return Result(state, genotype, holdout, records, time.monotonic() - started)


def estimate(space: SearchSpace, method: Method, data: Dataset, *, batch: int) -> dict[str, float | None]:
    """What a search would need, without a step of it.

    weights, macs: parameters and multiply-adds per image of the supernet; memory_bytes: peak of one step as XLA plans
    it, None where it does not say; compile_seconds: of the step, from the cache where it is there.
    """
    steps_per_epoch(data, batch)
    state = jax.eval_shape(method.init, jax.random.key(0), jax.ShapeDtypeStruct((batch, *data.image), jnp.float32))
    images = Images(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (data.images, data.labels)))
    started = time.monotonic()
    compiled, _ = compile_steps(method, data, images, state, 1, batch)
    seconds = time.monotonic() - started
    plan, cost = compiled.memory_analysis(), space.cost(None)
    memory = plan and (plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
                       - plan.alias_size_in_bytes)
    return {"weights": cost["params"], "macs": cost["macs"], "memory_bytes": memory, "compile_seconds": seconds}


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
