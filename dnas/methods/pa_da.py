"""PA&DA (Lu et al., CVPR 2023, arXiv 2302.14772): paths and training examples drawn by the norms of their gradients.

    one network a step, an operation of every edge drawn by p;   weights <- SGD on  d L_train(w, network) / d w
    path   v <- (v + ||d L_train / d w||) / 2 of each operation drawn, from 0 in every epoch
           p = tau v / sum(v) + (1 - tau) / K    of each edge, when an epoch has ended
    data   s_i = ||d loss_i / d outputs_i||, which of a cross-entropy is ||softmax(z_i) - onehot(y_i)||
           q = tau s / sum(s) + (1 - tau) / N,   by which the examples of the next epoch are drawn, with replacement
    tau    epochs done / epochs

The variance of an estimate g_a / (N p_a) is least where p is in proportion to ||g_a||. The factor 1 / (N p_a), which makes
it unbiased, is left out in the authors' code: `correct` has it, for paths.

The optimiser's defaults are those of `darts`. Ours: the norm is that of all weights, before clipping, so that operations
without weights have one too (the authors' is of an operation's own weights, for convolutions only, over all edges), and p
is of each edge; s is of a pass over the training examples when an epoch has ended, each batch by a network of p (theirs are
gathered while training, 0 for examples that were not drawn).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dnas.algorithms.elastic import Networks, Training, trained_by
from dnas.algorithms.method import Method
from dnas.algorithms.relaxations import categorical, drawn
from dnas.methods.spos import spos
from dnas.registry import extends


@extends(spos)
def pa_da(method: Method, *, paths: bool = True, data: bool = True, correct: bool = False) -> Method:
    """PA&DA.

    Args:
        paths: draw operations by the norms of gradients, not uniformly.
        data: draw training examples so.
        correct: multiply a network's gradient by how much rarer it is under p than under uniform draws.

    Raises ValueError where nothing is left of the method.
    """
    if not paths and not data:
        raise ValueError("pa-da draws paths, data or both by their gradients; without both it is spos")

    def training(space):
        def networks(key, architecture, extra, hyper, t):
            gates = path(key, architecture, extra["chances"])
            weight = rarity(gates, architecture, extra["chances"]) if correct else jnp.ones(())
            return Networks(jax.tree.map(lambda rows: rows[None], gates), weight[None])

        def init(state):
            zeros = jax.tree.map(lambda rows: jnp.zeros(rows.shape), dict(state.mask))
            return {"norms": zeros, "chances": jax.tree.map(lambda rows: even(rows) * jnp.ones(()), dict(state.mask))}

        def after(key, networks, gradients, extra, hyper, t):
            gates = {name: rows[0] for name, rows in networks.gates.items()}
            halved = lambda norm, gate: jnp.where(gate > 0, (norm + gradients.norms[0]) / 2, norm)
            norms, ended = jax.tree.map(halved, extra["norms"], gates), (t.step + 1) % t.steps == 0
            share = (t.epoch + 1) / t.epochs
            allowed = jax.tree.map(lambda chances: chances > 0, extra["chances"])
            chances = jax.tree.map(lambda norm, allowed, now: jnp.where(ended, mixed(norm, allowed, share), now),
                                   norms, allowed, extra["chances"])
            return {"norms": jax.tree.map(lambda norm: jnp.where(ended, 0, norm), norms),
                    "chances": chances if paths else extra["chances"]}

        return Training(networks, init=init, after=after, examples=by_gradient if data else None)

    return trained_by(method, training)


def mixed(scores, allowed, share):
    """Chances `[..., K]`: `share` of them in proportion to the scores, which are at least 0, the rest even, among the
    allowed. Where all scores are 0 they are even."""
    scores = jnp.where(allowed, scores, 0)
    total = scores.sum(-1, keepdims=True)
    by_score = jnp.where(total > 0, scores / jnp.where(total > 0, total, 1), even(allowed))
    return share * by_score + (1 - share) * even(allowed)


def even(allowed):
    """Even chances `[..., K]` among the allowed, at least one."""
    return allowed / jnp.maximum(allowed.sum(-1, keepdims=True), 1)


def path(key, architecture, chances):
    """A network, an operation of each edge drawn by its chances among those in the race."""
    logs = {name: jnp.log(jnp.maximum(rows, 1e-30)) for name, rows in chances.items()}
    return drawn(categorical).gates(key, architecture._replace(logits=logs), {}, None)


def rarity(gates, architecture, chances):
    """How much more likely a network is under uniform draws than under the chances: the product over edges of 1 / (K p)."""
    logs = [jnp.log((jnp.where(allowed, gates[name], 0) * even(allowed)).sum(-1) / (chances[name] * gates[name]).sum(-1))
            for name, allowed in architecture.allowed().items()]
    return jnp.exp(sum(log.sum() for log in logs))


def by_gradient(task, outputs, targets):
    """The norm `[B]` of the gradient of each example's loss by its outputs."""
    slopes = jax.grad(lambda outputs: task.losses(outputs, targets).sum())(outputs)
    return jnp.sqrt((slopes.reshape(len(slopes), -1) ** 2).sum(-1))
