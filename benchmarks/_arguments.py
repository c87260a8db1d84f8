"""What benchmarks of supernets are told, and where their results go."""

from __future__ import annotations

import argparse
import json


def supernet_parser(description, **space):
    """A parser of the options that name a supernet and its batch. space: keywords of --space."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201", **space)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=1, help="in each stage (nasbench201) or in all (darts)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    return parser


def add_result(path, found):
    """Adds a result to the list in a JSON file, which need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*before, found], indent=1) + "\n")
