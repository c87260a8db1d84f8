"""`dnas.predict` and `dnas predict`: what a trained network says of arrays and pictures, and what is refused.

Tables and texts are in test_tasks_command.py.
"""

import csv
import json
import os
import shutil
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import dnas
from dnas.task import named
from launch.main import main
from tests.test_load import other, refused, said


@pytest.fixture(scope="module")
def data():
    return dnas.data.load("digits", limit=200)


@pytest.fixture(scope="module")
def tested(data, tmp_path_factory):
    """The test split of digits as FOLDER/CLASS/PICTURE."""
    folder = tmp_path_factory.mktemp("tested")
    for name in map(str, range(10)):
        (folder / name).mkdir()
    for row in data.splits["test"]:
        Image.fromarray(data.inputs[row, ..., 0]).save(folder / str(data.targets[row]) / f"{row:04}.png")
    return folder


def grey(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)).save(path)
    return path


def test_arrays_are_predicted_as_the_network_does(run, data):
    network, rows = dnas.load(run), data.splits["test"]
    predictions = dnas.predict(network, data.inputs[rows])
    np.testing.assert_allclose(predictions.outputs, network.predict(data.inputs[rows]), 1e-5, 1e-6)
    assert predictions.names[:2] == ["row 0", "row 1"] and len(predictions) == len(rows)
    assert predictions.targets is None and predictions.metrics == {} and predictions.summary() == ""
    assert repr(predictions) == f"<predictions of {len(rows)} examples>"
    np.testing.assert_array_equal(dnas.predict(run, data.inputs[rows][..., 0]).outputs, predictions.outputs)


@pytest.mark.parametrize("inputs, message", [
    (np.zeros((2, 4, 8, 1), np.uint8), "inputs: images have shape"), (np.zeros((0, 8, 8, 1), np.uint8), "has no examples"),
    (np.zeros((2, 8, 8, 1)), "inputs: images are float64"), ([], "no inputs"), ("absent.png", "absent.png does not exist")])
def test_inputs_that_are_not_for_the_network(run, inputs, message):
    with pytest.raises(ValueError, match=message):
        dnas.predict(run, inputs)


def test_what_is_no_network_is_refused(run, data, tmp_path, capsys):
    with pytest.raises(ValueError, match="network is SearchSpace; it must be what dnas.load or dnas.train returns"):
        dnas.predict(dnas.space("width", data), data.inputs[:2])
    with pytest.raises(ValueError, match="top is 0; it must be a whole number, at least 1"):
        dnas.predict(run, data.inputs[:2], top=0)
    (tmp_path / "notes.txt").write_text("none")
    shutil.copy(run / "results.json", tmp_path)
    assert "does not exist" in refused(capsys, "predict", tmp_path / "absent", tmp_path)
    assert "PICTURE|FOLDER|FILE ... is missing" in refused(capsys, "predict", run)
    assert "holds no picture, only others such as notes.txt" in refused(capsys, "predict", run, tmp_path)
    assert "results.json is not a .safetensors file" in refused(capsys, "predict", tmp_path / "results.json", tmp_path)


