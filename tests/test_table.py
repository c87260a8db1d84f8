"""Tables of NAS-Bench-201: reading, looking up, importing, and what `dnas evaluate` and `dnas table` say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dnas
from dnas.tabular import nats
from dnas.tabular import table as tables
from dnas.tabular.benchmarks import load
from dnas.tabular.nasbench201 import BENCHMARK, latencies
from dnas.tabular.nats import from_api
from dnas.types import Choice, Genotype
from launch import table as command
from launch.main import main
from search_spaces import nasbench201 as space_file
from tests.toy_space import toy

REAL = Path(os.environ.get("DNAS_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(not (REAL / "nb201.npz").is_file(), reason="DNAS_DATA names no folder with nb201.npz")
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
SPACE = space_file.nasbench201(channels=4)
OPS = np.random.default_rng(0).permutation(np.indices((5,) * 6).reshape(6, -1).T).astype(np.uint8)


def string(ops):
    return "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*(BENCHMARK.ops[k] for k in ops))


def write(path, n=BENCHMARK.size, **changes):
    """A table of the first n cells of OPS; a change to None leaves an array out."""
    ops = OPS[:n]
    arrays = {"ops": ops, "code": ops @ BENCHMARK.places, "cifar10_test_200": np.linspace(0, 100, n, dtype=np.float32),
              "train_loss_12_first10_cifar10": np.arange(10.0)} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("table") / "table.npz")


@pytest.fixture
def said(capsys):
    def run(*argv):
        capsys.readouterr()
        return main([str(word) for word in argv]), *capsys.readouterr()
    return run


def refused(said, *argv, written=False):
    code, out, err = said(*argv)
    assert code == 2 and bool(out) == written and err.startswith("dnas: error: ") and err.count("\n") == 1
    return err


def test_it_agrees_with_the_space():
    assert BENCHMARK.ops == space_file.OPS and BENCHMARK.edges == space_file.EDGES and SPACE.name == BENCHMARK.space
    assert list(SPACE.groups) == [BENCHMARK.group]


def test_rows_genotypes_and_strings_are_the_same_cells(whole):
    table = load(whole)
    for row in range(0, len(OPS), 97):
        genotype = SPACE.parse(string(OPS[row]))
        assert tables.index(table, genotype) == row
        assert tables.choices(table, row) == genotype.choices
        assert SPACE.format(Genotype("nasbench201", {}, tables.choices(table, row))) == string(OPS[row])


def test_the_order_of_op_names_is_the_file_s(tmp_path):
    order = np.array([3, 0, 4, 1, 2])
    ops = order.argsort()[OPS]
    path = write(tmp_path / "t.npz", ops=ops, code=ops @ BENCHMARK.places, op_names=np.array(BENCHMARK.ops)[order])
    table = load(path)
    assert all(tables.index(table, SPACE.parse(string(OPS[row]))) == row for row in range(0, len(OPS), 997))


def test_an_edge_that_is_left_out_counts_as_none(whole):
    table = load(whole)
    genotype = Genotype("nasbench201", {}, {"cell": (Choice(0, 3, "skip_connect"),)})
    assert OPS[tables.index(table, genotype)].tolist() == [0, 0, 0, 1, 0, 0]
    assert OPS[tables.index(table, Genotype("nasbench201", {}, {"cell": ()}))].tolist() == [0] * 6


@pytest.mark.parametrize("space, choices, message", [
    ("darts", {"cell": ()}, "space 'darts'"), ("nasbench201", {"normal": ()}, "has groups"),
    ("nasbench201", {"cell": (Choice(0, 4, "none"),)}, "edge 0->4"),
    ("nasbench201", {"cell": (Choice(0, 1, "sep_conv"),)}, "'sep_conv' on edge 0->1"),
    ("nasbench201", {"cell": (Choice(0, 1, "none"),) * 2}, "twice")])
def test_genotypes_of_something_else(whole, space, choices, message):
    with pytest.raises(ValueError, match=message):
        tables.index(load(whole), Genotype(space, {}, choices))


def test_a_part_of_the_cells(tmp_path):
    table = load(write(tmp_path / "t.npz", n=20))
    assert tables.index(table, SPACE.parse(string(OPS[19]))) == 19
    with pytest.raises(ValueError, match="has 20 of the 15625 networks"):
        tables.index(table, SPACE.parse(string(OPS[20])))
    for row in (-1, 20):
        with pytest.raises(ValueError, match="its rows are 0 to 19"):
            tables.row_values(table, row)


def test_row_values_leaves_out_what_is_unknown(whole):
    table = load(whole)
    assert tables.row_values(table, 9) == {"cifar10_test_200": pytest.approx(900 / (len(OPS) - 1)),
                                           "train_loss_12_first10_cifar10": 9}
    assert set(tables.row_values(table, 10)) == {"cifar10_test_200"}
    assert tables.evaluator(table)(SPACE.parse(string(OPS[9]))) == tables.row_values(table, 9)


def test_ranks_ties_and_regret(tmp_path):
    accuracies = np.array([50, 90, np.nan, 90, 70.5], np.float32)
    table = load(write(tmp_path / "t.npz", n=5, cifar10_test_200=None, cifar100_valid_12=accuracies,
                                 flops_cifar10=np.array([3, 1, 1, 2, 5]), train_loss_12_first10_cifar10=None,
                                 train_acc_12_first2_cifar10=np.array([10.0, 20])))
    rows = [tables.standings(table, row) for row in range(5)]
    assert [row.get("cifar100_valid_12") for row in rows] == [
        (50, 4, 4, 40), (90, 1, 4, 0), None, (90, 1, 4, 0), (70.5, 3, 4, 19.5)]
    assert [row["flops_cifar10"][1:] for row in rows] == [(4, 5, None), (1, 5, None), (1, 5, None), (3, 5, None),
                                                          (5, 5, None)]
    assert [row.get("train_acc_12_first2_cifar10") for row in rows][:3] == [(10, 2, 2, 10), (20, 1, 2, 0), None]


def test_what_a_column_measures():
    assert tables.accuracy("cifar10_test_200") == ("cifar10", "test", 200)
    assert tables.accuracy("imagenet16_valid_12") == ("imagenet16", "valid", 12)
    assert tables.accuracy("train_acc_12_cifar10") is tables.accuracy("params_cifar10") is None


@pytest.mark.parametrize("changes, message", [
    ({"ops": None}, "no array ops; it has code, cifar10_test_200"),
    ({"ops": OPS.astype(float)}, "ops is float64"), ({"ops": OPS[:, :5]}, "ops is uint8 [15625, 5]"),
    ({"ops": OPS[:0]}, "ops is uint8 [0, 6]"), ({"ops": OPS + 1}, "ops has 1 to 5"),
    ({"ops": OPS.astype(int) - 1}, "ops has -1 to 3"), ({"code": np.arange(len(OPS))}, "code does not fit ops"),
    ({"code": np.array("text")}, "code does not fit ops"), ({"code": np.arange(3)}, "code does not fit ops"),
    ({"ops": OPS[[0, 0]], "code": OPS[[0, 0]] @ BENCHMARK.places}, "1 networks more than once"),
    ({"op_names": np.array(["a", "b"])}, "op_names is a, b"), ({"op_names": np.arange(5)}, "op_names is 0, 1"),
    ({"cifar10_test_200": np.zeros(7)}, "column cifar10_test_200 is float64 [7]; it must be numbers [15625]"),
    ({"cifar10_test_200": np.zeros((len(OPS), 2))}, "cifar10_test_200 is float64 [15625, 2]"),
    ({"cifar10_test_200": np.full(len(OPS), "x")}, "cifar10_test_200 is <U1"),
    ({"cifar10_test_200": np.full(len(OPS), 101.0)}, "cifar10_test_200 has 101 to 101; accuracies must be 0 to 100"),
    ({"flops_cifar10": np.full(len(OPS), -1)}, "flops_cifar10 has -1 to -1"),
    ({"flops_cifar10": np.full(len(OPS), np.inf)}, "flops_cifar10 has inf to inf"),
    ({"train_loss_12_first10_cifar10": np.zeros(len(OPS))}, "it must be numbers [10]"),
    ({"x": np.array([{}], object)}, "array x holds pickled objects, which are never loaded")])
def test_malformed_arrays(tmp_path, changes, message):
    path = write(tmp_path / "t.npz", **changes)
    with pytest.raises(ValueError) as error:
        load(path)
    assert message in str(error.value) and str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_malformed_files(tmp_path, whole):
    good = whole.read_bytes()
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes(good[:len(good) // 2])
    (tmp_path / "flipped.npz").write_bytes(good[:5000] + bytes(100) + good[5100:])
    np.save(tmp_path / "one.npy", OPS)
    np.savez(tmp_path / "none.npz")
    for name in ("absent.npz", "text.npz", "empty.npz", "cut.npz", "flipped.npz", "one.npy", "none.npz", "."):
        for read in (load, latencies):
            with pytest.raises(ValueError) as error:
                read(tmp_path / name)
            assert "\n" not in str(error.value) and "allow_pickle" not in str(error.value)


def write_latencies(path, **changes):
    arrays = {"help_devices": np.array(["phone", "board"]), "help_latency_ms": np.ones((2, len(OPS)), np.float32),
              "help_embedding_index": np.arange(10)}
    arrays["help_latency_ms"][0, 5] = 0.5
    np.savez(path, **arrays | changes)
    return path


@pytest.mark.parametrize("changes, message", [
    ({"help_devices": np.arange(2)}, "help_devices is int64"), ({"help_devices": np.array(["a", "a"])}, "different names"),
    ({"help_latency_ms": np.ones((3, 9))}, "it must be floats [2, N]"), ({"help_latency_ms": np.ones(9)}, "must be floats"),
    ({"help_latency_ms": -np.ones((2, 9))}, "negative or not finite")])
def test_malformed_latencies(tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        latencies(write_latencies(tmp_path / "l.npz", **changes))
    assert message in str(error.value)


@needs_data
def test_published_numbers():
    table = load(REAL / "nb201.npz")
    best, skips = (tables.index(table, SPACE.parse(text)) for text in (BEST, SKIPS))
    assert (best, skips) == (6111, 1835)
    found = tables.standings(table, best)
    assert found["cifar10_test_200"] == (pytest.approx(94.3733, abs=1e-4), 1, 15625, 0)
    assert tables.row_values(table, skips)["cifar10_test_200"] == pytest.approx(54.297, abs=1e-3)
    assert not any("first1000" in name for name in found)
    assert "train_loss_12_first1000_cifar10" in tables.row_values(table, 999)
    assert len(tables.row_values(table, 999)) == len(table.columns) == 22
    with np.load(REAL / "nb201.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(table.rows, arrays["code_to_index"])
    devices, ms = latencies(REAL / "nb201_hw.npz")
    assert len(devices) == 27 and "raspi4" in devices and ms.shape == (27, 15625)


@needs_data
@pytest.mark.parametrize("data, row", [("cifar100", 0), ("imagenet16", 1835)])
def test_the_table_s_sizes_are_the_space_s(data, row):
    table = load(REAL / "nb201.npz")
    found, (image, classes) = tables.row_values(table, row), BENCHMARK.data[data]
    cost = space_file.nasbench201(image, classes, **BENCHMARK.skeleton).cost(
        Genotype("nasbench201", {}, tables.choices(table, row)))
    assert cost == {"params": found[f"params_{data}"], "macs": found[f"flops_{data}"]}


class Api:
    """The methods and keys of nats_bench 1.8's NATStopology in fast mode, which keeps what it has read."""

    def __init__(self, n=BENCHMARK.size, odd=lambda index, dataset, hp: None):
        self.n, self.odd, self.arch2infos_dict, self.most = n, odd, {}, 0

    def __len__(self):
        return self.n

    def arch(self, index):
        return string(OPS[index])

    def get_more_info(self, index, dataset, iepoch=None, hp="12", is_random=True):
        assert is_random is False and iepoch is None and isinstance(hp, str)
        self.arch2infos_dict[index] = {}
        self.most = max(self.most, len(self.arch2infos_dict))
        if self.odd(index, dataset, hp) is KeyError:
            raise KeyError(dataset)
        value = index % 7 + {"cifar10-valid": 10, "cifar10": 20, "cifar100": 30, "ImageNet16-120": 40}[dataset]
        value += 40 * (hp == "200")
        info = {"train-loss": 0.1, "train-accuracy": value + 0.5, "train-per-time": 1.0, "train-all-time": float(hp),
                "comment": "In this dict, ...", "test-loss": 1.0, "test-accuracy": value + 0.25}
        if dataset != "cifar10":
            info |= {"valid-loss": 1.0, "valid-accuracy": float(value), "valtest-accuracy": 1.0}
        if self.odd(index, dataset, hp) is None:
            return info
        return info | {"test-accuracy": self.odd(index, dataset, hp), "train-all-time": None}

    def get_cost_info(self, index, dataset, hp="12"):
        right = hp == "12"
        return {"flops": 113.95137 if right else 1.0, "params": 0.802426 if right else 0.64, "latency": None,
                "T-train@epoch": None, "T-train@total": None}


