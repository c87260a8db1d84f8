"""`dnas.latency`, `dnas.latency_table` and their command: structure, turns, tables and errors. No test depends on how long
anything takes."""

import itertools
import json
import os
import re
import runpy
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

import dnas
from dnas.engine.latency import RUNS, compiled_run, time_in_turn
from dnas.tabular import latency as tables
from dnas.tabular.table import choices
from dnas.types import Genotype
from launch.main import main
from search_spaces.nasbench201 import nasbench201
from search_spaces.width import width
from tests.test_load import refused, said
from tests.test_table import write as write_table

SPACE = width((8, 8, 1), 10, channels=4, stages=1)
WORDS = ["--space", "width", "--space.channels", "4", "--space.stages", "1", "--limit", "200", "--repetitions", "3"]
TOY = f"{Path(__file__).parent}/toy_space.py:toy"
EXISTING = Path(os.environ.get("DNAS_DATA", "absent"))


def test_networks_have_their_turns_in_rounds():
    """A clock that a run of network n moves by n + 1 ms, and the rounds by a drift that meets all alike."""
    now, calls = [0.0], []

    def run(number):
        def call():
            calls.append(number)
            now[0] += 1e-3 * (number + 1)
        return call

    times = time_in_turn([run(0), run(1), run(2)], 25, clock=lambda: now[0])
    np.testing.assert_allclose(times, np.broadcast_to([[1], [2], [3]], (3, 25)))
    warm, rounds = calls[:3 * RUNS], calls[3 * RUNS:]
    assert [warm.count(number) for number in range(3)] == [RUNS] * 3
    turns = [(number, len(list(same))) for number, same in itertools.groupby(rounds)]
    assert len(rounds) == 3 * (25 + 3) and sum(length for _, length in turns) == len(rounds)
    for first in range(0, len(rounds), 3 * (RUNS + 1)):  # each network once in each round
        part = rounds[first:first + 3 * (RUNS + 1)]
        assert [part.count(number) for number in range(3)] == [len(part) // 3] * 3
    orders = {tuple(dict.fromkeys(rounds[first:first + 3 * (RUNS + 1)])) for first in range(0, len(rounds), 3 * (RUNS + 1))}
    assert len(orders) > 1


def test_the_compiled_run_is_the_network():
    network = SPACE.network(SPACE.parse("4-3"))
    weights, stats = network.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), "float32"))
    inputs = np.random.default_rng(0).standard_normal((3, 8, 8, 1), np.float32)
    run, seconds = compiled_run(network, weights, stats, inputs)
    expected = network.apply(weights, stats, inputs, train=False, key=None)[0]
    np.testing.assert_allclose(run(), expected, 1e-4, 1e-5)
    assert seconds > 0


def test_a_genotype_and_a_trained_network(run, capsys, tmp_path):
    measured = dnas.latency([SPACE.parse("1-1"), run, dnas.load(run)], batch=2, repetitions=5)
    assert len(measured) == 3 and measured.batch == 2 and measured.repetitions == 5 and measured.device
    assert [one.name for one in measured] == ["genotype", str(run), "width"]
    for one in measured:
        low, high = one.quartiles
        assert one.milliseconds.shape == (5,) and 0 < low <= one.median <= high and one.compile_seconds > 0
    assert measured[1].genotype == SPACE.parse("4-3")
    out = said(capsys, "latency", run, run / "weights.safetensors", "--repetitions", "4", "--json", tmp_path / "l.json")
    assert "median ms" in out and out.count(str(run)) == 2 and "batch 1" in out and "4 of each network" in out
    found = json.loads((tmp_path / "l.json").read_text())
    assert (found["batch"], found["repetitions"], len(found["networks"])) == (1, 4, 2)
    one = found["networks"][0]
    assert one["median_ms"] == np.median(one["milliseconds"]) and len(one["milliseconds"]) == 4
    assert Genotype.from_json(json.dumps(one["genotype"])) == SPACE.parse("4-3")


def test_a_search_a_choice_and_another_size(tmp_path):
    data = dnas.data.load("digits", limit=200)
    run = dnas.search(TOY, "darts", data, epochs=1, batch=16, progress=False)
    measured = dnas.latency([run, dnas.select(run, "random", progress=False)], repetitions=1)
    assert measured[0].genotype == run.genotype and [len(one.milliseconds) for one in measured] == [1, 1]
    larger = dnas.latency(nasbench201((8, 8, 1), 10, channels=4, cells=2).parse(CELL), cells=1, channels=2, repetitions=1)
    assert larger[0].genotype.options["cells"] == 2 and "quartiles" in repr(larger)


CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"


