"""The command line, in this process: helps, lists, one line and exit code 2 for whatever is wrong, and a whole run."""

import io
import json
import os
import re

import numpy as np
import pytest

import dnas
from dnas import options, registry
from dnas.api.search_plan import plan_search
from dnas.engine import cache
from launch.arguments import load_data
from launch.main import COMMANDS, main
from launch.search_options import read_search, settings_of

FACTORIES = '''
"""Mine."""
from __future__ import annotations
import math
from typing import Literal, Optional
import jax.numpy as jnp
from dnas.types import Genotype, Group, SearchSpace
SIZE = 4
BEST = SIZE * 2

def linear(image, classes, *, width: int = SIZE, act: Literal["relu", "tanh"] = "relu", bias: bool = True,
           scale: float | None = None, rates: tuple[float, ...] = (0.5,), call=math.sin) -> SearchSpace:
    """One edge whose two operations scale the pixels by 1 and by -1.

    Args:
        width: of nothing,
            on two lines.
    """
    groups = {"edge": Group(((0, 1),), ("plus", "minus"))}
    def init(key, images):
        return {"w": jnp.full((math.prod(images.shape[1:]), classes), 1e-3)}, {}
    def apply(weights, stats, gates, images, *, train, key=None):
        gates = gates.gates(groups) if isinstance(gates, Genotype) else gates
        return (gates["edge"][0, 0] - gates["edge"][0, 1]) * images.reshape(len(images), -1) @ weights["w"], stats
    def genotype(scores):
        return Genotype.from_decisions(space, {"edge": scores["edge"].argmax(-1)})
    space = SearchSpace("linear", {"width": width}, groups, init, apply, genotype, lambda weights, genotype: weights,
                        lambda genotype=None: {"params": 640, "macs": 1234567}, None,
                        lambda genotype: "best " + genotype.choices["edge"][0].op, None)
    return space

def small(*, n: int, m: Optional[int] = None): return 7
def strange(*, call: object): return 7
'''


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder with the factories above in mine.py."""
    monkeypatch.setenv("DNAS_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FACTORIES)
    return tmp_path


@pytest.fixture
def said(capsys):
    """Runs a command line and returns its exit code, standard output and standard error."""
    def run(*argv):
        capsys.readouterr()
        return main([str(word) for word in argv]), *capsys.readouterr()
    return run


def refused(said, folder, *argv):
    """The message of a command that must end with code 2, one line, and nothing written."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, out, err = said(*argv)
    assert code == 2 and not out and err.startswith("dnas: error: ") and err.count("\n") == 1 and err.endswith("\n")
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}
    assert set(after) <= set(before) and all(after[path] == before[path] for path in after if path.is_file())
    return err[len("dnas: error: "):-1]


def write_npz(path, images=60, size=8, **changes):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.integers(0, 255, (images, size, size, 1), np.uint8), "y": np.arange(images) % 3} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",)])
def test_usage(said, argv):
    code, out, err = said(*argv)
    assert code == 0 and not err and all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command, expected", [
    ("spaces", r"^nasbench201 +NAS-Bench-201 \("), ("methods", r"^darts +DARTS, first order \("),
    ("datasets", "^digits +1,797 handwritten digits"), ("--version", "^dnas ")])
def test_lists(said, command, expected):
    code, out, err = said(command)
    assert code == 0 and not err and re.search(expected, out, re.MULTILINE)


@pytest.mark.parametrize("command", ["search", "estimate"])
def test_help_shows_defaults_and_choices(said, command):
    code, out, _ = said(command, "--help")
    text = " ".join(out.split())
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert "options of the space nasbench201:" in text and "options of the method darts:" in text
    for part in ("--space {", "--method {darts,", "--data {digits,diabetes}|PATH",
                 "(default: digits)", "--epochs INT", "(default: 30)", "--space.channels INT channels of the first",
                 "--space.scan {auto,on,off}", "--method.arch-lr FLOAT", "(default: 0.0003)"):
        assert part in text


def test_help_shows_the_chosen_options_only(said):
    code, out, _ = said("search", "--help", "--space", "mine.py:linear")
    text = " ".join(out.split())
    assert code == 0 and "options of the space mine.py:linear:" in text
    assert "--space.channels" not in text and "--space.width INT of nothing, on two lines." in text
    assert "--space.act {relu,tanh}" in text and "--space.bias, --space.no-bias" in text
    assert "--space.call" not in text