def test_import_round_trip(tmp_path):
    api, done = Api(), []
    arrays = from_api(api, 50, space_file.from_string, done.append)
    assert done == list(range(1, 51)) and api.most == 1
    np.savez(tmp_path / "t.npz", **arrays)
    table = load(tmp_path / "t.npz")
    np.testing.assert_array_equal(table.ops, OPS[:50])
    np.testing.assert_array_equal(table.rows, arrays["code_to_index"])
    assert tables.index(table, SPACE.parse(string(OPS[49]))) == 49
    found = tables.row_values(table, 3)
    assert found == {
        "cifar10_valid_200": 53, "cifar10_test_200": 63.25, "cifar100_valid_200": 73, "cifar100_test_200": 73.25,
        "imagenet16_valid_200": 83, "imagenet16_test_200": 83.25,
        "cifar10_valid_12": 13, "cifar10_test_12": 23.25, "cifar100_valid_12": 33, "cifar100_test_12": 33.25,
        "imagenet16_valid_12": 43, "imagenet16_test_12": 43.25,
        **{f"params_{data}": 802426 for data in BENCHMARK.data}, **{f"flops_{data}": 113951370 for data in BENCHMARK.data},
        **{f"train_loss_12_{data}": 0.1 for data in BENCHMARK.data},
        **{f"train_seconds_12_{data}": 12 for data in BENCHMARK.data},
        "train_acc_12_cifar10": 23.5, "train_acc_12_cifar100": 33.5, "train_acc_12_imagenet16": 43.5}


