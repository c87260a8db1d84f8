"""`dnas spaces check`: good spaces pass, and of a bad one it says what is wrong and where."""

import os
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from dnas.registry import resolve
from dnas.types import Genotype, Group
from launch.main import main
from search_spaces import SPACES
from search_spaces.check import check
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import Identity, Linear, ReLUConvBN
from tests.toy_kernel import kernels
from tests.toy_space import OPS, toy

IMAGE = (6, 6, 1)
IMAGES = np.random.default_rng(0).normal(size=(4, *IMAGE))


class Wide(nn.Module):
    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        return ReLUConvBN(self.channels + 1, kernel=1, name="conv")(x, train)


class Draws(nn.Module):
    channels: int
    stride: int = 1

    def __call__(self, x, train):
        return x * np.random.default_rng().normal(size=x.shape[1:])


class Net(nn.Module):
    ops: dict
    edges: int = 2

    @nn.compact
    def __call__(self, images, gates, train):
        x = ReLUConvBN(3, kernel=1, affine=True, name="stem")(images, train)
        for e in range(self.edges):
            x = x + MixedOp(self.ops, name=f"edge_{e}")(x, gates["chain"][e], train)
        return Linear(3, name="head")(x.mean((1, 2)))


def space(ops, edges=2, group=None):
    group = group or Group(((0, 1), (1, 2)), tuple(ops))
    return flax_space("bad", Net(ops, edges), {"chain": group}, image=IMAGE)


def wrong(space):
    return [finding.wrong for finding in check(space, IMAGES, 3) if finding.wrong]


def test_a_good_space_passes():
    findings = list(check(toy(IMAGE, 3), IMAGES, 3))
    assert len(findings) == 8 and not [finding for finding in findings if finding.wrong]


class Unequal(nn.Module):
    @nn.compact
    def __call__(self, images, gates, train):
        x = ReLUConvBN(3, kernel=1, affine=True, name="stem")(images, train)
        for e, names in enumerate((("skip", "conv", "pool"), ("none", "conv"))):
            x = x + MixedOp({name: OPS[name] for name in names}, name=f"edge_{e}")(x, gates["g"][e], train)
        return Linear(3, name="head")(x.mean((1, 2)))


def test_edges_with_different_operations_need_nothing_of_the_author():
    group = Group(((0, 1), (1, 2)), (("skip", "conv", "pool"), ("none", "conv")))
    assert not wrong(flax_space("unequal", Unequal(), {"g": group}, image=IMAGE))


def test_a_small_kernel_is_the_centre_of_the_large_one():
    space = kernels(IMAGE, 3)
    weights, stats = space.init(jax.random.key(0), IMAGES)
    genotype = Genotype.from_decisions(space, {"kernel": [0, 1]})
    inherited = space.inherit(weights, genotype)
    np.testing.assert_array_equal(inherited["kernel_0"], weights["kernel_0"][1:4, 1:4])
    np.testing.assert_array_equal(inherited["kernel_1"], weights["kernel_1"])
    assert not wrong(space)
    corner = kernels(IMAGE, 3, inherit=lambda path, leaf, shape: leaf[tuple(map(slice, shape))])
    assert any("logits differ by" in each for each in wrong(corner))
    whole = kernels(IMAGE, 3, inherit=lambda path, leaf, shape: leaf)
    with pytest.raises(ValueError, match=r"space 'kernels': inherit returned shape \(5, 5, 1, 4\) for kernel_0; the "
                                         r"discrete network needs \(3, 3, 1, 4\)"):
        whole.inherit(weights, genotype)


@pytest.mark.parametrize("make, message", [
    (lambda: space({"skip": Identity, "conv": partial(ReLUConvBN, kernel=1)}, edges=1), "edge 1->2 of group 'chain'"),
    (lambda: space(OPS, group=Group(((0, 1), (1, 2)), ("none", "skip"))), "has the operations none, skip; the module mixes"),
    (lambda: space({"skip": Identity, "conv": ReLUConvBN}, group=Group(((0, 1), (1, 2)), ("conv", "skip"))),
     "edge 0->1 of group 'chain' has the operations conv, skip"),
    (lambda: space({"skip": Identity, "conv": ReLUConvBN}, group=Group(((0, 1), (1, 2)), (("skip", "conv"), ("skip",)))),
     "edge 1->2 of group 'chain' has the operations skip; the module mixes skip, conv"),
    (lambda: space({"skip": Identity, "wide": Wide}), "edge 'edge_0': wide puts out"),
    (lambda: space({"skip": Identity, "draws": Draws}), "two equal calls give different logits"),
    (lambda: toy(IMAGE, 3)._replace(inherit=lambda tree, genotype: tree), "which it does not use"),
    (lambda: toy(IMAGE, 3)._replace(cost=lambda genotype=None: {"params": 1, "macs": 1}), "cost says 1"),
    (lambda: toy(IMAGE, 4), "logits have shape (4, 4)"),
], ids=["unused edge", "operations", "order", "one edge", "shapes", "randomness", "inherit", "cost", "classes"])
def test_a_bad_space_is_told_what_is_wrong(make, message):
    found = wrong(make())
    assert found and any(message in each for each in found), found


