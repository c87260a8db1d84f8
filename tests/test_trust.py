"""A run from elsewhere decides nothing that is imported."""

import contextlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import dnas
from dnas.api.architectures import choice_fingerprint
from dnas.runs import checkpoint, trust
from launch.main import main
from tests.toy_space import toy

TOY = f"{Path(__file__).parent}/toy_space.py:toy"
EVIL = '''"""What somebody put beside a run."""
from pathlib import Path
Path({marker!r}).touch()
def factory(*args, **options):
    Path({marker!r}).touch()
'''
QUICK = ["--no-progress", "--cache", "off"]
KINDS = "space", "method", "data", "augment", "task"
"""Keys of a config that may hold a place to import."""
COMMANDS = {
    "show": ["show", "RUN", "--out", "out"],
    "train": ["train", "RUN", "--run", "out", "--epochs", "1", *QUICK],
    "inherit": ["train", "RUN", "--inherit", "--run", "out", "--epochs", "1", *QUICK],
    "select": ["select", "RUN", "--selection", "random", "--out", "out", "--cache", "off"],
    "compare": ["compare", "RUN", "--selection", "random", "--out", "out", *QUICK],
    "search": ["search", "--config", "RUN/config.json", "--run", "out", *QUICK],
    "estimate": ["estimate", "--config", "RUN/config.json", "--cache", "off"],
    "start": ["search", "--start", "RUN", "--space", "width", "--limit", "200", "--run", "out", *QUICK],
}
NEEDED = [(name, kind) for name in COMMANDS for kind in
          {"show": ("space",), "train": ("space", "data", "augment", "task")}.get(name, KINDS)]
"""What each command builds of a run."""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A search of a space of one's own, and a training of what it found, both begun here."""
    top = tmp_path_factory.mktemp("own")
    data = dnas.data.load("digits", limit=200)
    run = dnas.search(dnas.space(TOY, data), "darts", data, epochs=1, batch=16, out=top / "run", progress=False, cache="off")
    dnas.train(run, epochs=1, batch=16, out=top / "net", progress=False, cache="off")
    return top


