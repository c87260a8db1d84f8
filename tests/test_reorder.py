"""The most important channels first: the largest network stays, narrow ones get the channels of largest norm."""

from functools import partial

import jax
import numpy as np
import pytest

from search_spaces.check import check
from search_spaces.gpt import gpt
from search_spaces.mobilenet import mobilenet
from search_spaces.vit import vit

SIZES = {"embeds": (4, 6), "depths": (1, 2), "heads": (1,), "ratios": (1, 2, 3), "head_width": 2}
SPACES = {"mobilenet": partial(mobilenet, (4, 4, 1), 3, channels=2, stages=2, layers=2),
          "squeeze and excitation": partial(mobilenet, (4, 4, 1), 3, channels=2, stages=1, layers=2, squeeze_excite=True),
          "vit": partial(vit, (4, 4, 1), 3, patch=2, **SIZES), "gpt": partial(gpt, (5,), 7, **SIZES)}
MLP = ("block_1", "mlp", "narrow", "kernel")
READERS = {"mobilenet": ("block_1_0", "project", "kernel"), "squeeze and excitation": ("block_0_1", "project", "kernel"),
           "vit": MLP, "gpt": MLP}


@pytest.fixture(scope="module", params=SPACES)
def case(request):
    """A tiny space, its weights and stats in float64, in which no two channels are alike, a network's logits, and the path
    of a kernel that reads searched channels."""
    space, draw = SPACES[request.param](), np.random.default_rng(0)
    inputs = draw.integers(0, 7, (2, 5), np.int32) if request.param == "gpt" else draw.normal(size=(2, 4, 4, 1))
    with jax.enable_x64(True):
        trees = space.init(jax.random.key(0), inputs.astype(space.input_dtype))
        trees = [jax.tree.map(lambda leaf: leaf + draw.uniform(0, 0.5, leaf.shape), tree) for tree in trees]
        supernet = jax.jit(lambda trees, gates: space.apply(*trees, gates, inputs, train=False, key=None)[0])
        apply = lambda trees, genotype: supernet(trees, jax.tree.map(np.float64, genotype.gates(space.groups)))
        yield space, trees, apply, READERS[request.param]


def norms(tree, path):
    """The l1 norm of what each channel is read by, `[C]`: of a dense kernel's rows, of a convolution's third axis."""
    for name in path:
        tree = tree[name]
    return np.abs(tree).sum(-1).reshape(-1)


def narrow(space, ratio):
    """The largest network but for the ratio of every block."""
    rows = space.largest().decisions(space.groups)
    return type(space.largest()).from_decisions(space, rows | {"ratio": np.full_like(rows["ratio"], ratio)})


def test_the_largest_network_stays_and_narrow_ones_have_the_channels_of_largest_norm(case):
    """Traced, and for several supernets at once; momentum in an optimiser's state gets the weights' order."""
    space, trees, apply, reader = case
    momentum = jax.tree.map(np.square, trees[0])
    reordered, stats, (moved,) = jax.jit(space.reorder)(trees[0], [*trees, (momentum,)])
    largest = [apply(each, space.largest()) for each in ((reordered, stats), trees)]
    np.testing.assert_allclose(*largest, rtol=1e-9, atol=1e-12)
    assert np.abs(apply((reordered, stats), narrow(space, 0)) - apply(trees, narrow(space, 0))).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, moved, jax.tree.map(np.square, reordered))
    before, after = norms(trees[0], reader), norms(reordered, reader)
    assert list(after) == sorted(before, reverse=True) and list(after) != list(before)
    lanes = jax.tree.map(lambda leaf: np.stack([leaf, -2 * leaf]), trees[0])
    first = jax.tree.map(lambda leaf: leaf[0], jax.vmap(space.reorder)(lanes, [lanes])[0])
    jax.tree.map(np.testing.assert_array_equal, first, reordered)


def test_sizes_that_are_trained_keep_their_channels(case):
    """With the middle ratio trained beside the largest it computes what it did before, and the smallest does not."""
    space, trees, apply, reader = case
    trained = {name: group.allowed.copy() for name, group in space.groups.items()}
    trained["ratio"][:, 0] = False
    if "embed" in trained:
        trained["embed"][:, 0] = False
    after = jax.jit(space.reorder)(trees[0], trees, trained)
    for ratio, same in (2, True), (1, True), (0, False):
        apart = np.abs(apply(after, narrow(space, ratio)) - apply(trees, narrow(space, ratio))).max()
        assert (apart < 1e-9) == same, (ratio, apart)
    everything = {name: group.allowed for name, group in space.groups.items()}
    parts = norms(space.reorder(trees[0], trees, everything)[0], reader)
    assert sorted(parts, reverse=True) != list(parts)


def test_only_shared_weights_have_an_order():
    for make in SPACES.values():
        assert make(form="separate").reorder is None and make().reorder is not None


@pytest.mark.heavy
def test_a_wrong_order_is_noticed():
    """By `dnas spaces check`."""
    space = SPACES["vit"]()
    backwards = lambda weights, trees: [jax.tree.map(lambda leaf: leaf[::-1], tree) for tree in trees]
    for each, wrong in (space, False), (space._replace(reorder=backwards), True):
        last = list(check(each, np.random.default_rng(0).normal(size=(2, 4, 4, 1)), 3))[-1]
        assert "order of its channels" in last.tried and ("of their size" in (last.wrong or "")) == wrong, last
