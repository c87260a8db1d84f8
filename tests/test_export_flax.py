"""Flax files: the networks of shipped spaces, of spaces of one's own, and those that go on from a supernet's weights."""

import ast
import dataclasses
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import dnas
from dnas.runs import model_file
from dnas.shared_options import SharedOptions, shared_options
from search_spaces.conv_macro import conv_macro
from search_spaces.darts import darts
from search_spaces.dense import dense
from search_spaces.export import flax, flax_source
from search_spaces.macro import macro
from search_spaces.mobilenet import mobilenet
from search_spaces.nasbench201 import nasbench201
from search_spaces.nats_size import nats_size
from search_spaces.robust_darts import s1, s4
from search_spaces.tas import tas
from search_spaces.vit import vit
from search_spaces.width import width
from tests.toy_causal import causal
from tests.toy_frameworks import toy_pure
from tests.toy_kernel import kernels
from tests.toy_space import toy

HERE, IMAGE = Path(__file__).parent, (8, 8, 1)
IMAGES = model_file.Input("images", IMAGE, "uint8", (0.5,), (0.2,))
CLASSES = model_file.Output("classification", 10, tuple("0123456789"))
ALONE = """
import sys
for name in ("dnas", "search_spaces", "launch"):
    sys.modules[name] = None
import numpy as np, network
variables, inputs = network.load(), np.load("inputs.npy")
np.save("flax.npy", network.logits(variables, inputs))
assert network.predict(variables, inputs).shape == (len(inputs), len(network.CLASSES))
outputs, updated = network.MODULE.apply(variables, inputs / 255, network.GATES, True, mutable=["batch_stats"])
assert updated["batch_stats"].keys() == variables["batch_stats"].keys()
"""


def saved(folder, place, space, takes=IMAGES, gives=CLASSES, inherit=False, seed=0, text=None):
    """A network of `space`, `text` or drawn, its running averages random, as it is read from its file."""
    draw = np.random.default_rng(seed)
    genotype = space.parse(text) if text else space.genotype(
        {name: draw.random(group.shape) for name, group in space.groups.items()})
    network = (space.inherited if inherit else space).network(genotype)
    inputs = jax.ShapeDtypeStruct((1, *takes.shape), "int32" if takes.kind == "tokens" else "float32")
    weights, stats = network.init(jax.random.key(0), inputs)
    stats = jax.tree.map(lambda leaf: draw.uniform(0.5, 2, leaf.shape).astype(np.float32), stats)
    options = {key: value for key, value in space.options.items() if key not in ("image", "classes")}
    described = model_file.ModelDescription(genotype, {"name": place.rpartition("/")[2], **options}, takes, gives,
                                            {"inherit": True} if inherit else {})
    model_file.save(folder / model_file.FILE, described, weights, stats)
    return dnas.load(folder, space=place)


def exported(trained, folder, inputs):
    """The text of the Flax file, which gives the outputs of the network."""
    (folder / "export").mkdir()
    outputs = flax(trained, folder / "export")(inputs)
    np.testing.assert_allclose(outputs, trained.logits(inputs), 1e-5, 1e-5)
    text = (folder / "export" / "network.py").read_text()
    assert "search_spaces import" not in text and "dnas import" not in text and "dnas.types import" not in text
    return text


def pixels(count=3):
    return np.random.default_rng(1).integers(0, 256, (count, *IMAGE), np.uint8)


def with_options(make, **options):
    with shared_options(SharedOptions(**options)):
        return make()


def test_a_network_of_a_space_of_ones_own_runs_without_the_toolkit(tmp_path):
    place, images = f"{HERE}/toy_space.py:toy", pixels()
    trained = saved(tmp_path, place, toy(IMAGE, 10))
    text = exported(trained, tmp_path, images)
    assert "class Chain(nn.Module)" in text and "toy_space.py" in text and str(HERE) not in text
    np.save(tmp_path / "export" / "inputs.npy", images)
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path / "export", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "export" / "flax.npy"), trained.logits(images), 1e-5, 1e-5)


SMALL = partial(mobilenet, IMAGE, 10, channels=2, stages=2, layers=2)
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"
CELLS = ("normal sep_conv_3x3:1, skip_connect:0 | dil_conv_3x3:2, sep_conv_5x5:0 | dil_conv_5x5:3, none:0 | -; "
         "reduce max_pool_3x3:0, skip_connect:1 | avg_pool_3x3:1, max_pool_3x3:2 | sep_conv_3x3:0, skip_connect:3 | -")


