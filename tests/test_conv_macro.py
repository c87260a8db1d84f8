"""The toy space of widths and kernels: its sizes, its two forms, its costs, and searches in it."""

import jax
import numpy as np
import pytest

import dnas
from dnas.shared_options import SharedOptions, shared_options
from dnas.types import Genotype
from search_spaces.check import check
from search_spaces.conv_macro import conv_macro, widths

IMAGE = (8, 8, 1)


def small(form="entangled", **options):
    return conv_macro(IMAGE, 3, channels=1, form=form, **options)


def test_its_sizes_are_the_published_ones():
    assert widths(8) == ((8, 16, 32), (16, 32, 64), (32, 64, 128), (64, 128, 256))
    space = conv_macro()
    assert [space.groups["width"].edge_ops(l) for l in range(4)] == [tuple(map(str, row)) for row in widths(8)]
    assert space.groups["kernel"].edge_ops(3) == ("3", "5", "7")
    assert np.prod([len(group.edge_ops(e)) for group in space.groups.values() for e in range(4)]) == 6_561


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_its_cost_by_hand(norm):
    """Of a network in the notation; both forms have the same networks, and the mean cost at one-hot gates is the cost."""
    space, text = small(norm=norm), "2x3-4x7-4x5-32x3"
    genotype = space.parse(text)
    assert space.format(genotype) == text
    layers = [(1, 2, 3, 64), (2, 4, 7, 16), (4, 4, 5, 4), (4, 32, 3, 1), (32, 32, 3, 1)]
    macs = sum(into * out * side**2 * pixels for into, out, side, pixels in layers) + 32 * 3
    params = sum(into * out * side**2 + (2 if norm == "batch" else 1) * out for into, out, side, _ in layers) + 33 * 3
    other = small("separate", norm=norm)
    one_hot = jax.tree.map(np.float64, genotype.gates(space.groups))
    assert space.cost(genotype) == space.expected(one_hot) == other.expected(one_hot) == {"params": params, "macs": macs}
    assert other.cost(other.parse(text)) == space.cost(genotype)


def test_the_mean_cost_of_random_networks():
    space, draw = small(), np.random.default_rng(0)
    gates = {name: draw.dirichlet(np.ones(3), 4) for name in space.groups}
    channels = [1, *(gates["width"] * widths(1)).sum(1)]
    kernels = gates["kernel"] @ [9, 25, 49]
    macs = sum(channels[l] * channels[l + 1] * kernels[l] * pixels for l, pixels in enumerate((64, 16, 4, 1)))
    assert space.expected(gates)["macs"] == pytest.approx(macs + channels[4] * 32 * 9 + 32 * 3, rel=1e-12)


@pytest.mark.heavy
def test_the_separate_form_does_what_a_space_must():
    images = np.random.default_rng(0).normal(size=(4, *IMAGE))
    assert not [finding for finding in check(small("separate"), images, 3) if finding.wrong]


@pytest.mark.heavy
def test_two_searches_that_find_different_networks_inherit_from_one():
    """A search under sparsemax, a selection in it, and a training from its weights."""
    data = dnas.data.load("digits", limit=200)
    space = dnas.space("conv-macro", data, channels=1)
    run = dnas.search(space, dnas.method("darts", relaxation="sparsemax", arch_lr=0.1), data, epochs=2, batch=32,
                      progress=False)
    choice = dnas.select(run, "random", progress=False)
    assert len(choice.genotype.choices["width"]) == len(run.genotype.choices["kernel"]) == 4
    weights = [space.inherit(run.supernet.state.weights, genotype) for genotype in (run.genotype, choice.genotype)]
    assert all(sum(leaf.size for leaf in jax.tree.leaves(tree)) == space.cost(genotype)["params"]
               for tree, genotype in zip(weights, (run.genotype, choice.genotype)))


@pytest.mark.parametrize("go, message", [
    (lambda: small("merged"), "form is 'merged'; it must be one of entangled, separate"),
    (lambda: small(norm="layer"), "norm is 'layer'; it must be one of batch, none"),
    (lambda: conv_macro(IMAGE, 3, channels=0), "channels >= 1"),
    (lambda: conv_macro((8,), 3), "space conv-macro is for images"),
    (lambda: small().parse("1x3-2x3-4x3"), "not 4 layers of width x kernel"),
    (lambda: small().parse("1x3-2x3-4x3-8x9"), "the kernels 3,5,7"),
    (lambda: small().cost(Genotype.from_decisions(small(), {"width": [-2, 0, 0, 0], "kernel": [0] * 4})), "has no size"),
    (lambda: small("separate").cost(Genotype.from_decisions(small(), {"width": [0] * 4, "kernel": [0, -2, 0, 0]})),
     "has no size"),
])
def test_what_cannot_be_is_refused_in_one_line(go, message):
    with pytest.raises(ValueError, match=message) as caught:
        go()
    assert "\n" not in str(caught.value)


def test_partial_channels_are_refused():
    with shared_options(SharedOptions(partial_channels=2)), pytest.raises(ValueError, match="partial_channels is 2"):
        small()
