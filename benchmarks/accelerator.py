"""All that docs/speed.md says of one card, by one command within a number of minutes, into one JSON file.

    python -m benchmarks accelerator --minutes 9 --out runs/accelerator.json

Torch and ours side by side, eager and compiled, float32 (TF32 where the card has it) and bfloat16; several seeds in one
program beside one after another; the masks of a perturbation decision at once beside one by one; a whole search. The most
important come first. Each is a process of its own with a limit of time, and the file is written as each ends: one that
fails is recorded with the end of what it said, and the rest go on. One that may not end within the minutes is skipped; the
same command again goes on with what is not done. --tiny tries all on any machine, a CPU too, at sizes that say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "flax",
            "optax", "numpy", "torch", "triton")
LAST = 12
"""Lines of what a failed entry said that are recorded."""
SEEN = {"jax": "import jax; d = jax.devices()[0]; print(d.device_kind if d.platform != 'cpu' else 'cpu')",
        "torch": "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')"}
"""Programs that say on their last line which device a framework sees."""


class Size(NamedTuple):
    """How large the entries are. cells: of NAS-Bench-201 a stage, few and many, and of DARTS."""

    channels: int = 16
    batch: int = 64
    pixels: int = 32
    cells: tuple[int, int, int] = (1, 5, 8)
    steps: int = 5
    rounds: int = 8
    seeds: int = 8
    images: int = 12_000
    epochs: int = 10


TINY = Size(channels=2, batch=4, pixels=8, cells=(1, 2, 3), steps=1, rounds=2, seeds=2, images=200, epochs=1)


class Entry(NamedTuple):
    """A measurement. words: after `python -m benchmarks`. seconds: the most that it gets; it begins only if half of them are
    left. needs: the entry whose files it reads."""

    name: str
    words: list[str]
    seconds: float
    needs: str | None = None


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="after which nothing runs any more")
    parser.add_argument("--only", nargs="+", metavar="ENTRY", help="names of entries, as they are printed")
    parser.add_argument("--tiny", action="store_true", help="sizes that any machine can try")
    parser.add_argument("--out", type=Path, default=Path("runs/accelerator.json"))
    options = parser.parse_args(argv)
    deadline = time.monotonic() + 60 * options.minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the entry that is running ends as well
    size, host = TINY if options.tiny else Size(), host_here()
    seen = host["sees"]
    if seen["jax"] in (None, "cpu") and not options.tiny:
        sys.exit("JAX sees no accelerator here: is jax[cuda13] installed? --tiny tries the entries on a CPU")
    torch = seen["torch"] is not None and (seen["torch"] == "cpu") == (seen["jax"] == "cpu")
    if not torch:
        print(f"ours alone: JAX sees {seen['jax']}, torch {seen['torch'] or 'cannot be imported'}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = started(options.out, host, size)
        entries = chosen(planned(size, folder, torch=torch), report["entries"], options.only)
        draw(size, folder / "images.npz")
        carry_out(entries, report, deadline, lambda report: save(report, options.out),
                  lambda entry, seconds: run(entry, seconds, folder))
    print("\n" + table(report))


def planned(size, folder, *, torch):
    """The entries in the order of their importance; without `torch` ours alone. folder: of their data and the run."""
    few, many, deep = size.cells
    nets = {"nasbench201-few": ("nasbench201", few, 180), "nasbench201-many": ("nasbench201", many, 260),
            "darts": ("darts", deep, 440)}
    shape = ["--channels", f"{size.channels}", "--batch", f"{size.batch}"]
    search = ["--space", "nasbench201", "--space.channels", f"{size.channels}", "--space.cells", f"{few}",
              "--batch", f"{size.batch}", "--epochs", f"{size.epochs}"]
    data, turns = ["--data", f"{folder / 'images.npz'}"], ["--steps", f"{size.steps}", "--rounds", f"{size.rounds}"]
    sides = ["torch", "jax"] if torch else ["jax"]

    def step(net, suffix="", words=(), sides=sides):
        space, cells, seconds = nets[net]
        return Entry(net + suffix, ["step", "--space", space, "--cells", f"{cells}", *shape, "--size", f"{size.pixels}",
                                    *turns, "--sides", *sides, *words], seconds)

    def half(net):
        return step(net, "-bfloat16", ["--half"])

    def compiled(net, mode="compile"):
        return step(net, f"-{mode}", ["--mode", mode], ["torch"])

    def half_compiled(net):
        return step(net, "-bfloat16-compile", ["--mode", "compile", "--half"], ["torch"])

    entries = [
        step("nasbench201-few"),
        Entry("seeds", ["seeds", "--space", "nasbench201", "--cells", f"{few}", *shape, *data, "--seeds", f"{size.seeds}",
                        *turns], 260),
        Entry("search", ["search", *search, *data, "--run", f"{folder / 'run'}"], 160),
        Entry("scoring", ["selection", f"{folder / 'run'}", "--decisions", "4", "--rounds", f"{size.rounds}"], 80, "search"),
        step("nasbench201-many"), step("darts"),
        half("nasbench201-few"), compiled("nasbench201-few"), half("darts"), half("nasbench201-many"),
        compiled("nasbench201-few", "graphs"), compiled("nasbench201-many"), compiled("darts"),
        half_compiled("nasbench201-few"), half_compiled("nasbench201-many"), half_compiled("darts")]
    return [entry for entry in entries if torch or "--mode" not in entry.words]


def chosen(entries, before, only):
    """The entries that are not done yet, or those of the names `only`, with what they need. Ends for an unknown name."""
    names = [entry.name for entry in entries]
    unknown = [name for name in only or [] if name not in names]
    if unknown:
        sys.exit(f"--only {unknown[0]}: must be of {', '.join(names)}")
    wanted = set(only or [name for name in names if before.get(name, {}).get("ending") != "done"])
    wanted |= {entry.needs for entry in entries if entry.name in wanted}
    return [entry for entry in entries if entry.name in wanted]


def carry_out(entries, report, deadline, save, run, clock=time.monotonic):
    """Runs the entries until the deadline, puts what became of each into report["entries"], and saves the report each time.

    run: `(entry, seconds) -> record`, a dict that has "ending". A result of before stays where its entry is now skipped.
    """
    endings = {}
    for entry in entries:
        left = deadline - clock()
        if left < entry.seconds / 2:
            record = {"ending": "skipped", "why": f"{max(left, 0):.0f} s were left, and it may take {entry.seconds:.0f}"}
        elif entry.needs and endings[entry.needs] != "done":
            record = {"ending": "skipped", "why": f"{entry.needs} did not end well"}
        else:
            print(f"{entry.name}: begins, {left:.0f} s left", flush=True)
            record = run(entry, min(entry.seconds, left))
        endings[entry.name] = record["ending"]
        if record["ending"] != "skipped" or entry.name not in report["entries"]:
            report["entries"][entry.name] = record
        save(report)
        print(f"{entry.name}: " + " · ".join([record["ending"], *([f"{record['took']:.0f} s"] if "took" in record else []),
                                              *([record["why"]] if "why" in record else [])]), flush=True)


def run(entry, seconds, folder):
    """What became of an entry that gets so many seconds: its result, or the end of what it said."""
    out, log = folder / f"{entry.name}.json", folder / f"{entry.name}.log"
    out.unlink(missing_ok=True)
    begun = time.monotonic()
    with log.open("wb") as said:
        process = subprocess.Popen([sys.executable, "-m", "benchmarks", *entry.words, "--out", str(out)], cwd=ROOT,
                                   stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
                                   env=environment(folder))
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # a side that outlives its parent would take time from the next
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    record = {"words": [word.replace(str(folder), "FOLDER") for word in entry.words], "took": time.monotonic() - begun}
    if code == 0:
        result = json.loads(out.read_text())
        return {"ending": "done", **record, "result": result[0] if isinstance(result, list) else result}
    lines = log.read_text(errors="replace").strip().splitlines()[-LAST:] or ["it said nothing"]
    ending, why = ("stopped", f"not done in {seconds:.0f} s") if code is None else ("failed", f"status {code}: {lines[-1]}")
    return {"ending": ending, **record, "why": why, "said": lines}


def environment(folder):
    """The environment of an entry: both sides share the card, and programs are compiled anew."""
    rest = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return rest | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "DNAS_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1",
                   "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}


def host_here():
    """The card, its driver, the versions of packages, and the devices that the frameworks see."""
    card = _line(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"], first=True)
    name, driver, memory = card.split(", ") if card and card.count(", ") == 2 else (None, None, None)
    sees = {framework: _line([sys.executable, "-c", program]) for framework, program in SEEN.items()}
    return {"card": name, "driver": driver, "memory": memory, "sees": sees, "cores": os.cpu_count(),
            "python": platform.python_version(), "system": platform.platform(),
            "versions": {package: _version(package) for package in PACKAGES}}


def started(path, host, size):
    """The report to go on with: that of the file, if there is one, else a new one. Ends if the file is of something else."""
    size = json.loads(json.dumps(size._asdict()))
    if not path.exists():
        return {"begun": datetime.now(UTC).isoformat(timespec="seconds"), "host": host, "size": size, "entries": {}}
    report = json.loads(path.read_text())
    matters = lambda host, size: {**{name: host[name] for name in ("card", "driver", "sees")}, **host["versions"], **size}
    there, here = matters(report["host"], report["size"]), matters(host, size)
    differ = [f"{name} {there.get(name)}, here {value}" for name, value in here.items() if there.get(name) != value]
    if differ:
        sys.exit(f"--out {path}: its results are of {'; '.join(differ)}; name another file")
    return report


def save(report, path):
    """Writes the report so that the file is whole at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(report, indent=1) + "\n")
    beside.replace(path)


