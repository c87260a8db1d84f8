"""Gates that differ by cell, and Lambda-DARTS, which aligns the cells."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnas.algorithms.players import Problem, objective
from dnas.algorithms.schedules import time_of
from dnas.methods.darts import darts
from dnas.methods.lambda_darts import alignment, check_search, direction, lambda_darts
from dnas.methods.rarts import rarts
from dnas.methods.snas import snas
from dnas.task import classification
from dnas.types import Group
from launch.main import main
from search_spaces.darts import darts as darts_space
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import Conv, Identity, ReLUConvBN
from search_spaces.nasbench201 import nasbench201
from search_spaces.repeated import Repeated, of_cells
from search_spaces.robust_darts import s1
from tests.problems import KEY, at, batches, numbers, plain, two_cells
from tests.test_ends import QUICK

TASK = classification()


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_slopes(count=3):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, 2, 4)))


def test_the_direction_is_the_gradient_of_the_mean_cosine():
    slopes = random_slopes()
    cosine = lambda a, b: (a * b).sum() / jnp.sqrt((a * a).sum() * (b * b).sum())
    pairs = np.mean([cosine(slopes[a], slopes[b]) for a, b in ((0, 1), (0, 2), (1, 2))])
    np.testing.assert_allclose(alignment(slopes), pairs, rtol=1e-12)
    np.testing.assert_allclose(direction(slopes), jax.grad(alignment)(slopes), rtol=1e-9, atol=1e-12)
    assert np.abs(direction(jnp.stack([slopes[0]] * 3))).max() < 1e-12
    assert np.isfinite(direction(slopes.at[0].set(0))).all()


def state_after(factory, epoch=3, **settings):
    """Problem, state before and weights after one step of plain descent at rate 1, in the last of four epochs."""
    method = factory(clip=1e9, **settings).extend(weights={"optimizer": lambda hyper, t: optax.sgd(1.0)})
    space, (train, valid) = two_cells(), (at(batch, 0) for batch in batches(1))
    algorithm, hyper = method.bind(space, TASK), numbers(method, epochs=4, steps=1)
    state = algorithm.init(KEY, jnp.zeros((1, 6)), hyper)._replace(step=jnp.int32(epoch))
    state = state._replace(weights=jax.tree.map(jnp.float64, state.weights),
                           arch={"cell": jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))})
    after, _ = jax.jit(algorithm.step)(KEY, state, train, valid, hyper)
    problem = Problem(space, TASK, method.arch, method.weights)
    return problem, state, after, train, hyper


@pytest.mark.parametrize("step, within", [(0.0, 1e-9), (1e-4, 1e-4)])
def test_the_step_is_down_the_gradient_of_loss_and_alignment(step, within):
    """Exactly, and by the published differences."""
    problem, state, after, train, hyper = state_after(lambda_darts, strength=0.5, step=step)
    inner = objective(problem, problem.weights, jax.random.split(KEY)[0], train, state, hyper, time_of(hyper, state.step))
    level = {"cell": jnp.zeros((2, 3, 3))}

    def whole(weights):
        slopes = jax.grad(lambda shift: inner(weights, after.arch, shift)[0])(level)
        return inner(weights, after.arch)[0] - 0.5 * alignment(slopes["cell"])

    expected = jax.jit(jax.grad(whole))(state.weights)
    plain_part = jax.grad(lambda weights: inner(weights, after.arch)[0])(state.weights)
    for g, before, now in zip(*map(jax.tree.leaves, (expected, state.weights, after.weights))):
        np.testing.assert_allclose(before - now, g, rtol=within, atol=1e-2 * within)
    assert max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (expected, plain_part)))) > 1e-2


@pytest.mark.parametrize("settings", [{"strength": 0.0}, {"epoch": 0}])
def test_without_strength_it_is_darts(settings):
    epoch = settings.pop("epoch", 3)
    (*_, one, _, _), (*_, other, _, _) = state_after(lambda_darts, epoch, **settings), state_after(darts, epoch)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), one.weights, other.weights)


def test_what_it_cannot_align_is_refused():
    for space in plain(), s1((8, 8, 3), 10, channels=4, cells=3):
        if not space.cells:
            with pytest.raises(ValueError, match=f"space {space.name} does not tell two apart"):
                check_search(space, {})
    assert darts_space((8, 8, 3), 10, channels=4, cells=5).cells == {"normal": 3, "reduce": 2}
    with pytest.raises(ValueError, match="step is -1"):
        lambda_darts(step=-1.0)
    for factory in rarts, snas:
        with pytest.raises(ValueError, match="cannot be joined with a method that changes their gradient"):
            lambda_darts.change(factory()).bind(two_cells(), TASK)


class Cell(nn.Module):
    """One edge."""

    @nn.compact
    def __call__(self, x, gates, train):
        return MixedOp({"skip": Identity, "conv": partial(ReLUConvBN, kernel=1)}, name="edge_0")(x, gates[0], train)


class Stack(nn.Module):
    """Three cells of one edge, as a loop or not."""

    scan: bool

    @nn.compact
    def __call__(self, images, gates, train):
        x = Conv(4, 1, name="stem")(images)
        return Repeated(Cell, 3, self.scan, name="stack")(x, of_cells(gates["g"], 0, 3), train).mean((1, 2))


def stack(scan):
    return flax_space("stack", Stack(scan), {"g": Group(((0, 1),), ("skip", "conv"))}, image=(4, 4, 1), cells={"g": 3})


@pytest.mark.parametrize("make", [
    partial(stack, True), partial(stack, False), *(pytest.param(make, marks=pytest.mark.heavy) for make in (
        partial(nasbench201, (4, 4, 1), 3, channels=2, cells=2, scan="on"),
        partial(nasbench201, (4, 4, 1), 3, channels=2, cells=2, scan="off"),
        partial(darts_space, (4, 4, 1), 3, channels=4, cells=4)))])
def test_gates_by_cell(make):
    """Alike in all cells they are the shared ones; those of each cell count, and in its place."""
    with jax.enable_x64(False):
        space, rng = make(), np.random.default_rng(0)
        images = rng.normal(size=(3, 4, 4, 1)).astype(np.float32)
        weights, stats = space.init(KEY, jnp.zeros((1, 4, 4, 1)))
        gates = {name: jnp.asarray(rng.uniform(0.1, 0.3, group.shape), jnp.float32) for name, group in space.groups.items()}
        apart = {name: jnp.tile(rows, (space.cells[name], 1, 1)) for name, rows in gates.items()}
        outputs = jax.jit(lambda gates: space.apply(weights, stats, gates, images, train=False)[0])
        shared = outputs(gates)
        np.testing.assert_allclose(outputs(apart), shared, rtol=1e-4, atol=1e-5)
        others = [outputs({**apart, name: rows.at[cell, :, -1].add(0.3)}) for name, rows in apart.items()
                  for cell in range(len(rows))]
    for place, one in enumerate(others):
        assert min(np.abs(one - other).max() for other in (shared, *others[:place])) > 1e-4


@pytest.mark.parametrize("scan", [True, False])
def test_gradients_of_the_cells_add_up(scan):
    with jax.enable_x64(False):
        space, images = stack(scan), np.random.default_rng(0).normal(size=(3, 4, 4, 1)).astype(np.float32)
        weights, stats = space.init(KEY, jnp.zeros((1, 4, 4, 1)))
        gates = {"g": jnp.array([[0.3, 0.7]])}
        loss = jax.grad(lambda gates: (space.apply(weights, stats, gates, images, train=True)[0] ** 2).sum())
        shared, apart = loss(gates)["g"], loss({"g": jnp.tile(gates["g"], (3, 1, 1))})["g"]
    np.testing.assert_allclose(apart.sum(0), shared, rtol=1e-4)
    assert np.abs(apart[0] - apart[1]).max() > 1e-3


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["lambda-darts", "oles", "lambda-darts+p-darts"])
def test_they_are_searched_by_the_command(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = ["--method.arch-warmup", "1"] if "p-darts" in name else []
    argv = ["search", "--space", "nasbench201", "--space.channels", "4", "--method", name, "--epochs", "2", "--batch", "32",
            "--limit", "200", "--run", "run", *more, *QUICK]
    with jax.enable_x64(False):
        assert main(argv) == 0 and main(argv) == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
