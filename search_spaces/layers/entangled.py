"""Layers whose sizes are searched, in weights that all sizes share (TangleNAS, Sukthanker et al., arXiv 2312.10440).

    W~ = W * E[mask],   E[mask] = sum over the choices of their gates times (1 where the chosen size has the entry, else 0)

A width keeps the first channels and a kernel its centre, so that the supernet computes one operation, the largest, whatever
the number of sizes. Of independent choices the mask is a product of one mask an axis; where one choice sets several axes
(a stream that a layer reads and writes, a hidden width that is a multiple of it) it is their joint mask. The mask of a
width multiplies once more behind a normalisation, which divides it out: before it alone, no gradient would reach the gates.

In a discrete network a size is one number, nothing is masked, and arrays have that size.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from dnas.types import REMOVED, Group
from search_spaces.layers.convolution import conv
from search_spaces.layers.depthwise import depthwise
from search_spaces.layers.primitives import BatchNorm as WholeBatchNorm
from search_spaces.layers.primitives import torch_uniform


class Size:
    """A size in a network that is being traced: searched, fixed, or a product of such.

    Made of the numbers that it may be, ascending, and its gate: `gates[group][edge]`, an array `[K]` in the supernet, an
    index in a discrete network. Layers that depend on one choice must share the Size, or products of it: the masks of two
    Sizes made apart multiply as if their choices were independent.

    gates: the arrays of the choices that it depends on, none where it is one number.
    table: the size for each combination of them, an axis a gate.

    Raises ValueError for sizes that are not ascending, gates of another number, or an index that is REMOVED.
    """

    def __init__(self, sizes: Sequence[float], gate):
        sizes = tuple(sizes)
        if not sizes or min(sizes) < 0 or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"the sizes of a choice must be ascending, each once, got {sizes}")
        if isinstance(gate, int):
            if gate == REMOVED:
                raise ValueError(f"{getattr(gate, 'edge', 'a layer')} has no size; the network needs one of "
                                 f"{', '.join(map(str, sizes))} there")
            self.table, self.gates = np.asarray(sizes[gate]), ()
            return
        if gate.shape != (len(sizes),):
            raise ValueError(f"a choice of {len(sizes)} sizes, {', '.join(map(str, sizes))}, has gates of shape "
                             f"{gate.shape}; the group must name as many")
        self.table, self.gates = np.asarray(sizes), (gate,)

    @property
    def largest(self) -> int:
        """The extent of arrays in this network."""
        return int(self.table.max())


def fixed(size: int) -> Size:
    """A size that is not searched."""
    return _size(np.asarray(size), ())


def product(*sizes: Size) -> Size:
    """The product of sizes, cut to a whole number, such as a hidden width that is a ratio times a searched width."""
    gates = _choices(sizes)
    return _size(np.floor(_times(sizes, gates) + 1e-9).astype(np.int64), gates)


def _size(table, gates) -> Size:
    size = Size.__new__(Size)
    size.table, size.gates = table, tuple(gates)
    return size


def _choices(sizes) -> list:
    """The gates that any of the sizes depends on, each once."""
    return list({id(gate): gate for size in sizes for gate in size.gates}.values())


def _axes(size, gates) -> list[int]:
    """The number of each of the size's gates among `gates`."""
    return [next(n for n, other in enumerate(gates) if other is gate) for gate in size.gates]


def _times(sizes, gates) -> np.ndarray:
    """The product of the sizes' tables, an axis for each of `gates`."""
    parts = [part for size in sizes for part in (np.asarray(size.table, np.float64), _axes(size, gates))]
    ones = [part for n, gate in enumerate(gates) for part in (np.ones(len(gate)), [n])]
    return np.einsum(np.ones(()), [], *parts, *ones, list(range(len(gates))))


def mean(table, gates):
    """The mean of a table whose last axes belong to the gates, an axis a gate, under independent choices; in NumPy for
    NumPy's gates."""
    for gate in reversed(gates):
        table = table.astype(gate.dtype) @ gate
    return table


# Masks. An axis of an array is a pair: its size, and which entries each combination of choices has, booleans [K, ..., n].

def prefix(size: Size):
    """The first entries, as many as the size."""
    return size, np.arange(size.largest) < size.table[..., None]