def draw(size, path):
    """Images of noise, each on the pattern of its class, and their labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.arange(size.images) % 10
    patterns = rng.integers(0, 64, (10, size.pixels, size.pixels, 3), np.uint8)
    np.savez(path, x=patterns[labels] + rng.integers(0, 192, (size.images, *patterns.shape[1:]), np.uint8), y=labels)


def table(report):
    """The results as Markdown."""
    host, results = report["host"], {name: entry["result"] for name, entry in report["entries"].items() if "result" in entry}
    packages = ("jax", "jaxlib", "torch")
    lines = [", ".join([f"{host['card'] or host['sees']['jax']}", f"driver {host['driver']}",
                        *(f"{package} {host['versions'][package]}" for package in packages)]), ""]
    steps = [_row(found, results.values()) for found in results.values() if "half" in found]
    lines += ["| step | torch, s | ours, s | **torch / ours** | MB, ours / torch | MB planned | trace + compile, s |",
              "|" + "---|" * 7, *steps, ""] if steps else []
    if "seeds" in results:
        seeds = results["seeds"]
        lines.append(f"{seeds['options']['seeds']} seeds in one program: {seeds['times of one']:.2f} times the time of one, "
                     f"{seeds['speed-up']:.2f} times as fast as one after another")
    if "scoring" in results:
        forms = results["scoring"]["seconds"]
        lines.append("a decision: " + ", ".join(f"{form} {each['median']:.4f} s ({each['speed-up']:.2f} times as fast)"
                                                for form, each in forms.items()))
    if "search" in results:
        whole = results["search"]
        lines.append(f"a search of {whole['epochs']} epochs, {whole['steps']} steps of {whole['batch']}: "
                     f"{whole['seconds']:.1f} s, of which {sum(whole['epoch_seconds']):.1f} s in epochs")
    lines += [f"{name}: {entry['ending']}, {entry['why']}" for name, entry in report["entries"].items() if "why" in entry]
    return "\n".join(lines)


def _row(found, others):
    """A line of the table. Torch alone stands beside ours of the entry that is equal but for torch's mode."""
    work = [found[name] for name in ("space", "cells", "half")]
    twin = next((each for each in others if "half" in each and "jax" in each
                 and [each[name] for name in ("space", "cells", "half")] == work), {})
    theirs, ours = ({"seconds": statistics.median(each["seconds"][side]), **each[side]} if side in each else None
                    for side, each in (("torch", found), ("jax", twin)))
    number = lambda side, field, size=1: f"{side[field] / size:.4g}" if side and side.get(field) else "–"
    ratio = found.get("ratio") or (theirs["seconds"] / ours["seconds"] if theirs and ours else None)
    name = (f"{found['space']}, {found['cells']} cells, {'bfloat16' if found['half'] else 'float32'}"
            + (f", torch {found['mode']}" if theirs else ""))
    cells = [name, number(theirs, "seconds"), number(ours, "seconds"), f"**{ratio:.2f}**" if ratio else "–",
             f"{number(ours, 'bytes', 1e6)} / {number(theirs, 'bytes', 1e6)}", number(ours, "planned_bytes", 1e6),
             f"{ours['trace_seconds']:.1f} + {ours['compile_seconds']:.1f}" if "jax" in found else "–"]
    return "| " + " | ".join(cells) + " |"


def _line(command, *, first=False):
    """The first or last line that a command prints; None if it fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout.strip().splitlines()[0 if first else -1]
    return None


def _version(package):
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None
