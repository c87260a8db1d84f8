"""A perturbation decision: all masks in one program, one mask after another, and a race; and how often races decide alike.

    python -m benchmarks selection runs/darts-0 runs/darts-1 --decisions 40 --out runs/scoring.json

Each decision scores every operation of one edge of a trained supernet, with random other edges decided before. Times are
medians over rounds in which all forms take their turn; a race is replayed on the very losses of the full pass.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--decisions", type=int, default=40, help="decisions on each run")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing, on the first run")
    parser.add_argument("--criterion", choices=["metric", "loss"], default="metric")
    parser.add_argument("--confidence", type=float, default=0.99)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)

    import dnas
    from dnas.engine import cache

    cache.enable(None)
    found = {"runs": list(map(str, options.runs)), "criterion": options.criterion, "confidence": options.confidence}
    for run in options.runs:
        on = dnas.open(run, trust=True).supernet.context
        if "seconds" not in found:
            found["seconds"] = timed(on, options)
        agreement(on, options, found.setdefault("decisions", []))
        print(f"{run}: {sum(d['same'] for d in found['decisions'])} of {len(found['decisions'])} decisions alike, "
              f"{statistics.mean(d['share'] for d in found['decisions']):.2f} of the images on average", flush=True)
    print(json.dumps(found["seconds"], indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def decision(on, rng):
    """A state with random decisions behind it, and the masks of one open edge."""
    import numpy as np

    from dnas.selection.perturbation import Event, _candidates

    name = str(rng.choice(sorted(on.space.groups)))
    group = on.space.groups[name]
    order = rng.permutation(len(group.edges))
    decided = np.array(on.state.decisions[name])
    for e in order[1:1 + rng.integers(len(order))]:
        decided[e] = rng.integers(len(group.edge_ops(e)))
    state = on.state._replace(decisions={**on.state.decisions, name: decided})
    gates = {g: np.asarray(rows) for g, rows in on.gates(state).items()}
    masks = _candidates(on.space, Event("edge", {name: int(order[0])}), name)
    return state, [gates | {name: gates[name] * (1 - mask)} for mask in masks]


def agreement(on, options, found):
    """Appends, for each decision, whether the race ends as the full pass does, and the share of images it looked at."""
    import numpy as np

    from dnas.selection.perturbation import _missed

    rng = np.random.default_rng(0)
    for _ in range(options.decisions):
        state, masks = decision(on, rng)
        scores = on.score(state, masks)
        replay = on._replace(score=lambda _, chosen, first, last, scores=scores: {
            name: values[[number for number, _ in chosen], first:last] for name, values in scores.items()})
        numbered = list(enumerate(masks))
        full, images = _missed(replay, state, numbered, options.criterion, on.examples, None)
        raced, seen = _missed(replay, state, numbered, options.criterion, on.examples, options.confidence)
        found.append({"same": int(full.argmax()) == int(raced.argmax()), "share": seen / images,
                      "behind": float(full.max() - full[raced.argmax()])})


def timed(on, options):
    """Median seconds of one decision in each form, and the ratios to one mask after another, round by round."""
    import numpy as np

    from dnas.selection.perturbation import _missed

    forms = {"one mask after another": lambda state, masks: [on.score(state, [mask]) for mask in masks],
             "all masks in one program": lambda state, masks: on.score(state, masks),
             "race": lambda state, masks: _missed(on, state, masks, options.criterion, on.examples, options.confidence)}
    seconds = {name: [] for name in forms}
    rng = np.random.default_rng(1)
    for number in range(options.rounds + 1):
        state, masks = decision(on, rng)
        for name, form in forms.items():
            begun = time.perf_counter()
            form(state, masks)
            if number:
                seconds[name].append(time.perf_counter() - begun)
    first = seconds["one mask after another"]
    return {name: {"median": statistics.median(values),
                   "speed-up": statistics.median(a / b for a, b in zip(first, values))} for name, values in seconds.items()}
