"""`dnas report`: a page that stands alone, holds what the run holds, and lets nothing of it become markup."""

import html
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import dnas
from dnas.fronts.front import front_of
from dnas.reports.tables import are_ranks
from dnas.runs.directory import open_run
from launch.main import main
from search_spaces.nasbench201 import nasbench201
from tests.test_runs import SEARCH, TRAIN, write_choice, write_run

EVIL = '"><img src=x onerror=alert(1)>'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DIAGNOSED = {"gap": 0.125, "sharpness": 0.01, "eigenvalue": 0.5, "skips": 3, "edges": 3}


def page(folder):
    """The text of the page of a run, which must stand alone."""
    assert main(["report", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    bare = re.sub(r"base64,[^\"]*", "", text)
    assert not re.search(r'(src|href)="(?!data:image/svg)', bare) and "http" not in bare and "<script" not in bare
    return text


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A finished search with diagnoses and two choices, one of which was interrupted."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "mine", SEARCH | {"data": [f"/data/{EVIL}"]}, **DIAGNOSED)
    (folder / "results.json").write_text(json.dumps({
        "holdout": {"accuracy": 0.6, "loss": 0.5}, "cell": EVIL, "params": 12345, "macs": 678, "margin": 0.25}))
    write_choice(folder, EVIL.replace("/", ""))
    (write_choice(folder, "magnitude") / "genotype.json").unlink()
    return folder


def test_a_search(search):
    text = page(search)
    assert text.count("data:image/svg+xml") == 5  # cells, curves, logits, diagnoses, a choice
    for part in ("<title>mine</title>", "Search of toy by darts", "done, after epoch 3 of 3", "60.00 %", "12,345 parameters",
                 "25.0 points", "1 min 0 s, 20 s an epoch", "architecture has collapsed: at epoch 3 every edge is a skip",
                 "0.1250", "2 &lt;- 0 skip  1 none", "cell 0-&gt;2", "draws 4", "1,234", "magnitude: interrupted",
                 "dnas search --space mine.py:toy", f"search --config {search}/config.json --run OTHER", "0.025", "jaxlib"):
        assert part in text, part
    assert EVIL not in text and text.count("&quot;&gt;&lt;img src=x onerror=alert(1)&gt;") >= 4


def test_a_search_that_has_only_begun_and_one_without_groups(tmp_path):
    text = page(write_run(tmp_path / "new", SEARCH, epochs=0))
    assert "interrupted, after epoch 0 of 3" in text and "How it went" not in text
    folder = write_run(tmp_path / "old", SEARCH, epochs=2)
    (folder / "groups.json").unlink()
    (folder / "environment.json").unlink()
    assert f"not drawn yet; dnas show {folder} draws it" in page(folder)
    (folder / "logits.svg").write_text("<svg/>")
    (folder / "cells.svg").write_text("<svg/>")
    assert page(folder).count("data:image/svg+xml") == 3


def test_a_training(tmp_path):
    folder = write_run(tmp_path / "trained", TRAIN)
    assert "What is taken for what" not in page(folder)
    results = {"test": {"accuracy": 0.75, "loss": 0.7, "examples": 4, "standard_error": 0.2165}, "params": 9, "macs": 8,
               "holdout": {"accuracy": 0.5, "loss": 1, "best": {"epoch": 2, "accuracy": 0.625}}, "train_examples": 40}
    (folder / "results.json").write_text(json.dumps(results | {"confusion": [[2, 1], [0, 1]]}))
    text = page(folder)
    for part in ("Training from scratch of a network of toy", "75.00 % accuracy ± 21.65 by the number of its examples (4)",
                 "the best was 62.50 % after epoch 2", "40 trained on", "|a|", "recall %", "66.7", "1 (1 times)",
                 f"dnas train {folder} --run OTHER"):
        assert part in text, part
    for wrong in [[1, 2]], [[1], [2, 3]], [[0.5, 1], [1, 1]], "x", [[-1, 0], [0, 1]]:
        (folder / "results.json").write_text(json.dumps(results | {"confusion": wrong}))
        assert main(["report", str(folder)]) == 2


def test_the_metric_of_the_task(tmp_path):
    config = TRAIN | {"task": "regression", "metric": {"name": "mae", "better": -1, "percent": False}}
    folder = write_run(tmp_path / "numbers", config, mae={"train": 60.0, "holdout": 50.0})
    assert "mae 50" in page(folder)
    (folder / "results.json").write_text(json.dumps({
        "test": {"mae": 44.123, "mse": 3000.0, "loss": 0.7, "examples": 88, "standard_error": 3.3},
        "holdout": {"mae": 43.7, "loss": 0.6, "best": {"epoch": 2, "mae": 42.0}, "inherited": 70.0}}))
    text = page(folder)
    for part in ("mae 44.12 ± 3.3 by the number of its examples (88), mse 3000, loss 0.700",
                 "the best was mae 42 after epoch 2", "as inherited mae 70", "mae (less is better)", "examples per second"):
        assert part in text, part
    assert "What is taken for what" not in text and " %" not in text.split("How it went")[0]


@pytest.fixture
def elastic(tmp_path):
    """An elastic search of NAS-Bench-201, whose logits are the order of operations, and a front of three networks of it."""
    folder, config = tmp_path / "it's elastic", SEARCH | {"space": {"name": "nasbench201"}, "method": {"name": "ofa"}}
    space = nasbench201()
    networks = [space.genotype({"cell": np.eye(5)[[k] * 6]}) for k in (3, 2, 1)]
    write_run(folder, config, epochs=0)
    with open_run(folder, config) as run:
        for epoch in range(1, 4):
            run.append({"epoch": epoch, "loss": {"train": 1.0, "holdout": 2.0}, "accuracy": {"train": 0.5, "holdout": 0.2}})
        run.save_groups(space.groups)
        run.save_genotype(networks[0])
        run.save_arch({"cell": np.broadcast_to(np.array([-1.0, 0, 2, 3, 1]), (4, 6, 5))})
    (folder / "results.json").write_text(json.dumps({
        "holdout": {"accuracy": 0.6, "loss": 0.5}, "cell": "the whole", "params": 9, "macs": 8, "margin": 1.0,
        "largest_gate": 1.0, "uniform": 0.2}))
    values = [{"accuracy": 0.5, "macs": 3e6, "params": 3}, {"accuracy": 0.4321, "macs": 2e6, "params": 2},
              {"accuracy": 0.1, "macs": 1e6, "params": 1}]
    return folder, space, front_of({"accuracy": 1, "macs": -1}, networks, values)


def test_an_elastic_search(elastic):
    folder, space, front = elastic
    text = page(folder)
    begin = f"dnas select {shlex.quote(str(folder))} --selection pareto"
    for part in ("No architecture is learned here", html.escape(begin), ">largest network</td>", "of the largest network",
                 "<h2>The largest network</h2>"):
        assert part in text, part
    assert ">margin<" not in text and "logits" not in text and "of the supernet" not in text.split("How it went")[0]
    choice = write_choice(folder, "pareto")
    (choice / "genotype.json").write_text(front.networks[0].genotype.to_json())
    (choice / "front.json").write_text(front.to_json())
    chosen = json.loads((choice / "config.json").read_text())
    chosen["selection"] |= {"objectives": [], "limit": ["macs<=3e6", "params<=5"], "latency": None}
    (choice / "config.json").write_text(json.dumps(chosen))
    text = page(folder)
    command = f"dnas train {shlex.quote(str(folder))} --selection pareto --pick 'macs<=2000000'"
    for part in ("<td class=\"text\">draws 4, limit macs&lt;=3e6 params&lt;=5</td>", "43.21 %", "on the validation examples",
                 html.escape(space.format(front.networks[1].genotype)), "trains network 2", html.escape(command)):
        assert part in text, part
    assert "0.4321" not in text and begin not in html.unescape(text)
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == ["How it went", "Chosen afterwards from the same supernet", "The largest network", "How it was made"]
    (choice / "front.json").write_text(front.to_json().replace('"nasbench201"', '"mine.py:space"'))  # is not imported
    text = page(folder)
    assert "43.21 %" in text and ">network</th>" not in text


def test_what_ended_an_elastic_search_is_no_largest_network(elastic):
    folder, _, _ = elastic
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"selection": {"name": "evolution"}}))
    text = page(folder)
    assert "No architecture is learned here" in text and "Chosen in the end by evolution" in text
    assert ">largest network</td>" not in text and "<h2>The cells</h2>" in text


