"""A space small enough to compile in a moment that searches sizes of kernels: the small one is the centre of the large."""

import flax.linen as nn
import numpy as np

from dnas.types import REMOVED, Group
from search_spaces.flax_space import flax_space
from search_spaces.layers.convolution import conv
from search_spaces.layers.primitives import BatchNorm, Linear, torch_uniform

SIZES = (3, 5)


class Network(nn.Module):
    channels: int
    classes: int

    @nn.compact
    def __call__(self, images, gates, train):
        x = images
        for e in range(2):
            gate, channels = gates["kernel"][e], x.shape[-1]
            chosen = isinstance(gate, int)
            if chosen and gate == REMOVED:
                raise ValueError(f"a network needs a kernel in every layer, layer {e} has none")
            size = SIZES[gate] if chosen else SIZES[-1]
            kernel = self.param(f"kernel_{e}", torch_uniform, (size, size, channels, self.channels))
            kernel = kernel.astype(x.dtype)
            x = conv(x, kernel if chosen else kernel * mask(gate.astype(x.dtype)))
            x = nn.relu(BatchNorm(affine=True, name=f"bn_{e}")(x, train))
        return Linear(self.classes, name="head")(x.mean((1, 2)))


def mask(gate):
    """For each entry of the large kernel the sum of the gates `[K]` of those kernels that have it: `[5, 5, 1, 1]`."""
    inside = np.stack([np.pad(np.ones((size, size)), (SIZES[-1] - size) // 2) for size in SIZES])
    return (gate @ inside.reshape(len(SIZES), -1).astype(gate.dtype)).reshape(*inside.shape[1:], 1, 1)


def kernels(image=(8, 8, 1), classes=10, *, channels: int = 4, inherit=None):
    """Two convolutions, 3x3 or 5x5.

    Args:
        channels: of every layer.
    """
    return flax_space("kernels", Network(channels, classes),
                      {"kernel": Group(((0, 1), (1, 2)), tuple(f"{size}x{size}" for size in SIZES))}, image=image,
                      options={"image": list(image), "classes": classes, "channels": channels}, inherit=inherit)
