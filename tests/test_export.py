"""`dnas export`: every form is read back and gives the same logits, without the toolkit where it promises that."""

import ast
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

import dnas
from dnas.data import load as load_data
from dnas.runs.model_file import Output
from launch.main import main
from search_spaces import SPACES, standalone
from search_spaces.darts import darts
from search_spaces.export import FORMATS
from search_spaces.nasbench201 import nasbench201
from search_spaces.robust_darts import s4
from tests.test_load import refused
from tests.test_train_command import TOY
from tests.toy_space import toy

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"
CELLS = ("normal sep_conv_3x3:1, skip_connect:0 | dil_conv_3x3:2, sep_conv_5x5:0 | dil_conv_5x5:3, none:0 | -; "
         "reduce max_pool_3x3:0, skip_connect:1 | avg_pool_3x3:1, max_pool_3x3:2 | sep_conv_3x3:0, skip_connect:3 | -")
ALONE = """
import sys
for name in ("dnas", "search_spaces", "launch"):
    sys.modules[name] = None
import jax, numpy as np
images = np.load("images.npy")
program = jax.export.deserialize(bytearray(open("network.stablehlo", "rb").read()))
np.save("stablehlo.npy", program.call(images))
import network
variables = network.load()
np.save("flax.npy", network.logits(variables, images))
assert network.predict(variables, images[:2]).shape == (2, len(network.CLASSES))
"""


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "new"
    assert main(["export", str(run), "--format", "stablehlo", "safetensors", "flax", "--out", str(out), "--cache",
                 "off"]) == 0
    return out


def test_exports_run_without_the_toolkit(run, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "elsewhere")
    data = load_data("digits", limit=200)
    rows = data.splits["test"]
    np.save(folder / "images.npy", data.inputs[rows])
    done = subprocess.run([sys.executable, "-c", "import jax.export\n" + ALONE], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = np.asarray(dnas.load(run).logits(data.inputs[rows]))
    accuracy = json.loads((run / "results.json").read_text())["test"]["accuracy"]
    for name in ("stablehlo", "flax"):
        found = np.load(folder / f"{name}.npy")
        np.testing.assert_allclose(found, expected, 1e-5, 1e-5)
        assert (found.argmax(-1) == data.targets[rows]).mean() == accuracy
    about = json.loads((folder / "network.json").read_text())
    assert about["inputs"] == {"kind": "images", "shape": ["any", 8, 8, 1], "type": "uint8", "fit": "crop"}
    assert about["outputs"]["classes"] == list("0123456789")


def test_safetensors_hold_all_that_is_needed(exported):
    with safe_open(exported / "network.safetensors", "numpy") as file:
        assert {"params/head/dense/kernel", "batch_stats/bn_0/mean"} < set(file.keys())
        metadata = file.metadata()
    assert dnas.Genotype.from_json(metadata["genotype"]).space == "width" and json.loads(metadata["config"])["epochs"] == 2
    assert np.asarray(dnas.load(exported / "network.safetensors").predict(np.zeros((3, 8, 8, 1), np.uint8))).shape == (3, 10)


@pytest.mark.parametrize("name, space, text", [
    ("nasbench201", nasbench201((8, 8, 1), 10, channels=2, cells=2), CELL),
    ("nasbench201", nasbench201((8, 8, 1), 10, channels=2, cells=1), CELL),
    ("darts", darts((8, 8, 1), 10, channels=2, cells=3), CELLS)], ids=["stacked", "one cell", "darts"])
def test_a_flax_file_is_the_network(untrained, tmp_path, name, space, text):
    """All operations of both families, and edges and nodes that are left out."""
    trained = dnas.load(untrained(name, space, space.parse(text)))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    logits = FORMATS["flax"](trained, tmp_path, None)(images)
    np.testing.assert_allclose(logits, trained.logits(images), 1e-5, 1e-5)
    text = (tmp_path / "network.py").read_text()
    modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
               for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} <= {"functools", "math", "pathlib", "flax", "jax", "safetensors"}
    unused = {"MaxPool", "FactorizedReduce"} if name == "nasbench201" else {"nor_conv_1x1", "Residual", "Stage"}
    assert not any(word in text for word in unused) and len(text.splitlines()) < 330


