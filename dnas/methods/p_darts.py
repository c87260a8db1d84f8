"""P-DARTS, progressive DARTS (Chen et al., ICCV 2019, arXiv 1904.12760): stages that grow deeper and lose operations.

    stage 1    5 cells, all operations;  ends with the 5 of the largest gates on each edge
    stage 2   11 cells, 5 operations;    ends with 3
    stage 3   17 cells, 3 operations;    gives the genotype

    behind each skip connection a dropout of rate  p (E - 1 - e) / E       in epoch e of E while the architecture rests,
                                                   p exp(-0.2 (e - rest))  after it

Each stage is a search of its own that starts from the one before it; docs/methods.md has all three in one loop of Python:

    dnas search --space darts --space.cells 5 --method p-darts --method.keep 5 \
        --epochs 25 --batch 96 --preset paper --run runs/1
    dnas search --space darts --space.cells 11 --method p-darts --method.keep 3 --method.skip-dropout 0.4 \
        --epochs 25 --batch 96 --preset paper --start runs/1 --run runs/2
    dnas search --space darts --space.cells 17 --method p-darts --method.max-skips 2 --method.skip-dropout 0.7 \
        --epochs 25 --batch 96 --preset paper --start runs/2 --run runs/3

Stages, rests of 10 epochs, the rates of dropout (0.1, 0.4, 0.7), batches of 96, `arch_lr` and its decay are those of the
authors' code and read-me; all other defaults are those of `darts`. The skips of a cell are limited by `max_skips`: the gate
of the weakest becomes zero and the space's rule is applied again, until no more remain. The authors write down the genotype
of every limit.

Ours: every stage begins with equal logits, and the dropout is of single entries. The option `keep` is one of `darts`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.method import Method
from dnas.algorithms.relaxations import Relaxation
from dnas.methods.darts import darts
from dnas.registry import extends
from dnas.types import SKIP_DROPOUT, is_skip

FALL = 0.2
"""Of the logarithm of the dropout, in an epoch in which the architecture moves."""


@extends(darts, arch_lr=6e-4, arch_warmup=10)
def p_darts(method: Method, *, skip_dropout: float = 0.1, max_skips: int = 0) -> Method:
    """A stage of P-DARTS.

    Args:
        skip_dropout: p, the largest rate of dropout behind skip connections.
        max_skips: skip connections that a cell of the genotype may have; 0: any number.

    Raises ValueError if one is out of range.
    """
    if max_skips < 0:
        raise ValueError(f"max_skips is {max_skips}, it must be 0 or more")
    if max_skips:
        method = method.extend(select=limited(method.select, max_skips))
    method = method.extend(algorithm=begin_level(method.algorithm))
    if not skip_dropout:
        return method
    return method.extend(arch={"relaxation": with_dropout(method.arch.relaxation)},
                         weights={"relaxation": with_dropout(method.weights.relaxation)},
                         hyper={"skip_dropout": skip_dropout}, check=check, check_search=check_search)


def with_dropout(relaxation: Relaxation) -> Relaxation:
    """The gates of `relaxation`, with the rate of dropout beside them while the supernet is trained (a key is there)."""
    def gates(key, architecture, hyper, t):
        relaxed = relaxation.gates(key, architecture, hyper, t)
        return relaxed if key is None else {**relaxed, SKIP_DROPOUT: rate(hyper, t)}

    return relaxation._replace(gates=gates)


def rate(hyper, t):
    """The rate of dropout behind skip connections."""
    rest, falling = hyper.get("arch_warmup", 0), (t.epochs - 1 - t.epoch) / t.epochs
    return hyper["skip_dropout"] * jnp.where(t.epoch < rest, falling, jnp.exp(-FALL * (t.epoch - rest)))


def begin_level(algorithm):
    """`algorithm` whose searches that start from another begin with equal logits."""
    def steps(problem):
        inner = algorithm(problem)

        def begin(state):
            state = inner.begin(state)
            return state._replace(arch=jax.tree.map(jnp.zeros_like, state.arch))

        return inner._replace(begin=begin)

    return steps


def limited(select, most):
    """`Method.select`, `select` or the space's rule if None, with at most `most` skips in a group where that can be.

    A skip can go where its edge has another operation in the race, `none` not counted.
    """
    def choose(space, state, gates):
        rule = select or (lambda space, state, gates: space.genotype({name: gates[name] for name in space.groups}))
        gates = {name: np.array(rows) for name, rows in gates.items()}
        while True:
            genotype, weakest = rule(space, state, gates), []
            for name, row in genotype.decisions(space.groups).items():
                group, picked = space.groups[name], []
                for e in np.flatnonzero(row >= 0):
                    ops = group.edge_ops(e)
                    others = [k for k, op in enumerate(ops) if k != row[e] and op != "none" and gates[name][e, k] > 0]
                    if is_skip(ops[row[e]]):
                        picked.append((gates[name][e, row[e]], name, e, row[e], bool(others)))
                if len(picked) > most:
                    weakest += sorted(skip for skip in picked if skip[-1])[:1]
            if not weakest:
                return genotype
            for _, name, e, k, _ in weakest:
                gates[name][e, k] = 0

    return choose


def check(hyper):
    """Raises ValueError if the rate of dropout is out of range."""
    if not 0 <= hyper["skip_dropout"] < 1:
        raise ValueError(f"skip_dropout is {hyper['skip_dropout']}, it must be at least 0 and below 1")


def check_search(space, search):
    """Raises ValueError for a space that cannot drop entries behind its skips."""
    if SKIP_DROPOUT not in space.reads:
        raise ValueError(f"p-darts drops entries behind skip connections, which space {space.name} cannot, for its network "
                         "is not a Flax one; choose another, or --method.skip-dropout 0 (in Python skip_dropout=0)")
