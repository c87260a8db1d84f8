"""Time and memory of a search step against cells, channels, batch and pixels, each over a decade, and a picture of them.

    python -m benchmarks scaling --space nasbench201 --out runs/scaling.json --picture runs/scaling.svg

The arithmetic is that of the supernet: multiply-adds per image, times the images of a batch. What grows faster than it has
a slope above 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

BASE = {"cells": 1, "channels": 8, "batch": 16, "pixels": 16}
POINTS = {"cells": (1, 2, 5, 10), "channels": (4, 8, 16, 40), "batch": (8, 16, 32, 80), "pixels": (8, 16, 32, 80)}
DARTS = {"cells": (3, 6, 12, 30)}


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=["nasbench201", "darts"], default="nasbench201")
    parser.add_argument("--axes", nargs="+", choices=list(POINTS), default=list(POINTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args(argv)
    found = {}
    for axis in options.axes:
        points = DARTS.get(axis, POINTS[axis]) if options.space == "darts" else POINTS[axis]
        base = BASE | {"cells": DARTS["cells"][0] if options.space == "darts" else 1}
        found[axis] = [measured(options.space, base | {axis: value}, options.rounds) | {"value": value} for value in points]
        print(axis, *(f"{p['value']}: {p['seconds']:.3g} s, {p['bytes'] / 1e6:,.0f} MB, compiled in {p['compile']:.0f} s"
                      for p in found[axis]), sep="\n  ")
        for quantity in "seconds", "bytes":
            print(f"  slope of {quantity} to arithmetic: {slope(found[axis], quantity):.2f}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"space": options.space, "base": BASE, "axes": found}, indent=1) + "\n")
    if options.picture:
        draw(found, options.picture)


def measured(name, size, rounds):
    """Median seconds of a step, planned bytes, seconds to compile, and multiply-adds of a forward pass of the batch."""
    import numpy as np

    from benchmarks._prepared import bare, first
    from dnas.data import from_arrays
    from dnas.methods.darts import darts
    from dnas.registry import resolve
    from dnas.task import task_of

    image = (size["pixels"], size["pixels"], 3)
    space = resolve(name, "space")(image, 10, channels=size["channels"], cells=size["cells"])
    data = from_arrays("drawn", np.zeros((200, *image), np.uint8), np.arange(200) % 10)
    algorithm, hyper = darts().bind(space, task_of(data)), darts().numbers_of(epochs=50, steps=100)
    state = first(data, algorithm, hyper, size["batch"], 0)
    begun = time.perf_counter()
    step, plan = bare(data, algorithm, hyper, size["batch"], state)
    compiled, seconds = time.perf_counter() - begun, []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        state = step(state)
        seconds.append(time.perf_counter() - begun)
    return {"seconds": statistics.median(seconds[1:]), "bytes": plan.temp_size_in_bytes, "compile": compiled,
            "macs": space.cost(None)["macs"] * size["batch"]}


def slope(points, quantity):
    """Of the logarithm of a quantity against that of the arithmetic."""
    import numpy as np

    return float(np.polyfit(np.log([p["macs"] for p in points]), np.log([p[quantity] for p in points]), 1)[0])


def draw(found, path):
    """Seconds and bytes of each axis against the arithmetic, each as a multiple of its first point."""
    from matplotlib.figure import Figure

    from dnas.reports.figures import saving

    with saving(path) as save:
        figure = Figure(figsize=(9, 4), layout="constrained")
        for axes, quantity in zip(figure.subplots(1, 2, sharey=True), ("seconds", "bytes")):
            for axis, points in found.items():
                times = lambda field, points=points: [p[field] / points[0][field] for p in points]
                axes.loglog(times("macs"), times(quantity), "o-", label=axis)
            limit = max(p["macs"] / points[0]["macs"] for points in found.values() for p in points)
            axes.loglog([1, limit], [1, limit], ":", color="0.5", label="as the arithmetic")
            axes.set(xlabel="multiply-adds, as a multiple", title=f"{quantity} of a step, as a multiple")
            axes.legend()
        save(figure)
