"""The graph space: aggregation by hand on four nodes, graphs as data sets, and a search of a small one."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import dnas
from dnas.data import describe, load
from dnas.data.graphs import planetoid
from dnas.engine.search import search
from dnas.methods.darts import darts
from launch.main import main
from search_spaces.graph import arcs, attention, gcn, largest, mean, node_ops, shares, total
from search_spaces.graph import graph as graph_space

EDGES = np.array([[0, 1, 1], [1, 2, 3]])
"""A star: node 1 in the middle of 0, 2 and 3."""
X = np.array([[1.0, -2], [3, 5], [-1, 4], [2, -7]])
PLAIN, LOOPED = arcs(EDGES, 4, loops=False), arcs(EDGES, 4, loops=True)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_sums_means_and_maxima_by_hand():
    sent = X[PLAIN.senders]
    others = X[0] + X[2] + X[3]
    np.testing.assert_allclose(total(sent, PLAIN), [X[1], others, X[1], X[1]])
    np.testing.assert_allclose(mean(sent, PLAIN), [X[1], others / 3, X[1], X[1]])
    np.testing.assert_allclose(largest(sent, PLAIN), [X[1], [2, 4], X[1], X[1]])
    lonely = arcs(EDGES, 5, loops=False)
    sent = np.concatenate([X, X[:1]])[lonely.senders]
    for collect in total, mean, largest:
        np.testing.assert_array_equal(collect(sent, lonely)[4], 0)


def test_gcn_is_the_normalised_matrix_product():
    one_way = sparse.coo_matrix((np.ones(3), EDGES), (4, 4))
    adjacency = one_way + one_way.T + sparse.eye(4)
    half = sparse.diags(np.asarray(adjacency.sum(1)).ravel() ** -0.5)
    np.testing.assert_allclose(gcn(X, LOOPED), half @ adjacency @ half @ X, rtol=1e-12)
    third = 1 / np.sqrt(8)
    np.testing.assert_allclose(gcn(X, LOOPED)[0], X[0] / 2 + third * X[1], rtol=1e-12)


@pytest.mark.parametrize("kind, score", [
    ("gat", lambda l, r, i, j, a, b: leaky(l[i] + r[j])),
    ("sym", lambda l, r, i, j, a, b: leaky(l[i] + r[j]) + leaky(l[j] + r[i])),
    ("cos", lambda l, r, i, j, a, b: a[i] @ b[j]),
    ("linear", lambda l, r, i, j, a, b: np.tanh(l[i] + r[j])),
    ("gen_linear", lambda l, r, i, j, a, b: np.tanh(a[i] + b[j]).sum())])
def test_attention_by_hand(kind, score):
    """Two heads of two channels, the second with other numbers."""
    heads = np.stack([X, 0.3 * X[::-1]], 1)
    to, from_ = np.array([[0.5, 0.1], [0.2, 0.4]]), np.array([[-0.3, 0.2], [1.0, 0.5]])
    found = attention(kind, to, from_, jnp.asarray(heads), LOOPED)
    for h in range(2):
        a, b = heads[:, h] * to[h], heads[:, h] * from_[h]
        for i, around in enumerate([(0, 1), (0, 1, 2, 3), (1, 2), (1, 3)]):
            weights = np.exp([score(a.sum(1), b.sum(1), i, j, a, b) for j in around])
            expected = weights @ heads[list(around), h] / weights.sum()
            np.testing.assert_allclose(found[i, h], expected, rtol=1e-12)


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def test_shares_sum_to_one_however_large_the_scores():
    scores = np.random.default_rng(0).normal(size=(len(LOOPED.senders), 2)) * 1e3
    np.testing.assert_allclose(total(shares(scores, LOOPED), LOOPED), 1, rtol=1e-12)


def small(nodes=40, seed=0):
    """Arrays of a ring whose nodes' labels come in four arcs, with features that hint at them."""
    rng = np.random.default_rng(seed)
    y = (np.arange(nodes) * 4 // nodes).astype(np.int8)
    ring = np.arange(nodes)
    x = sparse.csr_matrix((rng.random((nodes, 8)) < 0.3) | (np.arange(8) // 2 == y[:, None]), dtype=np.float32)
    return {"x_data": x.data, "x_indices": x.indices, "x_indptr": x.indptr, "x_shape": np.array(x.shape),
            "edge_index": np.stack([ring, (ring + 1) % nodes]), "y": y, "train_idx": ring[::4], "val_idx": ring[1::4],
            "test_idx": ring[2::4]}


def built(arrays=None, **options):
    data = planetoid("a", "a", arrays or small())
    return data, graph_space(data.graph, data.classes, **{"layers": 2, "hidden": 4, "heads": 2} | options)


@pytest.mark.parametrize("op", node_ops(planetoid("a", "a", small()).graph, 2))
def test_node_aggregators_do_not_know_the_nodes_numbers(op):
    graph, rng = planetoid("a", "a", small()).graph, np.random.default_rng(1)
    order, x = rng.permutation(40), rng.normal(size=(40, 1, 1, 4))
    moved = graph._replace(edges=np.argsort(order)[graph.edges])
    here, there = (node_ops(version, 2)[op](channels=4) for version in (graph, moved))
    variables = here.init(jax.random.key(0), x, False)
    np.testing.assert_allclose(there.apply(variables, x[order], False), here.apply(variables, x, False)[order], rtol=1e-9)


def test_rows_asked_for_are_those_nodes_and_one_hot_gates_the_discrete_network():
    data, space = built()
    weights, stats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), space.init(jax.random.key(0), data.inputs))
    numbers = np.asarray(data.inputs, np.float64)
    supernet = jax.jit(lambda gates, rows, key: space.apply(weights, stats, gates, rows, train=True, key=key)[0])
    for seed in range(2):
        rng = np.random.default_rng(seed)
        genotype = dnas.Genotype.from_decisions(
            space, {g: rng.integers(0, group.shape[1], group.shape[0]) for g, group in space.groups.items()})
        whole = supernet(genotype.gates(space.groups), numbers, jax.random.key(5))
        single, _ = space.apply(space.inherit(weights, genotype), space.inherit(stats, genotype), genotype, numbers[[7, 3]],
                                train=True, key=jax.random.key(5))
        np.testing.assert_allclose(single, whole[np.array([7, 3])], rtol=1e-10, atol=1e-12)


def test_gradient_reaches_the_gates_of_every_layer():
    """SANE's own code gives all layers the logits of the first."""
    data, space = built()
    weights, stats = space.init(jax.random.key(0), data.inputs)
    sides = np.random.default_rng(0).normal(size=(40, 4))
    gates = {g: jnp.full(group.shape, 1 / group.shape[1]) for g, group in space.groups.items()}
    grads = jax.jit(jax.grad(lambda gates: jnp.sum(
        sides * space.apply(weights, stats, gates, data.inputs, train=True, key=jax.random.key(0))[0])))(gates)
    for g, group in space.groups.items():
        assert (np.abs(grads[g]) > 1e-9).sum() == group.shape[0] * (group.shape[1] - (g == "skip"))


def test_splits_of_a_graph():
    data = planetoid("a", "ring", small())
    assert [len(data.splits[part]) for part in ("train", "valid", "holdout", "test")] == [10, 10, 10, 10]
    assert data.image == (1, 1, 1) and (data.pad, data.flip) == ((0, 0), False)
    assert describe(data).startswith("ring: a graph of 40 nodes and 40 edges, 8 features, 4 classes\ntrain 10, valid 10,")
    whole = small() | {"val_idx": np.setdiff1d(np.arange(40), np.concatenate([small()["train_idx"], small()["test_idx"]]))}
    data = planetoid("a", "ring", whole)
    assert [len(data.splits[part]) for part in ("train", "valid", "holdout", "test")] == [10, 16, 4, 10]
    assert sorted(data.targets[data.splits["holdout"]]) == [0, 1, 2, 3]


@pytest.mark.parametrize("changes, message", [
    ({"edge_index": np.array([[0, 1], [1, 40]])}, "edge_index must hold whole numbers 0..39"),
    ({"edge_index": np.array([[0, 1], [1, 0]])}, "two nodes twice"),
    ({"edge_index": np.array([[3], [3]])}, "joins a node with itself"),
    ({"edge_index": np.array([0, 1])}, "edge_index has shape"),
    ({"x_shape": np.array([39, 8])}, "must hold whole numbers 0..38"),
    ({"x_indptr": np.arange(41)}, "x_indptr does not divide"),
    ({"x_data": np.array([np.nan])}, "x_data and x_indices"),
    ({"y": np.zeros(3, int)}, "3 labels for 40 images"),
    ({"val_idx": np.array([0])}, "share nodes"),
    ({"train_idx": np.array([], int)}, "no nodes for train")])
def test_graphs_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        planetoid("a.npz", "a", small() | changes)


def test_the_space_needs_a_graph_and_a_graph_this_space(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("ring.npz", **small())
    np.savez("part.npz", **{name: array for name, array in small().items() if name != "val_idx"})
    for argv, message in [
            (["--space", "graph"], "space graph needs --data that is a graph"),
            (["--data", "ring.npz", "--batch", "8"], "images of 1x1 are too small for nasbench201"),
            (["--space", "graph", "--data", "ring.npz", "--limit", "8"], "limit 8 is not for a graph"),
            (["--space", "graph", "--data", "part.npz"], "part.npz: no array val_idx"),
            (["--space", "graph", "--data", "ring.npz", "--batch", "8", "--space.dropout", "1"], "dropout in [0, 1)")]:
        assert main(["search", *argv]) == 2
        assert message in capsys.readouterr().err


def test_search(monkeypatch):
    monkeypatch.setattr("search_spaces.graph.node_ops", lambda *_: dict(list(node_ops(*_).items())[:3]))
    with jax.enable_x64(False):
        data, space = built(layers=1)
        result = search(space, darts(), data, epochs=2, batch=10, progress=False)
    assert len(result.records) == 2 and all(np.isfinite(record["loss"]["holdout"]) for record in result.records)
    assert set(result.genotype.choices) == set(space.groups)


def test_search_by_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DNAS_CACHE", "off")
    monkeypatch.setattr("search_spaces.graph.node_ops", lambda *_: dict(list(node_ops(*_).items())[:3]))
    np.savez("ring.npz", **small())
    argv = ["--space", "graph", "--data", "ring.npz", "--batch", "10", "--epochs", "2", "--space.hidden", "4",
            "--space.layers", "1", "--no-progress"]
    with jax.enable_x64(False):
        assert main(["search", *argv, "--run", "run"]) == 0, capsys.readouterr().err
    assert "train 10, valid 10, holdout 10, test 10 nodes" in capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2 and all(np.isfinite(record["loss"]["holdout"]) for record in records)


def test_cora():
    if "DNAS_DATA" not in os.environ:
        pytest.skip("DNAS_DATA names no folder of data")
    data = load(os.path.join(os.environ["DNAS_DATA"], "cora.npz"))
    assert (data.graph.nodes, data.graph.edges.shape[1], data.graph.features, data.classes) == (2708, 5278, 1433, 7)
    assert [len(data.splits[part]) for part in ("train", "valid", "holdout", "test")] == [140, 500, 1068, 1000]
    assert (np.bincount(data.targets[data.splits["train"]]) == 20).all()
