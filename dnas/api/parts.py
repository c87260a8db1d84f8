"""`dnas.space` and `dnas.method`: the parts of a search by name, so that its run directory can be opened again by itself."""

from __future__ import annotations

from dnas import config as configs
from dnas.algorithms.method import Method
from dnas.data import Dataset, load
from dnas.types import SearchSpace


def space(name: str, data: str | Dataset, **options) -> SearchSpace:
    """The search space `name` for the inputs and outputs of a data set.

    data: a data set, or what `dnas.data.load` takes.
    name: a registered name (`dnas spaces` lists them), package.module:factory or file.py:factory.
    options: of its factory, and those of `dnas.shared_options.SharedOptions`, which every space has.

    Raises ValueError, in one line, for an unknown name or option, and for a value that an option cannot have.
    """
    return configs.build_space(name, load(data) if isinstance(data, str) else data, options)


def method(name: str, **options) -> Method:
    """The method `name` with `options` of its factory. name and errors: as for `space`."""
    return configs.build_method(name, options)
