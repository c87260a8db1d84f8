"""Small problems for tests of algorithms: a scalar one with a closed form, and a space of no framework."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dnas.algorithms.bilevel import bilevel
from dnas.algorithms.method import Method
from dnas.algorithms.players import Player
from dnas.algorithms.relaxations import Relaxation, softmax
from dnas.data import from_arrays
from dnas.task import Task
from dnas.types import Batch, Genotype, Group, SearchSpace
from search_spaces.pure_space import mix, pure_space

KEY = jax.random.key(0)
FIRST_ORDER = bilevel()


def numbers(method, *, epochs=4, steps=2, fine_tuning=0.0, **others):
    """What a step of `method` is given, as Python's numbers, which computations in float64 do not round."""
    return {**method.hyper, "epochs": epochs, "steps": steps, "fine_tuning": fine_tuning, **others}


def sgd(rate, momentum=None):
    """`Player.optimizer`, gradient descent at a fixed rate."""
    return lambda hyper, t: optax.sgd(rate, momentum)


# L_train = (w - a)^2, L_valid = a w - 2 a + 1: reduced objective (a - 1)^2, optimum (1, 1).

TRAIN, VALID = Batch(np.zeros(1), np.zeros(1, bool)), Batch(np.zeros(1), np.ones(1, bool))
"""The targets say which of the two losses there is."""


def scalar_space(apply=None):
    """One weight w, a scalar, and one logit a, the only gate of group "a"; outputs `[B, 2]` are (w, a)."""
    def outputs(weights, stats, gates, inputs, *, train, key=None):
        return jnp.broadcast_to(jnp.stack([weights, gates["a"][0, 0]]), (len(inputs), 2)), stats

    return SearchSpace("scalar", {}, {"a": Group(((0, 1),), ("op",))}, lambda key, inputs: (jnp.float64(-2), ()),
                       apply or outputs, None, None, None, None, None, None)


def scalar_losses(outputs, targets):
    w, a = outputs[:, 0], outputs[:, 1]
    return jnp.where(targets, a * w - 2 * a + 1, (w - a) ** 2)


SCALAR = Task("scalar", scalar_losses, {"weight": lambda outputs, targets: outputs[:, 0]})


def identity(initial=2.0):
    """The gate is the logit."""
    return Relaxation(lambda key, groups, **_: {"a": jnp.full((1, 1), jnp.float64(initial))},
                      lambda key, architecture, hyper, t: {"a": architecture.logits["a"]})


def scalar_method(algorithm=FIRST_ORDER, *, rate=0.1, arch_rate=None, momentum=None, hyper: Mapping = {}, **parts):
    """A method for the scalar problem: gradient descent on both, from w = -2 and a = 2."""
    method = Method(hyper, Player(identity(), sgd(rate if arch_rate is None else arch_rate)),
                    Player(identity(), sgd(rate, momentum)), algorithm)
    return method.extend(**parts) if parts else method


def scalar_start(method, a=2.0, w=-2.0):
    """The bound method, its numbers (ten epochs of one step), and its state at (a, w)."""
    bound, hyper = method.bind(scalar_space(), SCALAR), numbers(method, epochs=10, steps=1)
    state = bound.init(KEY, None, hyper)
    return bound, hyper, state._replace(weights=jnp.float64(w), arch={"a": jnp.full((1, 1), jnp.float64(a))})


def iterate(method, steps, state=None, look=lambda state: (state.arch["a"][0, 0], state.weights)):
    """What `look` sees after each step, `[steps, ...]`; from a = 2, w = -2 unless given a state."""
    bound, hyper, first = scalar_start(method)

    def step(state, _):
        state, info = bound.step(KEY, state, TRAIN, VALID, hyper)
        return state, jnp.stack(look(state))

    return jax.jit(lambda state: jax.lax.scan(step, state, None, steps)[1])(first if state is None else state)


# A space of no framework: three edges, one with an operation fewer, and a running average.


