"""One's own run is neither lost nor mixed up with another, wherever it has moved."""

import shutil
from pathlib import Path

import pytest

import dnas
from tests.test_trust import QUICK, done, refused


@pytest.fixture
def place(originals, tmp_path, monkeypatch):
    """A folder to work in with copies of a search and a training."""
    monkeypatch.chdir(tmp_path)
    for name in "run", "net":
        shutil.copytree(originals / name, name)
    return tmp_path


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


@pytest.mark.parametrize("argv", [["search", "--config", "run/config.json", "--run", "run", *QUICK],
                                  ["train", "net", "--run", "net", *QUICK]])
def test_a_finished_run_without_its_checkpoints_is_left_as_it_is(place, originals, capsys, argv):
    folder = argv[argv.index("--run") + 1]
    shutil.rmtree(f"{folder}/checkpoints")
    before = snapshot(folder)
    refused(capsys, argv, "has the results of", "restore its folder checkpoints")
    assert snapshot(folder) == before
    if folder == "run":
        data = dnas.data.load("digits", limit=200)
        space = dnas.space("width", data, channels=4, stages=1, layers=1)
        with pytest.raises(ValueError, match="has the results of 2 epochs but no checkpoint"):
            dnas.search(space, "darts", data, epochs=2, batch=16, out=folder, progress=False)
        assert snapshot(folder) == before
    for name in "results.json", "metrics.jsonl", "weights.safetensors":
        Path(folder, name).unlink(missing_ok=True)
    done(argv)  # without results there is nothing to lose


def test_a_run_that_moved_works_with_all_that_lies_in_it(place, capsys):
    shutil.move("run", "moved")
    for argv in (["show", "moved/selections/magnitude", "--out", "out"], ["report", "moved"], ["evaluate", "moved"],
                 ["train", "moved/selections/magnitude", "--inherit", "--epochs", "1", "--run", "trained", *QUICK],
                 ["select", "moved", "--selection", "magnitude", "--cache", "off"],
                 ["compare", "moved", "--selection", "magnitude", "--out", "compared", *QUICK]):
        capsys.readouterr()
        done(argv)
    assert "Chosen afterwards" in Path("moved/report.html").read_text()
    Path("elsewhere").mkdir()
    for name in "moved", "compared":
        shutil.move(name, f"elsewhere/{name}")
    done(["compare", "elsewhere/moved", "--selection", "magnitude", "--out", "elsewhere/compared", *QUICK])


def test_another_run_in_its_place_is_never_taken_for_it(place, capsys):
    """`run` moves, with a choice (`chosen`), a training (`net2`) and a search (`second`) outside of it that went on from it.
    Another search, of another seed, comes in its place; when that is gone they go on with the one that moved."""
    done(["select", "run", "--selection", "random", "--out", "chosen", "--cache", "off"])
    done(["train", "chosen", "--inherit", "--epochs", "1", "--run", "net2", *QUICK])
    done(["search", "--config", "run/config.json", "--start", "run", "--epochs", "1", "--run", "second", *QUICK])
    shutil.move("run", "moved")
    done(["search", "--config", "moved/config.json", "--seed", "5", "--epochs", "1", "--run", "run", *QUICK])
    refused(capsys, ["train", "chosen", "--inherit", "--run", "out", *QUICK], "from another search than the one")
    refused(capsys, ["train", "chosen", "--epochs", "1", "--run", "out", *QUICK], "from another search than the one")
    refused(capsys, ["train", "net2", "--run", "net2", *QUICK], "from another search than the one")
    refused(capsys, ["search", "--config", "second/config.json", "--run", "second", *QUICK], "other weights are there now")
    refused(capsys, ["search", "--config", "second/config.json", "--run", "out", *QUICK], "other weights are there now")
    refused(capsys, ["select", "run", "--selection", "random", "--out", "chosen", "--cache", "off"], "from another state")
    assert not Path("out").exists()
    shutil.rmtree("run")
    refused(capsys, ["train", "net2", "--run", "net2", *QUICK], "which is not there", "--run")
    second = ["search", "--config", "second/config.json", "--start", "moved", "--run", "second", *QUICK]
    for folder, argv in (("chosen", ["select", "moved", "--selection", "random", "--out", "chosen", "--cache", "off"]),
                         ("second", second),
                         ("net2", ["train", "chosen", "--epochs", "1", "--inherit", "--run", "net2", *QUICK])):
        before = {path: path.read_bytes() for path in Path(folder).glob("*.jsonl")}
        done(argv)
        assert "/run\"" not in Path(folder, "config.json").read_text()  # where it is now is written down
        assert before == {path: path.read_bytes() for path in Path(folder).glob("*.jsonl")}
    done(["train", "net2", "--run", "net2", *QUICK])


def test_the_same_config_at_another_state_is_not_taken_for_it_either(place, capsys):
    """The same search again, in the place of the first and not as far."""
    done(["select", "run", "--selection", "random", "--out", "chosen", "--cache", "off"])
    shutil.move("run", "moved")
    shutil.copytree("moved", "run")
    Path("run/checkpoints/00002.safetensors").unlink()
    refused(capsys, ["train", "chosen", "--inherit", "--run", "out", *QUICK], "is from epoch 2 of a search", "of epoch 1")