def test_pictures_get_classes_and_probabilities(run, data, tmp_path, capsys):
    """A picture of the network's size is classified as the array is; others are brought to that size, and to grey."""
    row = data.splits["test"][0]
    Image.fromarray(data.inputs[row, ..., 0]).save(tmp_path / "a.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)).save(tmp_path / "b.jpg")
    lines = [line.split() for line in said(capsys, "predict", run, tmp_path, "--top", "2", "--cache", "off").splitlines()]
    assert [len(line) for line in lines] == [7, 7] and lines[1][0] == str(tmp_path / "b.jpg")
    shares = np.asarray(dnas.load(run).predict(data.inputs[row][None]))[0]
    best = shares.argsort()[::-1][:2]
    assert lines[0][1::3] == [str(k) for k in best] and lines[0][2::3] == [f"{100 * shares[k]:.1f}" for k in best]


def test_names_of_classes_are_printed(run, tmp_path, capsys):
    shutil.copy(run / "weights.safetensors", tmp_path)
    other(tmp_path / "weights.safetensors", output=lambda o: o.update(classes=[f"kind {k}" for k in range(10)]))
    grey(tmp_path / "a.png")
    out = said(capsys, "predict", tmp_path, tmp_path / "a.png", "--top", "10", "--cache", "off")
    assert all(f"  kind {k}  " in out for k in range(10))


def test_class_folders_give_the_accuracy_that_was_reported(run, tested, capsys):
    """Of more pictures than are decoded at a time."""
    results = json.loads((run / "results.json").read_text())["test"]
    predictions = dnas.predict(run, tested)
    assert len(predictions) == results["examples"] > 256 and predictions.metrics["accuracy"] == results["accuracy"]
    assert all(f"/{target}/" in name for name, target in zip(predictions.names, predictions.targets))
    assert f"accuracy, of {len(predictions)} examples" in repr(predictions)
    out = said(capsys, "predict", run, tested, "--cache", "off").splitlines()
    assert out[-1] == f"{100 * results['accuracy']:.2f} % accuracy, of {len(predictions)} examples"
    assert len(out) == len(predictions) + 2


@pytest.mark.parametrize("names", [("1/a.png", "10/b.png"), ("1/a.png", "b.png"), ("1/a.png", "2/3/b.png")])
def test_other_folders_have_no_targets(run, tmp_path, names):
    for name in names:
        grey(tmp_path / name)
    predictions = dnas.predict(run, tmp_path)
    assert predictions.names == sorted(str(tmp_path / name) for name in names)
    assert predictions.targets is None and not predictions.metrics


def test_folders_are_entered_and_broken_pictures_are_left_out(run, tmp_path, capsys):
    for name in "1/a.png", "2/b.webp", "2/c.bmp", "3/.hidden.png", ".git/d.png", "__MACOSX/e.png":
        grey(tmp_path / name)
    whole = grey(tmp_path / "1" / "cut.png").read_bytes()
    (tmp_path / "1" / "cut.png").write_bytes(whole[:-30])
    (tmp_path / "2" / "old.gif").write_bytes(b"GIF89a")
    for name in "1/notes.txt", "2/list.csv", "2/Thumbs.db":
        (tmp_path / name).write_text("a,b\n1,2\n")
    code = main(["predict", str(run), str(tmp_path), "--cache", "off"])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert code == 0 and [os.path.relpath(line.split("  ")[0], tmp_path) for line in lines[:-2]] == ["1/a.png", "2/b.webp",
                                                                                                     "2/c.bmp"]
    assert lines[-1].endswith("accuracy, of 3 examples")
    warnings = err.splitlines()
    assert len(warnings) == 3 and all(line.startswith("dnas: warning: skipped ") for line in warnings)
    assert f"{tmp_path}/1/cut.png: a picture that cannot be read" in warnings[0]
    assert f"{tmp_path}/2/old.gif: not a PNG, JPEG, WebP or BMP picture" in warnings[1]
    assert warnings[2].endswith(f"2 files that are not pictures, the first {tmp_path}/1/notes.txt")
    predictions = dnas.predict(run, [tmp_path])
    assert list(predictions.skipped) == [f"{tmp_path}/1/cut.png", f"{tmp_path}/2/old.gif"]
    assert predictions.skipped[f"{tmp_path}/2/old.gif"].startswith("not a PNG")
    assert predictions.targets.tolist() == [1, 2, 2] and "; 2 pictures could not be read>" in repr(predictions)
    np.testing.assert_allclose(predictions.outputs[0], dnas.predict(run, str(tmp_path / "1" / "a.png")).outputs[0], 1e-6)


def test_links_to_folders_are_not_followed(run, tmp_path):
    grey(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    assert dnas.predict(run, tmp_path / "in").names == [f"{tmp_path}/in/a.png"]


def bomb():
    """A PNG of 30,000 x 30,000 pixels in a few bytes."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)) \
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content, message", [
    (lambda whole: whole[:-30], "cannot be read"), (lambda whole: b"import os\n", "not a PNG, JPEG, WebP or BMP picture"),
    (lambda whole: b"", "not a PNG, JPEG, WebP or BMP picture"), (lambda whole: bomb(), "more than 67,108,864 pixels"),
    (None, "does not exist")])
def test_without_a_picture_there_is_nothing_to_predict(run, tmp_path, capsys, content, message):
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)).save(file)
    file.write_bytes(content(file.read_bytes())) if content else file.unlink()
    error = refused(capsys, "predict", run, file, "--cache", "off")
    assert message in error and error.count(str(file)) == 1


def test_a_network_of_other_than_pictures_says_so(run, tmp_path, capsys):
    shutil.copy(run / "weights.safetensors", tmp_path)
    other(tmp_path / "weights.safetensors", input=lambda i: i.update(dtype="float32"))
    grey(tmp_path / "a.png")
    assert "takes float32 images of 1 channels" in refused(capsys, "predict", tmp_path, tmp_path / "a.png")


def test_names_of_files_do_not_command_the_terminal(run, tmp_path, capsys):
    grey(tmp_path / "a\x1b[2J\u202egnp.png")
    (tmp_path / "b\x1b[31m.png").write_text("broken")
    (tmp_path / "c\x1b[31m\u2066.doc").write_text("no picture")
    assert main(["predict", str(run), str(tmp_path), "--cache", "off"]) == 0
    out, err = capsys.readouterr()
    assert "a?[2J?gnp.png" in out and "b?[31m.png" in err and "c?[31m?.doc" in err
    assert not any(letter in out + err for letter in "\x1b\u202e\u2066")


def test_predictions_as_a_table(run, tmp_path, capsys):
    grey(tmp_path / "1" / "odd,\nname.png", 1)
    grey(tmp_path / "2" / os.fsdecode(b"\xff.png"), 2)
    out = said(capsys, "predict", run, tmp_path, "--out", tmp_path / "new.csv", "--cache", "off")
    assert out.splitlines()[-1] == f"written    {tmp_path}/new.csv: 2 examples" and "odd" not in out
    predictions = dnas.predict(run, tmp_path)
    content = (tmp_path / "new.csv").read_bytes()
    assert content.decode("utf-8", "surrogateescape") == predictions.to_csv() and b"\xff.png" in content
    header, *rows = csv.reader(predictions.to_csv().splitlines(keepends=True))
    assert header == ["example", "predicted", "target", *(f"P({k})" for k in range(10))]
    assert [row[0] for row in rows] == predictions.names and [row[2] for row in rows] == ["1", "2"]
    np.testing.assert_array_equal(np.array([row[3:] for row in rows], np.float32), predictions.outputs)
    assert [int(row[1]) for row in rows] == predictions.outputs.argmax(-1).tolist()


def test_predictions_as_json(run, tmp_path):
    grey(tmp_path / "1" / "a.png")
    (tmp_path / "1" / "b.png").write_text("broken")
    predictions = dnas.predict(run, tmp_path, out=tmp_path / "new.json")
    content = json.loads((tmp_path / "new.json").read_text())
    assert content["classes"] == list("0123456789") and content["metrics"] == predictions.metrics
    assert list(content["skipped"]) == [f"{tmp_path}/1/b.png"] and content["task"] == "classification"
    (example,) = content["examples"]
    assert example["name"] == f"{tmp_path}/1/a.png" and example["target"] == "1"
    assert example["probabilities"][example["predicted"]] == max(example["probabilities"].values())


@pytest.mark.parametrize("out, message", [
    ("new.txt", "must end in .csv or .json"), ("absent/new.csv", "a folder that exists"),
    ("folder.csv", "a folder that exists"), ("x.csv", "would replace what is predicted")])
def test_where_predictions_cannot_be_written(run, tmp_path, monkeypatch, capsys, out, message):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "x.csv").write_text("a\n1\n")
    monkeypatch.setattr("dnas.api.predict.network_of", lambda *_, **__: pytest.fail("the network was loaded"))
    assert message in refused(capsys, "predict", run, tmp_path / "x.csv", "--out", tmp_path / out)
    assert (tmp_path / "x.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize("task, outputs, targets, table, rows", [
    ("dense", [[[0, 0], [0, 1]], [[1, 1], [1, 1]]], [[[0, 0], [0, 1]], [[1, 1], [1, 0]]],
     "example,share(sky),share(sea)\na,0.75,0.25\nb,0.0,1.0\n", [["a", "sky", "75.0 %"], ["b", "sea", "100.0 %"]]),
    ("multilabel", [[0, 1], [1, 1]], [[0.0, 1.0], [1.0, 0.0]],
     "example,predicted 0,predicted 1,target 0,target 1\na,0,1,0.0,1.0\nb,1,1,1.0,0.0\n",
     [["a", "0", "1"], ["b", "1", "1"]]),
    ("regression", [[0.5], [2.0]], [1.0, 2.25], "example,predicted,target\na,0.5,1.0\nb,2.0,2.25\n",
     [["", "predicted", "target"], ["a", "0.5", "1"], ["b", "2", "2.25"]])])
def test_predictions_of_other_tasks(task, outputs, targets, table, rows):
    network = SimpleNamespace(task=named(task), classes=("sky", "sea") if task == "dense" else (),
                              described=SimpleNamespace(input=SimpleNamespace(characters="")))
    predictions = dnas.Predictions(network, ["a", "b"], np.array(outputs), np.array(targets), {}, {}, (), 1)
    assert predictions.to_csv() == table and predictions.rows() == rows
    examples = json.loads(predictions.to_json())["examples"]
    assert [example["predicted"] for example in examples] == outputs and [each["target"] for each in examples] == targets
