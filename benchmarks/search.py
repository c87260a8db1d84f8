"""A whole search, from its call to its genotype: its seconds, those of its steps, and what it reached.

    python -m benchmarks search --data FOLDER --space.cells 1 --epochs 10 --run runs/whole --out runs/search.json

Every word but --out is one of `dnas search`; --run must name a new folder. What is not steps is tracing, compiling, the
evaluations of the supernet, checkpoints and pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options, words = parser.parse_known_args(argv)
    if options.run.exists():
        parser.error(f"--run {options.run}: is there already; name a new folder")

    from benchmarks._prepared import plan_of
    from dnas.api.search import run_searches
    from dnas.runs.directory import environment

    begun = time.perf_counter()
    plan = plan_of(*words)
    (run,) = run_searches(plan, options.run, progress=False)
    whole = time.perf_counter() - begun
    timings = [json.loads(line) for line in (options.run / "timing.jsonl").read_text().splitlines()]
    results = {"words": words, "environment": environment(), "epochs": plan.epochs, "steps": plan.epochs * plan.steps,
               "batch": plan.batch, "seconds": whole, "epoch_seconds": [timing["seconds"] for timing in timings],
               "examples_per_second": [timing["examples_per_second"] for timing in timings], "results": run.results}
    print(f"{whole:.1f} s, of which {sum(results['epoch_seconds']):.1f} s for {plan.epochs} epochs of {plan.steps} steps; "
          f"hold-out {run.results['holdout']}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
