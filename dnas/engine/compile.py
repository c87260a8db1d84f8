"""Compiled programs: the only place that compiles what a search, a diagnosis, a selection or a training runs.

All are compiled ahead of time, so that nothing can trace them again.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dnas.algorithms.players import Method, cross_entropy
from dnas.algorithms.supervised import Trainer
from dnas.data import Dataset, augment, evaluation_indices, mixed, normalise
from dnas.data.augmentation import augment_by
from dnas.data.augmentation import cutout as cut_out
from dnas.engine.diagnose import curvature, largest_eigenvalue
from dnas.platform import current, on_cpu
from dnas.types import Array, Batch, Gates, Network, SearchSpace, Tree

LOOK_EVERY = 0.25
"""Seconds between looks at the losses; each waits for the device."""


COMPILER_OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}}
"""What programs are compiled with, by platform. On a CPU the default gives convolutions to a library in which the gradient
to the kernel takes twice as long as in the one before (jaxlib 0.10 and 0.12; see docs/speed.md)."""


class Examples(NamedTuple):
    """A data set on the device: inputs `[N, ...]` as stored, targets `[N, ...]`."""

    inputs: Array
    targets: Array


def epoch_of(method: Method, data: Dataset, examples: Examples, state: Tree, steps: int, batch: int) -> Callable:
    """Compiles an epoch `(state, key, train, valid, *, look, steps) -> state, what look returned last`.

    train, valid: rows of indices `[steps, batch]`. look(infos, done) is called with the values of the first `done`
    steps, about every LOOK_EVERY seconds and after the last. A smaller `steps` takes those of the first rows only.
    """
    return epoch_by(*compile_steps(method, data, examples, state, steps, batch), examples, steps)


def training_of(trainer: Trainer, data: Dataset, examples: Examples, state: Tree, steps: int, batch: int, *,
                cutout: int = 0) -> Callable:
    """Compiles an epoch `(state, key, rows, *, look) -> state, what look returned last` of a network's training.

    rows: indices `[steps, batch]`; look as in `epoch_of`; cutout: side in pixels of a square that is left out, 0: none.
    """
    def step(state, key, examples, rows):
        step_key, load_key = jax.random.split(jax.random.fold_in(key, state.step))
        loaded = _loaded(load_key, data, examples, rows)
        if cutout:
            loaded = loaded._replace(inputs=cut_out(jax.random.fold_in(load_key, 1), loaded.inputs, cutout))
        state, info = trainer.step(step_key, state, loaded)
        return state, info._asdict()

    return epoch_by(*_compile_rows(step, examples, state, steps, batch, 1), examples, steps)


def epoch_by(compiled: Callable, infos: Tree, examples: Examples, steps: int) -> Callable:
    """An epoch `(state, key, *rows, look, steps) -> state, what look returned last` of what `compile_steps` returned."""
    one_by_one = on_cpu()

    def advance(state, key, *rows, look, steps=steps):
        rows = [jnp.asarray(row) for row in rows]
        values = {name: jnp.zeros(info.shape, info.dtype) for name, info in infos.items()}
        done, stride, seen = 0, 1, time.monotonic()
        while done < steps:
            stop = min(done + stride, steps)
            state, values = compiled(state, values, key, examples, *rows, np.int32(done), np.int32(stop))
            done = stop
            waited = time.monotonic() - seen
            if done == steps or waited > LOOK_EVERY or not one_by_one:
                shown = look({name: np.asarray(value[..., :done]) for name, value in jax.device_get(values).items()}, done)
                if not one_by_one and time.monotonic() - seen < LOOK_EVERY:
                    stride *= 2
                seen = time.monotonic()
        return state, shown

    return advance


def compile_steps(method: Method, data: Dataset, examples: Examples, state: Tree, steps: int, batch: int,
                  width: int | None = None):
    """Compiles `(state, infos, key, examples, train, valid, start, stop) -> state, infos`: rows start..stop of an epoch.

    Ahead of time, so that nothing can trace it again. On a CPU a call is one step, for the gradient of a convolution
    is slow in its loops; elsewhere it is a loop on the device, and one program serves any number of rows.
    With a `width` it is the same of so many searches at once: state is a tuple of states like the one that is given, and
    infos, key, train and valid have a leading axis.
    """
    def step(state, key, examples, train, valid):
        step_key, train_key, valid_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
        state, info = method.step(step_key, state, _loaded(train_key, data, examples, train),
                                  _loaded(valid_key, data, examples, valid))
        return state, info._asdict()

    return _compile_rows(step, examples, state, steps, batch, 2, width)


def _loaded(key: Array, data: Dataset, examples: Examples, rows: Array) -> Batch:
    """The augmented mini-batch of examples `rows`."""
    pixels = examples.inputs[rows]
    if data.augment is None:
        pixels = augment(key, pixels, pad=data.pad, flip=data.flip)
    else:
        pixels = augment_by(data.augment, key, pixels)
    return _batch(data, pixels, examples.targets[rows])


def _batch(data: Dataset, pixels: Array, labels: Array) -> Batch:
    weights = None if data.class_weights is None else jnp.asarray(data.class_weights)[labels]
    return Batch(normalise(pixels, data.mean, data.std), labels, weights)


def _compile_rows(step: Callable, examples: Examples, state: Tree, steps: int, batch: int, sets: int,
                  width: int | None = None):
    """Compiles `step(state, key, examples, *row) -> state, {name: scalar}` as `compile_steps` says, for `sets` arrays of
    rows."""
    step = jax.jit(step)  # traced once, for what it returns and for the program

    def steps_of(state, infos, key, examples, *rows_start_stop):
        *rows, start, stop = rows_start_stop

        def body(row, carry):
            state, info = step(carry[0], key, examples, *(indices[row] for indices in rows))
            return state, {name: values.at[row].set(info[name]) for name, values in carry[1].items()}

        if on_cpu():
            return body(start, (state, infos))
        return jax.lax.fori_loop(start, stop, body, (state, infos))

    def at_once(states, *rest):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        stacked, infos = jax.vmap(steps_of, (0, 0, 0, None, *[0] * sets, None, None))(stacked, *rest)
        return tuple(jax.tree.map(operator.itemgetter(n), stacked) for n in range(width)), infos

    key, row = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((batch,), jnp.int32)
    _, info = jax.eval_shape(step, state, key, examples, *[row] * sets)
    across = (width,) if width else ()
    infos = {name: jax.ShapeDtypeStruct((*across, steps), value.dtype) for name, value in info.items()}
    key, rows = jax.ShapeDtypeStruct(across, key.dtype), jax.ShapeDtypeStruct((*across, steps, batch), jnp.int32)
    number, program = jax.ShapeDtypeStruct((), jnp.int32), at_once if width else steps_of
    lowered = jax.jit(program, donate_argnums=(0, 1)).lower((state,) * width if width else state, infos, key, examples,
                                                            *[rows] * sets, number, number)
    return built(lowered), infos


def evaluation(space: SearchSpace, data: Dataset, examples: Examples, state: Tree, gates: Gates, batch: int) -> Callable:
    """Compiles `(state, gates) -> {"holdout_loss", "holdout_accuracy"}`: each image once, batch statistics."""
    score = scorer(space, data, examples, state, gates, batch, 1, split="holdout")

    def of(state, gates):
        loss, accuracy = (float(values.mean(dtype=np.float64)) for values in score(state, [gates]))
        return {"holdout_loss": loss, "holdout_accuracy": accuracy}

    return of


def predictor(network: Network, data: Dataset, examples: Examples, weights: Tree, stats: Tree, batch: int) -> Callable:
    """Compiles `(weights, stats, rows [n]) -> losses [n], classes [n]`: of each image the cross-entropy in nats and the
    class that the trained network gives it, by its running averages. One program for any number of rows."""
    def predict(weights, stats, examples, row):
        pixels, labels = normalise(examples.inputs[row], data.mean, data.std), examples.targets[row]
        logits, _ = network.apply(weights, stats, pixels, train=False, key=None)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels), logits.argmax(-1)

    row = jax.ShapeDtypeStruct((batch,), jnp.int32)
    compiled = built(jax.jit(predict).lower(weights, stats, examples, row))

    def of(weights, stats, rows):
        padded = np.resize(np.asarray(rows, np.int32), (-(-len(rows) // batch), batch))
        found = jax.device_get([compiled(weights, stats, examples, row) for row in padded])
        return tuple(np.concatenate(parts)[:len(rows)] for parts in zip(*found))

    return of


def settler(network: Network, data: Dataset, examples: Examples, weights: Tree, stats: Tree, batch: int) -> Callable:
    """Compiles `(weights, stats, rows [S, batch]) -> stats`: for each running average the mean over S mini-batches, as
    they are stored, of what the network averages; one that does not move stays as it was.

    An average moves to share * old + (1 - share) * new: of old zeros, and divided by 1 - share, that is the new alone,
    and the share is its derivative with respect to the old.
    """
    def of_batch(weights, stats, examples, row):
        pixels = normalise(examples.inputs[row], data.mean, data.std)
        move = lambda stats: network.apply(weights, stats, pixels, train=True, key=None)[1]
        zeros, ones = (jax.tree.map(like, stats) for like in (jnp.zeros_like, jnp.ones_like))
        moved, share = jax.jvp(move, (zeros,), (ones,))
        return jax.tree.map(lambda old, new, share: jnp.where(share == 1, old, new / (1 - share)), stats, moved, share)

    row = jax.ShapeDtypeStruct((batch,), jnp.int32)
    compiled = jax.jit(of_batch).lower(weights, stats, examples, row).compile()

    def of(weights, stats, rows):
        found = [compiled(weights, stats, examples, row) for row in np.asarray(rows, np.int32)]
        return jax.tree.map(lambda *values: sum(values) / len(values), *found)

    return of


def scorer(space: SearchSpace, data: Dataset, examples: Examples, state: Tree, gates: Gates, batch: int,
           width: int, *, split: str = "valid") -> Callable:
    """Compiles `(state, masks, first, last) -> losses, hits`: the supernet under several gates, on examples of a split.

    masks: at most `width` mappings {group: [E, K]}; first, last: positions in the mixed split. Returns arrays
    `[len(masks), last - first]`: cross-entropies in nats, and 1 where the prediction is right. Batch statistics, of
    batches that are the same whatever first and last are, so these fall on multiples of `batch`, or at the split's end.

    One program for any number of masks: on a CPU, where a batch fills the cores, mask after mask; elsewhere at once.
    """
    rows, _ = (jnp.asarray(a) for a in evaluation_indices(mixed(data.splits[split]), batch))
    total = len(data.splits[split])

    def score(weights, stats, stacked, count, examples, rows, start, stop):
        def one(gates, row):
            pixels, labels = normalise(examples.inputs[row], data.mean, data.std), examples.targets[row]
            logits, _ = space.apply(weights, stats, gates, pixels, train=True, key=None)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.stack([losses, (logits.argmax(-1) == labels).astype(losses.dtype)])

        def each(row):
            if not on_cpu():
                return jax.vmap(one, (0, None))(stacked, row)
            put = lambda m, found: found.at[m].set(one({g: a[m] for g, a in stacked.items()}, row))
            return jax.lax.fori_loop(0, count, put, jnp.zeros((width, 2, len(row))))

        put = lambda b, found: found.at[b].set(each(rows[b]))
        return jax.lax.fori_loop(start, stop, put, jnp.zeros((rows.shape[0], width, 2, rows.shape[1])))

    stack = lambda masks: {g: jnp.stack([jnp.asarray(m[g], jnp.float32) for m in masks]) for g in gates}
    number = jax.ShapeDtypeStruct((), jnp.int32)
    compiled = built(jax.jit(score).lower(state.weights, state.stats, stack([gates] * width), number, examples, rows,
                                              number, number))
    size = rows.shape[1]

    def of(state, masks, first=0, last=total):
        if not 0 < len(masks) <= width:
            raise ValueError(f"{len(masks)} masks, the program takes 1 to {width}")
        start, stop = first // size, -(-last // size)
        found = compiled(state.weights, state.stats, stack([*masks, *[masks[0]] * (width - len(masks))]),
                         np.int32(len(masks)), examples, rows, np.int32(start), np.int32(stop))
        found = np.asarray(found)[start:stop, :len(masks)]
        flat = np.moveaxis(found, (1, 2), (0, 1)).reshape(len(masks), 2, -1)
        flat = flat[:, :, first - start * size:last - start * size]
        return flat[:, 0], flat[:, 1]

    return of


def diagnosis(space: SearchSpace, method: Method, data: Dataset, examples: Examples, state: Tree, batch: int) -> Callable:
    """Compiles `state -> {"sharpness", "eigenvalue"}` on the same few examples of the train and valid splits every time."""
    def first(split):
        rows = jnp.asarray(mixed(data.splits[split])[:batch])
        return _batch(data, examples.inputs[rows], examples.targets[rows])

    train, valid = first("train"), first("valid")
    sharp, product = curvature(cross_entropy(space), method.gates)
    size = sum(leaf.size for leaf in jax.tree.leaves(state.arch))
    sharp = built(jax.jit(sharp).lower(state, train))
    product = built(jax.jit(product).lower(state, valid, jax.ShapeDtypeStruct((size,), jnp.float32)))

    def of(state):
        times = lambda vector: np.asarray(product(state, valid, np.asarray(vector, np.float32)), np.float64)
        return {"sharpness": float(sharp(state, train)), "eigenvalue": largest_eigenvalue(times, size)}

    return of


def built(lowered):
    """The program, with COMPILER_OPTIONS where this version of XLA knows them."""
    try:
        return lowered.compile(compiler_options=COMPILER_OPTIONS.get(current()))
    except jax.errors.JaxRuntimeError as error:
        if "option" not in str(error):
            raise
        return lowered.compile()
