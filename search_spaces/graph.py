"""Graph neural networks in the manner of SANE (Zhao, Yao & Tu, ICDE 2021, arXiv 2104.06608), on one graph at a time.

    x   = dropout(BN(Linear(dropout(features))))
    x   = dropout(elu(BN(aggregator_l(x, graph))))     for each layer l
    jk  = the x of every layer whose skip is chosen; the last one's always is
    out = MLP(layer aggregator(jk))

Searched are the node aggregator of each layer, its skip, and the layer aggregator. The data gives the graph: all nodes
are computed at every step, and an "image" is the number of a node. Batches as large as the train split are full batches.

    dnas search --space graph --data cora.npz --batch 140 --epochs 120 --method.lr 0.2 --method.arch-lr 0.003

ends with 62 % of the hold-out right (the largest class has 30 %), under dropout, which the toolkit leaves on whenever it
judges a supernet; one to two seconds an epoch on two CPU cores. At a learning rate of 0.025 it takes many more epochs.

Departures from the authors' code: batch norm, without which a mixture hardly learns; each layer has logits of its own
(there all use those of the first); GraphSAGE leaves a node out of its own neighbourhood, and has the maximum too, but
GeniePath is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dnas.types import Group, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import BatchNorm, Identity, Linear, Zero, torch_uniform
from search_spaces.sizes import check_sizes

if TYPE_CHECKING:
    from dnas.data.graphs import Graph


class Arcs(NamedTuple):
    """Directed edges: arc number a goes from node senders[a] to node receivers[a]; both int32 [A]."""

    senders: np.ndarray
    receivers: np.ndarray
    nodes: int


def arcs(edges: np.ndarray, nodes: int, *, loops: bool) -> Arcs:
    """Both directions of undirected `edges` [2, E], and where `loops` one from each node to itself."""
    own = np.arange(nodes if loops else 0)
    senders, receivers = (np.concatenate([*pair, own]).astype(np.int32) for pair in (edges, edges[::-1]))
    order = np.lexsort((senders, receivers))
    return Arcs(senders[order], receivers[order], nodes)


def total(values, on: Arcs):
    """For each node the sum of `values` [A, ...] over the arcs that end there."""
    return jax.ops.segment_sum(values, on.receivers, on.nodes, indices_are_sorted=True)


def mean(values, on: Arcs):
    """The mean, 0 where no arc ends."""
    degree = np.maximum(np.bincount(on.receivers, minlength=on.nodes), 1)
    return total(values, on) / degree.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)


def largest(values, on: Arcs):
    """The maximum, 0 where no arc ends."""
    ended = np.bincount(on.receivers, minlength=on.nodes).reshape(-1, *[1] * (values.ndim - 1)) > 0
    return jnp.where(ended, jax.ops.segment_max(values, on.receivers, on.nodes, indices_are_sorted=True), 0)


def shares(scores, on: Arcs):
    """Softmax of `scores` [A, ...] among the arcs that end at the same node."""
    top = jax.lax.stop_gradient(largest(scores, on))[on.receivers]
    weights = jnp.exp(scores - top)
    return weights / total(weights, on)[on.receivers]


def gcn(x, looped: Arcs):
    """D^-1/2 (A + I) D^-1/2 x of `x` [N, C] (Kipf & Welling, arXiv 1609.02907); the arcs include loops."""
    root = np.bincount(looped.receivers, minlength=looped.nodes) ** -0.5
    scale = (root[looped.senders] * root[looped.receivers])[:, None].astype(x.dtype)
    return total(scale * x[looped.senders], looped)


def attention(kind: str, to, from_, x, looped: Arcs):
    """Sum over the arcs j -> i of share_ij x_j, heads apart: `x` [N, H, C], `to` and `from_` [H, C] -> [N, H, C].

    The shares are a softmax over j of the scores, with l_i = to . x_i and r_j = from . x_j:
        gat (Velickovic et al., arXiv 1710.10903): leaky(l_i + r_j)     sym: leaky(l_i + r_j) + leaky(l_j + r_i)
        cos: sum((to * x_i) * (from * x_j))     linear: tanh(l_i + r_j)     gen_linear: sum(tanh(to * x_i + from * x_j))
    where leaky has slope 0.2 below zero.
    """
    i, j, leaky = looped.receivers, looped.senders, partial(nn.leaky_relu, negative_slope=0.2)
    towards, away = to * x, from_ * x
    l, r = towards.sum(-1), away.sum(-1)
    scores = {
        "gat": lambda: leaky(l[i] + r[j]),
        "sym": lambda: leaky(l[i] + r[j]) + leaky(l[j] + r[i]),
        "cos": lambda: (towards[i] * away[j]).sum(-1),
        "linear": lambda: nn.tanh(l[i] + r[j]),
        "gen_linear": lambda: nn.tanh(towards[i] + away[j]).sum(-1),
    }[kind]()
    return total(shares(scores, looped)[..., None] * x[j], looped)


class Gcn(nn.Module):
    """GCN: the normalised sum of the transformed neighbours."""

    channels: int
    looped: Arcs

    @nn.compact
    def __call__(self, x):
        x = Linear(self.channels, name="linear")(x)
        return gcn(x.reshape(len(x), -1), self.looped).reshape(x.shape)


class Sage(nn.Module):
    """GraphSAGE (Hamilton et al., arXiv 1706.02216): the node transformed, plus its neighbours' sum, mean or maximum."""

    channels: int
    arcs: Arcs
    collect: Callable

    @nn.compact
    def __call__(self, x):
        around = self.collect(x[self.arcs.senders], self.arcs)
        return Linear(self.channels, name="own")(x) + Linear(self.channels, name="neighbours")(around)