@pytest.mark.parametrize("name, space, text, lines", [
    ("nasbench201", nasbench201(IMAGE, 10, channels=2, cells=2), CELL, 300),
    ("nasbench201", nasbench201(IMAGE, 10, channels=2, cells=1), CELL, 300),
    ("darts", darts(IMAGE, 10, channels=2, cells=3), CELLS, 410),
    ("s1", s1(IMAGE, 10, channels=2, cells=3), "normal skip_connect:0 | - | - | -; reduce max_pool_3x3:0 | - | - | -", 340),
    ("s4", s4(IMAGE, 10, channels=2, cells=3), "normal noise:0, noise:1 | - | noise:2 | -; reduce - | noise:0 | - | -", 330),
    ("width", width(IMAGE, 10, channels=4, stages=2), "4-3-8-6", 170),
    ("mobilenet", SMALL(squeeze_excite=True), "3x6-7x3 | 5x4", 480),
    ("conv-macro", conv_macro(IMAGE, 10, channels=1, form="separate"), "4x7-2x5-16x7-16x5", 380),
    ("vit", vit(IMAGE, 10, patch=4, head_width=2), "embed 32 | heads 2 ratio 3", 480),
    pytest.param("macro", macro(IMAGE, 10, channels=2, form="entangled"), "22212202", 480, marks=pytest.mark.heavy),
    pytest.param("nats-size", nats_size(IMAGE, 10, channels=8), None, 360, marks=pytest.mark.heavy),
    pytest.param("tas", tas(IMAGE, 10, channels=4, stages=2, blocks=2), None, 360, marks=pytest.mark.heavy),
], ids=["stacked", "one cell", "darts", "s1", "noise", "width", "mobilenet", "conv-macro", "vit", "macro", "nats", "tas"])
def test_networks_of_shipped_spaces(tmp_path, name, space, text, lines):
    """All operations, edges and nodes that are left out; and new weights have the same names and shapes."""
    trained = saved(tmp_path, name, space, text=text)
    source = exported(trained, tmp_path, pixels())
    imported = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)}
    assert {module.split(".")[0] for module in imported} <= {*sys.stdlib_module_names, "flax", "jax", "numpy", "safetensors"}
    assert len(source.splitlines()) <= lines and max(map(len, source.splitlines())) <= 125
    file = sys.modules["dnas_exported_network"]
    fresh = jax.eval_shape(lambda key: file.MODULE.init(key, np.zeros((1, *IMAGE), np.float32), file.GATES, True),
                           jax.random.key(0))
    there = {name: part for name, part in trained.variables.items() if part}  # a network without averages has none
    assert jax.tree.map(np.shape, fresh) == jax.tree.map(np.shape, there)


def test_operations_that_the_genotype_does_not_have_are_left_out(tmp_path):
    space = nasbench201(IMAGE, 10, channels=2, cells=1)
    text = exported(saved(tmp_path, "nasbench201", space, text=CELL.replace("avg_pool_3x3", "none")), tmp_path, pixels())
    assert "AvgPool = nn.Module  # not in this network" in text and "class AvgPool" not in text
    assert "def avg_pool" not in text and "class ReLUConvBN" in text and "PARTIAL_CHANNELS" not in text


def test_nothing_that_a_received_file_calls_itself_becomes_a_part_of_the_program(tmp_path):
    name = 'x"""; raise SystemExit; """'
    trained = saved(tmp_path, f"{HERE}/toy_space.py:toy", toy(IMAGE, 10))
    output = trained.described.output._replace(task=name, classes=(name,) * 10)
    for gives in output, output._replace(classes=()):
        described = trained.described._replace(space={"name": name}, output=gives)
        text = flax_source(dataclasses.replace(trained, described=described))
        assert name not in ast.get_docstring(ast.parse(text)) and "SystemExit" not in ast.dump(ast.parse(
            text.replace(repr(name), "0")))


@pytest.mark.parametrize("name, make, options", [
    ("nasbench201", lambda: nasbench201(IMAGE, 10, channels=4, cells=2), {"partial_channels": 2, "drop_path": 0.3}),
    ("width", lambda: width(IMAGE, 10, channels=4, stages=2), {}),
    ("darts", lambda: darts(IMAGE, 10, channels=4, cells=3), {"partial_channels": 2}),
    pytest.param("s4", lambda: s4(IMAGE, 10, channels=2, cells=3), {}, marks=pytest.mark.heavy)])
def test_a_network_that_goes_on_from_a_supernet(tmp_path, name, make, options):
    trained = saved(tmp_path, name, with_options(make, **options), inherit=True)
    text = exported(trained, tmp_path, pixels())
    assert ("PARTIAL_CHANNELS = 2" in text) == ("partial_channels" in options)


def test_other_inputs_and_tasks(tmp_path):
    draw = np.random.default_rng(0)
    rows = model_file.Input("features", (5,), "float32", (0.1,) * 5, (2.0,) * 5)
    values = model_file.Output("regression", 2, (), (0.0, 0.0), (1.0, 1.0))
    tokens = model_file.Input("tokens", (8,), "int32", (0.0,), (1.0,), vocabulary=11)
    for name, place, space, takes, gives, inputs in [
            ("rows", "dense", dense((5,), 2, hidden=8, layers=1), rows, values, draw.normal(size=(4, 5)).astype(np.float32)),
            ("tokens", f"{HERE}/toy_causal.py:causal", causal((8,), 11), tokens,
             model_file.Output("next-token", 11, ()), draw.integers(0, 11, (4, 8), np.int32))]:
        (tmp_path / name).mkdir()
        text = exported(saved(tmp_path / name, place, space, takes, gives), tmp_path / name, inputs)
        assert "def predict" not in text and "CLASSES" not in text


