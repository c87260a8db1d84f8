"""The searches of several seeds: all at once in one program, and one after another by the program of a single one.

    python -m benchmarks seeds --space nasbench201 --channels 8 --seeds 8 --out runs/seeds.json

Both forms take the same steps of every seed, in rounds in which each has its turn; times are medians over the rounds,
ratios medians of the ratios of a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

FORMS = {"one after another": False, "at once": True}


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int)
    parser.add_argument("--method", default="darts")
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="of each seed in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)

    import jax

    from benchmarks._prepared import plan_of
    from dnas.engine import cache
    from dnas.engine.devices import spelled
    from dnas.runs.directory import environment

    cache.enable(None)
    words = ["--space", options.space, "--space.channels", str(options.channels), "--method", options.method,
             "--data", *options.data, "--batch", str(options.batch)]
    words += ["--space.cells", str(options.cells)] if options.cells else []
    words += ["--limit", str(options.limit)] if options.limit else []
    plan = plan_of(*words, "--epochs", "50")
    forms = {name: form(plan, options, at_once) for name, at_once in FORMS.items()}
    seconds = {name: [] for name in forms}
    for number in range(options.rounds + 1):
        for name, (_, run) in forms.items():
            begun = time.perf_counter()
            jax.block_until_ready(run())
            if number:
                seconds[name].append((time.perf_counter() - begun) / options.steps)
    turn, at_once = (seconds[name] for name in FORMS)
    found = {"options": {**vars(options), "out": None}, "environment": environment(),
             "forms": {name: {**about, "seconds_per_step": statistics.median(seconds[name]), "rounds": seconds[name]}
                       for name, (about, _) in forms.items()},
             "speed-up": statistics.median(a / b for a, b in zip(turn, at_once)),
             "times of one": statistics.median(options.seeds * b / a for a, b in zip(turn, at_once))}
    print(f"| {options.seeds} seeds | a step of all, s | at a time | compiled in, s | memory |\n|" + "---|" * 5)
    for name, about in found["forms"].items():
        print(f"| {name} | {about['seconds_per_step']:.4f} | {about['width']} | {about['compile_seconds']:.1f} | "
              f"{spelled(about['memory_bytes'])} |")
    print(f"\nat once: {found['speed-up']:.2f} times as fast as one after another; "
          f"{options.seeds} seeds in {found['times of one']:.2f} times the time of one")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def form(plan, options, at_once):
    """What one form is, and a function that takes `options.steps` steps of every seed by it."""
    import jax

    from benchmarks._prepared import first, started
    from dnas.data import epoch_indices
    from dnas.engine.lanes import start_lanes

    data, seeds = plan.data, range(options.seeds)
    _, batch, algorithm, hyper, examples, _ = started(plan)
    states = [first(data, algorithm, hyper, batch, seed) for seed in seeds]
    keys = [jax.random.key(seed) for seed in seeds]
    rows = [[part[:options.steps] for part in epoch_indices(seed, 0, data.splits["train"], data.splits["valid"],
                                                            options.batch)] for seed in seeds]
    if options.steps > len(rows[0][0]):
        raise SystemExit(f"--steps {options.steps}: an epoch has {len(rows[0][0])}")
    begun = time.perf_counter()
    lanes = start_lanes(algorithm, data, examples, states[0], hyper, options.steps, batch, len(seeds), at_once=at_once)()
    about = {"compile_seconds": time.perf_counter() - begun, "width": lanes.width, "memory_bytes": lanes.memory}
    print(f"{lanes.note}; compiled in {about['compile_seconds']:.1f} s", flush=True)
    if len(seeds) % lanes.width:
        raise SystemExit(f"--seeds {len(seeds)} do not go {lanes.width} at a time; take a multiple")

    def run():
        for start in range(0, len(seeds), lanes.width):
            some = slice(start, start + lanes.width)
            train, valid = zip(*rows[some])
            states[some] = lanes.advance(states[some], [hyper] * lanes.width, keys[some], train, valid,
                                         on_metrics=lambda metrics, done: None)
        return states

    return about, run
