"""How runs end before their time: by a signal, by a loss that is not finite, by values that are not."""

import itertools
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import dnas
from dnas.config import build_selection
from dnas.runs import checkpoint
from dnas.runs.index import summary
from launch.main import main

ROOT = Path(__file__).parent.parent
TOY = f"{ROOT}/tests/toy_space.py:toy"
QUICK = ["--no-progress", "--cache", "off"]
SEARCH = ["search", "--space", TOY, "--limit", "200", "--epochs", "1000", "--batch", "16", *QUICK]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search of a space of one's own."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    data = dnas.data.load("digits", limit=200)
    dnas.search(dnas.space(TOY, data), "darts", data, epochs=1, batch=16, out=folder, progress=False, cache="off")
    return folder


@pytest.fixture
def copy(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    return tmp_path


def started(*argv):
    code = "import sys; print('started', flush=True); from launch import entry; sys.exit(entry())"
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, argv)], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout.readline() == "started\n"
    return process


def waited(process, happened):
    while not happened():
        assert process.poll() is None
        time.sleep(0.02)


def test_a_search_that_is_told_to_end_says_how_to_go_on(tmp_path):
    with started(*SEARCH, "--run", tmp_path / "a run") as process:
        waited(process, lambda: any(tmp_path.glob("a run/checkpoints/*.safetensors")))
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 129
    again = f"dnas search --config '{tmp_path}/a run/config.json' --run '{tmp_path}/a run'"
    assert err == f"dnas: interrupted; `{again}` continues from its last checkpoint\n"
    assert summary(tmp_path / "a run").status == "interrupted" and not list((tmp_path / "a run").rglob(".*"))


@pytest.mark.heavy
def test_a_training_a_selection_and_a_comparison_too(copy):
    """Each as soon as it works: its folder is there, and its process lives on until the signal."""
    run = copy / "run"
    cases = ((["train", run, "--epochs", "9999", "--space", TOY, "--run", copy / "net", *QUICK],
              copy / "net" / "metrics.jsonl", f"`dnas train {copy}/net --run {copy}/net` continues"),
             (["select", run, "--selection.interval", "999", "--space", TOY, "--cache", "off"],
              run / "selections" / "perturbation" / "checkpoints", "the same command continues from the last step"),
             (["compare", run, "--selection", "magnitude", "--train-epochs", "9999", "--trust", "--out", copy / "out",
               *QUICK], run / "selections" / "magnitude" / "genotype.json", "the same command continues from what is done"))
    for argv, sign, hint in cases:
        with started(*argv) as process:
            waited(process, sign.exists)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 143 and err.startswith("dnas: interrupted; ") and err.count("\n") == 1 and hint in err


def test_no_traceback_whenever_it_comes(tmp_path):
    """From shortly after Python runs the first line to what jax does first."""
    for delay in 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.2:
        with started(*SEARCH, "--run", tmp_path / str(delay)) as process:
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and err.startswith("dnas: interrupted") and err.count("\n") == 1, (delay, err)


def test_a_second_one_ends_it_at_once(tmp_path):
    """While it cleans up after the first, and without a word more."""
    code = ("import sys, time\nimport launch.search\nfrom launch import entry\nfrom launch.interrupts import working\n"
            "def search(argv):\n    with working('that goes on'):\n        try:\n            print('on', flush=True)\n"
            "            time.sleep(60)\n        finally:\n            print('cleans', flush=True)\n"
            "            time.sleep(60)\n"
            "launch.search.main = search\nsys.argv[1:] = ['search']\nsys.exit(entry())")
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        for word in "on", "cleans":
            assert process.stdout.readline().strip() == word
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130 and err == ""


def test_what_is_ignored_stays_so(tmp_path):
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = started(*SEARCH, "--run", tmp_path / "run")
    finally:
        signal.signal(signal.SIGHUP, before)
    with process:
        waited(process, lambda: any(tmp_path.glob("run/checkpoints/*.safetensors")))
        process.send_signal(signal.SIGHUP)
        count = len((tmp_path / "run/metrics.jsonl").read_bytes())
        waited(process, lambda: len((tmp_path / "run/metrics.jsonl").read_bytes()) > count)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143


def test_a_terminal_shows_its_line_and_obeys_no_name(tmp_path):
    """The line that moves is the terminal's to obey; what a file is called is not."""
    name = "a\x1b[31m\u202eb"
    (tmp_path / name).mkdir()
    master, slave = pty.openpty()
    argv = [*SEARCH[:5], "--epochs", "2", "--batch", "16", "--cache", "off", "--run", str(tmp_path / name / "run")]
    with subprocess.Popen([sys.executable, "-m", "launch.main", *argv], cwd=ROOT, stdout=slave, stderr=slave,
                          env={**os.environ, "TERM": "xterm"}) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
    assert process.returncode == 0 and b"a?[31m?b" in shown and b"\x1b[31m\xe2\x80\xaeb" not in shown
    assert b"\x1b[?25l" in shown and b"\x1b[?25h" in shown


