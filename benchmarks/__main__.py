"""`python -m benchmarks NAME ...` runs the benchmark of that name; the names are those of the files beside this one."""

import importlib
import sys
from pathlib import Path

names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
if len(sys.argv) < 2 or sys.argv[1] not in names:
    sys.exit(f"usage: python -m benchmarks {{{','.join(names)}}} [--help]")
importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
