"""Programs compile for an H100 and a TPU v5e, which need not be there: the lane `pytest -m accelerator`.

Each is compiled in a process of its own, so that a compiler that aborts is one failure. Sizes are the smallest at which all
operations take part; no program is run.
"""

import jax
import numpy as np
import pytest

import dnas
from dnas.algorithms.supervised import Recipe, trainer
from dnas.api.estimate import search_programs
from dnas.data.graphs import planetoid
from dnas.engine.compile import Examples, compile_training, shape_of, start_scores
from dnas.engine.programs import listed
from dnas.engine.search import input_shape, state_shape
from dnas.engine.targets import chip_of, examine
from dnas.methods import METHODS
from dnas.platform import platform
from dnas.task import task_of
from search_spaces import SPACES
from tests.test_graph import small

BATCH = 8
LEAST = {"conv-macro": {"channels": 1}, "mobilenet": {"channels": 2, "stages": 2, "layers": 2},
         "nasbench201": {"channels": 2, "cells": 1}, "dense": {"hidden": 4, "layers": 1},
         "graph": {"layers": 1, "hidden": 4}, "width": {"channels": 4, "stages": 2, "layers": 1},
         "macro": {"channels": 2}, "nats-size": {"channels": 8}, "tas": {"channels": 4, "stages": 2, "blocks": 2},
         **dict.fromkeys(("gpt", "vit"), {"embeds": (4, 6), "depths": (1, 2), "heads": (1, 2), "ratios": (1, 2)})}
"""The smallest options of each space; those that are not listed are of DARTS's cells."""
SEEDS = 8
ON_NASBENCH201 = "lambda-darts", "oles"
"""Methods that are compiled in this space; the others are in `dense`."""


def data_of(space):
    if space == "graph":
        return planetoid("ring", "ring", small())
    if space == "gpt":
        tokens = np.random.default_rng(0).integers(0, 7, (80, 9))
        return dnas.data.from_arrays("tokens", tokens[:, :-1], tokens[:, 1:], task="next-token")
    return dnas.data.load("digits", limit=80)


def space_of(name, data, **options):
    return dnas.space(name, data, **LEAST.get(name, {"channels": 2, "cells": 3}) | options)


def search_of(space, method="darts", *, width=None, **options):
    """The program of a search in a registered space."""
    data = data_of(space)
    return search_programs(space_of(space, data, **options), dnas.method(method), data, BATCH, width)


def scores_of(space):
    """The program of a perturbation-based selection, with one mask for each operation of an edge."""
    data = data_of(space)
    built, method = space_of(space, data), dnas.method("darts")
    gates = {name: np.zeros(group.shape, np.float32) for name, group in built.groups.items()}
    widest = max(group.shape[1] for group in built.groups.values())
    with listed() as programs:
        start_scores(built, task_of(data), data, Examples(*shape_of((data.inputs, data.targets))),
                     state_shape(built, method, data, BATCH), gates, BATCH, widest)
    return programs


def training_of(space, **recipe):
    """The program of the training of a network that a search could end with."""
    data, recipe = data_of(space), Recipe(**recipe)
    built, rng = space_of(space, data), np.random.default_rng(0)
    network = built.network(built.genotype({name: rng.random(group.shape) for name, group in built.groups.items()}))
    how = trainer(network, task_of(data), recipe)
    state = jax.eval_shape(lambda key: how.init(key, input_shape(data, BATCH)), jax.random.key(0))
    with listed() as programs:
        compile_training(how, recipe, data, Examples(*shape_of((data.inputs, data.targets))), state,
                         recipe.numbers(epochs=2, steps=2), 2, BATCH)
    return programs


CASES = {
    **{f"space {name}": lambda name=name: search_of(name) for name in SPACES},
    **{f"method {name}": lambda name=name: search_of("nasbench201" if name in ON_NASBENCH201 else "dense", name,
                                                     partial_channels=2 if name == "pc-darts" else 1) for name in METHODS},
    **{f"elastic mobilenet, {name}": lambda name=name: search_of("mobilenet", name) for name in ("ofa", "deps")},
    "mobilenet with squeeze and excitation": lambda: search_of("mobilenet", squeeze_excite=True),
    "conv-macro, separate": lambda: search_of("conv-macro", form="separate"),
    **{f"{name}, separate": lambda name=name: search_of(name, form="separate") for name in ("gpt", "vit")},
    "nasbench201 in bfloat16": lambda: search_of("nasbench201", dtype="bfloat16"),
    "darts in bfloat16": lambda: search_of("darts", dtype="bfloat16"),
    "eight seeds": lambda: search_of("nasbench201", width=SEEDS),
    "all masks at once": lambda: scores_of("nasbench201"),
    "training": lambda: training_of("darts", ema=0.999, drop_path=0.2),
    "training in bfloat16": lambda: training_of("nasbench201", dtype="bfloat16"),
}


@pytest.mark.accelerator
@pytest.mark.parametrize("chip", ["h100", "v5e"])
@pytest.mark.parametrize("case", CASES)
def test_compiles(case, chip, monkeypatch):
    try:
        chip = chip_of(None, chip)
    except ValueError as error:
        pytest.skip(str(error))
    monkeypatch.delenv("XLA_FLAGS")  # the compiler's own, not those of quick tests
    with platform(chip.platform):
        programs = CASES[case]()
    for program in programs:
        compiled = examine(program.function, program.args, chip, donate_argnums=program.donate_argnums)
        assert compiled.work.kernels and compiled.work.operations and 0 < compiled.memory < chip.memory
    assert programs
