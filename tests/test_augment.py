"""Mini-batches: augmentation (true crops, exact flips, uniform offsets), and the indices of an epoch."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.data import augment, cutout, epoch_indices, evaluation_indices, from_arrays, load, normalise, steps_per_epoch


def numbered(batch, height, width, channels=1, dtype=np.float32):
    """Images whose pixels are all different and none zero, so that a crop can be recognised."""
    size = batch * height * width * channels
    return np.arange(1, 1 + size).reshape(batch, height, width, channels).astype(dtype)


def crops(image, pad):
    """(top, left, mirrored) -> crop, of one image [H, W, C]."""
    height, width, _ = image.shape
    above, beside = (pad, pad) if isinstance(pad, int) else pad
    padded = np.pad(image, ((above, above), (beside, beside), (0, 0)))
    for top in range(2 * above + 1):
        for left in range(2 * beside + 1):
            crop = padded[top:top + height, left:left + width]
            yield (top, left, False), crop
            yield (top, left, True), crop[:, ::-1]


def found(image, result, pad):
    return [where for where, crop in crops(image, pad) if np.array_equal(crop, result)]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("pad, flip", [(2, True), (2, False), (1, True), ((3, 1), True), ((0, 2), False), ((2, 0), True)])
def test_results_are_crops(dtype, pad, flip):
    images = numbered(8, 4, 5, 1, dtype)
    result = np.asarray(augment(jax.random.key(1), images, pad=pad, flip=flip))
    chex.assert_equal_shape([images, result])
    assert result.dtype == dtype
    for image, crop in zip(images, result):
        [(_, _, mirrored)] = found(image, crop, pad)
        assert flip or not mirrored


def test_offsets_and_flips_are_uniform():
    """Chi-square over the 3 x 3 x 2 ways to crop and flip, at a level of 0.001."""
    pad, batch, critical = 1, 3600, 40.8
    image = numbered(1, 4, 5, 2)
    result = np.asarray(augment(jax.random.key(0), jnp.tile(image, (batch, 1, 1, 1)), pad=pad, flip=True))
    counts = [np.all(result == crop, axis=(1, 2, 3)).sum() for _, crop in crops(image[0], pad)]
    assert sum(counts) == batch and len(counts) == 18
    expected = batch / 18
    assert sum((count - expected) ** 2 / expected for count in counts) < critical


@pytest.mark.parametrize("shape", [(128, 4, 1), (64, 1, 3)])
def test_narrow_images_keep_their_content(shape):
    """Crops by the default padding move along the long axis only, and at most an eighth of one is zeros."""
    images = numbered(128, *shape)
    data = from_arrays("narrow", images, np.arange(len(images)) % 2)
    result = np.asarray(augment(jax.random.key(5), images, pad=data.pad, flip=data.flip))
    lost = (result == 0).mean((1, 2, 3))
    assert lost.max() <= 1 / 8 and lost.mean() < 1 / 14
    offsets = {found(image, crop, data.pad)[0][:2] for image, crop in zip(images, result)}
    assert len(offsets) > shape[0] // 8 and {left for _, left in offsets} == {0}


def test_offsets_along_each_axis_are_uniform():
    """Chi-square over the 5 x 3 ways to crop by (2, 1), at a level of 0.001."""
    pad, batch, critical = (2, 1), 3000, 36.1
    image = numbered(1, 6, 5)
    result = np.asarray(augment(jax.random.key(0), jnp.tile(image, (batch, 1, 1, 1)), pad=pad, flip=False))
    counts = [np.all(result == crop, axis=(1, 2, 3)).sum() for (*_, mirrored), crop in crops(image[0], pad) if not mirrored]
    assert sum(counts) == batch and len(counts) == 15
    assert sum((count - batch / 15) ** 2 / (batch / 15) for count in counts) < critical


@pytest.mark.parametrize("pad", [1, 2, (4, 4)])
def test_equal_padding_draws_the_offsets_that_it_always_did(pad):
    """Of one call for both axes, so that runs of square images go on as they began."""
    images = numbered(16, 9, 9)
    both = max(pad) if isinstance(pad, tuple) else pad
    key = jax.random.split(jax.random.key(7))[0]
    tops, lefts = jax.random.randint(key, (2, 16, 1, 1, 1), 0, 2 * both + 1).reshape(2, 16).tolist()
    result = np.asarray(augment(jax.random.key(7), images, pad=pad, flip=False))
    for image, crop, top, left in zip(images, result, tops, lefts):
        assert (top, left, False) in found(image, crop, pad)


def test_padding_that_is_none():
    with pytest.raises(ValueError, match=r"^augment: pad \(1, 2, 3\); it must be a number of pixels, or a pair"):
        augment(jax.random.key(0), numbered(1, 4, 4), pad=(1, 2, 3), flip=False)


def test_flip_alone_is_exact():
    images = numbered(64, 3, 4, 3)
    result = np.asarray(augment(jax.random.key(2), images, pad=0, flip=True))
    mirrored = np.all(result == images[:, :, ::-1], axis=(1, 2, 3))
    kept = np.all(result == images, axis=(1, 2, 3))
    assert np.all(mirrored ^ kept) and 16 < mirrored.sum() < 48


def test_nothing_to_do_is_identity():
    images = jnp.asarray(numbered(2, 4, 4))
    assert augment(jax.random.key(0), images, pad=0, flip=False) is images


def test_offsets_do_not_depend_on_flip():
    images = numbered(16, 4, 4)
    with_flip = augment(jax.random.key(3), images, pad=2, flip=True)
    without = augment(jax.random.key(3), images, pad=2, flip=False)
    for image, a, b in zip(images, with_flip, without):
        [(top, left, _)], [(also_top, also_left, _)] = found(image, a, 2), found(image, b, 2)
        assert (top, left) == (also_top, also_left)


def test_same_bits_under_jit_vmap_and_scan():
    keys, images = jax.random.split(jax.random.key(4), 3), jnp.asarray(numbered(8, 6, 6, 3))
    step = partial(augment, pad=2, flip=True)
    jitted = jax.jit(step)
    expected = jnp.stack([jitted(key, images) for key in keys])
    assert not np.array_equal(expected[0], expected[1])
    chex.assert_trees_all_equal(step(keys[0], images), expected[0])
    chex.assert_trees_all_equal(jax.jit(jax.vmap(step, (0, None)))(keys, images), expected)
    scanned = jax.lax.scan(lambda images, key: (images, step(key, images)), images, keys)[1]
    chex.assert_trees_all_equal(scanned, expected)


def test_normalise():
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 3)).astype(np.uint8)
    mean, std = (images / 255).mean((0, 1, 2)), (images / 255).std((0, 1, 2))
    result = normalise(jnp.asarray(images), mean, std)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, (images / 255 - mean) / std, atol=1e-5)
    floats = jnp.asarray(images / 255, jnp.float32)
    np.testing.assert_allclose(normalise(floats, mean, std), result, atol=1e-5)


def test_cutout_is_a_square_about_a_random_pixel():
    images = np.ones((2000, 6, 7, 2), np.float32)
    found = np.asarray(cutout(jax.random.key(0), images, 4)) == 0
    assert (found[..., 0] == found[..., 1]).all()
    rows, columns = found[..., 0].any(2), found[..., 0].any(1)
    assert (found[..., 0] == rows[:, :, None] & columns[:, None, :]).all()
    for seen, length in (rows, 6), (columns, 7):
        shapes, counts = np.unique(seen, axis=0, return_counts=True)
        expected = {tuple(-2 <= i - centre < 2 for i in range(length)) for centre in range(length)}
        assert set(map(tuple, shapes.tolist())) == expected and counts.min() > 0.7 * 2000 / length
    assert not np.array_equal(found, np.asarray(cutout(jax.random.key(1), images, 4)) == 0)


def test_epoch_indices():
    train, valid = np.arange(100, 207), np.arange(500, 540)
    rows, draws = epoch_indices(3, 5, train, valid, 20)
    assert rows.shape == draws.shape == (5, 20) and rows.dtype == draws.dtype == np.int32
    assert steps_per_epoch({"train": 107, "valid": 40}, 20) == 5
    assert len(np.unique(rows)) == 100 and np.isin(rows, train).all() and np.isin(draws, valid).all()
    assert all(len(np.unique(draw)) == 20 for draw in draws)
    again = epoch_indices(3, 5, train, valid, 20)
    assert np.array_equal(again[0], rows) and np.array_equal(again[1], draws)
    for seed, epoch in ((3, 6), (4, 5), (5, 3)):
        other = epoch_indices(seed, epoch, train, valid, 20)
        assert not np.array_equal(other[0], rows) and not np.array_equal(other[1], draws)


def test_validation_draws_are_uniform():
    _, draws = epoch_indices(0, 0, np.arange(4000), np.arange(10), 4)
    counts = np.bincount(draws.ravel(), minlength=10)
    assert np.abs(counts - 400).max() < 80


@pytest.mark.parametrize("arguments, message", [
    ((0, 0, 0), "batch 0: it must be at least 1"),
    ((0, 0, 31), "batch 31 is larger than the valid split; it has 30"),
    ((0, 0, 51), "batch 51 is larger than the train split; it has 50"),
    ((-1, 0, 5), "seed -1"),
    ((0, -2, 5), "epoch -2")])
def test_bad_batches(arguments, message):
    seed, epoch, batch = arguments
    with pytest.raises(ValueError, match=message):
        epoch_indices(seed, epoch, np.arange(50), np.arange(30), batch)


def test_steps_of_a_dataset():
    assert steps_per_epoch(load("digits"), 64) == 10
    with pytest.raises(ValueError, match="batch 648 is larger than the train split"):
        steps_per_epoch(load("digits"), 648)


@pytest.mark.parametrize("images, batch", [(10, 3), (10, 10), (10, 64), (1, 1), (143, 64), (7, 2), (64, 64)])
def test_evaluation_indices(images, batch):
    part = np.arange(images) + 30
    index, weight = evaluation_indices(part, batch)
    assert index.shape == weight.shape == (-(-images // batch), index.shape[1]) and index.shape[1] <= batch
    assert index.dtype == np.int32 and weight.dtype == np.float32
    assert np.array_equal(np.bincount(index.ravel() - 30, weights=weight.ravel()), np.ones(images))
    assert weight[:-1].all() and weight[-1].any()


def test_bad_evaluation():
    with pytest.raises(ValueError, match="batch 0"):
        evaluation_indices(np.arange(3), 0)
    with pytest.raises(ValueError, match="0 examples"):
        evaluation_indices(np.arange(0), 4)
