"""What programs on four devices compute and exchange, beside one device. A process of its own, for JAX must be told of the
devices before it starts; it writes a JSON of facts, of "programs" or "commands", for tests/test_devices.py."""

import contextlib
import io
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import dnas
from dnas.algorithms.distillation import supernet_teacher
from dnas.algorithms.supervised import Recipe
from dnas.engine import compile as engine_compile
from dnas.engine import programs
from dnas.engine.compile import on_device, start_scores, start_search
from dnas.engine.lanes import start_lanes
from dnas.engine.mesh import collectives, create_mesh, put, shape, tracing
from dnas.engine.train import train
from dnas.methods.darts import darts
from dnas.platform import platform
from dnas.task import task_of
from launch.main import main
from search_spaces.layers.batch_norm import normalised
from search_spaces.layers.depthwise import depthwise
from tests.test_search import BATCH, EPOCHS, first_state, tiny
from tests.toy_space import toy

STEPS = 3
DATA = tiny()
SPACE, METHOD = toy(DATA.image, DATA.classes), darts(lr=0.1, arch_lr=0.01)
HYPER = METHOD.numbers_of(epochs=EPOCHS, steps=STEPS)
ALGORITHM = METHOD.bind(SPACE, task_of(DATA))


def worst(a, b):
    """The largest difference of two trees."""
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(np.asarray(x, float) - np.asarray(y, float)).max(
        initial=0)), a, b)))


def most_devices(tree):
    """On how many devices an array of a tree lies at most."""
    return max(len(leaf.devices()) for leaf in jax.tree.leaves(tree))


def epoch(devices, lanes=1):
    """An epoch of so many searches that begin alike with other batches: their states, and what is known of the program."""
    mesh = create_mesh(devices, lanes)
    examples = on_device(DATA, mesh)
    state, hyper = jax.tree.map(lambda leaf: np.asarray(leaf, "float64") if leaf.dtype == "float32" else leaf,
                                (jax.device_get(first_state(DATA)), HYPER))
    program = start_lanes(ALGORITHM, DATA, examples, state, hyper, STEPS, BATCH, lanes)()
    rows = [np.random.default_rng(seed).integers(0, 200, (2, STEPS, BATCH), np.int32) for seed in range(program.width)]
    copies = [jax.tree.map(jnp.copy, state) for _ in rows]
    keys = [jax.random.key(seed) for seed in range(program.width)]
    states = program.advance(copies, [hyper] * len(rows), keys, *zip(*rows), on_metrics=lambda metrics, done: None)
    return states, {"exchanged": collectives(program.compiled), "flops": program.compiled.cost_analysis()["flops"],
                    "width": program.width, "memory": program.memory}


def steps():
    """Epochs of 1, 2, 4 and 6 searches on four devices, in float64, and how far the first of each is from the same on one
    device. The platform says whether the steps are a loop, as on an accelerator."""
    normalise, facts = engine_compile.normalise, {}
    engine_compile.normalise = lambda *args: normalise(*args).astype("float64")
    with jax.enable_x64(True):
        [alone], facts["alone"] = epoch(1)
        for lanes, name in (1, "cpu"), (2, "cuda"), (4, "cpu"), (6, "cuda"):
            with platform(name):
                states, facts[lanes] = epoch(4, lanes)
                facts[lanes]["worst"] = worst(states[0], alone)
    engine_compile.normalise = normalise
    return facts


def exchanged(function, *args):
    """What four devices exchange for a function of a batch `[B, ...]` and of arrays that are whole on each, and how far its
    results are from those of one device: programs as on an accelerator."""
    mesh = create_mesh(4)
    here = [put(arg, mesh, *["data"] * (n == 0)) for n, arg in enumerate(args)]
    with platform("cuda"):
        alone = jax.jit(function)(*args)
        with tracing(mesh):
            program = jax.jit(function).lower(*here).compile()
    return {"exchanged": collectives(program), "worst": worst(alone, program(*here))}


def layers():
    """The exchange of layers: gradients of batch norm in 4 channels of float32; sums in a loop of five turns; gradients of
    edges that read one array, each by a depthwise convolution of its own, and of the gradients of their kernels."""
    random = np.random.default_rng(0)
    x, factor = random.normal(size=(32, 8, 8, 4)).astype("float32"), np.ones(4, np.float32)
    norm = jax.grad(lambda x, factor: (normalised(factor * x, 1e-5)[0]**3).sum())
    loop = lambda x, factor: jax.lax.scan(lambda f, _: ((x * f).mean((0, 1, 2)), None), factor, length=5)[0]
    edges = lambda x, kernels: (jax.vmap(lambda kernel: depthwise(x, kernel))(kernels)**2).mean()
    both = jax.grad(lambda *args: edges(*args) + (jax.grad(edges, 1)(*args)**2).sum(), (0, 1))
    facts = {"norms": exchanged(norm, x, factor)["exchanged"], "loop": exchanged(loop, x, factor)["exchanged"]}
    with jax.enable_x64(True):
        return facts | {"edges": exchanged(both, x.astype(float), random.normal(size=(3, 3, 3, 1, 4)))}