def centre(size: Size):
    """The middle entries, of an odd size."""
    return size, np.abs(np.arange(size.largest) - size.largest // 2) <= size.table[..., None] // 2


def expected_mask(*axes):
    """For each entry of an array with these axes the probability that it is there, with extents of 1 where an axis does
    not matter; None if none is searched."""
    result, left = None, [a for a, (size, _) in enumerate(axes) if size.gates]
    while left:
        part, gates = [], list(axes[left[0]][0].gates)
        while more := [a for a in left if any(gate is other for gate in axes[a][0].gates for other in gates)]:
            part, left = part + more, [a for a in left if a not in more]
            gates = _choices([axes[a][0] for a in part])
        mask = _joint(part, gates, axes)
        result = mask if result is None else result * mask
    return result


def _joint(part, gates, axes):
    """The mask of the axes `part`, which depend on `gates`."""
    numpy = np if all(isinstance(gate, np.ndarray) for gate in gates) else jnp
    names = {a: len(gates) + n for n, a in enumerate(sorted(part))}
    operands = [operand for n, gate in enumerate(gates) for operand in (gate, [n])]
    for a in part:
        size, inside = axes[a]
        operands += [inside.astype(gates[0].dtype), [*_axes(size, gates), names[a]]]
    mask = numpy.einsum(*operands, list(names.values()))
    return mask.reshape([inside.shape[-1] if a in part else 1 for a, (_, inside) in enumerate(axes)])


def masked(array, *axes):
    """An array with these axes times its expected mask."""
    mask = expected_mask(*axes)
    return array if mask is None else array * mask.astype(array.dtype)


# Costs

class Cost:
    """What the layers of a traced network report: sums of products of sizes.

    Exact: a sum of products of independent choices is multilinear in their gates, so its mean is its value at the gates.
    """

    def __init__(self):
        self.terms: list[tuple[tuple[float, float], tuple[Size, ...]]] = []

    def parts(self) -> list[tuple[list, np.ndarray]]:
        """What the mean is a sum of: the gates of each part, and its table `[2, ...]` of parameters and multiply-adds, with
        an axis a gate."""
        parts = {}
        for numbers, sizes in self.terms:
            gates = sorted(_choices(sizes), key=id)
            key, table = tuple(map(id, gates)), np.multiply.outer(numbers, _times(sizes, gates))
            parts[key] = gates, parts[key][1] + table if key in parts else table
        return list(parts.values())

    def mean(self) -> dict:
        """{"params", "macs"} on average; at one-hot gates those of the network, and numbers for NumPy's gates."""
        return dict(zip(("params", "macs"), sum(mean(table, gates) for gates, table in self.parts())))


_counting: contextvars.ContextVar[Cost | None] = contextvars.ContextVar("cost", default=None)
_inside: contextvars.ContextVar[tuple[Size, ...]] = contextvars.ContextVar("inside", default=())


@contextlib.contextmanager
def counting() -> Iterator[Cost]:
    """Layers that are called inside the block report their costs to what it gives."""
    cost = Cost()
    token = _counting.set(cost)
    try:
        yield cost
    finally:
        _counting.reset(token)


def report(*sizes: Size, params: float = 0, macs: float = 0) -> None:
    """A layer has `params` parameters, and `macs` multiply-adds an example, times the product of the sizes."""
    if (cost := _counting.get()) is not None:
        cost.terms.append(((params, macs), (*_inside.get(), *sizes)))


@contextlib.contextmanager
def _present(size: Size) -> Iterator[None]:
    """What is reported inside the block counts times `size`, 1 or 0 for each combination of choices."""
    token = _inside.set((*_inside.get(), size))
    try:
        yield
    finally:
        _inside.reset(token)


# Layers

class Conv(nn.Module):
    """Convolution of images `[B, H, W, into]` with torch's padding, `[B, ceil(H / stride), ceil(W / stride), out]`.

    out: channels; of a depthwise convolution those that it reads. kernel: its side, odd; smaller ones are its centre.
    """

    out: Size
    kernel: Size | int = 3
    stride: int = 1
    depthwise: bool = False
    bias: bool = False

    @nn.compact
    def __call__(self, x, into: Size):
        kernel = self.kernel if isinstance(self.kernel, Size) else fixed(self.kernel)
        if (kernel.table % 2 == 0).any():
            raise ValueError(f"the sides of a kernel must be odd, got {kernel.table.tolist()}")
        _check(self, x, into)
        reads, side = fixed(1) if self.depthwise else into, kernel.largest
        weight = self.param("kernel", torch_uniform, (side, side, reads.largest, self.out.largest)).astype(x.dtype)
        weight = masked(weight, centre(kernel), centre(kernel), prefix(reads), prefix(self.out))
        y = (depthwise if self.depthwise else conv)(x, weight, self.stride)
        report(kernel, kernel, reads, self.out, params=1, macs=math.prod(y.shape[1:3]))
        return _biased(self, y, side**2 * reads.largest) if self.bias else y


class Dense(nn.Module):
    """Matrix product `[B, ..., into]` to `[B, ..., out]`, and bias."""

    out: Size
    bias: bool = True

    @nn.compact
    def __call__(self, x, into: Size):
        _check(self, x, into)
        weight = self.param("kernel", torch_uniform, (into.largest, self.out.largest)).astype(x.dtype)
        y = x @ masked(weight, prefix(into), prefix(self.out))
        report(into, self.out, params=1, macs=math.prod(x.shape[1:-1]))
        return _biased(self, y, into.largest) if self.bias else y


def _check(layer, x, into):
    if x.shape[-1] != into.largest:
        raise ValueError(f"layer {layer.name!r} reads {x.shape[-1]} channels, its input's size says {into.largest}")
    if getattr(layer, "depthwise", False) and layer.out is not into:
        raise ValueError(f"layer {layer.name!r} is depthwise: it must put out the size that it reads")


def _biased(layer, y, fan_in):
    bias = layer.param("bias", partial(torch_uniform, fan_in=fan_in), (layer.out.largest,)).astype(y.dtype)
    report(layer.out, params=1)
    return y + masked(bias, prefix(layer.out))


class BatchNorm(nn.Module):
    """Batch norm of `[B, ..., size]` with scale and shift, times the mask of the size."""

    size: Size

    @nn.compact
    def __call__(self, x, train):
        report(self.size, params=2)
        return masked(WholeBatchNorm(affine=True, name="bn")(x, train), *_last(x, self.size))


class LayerNorm(nn.Module):
    """Each row `[..., size]` with mean 0 and variance 1 over its channels, which count as far as they are there; scaled and
    shifted, times the mask of the size. Summed in float32 at least."""

    size: Size

    @nn.compact
    def __call__(self, x):
        report(self.size, params=2)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        shares = masked(jnp.ones(x.shape[-1], wide.dtype), prefix(self.size))
        shares = shares / jnp.maximum(shares.sum(), 1e-12)
        centred = wide - (shares * wide).sum(-1, keepdims=True)
        y = centred * lax.rsqrt((shares * centred**2).sum(-1, keepdims=True) + 1e-5)
        scale, shift = (self.param(name, start, x.shape[-1:]) for name, start in
                        (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros)))
        return masked((y * scale + shift).astype(x.dtype), *_last(x, self.size))


