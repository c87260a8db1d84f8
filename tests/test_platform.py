"""The platform for which a program is built is an argument: any machine traces and lowers for any other."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dnas.methods.darts import darts
from dnas.platform import current, on_cpu, platform
from dnas.task import classification
from dnas.types import Batch
from search_spaces.layers.convolution import conv
from search_spaces.layers.depthwise import depthwise
from search_spaces.layers.kernels import materialised
from search_spaces.repeated import UNROLL, Repeated
from tests.toy_space import toy

ROOT = Path(__file__).parent.parent
IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)


def weight(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class Scale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.ones, (4,))


def many_cells(x):
    return Repeated(Scale, UNROLL + 1, True).init(jax.random.key(0), x)


def traced(function, *args):
    return str(jax.make_jaxpr(function)(*args))


def test_the_platform_is_that_of_the_machine_unless_a_block_names_another():
    own = current()
    with platform("gpu"):
        assert (current(), on_cpu()) == ("cuda", False)
        with platform("tpu"):
            assert current() == "tpu"
            with platform(None):
                assert current() == own
        assert current() == "cuda"
    assert current() == own


def test_an_unknown_platform_is_refused():
    with pytest.raises(ValueError, match="must be one of cpu, cuda, rocm, tpu, not 'npu'"), platform("npu"):
        pass


@pytest.mark.parametrize("name", ["cuda", "tpu"])
@pytest.mark.parametrize("function, args, mark", [
    (conv, (IMAGES, weight(3, 3, 4, 5)), "custom_vjp_call"),
    (depthwise, (IMAGES, weight(3, 3, 1, 4)), "custom_vjp_call"),
    (lambda x: materialised(x) + 1, (IMAGES,), "inlineable"),
    (many_cells, (IMAGES,), "remat"),
], ids=["conv", "depthwise", "kept", "repeated"])
def test_operations_have_their_plain_form_elsewhere(function, args, mark, name):
    """The same function object throughout, so that a cached trace of another platform would be seen."""
    text = lambda: traced(function, *args) if mark != "inlineable" else jax.jit(function).lower(*args).as_text()
    with platform("cpu"):
        before = text()
    with platform(name):
        elsewhere = text()
    with platform("cpu"):
        assert text() == before
    assert mark in before and mark not in elsewhere


@pytest.mark.parametrize("name", ["cuda", "tpu"])
def test_a_search_step_lowers_for_a_platform_that_the_machine_lacks(name):
    space = toy()
    method = darts()
    algorithm, hyper = method.bind(space, classification()), method.numbers_of(epochs=2, steps=4)
    batch = Batch(weight(6, 8, 8, 1), jax.ShapeDtypeStruct((6,), jnp.int32))
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(algorithm.init, key, batch.inputs, hyper)
    step = jax.jit(algorithm.step)
    texts = {}
    for target in "cpu", name:
        with platform(target):
            texts[target] = step.trace(key, state, batch, batch, hyper).lower(lowering_platforms=(target,)).as_text()
    assert 'inlineable = "false"' in texts["cpu"] and 'inlineable = "false"' not in texts[name]


def test_nothing_else_asks_the_machine():
    files = [path for top in ("dnas", "search_spaces", "launch") for path in (ROOT / top).rglob("*.py")]
    asking = [str(path.relative_to(ROOT)) for path in files if any(word in path.read_text() for word in (
        "default_backend", "default_export_platform"))]
    assert asking == ["dnas/platform.py"]