def test_which_logits_are_ranks():
    still = lambda *rows: {"cell": np.array([rows] * 3, float)}
    assert are_ranks(still([0, 2, 1], [-1, 1, 0])) and are_ranks(still([0, 1]) | {"one": np.zeros((3, 2, 1))})
    for logits in (still([0, 0, 0]), still([0, 1e-3, 2e-3]), still([0, 2]), still([1, 2]), {}, {"one": np.zeros((3, 2, 1))},
                   {"cell": np.array([[[0, 1, 2]], [[0, 1, 2.5]]], float)}, still([0, 1], [0, 0])):
        assert not are_ranks(logits)


def test_a_search_that_failed(tmp_path):
    folder = write_run(tmp_path / "failed", SEARCH, epochs=2)
    (folder / "failed.json").write_text('{"error": "the loss is not finite"}')
    assert "failed (the loss is not finite), after epoch 2 of 3" in page(folder)


@pytest.mark.parametrize("name, content, message", [
    ("config.json", None, "is not a run directory: it has no config.json"), ("config.json", "[]", "no JSON object"),
    ("config.json", '{"a": 1}', "is of no search, training, selection or comparison"),
    ("config.json", '{"selection": {}, "run": "x"}', "is a selection; the report of its run shows it"),
    ("metrics.jsonl", "1\n2\n", "line 1, is no JSON record"), ("genotype.json", "{}", "not a genotype"),
    ("metrics.jsonl", '{"epoch": "1"}\n{}\n', "line 1, is no JSON record"),
    ("arch.npz", "rubbish", "arch.npz is missing or corrupt"), ("results.json", "{", "no valid JSON"),
    ("groups.json", '{"cell": {"edges": [[0, 1]], "ops": [["none", 3]]}}', "operations have names"),
    ("groups.json", '{"cell": {"edges": [0], "ops": ["none"]}}', "no groups of edges"),
    ("groups.json", '{"cell": {"edges": [[0, 1]], "ops": ["none"]}}', "no logits [epochs, 1, 1] of group 'cell'"),
    ("groups.json", '{"cell": {"edges": [[0, 1], [0, 2], [1, 2]], "ops": ["none", "skip", "other"]}}',
     "genotype has 'conv' on edge 0->1")])