@pytest.fixture
def place(originals, tmp_path, monkeypatch):
    """A folder to work in with copies of both, which so are from elsewhere, and evil.py in all folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in "run", "net":
        shutil.copytree(originals / name, name)
    for folder in ".", "run", "run/selections/magnitude", "net":
        Path(folder, "evil.py").write_text(EVIL.format(marker=f"{tmp_path}/marker"))
    yield tmp_path
    sys.modules.pop("evil", None)


def change(path, **values):
    """Changes keys of a JSON file."""
    path = Path(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def evil_places(top):
    """Each form of a place, with the options that make it do something."""
    return [("subprocess:run", {"args": f"touch {top}/marker", "shell": True}), (f"{top}/evil.py:factory", {}),
            ("evil.py:factory", {}), ("evil:factory", {})]


def named(kind, name, **options):
    """What a config says of a part that is at a place."""
    return {kind: {"space": {"name": name, **options}, "method": {"name": name, **options}, "data": [name]}.get(kind, name)}


def called(name, run):
    return [word.replace("RUN", str(run)) for word in COMMANDS[name]]


def refused(capsys, argv, *parts):
    """The command ends with one line that has all parts, and exit code 2."""
    capsys.readouterr()
    assert main(list(map(str, argv))) == 2
    out, err = capsys.readouterr()
    assert err.startswith("dnas: error: ") and err.count("\n") == 1 and all(part in err for part in parts), err


def done(argv):
    assert main(list(map(str, argv))) == 0


NOTHING = "nothing is imported because a file says so"


@pytest.mark.parametrize("name, kind", NEEDED)
def test_no_command_imports_what_a_config_names(place, capsys, name, kind):
    """Neither from the folder above nor from within the run."""
    before = Path("run/config.json").read_text()
    for where, options in evil_places(place):
        Path("run/config.json").write_text(before)
        change("run/config.json", **named(kind, where, **options))
        for run, here in ("run", "."), (".", "run"):
            with contextlib.chdir(here):
                refused(capsys, called(name, run), NOTHING, where)
                assert not Path("out").exists()
    assert not (place / "marker").exists()


@pytest.mark.parametrize("kind", ["space", "data", "augment", "task"])
def test_a_training_is_not_repeated_with_what_its_config_names(place, capsys, kind):
    before = Path("net/config.json").read_text()
    for where, options in evil_places(place):
        Path("net/config.json").write_text(before)
        change("net/config.json", **named(kind, where, **options))
        for run, here in ("net", "."), (".", "net"):
            with contextlib.chdir(here):
                refused(capsys, ["train", run, "--run", run, *QUICK], NOTHING, where)
    assert not Path("marker").exists()


def test_what_needs_no_place_reads_the_run(place, capsys):
    np.savez("x.npz", x=np.zeros((2, 8, 8, 1), np.uint8))
    for where, options in evil_places(place)[:3]:
        for kind in KINDS:
            change("run/config.json", **named(kind, where, **options))
            change("net/config.json", **named(kind, where, **options))
        for argv in ["report", "run"], ["report", "net"], ["runs", "."], ["evaluate", "run"], ["predict", "net", "x.npz"]:
            done(argv)
        run = dnas.open("run")
        assert repr(run) and run.genotype and run.records and run._repr_html_()
    done(["export", "net", "--format", "safetensors", "--out", "out"])  # which finds no data to compare on
    assert "random" in capsys.readouterr().out
    assert not (place / "marker").exists()


FUNCTIONS = {"supernet": lambda run, **trust: dnas.open(run, **trust).supernet,
             "select": lambda run, **trust: dnas.select(run, "random", out="out", progress=False, **trust),
             "train": lambda run, **trust: dnas.train(run, epochs=1, progress=False, **trust),
             "inherit": lambda run, **trust: dnas.train(run, epochs=1, inherit=True, progress=False, **trust),
             "show": lambda run, **trust: dnas.show(run, **trust),
             "compare": lambda run, **trust: dnas.compare(run, ["random"], progress=False, **trust)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_imports_what_a_config_names_unless_told_to(place, name):
    for where, options in evil_places(place):
        change("run/config.json", **named("space", where, **options))
        with pytest.raises(ValueError, match=NOTHING):
            FUNCTIONS[name]("run")
        assert not Path("marker").exists() and not Path("out").exists()
        with pytest.raises(ValueError, match="it returned NoneType; it must return|has no option args"):
            FUNCTIONS[name]("run", trust=True)
        assert Path("marker").exists() != bool(options)  # which the place does not have
        Path("marker").unlink(missing_ok=True)


def test_a_place_that_the_user_names_too_is_imported(place, capsys):
    where = f"{place}/evil.py:factory"
    for name, kind in (("show", "space"), ("train", "space"), ("select", "space"), ("select", "method"), ("search", "space"),
                       ("search", "method"), ("search", "data"), ("estimate", "task"), ("train", "augment")):
        shutil.copy("run/config.json", "kept.json")
        change("run/config.json", **named(kind, where))
        refused(capsys, called(name, "run"), NOTHING)
        assert not Path("marker").exists()
        main([*called(name, "run"), f"--{kind}", "evil.py:factory"])  # which then is no such part
        assert Path("marker").exists(), (name, kind)
        Path("marker").unlink()
        main([*called(name, "run"), "--trust"])
        assert Path("marker").exists() or name == "estimate", (name, kind)
        Path("marker").unlink(missing_ok=True)
        shutil.copy("kept.json", "run/config.json")
        shutil.rmtree("out", ignore_errors=True)
        capsys.readouterr()


def test_a_genotype_alone(place, capsys):
    for where, options in evil_places(place):
        Path("g.json").write_text(json.dumps(json.loads(Path("run/genotype.json").read_text()) | {
            "space": where, "options": options}))
        refused(capsys, ["show", "g.json"], NOTHING)
        refused(capsys, ["train", "g.json", "--limit", "200", "--run", "out", *QUICK], NOTHING)
        refused(capsys, ["evaluate", "g.json"], "which is not one of")
    assert not Path("marker").exists()


def with_metadata(file, **values):
    """Writes a model file again, its digest right, with other parts of its metadata."""
    content = checkpoint.read(file)
    tree = {}
    for name, (shape, dtype, start, stop) in checkpoint._entries(file, content.header).items():
        leaf, *above = name.split("/")[::-1]
        inner = tree
        for key in above[::-1]:
            inner = inner.setdefault(key, {})
        inner[leaf] = np.frombuffer(content.content[content.body + start:content.body + stop], dtype).reshape(shape)
    parts = {name: json.dumps(json.loads(content.metadata[name]) | value) for name, value in values.items()}
    checkpoint.save(file, tree, content.metadata | parts, name=checkpoint.PLAIN)


@pytest.mark.parametrize("part, key", [("space", "name"), ("output", "task")])
def test_a_model_file(place, capsys, part, key):
    np.savez("x.npz", x=np.zeros((2, 8, 8, 1), np.uint8))
    for where, _ in evil_places(place):
        with_metadata("net/weights.safetensors", **{part: {key: where}})
        shutil.copy("net/weights.safetensors", "alone.safetensors")
        for network in "net", "alone.safetensors":
            refused(capsys, ["predict", network, "x.npz"], NOTHING)
            refused(capsys, ["export", network, "--format", "safetensors", "--out", "out"], NOTHING)
            with pytest.raises(ValueError, match=NOTHING):
                dnas.load(network)
    assert not Path("marker").exists() and not Path("out").exists()


def test_weights_that_were_put_into_a_run_that_was_begun_here(own, place):
    """The config of the run is one's own; that of the file is not."""
    shutil.copytree(own / "net", "mine")
    change("mine/config.json", space={"name": "width", "channels": 4, "stages": 1, "layers": 1})
    trust.remember(Path("mine"), json.loads(Path("mine/config.json").read_text()))
    with_metadata("mine/weights.safetensors", space={"name": f"{place}/evil.py:factory"})
    with pytest.raises(ValueError, match=NOTHING):
        dnas.load("mine")
    assert not Path("marker").exists()