@pytest.mark.heavy
@pytest.mark.parametrize("name", [name for name in SPACES if name != "graph"])
def test_every_space_passes(name):
    small = {"width": {"channels": 4}, "dense": {"hidden": 8, "layers": 1}, "nasbench201": {"channels": 2, "cells": 1},
             "conv-macro": {"channels": 1}, "mobilenet": {"channels": 2, "stages": 2, "layers": 2},
             "macro": {"channels": 2}, "nats-size": {"channels": 8}, "tas": {"channels": 4, "stages": 2, "blocks": 2}}
    options = small.get(name, {"channels": 2, "cells": 3})
    space = resolve(name, "space")((8, 8, 2), 3, **options)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 2))
    assert not [finding for finding in check(space, images, 3) if finding.wrong]


@pytest.mark.heavy
@pytest.mark.skipif("DNAS_DATA" not in os.environ, reason="needs cora.npz in the folder DNAS_DATA")
def test_the_graph_space_passes(capsys):
    assert main(["spaces", "check", "graph", "--batch", "100", "--data", f"{os.environ['DNAS_DATA']}/cora.npz"]) == 0


def test_the_command(capsys):
    assert main(["spaces", "check", f"{Path(__file__).parent}/toy_space.py:toy"]) == 0
    out = capsys.readouterr().out
    assert out.count("\nyes") == 8 and "does what a space must do" in out
    assert main(["spaces", "check", "--help"]) == 0 and "usage" in capsys.readouterr().out
    assert main(["spaces", "check"]) == 2 and "usage" in capsys.readouterr().err
    assert main(["spaces", "check", "nasbench20"]) == 2 and "did you mean 'nasbench201'" in capsys.readouterr().err


ROWS = '''
import flax.linen as nn

from dnas.types import Group
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import BatchNorm, Identity, Linear, Zero


class Dense(nn.Module):
    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        return Linear(self.channels, name="linear")(nn.relu(BatchNorm(name="bn")(x, train)))


OPS = {"none": Zero, "skip": Identity, "dense": Dense}


class Network(nn.Module):
    classes: int
    tokens: int = 0

    @nn.compact
    def __call__(self, x, gates, train):
        x = nn.Embed(self.tokens, 8, name="embed")(x) if self.tokens else Linear(8, name="stem")(x)
        for e in range(2):
            x = x + MixedOp(OPS, name=f"edge_{e}")(x, gates["g"][e], train)
        return Linear(self.classes, name="head")(x if x.ndim == 2 else x.mean(1))


def space(image, classes, tokens=0):
    return flax_space("rows", Network(classes, tokens), {"g": Group(((0, 1), (1, 2)), tuple(OPS))}, image=image,
                      input_dtype="int32" if tokens else "float32", options={"image": list(image), "classes": classes})


def rows(image=(5,), classes=3):
    return space(image, classes)


def series(image=(6, 4), classes=3):
    return space(image, classes)


def tokens(image=(6,), classes=3, *, vocabulary=None):
    return space(image, classes, vocabulary or 7)


def wide(image=(6,), classes=3):
    return space(image, classes + 1)
'''


@pytest.mark.parametrize("name, kind", [("rows", "numbers"), ("series", "numbers"), ("tokens", "tokens")])
def test_spaces_of_rows_series_and_tokens_are_checked_without_data(tmp_path, capsys, name, kind):
    """Partial channels too, whose shuffled sum with the node itself XLA once computed in place."""
    (tmp_path / "mine.py").write_text(ROWS)
    for options in [], ["--space.partial-channels", "2"]:
        assert main(["spaces", "check", f"{tmp_path}/mine.py:{name}", *options]) == 0, capsys.readouterr().out
        out = capsys.readouterr().out
        assert out.startswith(f"data random {kind}, inputs of shape (") and out.count("\nyes") == 8


def test_what_is_wrong_with_such_a_space_is_said(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(ROWS)
    assert main(["spaces", "check", f"{tmp_path}/mine.py:wide"]) == 2
    assert "logits have shape (4, 4); 4 inputs of 3 classes need (4, 3)" in capsys.readouterr().out
    assert main(["spaces", "check", f"{tmp_path}/mine.py:rows", "--data", "digits"]) == 2