class Gin(nn.Module):
    """GIN (Xu et al., arXiv 1810.00826) with eps 0: two layers on the node plus its neighbours' sum."""

    channels: int
    arcs: Arcs

    @nn.compact
    def __call__(self, x):
        x = nn.relu(Linear(self.channels, name="first")(x + total(x[self.arcs.senders], self.arcs)))
        return Linear(self.channels, name="second")(x)


class Gat(nn.Module):
    """A transformation, then `attention` of this kind in several heads, side by side."""

    channels: int
    looped: Arcs
    kind: str
    heads: int

    @nn.compact
    def __call__(self, x):
        heads = self.heads if self.channels % self.heads == 0 else 1
        y = Linear(self.channels, name="linear")(x).reshape(len(x), heads, -1)
        to, from_ = (self.param(name, torch_uniform, y.shape[1:], jnp.float32, y.shape[-1]).astype(y.dtype)
                     for name in ("to", "from"))
        return attention(self.kind, to, from_, y, self.looped).reshape(x.shape)


class Aggregator(nn.Module):
    """One of the four, batch norm and ELU. Without the norm the sums over many neighbours would drown the others."""

    channels: int
    inner: Callable
    affine: bool
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        return nn.elu(BatchNorm(self.affine, name="bn")(self.inner(self.channels, name="inner")(x), train))


class Reduce(nn.Module):
    """A reduction over the layers `[N, L, 1, C] -> [N, 1, 1, C]`."""

    channels: int
    how: Callable
    stride: int = 1

    def __call__(self, x, train):
        return nn.relu(self.how(x, axis=1, keepdims=True))


class Concat(nn.Module):
    """The layers side by side, transformed to the width of one."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        return nn.relu(Linear(self.channels, name="linear")(x.reshape(len(x), 1, 1, -1)))


class Attend(nn.Module):
    """A mean of the layers, weighted by a softmax of one score for each."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        return nn.relu((nn.softmax(Linear(1, name="score")(x), 1) * x).sum(1, keepdims=True))