def plain(width=6, classes=3):
    groups = {"cell": Group(((0, 1), (0, 2), (1, 2)), (("tanh", "skip"),) + (("tanh", "skip", "none"),) * 2)}

    def init(key, images):
        keys = jax.random.split(key, 3)
        weights = {"stem": jax.random.normal(keys[0], (width, width)),
                   "edges": jax.random.normal(keys[1], (3, width, width)) / width**0.5,
                   "head": jax.random.normal(keys[2], (width, classes))}
        return weights, {"mean": jnp.zeros(width)}

    def apply(weights, stats, gates, images, *, train, key=None):
        gates = (gates.gates(groups) if isinstance(gates, Genotype) else gates)["cell"]
        h = images @ weights["stem"]
        mean = h.mean(0) if train else stats["mean"]
        nodes = [h - mean, 0, 0]
        for e, (source, target) in enumerate(groups["cell"].edges):
            x = nodes[source]
            nodes[target] += gates[e, 0] * jnp.tanh(x @ weights["edges"][e]) + gates[e, 1] * x
        stats = {"mean": 0.9 * stats["mean"] + 0.1 * mean} if train else stats
        return nodes[2] @ weights["head"], stats

    def genotype(scores):
        return Genotype.from_decisions(space, {"cell": np.where(groups["cell"].allowed, scores["cell"], -1).argmax(-1)})

    space = SearchSpace("plain", {}, groups, init, apply, genotype, lambda weights, genotype: weights,
                        lambda genotype=None: {"params": 0, "macs": 0}, None, str, None)
    return space


def two_cells(width=6, classes=3):
    """Two cells in a row that share the gates of three edges, can be told apart, and have weights of their own."""
    groups = {"cell": Group(((0, 1), (0, 2), (1, 2)), ("none", "tanh", "skip"))}

    def init(key, images):
        cells = {f"cell_{c}": {f"edge_{e}": {"tanh": {"w": jax.random.normal(jax.random.fold_in(key, 3 * c + e),
                                                                             (width, width)) / width**0.5}}
                               for e in range(3)} for c in range(2)}
        return {**cells, "head": jax.random.normal(key, (width, classes))}, {}

    def apply(weights, stats, gates, images, train, key):
        x = images
        for c in range(2):
            own, nodes = gates["cell"][c] if getattr(gates["cell"], "ndim", 2) == 3 else gates["cell"], [x, 0 * x, 0 * x]
            for e, (source, target) in enumerate(groups["cell"].edges):
                tanh = lambda c=c, e=e, x=nodes[source]: jnp.tanh(x @ weights[f"cell_{c}"][f"edge_{e}"]["tanh"]["w"])
                nodes[target] += mix(own[e], (lambda x=nodes[source]: 0 * x, tanh, lambda x=nodes[source]: x))
            x = nodes[2]
        return x @ weights["head"], stats

    space = pure_space("cells", init, apply, groups, image=(width,), cells={"cell": 2})
    return space._replace(init=lambda key, images: space.init(key, jnp.zeros((1, width))))


def space_for(method):
    """A space of no framework that the method of this name can search."""
    return two_cells() if method.startswith("lambda-darts") or method == "oles" else plain()


def batches(count, seed=0, size=8, width=6, classes=3, dtype=np.float64):
    """`count` pairs of a train and a valid batch, as one Batch each with leading axis `count`."""
    draw = np.random.default_rng(seed)
    return [Batch(draw.normal(size=(count, size, width)).astype(dtype), draw.integers(0, classes, (count, size)))
            for _ in range(2)]


def at(batch, i):
    return jax.tree.map(lambda leaf: leaf[i], batch)


def plain_method(algorithm=FIRST_ORDER, *, rate=0.1, optimizer=None, arch_rate=1.0, hyper: Mapping = {}):
    """A method for `plain`: softmax, gradient descent on both."""
    return Method(hyper, Player(softmax(), sgd(arch_rate)), Player(softmax(), optimizer or sgd(rate)), algorithm)


def begun(bound, hyper, seed=0):
    """A state of `plain` whose architecture prefers something."""
    return bound.init(jax.random.key(seed), None, hyper)._replace(
        arch={"cell": jax.random.normal(jax.random.key(seed + 1), (3, 3))})


def tiny(count=200, size=8):
    """Two classes told apart by which half of the image is bright."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, count)
    x = rng.integers(0, 120, (count, size, size, 1))
    x[y == 1, :, size // 2:] += 120
    return from_arrays("tiny", x.astype(np.uint8), y, pad=1, flip=False)
