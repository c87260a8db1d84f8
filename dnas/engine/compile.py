"""The compiled programs of searches, diagnoses, selections and trainings; nothing else compiles them.

All are compiled ahead of time, so that nothing can trace them again. Numbers of methods and trainings are arguments.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dnas import platform
from dnas.algorithms.method import Algorithm
from dnas.algorithms.schedules import Hyper
from dnas.algorithms.supervised import Recipe, Trainer
from dnas.data import Dataset, augment, evaluation_indices, mixed, normalise
from dnas.data.augmentation import augment_by
from dnas.data.augmentation import cutout as cut_out
from dnas.engine.diagnose import curvature, largest_eigenvalue
from dnas.engine.mesh import DATA, LANE, mesh_of, put, replicated, shape, sharded, sizes_of, spread, tracing
from dnas.engine.programs import compile_program, start_compiling
from dnas.one_hot import one_hot_gates
from dnas.task import Task, checked_value
from dnas.types import Array, Batch, Gates, Network, SearchSpace, Tree

METRICS_EVERY = 0.25
"""Seconds between readings of the metrics; each waits for the device."""


class Examples(NamedTuple):
    """A data set on the device, or whole on each device of a mesh: inputs `[N, ...]` as stored, targets `[N, ...]`."""

    inputs: Array
    targets: Array


def on_device(data: Dataset, mesh: Mesh | None = None) -> Examples:
    """The inputs and targets of a data set as arrays of the default device, or of the mesh for which the programs of these
    examples are to be compiled."""
    return put(Examples(data.inputs, data.targets), mesh)


def shape_of(tree: Tree) -> Tree:
    """The shapes and types of arrays, from which a program is compiled."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def program_key(program: str, key: Any, data: Dataset) -> Any:
    """The key of a program in the cache of traced ones, see `dnas.engine.programs.compile_program`.

    key: JSON that names the space, the method's structure and the task with all their options, or None. The result is
    None without it, and for data with its own augmentation or a graph.
    """
    if key is None or data.augment is not None or data.graph is not None:
        return None
    constants = {name: np.asarray(value).tolist() for name in ("mean", "std", "class_weights", "target_mean", "target_std")
                 if (value := getattr(data, name)) is not None}
    return [program, key, {**constants, "pad": data.pad, "flip": data.flip, "task": data.task, "kind": data.kind}]


def compile_search(algorithm: Algorithm, data: Dataset, examples: Examples, state: Tree, hyper: Hyper, steps: int,
                   batch: int, width: int | None = None, *, key: Any = None) -> Callable:
    """Compiles steps of a search, see `start_steps`; each uses a row of the train and one of the valid split."""
    return start_search(algorithm, data, examples, state, hyper, steps, batch, width, key=key)()


def start_search(algorithm: Algorithm, data: Dataset, examples: Examples, state: Tree, hyper: Hyper, steps: int, batch: int,
                 width: int | None = None, *, key: Any = None) -> Callable[[], Callable]:
    """The same in the background. Call the returned function to wait for the program."""
    def step(state, hyper, key, examples, train, valid):
        step_key, train_key, valid_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
        return algorithm.step(step_key, state, load_batch(train_key, data, examples, train),
                              load_batch(valid_key, data, examples, valid), hyper)

    return start_steps(step, examples, state, hyper, steps, batch, 2, width, key=program_key("search", key, data))


def compile_training(trainer: Trainer, recipe: Recipe, data: Dataset, examples: Examples, state: Tree, hyper: Hyper,
                     steps: int, batch: int) -> Callable:
    """Compiles steps of a network's training, see `start_steps`; each uses a row."""
    def step(state, hyper, key, examples, rows):
        step_key, load_key = jax.random.split(jax.random.fold_in(key, state.step))
        loaded = load_batch(load_key, data, examples, rows)
        if recipe.cutout:
            loaded = loaded._replace(inputs=cut_out(jax.random.fold_in(load_key, 1), loaded.inputs, hyper["cutout"]))
        return trainer.step(step_key, state, loaded, hyper)

    return start_steps(step, examples, state, hyper, steps, batch, 1)()