@pytest.mark.parametrize("argv, message", [
    ((), "RUN|MODEL|GENOTYPE ... is missing; or --save FILE.npz"), (("darts-v9",), "did you mean"),
    (("darts-v2", "--batch", "0"), "batch is 0; it must be a whole number, 1 to"),
    (("darts-v2", "--repetitions", "0"), "repetitions is 0; it must be a whole number, 1 to 1,000,000"),
    (("absent.json",), "absent.json does not exist"), (("RUN", "--cells", "3"), "whose size cannot be changed"),
    (("RUN", "--json", "absent/l.json"), "must be a file in a folder that exists"),
    (("RUN/weights.safetensors", "--json", "RUN/weights.safetensors"), "would replace"),
    (("--save", "t.npz", *WORDS), "give either draws"), (("--save", "t.txt", "--draws", "2", *WORDS), "it must end in .npz"),
    (("--save", "absent/t.npz", "--draws", "2", *WORDS), "must be a file in a folder that exists"),
    (("--save", "RUN/t.npz", "--draws", "2", *WORDS), "is a file of a run itself"),
    (("--save", "t.npz", "--draws", "0", *WORDS), "draws is 0, it must be at least 1"),
    (("--save", "t.npz", "--genotypes", "absent", *WORDS), "cannot read absent"),
    (("--save", "t.npz", "--genotypes", "lines", *WORDS), "lines, line 3: not the width of each of these 2 layers")])
