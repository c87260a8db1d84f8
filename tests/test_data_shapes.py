"""Data that is not labelled images: features, tokens, values, labels, classes of pixels; texts; what scikit-learn has."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from dnas.data import SPLITS, augment, balanced, describe, from_arrays, load, normalise, sources
from dnas.data.augmentation import augment_by
from dnas.data.dataset import with_task
from dnas.task import task_of
from tests.test_data import arrays

RNG = np.random.default_rng(0)
N = 60
ROWS, TOKENS = RNG.normal(size=(N, 5)), RNG.integers(0, 9, (N, 7))
IMAGES = RNG.integers(0, 256, (N, 6, 4, 3)).astype(np.uint8)


def assert_divided(data):
    assert tuple(data.splits) == SPLITS and all(len(index) for index in data.splits.values())
    assert np.array_equal(np.sort(np.concatenate(list(data.splits.values()))), np.arange(len(data.inputs)))


@pytest.mark.parametrize("x, y, kind, task, outputs, dtype", [
    (ROWS, np.arange(N) % 3, "features", "classification", (3,), np.int32),
    (ROWS[:, 0], RNG.normal(size=N), "features", "regression", (1,), np.float32),
    (ROWS, RNG.normal(size=(N, 2)), "features", "regression", (2,), np.float32),
    (ROWS, RNG.integers(0, 2, (N, 4)), "features", "multilabel", (4,), np.float32),
    (TOKENS, np.arange(N) % 2 == 1, "tokens", "classification", (2,), np.int32),
    (TOKENS, (TOKENS + 1) % 9, "tokens", "next-token", (7, 9), np.int32),
    (TOKENS, RNG.normal(size=N), "tokens", "regression", (1,), np.float32),
    (IMAGES, RNG.integers(0, 3, (N, 6, 4)), "images", "dense", (6, 4, 3), np.int32),
    (IMAGES[..., 0], RNG.normal(size=(N, 2)), "images", "regression", (2,), np.float32),
    (IMAGES, RNG.integers(0, 2, (N, 4)), "images", "multilabel", (4,), np.float32)])
def test_inputs_and_targets_of_any_shape(x, y, kind, task, outputs, dtype):
    data = from_arrays("mine", x, y)
    assert_divided(data)
    assert (data.kind, data.task, data.outputs, data.classes) == (kind, task, outputs, outputs[-1])
    assert data.targets.dtype == dtype and np.array_equal(data.targets, y.astype(dtype)) and task_of(data).name == task
    assert len(data.image) == data.inputs.ndim - 1 and data.pad == (0, 0)
    inputs = augment(None, jnp.asarray(data.inputs), pad=0, flip=False)
    normal = np.asarray(normalise(inputs, data.mean, data.std))
    if kind == "tokens":
        assert np.array_equal(normal, x) and normal.dtype == np.int32 and data.vocabulary == 9
    else:
        train = normal[data.splits["train"]]
        np.testing.assert_allclose(train.mean(tuple(range(train.ndim - 1))), 0, atol=1e-5)
        np.testing.assert_allclose(train.std(tuple(range(train.ndim - 1))), 1, rtol=1e-4)
        assert data.vocabulary is None
    text = describe(data)
    assert "in two splits" in text and text.count("\n") in (2, 3)


@pytest.mark.parametrize("data, phrases", [
    (from_arrays("a", ROWS, np.arange(N) % 3), ["60 rows of 5 numbers, 3 classes, standardised", "20 rows of each class",
                                                "no row is in two"]),
    (from_arrays("a", ROWS, ROWS[:, :2], standardise=False), ["2 targets, as they are", "targets of the train split: mean"]),
    (from_arrays("a", TOKENS, (TOKENS + 1) % 9), ["420 tokens in 60 windows of 7, vocabulary 9, the next token of each"]),
    (from_arrays("a", IMAGES, np.arange(N * 24).reshape(N, 6, 4) % 3), ["60 images 6x4x3 uint8, 3 classes of pixels",
                                                                        "33.3 % to 33.3 % of the pixels"]),
    (from_arrays("a", ROWS, np.stack([np.arange(N) % 2, np.arange(N) % 4 == 0], 1)), ["2 labels", "25.0 % to 50.0 % of"])])
def test_descriptions(data, phrases):
    for phrase in phrases:
        assert phrase in describe(data)


def test_splits_without_classes_are_a_fixed_permutation():
    data, other = (from_arrays("mine", ROWS, y) for y in (np.arange(N, dtype=float), RNG.normal(size=N)))
    for part in SPLITS:
        assert np.array_equal(data.splits[part], other.splits[part])
    assert [len(data.splits[part]) for part in SPLITS] == [21, 22, 5, 12]
    assert 20 < data.targets[data.splits["test"]].mean() < 40  # not the first or the last ones
    limited = from_arrays("mine", ROWS, np.arange(N, dtype=float), limit=20)
    assert_divided(limited)
    assert np.array_equal(limited.targets[limited.splits["test"]], data.targets[data.splits["test"]])
    tested = from_arrays("mine", ROWS, np.arange(N, dtype=float), ROWS[:9], np.arange(9.0))
    assert np.array_equal(tested.splits["test"], np.arange(60, 69))


def test_what_does_not_vary():
    data = from_arrays("mine", np.stack([np.full(N, 1e6), np.arange(N) * 1e-9, np.zeros(N)], 1), np.arange(N) % 2)
    assert data.std[0] == data.std[2] == 1 and 1e-9 < data.std[1] < 1e-7
    assert np.abs(normalise(data.inputs, data.mean, data.std)).max() < 3
    plain = from_arrays("mine", ROWS, np.arange(N) % 2, standardise=False)
    np.testing.assert_allclose(normalise(plain.inputs, plain.mean, plain.std), ROWS, rtol=1e-6)


def test_sequences_of_features_have_to_be_called_that():
    x, y = RNG.normal(size=(N, 6, 4)), np.arange(N) % 2
    assert from_arrays("mine", x, y).image == (6, 4, 1)
    data = from_arrays("mine", x, y, kind="features")
    assert (data.kind, data.image, data.mean.shape) == ("features", (6, 4), (4,))


@pytest.mark.parametrize("x, y, options, message", [
    (ROWS, np.arange(N) % 2, {"pad": 1}, "pad 1 and flip False are for images .* this is features"),
    (TOKENS, np.arange(N) % 2, {"flip": True}, "this is tokens"),
    (IMAGES, np.arange(N * 24).reshape(N, 6, 4) % 3, {"pad": 1}, "classes of pixels, which crops would not move along"),
    (TOKENS, np.arange(N) % 2, {"standardise": True}, "standardise is for images and features"),
    (np.where(ROWS > 2, np.nan, ROWS), np.arange(N) % 2, {}, "NaN or infinite features, the first in row"),
    (ROWS, np.arange(N - 1.0), {}, "59 labels for 60 rows"), (TOKENS, np.arange(N - 1.0), {}, "59 labels for 60 sequences"),
    (ROWS, np.arange(N) + 0.5, {"task": "classification"}, "dtype float64; labels must be integers"),
    (ROWS, np.arange(N) % 2, {"class_names": ["only"]}, "label 1 of example 1; there are 1 classes"),
    (ROWS, np.arange(N, dtype=float), {"limit": 3}, "3 rows outside .* split empty; it needs at least 6$"),
    (ROWS, np.arange(N, dtype=float), {"limit": 49}, "limit 49, but it has 48 rows outside")])
def test_what_does_not_fit(x, y, options, message):
    with pytest.raises(ValueError, match=f"^mine: .*{message}") as error:
        from_arrays("mine", x, y, **options)
    assert "\n" not in str(error.value)


def test_a_test_set_of_another_kind():
    with pytest.raises(ValueError, match=r"mine, test set: rows of \(4,\) float32; the others are \(5,\)"):
        from_arrays("mine", ROWS, np.arange(N) % 2, ROWS[:, :4], np.arange(N) % 2)
    with pytest.raises(ValueError, match="mine, test set: label 0 of example 0 is 0.5"):
        from_arrays("mine", ROWS, RNG.integers(0, 2, (N, 4)), ROWS, np.full((N, 4), 0.5))


def test_another_task_for_the_same_data():
    data = from_arrays("mine", ROWS, np.arange(N) % 2)
    assert with_task(data, None) is data and with_task(data, "classification") is data
    with pytest.raises(ValueError, match="mine: task regression does not fit its targets"):
        with_task(data, "regression")
    with pytest.raises(ValueError, match="mine: y has shape"):
        with_task(data, "dense")


def test_weights_of_classes_are_for_classes():
    with pytest.raises(ValueError, match="mine: weights of classes are for one class per example; its task is regression"):
        balanced(from_arrays("mine", ROWS, ROWS[:, 0]))


def test_identical_rows_with_different_targets():
    x, y = ROWS.copy(), np.arange(N, dtype=float)
    x[1] = x[0]
    assert "2 are identical to one with another target" in describe(from_arrays("mine", x, y))
    y[1] = y[0]
    assert "identical to one" not in describe(from_arrays("mine", x, y))


def test_augmentation_of_your_own_takes_any_inputs():
    features = augment_by(lambda key, rows: rows * 2, None, jnp.ones((3, 4)))
    assert features.shape == (3, 4) and (features == 2).all()
    tokens = augment_by(lambda key, tokens: tokens[:, ::-1], None, jnp.arange(6).reshape(2, 3))
    assert tokens.dtype == jnp.int32 and tokens.tolist() == [[2, 1, 0], [5, 4, 3]]
    with pytest.raises(ValueError, match=r"returned float32 \(2, 3\) for int32 \(2, 3\); it must return tokens"):
        augment_by(lambda key, tokens: tokens * 0.5, None, jnp.arange(6).reshape(2, 3))


@pytest.mark.parametrize("x, y", [(ROWS, ROWS[:, :2]), (TOKENS, (TOKENS + 1) % 9), (ROWS, RNG.integers(0, 2, (N, 4)))])
def test_npz_and_factories(tmp_path, x, y):
    np.savez(tmp_path / "a.npz", x=x, y=y)
    (tmp_path / "mine.py").write_text(f"import numpy as np\ndef data():\n    a = np.load({str(tmp_path / 'a.npz')!r})\n"
                                      "    return a['x'], a['y']\n")
    for source in (str(tmp_path / "a.npz"), f"{tmp_path / 'mine.py'}:data"):
        data, expected = load(source), from_arrays("a", x, y)
        assert data.task == expected.task and np.array_equal(data.inputs, expected.inputs)
        assert np.array_equal(data.targets, expected.targets) and data.splits.keys() == expected.splits.keys()


def test_options_of_other_sources(tmp_path):
    np.savez(tmp_path / "a.npz", x=arrays()[0], y=arrays()[1])
    (tmp_path / "a.txt").write_text("abc" * 500)
    npz, text = str(tmp_path / "a.npz"), str(tmp_path / "a.txt")
    for source, options, message in [
            (npz, {"target": "y"}, "target y is for .csv files only"),
            (npz, {"window": 3}, "window 3 is for .txt files only"), (npz, {"task": "regresion"}, "mean 'regression'"),
            (text, {"standardise": True}, "standardise True is for images and features"),
            (text, {"task": "classification"}, "y has shape"), ("digits", {"task": "dense"}, r"labels must be \[N, H, W\]")]:
        with pytest.raises(ValueError, match=message):
            load(source, **options)
    assert load(npz, task="regression").task == "regression"


def test_digits_are_those_of_scikit_learn(monkeypatch):
    raw = datasets.load_digits()
    data = load("digits")
    assert np.array_equal(data.inputs[..., 0], np.rint(raw.images * (255 / 16))) and np.array_equal(data.targets, raw.target)
    monkeypatch.setattr(sources, "_carried", lambda name, delimiter: None)
    again = load("digits")
    assert np.array_equal(again.inputs, data.inputs) and np.array_equal(again.targets, data.targets)


def test_diabetes_is_that_of_scikit_learn(monkeypatch):
    x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    data = load("diabetes")
    assert np.array_equal(data.inputs, x.astype(np.float32)) and np.array_equal(data.targets, y.astype(np.float32))
    assert (data.task, data.classes, data.image, data.kind) == ("regression", 1, (10,), "features")
    assert "diabetes: 442 rows of 10 numbers, 1 target, standardised" in describe(data)
    monkeypatch.setattr(sources, "_carried", lambda name, delimiter: None)
    assert np.array_equal(load("diabetes").inputs, data.inputs)


def write_text(path, characters=2000):
    """A text in which every character names its place: no two are alike."""
    path.write_text("".join(chr(0x4e00 + i) for i in range(characters)), encoding="utf-8")
    return str(path)


def test_splits_of_a_text_share_no_characters(tmp_path):
    data = load(write_text(tmp_path / "a.txt"), window=16)
    assert_divided(data)
    assert (data.task, data.kind, data.outputs, data.vocabulary) == ("next-token", "tokens", (16, 2000), 2000)
    assert np.array_equal(data.targets, data.inputs + 1)
    seen = [set(np.stack([data.inputs[rows], data.targets[rows]]).reshape(-1)) for rows in data.splits.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) > 1900
    assert len(np.unique(data.inputs)) == data.inputs.size  # windows do not overlap
    limited = load(str(tmp_path / "a.txt"), window=16, limit=40)
    assert [len(limited.splits[part]) for part in SPLITS] == [18, 18, 4, len(data.splits["test"])]
    for part in SPLITS:
        kept = limited.inputs[limited.splits[part]]
        assert np.array_equal(kept, data.inputs[data.splits[part]][:len(kept)])


def test_characters_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffab\nb\\ é".encode() * 200)
    data = load(str(tmp_path / "a.txt"), window=8)
    assert data.class_names == ("\\n", " ", "\\", "a", "b", "é", "\\ufeff") and data.inputs.dtype == np.int32
    assert "".join(data.class_names[k] for k in data.inputs[0, :4]) == "ab\\nb"
    assert (data.mean, data.std) == (0, 1)


@pytest.mark.parametrize("content, options, message", [
    (b"ab\xffc", {}, "byte 2 is not UTF-8"), (b"", {}, "0 different characters"), (b"aaaa", {}, "1 different characters"),
    (b"abc" * 20, {}, "60 characters leave 5 for the holdout split, which needs at least 65 for a window of 64"),
    (b"abc" * 900, {"window": 0}, "window 0; it must be at least 1"),
    (b"abc" * 900, {"window": 2.5}, "window 2.5; it must be a whole"),
    (b"abc" * 900, {"limit": 999}, "limit 999, but it has 33 windows"),
    (b"abc" * 900, {"limit": 2}, "leave the .* split empty")])
def test_bad_texts(tmp_path, content, options, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / 'a.txt'))}.*{message}") as error:
        load(str(tmp_path / "a.txt"), **options)
    assert "\n" not in str(error.value)