def _last(x, size):
    """The axes of `x`, the last one of this size."""
    return (*[prefix(fixed(1))] * (x.ndim - 1), prefix(size))


def mixed_depth(blocks: Sequence[Callable], depth: Size, x):
    """sum over d of P(depth is d) * (x after the first d blocks); in a discrete network x after its depth of blocks, of
    which no other is built.

    Raises ValueError for a depth of more blocks than there are.
    """
    if depth.largest > len(blocks):
        raise ValueError(f"a depth of {depth.largest} needs as many blocks, there are {len(blocks)}")
    total = None
    for d in range(depth.largest + 1):
        if d:
            with _present(_size((depth.table >= d).astype(np.int64), depth.gates)):
                x = blocks[d - 1](x)
        if depth.gates and (depth.table == d).any():
            part = mean((depth.table == d), depth.gates).astype(x.dtype) * x
            total = part if total is None else total + part
    return total if depth.gates else x


# Groups

def paired(gate, other, count: int):
    """The gate of two choices at once, the second of which is one of `count`: the product of theirs for each pair, or the
    index of the pair. For a `MixedOp` of whole modules, one for each pair."""
    return gate * count + other if isinstance(gate, int) else jnp.outer(gate, other).ravel()


def sizes_group(rows: Sequence[Sequence[float]]) -> Group:
    """The group of choices of sizes, a row of ascending sizes for each, named as text."""
    return Group(tuple((n, n + 1) for n in range(len(rows))), tuple(tuple(f"{size:g}" for size in row) for row in rows))


def beyond(depths: Sequence[Sequence[int]], chosen: Sequence[int]) -> np.ndarray:
    """For each block of each stage, as many as its largest depth, whether it is not in the network: booleans, stage after
    stage. depths: those of each stage; chosen: their indices. A depth that is not decided (negative) keeps all blocks."""
    return np.concatenate([np.arange(row[-1]) >= (row[k] if k >= 0 else row[-1]) for row, k in zip(depths, chosen)])
