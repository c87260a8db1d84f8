"""NAS-Bench-Macro: its space in both forms, and its table."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dnas
from dnas.shared_options import SharedOptions, shared_options
from dnas.tabular.benchmarks import load
from dnas.tabular.macro import BENCHMARK, from_json
from dnas.tabular.table import choices, evaluator, index, standings, without_test
from dnas.types import REMOVED, Choice, Genotype
from launch.main import main
from search_spaces import macro as space_file
from search_spaces.check import check
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import Identity
from search_spaces.macro import EntangledLayer, InvertedResidual, Stay, macro

REAL = Path(os.environ.get("DNAS_DATA", "/nowhere")) / "nasbench_macro.npz"
needs_data = pytest.mark.skipif(not REAL.is_file(), reason="DNAS_DATA names no folder with nasbench_macro.npz")
BEST = "22212202"
OPS = np.indices((3,) * 8).reshape(8, -1).T
IMAGE = (8, 8, 3)


def write(path, n=6561, **changes):
    """A table of the first n networks, whose accuracy is ten times how many of their layers are large."""
    ops = OPS[:n]
    accuracies = 10.0 * (ops == 2).sum(1)[:, None] + [-1, 0, 1] * (ops == 2).any(1)[:, None]
    arrays = {"ops": ops.astype(np.int8), "cifar10_test": accuracies, "params": np.arange(n), "macs": np.arange(n)}
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return path


# The space

@pytest.mark.parametrize("text, params, macs", [
    ("00000000", 387_882, 7_713_280), ("00010201", 1_179_562, 29_848_064), ("22222222", 2_932_586, 105_660_928)])
def test_its_networks_have_the_published_sizes(text, params, macs):
    space = macro(channels=32)
    assert space.cost(space.parse(text)) == {"params": params, "macs": macs}


@needs_data
@pytest.mark.heavy
def test_the_sizes_are_those_of_the_table():
    """All of them, by the sum over the layers, which at one-hot gates is what `cost` counts."""
    with np.load(REAL) as arrays:
        published = {name: arrays[name] for name in ("ops", "params", "macs")}
    space = macro(channels=32, form="entangled")
    for row in np.random.default_rng(0).integers(len(OPS), size=40):
        expected = space.expected({"layer": np.eye(3)[published["ops"][row]]})
        assert expected == {name: published[name][row] for name in ("params", "macs")}


def test_notation():
    space = macro(IMAGE, channels=1)
    genotype = space.parse(BEST)
    assert space.format(genotype) == BEST and genotype.choices["layer"][6] == Choice(6, 7, "identity")
    for text in ("2221220", "22212203", "|none~0|", ""):
        with pytest.raises(ValueError, match="it must be 8 digits: 0 identity, 1 mb3_k3, 2 mb6_k5"):
            space.parse(text)


@pytest.mark.parametrize("arguments, message", [
    (dict(channels=0), "channels >= 1"), (dict(classes=0), "classes >= 1"), (dict(image=(7, 8, 3)), "images of 7x8"),
    (dict(form="shared"), "form is 'shared'; it must be one of separate, entangled"), (dict(image=(8,)), "is for images")])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        macro(**arguments)


@pytest.mark.parametrize("stride", [1, 2])
def test_an_entangled_layer_at_one_hot_gates_is_the_operation_with_its_part_of_the_weights(stride):
    with jax.enable_x64(True):
        draw, channels = np.random.default_rng(0), 2 * stride
        x = draw.normal(size=(3, 4, 4, 2))
        layer = EntangledLayer(channels, stride)
        variables = layer.init(jax.random.key(0), x, jnp.full(3, 1 / 3), True)
        variables = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape), {"params": variables["params"]})
        weights = variables["params"]
        run = lambda module, weights, *gate: module.apply({"params": weights}, x, *gate, True, mutable=["batch_stats"])[0]

        def part(side, hidden):
            """Of the weights, as `InvertedResidual` names them."""
            at, norm = slice((5 - side) // 2, (5 + side) // 2), lambda name, n: jax.tree.map(
                lambda leaf: leaf[:n], weights[name]["bn"])
            return {"widen": {"kernel": weights["widen"]["kernel"][..., :hidden]}, "bn_widen": norm("bn_widen", hidden),
                    "depthwise": {"kernel": weights["depthwise"]["kernel"][at, at, :, :hidden]},
                    "bn_depthwise": norm("bn_depthwise", hidden), "bn_narrow": norm("bn_narrow", channels),
                    "narrow": {"kernel": weights["narrow"]["kernel"][:, :, :hidden]}}

        singles = [run(Stay(channels, stride), weights.get("identity", {})),
                   run(InvertedResidual(channels, stride), part(3, 6)),
                   run(InvertedResidual(channels, stride, 6, 5), part(5, 12))]
        for k, single in enumerate(singles):
            np.testing.assert_allclose(run(layer, weights, jnp.eye(3)[k]), single, rtol=1e-9, atol=1e-9)
        assert not run(layer, weights, REMOVED).any() and run(layer, weights, REMOVED).shape == singles[0].shape
        mixture = run(layer, weights, jnp.array([0.5, 0.25, 0.25]))
        apart = 0.5 * singles[0] + 0.25 * singles[1] + 0.25 * singles[2]
        assert np.abs(mixture - apart).max() > 1e-3  # weights are mixed before normalisation and ReLU, not outputs


@pytest.mark.heavy
def test_both_forms_have_the_same_networks():
    forms = [macro(IMAGE, 3, channels=2, form=form) for form in space_file.FORMS]
    for text in (BEST, "01210012"):
        costs = [space.cost(space.parse(text)) for space in forms]
        gates = forms[1].parse(text).gates(forms[1].groups)
        assert costs[0] == costs[1] == forms[1].expected(jax.tree.map(np.float64, gates))
    own, shared = (space.cost(None)["params"] for space in forms)
    assert shared < own
    slopes = jax.grad(lambda gates: forms[1].expected({"layer": gates})["macs"])(jnp.full((8, 3), 1 / 3))
    assert (np.diff(slopes) > 0).all()


def test_channels_that_pass_by_an_edge_that_doubles_them():
    """PC-DARTS: an operation sees half of the channels; the others pass twice, max-pooled."""
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    with shared_options(SharedOptions(partial_channels=2)):
        module = MixedOp({"stay": Stay, "wide": InvertedResidual}, 8, 2)
        y, variables = module.init_with_output(jax.random.key(0), x, jnp.array([0.5, 0.25]), True)
        assert variables["params"]["stay"]["conv"]["kernel"].shape == (1, 1, 2, 4) and y.shape == (2, 2, 2, 8)
        pooled = x[..., 2:].reshape(2, 2, 2, 2, 2, 2).max((2, 4))
        np.testing.assert_allclose(y[..., 1::2], np.concatenate([0.75 * pooled] * 2, -1), rtol=1e-6)
        assert EntangledLayer(8, 2).init_with_output(jax.random.key(0), x, jnp.full(3, 1 / 3), True)[0].shape == y.shape
        with pytest.raises(ValueError, match="makes 6 of 4 channels; with partial_channels it must be a multiple"):
            MixedOp({"skip": Identity}, 6).init(jax.random.key(0), x, jnp.ones(1), True)


@pytest.mark.heavy
@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("form", space_file.FORMS)
def test_it_does_what_a_space_must(form, partial):
    with shared_options(SharedOptions(partial_channels=partial)):
        space = macro(IMAGE, 3, channels=2, form=form)
    images = np.random.default_rng(0).normal(size=(4, *IMAGE))
    assert not [finding for finding in check(space, images, 3) if finding.wrong]


@pytest.mark.heavy
@pytest.mark.parametrize("form, method", [("separate", "drnas"), ("entangled", "darts")])
def test_it_can_be_searched_chosen_from_looked_up_and_trained(form, method, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write("macro.npz")
    quick = ["--cache", "off", "--no-progress"]
    limits = ["--limit", "200", "--epochs", "1"]
    assert main(["search", "--space", "macro", "--space.channels", "1", "--space.form", form, "--method", method,
                 *limits, "--run", "run", *quick]) == 0
    assert main(["compare", "run", "--selection", "magnitude", "random", "--table", "macro.npz", "--cache", "off"]) == 0
    told = json.loads(Path("comparison/comparison.json").read_text())
    assert [entry["values"]["table"] for entry in told["entries"]] == [
        10.0 * entry["notation"].count("2") for entry in told["entries"]]
    assert "column cifar10_test_50 of macro.npz" in Path("comparison/report.html").read_text()
    assert main(["train", "run", *limits, "--run", "net", *quick]) == 0, capsys.readouterr().err


# Its table

def test_rows_genotypes_and_texts_are_the_same_networks(tmp_path):
    table, space = load(write(tmp_path / "t.npz")), macro(channels=1)
    assert table.benchmark is BENCHMARK and BENCHMARK.size == 6561 and list(space.groups) == [BENCHMARK.group]
    assert BENCHMARK.ops == tuple(space_file.OPS) and space.groups["layer"].edges == BENCHMARK.edges
    for row in range(0, len(OPS), 331):
        genotype = space.parse("".join(map(str, OPS[row])))
        assert index(table, genotype) == row and choices(table, row) == genotype.choices
        assert evaluator(table)(genotype) == {"cifar10_test_50": 10 * (OPS[row] == 2).sum(), "params_cifar10": row,
                                              "flops_cifar10": row}
    with pytest.raises(ValueError, match="lacks 8 of the 8 edges of a network of macro"):
        index(table, Genotype("macro", {}, {"layer": ()}))
    with pytest.raises(ValueError, match="space 'nasbench201'; .*t.npz is a table of macro"):
        index(table, Genotype("nasbench201", {}, {"cell": ()}))


def test_nothing_of_it_may_be_chosen_by(tmp_path):
    table = load(write(tmp_path / "t.npz"))
    assert set(without_test(table).columns) == {"params_cifar10", "flops_cifar10"}
    study = {"space": {"name": "macro", "channels": 1}, "data": {"source": "digits", "limit": 200}, "methods": ["darts"],
             "selections": ["magnitude"], "seeds": [0], "budget": {"epochs": 1, "batch": 16},
             "table": {"file": str(tmp_path / "t.npz"), "choose": "cifar10_test_50"}}
    with pytest.raises(ValueError, match="'cifar10_test_50' of accuracies to choose; test columns are for reports only"):
        dnas.study(study, tmp_path / "s")
    with pytest.raises(ValueError, match="a table is for runs of macro alone"):
        dnas.study({**study, "space": {"name": "nasbench201"}, "table": {"file": str(tmp_path / "t.npz")}}, tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("changes, message", [
    ({"cifar10_test": np.zeros(9)}, "cifar10_test is float64 [9]; it must be numbers [9, trainings]"),
    ({"cifar10_test": np.zeros((9, 0))}, "[9, 0]"), ({"cifar10_test": np.full((9, 3), 101)}, "has 101 to 101"),
    ({"cifar10_test": np.full((9, 3), np.nan)}, "has nan to nan"), ({"params": -np.ones(9)}, "params_cifar10 has -1"),
    ({"ops": OPS[:9] + 1}, "operations are 0 to 2"), ({"ops": OPS[:9, :7]}, "[N, 6] of NAS-Bench-201 or [N, 8] of NAS")])
def test_malformed_arrays(tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        load(write(tmp_path / "t.npz", 9, **changes))
    assert message in str(error.value) and str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_import_of_the_benchmark_s_own_file(tmp_path, capsys):
    entry = lambda row: {"test_acc": [float(row), row + 0.5, row + 1.0], "mean_acc": row + 0.5, "std": 0.4, "params": 7,
                         "flops": row}
    own = tmp_path / "nas-bench-macro_cifar10.json"
    own.write_text(json.dumps({"".join(map(str, OPS[row])): entry(row) for row in (5, 3)}))
    assert main(["table", "import", str(own), "--out", str(tmp_path / "t.npz")]) == 0, capsys.readouterr().err
    assert "2 networks, 3 columns" in capsys.readouterr().out
    table = load(tmp_path / "t.npz")
    assert table.columns["cifar10_test_50"].tolist() == [3.5, 5.5] and table.ops.tolist() == OPS[[3, 5]].tolist()
    for text in ("[]", "{}", "text", '{"0": {}}', json.dumps({"1": entry(1)}), json.dumps({"11111111": {"test_acc": [1]}})):
        own.write_text(text)
        assert main(["table", "import", str(own), "--out", str(tmp_path / "other.npz")]) == 2
        assert "cannot be read as NAS-Bench-Macro" in capsys.readouterr().err and not (tmp_path / "other.npz").exists()
    with pytest.raises(ValueError, match="NAS-Bench-Macro's own file of networks, each with test_acc, params and flops"):
        from_json('{"00000000": {"test_acc": "x"}}')


@needs_data
def test_published_numbers(capsys):
    table = load(REAL)
    best = index(table, macro(channels=1).parse(BEST))
    assert standings(table, best)["cifar10_test_50"] == (pytest.approx(93.1267, abs=1e-4), 1, 6561, 0)
    values = table.columns["cifar10_test_50"]
    assert (values.mean(), np.median(values), values.min()) == pytest.approx((90.25, 90.99, 45.36), abs=5e-3)
    assert main(["evaluate", BEST, "--table", str(REAL)]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for part in ("cifar10 test 50 93.13 1 of 6,561 0.00", "networks with 32 channels", f"row {best} of 6,561"):
        assert part in words
