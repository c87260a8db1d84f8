"""Seconds from the shell's prompt to the end of a search of one step, compiled anew and from the cache.

    python -m benchmarks start --data FOLDER --space.channels 16 --rounds 3 --out runs/start.json

Every other word is one of `dnas search`. The time until the first step ends is at most what is measured here, which has an
evaluation of the supernet, a checkpoint and pictures in it too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of starts from the cache")
    parser.add_argument("--out", type=Path)
    options, words = parser.parse_known_args(argv)
    if "--limit" not in words:
        words += ["--limit", "400"]
    found = {"words": words, "compile": [], "whole": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            compiled, whole = started(words, f"{folder}/run-{number}", f"{folder}/cache")
            found["compile"].append(compiled)
            found["whole"].append(whole)
    cold, warm = found["compile"][0], statistics.median(found["compile"][1:])
    print(f"until the programs were ready: {cold:.1f} s anew, {warm:.1f} s from the cache; the whole command "
          f"{found['whole'][0]:.1f} s, {statistics.median(found['whole'][1:]):.1f} s")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def started(words, run, cache):
    """Seconds until the command says that it has compiled, and until it ends."""
    command = [sys.executable, "-m", "launch.main", "search", *words, "--epochs", "1", "--run", run]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                               env=os.environ | {"DNAS_CACHE": cache, "PYTHONUNBUFFERED": "1"})
    for line in process.stdout:
        if line.startswith("compiled in"):
            ready = time.perf_counter() - begun
    if process.wait():
        sys.exit("the search failed; its message is above")
    return ready, time.perf_counter() - begun