def test_bad_input_is_one_line(run, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dnas.api.latency.compiled_run", lambda *_: pytest.fail("it compiled"))
    monkeypatch.setattr("dnas.api.latency_table.compiled_run", lambda *_: pytest.fail("it compiled"))
    (tmp_path / "lines").write_text("4-4\n\n4-9\n")
    capsys.readouterr()
    assert main(["latency", *(word.replace("RUN", str(run)) for word in argv)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "t.npz").exists()


def test_what_is_no_network():
    with pytest.raises(ValueError, match="int is not a network; it must be a run, a choice, a trained network"):
        dnas.latency(3)
    with pytest.raises(ValueError, match="no network is named"):
        dnas.latency([])


def test_a_table_goes_there_and_back_and_grows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines").write_text("4-3\n" + json.dumps(json.loads(SPACE.parse("1-1").to_json())) + "\n4-3\n")
    out = said(capsys, "latency", "--save", "t.npz", "--genotypes", "lines", *WORDS)
    assert "networks   2\n" in out and "written    t.npz" in out
    first, latency = tables.read("t.npz"), tables.latency_by("t.npz")
    assert first.repetitions == 3 and first.batch == 1 and first.options["channels"] == 4 and first.groups == SPACE.groups
    assert [latency(SPACE.parse(text)) for text in ("4-3", "1-1")] == first.ms.tolist()
    assert latency(SPACE.parse("4-3")) == tables.latency_by("t.npz", first.device)(SPACE.parse("4-3"))
    with pytest.raises(ValueError, match=r"t.npz has 2 networks of width, and not <genotype of width: width: 2\(0->1\)"):
        latency(SPACE.parse("2-2"))
    with pytest.raises(ValueError, match="t.npz: the genotype is of space 'nasbench201'"):
        latency(nasbench201((8, 8, 1), 10).parse(CELL))
    assert "16, 2 of them measured before" in said(capsys, "latency", "--save", "t.npz", "--draws", "40", *WORDS)
    whole = tables.read("t.npz")
    assert len(whole.ms) == 16 and whole.ms[:2].tolist() == first.ms.tolist() and "16 networks" in repr(whole)
    assert "written" in said(capsys, "latency", "--save", "t.npz", "--draws", "40", *WORDS)
    error = refused(capsys, "latency", "--save", "t.npz", "--draws", "40", *WORDS, "--batch", "2")
    assert "t.npz has latencies of something else: its batch differs, 1 there and 2 here; choose another file" in error
    error = refused(capsys, "latency", "--save", "t.npz", "--draws", "40", *WORDS, "--space.channels", "6")
    assert "its options differs, {'image': [8, 8, 1]" in error
    (tmp_path / "genotype.json").write_text(SPACE.parse("4-3").to_json())
    (standing,) = dnas.evaluate("genotype.json", latency="t.npz").latency_ms.values()
    assert standing.value == pytest.approx(whole.ms[0]) and standing.rank == 1 + (whole.ms < whole.ms[0]).sum()
    words = said(capsys, "evaluate", "genotype.json", "--latency", "t.npz").split()
    assert f"{standing.rank} of 16 Ranks:" in " ".join(words) and f"{standing.value:.4g}" in words


@pytest.mark.heavy
def test_the_page_about_it_does_what_it_says(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parent.parent / "docs" / "latency.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks.txt").write_text("4-3\n2-2\n")
    commands = [shlex.split(line) for line in re.findall(r"^    dnas (.*)$", page, re.MULTILINE)]
    assert [words[1] for words in commands] == ["runs/mine", "darts-v2", "--save", "--save"]
    for words in commands[2:]:
        said(capsys, *words, "--repetitions", "1", "--limit", "200")
    assert tables.latency_by("width.npz")(SPACE.parse("2-2")) > 0
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "page.py").write_text(code)
    runpy.run_path("page.py")
    assert len(tables.read("few.npz").ms) == 16


def test_a_table_is_written_after_each_group(tmp_path, monkeypatch):
    monkeypatch.setattr("dnas.api.latency_table.AT_ONCE", 2)
    monkeypatch.setattr("dnas.api.latency_table.compiled_run", lambda *parts: (None, 0.0))
    monkeypatch.setattr("dnas.api.latency_table.time_in_turn", lambda runs, count: np.ones((len(runs), count)))
    sizes = []
    monkeypatch.setattr("dnas.api.latency_table.write", lambda path, table: sizes.append(len(table.ms)))
    table = dnas.latency_table(SPACE, dnas.data.load("digits", limit=200), save=tmp_path / "t.npz", draws=5, progress=False)
    assert sizes == [2, 4, 5] and table.iqr_ms.tolist() == [0.0] * 5 and len({row.tobytes() for row in table.decisions}) == 5


def changed(**arrays):
    return lambda there: {**there, **arrays}


@pytest.mark.parametrize("change, message", [
    (lambda there: {"x": np.zeros(2)}, "its arrays are x; a table of `dnas latency --save` has description, decisions, ms"),
    (changed(description=np.array("{")), "description is not that of a table"),
    (changed(description=np.array('{"space": 3}')), "description is not that of a table"),
    (changed(decisions=np.zeros((2, 3), int)), "decisions is int64 [2, 3]; it must be integers [N, 2]"),
    (changed(decisions=np.array([[0, 1], [0, 9]])), "operations that an edge does not have"),
    (changed(decisions=np.array([[0, 1], [0, 1]])), "names a network more than once"),
    (changed(ms=np.array([1.0, np.nan])), "ms is float64 [2]; it must be milliseconds [2], finite and not negative"),
    (changed(ms=np.array([1.0])), "ms is float64 [1]"), (changed(iqr_ms=np.array([1.0, -1.0])), "iqr_ms is float64 [2]"),
    (changed(ms=np.array([{}, {}], object)), "pickled objects, which are never loaded")])
def test_a_table_that_is_none(tmp_path, change, message):
    path = tmp_path / "t.npz"
    tables.write(path, tables.LatencyTable("width", SPACE.options, SPACE.groups, "a device", 1, 3,
                                           np.array([[0, 1], [1, 1]], np.int32), np.ones(2), np.zeros(2)))
    with np.load(path) as file:
        there = dict(file)
    np.savez(path, **change(there))
    with pytest.raises(ValueError) as error:
        tables.latency_by(path)
    assert message in str(error.value) and str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_device_is_named_where_there_are_several(tmp_path):
    """Of the form of HELP, whose order is that of another table."""
    path, table, rows = tmp_path / "hw.npz", write_table(tmp_path / "table.npz", 20), 20
    np.savez(path, help_devices=np.array(["pixel2", "titanx_1"]), help_latency_ms=np.arange(2.0 * rows).reshape(2, rows))
    cells = tables.benchmarks.load(table)
    genotype = Genotype("nasbench201", {}, choices(cells, 1))
    assert tables.latency_by(path, "titanx_1", table=table)(genotype) == rows + 1
    for device, message in ((None, "one must be named; there are pixel2, titanx_1"),
                            ("pixel3", "has no device 'pixel3'; did you mean 'pixel2'?")):
        with pytest.raises(ValueError, match=message):
            tables.latency_by(path, device, table=table)
    with pytest.raises(ValueError, match="in the order of a table of NAS-Bench-201; name that table too"):
        tables.latency_by(path, "pixel2")
    np.savez(path, help_devices=np.array(["pixel2"]), help_latency_ms=np.ones((1, rows + 1)))
    with pytest.raises(ValueError, match="they must be of one table, row by row"):
        tables.latency_by(path, table=table)


@pytest.mark.skipif(not (EXISTING / "nb201_hw.npz").exists(), reason="DNAS_DATA has no nb201_hw.npz")
def test_latencies_of_all_cells_on_27_devices():
    latency = tables.latency_by(EXISTING / "nb201_hw.npz", "titanx_1", table=EXISTING / "nb201.npz")
    space = nasbench201((32, 32, 3), 10)
    heavy, light = (f"|{op}~0|+|{op}~0|{op}~1|+|{op}~0|{op}~1|{op}~2|" for op in ("nor_conv_3x3", "skip_connect"))
    assert latency(space.parse(heavy)) > latency(space.parse(light)) > 0
