"""The picture of images that are in two splits, from the library to the page of a run."""

import itertools

import numpy as np
import pytest

from dnas.data import from_arrays, load
from dnas.reports import duplicates
from dnas.reports.duplicates import FILE, draw_duplicates


def images(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def drawn(monkeypatch, data, *folders):
    """The texts of the figure, and the images in it."""
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, content, **_: (figures.append(self), content.write(b"x")))
    draw_duplicates(data, folders)
    [figure] = figures
    axes = list(itertools.chain(*(part.axes for part in figure.subfigs)))
    return figure.get_suptitle(), [one.get_title() for one in axes], [one.get_images()[0].get_array() for one in axes]


def test_pairs_of_each_two_splits_in_turn(tmp_path, monkeypatch):
    x = images((80, 6, 6, 1))
    x[40:] = x[:40]  # each image is there twice
    data = from_arrays("twice", x, np.arange(80) % 2)
    title, names, shown = drawn(monkeypatch, data, tmp_path)
    assert title.startswith("Identical images: ") and " also in " in title
    assert len(names) == len(shown) == 12
    for one, first, other, second in zip(names[::2], shown[::2], names[1::2], shown[1::2]):
        np.testing.assert_array_equal(first, second)
        (of, row), (also, twin) = (name.split("\n") for name in (one, other))
        row, twin = int(row.removeprefix("image ")), int(twin.removeprefix("image "))
        assert abs(row - twin) == 40 and row in data.splits[of] and twin in data.splits[also]
    kinds = {(one.split("\n")[0], other.split("\n")[0]) for one, other in zip(names[::2], names[1::2])}
    assert len(kinds) >= 3


@pytest.mark.parametrize("shape, dtype", [((20, 1500, 1200, 3), np.uint8), ((20, 6, 90, 1), np.float32),
                                          ((20, 5, 5, 2), np.uint8)])
def test_the_file_is_small_whatever_the_images_are(tmp_path, shape, dtype):
    x = images(shape, dtype)
    x[10:] = x[:10]
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    draw_duplicates(from_arrays("twice", x, np.arange(20) % 2), folders)
    first, other = ((folder / FILE).read_bytes() for folder in folders)
    assert first == other and first.startswith(b"\x89PNG") and len(first) < duplicates.LARGEST


def test_names_of_files_are_cut_and_stand_as_they_are(tmp_path, monkeypatch):
    from PIL import Image

    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(30):
            pixels = images((8, 8, 3), seed=i if i else 99)
            Image.fromarray(pixels).save(tmp_path / name / f"$a_{{{name}$ number {i}.png")
    _, names, _ = drawn(monkeypatch, load(str(tmp_path)), tmp_path)
    assert all(name.endswith(".png") and len(name.split("\n")[1]) <= duplicates.LONGEST for name in names)


def test_nothing_is_drawn_where_no_image_is_in_two_splits_or_there_are_no_images(tmp_path):
    x = images((40, 6, 6, 1))
    draw_duplicates(from_arrays("once", x, np.arange(40) % 2), [tmp_path])
    draw_duplicates(from_arrays("rows", np.zeros((40, 3), np.float32), np.arange(40) % 2), [tmp_path])
    x[:] = x[0]
    draw_duplicates(from_arrays("same", x, np.arange(40) % 2), [])
    assert not list(tmp_path.iterdir())
