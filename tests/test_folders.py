"""Pictures from folders and Hugging Face's datasets: layouts, sizes, modes, whatever is wrong with them, leaks."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnas.api.training_plan import plan_training
from dnas.data import SPLITS, describe, load
from dnas.data.decode import MOST_PIXELS, File, decode
from dnas.data.summary import leaks
from launch.main import main
from tests.test_data import assert_whole

CLASSES = ("cat", "dog", "owl")


def pixels(seed, shape=(8, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def write_folder(folder, each=8, shape=(8, 8, 3), classes=CLASSES, seed=0):
    for k, name in enumerate(classes):
        for i in range(each):
            write(folder / name / f"{i:02}.png", pixels((seed, k, i), shape))
    return folder


def arrays_of(folder):
    return {path: np.asarray(Image.open(path)) for path in folder.rglob("*.png")}


def test_a_folder_of_classes(tmp_path):
    folder = write_folder(tmp_path / "pets")
    (folder / ".hidden").mkdir()
    (folder / "notes.txt").write_text("beside the classes")
    (folder / "cat" / "Thumbs.db").write_text("of a system")
    data = load(str(folder))
    assert_whole(data)
    assert (data.name, data.image, data.class_names, data.classes) == ("pets", (8, 8, 3), CLASSES, 3)
    assert (data.pad, data.flip, len(data.inputs)) == ((0, 0), False, 24)
    for file, image, label in zip(data.pictures.files, data.inputs, data.targets):
        assert np.array_equal(image, np.asarray(Image.open(file))) and f"/{CLASSES[label]}/" in file
    assert describe(data).splitlines()[2:] == [
        "pictures of 8x8 pixels, kept as they are", "images of cat 8, dog 8, owl 8", "no image is in two splits"]
    few = load(str(folder), limit=18)
    assert len(few.inputs) == 18 + len(data.splits["test"])
    assert np.array_equal(few.inputs[few.splits["test"]], data.inputs[data.splits["test"]])


@pytest.mark.parametrize("names, test, holdout", [(("train", "test"), 6, None), (("Training", "val"), 6, None),
                                                  (("train", "test", "valid"), 6, 9), (("train",), None, None)])
def test_a_folder_of_splits(tmp_path, names, test, holdout):
    for seed, name in enumerate(names):
        write_folder(tmp_path / "x" / name, each=(10, 2, 3)[seed], seed=seed)
    data = load(str(tmp_path / "x"))
    assert_whole(data)
    inside = lambda part, name: all(f"/{name}/" in data.pictures.files[row] for row in data.splits[part])
    if test:
        assert len(data.splits["test"]) == test and inside("test", names[1])
    if holdout:
        assert len(data.splits["holdout"]) == holdout and inside("holdout", "valid") and inside("train", "train")
        assert len(load(str(tmp_path / "x"), limit=9).splits["holdout"]) == 9
    assert data.class_names == CLASSES


def test_a_class_may_be_called_train(tmp_path):
    assert load(str(write_folder(tmp_path, classes=("bus", "train", "test")))).class_names == ("bus", "test", "train")


def test_sizes_are_brought_to_one(tmp_path):
    folder = write_folder(tmp_path, shape=(6, 8, 3))
    write(folder / "cat" / "large.jpg", pixels(0, (90, 40, 3)))
    data = load(str(folder))
    assert data.image == (32, 32, 3) and data.pad == (4, 4)
    assert "pictures of 6x8 to 90x40 pixels, brought to 32x32 (crop)" in describe(data)
    assert load(str(folder), resize=[10], fit="pad").image == (10, 10, 3)
    narrow = load(str(folder), resize=[24, 12])
    assert narrow.image == (24, 12, 3) and narrow.pad == (3, 0)
    assert load(str(write_folder(tmp_path / "same", shape=(65, 65, 3)))).image == (32, 32, 3)


@pytest.mark.parametrize("shape", [(12, 6), (6, 12)])
def test_fits(tmp_path, shape):
    """Three stripes along the longer side: crop keeps the middle one and half of the others, pad and stretch keep all."""
    tall = shape[0] > shape[1]
    stripes = np.repeat([0, 120, 240], 4).astype(np.uint8)
    grey = np.broadcast_to(stripes[:, None] if tall else stripes, shape)
    write(tmp_path / "a.png", grey)
    fitted = {fit: decode([File(str(tmp_path / "a.png"))], (6, 6), fit, 1)[0, ..., 0].astype(int)
              for fit in ("crop", "pad", "stretch")}
    along = lambda image: image[:, 3] if tall else image[3]
    assert along(fitted["crop"]).tolist() == [0, 120, 120, 120, 120, 240]
    assert np.all(np.diff(along(fitted["stretch"])) >= 0) and along(fitted["stretch"])[[0, -1]].tolist() == [0, 240]
    across = fitted["pad"] if tall else fitted["pad"].T
    assert not across[:, [0, 5]].any() and across[5, 2] == 240 and across[:, 1:4].any(1).sum() == 5


def test_modes(tmp_path):
    grey = load(str(write_folder(tmp_path / "grey", shape=(8, 8))))
    assert grey.image == (8, 8, 1) and np.array_equal(grey.inputs[0, ..., 0], pixels((0, 0, 0), (8, 8)))
    mixed = write_folder(tmp_path / "mixed", shape=(8, 8))
    write(mixed / "cat" / "colour.png", pixels(1))
    write(mixed / "cat" / "clear.png", np.zeros((8, 8, 4), np.uint8))
    Image.fromarray(pixels(2)).quantize(4).save(mixed / "owl" / "palette.png")
    Image.fromarray(pixels(3)).convert("CMYK").save(mixed / "owl" / "print.jpg")
    data = load(str(mixed))
    of = lambda name: data.inputs[[name in file for file in data.pictures.files].index(True)]
    assert data.image == (8, 8, 3) and np.array_equal(of("colour"), pixels(1)) and np.all(of("clear") == 255)
    assert np.array_equal(of("cat/00"), np.repeat(pixels((0, 0, 0), (8, 8, 1)), 3, -1))
    assert "; 1 with transparent parts, laid on white" in describe(data)


@pytest.mark.parametrize("end, options", [("webp", {"lossless": True}), ("bmp", {})])
def test_other_formats(tmp_path, end, options):
    folder = write_folder(tmp_path / "x")
    for name in ("cat", "dog"):
        for path in list((folder / name).iterdir()):
            write(path.with_suffix(f".{end}"), np.asarray(Image.open(path)), **options)
            path.unlink()
    data = load(str(folder))
    assert [Path(file).suffix for file in data.pictures.files] == 16 * [f".{end}"] + 8 * [".png"]
    assert np.array_equal(data.inputs, np.stack([pixels((0, k, i)) for k in range(3) for i in range(8)]))
    assert not data.pictures.skipped and "skipped" not in describe(data)


def test_files_that_are_not_pictures_are_skipped(tmp_path):
    folder = write_folder(tmp_path / "x")
    before = load(str(folder))
    (folder / "cat" / "00.png").rename(folder / "cat" / "00")  # its content says what it is
    (folder / "cat" / "notes.txt").write_text("hello")
    data = load(str(folder))
    assert describe(data).splitlines()[3] == f"skipped a file that is not a picture, {folder}/cat/notes.txt"
    (folder / "dog" / "BMI.md").write_text("BM is how such a picture begins")
    (folder / "owl" / "labels.csv").symlink_to("/nowhere/at/all")
    os.mkfifo(folder / "owl" / "queue")
    data = load(str(folder))
    assert describe(data).splitlines()[3] == f"skipped 4 files that are not pictures, the first {folder}/cat/notes.txt"
    assert np.array_equal(data.inputs, before.inputs)
    assert all(np.array_equal(data.splits[part], before.splits[part]) for part in SPLITS)


def test_a_photograph_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    array = np.zeros((8, 16), np.uint8)
    array[:, :8] = 255
    write(tmp_path / "a.jpg", array, exif=exif, quality=100)
    write(tmp_path / "a.webp", array, exif=exif, quality=100)
    for name in ("a.jpg", "a.webp"):
        turned = decode([File(str(tmp_path / name))], (16, 8), "stretch", 1)[0, ..., 0]
        assert turned[:7].min() > 200 and turned[9:].max() < 55
    folder = write_folder(tmp_path / "x", shape=(16, 8))
    (tmp_path / "a.jpg").rename(folder / "cat" / "a.jpg")
    assert load(str(folder)).image == (16, 8, 1)


def bomb(width, height):
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))


def webp_bomb():
    """An animation of one tiny frame on a canvas of 9000x9000 pixels."""
    chunk = lambda kind, data: kind + struct.pack("<I", len(data)) + data
    side, one = struct.pack("<I", 8999)[:3], struct.pack("<I", 1)[:3]
    frame = chunk(b"ANMF", bytes(6) + one + one + bytes(4) + encoded("webp", (2, 2, 3))[12:])
    return chunk(b"RIFF", b"WEBP" + chunk(b"VP8X", b"\2\0\0\0" + side + side) + chunk(b"ANIM", bytes(6)) + frame)


def encoded(kind, shape=(64, 64, 3)):
    Image.fromarray(pixels(0, shape)).save(file := io.BytesIO(), kind, lossless=True)
    return file.getvalue()


def deep():
    Image.fromarray(np.ones((8, 8), np.uint16)).save(file := io.BytesIO(), "png")
    return file.getvalue()


@pytest.mark.parametrize("content, message", [
    (bomb(50000, 50000), f"a picture of more than {MOST_PIXELS:,} pixels"),
    (bomb(9000, 9000), f"a picture of more than {MOST_PIXELS:,} pixels"),
    (bomb(2000, 2000), "a picture that cannot be read"), (encoded("jpeg")[:700], "cannot be read (image file is truncated"),
    (bomb(8, 8)[:40], "not a PNG"), (b"", "not a PNG, JPEG, WebP or BMP picture; convert it, or remove it"),
    (b"GIF89a" + bytes(100), "not a PNG, JPEG"), (b"\x80\x04cos\nsystem\n.", "not a PNG, JPEG"),
    (deep(), "16-bit grey, which 8 bits cannot hold"), (encoded("webp")[:300], "cannot be read (could not create decoder"),
    (encoded("bmp")[:900], "a picture that cannot be read (image file is truncated"),
    (webp_bomb(), f"a picture of more than {MOST_PIXELS:,} pixels"),
    (encoded("bmp")[:18] + struct.pack("<ii", 9000, 9000) + encoded("bmp")[26:], "a picture of more than")], ids=range(13))
def test_what_must_be_a_picture(tmp_path, content, message, capsys, recwarn):
    folder = write_folder(tmp_path / "x")
    (folder / "dog" / "bad.png").write_bytes(content)
    assert main(["search", "--data", str(folder), "--run", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith(f"dnas: error: {folder}/dog/bad.png: ") and message in err
    assert not recwarn.list and not (tmp_path / "run").exists()


def empty(folder):
    (folder / "zebra").mkdir()


def single(folder):
    for name in ("dog", "owl"):
        (folder / name).rename(folder.parent / name)


def only_notes(folder):
    (folder / "zebra").mkdir()
    (folder / "zebra" / "notes.txt").write_text("hello")


def other_format(folder):
    Image.fromarray(pixels(0)).save(folder / "dog" / "a.gif")


def unreadable_format(folder):
    (folder / "owl" / "a.HEIC").write_bytes(b"hello")


def queue(folder):
    os.mkfifo(folder / "cat" / "queue.png")


def dangling(folder):
    (folder / "cat" / "gone.png").symlink_to("/nowhere/at/all")


def nested(folder):
    write_folder(folder / "dog" / "puppies")


def strange(folder):
    (folder / "cat").rename(folder / "\x1b[31mcat")


def unknown_class(folder):
    write_folder(folder / "train")
    write_folder(folder / "test", classes=("cat", "cow"))


def beside(folder):
    write_folder(folder / "train")


def twice(folder):
    for name in ("train", "val", "valid"):
        write_folder(folder / name)


def flat(folder):
    for name in CLASSES:
        for path in (folder / name).iterdir():
            path.rename(folder / f"{name}{path.name}")
        (folder / name).rmdir()


@pytest.mark.parametrize("change, message", [
    (empty, "/zebra: no pictures in it; fill"),
    (only_notes, "/zebra: no pictures in it, only others such as notes.txt; fill"),
    (other_format, "/dog/a.gif: not a PNG, JPEG, WebP or BMP picture; convert it"),
    (unreadable_format, "/owl/a.HEIC: not a PNG"), (single, ": one class only, cat; a set needs at least two"),
    (queue, "/cat/queue.png: a picture that cannot be read (not a regular file)"),
    (dangling, "/cat/gone.png: a picture that cannot be read"),
    (nested, "/dog/puppies: a folder inside that of a class"),
    (strange, "class '\\x1b[31mcat' has a name that cannot be printed"),
    (unknown_class, "/cat: beside train there may be only test and val"), (beside, "/cat: beside train"),
    (twice, "exists too"), (flat, "a folder of data has a folder of pictures for each class")])
def test_folders_that_are_refused(tmp_path, change, message):
    folder = write_folder(tmp_path / "x")
    change(folder)
    with pytest.raises(ValueError) as error:
        load(str(folder))
    assert message in str(error.value) and str(error.value).startswith(str(folder)) and "\n" not in str(error.value)


def test_a_test_class_that_is_not_trained(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", classes=("cat", "cow"))
    with pytest.raises(ValueError, match="test/cow: not a class of .*train, which has cat, dog, owl$"):
        load(str(tmp_path))


@pytest.mark.parametrize("options, message", [
    ({"resize": [0]}, "resize 0 crop; it must be a side"), ({"resize": [5000]}, "1 to 4096"),
    ({"resize": [8, 8, 8]}, "resize 8 8 8"),
    ({"fit": "squash"}, "one of crop, pad, stretch"), ({"limit": 999}, "limit 999, but it has")])
def test_options_out_of_range(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(str(write_folder(tmp_path)), **options)


def test_more_than_there_is_memory_for(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 8}.get(name, 4096))
    with pytest.raises(ValueError, match="24 images of 64x64x3 take .* use a smaller resize or a limit"):
        load(str(write_folder(tmp_path)), resize=[64])


def test_leaks(tmp_path):
    folder = tmp_path / "x"
    write_folder(folder / "train", each=10)
    write_folder(folder / "test", each=4, seed=1)
    first = load(str(folder))
    assert leaks(first) == []
    source = first.pictures.files[first.splits["holdout"][0]]
    other = first.pictures.files[first.splits["train"][0]]
    (folder / "test" / "dog" / "copy.png").write_bytes(Path(source).read_bytes())
    write(folder / "test" / "owl" / "again.png", np.asarray(Image.open(other)), compress_level=0)
    write(folder / "test" / "owl" / "near.png", np.asarray(Image.open(other)) ^ 1)
    data = load(str(folder))
    found = leaks(data)
    assert [leak[:3] for leak in found] == [("test", "holdout", 1), ("test", "train", 1)]
    assert [data.pictures.files[row] for row in found[0].pairs[0]] == [str(folder / "test/dog/copy.png"), source]
    assert (f"identical images: 1 of test also in holdout, 1 of test also in train; such as {folder}/test/dog/copy.png and "
            f"{source}; 4 are identical to one of another class") in describe(data)


def test_leaks_of_arrays(tmp_path):
    x = pixels(0, (60, 4, 4, 1)).astype(np.float32)
    x[1:4] = x[0]
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(60) % 2, x_test=x[[0, 50]], y_test=[0, 0])
    data = load(str(tmp_path / "a.npz"))
    parts = {name: int(np.isin(rows, [0, 1, 2, 3]).sum()) for name, rows in data.splits.items()}
    found = {(leak.of, leak.also): leak.images for leak in leaks(data)}
    home = next(name for name, rows in data.splits.items() if 50 in rows)
    for name in ("train", "valid", "holdout"):
        assert found.get(("test", name), 0) == (parts[name] > 0) + (name == home)
    if parts["holdout"] and parts["train"]:
        assert found["holdout", "train"] == parts["holdout"]
    first, second = leaks(data)[0].pairs[0]
    assert np.array_equal(x[first if first < 60 else (0, 50)[first - 60]], x[second])
    assert f"such as image {first} and image {second}" in describe(data)


def test_from_the_command_line_to_a_table_of_class_names(tmp_path, monkeypatch, capsys):
    """Search, train on the same pictures by default, names in results and picture, and the folder goes on from elsewhere."""
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "pets", each=16, shape=(7, 5, 3))
    write_folder(folder, each=30, shape=(7, 5, 3), classes=("a $very$ long name of a class",))
    space = f"{os.path.dirname(__file__)}/toy_space.py:toy"
    quick = ["--epochs", "1", "--batch", "4", "--cache", "off", "--no-progress"]
    assert main(["search", "--space", space, "--data", "pets", "--resize", "6", "8", "--fit", "pad", "--class-weights",
                 "balanced", *quick, "--run", "run"]) == 0
    out = capsys.readouterr().out
    assert "brought to 6x8 (pad)" in out and "weights of their losses 0.6" in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    names = ["a $very$ long name of a class", *CLASSES]
    assert (config["data"], config["resize"], config["fit"]) == ([str(folder)], [6, 8], "pad")
    assert config["class_names"] == names and config["class_weights"] == "balanced"
    assert main(["search", "--config", "run/config.json", "--run", "run", "--cache", "off"]) == 0
    assert main(["train", "run", *quick, "--run", "trained"]) == 0
    out = capsys.readouterr().out
    assert "\na $very$ long name of a…       6 " in out and "\ncat " in out and "weights of their losses 0.6" in out
    there = json.loads((tmp_path / "trained" / "config.json").read_text())
    assert {key: there[key] for key in ("resize", "fit", "class_names", "class_weights")} == {
        key: config[key] for key in ("resize", "fit", "class_names", "class_weights")}
    assert json.loads((tmp_path / "trained" / "results.json").read_text())["class_names"] == names
    assert ">a $very$ long name of a…<" in (tmp_path / "trained" / "confusion.svg").read_text()
    again = plan_training("trained").config
    assert json.loads(json.dumps(again)) == there
    other = plan_training("run", "digits").config
    assert (other["data"], other["limit"]) == (["digits"], None) and "class_weights" not in other


def test_check(tmp_path, capsys):
    folder = str(write_folder(tmp_path, each=12))
    assert main(["datasets", "check", folder, "--resize", "16"]) == 0
    assert "36 images 16x16x3 uint8, 3 classes" in capsys.readouterr().out
    assert main(["datasets", "check", "digits", "--resize", "16"]) == 2
    assert "digits: resize and fit are for folders of pictures" in capsys.readouterr().err
    assert main(["datasets", "check"]) == 2 and main(["datasets", "check", f"{folder}/absent"]) == 2
    assert "absent'; give a name" in capsys.readouterr().err


def hub(each=8, **others):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)} | others)
    images = [Image.fromarray(pixels(i)) for i in range(3 * each)]
    columns = {"image": images, "label": [i % 3 for i in range(3 * each)], **dict.fromkeys(others, [1] * 3 * each)}
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_saved_hugging_face_data_set(tmp_path, monkeypatch):
    rows = hub()
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"train": rows, "validation": rows.select(range(6))}).save_to_disk(tmp_path / "saved")
    for source in (str(tmp_path / "saved"), f"hf:{tmp_path}/saved"):
        data = load(source)
        assert_whole(data)
        assert (data.name, data.class_names, len(data.splits["test"])) == ("saved", CLASSES, 6)
        assert np.array_equal(data.inputs[:24], np.stack([pixels(i) for i in range(24)]))
    assert "6 of test also in" in describe(data) or sum(leak.images for leak in leaks(data)) >= 6
    rows.save_to_disk(tmp_path / "alone")
    assert load(str(tmp_path / "alone"), resize=[4]).image == (4, 4, 3)


def test_parquet_files(tmp_path, monkeypatch):
    rows = hub()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "p").mkdir()
    rows.to_parquet(tmp_path / "p" / "train.parquet")
    assert load(str(tmp_path / "p")).class_names == CLASSES


def test_hugging_face_data_that_does_not_fit(tmp_path):
    datasets = pytest.importorskip("datasets")
    hub(a=datasets.ClassLabel(names=["x", "y"])).rename_column("label", "b").save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match="two: its columns are image, b, a; it must have one of images"):
        load(str(tmp_path / "two"))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=r"^cifar10: it needs the package datasets; pip install 'dnas\[hf\]'$"):
        load("hf:cifar10")
