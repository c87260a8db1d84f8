"""S1 to S4 (Zela et al., ICLR 2020, arXiv 1909.09656): parts of the DARTS space on which plain DARTS fails.

S1 leaves two operations to every edge, the pairs differing from edge to edge; S2 is {skip, sep 3x3}; S3 adds `none`;
S4 is {noise, sep 3x3}, where noise ignores its input. Everything else is `search_spaces.darts`.
"""

from __future__ import annotations

from dnas.types import Group, SearchSpace
from search_spaces.darts import EDGES, cell_space

_S1_NORMAL = """skip_connect dil_conv_3x3, skip_connect dil_conv_5x5, skip_connect dil_conv_5x5,
skip_connect sep_conv_3x3, skip_connect dil_conv_3x3, max_pool_3x3 skip_connect, skip_connect sep_conv_3x3,
skip_connect sep_conv_3x3, skip_connect dil_conv_3x3, skip_connect sep_conv_3x3, max_pool_3x3 skip_connect,
skip_connect dil_conv_3x3, dil_conv_3x3 dil_conv_5x5, dil_conv_3x3 dil_conv_5x5"""
_S1_REDUCE = """max_pool_3x3 avg_pool_3x3, max_pool_3x3 dil_conv_3x3, max_pool_3x3 avg_pool_3x3,
max_pool_3x3 avg_pool_3x3, skip_connect dil_conv_5x5, max_pool_3x3 avg_pool_3x3, max_pool_3x3 sep_conv_3x3,
skip_connect dil_conv_3x3, skip_connect dil_conv_5x5, max_pool_3x3 avg_pool_3x3, max_pool_3x3 avg_pool_3x3,
skip_connect dil_conv_5x5, skip_connect dil_conv_5x5, skip_connect dil_conv_5x5"""


def _pairs(text: str) -> Group:
    return Group(EDGES, tuple(tuple(pair.split()) for pair in text.split(",")))


def _same(*ops: str) -> dict[str, Group]:
    return {"normal": Group(EDGES, ops), "reduce": Group(EDGES, ops)}


GROUPS = {
    "s1": {"normal": _pairs(_S1_NORMAL), "reduce": _pairs(_S1_REDUCE)},
    "s2": _same("skip_connect", "sep_conv_3x3"),
    "s3": _same("none", "skip_connect", "sep_conv_3x3"),
    "s4": _same("noise", "sep_conv_3x3"),
}


def s1(image=(32, 32, 3), classes=10, *, channels: int = 16, cells: int = 8) -> SearchSpace:
    """S1 of RobustDARTS (arXiv 1909.09656): two operations an edge, other ones on every edge.

    Args:
        image: (height, width, channels) of the images, at least 4 pixels high and wide.
        classes: number of classes.
        channels: channels of the first cells; doubled in each of the two reduction cells. Published: 16.
        cells: number of cells, of which those at a third and two thirds reduce. Published: 8, finally 20.
    """
    return cell_space("s1", GROUPS["s1"], image, classes, channels=channels, cells=cells)


def s2(image=(32, 32, 3), classes=10, *, channels: int = 16, cells: int = 8) -> SearchSpace:
    """S2 of RobustDARTS (arXiv 1909.09656): skip or separable convolution.

    Args:
        channels: channels of the first cells; doubled in each of the two reduction cells. Published: 16.
        cells: number of cells, of which those at a third and two thirds reduce. Published: 8, finally 20.
    """
    return cell_space("s2", GROUPS["s2"], image, classes, channels=channels, cells=cells)


def s3(image=(32, 32, 3), classes=10, *, channels: int = 16, cells: int = 8) -> SearchSpace:
    """S3 of RobustDARTS (arXiv 1909.09656): none, skip or separable convolution.

    Args:
        channels: channels of the first cells; doubled in each of the two reduction cells. Published: 16.
        cells: number of cells, of which those at a third and two thirds reduce. Published: 8, finally 20.
    """
    return cell_space("s3", GROUPS["s3"], image, classes, channels=channels, cells=cells)


def s4(image=(32, 32, 3), classes=10, *, channels: int = 16, cells: int = 8) -> SearchSpace:
    """S4 of RobustDARTS (arXiv 1909.09656): noise or separable convolution.

    Args:
        channels: channels of the first cells; doubled in each of the two reduction cells. Published: 16.
        cells: number of cells, of which those at a third and two thirds reduce. Published: 8, finally 20.
    """
    return cell_space("s4", GROUPS["s4"], image, classes, channels=channels, cells=cells)