class Lstm(nn.Module):
    """`Attend`, its scores read off an LSTM that runs over the layers in both directions (jumping knowledge,
    arXiv 1806.03536)."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        both = [self.run(x, "forward"), self.run(x[:, ::-1], "backward")[:, ::-1]]
        scores = Linear(1, name="score")(jnp.concatenate(both, -1))
        return nn.relu((nn.softmax(scores, 1) * x).sum(1, keepdims=True))

    def run(self, x, name):
        gate, state = Linear(4 * self.channels, name=name), jnp.zeros_like(x[:, 0])
        cell, seen = state, []
        for layer in range(x.shape[1]):
            keep, write, show, new = jnp.split(gate(jnp.concatenate([x[:, layer], state], -1)), 4, -1)
            cell = nn.sigmoid(keep) * cell + nn.sigmoid(write) * nn.tanh(new)
            state = nn.sigmoid(show) * nn.tanh(cell)
            seen.append(state)
        return jnp.stack(seen, 1)


class Features(nn.Module):
    """A linear map of sparse features, each row of them scaled to sum 1: one product for each entry that is not zero."""

    channels: int
    graph: Graph

    @nn.compact
    def __call__(self, dtype, drop):
        graph = self.graph
        weight = self.param("kernel", torch_uniform, (graph.features, self.channels)).astype(dtype)
        rows = np.repeat(np.arange(graph.nodes), np.diff(graph.starts))
        sums = np.maximum(np.bincount(rows, np.abs(graph.values), graph.nodes), 1e-12)
        values = drop((graph.values / sums[rows]).astype(dtype))
        terms = values[:, None] * weight[graph.columns]
        return jax.ops.segment_sum(terms, rows, graph.nodes, indices_are_sorted=True)


class Network(nn.Module):
    """All nodes through `layers` layers; of the result the wanted rows."""

    graph: Graph
    classes: int
    layers: int
    hidden: int
    heads: int
    dropout: float
    affine: bool = False

    @nn.compact
    def __call__(self, images, gates, train):
        aggregators, collectors = node_ops(self.graph, self.heads, self.affine), layer_ops()
        drop = partial(self.dropped, train=train)
        x = Features(self.hidden, self.graph, name="features")(images.dtype, drop)[:, None, None]
        x = self.dropped(BatchNorm(name="features_bn")(x, train), train)
        seen = []
        for l in range(self.layers):
            x = MixedOp(aggregators, name=f"layer_{l}")(x, gates["node"][l], train)
            x = self.dropped(x, train)
            last = l == self.layers - 1
            seen.append(x if last else MixedOp(SKIPS, name=f"skip_{l}")(x, gates["skip"][l], train))
        x = MixedOp(collectors, name="collect")(jnp.concatenate(seen, 1), gates["layer"][0], train)
        x = x.mean((1, 2))[images.reshape(-1).astype(jnp.int32)]
        return Linear(self.classes, name="head")(nn.relu(Linear(self.hidden, name="hidden")(x)))

    def dropped(self, x, train):
        """Dropout while training, in calls with a key."""
        if not (train and self.dropout and self.has_rng("dropout")):
            return x
        stays = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout, x.shape)
        return jnp.where(stays, x / (1 - self.dropout), 0)


SKIPS = {"none": Zero, "skip": Identity}


def node_ops(graph: Graph, heads: int, affine: bool = False) -> dict[str, Callable]:
    """Constructors of the node aggregators on this graph."""
    plain, looped = (arcs(graph.edges, graph.nodes, loops=loops) for loops in (False, True))
    inner = {
        "gcn": partial(Gcn, looped=looped), "sage_mean": partial(Sage, arcs=plain, collect=mean),
        "sage_max": partial(Sage, arcs=plain, collect=largest), "sage_sum": partial(Sage, arcs=plain, collect=total),
        "gin": partial(Gin, arcs=plain),
        **{"gat" if kind == "gat" else f"gat_{kind}": partial(Gat, looped=looped, kind=kind, heads=heads)
           for kind in ("gat", "sym", "cos", "linear", "gen_linear")}}
    return {name: partial(Aggregator, inner=module, affine=affine) for name, module in inner.items()}


def layer_ops() -> dict[str, Callable]:
    """Constructors of the layer aggregators."""
    return {"max": partial(Reduce, how=jnp.max), "concat": Concat, "lstm": Lstm, "sum": partial(Reduce, how=jnp.sum),
            "attention": Attend, "mean": partial(Reduce, how=jnp.mean)}


def graph(graph: Graph | None, classes=7, *, layers: int = 3, hidden: int = 32, heads: int = 8,
          dropout: float = 0.5) -> SearchSpace:
    """The space on one graph, which the data gives: `--data cora.npz`.

    Multiply-adds count dense products of all nodes, and leave out the sums over edges.

    Args:
        graph: as `dnas.data` reads it; the genotype's options do not hold it.
        classes: number of classes.
        layers: node aggregators one after another. Published: 3.
        hidden: channels of every layer. Published: 32.
        heads: of attention; one where they do not divide the channels. Published: 8.
        dropout: share of the activations dropped while training. Published: 0.5.

    Raises ValueError where a value is out of range, or the graph is missing.
    """
    if graph is None:
        raise ValueError("space graph needs --data that is a graph, a .npz in planetoid's form (`dnas datasets`); "
                         "this data is none")
    check_sizes("graph", layers=layers, hidden=hidden, heads=heads, classes=classes)
    if min(layers, hidden, heads) < 1 or not 0 <= dropout < 1 or classes < 2:
        raise ValueError("space graph needs layers, hidden and heads >= 1, dropout in [0, 1), classes >= 2, "
                         f"got {layers}, {hidden}, {heads}, {dropout}, {classes}")
    groups = {"node": Group(tuple((l, l + 1) for l in range(layers)), tuple(node_ops(graph, heads))),
              "layer": Group(((layers + 1, layers + 2),), tuple(layer_ops()))}
    if layers > 1:
        groups["skip"] = Group(tuple((l + 1, layers + 1) for l in range(layers - 1)), tuple(SKIPS))
    options = {"classes": classes, "layers": layers, "hidden": hidden, "heads": heads, "dropout": dropout}
    network = partial(Network, graph, classes, layers, hidden, heads, dropout)
    return flax_space("graph", network(), groups, image=(1, 1, 1), options=options, standalone=network(affine=True))
