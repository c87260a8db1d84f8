"""Once-for-All by progressive shrinking (Cai et al., ICLR 2020, arXiv 1908.09791): smaller sizes join phase by phase.

    phase 0     the largest network, L_train; its weights then teach
    phase p     networks drawn uniformly among the sizes that are open, N of them a step:
                L = L_train + KL(softmax(z_teacher / T) || softmax(z / T)) T^2

    group of choices        opens            N           rate, epochs of a phase (the last of a group)
    first, `kernel`         all at once      1           1, 120
    second, `depth`         one at a time    2           1/12, 25 (1/4, 120)
    all others              one at a time    4           1/12, 25 (1/4, 120)

A phase allows fewer choices and is the same program: nothing is compiled anew. Before each of the third kind, channels
are put in the order of their importance where the space can say how (`SearchSpace.reorder`); sizes that are trained
already keep theirs. Rates are shares of `lr` and fall along a cosine in each phase; they, N and the phases' lengths
relative to each other are those of the authors' code for ImageNet. It is meant for `mobilenet`, `vit` and the like, and
trains any space whose operations have costs.

Ours: the share of the search that is phase 0; `lr`, as for `darts`; no warm-up in a phase, no smoothing of labels. The
centres of kernels are not transformed by a matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.elastic import Networks, Training, draws, largest, reordered, trained_by
from dnas.algorithms.method import Method
from dnas.algorithms.relaxations import Architecture
from dnas.algorithms.schedules import half_cosine
from dnas.methods.darts import sgd_at
from dnas.methods.sandwich import check_temperature
from dnas.methods.spos import spos
from dnas.registry import extends

FIRST = 1 / 12, 25
"""Rate, as a share of the first, and epochs of a phase that opens an operation."""
LAST = 1 / 4, 120
"""Those of one that opens the last of a group."""
AT_ONCE = "kernel"
SECOND = "depth"
MOST = 4
"""Networks in a step."""


class Phases(NamedTuple):
    """The phases. open: of each group `[P]`, how many operations of an edge are in the race; rates, lengths: `[P]`, relative
    to each other; networks: `[P]`, those of a step. sort: the first phase before which channels are sorted; P for none."""

    open: dict[str, np.ndarray]
    rates: np.ndarray
    lengths: np.ndarray
    networks: np.ndarray
    sort: int


@extends(spos)
def ofa(method: Method, *, teacher_share: float = 0.3, distill_temperature: float = 1.0) -> Method:
    """Progressive shrinking.

    Args:
        teacher_share: share of the search in which the largest network is trained alone.
        distill_temperature: temperature of the outputs of the largest network and of the others.

    Raises ValueError if one is out of range.
    """
    numbers = {"teacher_share": teacher_share, "distill_temperature": distill_temperature}
    return trained_by(method, progressive, hyper=numbers, check=check)


def progressive(space) -> Training:
    """The training of a space by phases."""
    phases = phases_of(space)
    opened = {name: jnp.asarray(counts) for name, counts in phases.open.items()}

    def networks(key, architecture, extra, hyper, t):
        phase, _ = place(phases, hyper, t)
        mask = {name: uppermost(rows, opened[name][phase]) for name, rows in architecture.masked().items()}
        drawn = draws(key, architecture._replace(mask=mask), MOST)
        full = jax.tree.map(lambda rows: rows[None], largest(architecture))
        gates = jax.tree.map(lambda full, drawn: jnp.where(phase == 0, full, drawn), full, drawn)
        used = (jnp.arange(MOST) < jnp.asarray(phases.networks)[phase]).astype(jnp.float32)
        return Networks(gates, used, teacher=jnp.where(phase == 0, 0, used))

    def before(state, hyper, t):
        earlier, phase = (place(phases, hyper, t._replace(step=step))[0] for step in (jnp.maximum(t.step - 1, 0), t.step))
        enters = lambda first: (earlier < first) & (phase >= first)
        extra = jax.tree.map(lambda old, now: jnp.where(enters(1), now, old), state.extra, state.weights)
        ranks = Architecture(state.arch, state.mask, space.groups).masked()
        trained = {name: uppermost(rows, opened[name][jnp.maximum(phase - 1, 0)]) for name, rows in ranks.items()}
        sorts = (phase > earlier) & (phase >= phases.sort)
        return reordered(space, state._replace(extra=extra), sorts, trained)

    def optimizer(hyper, t):
        phase, share = place(phases, hyper, t)
        first = jnp.asarray(phases.rates, jnp.float32)[phase] * hyper["lr"]
        last = jnp.minimum(hyper["lr_min"], first)
        return sgd_at(half_cosine(first, last, share), hyper)

    return Training(networks, init=lambda state: jax.tree.map(jnp.array, state.weights), before=before,
                    teacher=lambda extra: extra, optimizer=optimizer)


def uppermost(ranks, count):
    """Which of the operations in the race are the last `count` of their edge: booleans `[E, K]`, of ranks `[E, K]` that are
    -inf for all others."""
    above = (ranks[:, None] > ranks[:, :, None]).sum(-1)
    return (above < count) & ~jnp.isneginf(ranks)


def phases_of(space) -> Phases:
    """The phases of a space's groups: the kernels', the depths', then the others in the order of the space."""
    order = sorted(space.groups, key=lambda name: {AT_ONCE: 0, SECOND: 1}.get(name, 2))
    most = {name: group.shape[1] for name, group in space.groups.items()}
    opened, rows, sort = dict.fromkeys(space.groups, 1), [], None
    rows.append((dict(opened), 1.0, 0.0, 1))
    for name in order:
        kind = {AT_ONCE: 0, SECOND: 1}.get(name, 2)
        for count in range(2, most[name] + 1)[-1:] if kind == 0 else range(2, most[name] + 1):
            opened[name] = count
            sort = len(rows) if kind == 2 and sort is None else sort
            rate, length = (1.0, LAST[1]) if kind == 0 else LAST if count == most[name] else FIRST
            rows.append((dict(opened), rate, length, 2**kind))
    open_of, rates, lengths, networks = zip(*rows)
    return Phases({name: np.array([each[name] for each in open_of]) for name in space.groups}, np.array(rates),
                  np.array(lengths), np.array(networks), len(rows) if sort is None else sort)


def place(phases: Phases, hyper, t):
    """The phase, and the share of it that is done."""
    rest = jnp.asarray(phases.lengths / max(phases.lengths.sum(), 1), jnp.float32)
    lengths = jnp.where(jnp.arange(len(rest)) == 0, hyper["teacher_share"], rest * (1 - hyper["teacher_share"]))
    ends = jnp.cumsum(lengths)
    phase = jnp.minimum((t.share >= ends).sum(), len(rest) - 1)
    return phase, jnp.clip((t.share - ends[phase] + lengths[phase]) / lengths[phase], 0, 1)


def check(hyper):
    """Raises ValueError if one of the numbers is out of range."""
    check_temperature(hyper)
    if not 0 < hyper["teacher_share"] < 1:
        raise ValueError(f"teacher_share is {hyper['teacher_share']:g}, it must be above 0 and below 1")
