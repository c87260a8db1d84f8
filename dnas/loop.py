"""The search loop: the only place that compiles steps, runs them, and saves and restores their state."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dnas import checkpoint
from dnas.bilevel import Method, cross_entropy
from dnas.data import Dataset, augment, epoch_indices, evaluation_indices, normalise, steps_per_epoch
from dnas.diagnostics import collapse, curvature, largest_eigenvalue, skips
from dnas.journal import journal
from dnas.progress import SILENT, display
from dnas.run import Run
from dnas.types import Array, Batch, Gates, Genotype, SearchSpace, Tree

LOOK_EVERY = 0.25
"""Seconds between looks at the losses; each waits for the device."""


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


class Images(NamedTuple):
    """A data set on the device: pixels `[N, H, W, C]` as stored, labels `[N]`."""

    pixels: Array
    labels: Array


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
            advance = _epoch(method, data, images, state, steps, batch)
            evaluate = _evaluation(space, data, images, state, method.gates(state), batch)
            inspect = _diagnosis(space, method, data, images, state, batch) if diagnose else None
            shown.say(f"compiled in {time.monotonic() - begun:.1f} s")

        for epoch in range(first + 1, epochs + 1):
            if stopped:
                break
            begun = time.monotonic()
            train, valid = epoch_indices(seed, epoch - 1, data.splits["train"], data.splits["valid"], batch)

            def look(infos, done, epoch=epoch, begun=begun):
                _refuse_non_finite(infos, (epoch - 1) * steps, notes.last())
                means = {name: float(np.mean(values, dtype=np.float64)) for name, values in infos.items()}
                rate = 2 * batch * done / (time.monotonic() - begun)
                shown.step((epoch - 1) * steps + done, tagged(means), rate)
                return means, rate

            state, (means, rate) = advance(state, jax.random.fold_in(key, 1), train, valid, look)
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
    compiled, _ = _compile_steps(method, data, images, state, 1, batch)
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


def _epoch(method: Method, data: Dataset, images: Images, state: Tree, steps: int, batch: int) -> Callable:
    """Compiles an epoch `(state, key, train, valid, look) -> state, what look returned last`.

    train, valid: rows of indices `[steps, batch]`. look(infos, done) is called with the values of the first `done`
    steps, about every LOOK_EVERY seconds and after the last.
    """
    compiled, infos = _compile_steps(method, data, images, state, steps, batch)
    one_by_one = jax.default_backend() == "cpu"

    def advance(state, key, train, valid, look):
        train, valid = jnp.asarray(train), jnp.asarray(valid)
        values = {name: jnp.zeros(info.shape, info.dtype) for name, info in infos.items()}
        done, stride, seen = 0, 1, time.monotonic()
        while done < steps:
            stop = min(done + stride, steps)
            state, values = compiled(state, values, key, images, train, valid, np.int32(done), np.int32(stop))
            done = stop
            waited = time.monotonic() - seen
            if done == steps or waited > LOOK_EVERY or not one_by_one:
                shown = look({name: np.asarray(value[:done]) for name, value in jax.device_get(values).items()}, done)
                if not one_by_one and time.monotonic() - seen < LOOK_EVERY:
                    stride *= 2
                seen = time.monotonic()
        return state, shown

    return advance


def _compile_steps(method: Method, data: Dataset, images: Images, state: Tree, steps: int, batch: int):
    """Compiles `(state, infos, key, images, train, valid, start, stop) -> state, infos`: rows start..stop of an epoch.

    Ahead of time, so that nothing can trace it again. On a CPU a call is one step, for the gradient of a convolution
    is slow in its loops; elsewhere it is a loop on the device, and one program serves any number of rows.
    """
    def step(state, key, images, train, valid):
        step_key, train_key, valid_key = jax.random.split(jax.random.fold_in(key, state.step), 3)

        def load(key, rows):
            pixels = augment(key, images.pixels[rows], pad=data.pad, flip=data.flip)
            return Batch(normalise(pixels, data.mean, data.std), images.labels[rows])

        state, info = method.step(step_key, state, load(train_key, train), load(valid_key, valid))
        return state, info._asdict()

    def steps_of(state, infos, key, images, train, valid, start, stop):
        def body(row, carry):
            state, info = step(carry[0], key, images, train[row], valid[row])
            return state, {name: values.at[row].set(info[name]) for name, values in carry[1].items()}

        if jax.default_backend() == "cpu":
            return body(start, (state, infos))
        return jax.lax.fori_loop(start, stop, body, (state, infos))

    key = jax.eval_shape(jax.random.key, 0)
    row, rows = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((batch,), (steps, batch)))
    _, info = jax.eval_shape(step, state, key, images, row, row)
    infos = {name: jax.ShapeDtypeStruct((steps,), value.dtype) for name, value in info.items()}
    number = jax.ShapeDtypeStruct((), jnp.int32)
    lowered = jax.jit(steps_of, donate_argnums=(0, 1)).lower(state, infos, key, images, rows, rows, number, number)
    return lowered.compile(), infos


def _evaluation(space: SearchSpace, data: Dataset, images: Images, state: Tree, gates: Gates, batch: int) -> Callable:
    """Compiles `(state, gates) -> {"holdout_loss", "holdout_accuracy"}`: each image once, batch statistics."""
    rows, shares = (jnp.asarray(a) for a in evaluation_indices(data.splits["holdout"], batch))

    def evaluate(weights, stats, gates, images, rows, shares):
        def one(row_and_share):
            row, share = row_and_share
            pixels, labels = normalise(images.pixels[row], data.mean, data.std), images.labels[row]
            logits, _ = space.apply(weights, stats, gates, pixels, train=True, key=jax.random.key(0))
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.stack([jnp.sum(share * loss), jnp.sum(share * (logits.argmax(-1) == labels))])

        return jax.lax.map(one, (rows, shares)).sum(0) / shares.sum()

    compiled = jax.jit(evaluate).lower(state.weights, state.stats, gates, images, rows, shares).compile()

    def of(state, gates):
        loss, accuracy = compiled(state.weights, state.stats, gates, images, rows, shares)
        return {"holdout_loss": float(loss), "holdout_accuracy": float(accuracy)}

    return of


def _diagnosis(space: SearchSpace, method: Method, data: Dataset, images: Images, state: Tree, batch: int) -> Callable:
    """Compiles `state -> {"sharpness", "eigenvalue"}` on the first images of the train and valid splits."""
    def first(split):
        rows = jnp.asarray(data.splits[split][:batch])
        return Batch(normalise(images.pixels[rows], data.mean, data.std), images.labels[rows])

    train, valid = first("train"), first("valid")
    sharp, product = curvature(cross_entropy(space), method.gates)
    size = sum(leaf.size for leaf in jax.tree.leaves(state.arch))
    sharp = jax.jit(sharp).lower(state, train).compile()
    product = jax.jit(product).lower(state, valid, jax.ShapeDtypeStruct((size,), jnp.float32)).compile()

    def of(state):
        times = lambda vector: np.asarray(product(state, valid, np.asarray(vector, np.float32)), np.float64)
        return {"sharpness": float(sharp(state, train)), "eigenvalue": largest_eigenvalue(times, size)}

    return of


def _refuse_non_finite(infos: Mapping[str, np.ndarray], before: int, last: str) -> None:
    for name, values in infos.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise NonFiniteLoss(f"{name} became {values[bad[0]]} at step {before + int(bad[0]) + 1}; {last}; "
                                "a smaller learning rate may help")
