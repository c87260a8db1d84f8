"""The toy space without Linen: as an NNX module, and in plain JAX."""

import jax
import jax.numpy as jnp
from flax import nnx

from dnas.types import Group
from search_spaces.layers.pooling import avg_pool
from search_spaces.layers.primitives import torch_uniform
from search_spaces.nnx_space import nnx_space
from search_spaces.pure_space import mix, pure_space

GROUPS = {"chain": Group(((0, 1), (1, 2)), ("none", "skip", "conv", "pool"))}


class Module(nnx.Module):
    def __init__(self, channels, image, classes, rngs):
        norm = lambda: nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        linear = lambda inputs, outputs: nnx.Linear(inputs, outputs, rngs=rngs, kernel_init=torch_uniform)
        self.stem, self.norm, self.head = linear(image[-1], channels), norm(), linear(channels, classes)
        self.convs = nnx.List([linear(channels, channels) for _ in range(2)])
        self.norms = nnx.List([norm() for _ in range(2)])

    def __call__(self, images, gates, train, rngs):
        x = self.norm(self.stem(images), use_running_average=not train)
        for gate, conv, norm in zip(gates["chain"], self.convs, self.norms):
            branches = (lambda x=x: jnp.zeros_like(x), lambda x=x: x,
                        lambda x=x, conv=conv, norm=norm: norm(conv(nnx.relu(x)), use_running_average=not train),
                        lambda x=x: avg_pool(x))
            x = x + mix(gate, branches)
        return self.head(x.mean((1, 2)))


def toy_nnx(image=(8, 8, 1), classes=10, *, channels: int = 4):
    """The toy, as an NNX module."""
    return nnx_space("toy-nnx", lambda rngs: Module(channels, image, classes, rngs), GROUPS, image=image)


def batch_norm(stats, x, train):
    moments = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (stats["mean"], stats["var"])
    updated = {name: 0.9 * stats[name] + 0.1 * new for name, new in zip(("mean", "var"), moments)} if train else stats
    return (x - moments[0]) * jax.lax.rsqrt(moments[1] + 1e-5), updated


def toy_pure(image=(8, 8, 1), classes=10, *, channels: int = 4):
    """The toy, as two functions."""
    def init(key, images):
        shapes = {"stem": (images.shape[-1], channels), "edge_0": (channels, channels), "edge_1": (channels, channels),
                  "head": (channels, classes)}
        keys = jax.random.split(key, len(shapes))
        weights = {name: torch_uniform(key, shape) for key, (name, shape) in zip(keys, shapes.items())}
        return weights, {name: {"mean": jnp.zeros(channels), "var": jnp.ones(channels)} for name in shapes if name != "head"}

    def apply(weights, stats, gates, images, train, key):
        updated = dict(stats)
        x, updated["stem"] = batch_norm(stats["stem"], images @ weights["stem"], train)
        for e, gate in enumerate(gates["chain"]):
            def conv(x=x, name=f"edge_{e}"):
                y, updated[name] = batch_norm(stats[name], jax.nn.relu(x) @ weights[name], train)
                return y
            x = x + mix(gate, (lambda x=x: jnp.zeros_like(x), lambda x=x: x, conv, lambda x=x: avg_pool(x)))
        return x.mean((1, 2)) @ weights["head"], updated

    return pure_space("toy-pure", init, apply, GROUPS, image=image)
