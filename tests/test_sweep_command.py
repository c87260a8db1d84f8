"""Several searches by one command: `--seeds`, `--sweep` and `--start`, and programs that other numbers need not compile."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.main import main
from tests.test_load import refused, said
from tests.test_search import contents

ROOT = Path(__file__).parent.parent
TOY = f"{ROOT}/tests/toy_space.py:toy"
SEARCH = ["search", "--space", TOY, "--limit", "200", "--epochs", "2", "--batch", "16", "--no-progress"]
QUICK = [*SEARCH, "--cache", "off"]
SWEEP = ["--sweep", "method.arch-lr=1e-4,3e-4", "--seeds", "2"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "all"
    assert main([*QUICK, *SWEEP, "--run", str(folder)]) == 0
    return folder


def test_each_run_of_a_sweep_is_the_search_of_its_setting_and_seed(swept, tmp_path, capsys):
    runs = sorted(str(path.parent.relative_to(swept)) for path in swept.glob("*/*/config.json"))
    assert runs == [f"arch-lr={lr}/{seed}" for lr in ("0.0001", "0.0003") for seed in (0, 1)]
    for run in runs[0], runs[3]:
        lr, seed = re.fullmatch(r"arch-lr=(.*)/(\d)", run).groups()
        said(capsys, *QUICK, "--method.arch-lr", lr, "--seed", seed, "--run", tmp_path / run)
        assert contents(tmp_path / run) == contents(swept / run) and len(contents(swept / run)) > 8
    first, other = (json.loads((swept / run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (runs[0], runs[2]))
    assert first["entropy"] != other["entropy"]


@pytest.mark.heavy
def test_a_sweep_that_was_interrupted_goes_on(swept, tmp_path, monkeypatch, capsys):
    from dnas.runs import checkpoint

    save, saved = checkpoint.save, []

    def interrupt(path, *args, **kwargs):
        if path.name == "00002.safetensors":
            saved.append(path)
            if len(saved) == 2:
                raise KeyboardInterrupt
        return save(path, *args, **kwargs)

    monkeypatch.setattr("dnas.runs.checkpoint.save", interrupt)
    assert main([*QUICK, *SWEEP, "--run", str(tmp_path / "part")]) == 130
    assert "continues from its last checkpoint" in capsys.readouterr().err
    monkeypatch.undo()
    said(capsys, *QUICK, *SWEEP, "--run", tmp_path / "part")
    assert contents(tmp_path / "part") == contents(swept)
    before = contents(swept)
    said(capsys, *QUICK, *SWEEP, "--run", swept)  # all is done
    assert contents(swept) == before


def test_a_comparison_names_what_the_sweep_varies(swept, tmp_path, capsys):
    out = said(capsys, "compare", swept, "--selection", "magnitude", "--out", tmp_path / "c", "--cache", "off")
    assert "darts (arch_lr 0.0001), 2 runs" in out and "darts (arch_lr 0.0003), 2 runs" in out and "start" not in out
    lines = said(capsys, "runs", swept).splitlines()
    assert len(lines) == 5 and all(" done " in line for line in lines[1:])


@pytest.mark.heavy
def test_options_of_structure_make_groups(tmp_path, capsys):
    out = said(capsys, *QUICK, "--epochs", "1", "--sweep", "space.channels=2,4", "method.lr=0.01,0.02", "--run",
               tmp_path / "r")
    runs = sorted(str(path.parent.relative_to(tmp_path / "r")) for path in tmp_path.glob("r/*/*/config.json"))
    assert runs == [f"channels={c},lr={lr}/0" for c in (2, 4) for lr in ("0.01", "0.02")]
    assert out.count("2 searches: channels=") == 2  # a group for each number of channels
    config = json.loads((tmp_path / "r" / runs[3] / "config.json").read_text())
    assert config["space"]["channels"] == 4 and config["method"]["lr"] == 0.02 and "sweep" not in config
    parameters = {json.loads((tmp_path / "r" / run / "results.json").read_text())["params"] for run in runs}
    assert len(parameters) >= 2 and f"dnas compare {tmp_path / 'r'}" in out


def test_a_search_starts_from_another(swept, tmp_path, capsys):
    start = swept / "arch-lr=0.0001" / "0"
    said(capsys, *QUICK, "--epochs", "1", "--start", start, "--run", tmp_path / "warm")
    said(capsys, *QUICK, "--epochs", "1", "--run", tmp_path / "cold")
    warm, cold = (json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("warm", "cold"))
    assert warm["loss"]["train"] < cold["loss"]["train"]
    assert json.loads((tmp_path / "warm" / "config.json").read_text())["start"]["run"] == str(start)
    before = contents(tmp_path / "warm")
    said(capsys, *QUICK, "--epochs", "1", "--start", start, "--run", tmp_path / "warm")
    assert contents(tmp_path / "warm") == before
    out = said(capsys, *QUICK, "--epochs", "1", "--start", start, *SWEEP[:2], "--run", tmp_path / "both")
    assert out.count("seed 0  ") == 2
    out = said(capsys, "compare", tmp_path / "warm", tmp_path / "cold", "--selection", "magnitude", "--cache", "off")
    assert f"darts, start {start}, 1 run" in out and "darts, 1 run" in out and "None" not in out


@pytest.mark.parametrize("argv, message", [
    (["--sweep", "method.arch-lr"], "--sweep method.arch-lr: it must be OPTION=VALUE,VALUE"),
    (["--sweep", "method.arch-lr=1,,2"], "it must be OPTION=VALUE,VALUE"),
    (["--sweep", "method.arch-rl=1,2"], "did you mean method.arch-lr?"),
    (["--sweep", "arch-lr=1,2"], "did you mean"), (["--sweep", "epochs=1,2"], "use options of the method or the space"),
    (["--sweep", "method.lr=1,1"], "a value is repeated"),
    (["--sweep", "method.lr=0.1,0.2", "method.lr=0.3,0.4"], "--sweep names an option twice"),
    (["--sweep", "method.lr=a/b,0.1"], "--method.lr a/b: it must be a number"), (["--sweep", "method.lr=0.1,fast"], "fast"),
    (["--sweep", "method.lr=0.1,-1"], "lr"),
    (["--sweep", "method.lr=0.1,0.2", "--seeds", "501"], "that makes 1,002 searches"),
    (["--start", "absent"], "absent is not a run directory"),
    (["--seeds", "0"], "--seeds 0: it must be 1 to 1000"), (["--seeds", "10000000"], "it must be 1 to 1000"),
    (["--seeds", "2", "--seed", "4294967295"], "seed 4294967296: it must be a whole number, 0 to 4294967295"),
    (["--seeds", "2", "--run", "one"], "one is a run itself, and several searches write runs into folders of it"),
    (["--seeds", "2", "--run", "other"], "other/1 holds a run of another config: ")])
def test_what_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "other/1"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text('{"seed": 9}')
    before = sorted(tmp_path.rglob("*"))
    assert message in refused(capsys, *QUICK, *argv)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_start_of_other_edges_is_refused(swept, tmp_path, capsys):
    start = swept / "arch-lr=0.0001" / "0"
    argv = [*QUICK, "--start", start, "--run", tmp_path / "new"]
    argv[argv.index(TOY)] = "width"
    assert "both must have the same edges and operations" in refused(capsys, *argv)
    assert not (tmp_path / "new").exists()


def test_several_seeds_are_ordinary_runs_and_go_on(tmp_path, capsys):
    command = [*QUICK, "--seed", "4", "--seeds", "2", "--run", str(tmp_path / "runs")]
    out = said(capsys, *command)
    assert "2 searches: seed 4 to seed 5" in out and "agreement" in out and f"dnas compare {tmp_path}/runs\n" in out
    assert " ± " in out and sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["4", "5"]
    single = [*QUICK[1:], "--seed", "5"]
    config = json.loads((tmp_path / "runs" / "4" / "config.json").read_text()) | {"seed": 5}
    assert json.loads((tmp_path / "runs" / "5" / "config.json").read_text()) == config
    before = contents(tmp_path / "runs")
    assert "complete: this is its result" in said(capsys, "search", *single, "--run", tmp_path / "runs" / "5")
    said(capsys, *command)
    assert contents(tmp_path / "runs") == before


@pytest.mark.heavy
def test_other_epochs_seeds_and_rates_compile_nothing_anew(tmp_path):
    def programs(*options):
        command = [sys.executable, "-m", "launch.main", *SEARCH, "--cache", str(tmp_path / "cache"), *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, done.stderr
        return {path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith("-atime")}

    first = programs("--run", "first")
    assert first
    assert programs("--run", "other", "--epochs", "3", "--seed", "1", "--method.lr", "0.05") == first
