"""Channel-wise interpolation (TAS, Dong & Yang, NeurIPS 2019, arXiv 1905.09717): a number of channels stretched to another.

    output t of D = mean of the inputs floor(t C / D) ... ceil((t + 1) C / D) - 1 of C

which is adaptive average pooling along the channels; with C = D the identity.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np


def interpolation(inputs, outputs, rows: int, columns: int):
    """The matrix `[rows, columns]` that stretches the first `inputs` channels to the first `outputs`, zero elsewhere.

    inputs, outputs: at least 1; whole numbers, or arrays of them that broadcast with `[rows, columns]`, traced or not.
    """
    numpy = np if isinstance(inputs, int) and isinstance(outputs, int) else jnp
    sources, targets = numpy.arange(rows)[:, None], numpy.arange(columns)
    first, end = targets * inputs // outputs, -(-(targets + 1) * inputs // outputs)
    inside = (sources >= first) & (sources < end) & (targets < outputs)
    return inside / (end - first)