CLASHING = '''
import flax.linen as nn
from jax import nn as functions
from functools import partial

from dnas.types import Group
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import Identity, ReLUConvBN as Both

SIZE, CLASSES = 4, ("only", "a", "name")


class Conv(nn.Module):
    """Called as an operation of the toolkit is that it uses itself; \N{GREEK SMALL LETTER ALPHA} takes two bytes."""

    channels: int
    stride: int = 1
    function: object = functions.relu

    @nn.compact
    def __call__(self, x, train):
        y = Both(self.channels, kernel=1, name="inner")(x, train)
        \N{GREEK SMALL LETTER ALPHA} = self.param("alpha", nn.initializers.ones, ())
        return self.function(\N{GREEK SMALL LETTER ALPHA} * Both(self.channels, kernel=1, name="again")(y, train))


class Net(nn.Module):
    ops: dict
    groups: dict
    channels: int = SIZE

    @nn.compact
    def __call__(self, images, gates, train):
        x = Both(self.channels, kernel=1, name="stem")(images, train)
        for e in range(len(self.groups["g"].edges)):
            x = MixedOp(self.ops, name=f"edge_{e}")(x, gates["g"][e], train)
        return nn.Dense(len(CLASSES) + 7)(x.mean((1, 2)))


def clashing(image=(8, 8, 1), classes=10):
    ops = {"skip": Identity, "conv": partial(Conv, function=nn.gelu), "own": Conv, "two": lambda **how: Conv(**how)}
    ops.pop("two")
    groups = {"g": Group(((0, 1), (1, 2), (2, 3)), tuple(ops))}
    return flax_space("clashing", Net(ops, groups), groups, image=image, options={"image": list(image), "classes": classes})
'''


def written(folder, text):
    (folder / "mine.py").write_text(text)
    return f"{folder}/mine.py"


def test_names_that_clash_fields_of_all_kinds_and_other_alphabets(tmp_path):
    place = written(tmp_path, CLASHING) + ":clashing"
    text = exported(saved(tmp_path, place, dnas.registry.load(place)(), seed=3), tmp_path, pixels())
    assert "class Conv(nn.Module)" in text and "class Conv_(nn.Module)" in text and "CLASSES_ =" in text


@pytest.mark.parametrize("change, message", [
    (('ops.pop("two")', "pass"), "clashing.<locals>.<lambda> is not at the top of a module"),
    (("SIZE, CLASSES = 4", "SIZE = 3\nSIZE, CLASSES = 4"), "SIZE is not set in mine.py by one statement at its top"),
    (("class Net", "if True:\n    WIDTH = 3\n\n\nclass Net"), None),
    (("len(CLASSES) + 7", "len(CLASSES) + 4 + WIDTH"), "WIDTH is not set in mine.py by one statement at its top"),
    (("from dnas.types import Group", "from dnas.types import Group\nfrom search_spaces.layers import primitives"), None),
    (("kernel=1, name=\"stem\"", "kernel=primitives.math.gcd(1, 1), name=\"stem\""),
     "mine.py imports the module search_spaces.layers.primitives as a whole; import the names that it uses"),
], ids=["lambda", "twice", "not read", "in a block", "module not used", "module"])
def test_what_cannot_be_copied_is_named(tmp_path, change, message):
    """Where a name only stands in the file and nothing of the network reads it, nothing is wrong."""
    text = CLASHING
    if "WIDTH" in change[1] and message:
        text = text.replace("class Net", "if True:\n    WIDTH = 3\n\n\nclass Net")
    if "primitives.math" in change[1]:
        text = text.replace("from dnas.types", "from search_spaces.layers import primitives\nfrom dnas.types", 1)
    place = written(tmp_path, text.replace(*change)) + ":clashing"
    trained = saved(tmp_path, place, dnas.registry.load(place)(), seed=3)
    if message is None:
        exported(trained, tmp_path, pixels())
        return
    with pytest.raises(ValueError, match=f"no Flax file for this network of the space 'mine.py:clashing': {message}"):
        flax(trained, tmp_path)
    assert not (tmp_path / "network.py").exists()


def test_networks_of_no_flax_space_and_of_other_types_have_none(tmp_path):
    for place, space, message in [
            (f"{HERE}/toy_frameworks.py:toy_pure", toy_pure(IMAGE, 10), "its space is not one of flax_space"),
            (f"{HERE}/toy_kernel.py:kernels", with_options(lambda: kernels(IMAGE, 10), dtype="bfloat16"),
             "it computes in bfloat16")]:
        trained = saved(tmp_path, place, space, inherit="bfloat16" in message)
        with pytest.raises(ValueError, match=message):
            flax(trained, tmp_path)
