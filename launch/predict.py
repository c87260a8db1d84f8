"""Predict with a trained network: for pictures, the rows of a table, arrays, or a text.

If there are targets, in the file or as folders FOLDER/CLASS/PICTURE, the metrics are printed too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dnas.options import REQUIRED, Option
from dnas.reports.text import columns
from launch.arguments import options_of, read_command
from launch.parser import Positional, Shown
from launch.text import plain

NETWORK = Option("network", str, REQUIRED, "The run directory of a training, or a weights.safetensors.")
INPUTS = Option("inputs", tuple[str, ...], REQUIRED, "PNG, JPEG, WebP or BMP files, or folders of them, which are entered; "
                "or one .csv with the columns of the network's table, one .npz with inputs x, or one .txt.")
SHOWN = {"network": Positional("RUN"), "inputs": Positional("PICTURE|FOLDER|FILE ..."), "out": Shown("FILE", "none"),
         "space": Shown("FACTORY", "that of the run"), "task": Shown("FACTORY", "that of the run")}


def main(argv: Sequence[str]) -> int:
    """Runs `dnas predict`. Raises ValueError for bad input."""
    values = read_command("predict", __doc__, argv, [NETWORK, INPUTS, *options_of("dnas.api.predict:predict")], shown=SHOWN)
    import dnas

    predictions = dnas.predict(**values)
    rows = [] if values["out"] else predictions.rows()
    if rows:
        print(columns([[plain(cell) for cell in row] for row in rows], left=1))
    if predictions.metrics:
        print(("\n" if rows else "") + predictions.summary())
    if values["out"]:
        print(f"written    {plain(values['out'])}: {len(predictions):,} examples")
    for warning in predictions.warnings():
        print(f"dnas: warning: {plain(warning)}", file=sys.stderr)
    return 0
