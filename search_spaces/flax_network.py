"""A network of any space as a Flax module: what `dnas.load` gives as its `module`."""

from __future__ import annotations

import flax.linen as nn

from dnas.types import Network


class FlaxNetwork(nn.Module):
    """A network of any space as a Linen module, called with normalised images `[B, H, W, C]`, features or tokens; returns
    outputs `[B, ..., size]`.

    `module.apply(variables, images)` uses the running averages; with `train=True, mutable=["batch_stats"]` those of the
    batch, to train it further. `init` gives new weights.
    """

    network: Network

    @nn.compact
    def __call__(self, images, train: bool = False):
        if self.is_initializing():
            variables = self.network.init(self.make_rng("params"), images)
            for kind, tree in zip(("params", "batch_stats"), variables):
                for name, value in tree.items():
                    self.put_variable(kind, name, value)
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        weights, stats = (self.variables.get(kind, {}) for kind in ("params", "batch_stats"))
        logits, updated = self.network.apply(weights, stats, images, train=train, key=key)
        if train and self.is_mutable_collection("batch_stats") and not self.is_initializing():
            for name, value in updated.items():
                self.put_variable("batch_stats", name, value)
        return logits
