"""Tasks: losses, metrics, what a teacher hands on and divergences against closed forms; targets that do not fit."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, rel_entr, softmax
from sklearn import metrics

from dnas import registry
from dnas import task as task_module
from dnas.data import from_arrays
from dnas.task import TASKS, Task, checked_value, infer, named, task_of

RNG = np.random.default_rng(0)
EXAMPLES = {  # outputs, targets
    "classification": (RNG.normal(size=(6, 4)), RNG.integers(0, 4, 6)),
    "dense": (RNG.normal(size=(6, 3, 2, 4)), RNG.integers(0, 4, (6, 3, 2))),
    "next-token": (RNG.normal(size=(6, 5, 4)), RNG.integers(0, 4, (6, 5))),
    "multilabel": (RNG.normal(size=(6, 4)), RNG.integers(0, 2, (6, 4)).astype(np.float32)),
    "regression": (RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4)).astype(np.float32)),
}
OF_CLASSES = ("classification", "dense", "next-token")


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_every_task(name):
    """All that a task has can be traced, is one number an example, and the deciding metric is not the wrong way round."""
    task, (outputs, targets) = named(name), EXAMPLES[name]
    outputs = jnp.asarray(outputs, jnp.float32)
    targets = task.check("mine", targets)
    assert task.name == name and task.metric == next(iter(task.metrics)) and callable(registry.load(TASKS[name]))
    of_examples = [task.losses, *task.metrics.values(), lambda o, t: task.divergence(task.soften(o, 2.0), o + 1, 2.0)]
    for function in of_examples:
        values = jax.jit(function)(outputs, targets)
        assert values.shape == (6,) and values.dtype == jnp.float32 and np.isfinite(values).all()
        close(values[2:3], function(outputs[2:3], targets[2:3]))
    close(task.divergence(task.soften(outputs, 3.0), outputs, 3.0), np.zeros(6))
    right = np.eye(4)[targets] * 9 if name in OF_CLASSES else targets * 20 - 10 if name == "multilabel" else targets
    best, some = (np.mean(task.metrics[task.metric](jnp.asarray(o, jnp.float32), targets)) for o in (right, outputs))
    assert (best - some) * task.better > 0
    np.testing.assert_array_equal(task.predict(jnp.asarray(right, jnp.float32)), targets)


@pytest.mark.parametrize("name", OF_CLASSES)
def test_tasks_of_classes_against_scipy(name):
    task, (outputs, targets) = named(name), EXAMPLES[name]
    over = tuple(range(1, targets.ndim))
    logs = log_softmax(outputs, -1)
    chosen = -np.take_along_axis(logs, targets[..., None], -1)[..., 0]
    close(task.losses(outputs, targets), chosen.mean(over))
    close(task.metrics["accuracy"](outputs, targets), (outputs.argmax(-1) == targets).mean(over))
    close(task.smoothed(outputs, targets, 0.1), -((0.9 * np.eye(4)[targets] + 0.025) * logs).sum(-1).mean(over))
    teacher = RNG.normal(size=outputs.shape)
    soft = task.soften(teacher, 3.0)
    close(soft, softmax(teacher / 3, -1))
    divergence = rel_entr(softmax(teacher / 3, -1), softmax(outputs / 3, -1)).sum(-1).mean(over)
    close(task.divergence(soft, outputs, 3.0), 9 * divergence)
    one_hot = np.eye(4)[targets]
    close(task.divergence(one_hot, outputs, 1.0), task.losses(outputs, targets))
    if name == "next-token":
        close(task.metrics["bits"](outputs, targets), chosen.mean(over) / np.log(2))
        assert (task.metric, task.better, task.percent) == ("bits", -1, False)
    else:
        assert (task.metric, task.better, task.percent, task.confusion) == ("accuracy", 1, True, name == "classification")


def test_cross_entropy_and_accuracy_against_sklearn():
    outputs, targets = EXAMPLES["classification"]
    task, p = named("classification"), softmax(outputs, -1)
    assert task.losses(outputs, targets).mean() == pytest.approx(metrics.log_loss(targets, p, labels=range(4)))
    assert task.metrics["accuracy"](outputs, targets).mean() == pytest.approx(metrics.accuracy_score(targets, p.argmax(-1)))


def test_multilabel_against_sklearn():
    task, (outputs, targets) = named("multilabel"), EXAMPLES["multilabel"]
    outputs = outputs.astype(np.float32)
    p = expit(outputs)
    close(task.losses(outputs, targets), -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean(-1))
    assert task.metrics["accuracy"](outputs, targets).mean() == pytest.approx(1 - metrics.hamming_loss(targets, outputs > 0))
    exact = np.concatenate([outputs, 2 * targets - 1]), np.concatenate([targets, targets])
    assert task.metrics["exact"](*exact).mean() == pytest.approx(metrics.accuracy_score(exact[1], exact[0] > 0))
    q = expit(RNG.normal(size=outputs.shape))
    p = expit(outputs / 2)
    close(task.divergence(q, outputs, 2.0), 4 * (rel_entr(q, p) + rel_entr(1 - q, 1 - p)).sum(-1))
    far = task.divergence(np.ones((1, 1)), np.full((1, 1), -200.0), 1.0)
    assert far[0] == pytest.approx(200, rel=1e-4)


def test_regression_is_standardised_for_the_network_and_not_for_people():
    x = RNG.normal(size=(200, 3))
    y = np.stack([1000 + 50 * RNG.normal(size=200), 0.1 * RNG.normal(size=200)], 1)
    data = from_arrays("mine", x, y)
    task, train = task_of(data), y[data.splits["train"]]
    close(data.target_mean, train.mean(0))
    close(data.target_std, train.std(0))
    outputs = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    own, targets = outputs * train.std(0) + train.mean(0), data.targets[:5]
    np.testing.assert_allclose(task.predict(outputs), own, rtol=1e-5)
    mae, mse = (task.metrics[name](outputs, targets).mean() for name in ("mae", "mse"))
    assert mae == pytest.approx(metrics.mean_absolute_error(targets, own), rel=1e-4)
    assert mse == pytest.approx(metrics.mean_squared_error(targets, own), rel=1e-4)
    assert np.mean(task.losses(np.zeros_like(train), train)) == pytest.approx(1, rel=1e-3)
    assert (task.metric, task.better, task.percent) == ("mae", -1, False)
    close(task.divergence(task.soften(outputs, 4.0), outputs + 2, 4.0), np.full(5, 4))


def test_regression_of_one_number():
    data = from_arrays("mine", RNG.normal(size=(60, 3)), np.arange(60.0))
    assert data.targets.shape == (60,) and data.outputs == (1,)
    task, outputs = task_of(data), np.zeros((60, 1), np.float32)
    assert task.losses(outputs, data.targets).shape == (60,)
    close(task.metrics["mae"](outputs, data.targets), np.abs(data.target_mean - np.arange(60)))
    slope = jax.grad(lambda outputs: task.losses(outputs, data.targets).sum())(jnp.asarray(outputs))
    close(slope[:, 0], 2 * (data.target_mean - np.arange(60)) / data.target_std)


OWN = '''
"""A loss that forgives outliers."""
import jax.numpy as jnp
from dnas.task import Task

def huber(*, target_mean, target_std):
    def losses(outputs, targets):
        away = jnp.abs(outputs[:, 0] - (targets - target_mean) / target_std)
        return jnp.where(away < 1, away ** 2 / 2, away - 0.5)
    return Task("huber", losses, {"apart": losses}, better=-1, percent=False)

def nothing():
    return Task("nothing", None, {})

def number():
    return 7

def wanting(*, weight):
    return 7
'''


def test_a_task_of_your_own(tmp_path):
    place = tmp_path / "mine.py"
    place.write_text(OWN)
    data = from_arrays("mine", RNG.normal(size=(60, 3)), np.arange(60.0), task=f"{place}:huber")
    task = task_of(data)
    assert (data.classes, data.task) == (1, f"{place}:huber") and task.confusion is False
    outputs = np.full((60, 1), 5.0, np.float32)
    close(task.losses(outputs, data.targets), 5 - (data.targets - data.target_mean) / data.target_std - 0.5)
    with pytest.raises(ValueError, match="nothing: metrics .* at least one metric"):
        named(f"{place}:nothing")
    with pytest.raises(ValueError, match="number: it returned int; it must return a Task"):
        named(f"{place}:number")
    with pytest.raises(ValueError, match="its parameter weight needs a default"):
        named(f"{place}:wanting")
    with pytest.raises(ValueError, match="no task 'regresion'; did you mean 'regression'"):
        named("regresion")


IMAGES, ROWS, TOKENS = np.ones((4, 3, 2, 1), np.float32), np.ones((4, 3), np.float32), np.ones((4, 3), np.int32)


@pytest.mark.parametrize("inputs, targets, task", [
    (IMAGES, np.arange(4), "classification"), (ROWS, np.arange(4) > 1, "classification"),
    (ROWS, np.arange(4.0), "regression"), (TOKENS, np.ones((4, 2)) * 0.5, "regression"),
    (IMAGES, np.ones((4, 3, 2), int), "dense"),
    (TOKENS, np.arange(12).reshape(4, 3), "next-token"), (ROWS, np.eye(4, 3, dtype=int), "multilabel"),
    (IMAGES, np.eye(4, 3, dtype=bool), "multilabel")])
def test_the_task_that_targets_stand_for(inputs, targets, task):
    assert infer("mine", inputs, targets) == task


@pytest.mark.parametrize("inputs, targets, message", [
    (TOKENS, np.eye(4, 3, dtype=int), "all 0 or 1; --task next-token fits, and --task multilabel"),
    (ROWS, np.eye(4, 3), "all 0 or 1; --task multilabel fits, and --task regression"),
    (ROWS, np.arange(12).reshape(4, 3), "labels .* of 0 and 1; --task regression fits numbers"),
    (IMAGES, np.ones((4, 2, 3), int), "classes of pixels")])
def test_targets_that_may_stand_for_several(inputs, targets, message):
    with pytest.raises(ValueError, match=f"^mine: y is .* beside x .*{message}") as error:
        infer("mine", inputs, targets)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task, targets, classes, message", [
    ("classification", np.ones(4), None, "dtype float64; labels must be integers"),
    ("classification", np.array(["a", "b"]), None, "dtype <U1; labels must be integers"),
    ("classification", np.array([0, 1, 5]), 5, "label 5 of example 2; there are 5 classes, 0..4"),
    ("classification", np.array([0, -1]), 5, "label -1 of example 1; there are 5 classes"),
    ("classification", np.zeros((4, 1), int), None, r"shape \(4, 1\); labels must be \[4\], one integer per example"),
    ("classification", np.zeros(4, int), None, "every label is 0"),
    ("classification", np.arange(4) + 1, None, "label 4 among only 4"),
    ("dense", np.zeros((4, 2), int), 3, r"labels must be \[N, H, W\]"),
    ("next-token", np.zeros(4, int), 3, r"labels must be \[N, T\]"),
    ("next-token", np.array([[0, 1], [3, 0]]), 3, "label 3 of example 1; there are 3"),
    ("multilabel", np.array([[0, 1], [2, 0]]), None, "label 0 of example 1 is 2; each label must be 0 or 1"),
    ("multilabel", np.array([[0, np.nan]]), None, "label 1 of example 0 is nan"),
    ("multilabel", np.zeros(4), None, r"labels must be \[N, L\]"),
    ("multilabel", np.zeros((4, 2)), 3, "2 targets per example, and 3"),
    ("regression", np.array([1, np.nan, np.inf]), None, "2 NaN or infinite targets, the first of example 1"),
    ("regression", np.array([1, 1e39]), None, "1 NaN or infinite targets, the first of example 1"),
    ("regression", np.array(["a"]), None, "it must be numbers"), ("regression", np.ones(4), None, "every target is 1"),
    ("regression", np.ones((4, 2)), 1, "2 targets per example, and 1 outputs")])
def test_targets_that_do_not_fit(task, targets, classes, message):
    with pytest.raises(ValueError, match=f"^mine: .*{message}") as error:
        named(task).check("mine", targets, classes)
    assert "\n" not in str(error.value)


def test_import_is_light():
    code = ("import sys, numpy as np, dnas.task, dnas.data; dnas.data.load('diabetes'); dnas.task.named('regression'); "
            "assert not {'jax', 'sklearn'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_task_is_made_of_two_functions():
    task = Task("mine", lambda outputs, targets: outputs[:, 0], {"first": lambda outputs, targets: outputs[:, 0]})
    assert task.metric == "first" and task.divergence is None and task.predict(3) == 3
    assert task.check("mine", np.arange(4.0)).dtype == np.float32 and task.check("mine", [0, 1], 2).dtype == np.int32
    with pytest.raises(ValueError, match="targets must be numbers"):
        task.check("mine", np.array(["a"]))


@pytest.mark.parametrize("metrics, message", [
    ({"loss": abs}, "cannot be called 'loss'"), ({"": abs}, "is called ''"), ({1: abs}, "is called 1"),
    ({"a/b": abs}, "letters, digits"), ([abs], "metrics is list"), (None, "metrics is NoneType")])
def test_metrics_that_no_record_can_hold_are_refused(metrics, message, monkeypatch):
    monkeypatch.setattr(task_module, "classification", lambda: Task("odd", abs, metrics))
    with pytest.raises(ValueError, match=message):
        named("classification")


def test_a_share_in_percent_is_one():
    assert checked_value(named("classification"), 0.5) == 0.5 and checked_value(named("regression"), 7.0) == 7.0
    with pytest.raises(ValueError, match="'accuracy' in %, and it is 7: give the Task percent=False"):
        checked_value(named("classification"), 7.0)


@pytest.mark.parametrize("targets", [[0.0, 1e20], [1.0, 1 + 1e-16, 1.0 - 1e-16], np.ones((3, 2, 2)) * [[[1], [2]]]])
def test_numbers_whose_errors_cannot_be_computed_are_refused(targets):
    with pytest.raises(ValueError, match="mine: "):
        named("regression").check("mine", np.asarray(targets))