@pytest.mark.parametrize("argv, message", [
    (["serch"], "no command 'serch'; did you mean 'search'?"),
    (["zzz"], f"no command 'zzz'; the commands are {', '.join(COMMANDS)}"),
    (["spaces", "x"], "unexpected argument 'x'; `dnas spaces` takes none"),
    (["search", "--space.chanels", "3"], "unknown option --space.chanels; did you mean --space.channels?"),
    (["search", "--channels", "3"], "unknown option --channels; did you mean --space.channels?"),
    (["search", "--epoch=3"], "unknown option --epoch; did you mean --epochs?"),
    (["search", "--zzzzzz"], "unknown option --zzzzzz; dnas search --help lists them"),
    (["search", "--gpu"], "unknown option --gpu; dnas uses the accelerator that JAX finds (JAX_PLATFORMS=cpu: none)"),
    (["search", "--devices=0"], "devices is 0; it must be all, or a whole number from 1 to 1, the number of cpu devices"),
    (["search", "--devices", "some"], "--devices some: it must be a whole number or one of all"),
    (["search", "--chanels", "3"], "unknown option --chanels; dnas search --help lists them"),
    (["search", "--epo", "3"], "unknown option --epo; dnas search --help lists them"),
    (["search", "-g"], "unknown option -g; dnas search --help lists them"),
    (["search", "stray"], "unexpected argument 'stray'; name data by --data stray"),
    (["search", "--epochs", "3", "mine.py"], "unexpected argument 'mine.py'; name data by --data mine.py"),
    (["search", "--seed", "3", "4"], "unexpected argument '4' (dnas search --help lists the options)"),
    (["search", "--space", "nasbench"], "no space 'nasbench'; did you mean 'nasbench201'?"),
    (["search", "--method", "dart"], "no method 'dart'; did you mean 'darts'?"),
    (["search", "--data", "digit"], "no file, folder or data set 'digit'; did you mean 'digits'?"),
    (["search", "--space"], "--space: it needs a value"),
    (["search", "--no-progress=1"], "--progress/--no-progress: it takes no value"),
    (["search", "--space.channels", "many"], "--space.channels many: it must be a whole number"),
    (["search", "--space.scan", "onn"], "--space.scan onn: it must be one of auto, on, off"),
    (["search", "--epochs", "0"], "epochs is 0; it must be a whole number, 1 to 1,000,000"),
    (["search", "--epochs", "1.5"], "--epochs 1.5: it must be a whole number"),
    (["search", "--batch", "0"], "batch is 0; it must be a whole number, 1 to"),
    (["search", "--batch", "700"], "batch 700 is larger than the train split; it has 647 examples"),
    (["estimate", "--batch", "700"], "batch 700 is larger than the train split; it has 647 examples"),
    (["search", "--seed", "-1"], "seed -1: it must be a whole number, 0 to 4294967295"),
    (["search", "--seed", str(2**32)], "seed 4294967296: it must be a whole number, 0 to 4294967295"),
    (["search", "--limit", "x"], "--limit x: it must be a whole number"),
    (["search", "--resize", "8", "x"], "--resize 8 x: each must be a whole number"),
    (["search", "--limit", "0"], "limit 0; it must be at least 1"),
    (["search", "--limit", "9999"], "limit 9999, but it has 1438 images outside the test set"),
    (["search", "--data"], "--data needs a name or a path"),
    (["search", "--method.lr", "nan"], "method darts: lr is nan; it must be a number"),
    (["search", "--space.channels", "0"], "channels >= 1"),
    (["search", "--space", "mine.py:small"], "--space.n INT is missing (dnas search --help describes it)"),
    (["search", "--space", "mine.py:small", "--space.n", "1"], "it returned int; it must return a SearchSpace"),
    (["search", "--space", "mine.py:strange"], "option call has no default"),
    (["search", "--space", "mine.py:linea"], "no callable 'linea'; did you mean 'linear'?"),
    (["search", "--config", "absent.json"], "cannot read absent.json: No such file or directory"),
    (["search", "--config"], "--config: it needs a value"),
    (["search", "--run", "mine.py"], "cannot write in mine.py"),
    (["search", "--run", "."], "is not empty (it has mine.py) and holds no run")])
def test_bad_command_lines(said, folder, argv, message):
    assert message in refused(said, folder, *argv)


