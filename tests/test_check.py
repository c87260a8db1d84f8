"""`dnas spaces check`: good spaces pass, and of a bad one it says what is wrong and where."""

import os
from functools import partial
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest

from dnas.registry import resolve
from dnas.types import Group
from launch.main import main
from search_spaces import SPACES
from search_spaces.check import check
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import Identity, Linear, ReLUConvBN
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
    small = {"width": {"channels": 4}, "dense": {"hidden": 8, "layers": 1}, "nasbench201": {"channels": 2, "cells": 1}}
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