def test_the_families_are_spaces():
    assert set(standalone.FAMILIES) == set(SPACES) - {"graph", "dense"}


def test_a_space_of_the_users_own_is_exported_where_the_user_says_where_it_is(untrained, capsys):
    folder = untrained("mine.py:toy", toy(), toy().genotype({"chain": np.eye(4)[[2, 1]]}))
    error = refused(capsys, "export", folder, "--format", "stablehlo", "--cache", "off")
    assert "space 'mine.py:toy'; if you trust that, say where it is: --space" in error
    assert main(["export", str(folder), "--format", "stablehlo", "flax", "--space", TOY, "--cache", "off"]) == 0
    out = capsys.readouterr().out
    assert "64 images drawn at random" in out and "accuracy" not in out
    assert {path.name for path in (folder / "export").iterdir()} == {f"network.{end}" for end in (
        "stablehlo", "json", "py", "safetensors")}


def test_a_network_that_draws_noise_has_no_file():
    space = s4((8, 8, 1), 10, channels=2, cells=3)
    genotype = space.genotype({name: np.eye(2)[[0] * 14] for name in space.groups})
    gives = Output("classification", 2, ("a", "b"))
    with pytest.raises(ValueError, match="it has the operation noise, which draws"):
        standalone.source("s4", space, genotype, None, gives)


@pytest.mark.parametrize("wrong", [lambda logits: logits + 1e-3, lambda logits: logits * (1 + 1e-4), lambda logits: -logits])
def test_what_computes_something_else_is_not_kept(run, monkeypatch, capsys, tmp_path, wrong):
    copy = shutil.copytree(run, tmp_path / "copy")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    def other(trained, folder, space, task):
        (folder / "network.stablehlo").write_text("something")
        return lambda images: wrong(trained.logits(images))

    monkeypatch.setitem(FORMATS, "stablehlo", other)
    assert main(["export", str(copy), "--format", "safetensors", "stablehlo", "--cache", "off"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("dnas: error: stablehlo: outputs differ by ") and "nothing is written" in err
    assert "written" not in out
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert not [path for path in copy.iterdir() if path.is_dir() and path.name not in ("checkpoints",)]


def test_data_of_a_run_is_not_imported(run, monkeypatch, capsys, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"data": [f"{tmp_path}/evil.py:f"]}))
    assert main(["export", str(copy), "--format", "safetensors", "--cache", "off"]) == 0
    assert "drawn at random" in capsys.readouterr().out
    (copy / "config.json").write_text(json.dumps(config | {"data": 5}))
    assert main(["export", str(copy), "--format", "safetensors", "--cache", "off"]) == 0
    shutil.rmtree(copy / "export")
    (copy / "config.json").write_text(json.dumps(config))
    assert main(["export", str(copy), "--format", "safetensors", "--data", "digits", "--cache", "off"]) == 0
    assert "359 of the 359 test images of digits" in capsys.readouterr().out


def test_what_cannot_be_exported_is_refused(run, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    np.savez(tmp_path / "other.npz", x=np.zeros((60, 9, 9), np.uint8), y=np.arange(60) % 2)
    flax = "--format", "flax"
    for argv, message in [
            ((run,), "--format is missing"), ((run, "--format", "onnx"), "invalid choice 'onnx'"),
            ((run, *flax, "--out", tmp_path / "file"), "is a file"), ((tmp_path, *flax), "no run directory"),
            ((run, *flax, "--data", tmp_path / "other.npz"), "2 classes of images (9, 9, 1); the network is for"),
            ((run, *flax, "--data", "digit"), "did you mean 'digits'"),
            ((TOY.split(":")[0], *flax), "no .safetensors file")]:
        assert message in refused(capsys, "export", *argv)
    assert not (run / "export").exists()
