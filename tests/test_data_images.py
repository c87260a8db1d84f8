"""Arrays of images: how far random crops go along each axis, and whether the axes are in their order."""

import re

import numpy as np
import pytest

from dnas.data import describe, from_arrays, load
from tests.test_data import arrays, write_npz


@pytest.mark.parametrize("shape, options, pad, words", [
    ((128, 4, 1), {}, (16, 0), "; random crops that lose up to 16 of 128 rows, no flips"),
    ((64, 1, 3), {}, (8, 0), "; random crops that lose up to 8 of 64 rows, no flips"),
    ((15, 16, 1), {}, (0, 2), "; random crops that lose up to 2 of 16 columns, no flips"),
    ((15, 15, 3), {"flip": True}, (0, 0), "; no crops, flips"),
    ((32, 32, 3), {}, (4, 4), "; random crops that lose up to 4 of 32 rows and 4 of 32 columns, no flips"),
    ((8, 9, 3), {"pad": 2}, (2, 2), "; random crops that lose up to 2 of 8 rows and 2 of 9 columns, no flips"),
    ((64, 1, 3), {"pad": (4, 0)}, (4, 0), "; random crops that lose up to 4 of 64 rows, no flips")])
def test_each_axis_has_its_own_padding(shape, options, pad, words):
    data = from_arrays("mine", *arrays(shape=shape), **options)
    assert data.pad == pad and describe(data).splitlines()[1].endswith(words)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 8, 8), (3, 48, 64), (1, 8, 8)])
def test_channels_first_images_are_refused(tmp_path, shape):
    message = re.escape(f"x of shape {(60, *shape)} looks channels-first, [N, C, H, W], and images are [N, H, W, C]: "
                        "x.transpose(0, 2, 3, 1) turns it")
    x, y = arrays(shape=shape)
    for pixels in (x, x / np.float32(255)):
        with pytest.raises(ValueError, match=f"^mine: {message}"):
            from_arrays("mine", pixels, y)
    with pytest.raises(ValueError, match=f"^mine, test set: {message}"):
        from_arrays("mine", x.transpose(0, 2, 3, 1), y, x, y)
    with pytest.raises(ValueError, match=f"a.npz: {message}"):
        load(write_npz(tmp_path / "a.npz", x=x, y=y))
    assert from_arrays("mine", x.transpose(0, 2, 3, 1), y).image == (*shape[1:], shape[0])
    assert from_arrays("mine", x, y, kind="images").image == shape


@pytest.mark.parametrize("shape, doubtful", [
    ((1, 128, 9), True), ((4, 16, 64), True), ((3, 7, 7), True), ((1, 64, 3), False), ((64, 1, 9), False),
    ((3, 3, 64), False), ((3, 32, 3), False), ((5, 7, 5), False), ((32, 32, 3), False), ((28, 28, 1), False),
    ((1, 1, 1), False)])
def test_images_that_could_be_channels_first_get_a_line(shape, doubtful):
    data = from_arrays("mine", *arrays(shape=shape))
    hint = f"images are {shape[0]} high with {shape[2]} channels: if x is channels-first, x.transpose(0, 2, 3, 1) turns it"
    assert data.image == shape and (hint in describe(data).splitlines()) == doubtful


@pytest.mark.parametrize("pad, message", [
    (-1, "pad -1; it must be at least 0"), (1.5, "pad 1.5; it must be a whole number"), ((1, -1), "pad -1; it must"),
    ((1, 2, 3), r"pad \(1, 2, 3\); it must be a number of pixels, or a pair"), ("4", "pad '4'; it must be a whole number"),
    (8, "pad 8 of images of 9x8 pixels: a crop could lose all of one"),
    ((9, 0), r"pad \(9, 0\) of images of 9x8 pixels: a crop could lose all of one; it must be below the height")])
def test_bad_pad(pad, message):
    with pytest.raises(ValueError, match=f"^mine: {message}") as error:
        from_arrays("mine", *arrays(shape=(9, 8, 3)), pad=pad)
    assert "\n" not in str(error.value)
