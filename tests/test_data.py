"""Data sets: every accepted form, every bad input, and the splits."""

import gzip
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dnas.data import DATASETS, SPLITS, Dataset, describe, load, split

REAL = Path(os.environ.get("DNAS_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="DNAS_DATA names no folder of data")


def arrays(images=60, shape=(8, 8, 3), classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (images, *shape)).astype(np.uint8), np.arange(images) % classes


def write_npz(path, images=60, **changes):
    x, y = arrays(images)
    members = {"x": x, "y": y} | changes
    np.savez(path, **{name: value for name, value in members.items() if value is not None})
    return str(path)


def idx_bytes(array):
    header = [0x0800 + array.ndim, *array.shape]
    return b"".join(n.to_bytes(4, "big") for n in header) + array.astype(np.uint8).tobytes()


def write_idx(folder, zipped=True, dot="-", shape=(6, 6)):
    folder.mkdir()
    for stem, n in (("train", 60), ("t10k", 12)):
        for kind, rank, array in zip(("images", "labels"), (3, 1), arrays(n, shape)):
            data, name = idx_bytes(array), f"{stem}-{kind}{dot}idx{rank}-ubyte"
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    return folder


def write_cifar(folder):
    folder.mkdir()
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        x, y = arrays(30, (3, 32, 32))
        records = np.concatenate([y[:, None].astype(np.uint8), x.reshape(30, -1)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def assert_whole(data):
    """Splits are sorted, disjoint, complete and not empty; moments are those of the train split."""
    assert tuple(data.splits) == SPLITS
    index = np.concatenate(list(data.splits.values()))
    assert np.array_equal(np.sort(index), np.arange(len(data.inputs)))
    for part in data.splits.values():
        assert part.dtype == np.int32 and len(part) and np.all(np.diff(part) > 0)
    assert data.targets.dtype == (np.float32 if data.task == "regression" else np.int32)
    assert data.targets.shape == (len(data.inputs),)
    assert data.inputs.dtype in (np.uint8, np.float32) and data.inputs.flags.c_contiguous
    train = data.inputs[data.splits["train"]] / (255 if data.inputs.dtype == np.uint8 else 1)
    axes = tuple(range(train.ndim - 1))
    np.testing.assert_allclose(data.mean, train.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(data.std, train.std(axes), rtol=1e-4)


@pytest.mark.parametrize("name", DATASETS)
def test_named(name):
    data = load(name)
    assert_whole(data)
    assert data.name == name and DATASETS[name].__doc__
    assert data.classes == (1 if data.task == "regression" else len(np.unique(data.targets)))


def test_digits():
    data = load("digits")
    assert data.image == (8, 8, 1) and data.inputs.max() == 255 and (data.pad, data.flip) == ((1, 1), False)
    assert [len(data.splits[part]) for part in SPLITS] == [647, 648, 143, 359]
    assert data.splits["train"][:4].tolist() == [3, 6, 9, 15]
    assert "digits: 1797 images 8x8x1 uint8, 10 classes" in describe(data)
    assert "train 647, valid 648, holdout 143, test 359; random crops that lose up to 1 of 8 rows and 1 of 8 " \
        "columns, no flips" in describe(data)


def test_split_is_stratified_and_fixed():
    labels = np.random.default_rng(5).integers(0, 4, 1000)
    parts, test = split(labels), np.arange(900, 1000)
    for part, share in zip(SPLITS, (0.36, 0.36, 0.08, 0.2)):
        expected = np.bincount(labels) * share
        assert np.all(np.abs(np.bincount(labels[parts[part]], minlength=4) - expected) <= 1)
        assert np.array_equal(parts[part], split(labels)[part])
    given = split(labels, test)
    assert np.array_equal(given["test"], test)
    alone = split(labels[:900], np.array([], int))
    assert all(np.array_equal(given[part], alone[part]) for part in ("train", "valid", "holdout"))


def test_limit_keeps_the_test_set_and_the_shares():
    whole, limited = load("digits"), load("digits", limit=300)
    assert_whole(limited)
    assert len(limited.targets) == 300 + 359
    assert np.array_equal(whole.inputs[whole.splits["test"]], limited.inputs[limited.splits["test"]])
    counts = np.bincount(np.delete(limited.targets, limited.splits["test"]))
    assert counts.sum() == 300 and counts.min() >= 28
    full = load("digits", limit=1797 - 359)
    assert all(np.array_equal(full.splits[part], whole.splits[part]) for part in SPLITS)


def test_npz(tmp_path):
    x, y = arrays()
    data = load(write_npz(tmp_path / "a.npz"))
    assert_whole(data)
    assert data.name == "a" and np.array_equal(data.inputs, x) and np.array_equal(data.targets, y)
    assert (data.classes, data.image, data.pad, data.flip) == (3, (8, 8, 3), (0, 0), False)


@pytest.mark.parametrize("change, dtype", [
    (lambda x: x.astype(np.int64), np.uint8),
    (lambda x: x[..., 0], np.uint8),
    (lambda x: x > 100, np.uint8),
    (lambda x: x / 7.0, np.float32),
    (lambda x: (x / 256).astype(np.float16), np.float32)])
def test_npz_of_other_pixels(tmp_path, change, dtype):
    x = change(arrays()[0])
    data = load(write_npz(tmp_path / "a.npz", x=x, y=arrays()[1].astype(np.uint8)))
    assert_whole(data)
    assert data.inputs.dtype == dtype and data.inputs.shape == (60, 8, 8, 3 if x.ndim == 4 else 1)
    np.testing.assert_allclose(data.inputs.reshape(x.shape), x.astype(np.float64), rtol=1e-6)


def test_npz_with_test_set(tmp_path):
    x, y = arrays(15, seed=1)
    data = load(write_npz(tmp_path / "a.npz", x_test=x, y_test=y))
    assert_whole(data)
    assert np.array_equal(data.inputs[data.splits["test"]], x) and np.array_equal(data.targets[60:], y)


def test_pieces(tmp_path):
    x, y = arrays(60, (32, 32, 3))
    parts = np.split(np.arange(60), 3)
    names = [str(tmp_path / f"cifar_{name}.npz") for name in ("2", "test", "1")]
    for name, part in zip(names, parts):
        np.savez(name, x=x[part], y=y[part])
    data, folder = load(names), load(str(tmp_path))
    for found, order in ((data, (0, 2, 1)), (folder, (2, 0, 1))):
        assert_whole(found)
        assert np.array_equal(found.inputs, x[np.concatenate([parts[k] for k in order])])
        assert np.array_equal(found.splits["test"], np.arange(40, 60))
    assert (data.name, data.pad, data.flip) == ("cifar_2 and 2 more", (4, 4), True)
    assert (folder.name, folder.pad, folder.flip) == (tmp_path.name, (4, 4), True)


@pytest.mark.parametrize("name, zipped, dot, shape, pad, flip", [
    ("mnist", False, "-", (28, 28), (2, 2), False), ("mnist", True, ".", (28, 28), (2, 2), False),
    ("fashion_mnist", True, "-", (28, 28), (4, 4), True), ("fashion_mnist", True, "-", (6, 6), (0, 0), True)])
def test_idx(tmp_path, name, zipped, dot, shape, pad, flip):
    data = load(str(write_idx(tmp_path / name, zipped, dot, shape)))
    assert_whole(data)
    assert (data.name, data.image, data.pad, data.flip) == (name, (*shape, 1), pad, flip)
    assert np.array_equal(data.inputs[:60, ..., 0], arrays(60, shape)[0]) and len(data.splits["test"]) == 12


def test_cifar_binary(tmp_path):
    data = load(str(write_cifar(tmp_path / "bin")))
    assert_whole(data)
    assert np.array_equal(data.inputs[30:60], arrays(30, (3, 32, 32))[0].transpose(0, 2, 3, 1))
    assert (data.pad, data.flip, len(data.splits["test"])) == ((4, 4), True, 30)


FACTORIES = """
import numpy as np
from dnas.data import from_arrays
x, y = np.ones((60, 4, 4), np.float32), np.arange(60) % 2
def two(): return x, y
def four(): return x, y, x[:5], y[:5]
def ready(): return from_arrays("mine", x, y, flip=True, pad=3)
def number(): return 7
def three(): return x, y, x
def half(): return ready()._replace(splits={"train": y})
"""


@pytest.mark.parametrize("factory, test", [("two", 12), ("four", 5), ("ready", 12)])
def test_factories(tmp_path, monkeypatch, factory, test):
    (tmp_path / "my_images.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    for source in (f"my_images:{factory}", f"{tmp_path}/my_images.py:{factory}"):
        data = load(source)
        assert isinstance(data, Dataset) and len(data.splits["test"]) == test
        assert data.name == ("mine" if factory == "ready" else f"my_images:{factory}")
        assert data.std == np.float32(1e-5) and data.flip == (factory == "ready")


@pytest.mark.parametrize("source, message", [
    ("my_images.py:twos", "no callable 'twos'; did you mean 'two'"),
    ("my_images.py:x", "no callable 'x'"),
    ("my_images.py:number", "returned int; a factory must return"),
    ("my_images.py:three", "returned a tuple of 3"),
    ("my_images.py:half", "lacks examples for valid, holdout, test"),
    ("absent.py:two", "no file 'absent.py'"),
    ("absent_module:two", "No module named 'absent_module'"),
    ("some/where:two", "no file or module 'some/where'")])
def test_bad_factories(tmp_path, monkeypatch, source, message):
    (tmp_path / "my_images.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(source)


def test_limit_of_a_ready_dataset(tmp_path):
    (tmp_path / "my_images.py").write_text(FACTORIES)
    with pytest.raises(ValueError, match="limit 10 is not for a ready Dataset"):
        load(f"{tmp_path}/my_images.py:ready", limit=10)


def test_an_array_that_claims_more_than_there_is_memory_for(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for name in "xy":
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 10**6)})
            file.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(ValueError, match="a.npz: array x is truncated or corrupt"):
        load(str(tmp_path / "a.npz"))


def with_bad_pixels():
    x = arrays()[0].astype(np.float32)
    x[7, 0, 0, 0], x[9, 1, 1] = np.nan, np.inf
    return x


@pytest.mark.parametrize("changes, message", [
    ({"y": None}, "no array y; its arrays are x, and it needs x"),
    ({"x": None, "y": None, "z": np.ones(3)}, "no array x or y; its arrays are z"),
    ({"x": np.array([{}, []], object)}, "array x holds pickled objects, which are never loaded"),
    ({"x": with_bad_pixels()}, "4 NaN or infinite pixels, the first in image 7"),
    ({"x": np.full((60, 4, 4), 1e300)}, "960 NaN or infinite pixels"),
    ({"x": np.full((60, 4, 4), 256)}, "integers 256..256; integer pixels must be 0..255"),
    ({"x": np.full((60, 4, 4), -1)}, "integers -1..-1"),
    ({"x": np.full((60, 4, 4), "a")}, "dtype <U1; pixels must be uint8 or float"),
    ({"x": np.ones(())}, "60 labels for 1 rows"),
    ({"x": np.ones((60, 4, 0))}, "at least one image"),
    ({"x": np.arange(-1, 59)[:, None]}, "integers -1..58; tokens must be 0 or more"),
    ({"x": np.ones((60, 4), bool)}, "tokens must be integers"),
    ({"x": np.ones((60, 4, 0, 3))}, "at least one pixel"),
    ({"x": np.ones((0, 4, 4)), "y": np.ones(0, int)}, "at least one image"),
    ({"y": np.arange(59) % 3}, "59 labels for 60 images"),
    ({"y": np.ones((60, 1), int)}, r"shape \(60, 1\); labels must be \[60\]"),
    ({"y": np.ones(60)}, "every target is 1; there is nothing to predict"),
    ({"y": np.full(60, "a")}, "dtype <U1; labels must be integers"),
    ({"y": np.arange(60) - 1}, "label -1 of example 0"),
    ({"y": np.arange(60, dtype=np.uint64) + 2**63}, "label 9223372036854775808 of example 0"),
    ({"y": np.arange(60) + 1}, "label 60 among only 60 labels"),
    ({"y": np.full(60, 2)}, "every label is 2; a set needs at least two classes"),
    ({"y": np.arange(60) // 2}, "leave the holdout split empty"),
    ({"x_test": arrays(3)[0]}, "y_test is missing"),
    ({"y_test": arrays(3)[1]}, "x_test is missing"),
    ({"x_test": arrays(3)[0], "y_test": np.arange(4)}, "test set: 4 labels for 3 images"),
    ({"x_test": arrays(3, (8, 9, 3))[0], "y_test": arrays(3)[1]}, r"test set: images of \(8, 9, 3\) uint8"),
    ({"x_test": arrays(3)[0] / 255, "y_test": arrays(3)[1]}, "float32; the others are .* uint8"),
    ({"x_test": arrays(3)[0], "y_test": np.array([0, 1, 3])}, "label 3 of example 2; there are 3 classes, 0..2")])
def test_bad_npz(tmp_path, changes, message):
    path = write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=f"^{re.escape(path)}.*{message}") as error:
        load(path)
    assert "\n" not in str(error.value)


def cut(data):
    return data[:len(data) // 2]


def npy(_):
    np.save(file := io.BytesIO(), np.ones(3))
    return file.getvalue()


def again(change):
    """The change, done to what is compressed."""
    return lambda data: gzip.compress(change(gzip.decompress(data)))


@pytest.mark.parametrize("change, message", [
    (cut, "not a whole .npz"),
    (npy, "a single array"),
    (lambda data: b"", "not a whole .npz"),
    (lambda data: b"abc", "not a whole .npz"),
    (lambda data: data[:900] + b"\0\0\0" + data[903:], "array x is truncated or corrupt")])
def test_corrupt_npz(tmp_path, change, message):
    path = Path(write_npz(tmp_path / "a.npz"))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"a.npz: .*{message}"):
        load(str(path))


def test_bad_pieces(tmp_path):
    a = write_npz(tmp_path / "a.npz")
    other = write_npz(tmp_path / "b.npz", x=np.ones((60, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"b.npz: images of \(8, 8, 3\) float32; those of .*a.npz are"):
        load([a, other])
    with pytest.raises(ValueError, match="every piece has 'test' in its name"):
        load([write_npz(tmp_path / "test_1.npz"), write_npz(tmp_path / "test_2.npz")])
    with pytest.raises(ValueError, match="no file, folder or data set .*c.npz"):
        load([a, str(tmp_path / "c.npz")])


@pytest.mark.parametrize("name, change, message", [
    ("train-images-idx3-ubyte.gz", cut, "truncated or corrupt gz"),
    ("train-images-idx3-ubyte.gz", lambda data: data[:40] + bytes(4) + data[44:], "truncated or corrupt gz"),
    ("t10k-labels-idx1-ubyte.gz", gzip.decompress, "truncated or corrupt gz"),
    ("t10k-images-idx3-ubyte.gz", again(cut), r"224 bytes; .* announces \[12, 6, 6\], which takes 448"),
    ("t10k-images-idx3-ubyte.gz", again(lambda data: data[:3]), "3 bytes; the header of an idx3 file"),
    ("train-labels-idx1-ubyte.gz", again(lambda data: b"\0" + data), "magic number 8; an idx1 file"),
    ("train-labels-idx1-ubyte.gz", again(lambda _: idx_bytes(np.ones(59))), "59 labels for 60 images"),
    ("train-labels-idx1-ubyte.gz", None, "no train-labels-idx1-ubyte, plain or .gz")])
def test_bad_idx(tmp_path, name, change, message):
    path = write_idx(tmp_path / "mnist") / name
    data = path.read_bytes()
    path.unlink()
    if change:
        path.write_bytes(change(data))
    with pytest.raises(ValueError, match=f"{name if change else 'mnist'}: .*{message}"):
        load(str(tmp_path / "mnist"))


@pytest.mark.parametrize("name, change, message", [
    ("data_batch_2.bin", lambda data: data[:-1], "92189 bytes; .* whole records of 3073"),
    ("test_batch.bin", lambda data: b"", "0 bytes"),
    ("data_batch_1.bin", lambda data: b"\x0a" + data[1:], "label 10 of record 0; CIFAR-10 has 0..9"),
    ("test_batch.bin", None, "no test_batch.bin")])
def test_bad_cifar(tmp_path, name, change, message):
    path = write_cifar(tmp_path / "bin") / name
    data = path.read_bytes()
    path.unlink()
    if change:
        path.write_bytes(change(data))
    with pytest.raises(ValueError, match=f"{name if change else 'bin'}: .*{message}"):
        load(str(tmp_path / "bin"))


@pytest.mark.parametrize("source, message", [
    ("digit", "no file, folder or data set 'digit'; did you mean 'digits'"),
    ("Digits", "did you mean 'digits'"),
    ("nothing/here.npz", "no file, folder or data set 'nothing/here.npz'; give a name"),
    ([], "no data named"),
    (".", "holds note.md, note.txt; a folder of data has"),
    ("note.md", "note.md: not a .npz, .csv or .txt file")])
def test_bad_sources(tmp_path, monkeypatch, source, message):
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "note.md").write_text("hello")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(source)


@pytest.mark.parametrize("limit, message", [
    (1439, "limit 1439, but it has 1438 images"),
    (0, "limit 0; it must be at least 1"),
    (2.5, "limit 2.5; it must be a whole"),
    (10, "10 images outside the test set leave the .* split empty")])
def test_bad_limit(limit, message):
    with pytest.raises(ValueError, match=f"digits: {message}"):
        load("digits", limit=limit)


def test_import_is_light():
    code = "import sys, dnas.data; assert not {'jax', 'sklearn'} & set(sys.modules); dnas.data.augment"
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_data
def test_fashion_mnist():
    data = load(str(REAL / "fashion_mnist"))
    assert data.image == (28, 28, 1) and data.classes == 10 and (data.pad, data.flip) == ((4, 4), True)
    assert [len(data.splits[part]) for part in SPLITS] == [27000, 27000, 6000, 10000]
    assert np.all(np.bincount(data.targets[data.splits["train"]]) == 2700)
    np.testing.assert_allclose([data.mean[0], data.std[0]], [0.2860, 0.3530], atol=1e-3)


@needs_data
def test_cifar10_pieces():
    pieces = ("train_1", "train_2", "test_first1000")
    data = load([str(REAL / "cifar10" / f"cifar10_{piece}.npz") for piece in pieces], limit=5000)
    assert data.image == (32, 32, 3) and data.inputs.dtype == np.uint8 and (data.pad, data.flip) == ((4, 4), True)
    assert len(data.inputs) == 6000 and len(data.splits["test"]) == 1000
    np.testing.assert_allclose(data.mean, [0.4914, 0.4822, 0.4465], atol=0.01)
    whole = load(str(REAL / "cifar10"))
    assert len(whole.inputs) == 21000 and np.array_equal(whole.inputs[20000:], data.inputs[5000:])
