"""The needs of a search, without running a step."""

from __future__ import annotations

import time
from typing import Any

from jax.sharding import Mesh

from dnas.algorithms.method import Method
from dnas.data import Dataset, steps_per_epoch
from dnas.engine.compile import Examples, shape_of
from dnas.engine.lanes import start_lanes
from dnas.engine.mesh import DATA, bytes_sent, collectives, shape, sizes_of
from dnas.engine.search import state_shape
from dnas.task import task_of
from dnas.types import SearchSpace


def estimate(space: SearchSpace, method: Method, data: Dataset, *, batch: int, searches: int = 1,
             mesh: Mesh | None = None) -> dict[str, Any]:
    """The needs of a search, or of several by one program, without running a step.

    weights, macs: parameters and multiply-adds per example of the supernet; memory_bytes: peak of one step as XLA plans
    it, on the first device, None if unavailable; compile_seconds: of the step, less if it is cached. note: how several
    searches would run, and in how much memory. sent_bytes: that each device of the mesh sends to others in a step, at
    least.
    """
    steps_per_epoch(data, batch)
    algorithm, hyper = method.bind(space, task_of(data)), method.numbers_of(epochs=10**6, steps=1)
    state = state_shape(space, method, data, batch)
    examples = shape(Examples(*shape_of((data.inputs, data.targets))), mesh)
    began = time.monotonic()
    program = start_lanes(algorithm, data, examples, state, hyper, 1, batch, searches)()
    seconds = time.monotonic() - began
    cost = space.cost(None)
    return {"weights": cost["params"], "macs": cost["macs"], "memory_bytes": program.memory, "compile_seconds": seconds,
            "note": program.note,
            "sent_bytes": bytes_sent(collectives(program.compiled), sizes_of(mesh)[DATA]) if mesh else 0}
