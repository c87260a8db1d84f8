"""`dnas.export` and its command: every form is read back and gives the same logits, without the toolkit where it says so."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

import dnas
from dnas.api.export import Unfaithful
from dnas.data import load as load_data
from launch.main import main
from tests.test_load import refused
from tests.test_train_command import TOY
from tests.toy_space import toy

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


def test_a_space_of_the_users_own_is_exported_where_the_user_says_where_it_is(untrained, capsys):
    folder = untrained("mine.py:toy", toy(), toy().genotype({"chain": np.eye(4)[[2, 1]]}))
    error = refused(capsys, "export", folder, "--format", "stablehlo", "--cache", "off")
    assert "names the space 'mine.py:toy', and nothing is imported because a file says so" in error
    assert main(["export", str(folder), "--format", "stablehlo", "flax", "--space", TOY, "--cache", "off"]) == 0
    out = capsys.readouterr().out
    assert "64 images drawn at random" in out and "accuracy" not in out
    assert {path.name for path in (folder / "export").iterdir()} == {f"network.{end}" for end in (
        "stablehlo", "json", "py", "safetensors")}


@pytest.mark.parametrize("wrong", [lambda logits: logits + 1e-3, lambda logits: logits * (1 + 1e-4), lambda logits: -logits])
def test_what_computes_something_else_is_not_kept(run, monkeypatch, capsys, tmp_path, wrong):
    copy = shutil.copytree(run, tmp_path / "copy")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    def unfaithful(network, folder):
        (folder / "network.stablehlo").write_text("something")
        return lambda images: wrong(network.logits(images))

    monkeypatch.setattr("dnas.formats.stablehlo.stablehlo", unfaithful)
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
            ((run,), "|FUNCTION ... is missing"), ((run, "--format", "onnx"), "no export 'onnx'; there are stablehlo, "),
            ((run, "--format"), "no format; it must be one or more of stablehlo, safetensors, flax"),
            ((run, *flax, "--out", tmp_path / "file"), "file, a file; it must be a folder"),
            ((tmp_path, *flax), "is not a run directory"),
            ((run, *flax, "--data", tmp_path / "other.npz"), "2 classes of images (9, 9, 1); the network is for"),
            ((run, *flax, "--data", "digit"), "did you mean 'digits'"),
            ((TOY.split(":")[0], *flax), "is not a .safetensors file")]:
        assert message in refused(capsys, "export", *argv)
    assert not (run / "export").exists()


FORM = """
def text(network, folder):
    (folder / "network.txt").write_text(network.genotype.space)
    return network.logits

def wrong(network, folder):
    (folder / "network.bad").write_text("")
    return lambda inputs: 2 * network.logits(inputs)
"""


def test_a_network_in_memory_and_a_form_of_ones_own(run, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(FORM)
    network = dnas.load(run / "weights.safetensors")
    files = dnas.export(network, ["safetensors", f"{tmp_path}/mine.py:text"], out=tmp_path / "a" / "b", progress=False)
    assert files == [tmp_path / "a" / "b" / name for name in ("network.safetensors", "network.txt")]
    assert files[1].read_text() == "width" and sorted((tmp_path / "a" / "b").iterdir()) == files
    assert capsys.readouterr().out == ""
    with pytest.raises(Unfaithful, match="mine.py:wrong: outputs differ by .* nothing is written"):
        dnas.export(network, ["safetensors", f"{tmp_path}/mine.py:wrong"], out=tmp_path / "c" / "d")
    assert not (tmp_path / "c").exists() and sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a"]
    shutil.copy(run / "weights.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(ValueError, match="out is missing: the network lies in no folder"):
        dnas.export(dnas.load(tmp_path / "alone.safetensors"), "safetensors")
    assert dnas.export(tmp_path / "alone.safetensors", "safetensors") == [tmp_path / "export" / "network.safetensors"]


def test_places_are_imported_for_the_comparison_where_they_are_trusted(run, monkeypatch, capsys, tmp_path):
    """The data, which the run's config names; an augmentation is of no use to a comparison."""
    copy = shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "mine.py").write_text("import numpy as np\n\ndef f():\n"
                                      "    return np.zeros((200, 8, 8), np.uint8), np.arange(200) % 10\n")
    config = json.loads((copy / "config.json").read_text())
    del config["digest"]  # of the digits
    config |= {"data": [f"{tmp_path}/mine.py:f"], "limit": None, "augment": f"{tmp_path}/absent.py:g"}
    (copy / "config.json").write_text(json.dumps(config))
    with monkeypatch.context() as patched:
        patched.setattr("dnas.registry._file_module", lambda place, where: pytest.fail(f"{place} was imported"))
        dnas.export(copy, "safetensors", cache="off", out=tmp_path / "out")
    assert "drawn at random" in capsys.readouterr().out
    dnas.export(copy, "safetensors", trust=True, out=tmp_path / "out")
    assert "40 of the 40 test images of mine:f" in capsys.readouterr().out
