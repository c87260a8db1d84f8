"""What a data set knows of where it was read from, and that it can be read again from that; how it shows itself."""

import json
from pathlib import Path

import numpy as np
import pytest

from dnas.data import balanced, check_augment, from_arrays, load, sources
from tests.test_data import arrays, write_npz
from tests.test_folders import write_folder

CODE = """
import numpy as np
from dnas.data import from_arrays
from dnas.task import regression
def arrays(): return np.ones((60, 4, 4), np.float32), np.arange(60) % 2
def ready(): return from_arrays("mine", *arrays())
def numbers(): return regression()
def darker(key, inputs): return inputs / 2
def smaller(key, inputs): return inputs[:, 1:]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "pets", shape=(20, 12, 3))
    write_npz(tmp_path / "a.npz")
    write_npz(tmp_path / "b_test.npz")
    (tmp_path / "t.csv").write_text("a,price,y\n" + "".join(f"{i},{i % 7}.5,{i % 2}\n" for i in range(60)))
    (tmp_path / "a.txt").write_text("abcdefg" * 300)
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


@pytest.mark.parametrize("source, options, expected", [
    ("digits", {}, {"data": ["digits"], "limit": None}),
    ("digits", {"limit": np.int64(300), "class_weights": "balanced"},
     {"data": ["digits"], "limit": 300, "class_weights": "balanced"}),
    ("digits", {"class_weights": "equal", "standardise": True, "task": None}, {"data": ["digits"], "limit": None}),
    ("diabetes", {"standardise": False, "task": "regression"},
     {"data": ["diabetes"], "task": "regression", "standardise": False, "limit": None}),
    ("diabetes", {"task": "mine.py:numbers"}, {"data": ["diabetes"], "task": "/mine.py:numbers", "limit": None}),
    ("pets", {"resize": 16, "fit": "pad", "augment": "mine.py:darker", "class_weights": "balanced"},
     {"data": ["/pets"], "limit": None, "resize": [16], "fit": "pad", "augment": "/mine.py:darker",
      "class_weights": "balanced"}),
    ("./pets", {"resize": (6, 8)}, {"data": ["/pets"], "limit": None, "resize": [6, 8]}),
    (Path("a.npz"), {}, {"data": ["/a.npz"], "limit": None}),
    (["a.npz", Path("b_test.npz")], {"limit": 30}, {"data": ["/a.npz", "/b_test.npz"], "limit": 30}),
    ("t.csv", {"target": "price"}, {"data": ["/t.csv"], "target": "price", "limit": None}),
    ("a.txt", {"window": 8}, {"data": ["/a.txt"], "window": 8, "limit": None}),
    ("mine.py:arrays", {}, {"data": ["/mine.py:arrays"], "limit": None}),
    ("mine.py:ready", {"augment": "mine.py:darker"},
     {"data": ["/mine.py:ready"], "limit": None, "augment": "/mine.py:darker"})])
def test_what_was_loaded_is_loaded_again_from_anywhere(folder, monkeypatch, source, options, expected):
    data = load(source, **options)
    whole = lambda value: f"{folder}{value}" if isinstance(value, str) and value.startswith("/") else value
    expected = {key: [whole(each) for each in value] if key == "data" else whole(value) for key, value in expected.items()}
    assert data.source == expected and list(data.source) == list(expected)
    assert json.loads(json.dumps(data.source)) == expected
    monkeypatch.chdir("/")
    others = dict(data.source)
    again = load(others.pop("data"), **others)
    assert again.source == data.source and (again.name, again.task, again.pad) == (data.name, data.task, data.pad)
    for name in ("inputs", "targets", "mean", "std", "class_weights"):
        assert np.array_equal(getattr(again, name), getattr(data, name)), name
    assert (again.augment is None) == (data.augment is None) == ("augment" not in data.source)


@pytest.mark.parametrize("source, expected", [("hf:cifar10", "hf:cifar10"), ("hf:./pets", "hf:{}/pets"),
                                              ("hf:digits", "hf:digits")])
def test_names_on_the_hub_stay_and_folders_become_absolute(folder, monkeypatch, source, expected):
    monkeypatch.setattr(sources, "hugging_face", lambda name, **options: load("digits"))
    assert load(source).source == {"data": [expected.format(folder)], "limit": None}


def test_arrays_come_from_nowhere():
    data = from_arrays("mine", *arrays())
    assert data.source == {} and data._replace(name="other").source == {}


def test_a_function_is_no_part_of_the_source(folder):
    halve = lambda key, inputs: inputs / 2
    data = load("digits", augment=halve)
    assert data.augment is halve and data.source == {"data": ["digits"], "limit": None}


def test_balanced_weights_are_those_of_the_train_split():
    data = load("digits", class_weights="balanced")
    assert np.array_equal(data.class_weights, balanced(load("digits"))) and load("digits").class_weights is None


@pytest.mark.parametrize("options, message", [
    ({"class_weights": "even"}, "class_weights 'even'; it must be one of equal, balanced"),
    ({"augment": 3}, r"augment 3; it must be a function \(key, inputs\) -> inputs, or its place"),
    ({"augment": "mine.py:darkr"}, "no callable 'darkr'; did you mean 'darker'"),
    ({"augment": "darker"}, "no file or module")])
def test_wrong_weights_and_augmentations(folder, options, message):
    with pytest.raises(ValueError, match=message) as error:
        load("nothing.npz", **options)
    assert "\n" not in str(error.value)


def test_weights_are_for_classes():
    with pytest.raises(ValueError, match="diabetes: weights of classes are for one class per example"):
        load("diabetes", class_weights="balanced")


def test_an_augmentation_is_tried_on_a_batch(folder):
    check_augment(load("digits"), 7)
    check_augment(load("digits", augment="mine.py:darker"), 7)
    with pytest.raises(ValueError, match=r"smaller returned float32 \(7, 7, 8, 1\) for float32 \(7, 8, 8, 1\)"):
        check_augment(load("digits", augment="mine.py:smaller"), 7)


ROWS = np.random.default_rng(0).normal(size=(60, 5))


@pytest.mark.parametrize("data, lines", [
    (load("digits"), ["Dataset 'digits'", "  images: 1797 of 8x8x1 uint8", "  classes: 10, task classification",
                      "  splits: train 647, valid 648, holdout 143, test 359"]),
    (from_arrays("a", ROWS, ROWS[:, :2]), ["Dataset 'a'", "  features: 60 of 5 float32", "  values: 2, task regression",
                                           "  splits: train 21, valid 22, holdout 5, test 12"]),
    (from_arrays("a", ROWS, (ROWS > 0).astype(int)), ["Dataset 'a'", "  features: 60 of 5 float32",
                                                      "  labels: 5, task multilabel",
                                                      "  splits: train 21, valid 22, holdout 5, test 12"])])
def test_it_shows_itself_in_a_few_lines(data, lines):
    assert repr(data).splitlines() == lines and str(data) == repr(data)
