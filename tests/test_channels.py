"""Channels in the order of their importance: the same largest network, other small ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.decisions import full_mask
from dnas.algorithms.elastic import costs_in_order, largest, smallest
from dnas.algorithms.relaxations import Architecture
from search_spaces.gpt import gpt
from search_spaces.layers.channels import Channels, order_of
from search_spaces.mobilenet import mobilenet


def test_the_order_is_by_what_reads_the_channels():
    reader = Channels(("project", "kernel"), {("project", "kernel"): -2})
    weights = {"project": {"kernel": jnp.array([[[[1.0, -1], [0, 3], [0.5, 0.5], [2, 0]]]])}}
    np.testing.assert_array_equal(order_of(weights, reader), [1, 0, 3, 2])


@pytest.mark.parametrize("name", ["mobilenet", "squeeze-excite", "gpt"])
def test_the_largest_network_stays_and_the_smallest_changes(name):
    """Of weights in an order of chance; running averages and momentum, which is shaped like the weights, move along."""
    if name == "gpt":
        space, x = gpt((6,), 11, embeds=(8, 12), depths=(1, 2), heads=(1, 3), head_width=4), np.arange(6)[None]
    else:
        space = mobilenet((8, 8, 3), 3, channels=4, stages=1, layers=2, squeeze_excite=name == "squeeze-excite")
        x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    weights, stats = space.init(jax.random.key(0), x)
    shift = lambda leaf, seed: leaf + 0.3 * jax.random.uniform(jax.random.key(seed), leaf.shape)
    noise = lambda tree, seed: jax.tree.map(lambda leaf: shift(leaf, seed), tree)
    weights, stats = noise(weights, 2), noise(stats, 3)
    ordered, averages, momentum = jax.jit(lambda *args: space.reorder(args[0], list(args)))(weights, stats, weights)
    assert jax.tree.all(jax.tree.map(np.array_equal, ordered, momentum))
    moved = jax.tree.map(lambda old, new: not np.array_equal(old, new), weights, ordered)
    assert any(jax.tree.leaves(moved)) and not all(jax.tree.leaves(moved))
    ranks = {name: jnp.asarray(rows) for name, rows in costs_in_order(space).items()}
    architecture = Architecture(ranks, full_mask(space.groups), space.groups)
    run = jax.jit(lambda weights, stats, gates: space.apply(weights, stats, gates, x, train=False, key=None)[0])
    full, small = largest(architecture), smallest(architecture)
    np.testing.assert_allclose(run(ordered, averages, full), run(weights, stats, full), atol=1e-5)
    assert np.abs(run(ordered, averages, small) - run(weights, stats, small)).max() > 1e-3