def start_steps(step: Callable, examples: Examples, state: Tree, hyper: Hyper, steps: int, batch: int, splits: int,
                width: int | None = None, *, key: Any = None) -> Callable[[], Callable]:
    """Starts compiling `(state, hyper, key, examples, *rows, start, stop) -> state, metrics`: steps start..stop of an epoch
    by `step(state, hyper, key, examples, *row) -> state, {name: scalar}`. Call the returned function to wait for it.

    rows: indices `[steps, batch]` of each of `splits` splits. metrics: {name: values}. On a CPU, whose loops are slow
    at the gradient of a convolution, a call is one step and values are `[1]`; elsewhere it is a loop on the device, for any
    number of steps, and values are `[steps]`, 0 outside of start..stop.
    With a `width` it runs as many lanes at once: state is a tuple of states, and hyper, key, rows and metrics have a
    leading axis. On a mesh of several groups of devices each group has `width / groups` of them, and state is one state
    with a leading axis as well.
    """
    mesh, groups = mesh_of(examples), sizes_of(mesh_of(examples))[LANE]

    def steps_of(state, hyper, key, examples, *rows_start_stop):
        *rows, start, stop = rows_start_stop
        one = lambda row, state: step(state, hyper, key, examples, *(indices[row] for indices in rows))
        if platform.on_cpu():
            state, values = one(start, state)
            return state, {name: value[None] for name, value in values.items()}

        def body(row, carry):
            state, values = one(row, carry[0])
            return state, {name: buffer.at[row].set(values[name]) for name, buffer in carry[1].items()}

        _, shapes = jax.eval_shape(one, start, state)
        buffers = {name: jnp.zeros((steps, *value.shape), value.dtype) for name, value in shapes.items()}
        return jax.lax.fori_loop(start, stop, body, (state, buffers))

    stacked_of = jax.vmap(steps_of, (0, 0, 0, None, *[0] * splits, None, None))

    def lanes_of(states, *rest):
        stacked, metrics = stacked_of(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), *rest)
        return tuple(jax.tree.map(operator.itemgetter(n), stacked) for n in range(width)), metrics

    def group_of(state, hyper, key, examples, *rest):
        *rows, start, stop = rest
        if width > groups:
            return stacked_of(state, hyper, key, examples, *rest)
        state, hyper, key, rows = jax.tree.map(operator.itemgetter(0), (state, hyper, key, rows))
        return jax.tree.map(lambda leaf: leaf[None], replicated(steps_of(state, hyper, key, examples, *rows, start, stop)))

    across = lambda leaf: jax.ShapeDtypeStruct((*((width,) if width else ()), *leaf.shape), leaf.dtype)
    rows, number = across(jax.ShapeDtypeStruct((steps, batch), jnp.int32)), jax.ShapeDtypeStruct((), jnp.int32)
    rest = (jax.tree.map(across, shape_of(hyper)), across(jax.eval_shape(jax.random.key, 0)), examples, *[rows] * splits,
            number, number)
    if groups > 1:
        specs = [(LANE,)] * 3 + [()] + [(LANE,)] * splits + [()] * 2
        program, args = sharded(group_of, mesh, (jax.tree.map(across, shape_of(state)), *rest), specs, (LANE,), {LANE})
    elif mesh:
        program, args = lambda *args: replicated(steps_of(*args)), shape((state, *rest), mesh)
    else:
        program, args = (lanes_of, ((state,) * width, *rest)) if width else (steps_of, (state, *rest))
    with tracing(mesh):
        return start_compiling(program, args, key=key, donate_argnums=(0,))


def epoch_of(program: Callable, examples: Examples, steps: int) -> Callable:
    """An epoch `(state, hyper, key, *rows, on_metrics, steps=steps) -> state, last return value of on_metrics` by the
    program of `compile_search` or `compile_training`.

    on_metrics(metrics, done): called with the values of the first `done` steps, about every METRICS_EVERY seconds and
    after the last step. A smaller `steps` uses the first rows only.
    """
    one_by_one, mesh = platform.on_cpu(), mesh_of(examples)
    axes = [LANE] if sizes_of(mesh)[LANE] > 1 else []

    def advance(state, hyper, key, *rows, on_metrics, steps=steps):
        (state, hyper, key, rows), unread, pieces = put((state, hyper, key, rows), mesh, *axes), [], []
        done, stride, read = 0, 1, time.monotonic()
        while done < steps:
            stop = min(done + stride, steps)
            state, values = program(state, hyper, key, examples, *rows, np.int32(done), np.int32(stop))
            unread.append((slice(0, 1) if one_by_one else slice(done, stop), values))
            done = stop
            if done == steps or time.monotonic() - read > METRICS_EVERY or not one_by_one:
                pieces += [{name: value[..., part] for name, value in values.items()}
                           for part, values in jax.device_get(unread)]
                unread = []
                pieces = [{name: np.concatenate([piece[name] for piece in pieces], -1) for name in pieces[0]}]
                answer = on_metrics(pieces[0], done)
                if not one_by_one and time.monotonic() - read < METRICS_EVERY:
                    stride *= 2
                read = time.monotonic()
        return state, answer

    return advance