def test_a_choice_leads_to_no_import(place, capsys):
    """Its selection fine-tuned a supernet, as it says, and would be asked for it; its run is another one."""
    choice = Path("run/selections/magnitude")
    config = (choice / "config.json").read_text()
    train = ["train", choice, "--inherit", "--epochs", "1", "--run", "out", *QUICK]
    for where, options in evil_places(place):
        (choice / "config.json").write_text(config)
        change(choice / "config.json", selection={"name": where, **options})
        change(choice / "cost.json", epochs=1)
        refused(capsys, train, NOTHING)
        said = {key: json.loads(config)[key] for key in ("config", "epoch", "checkpoint")}
        pinned = choice_fingerprint(place / choice)
        change("net/config.json", inherit=True, supernet={"run": f"{place}/run", **said, "choice": pinned})
        refused(capsys, ["train", "net", "--run", "out", *QUICK], NOTHING)
    main(["train", "run", "--selection", f"{place}/evil.py:magnitude", *train[2:]])
    assert not Path("marker").exists()
    (choice / "config.json").write_text(config)
    change(choice / "cost.json", epochs=0)
    shutil.copytree("run", "other")
    change("other/config.json", **named("space", f"{place}/evil.py:factory"))
    change(choice / "config.json", run=f"{place}/other")
    for argv in train, ["show", choice], ["evaluate", choice]:
        if argv[0] == "evaluate":
            done(argv)
        else:
            refused(capsys, argv, "from another search than the one that is now in")
    assert not Path("marker").exists()


def test_a_run_that_was_begun_here_needs_no_word(own, place, capsys):
    done(["select", own / "run", "--selection", "random", "--cache", "off"])
    done(["show", own / "run", "--out", "out"])
    assert dnas.load(own / "net").space.name == "toy"
    assert dnas.open(own / "run").supernet.space.groups.keys() == toy().groups.keys()
    shutil.copytree(own / "run", "copy")
    refused(capsys, ["select", "copy", "--cache", "off"], NOTHING)
    refused(capsys, ["show", "copy"], NOTHING)
    done(["select", "copy", "--selection", "random", "--space", TOY, "--cache", "off"])
    done(["show", "copy", "--space", TOY, "--out", "out"])
    shutil.copytree(own / "net", "net copy")
    with pytest.raises(ValueError, match=NOTHING):
        dnas.load("net copy")
    assert dnas.load("net copy", space=TOY).space.name == "toy" == dnas.load("net copy", trust=True).space.name
    opened = dnas.open("copy", space=TOY)
    assert dnas.select(opened, "magnitude", progress=False).genotype and dnas.show(opened).cost
    assert dnas.train(opened, epochs=1, batch=16, progress=False).results


def test_another_config_in_its_place_is_not_trusted(own, tmp_path, capsys):
    """Where it was begun, another directory lies now, or its config was changed."""
    shutil.move(own / "run", tmp_path / "kept")
    try:
        shutil.copytree(tmp_path / "kept", own / "run")
        change(own / "run/config.json", seed=1)
        refused(capsys, ["select", own / "run", "--cache", "off"], NOTHING)
        change(own / "run/config.json", seed=0)
        done(["select", own / "run", "--selection", "random", "--cache", "off"])
    finally:
        shutil.rmtree(own / "run")
        shutil.move(tmp_path / "kept", own / "run")


def test_what_was_begun_is_remembered_privately(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = {"space": {"name": TOY}}
    trust.remember(tmp_path / "run", config)
    assert trust.begun_here(tmp_path / "run", config) and not trust.begun_here(tmp_path / "run", config | {"seed": 1})
    assert not trust.begun_here(tmp_path / "other", config)
    state = tmp_path / "state/dnas/runs"
    assert state.stat().st_mode & 0o777 == 0o700
    state.chmod(0o777)  # others could have written it
    assert not trust.begun_here(tmp_path / "run", config)


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_nothing_is_written_where_a_link_in_a_run_leads(place, capsys):
    """Neither a selection nor an export."""
    Path("precious").mkdir()
    for link, argv in (("run/selections", ["select", "run", "--selection", "random", "--cache", "off"]),
                       ("run/selections/random", ["compare", "run", "--selection", "random", "--out", "out", *QUICK]),
                       ("net/export", ["export", "net", "--format", "safetensors"])):
        if Path(link).exists():
            shutil.rmtree(link)
        Path(link).parent.mkdir(exist_ok=True)
        Path(link).symlink_to(place / "precious")
        refused(capsys, argv, f"{link} is a link")
        assert not list(Path("precious").iterdir()) and not Path("out").exists()
        Path(link).unlink()
