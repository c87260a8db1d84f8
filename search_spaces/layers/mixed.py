"""The mixed operation: one module for the supernet and for the discrete network."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from dnas.one_hot import gates_are_one_hot
from dnas.platform import on_cpu
from dnas.shared_options import current_options
from dnas.types import REMOVED, SKIP_DROPOUT, is_skip
from search_spaces.layers.forms import check_name, in_bundle, unstack
from search_spaces.layers.kernels import materialised

_dropping = contextvars.ContextVar("drop_path", default=None)


@contextlib.contextmanager
def drop_path(probability) -> Iterator[None]:
    """Networks called with `train` inside the block drop what an operation puts out, image by image, with this
    probability, and scale up what is left (DARTS; FractalNet, arXiv 1605.07648). An identity is never dropped.

    probability: a scalar in [0, 1), traced or not; None for no dropping. Needs the stream `dropout`.
    """
    token = _dropping.set(probability)
    try:
        yield
    finally:
        _dropping.reset(token)


READS = (SKIP_DROPOUT,)
"""Entries of gates beside the groups that every `MixedOp` obeys inside `reading`."""

_entries = contextvars.ContextVar("entries", default=MappingProxyType({}))


@contextlib.contextmanager
def reading(gates: Mapping) -> Iterator[None]:
    """Networks called inside the block obey the entries READS of `gates`."""
    token = _entries.set({name: gates[name] for name in READS if name in gates})
    try:
        yield
    finally:
        _entries.reset(token)


class Chosen(int):
    """The index of an operation, or REMOVED, of an edge that says which operations it has: `ops`, and its name: `edge`."""

    def __new__(cls, index: int, ops: tuple[str, ...], edge: str):
        chosen = super().__new__(cls, index)
        chosen.ops, chosen.edge = ops, edge
        return chosen


class MixedOp(nn.Module):
    """The operations of one edge, mixed by a gate or reduced to one of them (DARTS, arXiv 1806.09055, eq. 2).

    ops: name -> constructor, called with `channels`, `stride` and `name`; the operation is called `(x, train)`.
    channels: default, those of the input. stride: of the edge. Inputs are images `[B, H, W, C]`, sequences `[B, T, C]` or
    rows `[B, C]`, whatever the operations take.

    Called with `gate`: an array `[K]` gives sum_k gate[k] * op_k(x); a Python integer gives that operation alone and
    builds no other; REMOVED gives zeros.

    With partial channels (PC-DARTS, arXiv 1907.05737, eq. 1) the operations see the first channels only, and the others
    pass by, max-pooled where the edge strides, times the sum of the gate: 1, or the edge's weight where edges have one. An
    edge that puts out twice the channels that it reads lets them pass twice.
    """

    ops: Mapping[str, Callable[..., nn.Module]]
    channels: int | None = None
    stride: int = 1

    def __post_init__(self):
        self.ops = tuple(dict(self.ops).items())  # Flax sorts dicts where a module is repeated in a loop
        super().__post_init__()

    @nn.compact
    def __call__(self, x, gate, train):
        names, parts = [name for name, _ in self.ops], current_options().partial_channels
        if not in_bundle():
            check_name(self.name or "")
        channels = self.channels or x.shape[-1]
        x = materialised(x)
        seen, passed = divided(x, channels, self.name)

        def build(edge, x, k):
            def run(edge, x):
                name, operation = edge.ops[k]
                y = operation(channels=channels // parts, stride=edge.stride, name=name)(x, train)
                identity, entries = y is x, _entries.get()
                if train and SKIP_DROPOUT in entries and is_skip(name):
                    y = edge.thinned(y, entries[SKIP_DROPOUT], y.shape)
                return edge.dropped(y) if train and _dropping.get() is not None and not identity else y

            if current_options().remat and not isinstance(gate, int):
                return nn.remat(run)(edge, x)
            return run(edge, x)

        if isinstance(gate, int):
            if isinstance(gate, Chosen) and gate.ops != tuple(names):
                raise ValueError(f"{gate.edge} has the operations {', '.join(gate.ops)}; the module mixes "
                                 f"{', '.join(names)} there, and they must be the same in the same order")
            if gate == REMOVED:
                shape = jax.eval_shape(lambda x: strided(x, self.stride), x).shape
                return jnp.zeros((*shape[:-1], channels), x.dtype)
            mixed, weight = build(self, seen, gate), 1
        else:
            if gate.shape != (len(names),):
                raise ValueError(f"edge {self.name!r} mixes {len(names)} operations, {', '.join(names)}; its gates have "
                                 f"shape {gate.shape}, and the group must name as many")
            gate, weight = gate.astype(x.dtype), gate.sum()
            if gates_are_one_hot() and on_cpu() and not self.is_initializing():
                mixed = nn.switch((gate != 0).argmax(), [_one_of(build, k) for k in range(len(names))], self, seen, gate)
            else:
                mixed = self.mixed(gate, [build(self, seen, k) for k in range(len(names))])
        return joined(mixed, passed, weight, channels, self.stride)

    def mixed(self, gate, outputs):
        """sum_k gate[k] * outputs[k]. Raises ValueError for outputs of several shapes."""
        names = [name for name, _ in self.ops]
        for name, output in zip(names, outputs):
            if output.shape != outputs[0].shape:
                raise ValueError(f"edge {self.name!r}: {name} puts out {output.shape}, {names[0]} {outputs[0].shape}; "
                                 "the operations of an edge need one shape")
        if gates_are_one_hot():  # with the gradients that one alone would have
            outputs = [jnp.where(gate[k] != 0, output, 1) for k, output in enumerate(outputs)]
        return (_bundle_mix if in_bundle() and on_cpu() else _mix)(gate, outputs)

    def dropped(self, x):
        """`x [B, ...]` with whole images set to zero, the others scaled so that the mean stays."""
        return self.thinned(x, _dropping.get(), (len(x), *[1] * (x.ndim - 1)))

    def thinned(self, x, probability, shape):
        """`x` with parts set to zero by one draw for each entry of `shape`, the others scaled so that the mean stays."""
        stays = jax.random.bernoulli(self.make_rng("dropout"), 1 - probability, shape)
        return jnp.where(stays, x / jnp.asarray(1 - probability, x.dtype), 0)


def divided(x, channels: int, edge: str | None):
    """The channels of `x [B, ..., C]` that the operations of an edge to so many channels see, and those that pass by, None
    if none do. Raises ValueError, with the edge's name, where partial channels do not divide them."""
    parts, own = current_options().partial_channels, x.shape[-1]
    if parts == 1:
        return x, None
    if channels % parts or own % parts:
        raise ValueError(f"edge {edge!r} has {own} channels, not a multiple of partial_channels {parts}")
    if channels % own:
        raise ValueError(f"edge {edge!r} makes {channels} of {own} channels; with partial_channels it must be a multiple")
    return x[..., :own // parts], x[..., own // parts:]


def joined(mixed, passed, weight, channels: int, stride: int):
    """What an edge of this stride puts out: what its operations make of their channels, and those that pass by times a
    weight, if any, as `divided` gives them."""
    if passed is None:
        return mixed
    window, parts = (stride,) * (passed.ndim - 2), current_options().partial_channels
    if stride > 1 and window:
        passed = nn.max_pool(passed, window, window, "SAME")
    own = passed.shape[-1] * parts // (parts - 1)
    return channel_shuffle(jnp.concatenate([mixed, *[weight * passed] * (channels // own)], -1), parts)


def _one_of(build, k):
    """Operation k alone; the others stand for their gates, which are zero."""
    def run(edge, x, gate):
        y = build(edge, x, k)
        return gate[k] * y + (gate.sum() - gate[k])

    return run


def _mix(gate, outputs):
    return sum(gate[k] * output for k, output in enumerate(outputs))


_bundle_mix = custom_vmap(_mix)


@_bundle_mix.def_vmap
def _mix_edges(edges, batched, gate, outputs):
    """Edge by edge, so that what all edges share is neither copied for each nor its gradient summed along an axis."""
    gates, *outputs = (unstack(array, edges) if axis else [array] * edges
                       for array, axis in zip((gate, *outputs), (batched[0], *batched[1])))
    return jnp.stack([_mix(*edge) for edge in zip(gates, zip(*outputs))]), True


def strided(x, stride: int):
    """Every `stride`-th entry along all axes between the batch and the channels: `x [B, H, W, C]`, `[B, T, C]`, `[B, C]`."""
    return x if stride == 1 else x[(slice(None), *(slice(None, None, stride),) * (x.ndim - 2))]


def channel_shuffle(x, groups: int):
    """Output channel i * groups + j is input channel j * (C / groups) + i: PC-DARTS's mixing of parts over depth."""
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)