@pytest.mark.parametrize("changes, message", [
    ({"x": None}, "no array x; its arrays are y"),
    ({"y": None}, "no array y; its arrays are x"),
    ({"y": np.arange(60) % 3 - 1}, "label -1 of example 0"),
    ({"y": np.arange(59) % 3}, "59 labels for 60 images"),
    ({"y": np.zeros(60, int)}, "every label is 0; a set needs at least two classes"),
    ({"x": np.full((60, 8, 8), np.nan)}, "NaN or infinite pixels"),
    ({"size": 3}, "images of 3x3 are too small for nasbench201"),
    ({"images": 90}, "batch 64 is larger than the train split")])
def test_bad_data(said, folder, changes, message):
    path = write_npz(folder / "a.npz", **changes)
    assert message in refused(said, folder, "search", "--data", path, "--batch", 64 if "images" in changes else 8)


def test_truncated_files(said, folder):
    path = write_npz(folder / "a.npz")
    path.write_bytes(path.read_bytes()[:1000])
    assert "not a whole .npz file" in refused(said, folder, "search", "--data", path)
    (folder / "idx").mkdir()
    (folder / "idx" / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00")
    assert "truncated or corrupt gz" in refused(said, folder, "search", "--data", folder / "idx")


@pytest.mark.parametrize("text, message", [
    ("{", "no valid JSON"), ("[]", "no JSON object"), ('{"epoch": 3}', "unknown key 'epoch'; did you mean 'epochs'?"),
    ('{"run": "x"}', "unknown key 'run'; its keys are space, method"),
    ('{"epochs": "x"}', "c.json: epochs is 'x'; it must be a whole number"),
    ('{"data": ["--help"]}', "no file, folder or data set '--help'"), ('{"data": 3}', "data is 3; it must be a list"),
    ('{"epochs": {}}', "epochs is {}; it must be a whole number"), ('{"epochs": -3}', "epochs is -3; it must be a whole"),
    ('{"space": "nasbench201"}', 'space is nasbench201; it must be {"name": ..., and its options}'),
    ('{"space": {"name": "nasbench201", "cell": 3}}', "c.json: space nasbench201 has no option cell; did you mean cells?"),
    ('{"space": {"name": "nasbench"}}', "no space 'nasbench'; did you mean 'nasbench201'?"),
    ('{"method": {"name": "darts", "lr": null}}', "c.json: method darts: lr is None; it must be a number")])
def test_bad_configs(said, folder, text, message):
    (folder / "c.json").write_text(text)
    assert message in refused(said, folder, "search", "--config", "c.json")


def test_run_of_another_config(said, folder):
    (folder / "r").mkdir()
    argv = ["search", "--limit", "400", "--batch", "32", "--run", "r"]
    data = dnas.data.load("digits", limit=400)
    config = plan_search("nasbench201", "darts", data, batch=32).settings[0].config
    (folder / "r" / "config.json").write_text(json.dumps(config))
    message = refused(said, folder, *argv, "--seed", 1, "--method.lr", 1)
    assert "another config: method.lr is 0.025 there, 1.0 here; seed is 0 there, 1 here" in message


def test_config_repeats(folder):
    options = ["--space", "mine.py:linear", "--space.act", "tanh", "--space.no-bias", "--space.rates", "0.1", "2",
               "--space.scale", "1e-5", "--method.arch-lr=1e-3", "--data", write_npz(folder / "a.npz"), "--limit", "30",
               "--seed=3", "--batch", "8"]
    first = config_of(*options)
    place = f"{folder}/mine.py"
    assert first["space"] == {"name": f"{place}:linear", "width": 4, "act": "tanh", "bias": False, "scale": 1e-5,
                              "rates": [0.1, 2.0], "partial_channels": 1, "drop_path": 0.0, "dtype": "float32",
                              "scan": "auto", "remat": False}
    assert first["method"]["arch_lr"] == 1e-3 and first["data"] == [f"{folder}/a.npz"] and first["limit"] == 30
    (folder / "config.json").write_text(json.dumps(first))
    with pytest.raises(ValueError, match="nothing is imported because a file says so"):
        config_of("--config", folder)
    assert config_of("--config", folder, "--trust") == config_of("--config", folder, "--space", "mine.py:linear") == first
    other = config_of("--config=config.json", "--trust", "--space.bias", "--epochs", "9")
    assert other == first | {"epochs": 9, "space": first["space"] | {"bias": True}}
    other = config_of("--config=config.json", "--space", "nasbench201")
    assert other["space"] == {"name": "nasbench201", "channels": 16, "cells": 1, "scan": "auto", "partial_channels": 1,
                              "drop_path": 0.0, "dtype": "float32", "remat": False}
    assert other["method"] == first["method"]


def config_of(*argv):
    """What config.json would hold of a search with this command line."""
    argv = list(map(str, argv))
    values = read_search("search", "", argv)
    data = load_data(values)
    spaces, methods = settings_of(values, argv, data)
    plan = plan_search(spaces[0], methods[0], data, **{name: values[name] for name in ("epochs", "batch", "seed")})
    return json.loads(json.dumps(plan.settings[0].config))


@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_source_and_signature_say_the_same(name):
    place = {**registry.registered("space"), **registry.registered("method")}[name]
    read = options.read(place)
    assert read and all(option.help for option in read)
    assert read == options.from_signature(registry.load(place), place)


def test_debug_shows_the_traceback(said, monkeypatch):
    monkeypatch.setenv("DNAS_DEBUG", "1")
    code, _, err = said("search", "--epochs", 0)
    assert code == 2 and err.startswith("Traceback")
    assert err.endswith("dnas: error: epochs is 0; it must be a whole number, 1 to 1,000,000\n")


@pytest.mark.parametrize("error, code, line", [
    (KeyboardInterrupt(), 130, "dnas: interrupted\n"),
    (FileNotFoundError(2, "No such file", "a"), 2, "dnas: error: a: No such file\n"),
    (RuntimeError("out of\nmemory"), 1, "dnas: error: RuntimeError: out of (DNAS_DEBUG=1 shows where)\n")])
def test_other_errors(said, monkeypatch, error, code, line):
    def fail(argv):
        raise error
    monkeypatch.setattr("launch.lists.spaces", fail)
    assert said("spaces") == (code, "", line)


def test_any_name_is_printed_and_no_output_is_needed(folder, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("launch.lists.spaces", lambda argv: print("\xfc\udcff") or 0)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["spaces"]) == 0 and written.getvalue() == b"\\xfc\\udcff\n"
    monkeypatch.setattr("sys.stdout", None)
    assert main(["spaces"]) == 0


def test_cache(folder, monkeypatch, capsys):
    monkeypatch.setattr("jax.config.update", lambda name, value: None)
    assert cache.enable(None) is None and cache.enable("off") is None
    assert cache.enable("mine") == folder / "mine" and (folder / "mine").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("DNAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "xdg"))
    assert cache.enable(None) == folder / "xdg" / "dnas" / "xla" and not capsys.readouterr().err
    os.chmod(folder / "mine", 0o777)
    assert cache.enable("mine") is None and "others can write to it; compiling without" in capsys.readouterr().err
    assert cache.enable("mine.py") is None and "dnas: warning: cache" in capsys.readouterr().err


def test_search_of_a_space_of_ones_own(said, folder):
    argv = ["search", "--space", "mine.py:linear", "--data", write_npz(folder / "some data.npz"), "--epochs", "2",
            "--batch", "8"]
    code, out, err = said(*argv)
    run = folder / "runs" / "linear-darts-some_data-0"
    assert code == 0, err
    for part in ("60 images 8x8x1", "2 epochs of", "run     runs/linear-darts-some_data-0\n", "1 <- 0 ", "\nbest ",
                 "640 parameters, 1,234,567 multiply-adds", " % accuracy of the supernet", "cells.svg",
                 "tensorboard --logdir runs/linear-darts-some_data-0", "config.json --seed 1"):
        assert part in out
    assert json.loads((run / "config.json").read_text())["data"] == [str(folder / "some data.npz")]
    metrics = (run / "metrics.jsonl").read_bytes()
    code, out, _ = said(*argv)
    assert code == 0 and "complete: this is its result" in out and (run / "metrics.jsonl").read_bytes() == metrics
    code, out, _ = said("search", "--config", run / "config.json", "--method.lr", "1e-9")
    assert code == 0 and "run     runs/linear-darts-some_data-0-2\n" in out
    code, _, err = said("search", "--config", run, "--method.lr", "1e38", "--no-progress")
    assert code == 1 and err.count("\n") == 1 and err.startswith("dnas: error: ")


def test_a_search_that_decided_nothing_says_so_and_what_would_decide(said, folder):
    argv = ["search", "--space", "mine.py:linear", "--data", write_npz(folder / "d.npz"), "--epochs", "2", "--batch", "8"]
    code, out, err = said(*argv, "--run", "r")
    assert code == 0, err
    _, _, lines = out.partition("\ngates     ")
    assert lines.startswith("nothing is decided yet: the largest gate of an edge is 50.")
    following = lines.partition("\nnext      ")[2].splitlines()
    assert following[0].startswith("more epochs, a larger --method.arch-lr, or `dnas select")
    assert following[1:4] == ["  dnas select r --selection zero-cost-gates", "  dnas train r/selections/zero-cost-gates",
                              "  dnas search --config r/config.json --epochs 6 --method.arch-lr 0.003"]
    results = json.loads((folder / "r" / "results.json").read_text())
    assert results["uniform"] == 0.5 < results["largest_gate"] < 0.55
    assert results["margin"] == pytest.approx(2 * results["largest_gate"] - 1)
    assert said("report", "r")[0] == 0
    assert "<p>Nothing is decided yet: the largest gate of an edge is 50." in (folder / "r" / "report.html").read_text()
    code, out, _ = said(*argv, "--run", "s", "--method.arch-lr", "1")
    assert "\ngates" not in out and "\nnext\n  dnas train s\n" in out and said("report", "s")[0] == 0
    assert "ecided yet" not in (folder / "s" / "report.html").read_text()
    code, out, _ = said(*argv, "--run", "t", "--sweep", "method.arch-lr=0,1")
    assert code == 0 and "\ngates     1 of 2 searches decided nothing" in out


def test_the_page_shows_identical_images_of_two_splits(said, folder):
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
    for name, test in ("with", x[:3]), ("without", x[:3] ^ 1):
        np.savez(f"{name}.npz", x=x, y=np.arange(60) % 2, x_test=test, y_test=np.arange(3) % 2)
        argv = ["search", "--space", "mine.py:linear", "--data", f"{name}.npz", "--epochs", "1", "--batch", "8"]
        assert said(*argv, "--seeds", "2", "--run", name)[0] == 0 and said("report", f"{name}/1")[0] == 0
    for seed in "01":
        assert (folder / "with" / seed / "duplicates.png").read_bytes().startswith(b"\x89PNG")
        assert not (folder / "without" / seed / "duplicates.png").exists()
    page = (folder / "with" / "1" / "report.html").read_text()
    assert "<h2>Identical images in two splits</h2>" in page and page.count('src="data:image/png;base64,') == 1
    assert "Identical images" not in (folder / "without" / "1" / "report.html").read_text()
    (folder / "without" / "1" / "duplicates.png").symlink_to(folder / "with.npz")  # a page carries nothing from elsewhere
    (folder / "with" / "1" / "duplicates.png").write_bytes(bytes(10**6 + 1))
    for name in "with", "without":
        assert said("report", f"{name}/1")[0] == 0
        assert "Identical images" not in (folder / name / "1" / "report.html").read_text()


def test_estimate(said, folder):
    before = sorted(folder.iterdir())
    code, out, err = said("estimate", "--space", "mine.py:linear", "--limit", "400", "--batch", "8", "--run", "r")
    assert code == 0 and "multiply-adds 1,234,567 per example" in out and "MiB of a step" in out, err
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before
    argv = ["estimate", "--space", "mine.py:linear", "--limit", "400", "--batch", "8"]
    code, out, err = said(*argv, "--seconds", "30", "--selection", "halving", "--preset", "quick")
    assert code == 0 and "darts (arch_lr 0.0" in out, err  # fitted to the steps
    assert ", batch 8, at most 30 seconds\nselection     halving ends the search" in out
    for words, message in ((["--selection", "nope"], "no selection 'nope'"), (["--seconds", "-1"], "seconds is -1.0"),
                           (["--preset", "slow"], "--preset"), (["--sweep", "method.lr=1,2"], "an estimate is of one")):
        code, _, err = said(*argv, *words)
        assert code == 2 and message in err and err.count("\n") == 1


def test_interrupted_search_says_how_to_go_on(said, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr("dnas.api.search.search_lanes", interrupt)
    code, _, err = said("search", "--space", "mine.py:linear", "--run", "my run")
    assert code == 130 and err.count("\n") == 1
    assert "`dnas search --config 'my run/config.json' --run 'my run'` continues" in err