def test_what_cannot_be_read_is_one_line(tmp_path, capsys, name, content, message):
    folder = write_run(tmp_path / "x", SEARCH, epochs=1)
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    before = sorted(folder.iterdir())
    assert main(["report", str(folder)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and sorted(folder.iterdir()) == before


def test_a_moved_run_and_choices_from_another(tmp_path):
    folder = write_run(tmp_path / "before", SEARCH)
    write_choice(folder, "sampled")
    text = page(folder)
    (tmp_path / "deep").mkdir()
    moved = shutil.move(folder, tmp_path / "deep" / "after")
    again = page(Path(moved))
    assert "<td class=\"text\">sampled</td>" in text and "<td class=\"text\">sampled</td>" in again
    (moved / "config.json").write_text(json.dumps(SEARCH | {"seed": 8}))  # another search in its place
    text = page(moved)
    assert "sampled: chosen from another search than this one" in text and "draws 4" not in text


def test_a_training_whose_supernet_is_gone(tmp_path):
    supernet = {"run": str(tmp_path / "gone"), "config": "0", "epoch": 3, "checkpoint": "1", "choice": None}
    text = page(write_run(tmp_path / "trained", TRAIN | {"inherit": True, "supernet": supernet}))
    assert "Training from the weights of a supernet" in text and "supernet.run" in text


def test_what_a_link_in_a_run_leads_to_is_not_carried(tmp_path):
    folder = write_run(tmp_path / "linked", SEARCH, epochs=1)
    (folder / "groups.json").unlink()
    (tmp_path / "secret").write_text("<svg/>")
    for name in "cells.svg", "logits.svg":
        (folder / name).symlink_to(tmp_path / "secret")
    assert page(folder).count("data:image/svg+xml") == 1  # the curves


def test_in_python(tmp_path, search):
    run = dnas.open(search)
    assert dnas.report(run) == search / "report.html"
    assert dnas.report(str(search), out=tmp_path / "page.html").read_bytes() == (search / "report.html").read_bytes()
    for out in tmp_path, tmp_path / "absent" / "page.html":
        with pytest.raises(ValueError, match="it must be a file in a folder that exists"):
            dnas.report(run, out=out)
    with pytest.raises(ValueError, match="the run is in memory"):
        dnas.report(dnas.Run(None, {}, {}))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_and_prints_it(search, tmp_path):
    from matplotlib.image import imread

    page(search)
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,3000"]
    for option in f"--screenshot={tmp_path / 'page.png'}", f"--print-to-pdf={tmp_path / 'page.pdf'}":
        subprocess.run([*browser, option, (search / "report.html").as_uri()], capture_output=True, timeout=180, check=True)
    seen = (imread(tmp_path / "page.png")[..., :3] * 255).round().astype(int)
    for colour in (0x1c, 0x5f, 0xb0), (0x0a, 0x7a, 0x4a):  # a convolution and a skip of the cell
        assert (abs(seen - colour).sum(-1) < 6).sum() > 100
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
