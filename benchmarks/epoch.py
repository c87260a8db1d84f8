"""What data, augmentation, logging and progress add to the bare step: images a second through the whole search loop.

    python -m benchmarks epoch --data FOLDER --space.channels 16 --out runs/epoch.json

Every word but the three below is one of `dnas search`. In turn an epoch of the loop, as a search runs it, and as many bare
steps on images that lie ready; the overhead is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of each side in a round")
    parser.add_argument("--out", type=Path)
    options, words = parser.parse_known_args(argv)

    import jax

    from benchmarks._prepared import bare, prepared
    from dnas.data import epoch_indices
    from dnas.engine.compile import compile_search, epoch_of
    from dnas.engine.progress import display
    from dnas.engine.records import tagged
    from dnas.task import task_of

    plan, batch, algorithm, hyper, examples, state = prepared(*words)
    steps, data = min(options.steps, plan.steps), plan.data
    advance = epoch_of(compile_search(algorithm, data, examples, state, hyper, steps, batch), examples, steps)
    step, _ = bare(data, algorithm, hyper, batch, state)
    copy = lambda tree: jax.tree.map(lambda leaf: leaf.copy(), tree)
    mine, other = copy(state), copy(state)
    ratios, rates = [], []
    with display(task_of(data), options.rounds + 1, steps) as shown:
        for number in range(options.rounds + 1):
            train, valid = epoch_indices(0, number, data.splits["train"], data.splits["valid"], batch)

            def on_metrics(metrics, done, number=number):
                means = {name: float(values.mean()) for name, values in metrics.items()}
                shown.step(number * steps + done, tagged(means), 0.0)

            begun = time.perf_counter()
            mine, _ = advance(mine, hyper, jax.random.key(1), train[:steps], valid[:steps], on_metrics=on_metrics)
            jax.block_until_ready(mine)
            through = time.perf_counter() - begun
            begun = time.perf_counter()
            for _ in range(steps):
                other = step(other)
            alone = time.perf_counter() - begun
            if number:
                ratios.append(through / alone)
                rates.append(2 * batch * steps / through)
    found = {"words": words, "steps": steps, "batch": batch, "device": jax.devices()[0].device_kind,
             "images_per_second": statistics.median(rates), "loop / bare": statistics.median(ratios), "ratios": ratios}
    over = [100 * (ratio - 1) for ratio in (found["loop / bare"], min(ratios), max(ratios))]
    print("{:,.0f} images/s through the loop, {:+.1f} % beside the bare step ({:+.1f} to {:+.1f})".format(
        found["images_per_second"], *over))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
