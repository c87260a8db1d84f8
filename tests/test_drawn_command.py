"""Methods with drawn or free gates, through the commands `search`, `select` and `compare`."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from launch.main import main

SPACE = f"{Path(__file__).parent}/toy_mixture.py:mixture"
METHODS = ["drnas", "fair-darts", "gdas", "reinmax", "rsps", "snas"]


@pytest.mark.heavy
def test_each_is_searched_selected_from_and_compared(tmp_path, capsys):
    folders = [str(tmp_path / method) for method in METHODS]
    for method, folder in zip(METHODS, folders):
        assert main(["search", "--space", SPACE, "--method", method, "--data", "digits", "--limit", "100", "--epochs", "1",
                     "--batch", "16", "--run", folder, "--cache", "off"]) == 0
        (record,) = map(json.loads, (Path(folder) / "metrics.jsonl").read_text().splitlines())
        assert np.isfinite([record["loss"]["train"], record["loss"]["valid"]]).all()
    out = capsys.readouterr().out
    assert out.count("a larger --method.arch-lr") == len(METHODS) - 1  # not of rsps, which has none
    assert "next      `dnas select --selection zero-cost-gates` would decide it" in out
    pair = [folders[METHODS.index(method)] for method in ("rsps", "fair-darts")]
    assert main(["compare", *pair, "--cache", "off", "--selection", "magnitude", "sampled"]) == 0
    assert "rsps: magnitude needs gates that differ" in capsys.readouterr().out
    assert main(["select", pair[0], "--selection", "magnitude", "--cache", "off"]) == 2
    assert "choose sampled or perturbation" in (error := capsys.readouterr().err) and error.count("\n") == 1
    with open(tmp_path / "comparison" / "comparison.csv", newline="") as file:
        assert [(row["method"], row["selection"]) for row in csv.DictReader(file)] == [
            ("rsps", "sampled"), ("fair-darts", "magnitude"), ("fair-darts", "sampled")]
