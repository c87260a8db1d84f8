"""What a bare search does: its architecture's rate, and what chooses in the end; and how to have it as published."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import dnas
from dnas.api.search_plan import LARGEST_ARCH_LR, PUBLISHED_STEPS, fitting_method, plan_search
from dnas.runs.directory import load_genotype
from dnas.runs.index import selection_of, summary
from dnas.selection.types import Unsuitable
from launch.main import main
from tests.test_search import BATCH, tiny
from tests.toy_space import toy

TOY = f"{Path(__file__).parent}/toy_space.py:toy"
SEARCH = ["search", "--space", TOY, "--limit", "200", "--epochs", "2", "--batch", "16", "--no-progress", "--cache", "off"]
QUICK = {"name": "zero-cost-gates", "proxy": "synflow", "draws": 2000, "weight": 1.0, "without": ["none"], "seed": None}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnas.api.search_plan.PRESET", "quick")
        assert main([*SEARCH, "--run", str(folder)]) == 0
    return folder


def config(folder):
    return json.loads((folder / "config.json").read_text())


def test_it_ends_by_zero_cost_and_gates(quick):
    assert config(quick)["selection"] == QUICK and config(quick)["method"]["arch_lr"] == LARGEST_ARCH_LR
    chosen = load_genotype(quick)
    assert chosen == load_genotype(quick / "selections" / "zero-cost-gates") == dnas.open(quick).genotype
    assert all(choice.op != "none" for choice in chosen.choices["chain"])
    assert json.loads((quick / "results.json").read_text())["cell"] == dnas.open(quick).supernet.space.format(chosen)


def test_it_is_complete_and_can_be_repeated(quick, tmp_path, capsys):
    assert main(["search", "--config", str(quick / "config.json"), "--run", str(tmp_path / "again"), "--trust", "--cache",
                 "off", "--no-progress"]) == 0
    out = capsys.readouterr().out
    assert "chosen    by zero-cost-gates: the best of " in out
    assert " networks by a zero-cost proxy and the gates of the search, drawn uniformly\n" in out
    assert "untrained networks\nestimated  " in out and " once compiled\nstep 1 of 4" in out
    for name in ("config.json", "genotype.json", "arch.npz"):
        assert (quick / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert main([*SEARCH, "--run", str(quick), "--preset", "quick"]) == 0
    assert "complete: this is its result" in capsys.readouterr().out


def test_its_page_says_what_chose(quick, capsys):
    assert main(["report", str(quick)]) == 0
    page = (quick / "report.html").read_text()
    assert "Chosen in the end by zero-cost-gates: the best of " in page
    assert " networks by a zero-cost proxy and the gates of the search, drawn uniformly." in page


def test_a_choice_of_a_state_that_was_computed_again_says_what_helps(quick, tmp_path, capsys):
    """As after a search that lost its last checkpoint, and went on with other devices."""
    shutil.copytree(quick, tmp_path / "run")
    file = tmp_path / "run" / "selections" / "zero-cost-gates" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"checkpoint": "0" * 64}))
    assert main([*SEARCH, "--run", str(tmp_path / "run"), "--preset", "quick"]) == 2
    err = capsys.readouterr().err
    assert "another state of the supernet (epochs that were computed again on another number of devices" in err
    assert f"remove {file.parent} to choose again, or let `dnas select` write elsewhere (--out" in err


def test_one_that_was_killed_before_it_chose_goes_on(quick, tmp_path, monkeypatch):
    argv = ["search", "--config", str(quick / "config.json"), "--run", str(tmp_path / "cut"), "--trust", "--cache", "off",
            "--no-progress"]
    with monkeypatch.context() as patch:
        patch.setattr("dnas.api.search.choose", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with contextlib.suppress(KeyboardInterrupt):
            main(argv)
    assert not (tmp_path / "cut" / "results.json").exists()
    assert summary(tmp_path / "cut").status == "interrupted"
    with pytest.raises(ValueError, match="has not come to its end, where zero-cost-gates chooses"):
        dnas.train(tmp_path / "cut", epochs=1)
    assert main(argv) == 0
    assert load_genotype(tmp_path / "cut") == load_genotype(quick)


def test_as_published(tmp_path, capsys):
    assert main([*SEARCH, "--preset", "paper", "--run", str(tmp_path / "paper")]) == 0
    assert main([*SEARCH, "--preset", "quick", "--selection", "own", "--method.arch-lr", "3e-4", "--run",
                 str(tmp_path / "same")]) == 0
    assert config(tmp_path / "paper") == config(tmp_path / "same") and "selection" not in config(tmp_path / "paper")
    assert config(tmp_path / "paper")["method"]["arch_lr"] == 3e-4
    assert "chosen" not in capsys.readouterr().out


def test_another_selection_with_its_options(tmp_path):
    assert main([*SEARCH, "--selection", "random", "--selection.seed", "7", "--run", str(tmp_path / "run")]) == 0
    assert config(tmp_path / "run")["selection"] == {"name": "random", "seed": 7}
    data = tiny()
    run = dnas.search(toy(data.image, data.classes), "darts", data, epochs=1, batch=BATCH, selection=("random", {"seed": 7}),
                      progress=False)
    assert run.genotype == dnas.select(run, "random", seed=7, progress=False).genotype and run.folder is None


@pytest.mark.parametrize("words, message", [
    (["--preset", "fast"], "--preset fast: it must be one of quick, paper"),
    (["--selection", "luck"], "no selection 'luck'"), (["--selection.draws", "3"], "name it with --selection"),
    (["--selection", "zero-cost-gates", "--selection.without", "none,conv"], "without has 'none,conv', and the operations"),
    (["--selection", "zero-cost", "--selection.draws", "0"], "draws is 0")])
def test_what_cannot_be_is_one_line(words, message, tmp_path, capsys):
    assert main([*SEARCH, *words, "--run", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("selection", [("random",), {"name": "random"}, 5, ("random", 5)])
def test_a_selection_of_another_form_is_one_line(selection):
    data = tiny()
    with pytest.raises(ValueError, match="it must be a name, or a pair of a name and its options"):
        dnas.search(toy(data.image, data.classes), "darts", data, selection=selection)


def test_the_architectures_rate_is_larger_for_fewer_steps():
    data = tiny()
    rate = lambda name, epochs, preset="quick", **options: fitting_method(
        name, options, data, epochs=epochs, batch=BATCH, preset=preset).hyper["arch_lr"]
    steps = len(data.splits["train"]) // BATCH
    longer = PUBLISHED_STEPS // (10 * steps)  # a tenth of the published steps
    assert rate("darts", longer) == pytest.approx(3e-3, rel=0.1) and rate("darts", 1) == LARGEST_ARCH_LR
    assert rate("darts", 100 * longer) == rate("darts", 1, preset="paper") == 3e-4
    assert rate("darts", 1, arch_lr=0.5) == 0.5
    assert "arch_lr" not in fitting_method("rsps", {}, data, epochs=1, batch=BATCH, preset="quick").hyper


def test_a_method_with_a_rule_of_its_own_keeps_it():
    data = tiny()
    plan = lambda method: plan_search(toy(data.image, data.classes), method, data, epochs=1, batch=BATCH, preset="quick")
    assert plan("fair-darts").selection is None and plan("rsps").selection is None
    assert plan("drnas").settings[0].config["selection"] == QUICK


def test_where_the_selection_does_not_suit_the_method_chooses(monkeypatch, capsys):
    data = tiny()

    def unsuitable(*args):
        raise Unsuitable("there is nothing to choose")

    monkeypatch.setattr("dnas.api.search.choose", unsuitable)
    run = dnas.search(toy(data.image, data.classes), "darts", data, epochs=1, batch=BATCH, selection="random")
    assert "random does not suit: there is nothing to choose; the method's own rule chooses" in capsys.readouterr().out
    rule = run.supernet.space.genotype({name: np.asarray(rows) for name, rows in run.gates.items()})
    assert run.genotype == rule
    assert selection_of(Path("run"), run.config, run.results) is None
    by = {"name": "mine.py:sampled"}
    assert selection_of(Path("run"), {"selection": by}, {"selection_seconds": 0.1}) == by
    assert selection_of(Path("run"), {}, {}) is None


def test_of_a_few_shot_search_the_selection_chose_from_its_children(tmp_path):
    config, results = {"selection": {"name": "mine.py:sampled"}}, {"chosen": 1, "children": [{"name": "0"}, {"name": "1"}]}
    assert selection_of(tmp_path, config, results) is None
    (tmp_path / "children/1/selections/sampled").mkdir(parents=True)
    assert selection_of(tmp_path, config, results) == config["selection"]
