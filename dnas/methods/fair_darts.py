"""FairDARTS (Chu et al., ECCV 2020, arXiv 1911.12126): operations that do not compete, each behind a sigmoid.

    gates = sigmoid(arch), so that they need not sum to one on an edge; arch is 0 at first
    L_arch = L_valid - zero_one * mean over gates of (gate - 1/2)^2     (form l1: of |gate - 1/2|)
    genotype: the strongest edges by the space's rule, less those whose largest gate is not above `threshold`

Rates, Adam's betas (0.9, 0.999), weight and threshold are those of the authors' code, which has batches of 128 and no
operation `none`. At arch = 0 the gradient of the second term is zero, so only the data moves a gate away from 1/2, and that
of `none`, whose output is zero, stays there.

Ours: `none` is not chosen for its gate; where the space's rule needs every edge, one that is too weak becomes `none`, or
stays if there is no `none`; and every node keeps its strongest edge, so that the network stays connected. `dnas select`
has rules of its own: there magnitude orders edges by their gates' shares, and magnitude-edge by the gates as they are.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.method import Method
from dnas.algorithms.optimizers import adam
from dnas.algorithms.relaxations import Relaxation
from dnas.algorithms.schedules import refuse_negative
from dnas.methods.darts import darts
from dnas.registry import extends
from dnas.types import Genotype


@extends(darts, lr=0.005, arch_lr=3e-3)
def fair_darts(method: Method, *, zero_one: float = 10.0, zero_one_form: Literal["l2", "l1"] = "l2",
               threshold: float = 0.85) -> Method:
    """FairDARTS.

    Args:
        zero_one: weight of the term that draws gates to 0 or 1.
        zero_one_form: l2 for its squares, l1 for its absolute values.
        threshold: the least gate of an operation in the genotype, below 1; a node's strongest edge stays in any case.

    Raises ValueError if one is out of range.
    """
    if zero_one_form not in ("l2", "l1"):
        raise ValueError(f"zero_one_form {zero_one_form!r} must be l2 or l1")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}, it must be 0 or more, and below 1")

    if method.arch.relaxation.edges:
        raise ValueError("fair-darts judges each gate by itself; edge_normalisation must be off")

    def term(hyper, t, arch, gates, forward, memory):
        return -hyper["zero_one"] * distance(forward.architecture.masked().values(), zero_one_form)

    return method.extend(relaxation=Relaxation(zeros, gates), arch={"terms": {"zero-one": term}, "optimizer": arch_adam},
                         hyper={"zero_one": zero_one}, check=lambda hyper: refuse_negative(zero_one=hyper["zero_one"]),
                         select=lambda space, state, gates: above(space, gates, threshold))


def zeros(key, groups):
    """Logits `[E, K]` of every group, all 0."""
    return {name: jnp.zeros(group.shape) for name, group in groups.items()}


def gates(key, architecture, hyper, t):
    """`Relaxation.gates`: a sigmoid of every logit."""
    return {name: jax.nn.sigmoid(row) for name, row in architecture.masked().items()}


def arch_adam(hyper, t):
    """The architecture's Adam, with the usual betas."""
    return adam(hyper["arch_lr"], b1=0.9, decay=hyper["arch_decay"])


def distance(rows, form):
    """Mean of (gate - 1/2)^2, or of |gate - 1/2| if the form is l1, over all logits `[E, K]` that are not -inf."""
    logits = jnp.concatenate([row.ravel() for row in rows])
    allowed = ~jnp.isneginf(logits)
    apart = jax.nn.sigmoid(jnp.where(allowed, logits, 0)) - 0.5
    each = apart**2 if form == "l2" else apart * jnp.sign(apart)  # whose slope at 0 is 0, that of jnp.abs is 1
    return jnp.where(allowed, each, 0).sum() / allowed.sum()


def above(space, gates, threshold) -> Genotype:
    """The genotype of the space's rule on the gates, less the edges whose largest gate is not above the threshold."""
    rows = {name: np.asarray(gates[name]) for name in space.groups}
    genotype = space.genotype({name: none_last(group, rows[name]) for name, group in space.groups.items()})
    choices = {}
    for name, group in space.groups.items():
        gate = lambda choice, name=name, group=group: rows[name][
            (e := group.edges.index(choice[:2])), group.edge_ops(e).index(choice.op)]
        chosen, drops = genotype.choices[name], len(genotype.choices[name]) < len(group.edges)
        strongest = {target: max((c for c in chosen if c.target == target), key=gate) for _, target, _ in chosen}
        choices[name] = []
        for choice in chosen:
            weak = gate(choice) <= threshold and choice != strongest[choice.target]
            if weak and not drops and "none" in group.edge_ops(group.edges.index(choice[:2])):
                choices[name].append(choice._replace(op="none"))
            elif not weak or not drops:
                choices[name].append(choice)
    return Genotype(space.name, space.options, choices)


def none_last(group, rows):
    """Gates `[E, K]` with that of `none` so small that it is the largest of an edge only if no other operation has one."""
    rows = np.array(rows, np.float64)
    for e in range(len(rows)):
        if "none" in group.edge_ops(e):
            rows[e, group.edge_ops(e).index("none")] *= 1e-6
    return rows
