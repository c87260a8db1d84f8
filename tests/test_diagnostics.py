"""Diagnostics against matrices, slopes and series whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.relaxations import softmax
from dnas.engine.compile import compile_diagnosis, on_device
from dnas.engine.diagnose import collapse, curvature, early_stop, largest_eigenvalue, sharpness, skips
from dnas.engine.search import search
from dnas.methods.darts import darts
from dnas.runs.directory import load_genotype, open_run
from dnas.task import task_of
from dnas.types import Choice, Genotype
from tests.problems import tiny
from tests.toy_space import toy

EPOCHS, BATCH = 3, 16


@pytest.mark.parametrize("size", [3, 30])
def test_largest_eigenvalue_is_the_algebraic_one(size):
    matrix = np.random.default_rng(0).normal(size=(size, size))
    matrix = matrix + matrix.T - 5 * np.eye(size)
    values = np.linalg.eigvalsh(matrix)
    assert abs(values[0]) > abs(values[-1])
    assert largest_eigenvalue(lambda v: matrix @ v, size, tolerance=1e-9) == pytest.approx(values[-1], rel=1e-6)


@pytest.mark.parametrize("size", [3, 30])
def test_largest_eigenvalue_of_a_flat_loss(size):
    assert largest_eigenvalue(lambda v: np.zeros(size), size) == 0


def test_sharpness_of_a_quadratic():
    # L = a |w|^2 / 2: along g the rise is rho |g| + a rho^2 / 2
    weights = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    loss = lambda w: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(w))
    assert float(sharpness(loss, weights, radius=0.05)) == pytest.approx(0.05 * 10 + 0.05**2, rel=1e-4)
    assert float(sharpness(loss, {"a": jnp.zeros(2)})) == 0


def test_products_with_the_hessian_of_the_architecture():
    hessian = np.random.default_rng(0).normal(size=(4, 4))
    hessian = hessian + hessian.T

    class State:
        weights, arch = (), {"g": jnp.asarray(np.arange(4.0).reshape(2, 2), jnp.float32)}

    def loss(player, state, batch, hyper):
        def of(weights, arch):
            flat = hyper["scale"] * arch["g"].ravel()
            return flat @ hessian @ flat / 2

        assert player == "arch"
        return of

    _, product = curvature(loss)
    for vector in np.eye(4):
        found = product(State(), {"scale": 2.0}, None, jnp.asarray(vector))
        np.testing.assert_allclose(found, 4 * hessian @ vector, rtol=1e-4)


def diagnosed(method, data):
    """What a diagnosis says of a state before the first step, whose logits are not all alike."""
    bound, hyper = method.bind(toy(data.image, data.classes), task_of(data)), method.numbers_of(epochs=2, steps=3)
    state = bound.init(jax.random.key(0), jax.ShapeDtypeStruct((BATCH, *data.image), jnp.float32), hyper)
    draw = np.random.default_rng(0)
    state = state._replace(arch={name: jnp.asarray(draw.normal(size=row.shape), jnp.float32)
                                 for name, row in state.arch.items()})
    return compile_diagnosis(bound, data, on_device(data), state, hyper, BATCH)(state, hyper)


def test_the_losses_are_those_of_the_players():
    """A quadratic term adds its factor to every eigenvalue; a term that is the loss again doubles the sharpness; each in the
    player that has it alone."""
    data = tiny()
    quadratic = lambda hyper, t, arch, gates, forward, memory: 0.7 / 2 * sum(jnp.sum(row**2) for row in arch.values())
    again = lambda hyper, t, arch, gates, forward, memory: forward.task.losses(forward.outputs, forward.batch.targets).mean()
    plain = diagnosed(darts(), data)
    curved = diagnosed(darts().extend(arch={"terms": {"ridge": quadratic}}), data)
    steep = diagnosed(darts().extend(weights={"terms": {"again": again}}), data)
    assert curved["eigenvalue"] == pytest.approx(plain["eigenvalue"] + 0.7, abs=2e-3)
    assert curved["sharpness"] == plain["sharpness"] and steep["eigenvalue"] == plain["eigenvalue"]
    assert steep["sharpness"] == pytest.approx(2 * plain["sharpness"], rel=1e-3)


def test_the_losses_are_those_of_the_relaxations():
    """Of gates that are half as large as a softmax in the architecture's player, and the same in the weights' player."""
    data = tiny()
    half = softmax()._replace(gates=lambda *args: {name: row / 2 for name, row in softmax().gates(*args).items()})
    plain, other = diagnosed(darts(), data), diagnosed(darts().extend(arch={"relaxation": half}), data)
    assert other["sharpness"] == plain["sharpness"] and abs(other["eigenvalue"] / plain["eigenvalue"] - 1) > 0.05


@pytest.mark.parametrize("jump, expected", [(20, (22, 10)), (22, (24, 12))])
def test_early_stop_of_a_jump(jump, expected):
    epochs = list(range(0, 50, 2))
    values = [0.1 if epoch < jump else 0.2 for epoch in epochs]
    found = [early_stop(epochs[:n], values[:n]) for n in range(1, len(epochs) + 1)]
    assert next(f for f in found if f) == expected
    assert found.index(expected) == epochs.index(expected[0])


@pytest.mark.parametrize("growth, expected", [(1.03, None), (1.07, 22)])
def test_early_stop_of_steady_growth(growth, expected):
    epochs = list(range(0, 50, 2))
    found = early_stop(epochs, [growth**i for i in range(len(epochs))])
    assert found == expected or found[0] == expected


def test_what_the_records_say():
    calm = {"eigenvalue": 0.1, "skips": 1, "edges": 6}
    assert collapse([]) is None and collapse([{"epoch": 1}]) is None
    assert collapse([{"epoch": 2} | calm]) is None
    found = collapse([{"epoch": 2} | calm, {"epoch": 4} | calm | {"skips": 6}])
    assert found.epoch == 4 and "every edge is a skip connection" in found.reason
    grown = [{"epoch": e} | calm | {"eigenvalue": 0.1 if e < 20 else 0.2} for e in range(0, 24, 2)]
    assert collapse(grown).epoch == 10 and "epoch 22" in collapse(grown).reason


def test_skips_are_counted_by_name():
    ops = ("skip_connect", "nor_conv_1x1", "none", "identity")
    assert skips(Genotype("s", {}, {"g": tuple(Choice(0, i, op) for i, op in enumerate(ops, 1))})) == 2


def searched(data, method=None, **options):
    method = method or darts(lr=0.1)
    return search(toy(data.image, data.classes), method, data, epochs=EPOCHS, batch=BATCH, progress=False, **options)


def test_a_diagnosed_search_records_all_and_changes_nothing():
    data = tiny()
    plain, seen = searched(data), searched(data, diagnose=2)
    assert {"gap", "sharpness", "eigenvalue", "skips", "edges"} <= seen.records[1].keys()
    assert seen.records[0] == plain.records[0] and "gap" not in seen.records[2]
    assert np.array_equal(seen.state.arch["chain"], plain.state.arch["chain"])
    assert np.isfinite([seen.records[1][name] for name in ("gap", "sharpness", "eigenvalue")]).all()


def test_a_collapsing_search_stops_and_stays_stopped(tmp_path, capsys):
    data, skip = tiny(), np.array([[-9, 9, -9, -9]] * 2, np.float32)
    collapsed = softmax()._replace(init=lambda key, groups: {"chain": jnp.asarray(skip)})
    for _ in range(2):
        with open_run(tmp_path / "run", {"name": "toy"}) as run:
            result = searched(data, darts(lr=0.1).extend(relaxation=collapsed), run=run, diagnose=2, stop_on_collapse=True)
        assert len(result.records) == 2 and load_genotype(run.folder) == result.genotype
        assert [choice.op for choice in result.genotype.choices["chain"]] == ["skip", "skip"]
        assert "every edge is a skip connection" in result.stopped.reason and result.stopped.epoch == 2
    assert capsys.readouterr().out == ""
