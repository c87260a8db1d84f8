"""Many searches of the toy space by few programs, and what it is to be equal."""

import contextlib
import functools

import jax
import numpy as np
import pytest
from matplotlib.image import imsave

from dnas.engine import lanes
from dnas.engine import search as engine_search
from dnas.engine.search import Lane, search, search_lanes
from dnas.reports import figures
from dnas.runs.directory import open_run
from tests.test_search import BATCH, EPOCHS, parts, same, tiny

SEEDS = (3, 0, 7)


def once(method):
    """`method`, whose every binding has the same two functions, by which what is compiled for it is known again."""
    steps = []

    def algorithm(problem):
        if not steps:
            steps.append(method.algorithm(problem))
        return steps[0]

    return method.extend(algorithm=algorithm)


@functools.cache
def built():
    """The data, the space and the method of all these searches."""
    data = tiny()
    space, method = parts(data)
    return data, space, once(method)


@contextlib.contextmanager
def quickly():
    """What is compiled for one search serves the next one of the same method, and pictures are not drawn."""
    def cached(compiles, key):
        programs = {}

        def of(*args, **options):
            if key(*args) not in programs:
                programs[key(*args)] = compiles(*args, **options)
            return programs[key(*args)]

        return of

    with pytest.MonkeyPatch.context() as patch:
        search_key = lambda algorithm, data, examples, state, hyper, *rest: (algorithm.step, tuple(hyper), rest[-1])
        patch.setattr(lanes, "start_search", cached(lanes.start_search, search_key))
        evaluation = engine_search.compile_evaluation
        patch.setattr(engine_search, "compile_evaluation", cached(evaluation, lambda space, task, data, *rest: data.name))
        patch.setattr(figures, "draw_genotype", lambda genotype, groups, path: imsave(path, np.zeros((1, 1)), format="png"))
        patch.setattr(figures, "draw_logits", lambda *args: None)
        patch.setattr(figures, "draw_curves", lambda *args: None)
        yield


def go(folder=None, settings=SEEDS, *, method=None, **options):
    """The searches of several lanes, each in a run directory of its own if there is a `folder`.

    settings: seeds of `method`, or pairs (numbers to replace in it, seed).
    """
    data, space, default = built()
    settings = [each if isinstance(each, tuple) else ({}, each) for each in settings]
    runs = [open_run(folder / str(seed), {"seed": seed}) for _, seed in settings] if folder else [None] * len(settings)
    try:
        return search_lanes(space, [Lane((method or default).replace(**numbers), seed, run)
                                    for (numbers, seed), run in zip(settings, runs)], data,
                            **{"epochs": EPOCHS, "batch": BATCH, "progress": False, **options})
    finally:
        for run in filter(None, runs):
            run.close()


def single(numbers=None, *, method=None, seed=0, run=None, epochs=EPOCHS, **options):
    """One search by itself."""
    data, space, default = built()
    method = (method or default).replace(**(numbers or {}))
    return search(space, method, data, epochs=epochs, batch=BATCH, seed=seed, run=run, progress=False, **options)


def near(found, expected):
    """Whether two trees are equal up to rounding."""
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)))


def close(found, expected):
    """Whether two results are."""
    return found.genotype == expected.genotype and near((found.state, found.records), (expected.state, expected.records))


def equal(found, expected):
    """Whether two results are the same bits."""
    return same(found.state, expected.state) and found.records == expected.records and found.genotype == expected.genotype


def matched(results, expected, alike):
    """Whether there are as many results as expected, each like its own."""
    return len(results) == len(expected) and all(map(alike, results, expected))
