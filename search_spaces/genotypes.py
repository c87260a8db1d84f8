"""Published genotypes of the DARTS space by name: DARTS (arXiv 1806.09055), PC-DARTS (arXiv 1907.05737)."""

from __future__ import annotations

import difflib

from dnas.types import Genotype

GENOTYPES = {
    "darts-v1":
        "normal sep_conv_3x3:1, sep_conv_3x3:0 | skip_connect:0, sep_conv_3x3:1 | skip_connect:0, sep_conv_3x3:1 | "
        "sep_conv_3x3:0, skip_connect:2; "
        "reduce max_pool_3x3:0, max_pool_3x3:1 | skip_connect:2, max_pool_3x3:0 | max_pool_3x3:0, skip_connect:2 | "
        "skip_connect:2, avg_pool_3x3:0",
    "darts-v2":
        "normal sep_conv_3x3:0, sep_conv_3x3:1 | sep_conv_3x3:0, sep_conv_3x3:1 | sep_conv_3x3:1, skip_connect:0 | "
        "skip_connect:0, dil_conv_3x3:2; "
        "reduce max_pool_3x3:0, max_pool_3x3:1 | skip_connect:2, max_pool_3x3:1 | max_pool_3x3:0, skip_connect:2 | "
        "skip_connect:2, max_pool_3x3:1",
    "pc-darts-cifar":
        "normal sep_conv_3x3:1, skip_connect:0 | sep_conv_3x3:0, dil_conv_3x3:1 | sep_conv_5x5:0, sep_conv_3x3:1 | "
        "avg_pool_3x3:0, dil_conv_3x3:1; "
        "reduce sep_conv_5x5:1, max_pool_3x3:0 | sep_conv_5x5:1, sep_conv_5x5:2 | sep_conv_3x3:0, sep_conv_3x3:3 | "
        "sep_conv_3x3:1, sep_conv_3x3:2",
    "pc-darts-image":
        "normal skip_connect:1, sep_conv_3x3:0 | sep_conv_3x3:0, skip_connect:1 | sep_conv_3x3:1, sep_conv_3x3:3 | "
        "sep_conv_3x3:1, dil_conv_5x5:4; "
        "reduce sep_conv_3x3:0, skip_connect:1 | dil_conv_5x5:2, max_pool_3x3:1 | sep_conv_3x3:2, sep_conv_3x3:1 | "
        "sep_conv_5x5:0, sep_conv_3x3:3",
}
"""In the notation of `darts().parse`: the edges of each node, operation:source, the stronger first."""


def genotype(name: str) -> Genotype:
    """The published genotype of this name, in the DARTS space. Raises ValueError, in one line, if there is none."""
    if name not in GENOTYPES:
        near = difflib.get_close_matches(name.lower(), GENOTYPES, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no published genotype {name[:80]!r}; {hint}there are {', '.join(GENOTYPES)}")
    from search_spaces.darts import darts  # flax takes a second to import

    return darts().parse(GENOTYPES[name])