def scores():
    """Scores of masks on one device and on four: a split of batches that do not divide among them."""
    state, task, found = first_state(DATA), task_of(DATA), []
    gates = ALGORITHM.gates(state, HYPER)
    masks = [gates, {"chain": np.eye(4, dtype=np.float32)[:2]}]
    for devices in (1, 4):
        score = start_scores(SPACE, task, DATA, on_device(DATA, create_mesh(devices)), state, gates, 13, 3)()
        found.append((score(state, masks), score(state, masks, 13, 39)))
    return {"worst": worst(*found), "examples": [part["loss"].shape[1] for part in found[0]]}


def trained():
    """A training that begins with weights of its own and a teacher, on one device and on four."""
    network = SPACE.network(SPACE.genotype({"chain": np.eye(4, dtype=np.float32)[[2, 1]]}))
    start = network.init(jax.random.key(1), jnp.zeros((BATCH, *DATA.image)))
    state = first_state(DATA)
    teacher = supernet_teacher(SPACE, state, ALGORITHM.gates(state, HYPER))
    results = [train(network, DATA, epochs=1, batch=BATCH, recipe=Recipe(cutout=2, distill=0.5, ema=0.9), start=start,
                     teacher=teacher, final="test", mesh=create_mesh(devices), progress=False) for devices in (1, 4)]
    return {"worst": worst(*((one.weights, one.stats, dict(one.final), one.confusion) for one in results)),
            "devices": most_devices((results[1].weights, results[1].stats))}


def texts():
    """Of a search's step on one device: the program's text, which must not depend on what other devices there are."""
    examples, texts = on_device(DATA), []
    real, engine_compile.start_compiling = engine_compile.start_compiling, \
        lambda function, args, **options: texts.append(jax.jit(function).lower(*args).as_text())
    try:
        start_search(ALGORITHM, DATA, examples, first_state(DATA), HYPER, STEPS, BATCH)
        start_search(ALGORITHM, DATA, examples, first_state(DATA), HYPER, STEPS, BATCH, 2)
        state = first_state(DATA)
        start_scores(SPACE, task_of(DATA), DATA, examples, state, ALGORITHM.gates(state, HYPER), BATCH, 1)
    finally:
        engine_compile.start_compiling = real
    return texts


def cached(folder):
    """That programs of meshes are not in the files of traced ones, and are not taken for one another."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    where, square = [], lambda x: x * x
    for devices in jax.devices()[:2], jax.devices()[2:]:
        mesh = jax.make_mesh((1, 2), ("lane", "data"), devices=devices, axis_types=(jax.sharding.AxisType.Auto,) * 2)
        program = programs.compile_program(square, (shape(jnp.ones(4), mesh, "data"),), key="square")
        where.append(sorted(device.id for device in program(put(jnp.ones(4), mesh, "data")).devices()))
    files = [*folder.glob("traced/*")]
    programs.compile_program(square, (jnp.ones(4),), key="square")
    jax.config.update("jax_compilation_cache_dir", None)
    return {"devices": where, "files": [len(files), len([*folder.glob("traced/*")])]}


def command(*argv):
    """The exit code of a command, and what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([*map(str, argv)])
    return code, said.getvalue()


SPACE_OPTIONS = ("--space", f"{Path(__file__).parent}/toy_space.py:toy", "--limit", "200", "--no-progress", "--cache", "off")


def commands(folder):
    """A search of four devices that is continued on four and on one, an estimate, a selection and a training."""
    run = folder / "run"
    again = ("search", *SPACE_OPTIONS, "--preset", "paper", "--epochs", "2", "--batch", "16", "--run", run, "--devices")
    facts = {"search": command(*again, "all"), "complete": command(*again, "1")}
    facts["environment"] = json.loads((run / "environment.json").read_text())["mesh"]
    last = run / "checkpoints/00002.safetensors"
    bits = last.read_bytes()
    for name, devices in ("again", "4"), ("continued", "1"):
        (run / "results.json").unlink()
        last.unlink()
        facts[name] = command(*again, devices)
        facts.setdefault("same bits", last.read_bytes() == bits)
    facts["estimate"] = command("estimate", *SPACE_OPTIONS, "--batch", "16", "--devices", "4")
    select = ("select", run, "--selection.interval", "1", "--selection.criterion", "loss", "--cache", "off", "--trust")
    facts["select"] = [command(*select, "--devices", n, "--out", folder / f"chosen{n}") for n in (1, 4)]
    facts["scores"] = [np.load(folder / f"chosen{n}/scores.npz")["chain"].tolist() for n in (1, 4)]
    facts["train"] = command("train", run, "--epochs", "1", "--batch", "16", "--devices", "4", "--run", folder / "net",
                             "--no-progress", "--cache", "off", "--trust")
    facts["loaded"] = len(dnas.open(folder / "net").records)
    run = dnas.search(SPACE, METHOD, DATA, epochs=1, batch=BATCH, devices=4, progress=False, cache="off")
    chosen = dnas.select(run, interval=1, progress=False, cache="off")
    facts["in memory"] = {"devices": most_devices(run.supernet.state), "epochs": chosen.cost["epochs"]}
    return facts


def facts_of(part, folder):
    """The facts of a part."""
    if part == "commands":
        return commands(folder)
    uneven = command("search", *SPACE_OPTIONS, "--batch", "30", "--run", folder / "run", "--devices", "all")
    return {"devices": len(jax.devices()), "steps": steps(), **layers(), "scores": scores(), "trained": trained(),
            "texts": texts(), "cached": cached(folder / "cache"), "uneven": uneven, "written": (folder / "run").exists()}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(facts_of(sys.argv[1], Path(sys.argv[2]).parent)))
