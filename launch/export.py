"""Write a trained network in a format for other programs. The files are read back and compared first."""

from __future__ import annotations

from collections.abc import Sequence

from dnas import registry
from dnas.options import REQUIRED, Option
from launch.arguments import DATA, options_of, read_command
from launch.interrupts import working
from launch.parser import Positional, Shown

NETWORK = Option("network", str, REQUIRED, "The run directory of a training, or a weights.safetensors.")
FORMAT = Option("format", tuple[str, ...], REQUIRED, "stablehlo: one program with its weights, which JAX runs without this "
                "toolkit. safetensors: the weights, described by metadata. flax: a Python file that defines "
                "the network, and its weights. Or a function of yours: package.module:function or file.py:function.")
COMPARED = DATA._replace(help="Data whose test split is used to compare outputs: a name or other source (`dnas datasets`).")


def main(argv: Sequence[str]) -> int:
    """Runs `dnas export`. Raises ValueError for bad input, and Unfaithful; then nothing is written."""
    options = [NETWORK, FORMAT, *options_of("dnas.api.export:export", without=["data", "progress"]), COMPARED]
    shown = {"network": Positional("RUN"), "format": Shown("{" + ",".join(registry.registered("export")) + "}|FUNCTION ..."),
             "out": Shown("DIR", "export, beside the weights"), "data": Shown("SOURCE ...", "that of the run"),
             "space": Shown("FACTORY", "that of the run"), "task": Shown("FACTORY", "that of the run")}
    values = read_command("export", __doc__, argv, options, shown=shown)
    from dnas.api.export import export
    from launch.text import plain

    with working():
        files = export(values.pop("network"), values.pop("format"), data=values.pop("data") or None, **values)
    for file in files:
        print(f"written     {plain(str(file))}  {file.stat().st_size:,} bytes")
    return 0
