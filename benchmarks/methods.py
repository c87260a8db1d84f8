"""Every method on the same space and data: what it reaches, and what a step of it costs beside first-order DARTS.

    python -m benchmarks methods --data DIR --limit 3000 --epochs 8 --seeds 3 --out runs/methods

Searches go through the command, in processes of their own, and are taken up again if interrupted. Times are medians
over rounds in which every method takes one step, so that they are compared in the same minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

VARIANTS = {
    "darts": ["--method", "darts"],
    "darts-2nd": ["--method", "darts-2nd"],
    "darts-2nd, finite difference": ["--method", "darts-2nd", "--method.hypergradient", "finite-difference"],
    "pc-darts": ["--method", "pc-darts", "--method.arch-warmup", "3"],
    "rarts": ["--method", "rarts"],
    "rarts, exact sweep": ["--method", "rarts", "--method.no-merged"],
    "sd-darts": ["--method", "sd-darts", "--method.distill-warmup", "3"],
}


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", choices=["search", "step"])
    parser.add_argument("--names", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    options = parser.parse_args(argv)
    common = ["--data", *options.data, "--limit", str(options.limit), "--epochs", str(options.epochs),
              "--batch", str(options.batch), "--space.channels", str(options.channels)]
    if options.only != "step":
        for seed in range(options.seeds):
            for name, words in VARIANTS.items():
                if "," in name:  # its steps are timed; what it reaches is that of the method
                    continue
                folder = options.out / name.replace(", ", "-").replace(" ", "-") / str(seed)
                subprocess.run([sys.executable, "-m", "launch.main", "search", *common, *words, "--seed", str(seed),
                                "--diagnose", str(options.epochs), "--run", str(folder)], check=True)
    if options.only != "search":
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "step.json").write_text(json.dumps(steps(common, options.rounds, options.names), indent=1))
    table(options)


def steps(common, rounds, names):
    """Seconds and planned activation memory of a step of every method: the program that its searches run."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks._prepared import prepared
    from dnas.engine import cache
    from dnas.engine.compile import compile_search

    found = {}
    cache.enable(None)
    for name in names:
        words = VARIANTS[name]
        plan, batch, algorithm, hyper, examples, state = prepared(*common, *words)
        # past any warm-up, where the architecture moves
        state = state._replace(step=jnp.asarray(plan.steps * (int(hyper["epochs"]) - 1), jnp.int32))
        begun = time.perf_counter()
        compiled = compile_search(algorithm, plan.data, examples, state, hyper, plan.steps, batch)
        seconds = time.perf_counter() - begun
        rows = jnp.asarray(np.tile(np.arange(batch), (plan.steps, 1)), jnp.int32)
        rest = (hyper, jax.random.key(1), examples, rows, rows, np.int32(0), np.int32(1))
        found[name] = dict(step=compiled, state=state, rest=rest, seconds=[],
                           memory=compiled.memory_analysis().temp_size_in_bytes)
        print(f"{name}: compiled in {seconds:.1f} s", flush=True)
    for _ in range(rounds + 1):
        for each in found.values():
            begun = time.perf_counter()
            each["state"], _ = jax.block_until_ready(each["step"](each["state"], *each["rest"]))
            each["seconds"].append(time.perf_counter() - begun)
    first = found["darts"]["seconds"][1:]
    return {name: {"seconds": statistics.median(each["seconds"][1:]),
                   "ratio": statistics.median(a / b for a, b in zip(each["seconds"][1:], first)),
                   "memory_bytes": each["memory"]}
            for name, each in found.items()}


def table(options):
    """Prints what there is, as a Markdown table."""
    import numpy as np

    path = options.out / "step.json"
    cost = json.loads(path.read_text()) if path.exists() else {}
    print("| method | hold-out accuracy % | valid loss, first epoch | last | gate entropy | logits moved | gap % | "
          "sharpness | step / first order | activations MB |\n|" + "---|" * 10)
    for name in VARIANTS:
        rows = []
        for seed in range(options.seeds):
            folder = options.out / name.replace(", ", "-").replace(" ", "-") / str(seed)
            if not (folder / "metrics.jsonl").exists():
                continue
            records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            with np.load(folder / "arch.npz") as arrays:
                moved = max(float(np.abs(a[-1] - a[0]).max()) for a in arrays.values())
            last = records[-1]
            rows.append([100 * last["accuracy"]["holdout"], records[0]["loss"]["valid"], last["loss"]["valid"],
                         float(np.mean(list(last["entropy"].values()))), moved, 100 * last.get("gap", np.nan),
                         last.get("sharpness", np.nan)])
        step = cost.get(name)
        cells = [_spread(column) for column in zip(*rows)] if rows else ["–"] * 7
        cells += [f"{step['ratio']:.2f}", f"{step['memory_bytes'] / 1e6:.0f}"] if step else ["–"] * 2
        print(f"| {name} | " + " | ".join(cells) + " |")


def _spread(values):
    mean = statistics.mean(values)
    digits = 1 if abs(mean) >= 20 else 3
    return f"{mean:.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")