@pytest.mark.parametrize("kind", ["search", "train"])
def test_a_run_that_diverged_has_failed_until_it_goes_on(copy, capsys, kind):
    """And going on it does again what it did: it fails."""
    argv = {"search": [*SEARCH[:5], "--epochs", "3", "--batch", "16", "--method.lr", "1e30", "--method.clip", "1e30",
                       *QUICK],
            "train": ["train", "run", "--space", TOY, "--epochs", "3", "--lr", "1e30", *QUICK]}[kind] + ["--run", "out"]
    for _ in range(2):
        capsys.readouterr()
        assert main(argv) == 1
        err = capsys.readouterr().err
        assert err.startswith("dnas: error: ") and err.count("\n") == 1 and "became" in err
        one = summary(Path("out"))
        assert one.status == "failed" and "became" in one.note
    assert main(["runs", "."]) == 0 and " failed " in capsys.readouterr().out


def with_nan(path, template):
    """The checkpoint again, its digest right, with a weight that is NaN."""
    file = checkpoint.read(path)
    tree = checkpoint.arrays(file, template)
    leaves, structure = jax.tree.flatten(tree)
    place = next(i for i, leaf in enumerate(leaves) if leaf.dtype == np.float32 and leaf.ndim > 1)
    leaves[place] = leaves[place].copy()
    leaves[place].flat[0] = np.nan
    checkpoint.save(path, jax.tree.unflatten(structure, leaves), file.metadata)


def test_a_supernet_with_nan_is_not_selected_from(copy, capsys):
    [path] = Path("run/checkpoints").iterdir()
    with_nan(path, dnas.open("run", space=TOY).supernet.state)
    for argv in (["select", "run", "--space", TOY, "--cache", "off"], ["compare", "run", "--trust", "--out", "out", *QUICK],
                 ["train", "run", "--inherit", "--space", TOY, "--run", "out", *QUICK]):
        capsys.readouterr()
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "run, epoch 1: the supernet's weights cannot be used: " in err
    assert not Path("run/selections").exists()


def test_a_choice_whose_fine_tuned_weights_are_nan_hands_none_on(copy, capsys):
    select = ["select", "run", "--selection.interval", "1", "--space", TOY, "--cache", "off"]
    assert main(select) == 0
    choice = Path("run/selections/perturbation")
    perturbation, _ = build_selection("perturbation", {"interval": 1})
    template = perturbation.begin(dnas.open("run", space=TOY).supernet.context)
    for path in (choice / "checkpoints").glob("*.safetensors"):
        with_nan(path, template)
    train = ["train", choice, "--inherit", "--space", TOY, "--run", "out", "--epochs", "1", *QUICK]
    (choice / "genotype.json").rename(choice / "kept.json")
    for argv in select, train:
        capsys.readouterr()
        if argv is train:
            (choice / "kept.json").rename(choice / "genotype.json")
        assert main(list(map(str, argv))) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "supernet's weights cannot be used" in err


@pytest.mark.parametrize("cost", [
    "[[1, 2], [3, 4]]", '{"evaluations": 1}', '{"evaluations": "x", "epochs": 1, "seconds": 1}',
    '{"evaluations": 1, "epochs": -1, "seconds": 1}', "[]", "{", '{"1": 2, "3": 4}'])
def test_a_cost_of_another_shape(copy, capsys, cost):
    select = ["select", "run", "--selection", "magnitude", "--space", TOY, "--cache", "off"]
    assert main(select) == 0
    Path("run/selections/magnitude/cost.json").write_text(cost)
    for argv in select, ["train", "run/selections/magnitude", "--inherit", "--space", TOY, "--run", "out", *QUICK]:
        capsys.readouterr()
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "cost.json" in err and "to select again" in err
    assert main(["report", "run"]) == 0  # which says that the choice is broken


def test_a_config_that_is_no_search_of_any_kind(copy, capsys):
    """Whatever a value of a config is, it is one line."""
    before = Path("run/config.json").read_text()
    readers = itertools.cycle((["select", "run", "--trust", "--selection", "random", "--out", "out", "--cache", "off"],
                               ["train", "run", "--trust", "--epochs", "1", "--run", "out", *QUICK],
                               ["compare", "run", "--trust", "--selection", "random", "--out", "out", *QUICK]))
    for key, value in (("budget", 3), ("budget", {"a": 1}), ("budget", {"params": "x"}), ("batch", "x"), ("batch", 0),
                       ("epochs", None), ("epochs", 10**30), ("seed", -1), ("seed", 1.5), ("limit", "x"), ("limit", -1),
                       ("space", 1), ("method", {"name": 1}), ("method", {"name": "darts", "lr": "x"}), ("data", []),
                       ("method", {"name": "darts", "lr": -1}), ("start", 3), ("start", {"run": 3}), ("diagnose", "x"),
                       ("space", {"name": "width", "channels": 10**12}), ("metric", []), ("task", 3), ("augment", [])):
        Path("run/config.json").write_text(json.dumps(json.loads(before) | {key: value}))
        for argv in (["search", "--config", "run/config.json", "--trust", "--epochs", "1", "--run", "out", *QUICK],
                     next(readers)):
            capsys.readouterr()
            code, err = main(argv), capsys.readouterr().err
            assert code in (0, 2) and err.count("\n") == (code == 2), (key, value, argv, err)
            shutil.rmtree("out", ignore_errors=True)
