"""A search step beside the PyTorch program of the same arithmetic: time, memory, and the seconds until the first.

    pip install torch
    python -m benchmarks step --space nasbench201 --channels 16 --cells 1 --batch 64 --out runs/step.json

First the two are shown to do the same work: as many weights, and equal logits on the same weights and images. Then they
take steps in turn, each in a process of its own, and the ratio is the median of those of neighbouring steps. Memory is what
steps add to the process (on a GPU: the most that was allocated).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=["nasbench201", "darts"], default="nasbench201")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=1, help="in each stage (nasbench201) or in all (darts)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--half", action="store_true", help="bfloat16 here, autocast there")
    parser.add_argument("--layout", choices=["nhwc", "nchw"], default="nhwc", help="of torch")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, help="a JSON file, to which this measurement is added")
    options = parser.parse_args(argv)
    found = measured(options)
    print(table(found))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(options.out.read_text()) if options.out.exists() else []
        options.out.write_text(json.dumps([*before, found], indent=1) + "\n")


def measured(options):
    """What both sides say of themselves, their seconds step by step, and the ratio torch / ours."""
    work = {name: getattr(options, name) for name in ("space", "channels", "cells", "batch", "size", "half", "layout")}
    with tempfile.TemporaryDirectory() as folder:
        torch = Side("torch", work)
        torch.ask(f"logits {folder}/weights.npz")
        jax = Side("jax", work)
        if torch.about["weights"] != jax.about["weights"]:
            sys.exit(f"not the same work: {torch.about['weights']:,} weights in torch, {jax.about['weights']:,} here")
        apart = jax.ask(f"logits {folder}/weights.npz")["apart"]
        if not options.half and apart > 1e-4:
            sys.exit(f"not the same work: logits differ by {apart:.1e} of the largest")
    seconds = {"torch": [], "jax": []}
    for number in range(options.rounds + 2):
        for name, side in ("torch", torch), ("jax", jax):
            took = side.ask("step")["seconds"]
            if number > 1:
                seconds[name].append(took)
    ratios = [theirs / ours for theirs, ours in zip(seconds["torch"], seconds["jax"])]
    return work | {"jax": jax.about | jax.ask("memory"), "torch": torch.about | torch.ask("memory"), "apart": apart,
                   "seconds": seconds, "ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)]}


class Side:
    """A process that takes steps when asked to. about: what it said first."""

    def __init__(self, framework, work):
        self.process = subprocess.Popen([sys.executable, "-m", "benchmarks._worker", framework, json.dumps(work)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.answer()

    def ask(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a side has failed; its message is above")
        return json.loads(line)


def table(found):
    """The measurement as Markdown."""
    sides = {name: found[name] | {"step": statistics.median(found["seconds"][name])} for name in ("torch", "jax")}
    lines = [f"{found['space']}, C={found['channels']}, {found['cells']} cells, batch {found['batch']}, "
             f"{found['size']}x{found['size']}{', half precision' if found['half'] else ''}; on {sides['torch']['device']} "
             f"(torch {sides['torch']['version']}), {sides['jax']['device']} (jax {sides['jax']['version']})",
             f"{sides['jax']['weights']:,} weights each; logits differ by {found['apart']:.1e} of the largest", "",
             "| | torch | ours | ratio |", "|---|---|---|---|"]
    for name, field, size in ("seconds a step", "step", 1), ("MB that steps take", "bytes", 1e6):
        theirs, ours = (sides[side][field] / size for side in ("torch", "jax"))
        ratio = found["ratio"] if field == "step" else ours / theirs
        lines.append(f"| {name} | {theirs:.3g} | {ours:.3g} | {ratio:.2f} |")
    lines.append(f"| seconds to trace + compile | | {sides['jax']['trace_seconds']:.1f} + "
                 f"{sides['jax']['compile_seconds']:.1f} | |")
    return "\n".join(lines)
