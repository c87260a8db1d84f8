"""Tests compile many small programs and run each a few times, so XLA is told to compile quickly rather than well."""

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

flags = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):  # later ones do not know the flag, and end on one they do not know
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])
os.environ.setdefault("DNAS_CACHE", "off")
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()  # where runs that were begun are remembered
sys.path.insert(0, str(Path(__file__).parent.parent))


@pytest.fixture(scope="session", autouse=True)
def as_published():
    """Searches are as published and end by the method's own rule, which costs nothing, unless a test says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnas.api.search_plan.PRESET", "paper")
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The run directory of a training of two epochs on digits: the plainest network there is."""
    import dnas
    from search_spaces.width import width

    folder = tmp_path_factory.mktemp("trained") / "run"
    dnas.train(width((8, 8, 1), 10, channels=4, stages=1).parse("4-3"), dnas.data.load("digits", limit=200), epochs=2,
               out=folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """(name of its space, space, genotype) -> a folder with such a network for digits, its running averages random."""
    import jax
    import numpy as np

    from dnas.runs import model_file

    def made(name, space, genotype):
        folder, draw = tmp_path_factory.mktemp("untrained"), np.random.default_rng(0)
        weights, stats = space.network(genotype).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), "float32"))
        stats = jax.tree.map(lambda leaf: draw.uniform(0.5, 2, leaf.shape).astype(np.float32), stats)
        options = {key: value for key, value in space.options.items() if key not in ("image", "classes")}
        takes = model_file.Input("images", (8, 8, 1), "uint8", (0.5,), (0.2,))
        gives = model_file.Output("classification", 10, tuple("0123456789"))
        described = model_file.ModelDescription(genotype, {"name": name, **options}, takes, gives, {})
        model_file.save(folder / model_file.FILE, described, weights, stats)
        return folder

    return made


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """A search of a registered space, `run`, with a selection in it, and a training of what it found, `net`."""
    import dnas

    top = tmp_path_factory.mktemp("originals")
    data = dnas.data.load("digits", limit=200)
    space = dnas.space("width", data, channels=4, stages=1, layers=1)
    run = dnas.search(space, "darts", data, epochs=2, batch=16, out=top / "run", progress=False, cache="off")
    dnas.select(run, "magnitude", progress=False, cache="off")
    dnas.train(run, epochs=1, batch=16, out=top / "net", progress=False, cache="off")
    return top
