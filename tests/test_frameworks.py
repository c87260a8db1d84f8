"""Networks that are no Linen modules run through the same protocol; `test_spaces` holds them to its battery as well."""

import jax
import numpy as np
import pytest
from flax import nnx

import dnas
from dnas.data import load
from dnas.engine.search import search
from dnas.methods.darts import darts
from search_spaces.nnx_space import nnx_space
from search_spaces.pure_space import mix, pure_space
from tests.toy_frameworks import GROUPS, toy_nnx, toy_pure
from tests.toy_space import toy


@pytest.mark.parametrize("make", [toy_nnx, toy_pure])
@pytest.mark.parametrize("hypergradient", ["first-order", "unrolled"])
def test_search(make, hypergradient):
    data = load("digits", limit=60)
    space = make(data.image, data.classes)
    method = darts(hypergradient=hypergradient, arch_lr=0.01)
    result = search(space, method, data, epochs=1, batch=8, progress=False)
    assert np.isfinite(result.holdout["loss"])
    assert np.abs(np.asarray(result.state.arch["chain"])).max(1).min() > 0.01
    assert dnas.Genotype.from_json(result.genotype.to_json()) == result.genotype == space.genotype(result.gates)


@pytest.mark.parametrize("make", [toy_nnx, toy_pure])
def test_all_frameworks_count_the_same(make):
    """Up to NNX's biases and scales, and to the head's bias and the stem's scale, which the pure one lacks."""
    space, reference = make(), toy()
    for k in range(4):
        genotype = dnas.Genotype.from_decisions(space, {"chain": [k, k]})
        expected, found = reference.cost(dnas.Genotype.from_decisions(reference, {"chain": [k, k]})), space.cost(genotype)
        assert found["macs"] == expected["macs"]
        extra = 4 + 24 * (k == 2) if make is toy_nnx else -10 - 8
        assert found["params"] == expected["params"] + extra
    assert space.cost(None)["params"] == space.cost(dnas.Genotype.from_decisions(space, {"chain": [2, 2]}))["params"]


def test_dropout_of_an_nnx_module_takes_the_key():
    class Dropped(nnx.Module):
        def __init__(self, rngs):
            self.linear, self.dropout = nnx.Linear(4, 3, rngs=rngs), nnx.Dropout(0.5)

        def __call__(self, images, gates, train, rngs):
            x = mix(gates["chain"][0], [lambda: images] * 4).mean((1, 2))
            return self.linear(self.dropout(x, deterministic=not train, rngs=rngs))

    space = nnx_space("dropped", Dropped, GROUPS, image=(2, 2, 4))
    images = np.ones((5, 2, 2, 4), np.float32)
    weights, stats = space.init(jax.random.key(0), images)
    gates = {"chain": np.full((2, 4), 0.25, np.float32)}
    a, b, again = (np.asarray(space.apply(weights, stats, gates, images, train=True, key=jax.random.key(seed))[0])
                   for seed in (0, 1, 0))
    assert (a == again).all() and (a != b).any()


def test_variables_of_other_kinds_are_refused():
    class Counter(nnx.Module):
        def __init__(self, rngs):
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

    with pytest.raises(ValueError, match="keeps variables of type RngCount, RngKey"):
        nnx_space("counter", Counter, GROUPS, image=(2, 2, 4))


def test_init_that_looks_at_the_images_is_refused():
    peeking = pure_space("peeking", lambda key, images: ({"w": images.mean()}, {}),
                         lambda weights, stats, gates, images, train, key: (images, stats), GROUPS, image=(2, 2, 1))
    with pytest.raises(ValueError, match="depend on the images"):
        peeking.init(jax.random.key(0), np.ones((1, 2, 2, 1)))
