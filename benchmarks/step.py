"""A search step beside the PyTorch program of the same arithmetic: time, memory, and the seconds until the first.

    pip install torch
    python -m benchmarks step --space nasbench201 --channels 16 --cells 1 --batch 64 --out runs/step.json

First the two are shown to do the same work: as many weights, and in float32 equal logits on the same weights and images.
Then they take steps in turn, each in a process of its own, and the ratio is the median of those of neighbouring steps.
Memory is what steps add to the process (on a GPU: the most that torch allocates in steps, and JAX in its whole life).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._arguments import add_result, supernet_parser

SIDES = "torch", "jax"
WARM = 2
"""Rounds that are not counted: programs compile and choose their kernels in them."""


def main(argv):
    parser = supernet_parser(__doc__, choices=["nasbench201", "darts"])
    parser.add_argument("--half", action="store_true", help="bfloat16 here, autocast there")
    parser.add_argument("--layout", choices=["nhwc", "nchw"], default="nhwc", help="of torch")
    parser.add_argument("--mode", choices=["eager", "compile", "graphs"], default="eager",
                        help="of torch: graphs is torch.compile with CUDA graphs")
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=SIDES)
    parser.add_argument("--steps", type=int, default=1, help="of each side in a round, which waits for the last only")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, help="a JSON file, to which this measurement is added")
    options = parser.parse_args(argv)
    found = measured(options)
    print(table(found))
    if options.out:
        add_result(options.out, found)


def measured(options):
    """What each side says of itself, its seconds a step in each round, and with both sides the ratio torch / ours."""
    work = {name: getattr(options, name)
            for name in ("space", "channels", "cells", "batch", "size", "half", "layout", "mode")}
    sides = {name: Side(name, work) for name in SIDES if name in options.sides}
    both = {"apart": apart(sides, options.half)} if len(sides) == 2 else {}
    rounds = {name: [] for name in sides}
    for _ in range(WARM + options.rounds):
        for name, side in sides.items():
            rounds[name].append(side.ask(f"step {options.steps}")["seconds"])
    seconds = {name: values[WARM:] for name, values in rounds.items()}
    if both:
        ratios = [theirs / ours for theirs, ours in zip(seconds["torch"], seconds["jax"])]
        both |= {"ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)]}
    return work | {name: side.about | side.ask("memory") for name, side in sides.items()} | {
        "seconds": seconds, "warm": {name: values[:WARM] for name, values in rounds.items()}} | both


def apart(sides, half):
    """How far the logits of the two sides are from each other, as a share of the largest; None in half precision, which
    would not show it. Ends if the work differs."""
    weights = {name: side.about["weights"] for name, side in sides.items()}
    if weights["torch"] != weights["jax"]:
        sys.exit(f"not the same work: {weights['torch']:,} weights in torch, {weights['jax']:,} here")
    if half:
        return None
    with tempfile.TemporaryDirectory() as folder:
        sides["torch"].ask(f"logits {folder}/weights.npz")
        share = sides["jax"].ask(f"logits {folder}/weights.npz")["apart"]
    most = 1e-4 if sides["torch"].about["device"] == "cpu" else 1e-2  # a GPU adds in other orders, by other kernels
    if share > most:
        sys.exit(f"not the same work: logits differ by {share:.1e} of the largest")
    return share


class Side:
    """A process that takes steps when asked to. about: what it said first."""

    def __init__(self, framework, work):
        self.framework = framework
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
            sys.exit(f"the side of {self.framework} ended with status {self.process.wait()}; its message is above")
        return json.loads(line)


def table(found):
    """The measurement as Markdown."""
    sides = {name: found[name] | {"step": statistics.median(found["seconds"][name])} for name in SIDES if name in found}
    lines = [f"{found['space']}, C={found['channels']}, {found['cells']} cells, batch {found['batch']}, {found['size']}x"
             f"{found['size']}{', half precision' if found['half'] else ''}, torch {found['mode']}; on "
             + ", ".join(f"{side['device']} ({name} {side['version']})" for name, side in sides.items())]
    lines += [f"{sides['jax']['weights']:,} weights each" + (f"; logits differ by {found['apart']:.1e} of the largest"
                                                            if found["apart"] else "")] if "apart" in found else []
    lines += ["", "| | torch | ours | ratio |", "|---|---|---|---|"]
    for name, field, size in ("seconds a step", "step", 1), ("MB that steps take", "bytes", 1e6):
        values = {side: about[field] / size for side, about in sides.items()}
        ratio = "" if len(values) < 2 else f"{found['ratio'] if field == 'step' else values['jax'] / values['torch']:.2f}"
        lines.append(f"| {name} | " + " | ".join(f"{values[side]:.3g}" if side in values else "" for side in SIDES)
                     + f" | {ratio} |")
    if "jax" in sides:
        lines.append(f"| seconds to trace + compile | | {sides['jax']['trace_seconds']:.1f} + "
                     f"{sides['jax']['compile_seconds']:.1f} | |")
    return "\n".join(lines)
