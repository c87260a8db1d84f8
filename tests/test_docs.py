"""The Python of the README and the documents does what they say."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.main import main
from tests.test_folders import write_folder

ROOT = Path(__file__).parent.parent


def blocks(path):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / path).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.heavy
@pytest.mark.parametrize("block", blocks("README.md"), ids=lambda block: block.splitlines()[0])
def test_readme(block, tmp_path):
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == ({"bright.npz", "runs"} if "bright" in block else set())


def test_your_own_method(tmp_path, monkeypatch, capsys):
    for name, code in zip(("cooled", "greedy", "alternate"), blocks("docs/your-own-method.md"), strict=True):
        (tmp_path / f"{name}.py").write_text(code)
        assert len(code.splitlines()) <= 40
    monkeypatch.chdir(tmp_path)
    toy = f"{ROOT}/tests/toy_space.py:toy"
    common = ["--space", toy, "--limit", "200", "--epochs", "3", "--batch", "16", "--cache", "off", "--no-progress"]
    cooled = ["--method", "cooled.py:cooled", "--method.coldest"]
    for name, words in (("cooled", [*cooled, "0.2"]), ("greedy", ["--method", "greedy.py:greedy"]),
                        ("alternate", ["--method", "alternate.py:alternate"])):
        assert main(["search", *words, *common, "--run", name]) == 0
        assert "hold-out" in capsys.readouterr().out and (tmp_path / name / "genotype.json").exists()
    assert main(["search", *cooled, "2", *common]) == 2
    assert "coldest is 2.0" in capsys.readouterr().err
    last = {name: json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
            for name in ("cooled", "greedy", "alternate")}
    assert last["cooled"]["price"]["valid"] == pytest.approx(0.01 * last["cooled"]["entropy"]["chain"], rel=0.05)
    assert (last["greedy"]["epoch"], last["greedy"]["decided"], last["alternate"]["epoch"]) == (2, 2, 3)


def test_every_link_leads_somewhere():
    for page in ROOT.glob("docs/*.md"), [ROOT / "README.md"]:
        for path in page:
            for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
                assert target.startswith("http") or (path.parent / target).exists(), f"{path.name}: {target}"


def test_a_selection_of_your_own(tmp_path, monkeypatch, capsys):
    (code,) = blocks("docs/selection.md")
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    toy = f"{ROOT}/tests/toy_space.py:toy"
    assert main(["search", "--space", toy, "--limit", "200", "--epochs", "1", "--batch", "16", "--run", "run",
                 "--cache", "off"]) == 0
    assert main(["select", "run", "--selection", "mine.py:least_missed", "--selection.images", "40", "--cache", "off"]) == 0
    assert "320 examples forward" in capsys.readouterr().out
    assert main(["compare", "run", "--selection", "magnitude", "mine.py:least_missed", "--least-missed.images", "40",
                 "--cache", "off"]) == 0
    assert "finished before" in capsys.readouterr().out


def test_your_own_data(tmp_path, monkeypatch, capsys):
    task, code, python = blocks("docs/your-own-data.md")
    (tmp_path / "my_task.py").write_text(task)
    (tmp_path / "my_augment.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "pets", shape=(20, 30, 3))
    options = ["--resize", "48", "64", "--fit", "pad", "--class-weights", "balanced", "--augment", "my_augment.py:brighter"]
    assert main(["datasets", "check", "pets", *options]) == 0
    out = capsys.readouterr().out
    assert "augmented by brighter" in out and "20x30 pixels, brought to 48x64 (pad)" in out and "weights of their" in out
    exec(python, {})
    out = capsys.readouterr().out
    assert "images: 24 of 48x48x3 uint8" in out and f"'augment': '{tmp_path}/my_augment.py:brighter'" in out
    tiny = ["--space", "dense", "--space.layers", "1", "--data", "diabetes", "--epochs", "1", "--batch", "32"]
    assert main(["search", *tiny, "--task", "my_task.py:huber", "--cache", "off"]) == 0
    assert re.search(r"hold-out  mae \d", capsys.readouterr().out)
    share = task.replace(", percent=False", "")
    (tmp_path / "my_task.py").write_text(share)
    assert main(["search", *tiny, "--task", "my_task.py:huber", "--run", "share", "--cache", "off"]) == 2
    assert "reads its metric 'mae' in %" in capsys.readouterr().err


@pytest.mark.heavy
def test_your_own_space(tmp_path, monkeypatch, capsys):
    code, _ = blocks("docs/your-own-space.md")
    (tmp_path / "my_space.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = (rng.integers(0, 90, (240, 8, 8, 1)) + 80 * (y % 3)[:, None, None, None]).astype(np.uint8)
    np.savez("my_images.npz", x=x, y=y)
    own = ["--space", "my_space.py:layers", "--data", "my_images.npz", "--epochs", "2", "--batch", "16", "--cache", "off"]
    assert main(["spaces", "check", *own[1:2], "--space.channels", "4", *own[2:4]]) == 0
    assert capsys.readouterr().out.count("\nyes") == 8
    assert main(["search", *own, "--space.channels", "4", "--run", "runs/mine"]) == 0
    assert main(["search", *own, "--method", "pc-darts", "--space.partial-channels", "4", "--method.arch-warmup", "1",
                 "--run", "runs/pc"]) == 0
    assert main(["compare", "runs/mine", "runs/pc", "--selection", "magnitude", "perturbation", "--perturbation.interval",
                 "0", "--cache", "off"]) == 0
    assert main(["train", "runs/mine/selections/perturbation", "--epochs", "2", "--cache", "off"]) == 0
    assert "test" in capsys.readouterr().out


@pytest.mark.heavy
def test_an_entangled_space_of_your_own(tmp_path, monkeypatch, capsys):
    _, code = blocks("docs/your-own-space.md")
    assert len(code.splitlines()) <= 45
    (tmp_path / "my_sizes.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    y = np.arange(160) % 3
    np.savez("my_images.npz", x=(80 * y[:, None, None, None] + np.zeros((160, 8, 8, 1))).astype(np.uint8), y=y)
    own = ["--space", "my_sizes.py:sizes", "--data", "my_images.npz"]
    assert main(["spaces", "check", *own[1:]]) == 0
    assert capsys.readouterr().out.count("\nyes") == 8
    brief = ["--epochs", "2", "--batch", "16", "--cache", "off"]
    assert main(["search", *own, *brief, "--method", "darts", "--method.relaxation", "sparsemax"]) == 0
    assert main(["search", *own, *brief, "--method", "drnas", "--budget.macs", "50e3", "--run", "runs/small"]) == 0
    assert main(["train", "runs/small", "--inherit", *brief]) == 0
    assert "test" in capsys.readouterr().out


def test_use(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run, tmp_path / "runs" / "net")
    (tmp_path / "images").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    np.save(tmp_path / "images.npy", images)
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "images" / "a.png")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    dnas ((?!train).*)$", (ROOT / "docs/use.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = [word for part in shlex.split(command) for word in (glob(part) or [part])]
        assert main([*words, "--cache", "off"]) == 0
    assert "images/a.png" in capsys.readouterr().out
    load, program, alone = blocks("docs/use.md")
    alone = "import sys; sys.path.insert(0, 'runs/net/export')\n" + alone
    done = subprocess.run([sys.executable, "-c", f"{load}\n{program}\n{alone}"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
