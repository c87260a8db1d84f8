"""Architectures that papers published, by name. Who gives a wrong one need not wait for jax."""

from __future__ import annotations

from pathlib import Path

from dnas import registry
from dnas.types import Genotype

FORMS = "it must be a run directory, a folder of its selections, a genotype.json, or a published name"


def published(name: str) -> Genotype:
    """The published genotype `name`. Raises ValueError, in one line, if there is none, or `name` is a path."""
    if Path(name).suffix or len(Path(name).parts) > 1:
        raise ValueError(f"{name} does not exist; {FORMS} ({', '.join(registry.registered('genotype'))})")
    return registry.load("search_spaces.genotypes:genotype")(name)