def compile_evaluation(space: SearchSpace, task: Task, data: Dataset, examples: Examples, state: Tree, gates: Gates,
                       batch: int, split: str = "holdout", *, key: Any = None) -> Callable:
    """Compiles, in the background, `(state, gates) -> {"loss", and each metric of the task: mean}`: each example of a split
    once, with batch statistics."""
    score = start_scores(space, task, data, examples, state, gates, batch, 1, split=split, key=key)

    def evaluate(state, gates):
        means = {name: float(values.mean(dtype=np.float64)) for name, values in score()(state, [gates]).items()}
        checked_value(task, means[task.metric])
        return means

    return evaluate


def start_scores(space: SearchSpace, task: Task, data: Dataset, examples: Examples, state: Tree, gates: Gates, batch: int,
                 width: int, *, split: str = "valid", one_hot: bool = False, key: Any = None) -> Callable[[], Callable]:
    """Starts compiling `(state, masks, first, last) -> {name: [len(masks), last - first]}`: the loss, called "loss", and the
    task's metrics of the supernet under several gates, on examples first..last of the mixed split, multiples of `batch` or
    its end, with batch statistics. Call the returned function to wait for the program.

    masks: 1 to `width` mappings {group: [E, K]}; entries that they lack are those of `gates`. one_hot: each row of them has
    at most one entry that is not zero, see `dnas.one_hot`.

    One program serves any number of masks: on a CPU, where a batch fills the cores, in turn; elsewhere at once. On a mesh
    the batches are dealt out to the devices, each whole on one of them.
    """
    mesh, (rows, _) = mesh_of(examples), evaluation_indices(mixed(data.splits[split]), batch)
    total, names = len(data.splits[split]), ["loss", *task.metrics]
    if mesh:  # a batch of each device side by side
        size = mesh.size * rows.shape[1]
        rows = np.resize(rows, (-(-rows.size // size), size))
    dealt = (None, (LANE, DATA))
    rows = put(rows, mesh, *dealt)

    def score(weights, stats, stacked, count, examples, rows, start, stop):
        def one(gates, row):
            inputs, targets = normalise(examples.inputs[row], data.mean, data.std), examples.targets[row]
            with one_hot_gates(one_hot):
                outputs, _ = space.apply(weights, stats, gates, inputs, train=True, key=None)
            losses = task.losses(outputs, targets)
            return jnp.stack([losses, *(metric(outputs, targets).astype(losses.dtype) for metric in task.metrics.values())])

        def each(row):
            if not platform.on_cpu():
                return jax.vmap(one, (0, None))(stacked, row)
            write = lambda m, scores: scores.at[m].set(one({g: a[m] for g, a in stacked.items()}, row))
            return jax.lax.fori_loop(0, count, write, jnp.zeros((width, len(names), len(row))))

        write = lambda b, scores: scores.at[b].set(each(rows[b]))
        return jax.lax.fori_loop(start, stop, write, jnp.zeros((rows.shape[0], width, len(names), rows.shape[1])))

    stack = lambda masks: {g: jnp.stack([jnp.asarray({**gates, **m}[g], jnp.float32) for m in masks]) for g in gates}
    number = jax.ShapeDtypeStruct((), jnp.int32)
    args = (state.weights, state.stats, stack([gates] * width), number, examples, rows, number, number)
    if mesh:
        score, args = sharded(score, mesh, args, [dealt if arg is rows else () for arg in args], (None, None, *dealt))
    program = start_compiling(score, args, key=program_key("scores of one-hot gates" if one_hot else "scores", key, data))
    size = rows.shape[1]

    def scores_of(state, masks: Sequence[Gates], first: int = 0, last: int = total):
        if not 0 < len(masks) <= width:
            raise ValueError(f"{len(masks)} masks, the program takes 1 to {width}")
        start, stop = first // size, -(-last // size)
        scores = program()(state.weights, state.stats, stack([*masks, *[masks[0]] * (width - len(masks))]),
                         np.int32(len(masks)), examples, rows, np.int32(start), np.int32(stop))
        scores = np.asarray(scores)[start:stop, :len(masks)]
        flat = np.moveaxis(scores, (1, 2), (0, 1)).reshape(len(masks), len(names), -1)
        flat = flat[:, :, first - start * size:last - start * size]
        return {name: flat[:, i] for i, name in enumerate(names)}

    def wait():
        program()
        return scores_of

    return wait


class Judgement(NamedTuple):
    """Results of a trained network on n examples. losses: [n]; metrics: {name: [n]}; predictions: [n, ...]."""
    losses: np.ndarray
    metrics: Mapping[str, np.ndarray]
    predictions: np.ndarray


def compile_judgement(network: Network, task: Task, data: Dataset, examples: Examples, weights: Tree, stats: Tree,
                      batch: int) -> Callable:
    """Compiles `(weights, stats, rows [n]) -> Judgement` of a trained network with its running averages, for any n."""
    def judge(weights, stats, examples, row):
        inputs, targets = normalise(examples.inputs[row], data.mean, data.std), examples.targets[row]
        inputs, targets = spread((inputs, targets))
        outputs, _ = network.apply(weights, stats, inputs, train=False, key=None)
        metrics = {name: metric(outputs, targets) for name, metric in task.metrics.items()}
        return Judgement(task.losses(outputs, targets), metrics, task.predict(outputs))

    mesh, row = mesh_of(examples), jax.ShapeDtypeStruct((batch,), jnp.int32)
    with tracing(mesh):
        program = start_compiling(judge, shape((weights, stats, examples, row), mesh))

    def judgement_of(weights, stats, rows):
        padded = np.resize(np.asarray(rows, np.int32), (-(-len(rows) // batch), batch))
        parts = jax.device_get([program()(weights, stats, examples, row) for row in padded])
        return jax.tree.map(lambda *values: np.concatenate(values)[:len(rows)], *parts)

    return judgement_of


def recalibrate_batch_norm(network: Network, data: Dataset, examples: Examples, weights: Tree, stats: Tree,
                           rows: np.ndarray) -> Tree:
    """Stats whose running averages are means over the mini-batches `rows` `[S, batch]`, without augmentation; those that
    training does not change stay as they are.

    An average changes to share * old + (1 - share) * new. From old = 0, dividing by 1 - share gives new; the share is the
    derivative with respect to old.
    """
    def of_batch(weights, stats, examples, row):
        inputs = spread(normalise(examples.inputs[row], data.mean, data.std))
        move = lambda stats: network.apply(weights, stats, inputs, train=True, key=None)[1]
        zeros, ones = (jax.tree.map(like, stats) for like in (jnp.zeros_like, jnp.ones_like))
        moved, share = jax.jvp(move, (zeros,), (ones,))
        average = lambda old, new, share: jnp.where(share == 1, old, new / (1 - share))
        return replicated(jax.tree.map(average, stats, moved, share))

    mesh, row = mesh_of(examples), jax.ShapeDtypeStruct((rows.shape[1],), jnp.int32)
    with tracing(mesh):
        program = compile_program(of_batch, shape((weights, stats, examples, row), mesh))
    averages = [program(weights, stats, examples, row) for row in np.asarray(rows, np.int32)]
    return jax.tree.map(lambda *values: sum(values) / len(values), *averages)


def compile_diagnosis(algorithm: Algorithm, data: Dataset, examples: Examples, state: Tree, hyper: Hyper,
                      batch: int) -> Callable:
    """Compiles `(state, hyper) -> {"sharpness", "eigenvalue"}` of the method's losses, on a fixed batch of the train and of
    the valid split."""
    def first(split):
        rows = jnp.asarray(mixed(data.splits[split])[:batch])
        return put(batch_of(data, examples.inputs[rows], examples.targets[rows]), mesh_of(examples), DATA)

    train, valid, hyper = first("train"), first("valid"), shape_of(hyper)
    sharp, product = curvature(algorithm.loss)
    size = sum(leaf.size for leaf in jax.tree.leaves(state.arch))
    state, hyper, vector = shape((state, hyper, jax.ShapeDtypeStruct((size,), jnp.float32)), mesh_of(examples))
    with tracing(mesh_of(examples)):
        sharp = compile_program(sharp, (state, hyper, train))
        product = compile_program(product, (state, hyper, valid, vector))

    def diagnose(state, hyper):
        times = lambda vector: np.asarray(product(state, hyper, valid, np.asarray(vector, np.float32)), np.float64)
        return {"sharpness": float(sharp(state, hyper, train)), "eigenvalue": largest_eigenvalue(times, size)}

    return diagnose


def load_batch(key: Array, data: Dataset, examples: Examples, rows: Array) -> Batch:
    """The augmented mini-batch of examples `rows`."""
    inputs = examples.inputs[rows]
    if data.augment is not None:
        inputs = augment_by(data.augment, key, inputs)
    elif data.kind == "images":
        inputs = augment(key, inputs, pad=data.pad, flip=data.flip)
    return batch_of(data, inputs, examples.targets[rows])


def batch_of(data: Dataset, inputs: Array, targets: Array) -> Batch:
    """A mini-batch of inputs as stored, on the scale of the network."""
    weights = None if data.class_weights is None else jnp.asarray(data.class_weights)[targets]
    return spread(Batch(normalise(inputs, data.mean, data.std), targets, weights))
