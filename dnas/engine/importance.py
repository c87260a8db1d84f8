"""How much each training example is to be learned from, for methods that draw examples by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.method import Algorithm
from dnas.algorithms.schedules import Hyper
from dnas.data import Dataset
from dnas.engine.compile import Examples, batch_of, program_key, shape_of
from dnas.engine.mesh import mesh_of, put, replicated, shape, tracing
from dnas.engine.programs import start_compiling
from dnas.types import Tree


def compile_importance(algorithm: Algorithm, data: Dataset, examples: Examples, state: Tree, hyper: Hyper, batch: int, *,
                       key: Any = None) -> Callable:
    """Compiles, in the background, `(state, hyper, key) -> [n]`: the importance of each example of the train split, without
    augmentation, see `dnas.algorithms.method.Steps`."""
    def of_batch(state, hyper, key, examples, row):
        batch = batch_of(data, examples.inputs[row], examples.targets[row])
        return replicated(algorithm.importance(key, state, batch, hyper))

    mesh, row = mesh_of(examples), jax.ShapeDtypeStruct((batch,), jnp.int32)
    args = (state, hyper, jax.eval_shape(jax.random.key, 0), examples, row)
    with tracing(mesh):
        program = start_compiling(of_batch, shape(shape_of(args), mesh), key=program_key("importance", key, data))
    train = data.splits["train"]
    rows = np.resize(train, (-(-len(train) // batch), batch)).astype(np.int32)

    def importance(state, hyper, key):
        parts = [program()(*put((state, hyper, jax.random.fold_in(key, n)), mesh), examples, row)
                 for n, row in enumerate(rows)]
        return np.concatenate(jax.device_get(parts))[:len(train)].astype(np.float64)

    return importance
