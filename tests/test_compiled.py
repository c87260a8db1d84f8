"""The least bytes of `benchmarks compiled`, counted by hand."""

import jax
import pytest

from benchmarks.compiled import least_bytes, scoring, step
from dnas.platform import platform
from search_spaces.nasbench201 import nasbench201
from tests.toy_space import toy

BATCH = 6


def images(*shape):
    return jax.ShapeDtypeStruct((BATCH, *shape), "float32")


def product(pixels, inputs, outputs, kernel=1, gradients=2):
    """Bytes of a convolution: 3 times inputs and weights, twice outputs, for each gradient; once each without one."""
    read = BATCH * pixels * inputs + kernel * kernel * inputs * outputs
    return 4 * ((3 * gradients or 1) * read + (2 * gradients or 1) * BATCH * pixels * outputs)


@pytest.mark.parametrize("gradients", [0, 2])
def test_of_the_toy(gradients):
    """A stem, a convolution on each of two edges, and a head."""
    by_hand = (product(64, 1, 4, gradients=gradients) + 2 * product(64, 4, 4, gradients=gradients)
               + product(1, 4, 10, gradients=gradients))
    with platform("cuda"):
        assert least_bytes(toy(), images(8, 8, 1), gradients) == by_hand


def test_of_nasbench201_every_edge_has_its_own_convolutions():
    """Six edges with a 1x1 and a 3x3 convolution in each of three cells, and what is around them."""
    by_hand = sum(6 * (product(256 // 4**s, 2 * 2**s, 2 * 2**s, k)) for s in range(3) for k in (1, 3))
    by_hand += product(256, 3, 2, 3) + product(1, 8, 10)
    for s in (1, 2):  # residual blocks: two 3x3, the first of stride 2, and a 1x1 after a pooling
        wide, pixels = 2 * 2**s, 256 // 4**s
        strided = 4 * (6 * (BATCH * 4 * pixels * wide // 2 + 9 * wide // 2 * wide) + 4 * BATCH * pixels * wide)
        by_hand += strided + product(pixels, wide, wide, 3) + product(pixels, wide // 2, wide)
    with platform("cuda"):
        assert least_bytes(nasbench201((16, 16, 3), 10, channels=2, cells=1), images(16, 16, 3), 2) == by_hand


@pytest.mark.parametrize("program, count, lanes", [(step, 1, ()), (step, 3, (3,)), (scoring, 3, (3,))])
def test_programs_are_those_of_a_step_of_several_seeds_and_of_several_masks(program, count, lanes):
    function, args, _ = program(toy(), images(8, 8, 1), count)
    with platform("cuda"):
        out = jax.eval_shape(function, *args)
    assert {leaf.shape for leaf in jax.tree.leaves(out[1] if isinstance(out, tuple) else out)} == {lanes}