def test_import_without_some_results(tmp_path):
    def odd(index, dataset, hp):
        if dataset == "cifar100" and hp == "200":
            return KeyError
        return float("nan") if (index, dataset, hp) == (3, "cifar10", "12") else None

    np.savez(tmp_path / "t.npz", **from_api(Api(odd=odd), 5, space_file.from_string))
    table = load(tmp_path / "t.npz")
    assert not any(name.startswith("cifar100") and name.endswith("200") for name in table.columns)
    assert {"cifar10_test_12", "train_seconds_12_cifar10"} == table.columns.keys() - tables.row_values(table, 3).keys()


def test_import_of_another_space_s_api():
    api = Api()
    api.arch = lambda index: "64:64:32:8:8"
    with pytest.raises(ValueError, match="not a NAS-Bench-201 cell"):
        from_api(api, 5, space_file.from_string)


def test_import_from_the_real_api():
    package = pytest.importorskip("nats_bench", reason="nats_bench is not installed")
    strings = [string(row) for row in OPS[:3]]
    splits = {"cifar10-valid": ("x-valid", "ori-test"), "cifar10": ("ori-test",),
              "cifar100": ("x-valid", "x-test", "ori-test"), "ImageNet16-120": ("x-valid", "x-test", "ori-test")}

    def results(index, epochs, seeds):
        found = package.ArchResults(index, strings[index])
        for data, names in splits.items():
            for seed in seeds:
                curve = {epoch: float(epoch % 50 + seed + index) for epoch in range(epochs)}
                result = package.ResultsCount(data, None, curve, curve, 0.5, 7.25, {}, seed, epochs, None)
                result.update_train_info(curve, curve, curve, curve)
                for k, name in enumerate(names):
                    shifted = {f"{name}@{epoch}": value + 10 * k for epoch, value in curve.items()}
                    result.update_eval(shifted, shifted, shifted)
                found.update(data, seed, result)
        return found.state_dict()

    infos = {k: {"12": results(k, 12, [1]), "200": results(k, 200, [1, 3])} for k in range(3)}
    api = package.create({"meta_archs": strings, "arch2infos": infos, "evaluated_indexes": [0, 1, 2]}, "tss", verbose=False)
    arrays = from_api(api, 3, space_file.from_string)
    assert arrays["cifar10_valid_12"].tolist() == [12, 13, 14] and arrays["cifar100_test_12"].tolist() == [22, 23, 24]
    assert arrays["cifar10_test_200"].tolist() == [51, 52, 53] and arrays["imagenet16_test_200"].tolist() == [61, 62, 63]
    assert arrays["params_cifar100"].tolist() == [500_000] * 3 and arrays["flops_cifar10"].tolist() == [7_250_000] * 3
    assert len(arrays) == 4 + 27


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A folder that looks like the official one, and a nats_bench that answers from Api."""
    folder = tmp_path / "NATS-tss-v1_0-3ffb9-simple"
    folder.mkdir()
    (folder / "meta.pickle.pbz2").write_bytes(b"")
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(command, "_opened", lambda source: Api())
    monkeypatch.setattr(nats, "_numbers", lambda api, row: {"cifar10_test_200": row / 200})
    return folder


def test_table_import(said, official, tmp_path):
    out = tmp_path / "table.npz"
    code, text, err = said("table", "import", official, "--out", out)
    assert code == 0 and not err and "15,625 networks, 1 columns" in text and "read       15,000 cells" in text
    np.testing.assert_array_equal(load(out).ops, OPS)
    before = out.read_bytes()
    assert "exists; remove it" in refused(said, "table", "import", official, "--out", out)
    assert out.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == [official.name, "table.npz"]


@pytest.mark.parametrize("argv, message", [
    (["exprot"], "dnas table has no 'exprot'; it has import"), (["imprt"], "did you mean 'import'?"),
    (["import"], "PATH is missing"), (["import", "x"], "--out FILE.npz is missing"),
    (["import", "x", "--out", "t.npy"], "must end in .npz"),
    (["import", "x", "--out", "absent/t.npz"], "there is no folder"), (["import", "absent", "--out", "t.npz"], "no such"),
    (["import", "nats.tar", "--out", "t.npz"], "tar -xf"), (["import", ".", "--out", "t.npz"], "no meta.pickle.pbz2"),
    (["import", "x", "--outt", "t.npz"], "--out")])
def test_table_import_refuses(said, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(said, "table", *argv)
    assert not list(tmp_path.iterdir())


def test_table_import_without_the_package_or_with_bad_files(said, official, tmp_path, monkeypatch):
    argv = ["table", "import", official, "--out", tmp_path / "t.npz"]
    monkeypatch.setattr(command, "_opened", lambda source: Api(n=3))
    assert "it has 3 architectures" in refused(said, *argv)

    def broken(source):
        raise EOFError("Compressed file ended")

    monkeypatch.setattr(command, "_opened", broken)
    assert "EOFError: Compressed file ended); give the official files" in refused(said, *argv)
    monkeypatch.setattr(command, "_opened", lambda source: Api())
    monkeypatch.setattr(nats, "_numbers", lambda api, row: {"cifar10_test_200": 101.0})
    said_so = refused(said, *argv, written=True)
    assert "what was read: column cifar10_test_200 has 101 to 101" in said_so
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'dnas[nats]'" in refused(said, *argv)
    assert not (tmp_path / "t.npz").exists()


def test_evaluate_a_string(said, whole, tmp_path):
    code, out, err = said("evaluate", string(OPS[5]), "--table", whole, "--latency", write_latencies(tmp_path / "l.npz"),
                          "--json", tmp_path / "e.json")
    assert code == 0 and not err and "row 5 of 15,625" in out and "searched   " not in out
    words = " ".join(out.split())
    for part in ("cifar10 test 200 0.03 15,620 of 15,625 99.97", "train_loss_12_first10_cifar10 5 6 of 10",
                 "phone 0.5 1 of 15,625", "board 1 1 of 15,625", "networks with 16 channels, 5 cells"):
        assert part in words
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["cell"] == found["source"] == string(OPS[5]) and found["table"]["row"] == 5
    assert found["table"]["columns"]["cifar10_test_200"]["rank"] == 15620
    assert found["latency_ms"]["phone"] == {"value": 0.5, "rank": 1, "of": 15625, "regret": None}
    assert found["published"]["channels"] == 16 and found["published"]["size"]["cifar10"]["params"] > 70_000


def test_evaluate_takes_sizes_from_the_table(said, tmp_path):
    n = len(OPS)
    path = write(tmp_path / "t.npz", params_cifar10=np.full(n, 1234), flops_cifar10=np.full(n, 5678))
    code, out, _ = said("evaluate", SKIPS, "--table", path)
    words = " ".join(out.split())
    assert code == 0 and "cifar10 1,234 parameters, 5,678 multiply-adds" in words
    assert "imagenet16 80,456 parameters" in words


def test_evaluate_a_run_without_a_table(said, tmp_path):
    (tmp_path / "genotype.json").write_text(SPACE.parse(SKIPS).to_json())
    outputs = [said("evaluate", path) for path in (tmp_path, tmp_path / "genotype.json")]
    assert outputs[0] == outputs[1] and outputs[0][0] == 0
    assert SKIPS in outputs[0][1] and "searched   nasbench201 (image [32, 32, 3], classes 10, channels 4," in outputs[0][1]
    assert "cifar10 73,306 parameters" in " ".join(outputs[0][1].split()) and "regret" not in outputs[0][1]


def test_evaluate_another_space_without_a_table(said, whole, tmp_path):
    from search_spaces.robust_darts import s2

    space = s2(channels=4, cells=3)
    genotype = space.genotype({name: -np.indices(group.shape)[1] for name, group in space.groups.items()})
    (tmp_path / "genotype.json").write_text(genotype.to_json())
    code, out, _ = said("evaluate", tmp_path)
    assert code == 0 and f"{space.cost(genotype)['params']:,} parameters" in out and "published" not in out
    assert "is of space 's2'" in refused(said, "evaluate", tmp_path, "--table", whole)


@pytest.mark.parametrize("argv, message", [
    (["absent"], "a NAS-Bench-201 cell '|op~0|+|...|' in quotes"), (["|none~0|"], "not a NAS-Bench-201 cell"),
    ([SKIPS.replace("skip_connect", "sep_conv")], "'sep_conv' is not an operation"), ([], "RUN|GENOTYPE|STRING is missing"),
    ([SKIPS, "--table", "absent.npz"], "absent.npz: there is no such file"),
    ([SKIPS, "--latency", "l.npz"], "name that table too"), ([SKIPS, "--json", "no/e.json"], "a folder that exists"),
    ([SKIPS, "--json", "."], "a folder that exists"), (["genotype.json", "--json", "genotype.json"], "would replace"),
    ([".", "--json", "genotype.json"], "would replace"), (["genotype.json"], "of space 'file.py:f'"),
    (["odd.json"], "build no nasbench201"), (["text.json"], "not valid JSON"), ([SKIPS, "--tabel", "x"], "--table")])
def test_evaluate_refuses(said, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.py").write_text("raise SystemExit('imported')")
    (tmp_path / "genotype.json").write_text(Genotype("file.py:f", {}, {"cell": ()}).to_json())
    (tmp_path / "odd.json").write_text(Genotype("nasbench201", {"image": 3}, {"cell": ()}).to_json())
    (tmp_path / "text.json").write_text("hello")
    write_latencies(tmp_path / "l.npz")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert message in refused(said, "evaluate", *argv)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_evaluate_in_python(whole, tmp_path):
    cell = string(OPS[5])
    found = dnas.evaluate(cell, table=whole, latency=write_latencies(tmp_path / "l.npz"))
    assert (found.space, found.cell, found.searched, found.options) == ("nasbench201", cell, None, None)
    assert found.table["columns"]["cifar10_test_200"].rank == 15620 and found.latency_ms["phone"].value == 0.5
    assert 2 < len(repr(found).splitlines()) < 8 and f"row 5 of the 15,625 of {whole}" in repr(found)
    assert json.loads(found.to_json())["table"]["columns"]["cifar10_test_200"]["of"] == 15625
    again = dnas.evaluate(SPACE.parse(cell))
    assert again.searched == SPACE.cost(SPACE.parse(cell)) and again.options["channels"] == 4 and again.table is None
    assert again.published == found.published and json.loads(again.to_json()).keys().isdisjoint({"table", "latency_ms"})


def test_evaluate_a_run_and_a_published_name(run, monkeypatch):
    network = dnas.load(run)
    monkeypatch.setattr("dnas.registry._file_module", lambda place, where: pytest.fail(f"{place} was imported"))
    for what in run, str(run), dnas.open(run):
        assert dnas.evaluate(what).searched == network.space.cost(network.genotype)
    found = dnas.evaluate("darts-v2")
    assert found.space == "darts" and "sep_conv_3x3" in found.cell and found.published is None
    for what in 5, None:
        with pytest.raises(ValueError, match="is not an architecture; it must be a run"):
            dnas.evaluate(what)


def test_evaluate_a_search_in_memory_of_ones_own_space():
    """Its space is at hand, so that nothing is imported for it."""
    space = toy((8, 8, 1), 10)
    data = dnas.data.load("digits", limit=200)
    run = dnas.search(space, "darts", data, epochs=1, batch=16, progress=False)
    for what in run, dnas.select(run, "magnitude", progress=False):
        assert dnas.evaluate(what).searched == space.cost(run.genotype)
    with pytest.raises(ValueError, match="of space 'toy', which is not one of"):
        dnas.evaluate(run.genotype)


def test_evaluate_refuses_tables_that_do_not_go_together(said, whole, tmp_path):
    latency = write_latencies(tmp_path / "l.npz", help_latency_ms=np.ones((2, 9)))
    assert "9 cells" in refused(said, "evaluate", SKIPS, "--table", whole, "--latency", latency)
    assert "no array ops" in refused(said, "evaluate", SKIPS, "--table", latency)


@pytest.mark.parametrize("argv", [["evaluate", "--help"], ["table", "import", "--help"], ["table", "--help"]])
def test_help_imports_no_jax(argv):
    code = f"import sys; from launch.main import main; assert main({argv}) == 0; assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0 and "NATS" in done.stdout or "Show the size of a network" in done.stdout
