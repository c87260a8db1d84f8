"""Weights of classes against closed forms, and augmentation by a function of the user's, through search and training."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas import Batch
from dnas.algorithms.players import task_loss
from dnas.algorithms.supervised import Recipe, Trainer, trainer
from dnas.data import balanced, from_arrays
from dnas.data.augmentation import augment_by
from dnas.engine.compile import compile_training, epoch_of, on_device
from dnas.engine.search import search
from dnas.engine.train import train
from dnas.methods.darts import darts
from dnas.task import classification
from launch.main import main
from tests.toy_space import toy

KEY = jax.random.key(0)
TOY = f"{Path(__file__).parent}/toy_space.py:toy"


def uneven(shape=(4, 4, 1), images=160):
    """Three images of class 0 to one of class 1, which are brighter."""
    rng = np.random.default_rng(0)
    y = (np.arange(images) % 4 == 3).astype(int)
    x = rng.integers(0, 120, (images, *shape)) + 100 * y.reshape(-1, *(1 for _ in shape))
    return from_arrays("uneven", x.astype(np.uint8), y, pad=0)


def test_balanced_weights():
    data = uneven()
    weights = balanced(data)
    counts = np.bincount(data.targets[data.splits["train"]])
    np.testing.assert_allclose(weights, counts.sum() / (2 * counts), rtol=1e-6)
    assert weights[data.targets[data.splits["train"]]].mean() == pytest.approx(1) and weights.dtype == np.float32
    np.testing.assert_allclose(balanced(data._replace(classes=3)), [*weights, 1], rtol=1e-6)
    both = balanced(data, ("train", "valid"))
    rows = np.concatenate([data.splits["train"], data.splits["valid"]])
    np.testing.assert_allclose(both, len(rows) / (2 * np.bincount(data.targets[rows])), rtol=1e-6)


def linear(weights, stats, *rest, train, key):
    """A network, or with gates between stats and images a supernet."""
    return rest[-1].reshape(len(rest[-1]), -1) @ weights, stats


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weighted_losses_of_search_and_training(smoothing):
    rng = np.random.default_rng(0)
    weights, images = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 3), (4, 2, 2, 1)))
    labels, heavy = jnp.array([0, 2, 1, 2]), jnp.array([0.5, 2.0, 1.0, 2.0])
    space = SimpleNamespace(apply=linear, init=lambda key, images: (weights, {}))
    targets = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    losses = -(np.asarray(jax.nn.log_softmax(images.reshape(4, 4) @ weights)) * targets).sum(-1)
    recipe = Recipe(label_smoothing=smoothing)
    how, hyper = trainer(space, classification(), recipe), recipe.numbers(epochs=1, steps=1)
    for given, expected in (heavy, losses * heavy), (None, losses):
        batch = Batch(images, labels, given)
        _, info = how.step(KEY, how.init(KEY, images), batch, hyper)
        assert info["train_loss"] == pytest.approx(float(expected.mean()), rel=1e-5)
        if not smoothing:
            loss, *_ = task_loss(space, classification())(KEY, weights, {}, None, batch)
            assert loss == pytest.approx(float(expected.mean()), rel=1e-5)


def test_each_image_gets_the_weight_of_its_class():
    data = uneven()._replace(class_weights=np.array([0.25, 3], np.float32))
    rows = np.arange(16).reshape(2, 8).astype(np.int32)
    seen = seen_by_a_trainer(data, rows, lambda batch: (batch.weights * 4 ** jnp.arange(8)).sum())
    expected = [(np.array([0.25, 3])[data.targets[row]] * 4.0 ** np.arange(8)).sum() for row in rows]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


class State(NamedTuple):
    step: jax.Array


def seen_by_a_trainer(data, rows, of):
    """Of each batch of an epoch what `of` makes of it."""
    how = Trainer(None, None, lambda key, state, batch, hyper: (State(state.step + 1), {"value": of(batch)}), None)
    examples, state, recipe = on_device(data), State(jnp.zeros((), jnp.int32)), Recipe()
    hyper = recipe.numbers(epochs=1, steps=len(rows))
    advance = epoch_of(compile_training(how, recipe, data, examples, state, hyper, *rows.shape), examples, len(rows))
    return advance(state, hyper, KEY, rows, on_metrics=lambda metrics, done: metrics)[1]["value"]


def test_balanced_training_finds_the_rare_class():
    """Brightness without a threshold that serves both: equal weights prefer the frequent class, balanced ones do not."""
    rng = np.random.default_rng(1)
    y = (np.arange(400) % 10 == 9).astype(int)
    x = rng.normal(0.8 * y, 1, (400,))[:, None, None, None] * np.ones((1, 2, 2, 1))
    data = from_arrays("rare", x.astype(np.float32), y, pad=0)
    network = toy((2, 2, 1), 2, channels=2).network(toy((2, 2, 1), 2).genotype({"chain": np.eye(4)[[0, 0]]}))
    shares = []
    for weights in (None, balanced(data, ("train", "valid"))):
        done = train(network, data._replace(class_weights=weights), epochs=3, batch=36, recipe=Recipe(lr=0.2),
                     final="test", progress=False)
        shares.append(done.confusion[1, 1] / done.confusion[1].sum())
    assert shares[0] < 0.3 < 0.5 < shares[1]


def darker(key, images):
    """Every image times a random factor."""
    return images * jax.random.uniform(key, (len(images), 1, 1, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_function_gets_pixels_and_its_result_is_normalised(dtype):
    data = uneven((3, 5, 2))
    data = data._replace(inputs=data.inputs.astype(dtype), augment=darker, pad=(1, 1))
    rows = np.arange(8).reshape(1, 8).astype(np.int32)
    seen = seen_by_a_trainer(data, rows, lambda batch: (batch.inputs * data.std + data.mean).mean((1, 2, 3)).sum())
    given = data.inputs[:8].astype(np.float32) / (255 if dtype == np.uint8 else 1)
    key = jax.random.split(jax.random.fold_in(KEY, 0))[1]
    np.testing.assert_allclose(seen, np.asarray(darker(key, given)).mean((1, 2, 3)).sum(), rtol=1e-4)


@pytest.mark.parametrize("function, message", [
    (lambda key, images: images[:, :2], r"returned float32 \(8, 2, 4, 1\) for float32 \(8, 4, 4, 1\); it must return"),
    (lambda key, images: images > 0, "returned bool"), (lambda key, images: (images, key), "returned tuple None"),
    (lambda key, images: None, "returned NoneType None"), (lambda images: images, "failed on images .* TypeError"),
    (lambda key, images: images if images.sum() > 0 else -images, "failed on images .* TracerBoolConversionError")])
def test_functions_that_are_no_augmentation(function, message):
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(lambda key, images: augment_by(function, key, images), KEY, jnp.zeros((8, 4, 4, 1), np.uint8))
    assert "\n" not in str(error.value)


AUGMENTATION = '''
import jax
def darker(key, images):
    return images * jax.random.uniform(key, (len(images), 1, 1, 1))
def smaller(key, images):
    return images[:, 1:]
'''


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(AUGMENTATION)
    argv = ["search", "--space", TOY, "--limit", "120", "--epochs", "1", "--batch", "16", "--cache", "off", "--no-progress"]
    assert main([*argv, "--augment", "mine.py:smaller", "--run", "a"]) == 2
    assert "smaller returned float32 (16, 7, 8, 1) for float32 (16, 8, 8, 1)" in capsys.readouterr().err
    assert main([*argv, "--augment", "mine.py:brighter", "--run", "a"]) == 2
    assert "no callable 'brighter'" in capsys.readouterr().err and not (tmp_path / "a").exists()
    assert main([*argv, "--augment", "mine.py:darker", "--run", "a"]) == 0
    assert "test 359; augmented by darker" in capsys.readouterr().out
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["augment"] == f"{tmp_path}/mine.py:darker" and "class_weights" not in config and "resize" not in config
    assert main([*argv, "--run", "a"]) == 2
    assert "augment is" in capsys.readouterr().err


def test_images_of_many_channels_are_searched():
    shape = (5, 7, 5)
    data = uneven(shape)._replace(class_weights=np.array([1, 3], np.float32))
    space = toy(shape, 2, channels=2)
    result = search(space, darts(), data, epochs=1, batch=16, progress=False)
    assert np.isfinite(result.holdout["loss"]) and space.network(result.genotype)
