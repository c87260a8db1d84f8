"""Pareto fronts: dominance, encoding, predictors, NSGA-II, LINAS, evolution; on closed forms, a table and a tiny run."""

import itertools
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import dnas
from dnas import fronts
from dnas.api.architectures import Architecture, picked
from dnas.fronts.dominance import crowding, hypervolume, non_dominated, ranked
from dnas.fronts.encoding import Encoding
from dnas.fronts.evolution import by_predictor
from dnas.fronts.front import Front
from dnas.fronts.nsga2 import nsga2
from dnas.fronts.predictors import _models, _search, fit
from dnas.fronts.problem import Log, Problem, limit_of
from dnas.fronts.search import BY, rounds
from dnas.selection.select import select
from dnas.types import REMOVED, Genotype, Group, SearchSpace
from launch.main import main
from search_spaces.darts import darts

TOY = f"{Path(__file__).parent}/toy_space.py:toy"
EXISTING = Path(os.environ.get("DNAS_DATA", "absent"))
THREE = np.array([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
needs_pymoo = pytest.mark.skipif(not __import__("importlib").util.find_spec("pymoo"), reason="pymoo is not installed")


def test_hypervolume_of_known_sets():
    assert hypervolume(THREE, (2, 2)) == 3.25
    assert hypervolume(THREE[[0, 2]], (2, 2)) == 3.0
    assert hypervolume([*THREE, (1.0, 1.0)], (2, 2)) == 3.25
    assert hypervolume([*THREE, (3.0, -9.0)], (2, 2)) == 3.25 and hypervolume(np.zeros((0, 2)), (2, 2)) == 0
    assert hypervolume([(1.0,), (0.5,)], (2,)) == 1.5
    box = np.array([(0.0, 0.0, 1.0), (1.0, 1.0, 0.0)])  # two boxes, less what they share
    assert hypervolume(box, (2, 2, 2)) == 4 + 2 - 1


@needs_pymoo
def test_hypervolume_of_more_objectives_is_that_of_pymoo():
    from pymoo.indicators.hv import HV

    for objectives in 2, 3, 4:
        values = np.random.default_rng(objectives).random((30, objectives))
        np.testing.assert_allclose(hypervolume(values, np.ones(objectives)), HV(ref_point=np.ones(objectives))(values))


def test_crowding_distance_and_fronts():
    np.testing.assert_array_equal(crowding(THREE), [np.inf, 2, np.inf])
    values = np.random.default_rng(0).integers(0, 6, (60, 3)).astype(float)
    dominated = [any((other <= one).all() and (other < one).any() for other in values) for one in values]
    np.testing.assert_array_equal(non_dominated(values), ~np.array(dominated))
    assert ranked([(2, 2), (0, 1), (1, 1), (1, 0)], 3).tolist() == [1, 3, 2]


def additive(edges=6, ops=3, seed=0):
    """A space of `ops`^`edges` networks, whose cost is a sum over the edges, and a quality that is another sum."""
    group = Group(tuple((e, e + 1) for e in range(edges)), tuple(f"op{k}" for k in range(ops)))
    cost, quality = np.random.default_rng(seed).permutation(2 * edges * ops).reshape(2, edges, ops).astype(float)
    total = lambda table, genotype: float(table[np.arange(edges), genotype.decisions({"g": group})["g"]].sum())
    space = SearchSpace("additive", {}, {"g": group}, None, None, None, None, None, None, None, None)
    space = space._replace(
        genotype=lambda scores: Genotype.from_decisions(space, {"g": np.argmax(scores["g"], 1)}),
        cost=lambda genotype: {"params": 1.0, "macs": total(cost, genotype)}, format=repr)
    return space, lambda genotype: {"quality": total(quality, genotype)}


def whole(space, evaluate):
    """Quality and cost of all networks, less is better."""
    encoding = Encoding(space)
    genotypes = [encoding.genotype(vector) for vector in itertools.product(*encoding.options)]
    return np.array([(-evaluate(each)["quality"], space.cost(each)["macs"]) for each in genotypes])


@needs_pymoo
def test_nsga2_finds_the_front_of_a_space_that_can_be_listed():
    space, evaluate = additive()
    encoding = Encoding(space)
    problem, true = Problem(encoding, space.cost, {}), whole(space, evaluate)
    rng = np.random.default_rng(0)
    values = lambda vectors: np.array([(-evaluate(encoding.genotype(v))["quality"], problem.costs(v)["macs"])
                                       for v in vectors])
    seen = nsga2(problem, values, [encoding.draw(rng) for _ in range(40)], generations=40, rng=rng)
    reference = true.max(0) + 1
    assert hypervolume(list(seen.values()), reference) >= 0.99 * hypervolume(true, reference)
    assert len(seen) < 0.9 * len(true) or len(true) == len(seen)


def test_a_vector_is_canonical_and_its_features_are_of_what_is_there():
    space = darts((8, 8, 3), 10, channels=4, cells=3)
    encoding, rng = Encoding(space), np.random.default_rng(0)
    for _ in range(20):
        vector = encoding.draw(rng)
        genotype = encoding.genotype(vector)
        assert encoding.vector(genotype) == vector == encoding.canonical(vector, rng)
        assert vector.count(REMOVED) == 12  # of 28 edges 16 stay
        assert encoding.features([vector]).sum() == 16
    other = encoding.canonical((1,) * 28, rng)
    assert other.count(REMOVED) == 12 and set(other) == {1, REMOVED}
    free, fixed = encoding.options[0], {name: np.array(group.allowed) for name, group in space.groups.items()}
    fixed["normal"][0] = np.arange(len(fixed["normal"][0])) == free[1]
    narrow = Encoding(space, fixed)
    assert {narrow.draw(rng)[0] for _ in range(20)} <= {int(free[1]), REMOVED} and narrow.options[0].tolist() == [free[1]]


def test_ridge_orders_networks_of_an_additive_space_as_they_are():
    from scipy.stats import kendalltau

    space, evaluate = additive(edges=4, seed=1)
    encoding = Encoding(space)
    vectors = list(itertools.product(*encoding.options))
    labels = np.array([evaluate(encoding.genotype(vector))["quality"] for vector in vectors])
    order = np.random.default_rng(0).permutation(len(vectors))
    features, train, test = encoding.features(vectors), order[:60], order[60:]
    (_, model, grid), _ = _models()
    fitted = _search(model, {"alpha": grid["alpha"][:1]}, features[train], labels[train])
    assert kendalltau(np.round(fitted.predict(features[test])), labels[test]).statistic == 1
    predictor = fit(features[train], labels[train])
    assert kendalltau(predictor.predict(features[test]), labels[test]).statistic > 0.95 and predictor.error < 0.02
    assert fit(features[:3], labels[:3]).name == "mean" == fit(features, 0 * labels).name
    assert fit(features, 0 * labels).predict(features[:2]).tolist() == [0, 0]
    assert fit(features[train], labels[train] - labels[train].min()).error < 0.1  # a label of 0


def test_predictors_keep_the_better_of_the_two():
    """Ridge cannot know of a product of two choices; support vectors can."""
    features = np.array([[a, 1 - a, b, 1 - b] for a, b in itertools.product((0, 1), repeat=2)] * 10, float)
    assert fit(features, 5 + 4 * (features[:, 0] == features[:, 2])).name == "svr"
    assert fit(features, 5 + 4 * features[:, 0] + features[:, 2]).name in ("ridge", "svr")


@pytest.mark.parametrize("by", [pytest.param("linas", marks=needs_pymoo), "evolution", "predictor", "random"])
def test_exactly_the_promised_evaluations_none_twice_all_within_the_limits(by):
    space, evaluate = additive(edges=5)
    calls = []
    count = lambda genotype: calls.append(genotype) or evaluate(genotype)
    macs = sorted(space.cost(Encoding(space).genotype(v))["macs"] for v in itertools.product(range(3), repeat=5))
    limit = f"macs<={macs[len(macs) // 3]}"
    search = lambda: fronts.search(space, count, ["quality", "macs"], evaluations=47, by=by, limits=[limit], population=20,
                                   predicted=400, seed=3)
    front = search()
    assert len(calls) == 47 == len(set(calls)) == len(front.evaluated)
    assert max(space.cost(each)["macs"] for each in calls) <= macs[len(macs) // 3] and len(front.networks) > 0
    for each in front.networks:
        assert each.values == {**evaluate(each.genotype), **space.cost(each.genotype)}
    first, calls[:] = list(calls), []
    assert search().to_json() == front.to_json() and calls == first
    if by != "random":
        random = fronts.search(space, evaluate, ["quality", "macs"], evaluations=47, by="random", limits=[limit], seed=3)
        best = lambda front: front.networks[0].values["quality"]
        assert best(front) >= best(random)


def test_a_round_of_each_search():
    assert rounds(120, 50, "linas") == [50, 50, 20] and rounds(50, 50, "evolution") == [50]
    assert rounds(120, 50, "predictor") == [50, 50, 8, 12] and sum(rounds(7, 50, "predictor")) == 7
    assert set(BY) == {"linas", "evolution", "predictor", "random"}


@pytest.mark.parametrize("small", [0, 729])
def test_evolution_on_a_predictor_finds_the_best_network(monkeypatch, small):
    """Of 729, after 60 draws; the true best is known. Where the space is small enough, it is listed instead."""
    monkeypatch.setattr("dnas.fronts.evolution.SMALL", small)
    space, evaluate = additive(seed=2)
    encoding = Encoding(space)
    problem, rng = Problem(encoding, space.cost, {}), np.random.default_rng(0)
    vectors = list({encoding.draw(rng): None for _ in range(70)})[:60]
    labels = np.array([[-evaluate(encoding.genotype(vector))["quality"]] for vector in vectors])
    found = by_predictor(problem, Log(tuple(vectors), labels, (None,)), 5, rng, draws=60, generations=15)
    assert len(set(found)) == 5 and not set(found) & set(vectors)
    best = max(evaluate(encoding.genotype(vector))["quality"] for vector in [*vectors, *found])
    assert best == -whole(space, evaluate)[:, 0].min()


@pytest.mark.parametrize("changes, message", [
    ({"limits": ["macs<=-1"]}, "no network of space additive was found with macs<=-1; the least seen are"),
    ({"limits": ["flops<=1"]}, "there is a limit of flops, and the costs are params, macs"),
    ({"limits": ["macs<=1", "macs<=2"]}, "two limits of macs"), ({"limits": ["macs<20"]}, "must be NAME<=NUMBER"),
    ({"evaluations": 82}, "evaluations must be at most 81: space additive has no more networks"),
    ({"evaluations": 1}, "evaluations is 1; it must be 2"), ({"by": "luck"}, "by is 'luck'; it must be one of linas"),
    ({"population": 1}, "population is 1"), ({"costs": {"latency": {}}}, "there is no latency of the network"),
    ({"costs": {"latency": lambda genotype: float("nan")}}, "latency of the network .* is nan; it must be finite")])
def test_bad_input_is_told_before_anything_is_evaluated(changes, message):
    space, _ = additive(edges=4)
    with pytest.raises(ValueError, match=message):
        fronts.search(space, lambda genotype: pytest.fail("it was evaluated"), ["quality", "macs"],
                      **{"evaluations": 20, "by": "random", **changes})


def test_a_space_without_a_limit_in_reach_does_not_loop():
    """Too large to be listed, and no draw comes near the limit: the walk towards it must."""
    space, evaluate = additive(edges=16, seed=4)
    lowest = sum(min(space.cost(Encoding(space).genotype((0,) * e + (k,) + (0,) * (15 - e)))["macs"] for k in range(3))
                 for e in range(16)) - 15 * space.cost(Encoding(space).genotype((0,) * 16))["macs"]
    tight = f"macs<={1.15 * lowest}"
    front = fronts.search(space, evaluate, ["quality", "macs"], evaluations=5, by="random", limits=[tight])
    assert len(front.evaluated) == 5 and front.evaluated[:, 1].max() <= 1.15 * lowest
    with pytest.raises(ValueError, match="no network of space additive was found with macs<="):
        fronts.search(space, evaluate, ["quality", "macs"], by="random", limits=[f"macs<={lowest - 1}"])


def test_a_missing_value_and_a_mapping_of_costs():
    space, evaluate = additive(edges=3)
    encoding = Encoding(space)
    latency = {encoding.genotype(v): float(sum(v)) for v in itertools.product(range(3), repeat=3)}
    front = fronts.search(space, evaluate, ["quality", "latency"], evaluations=27, by="random", costs={"latency": latency},
                          better={"quality": -1})
    assert front.networks[0].values["quality"] == min(evaluate(each)["quality"] for each in latency)
    assert front.objectives == {"quality": -1, "latency": -1} and front.hypervolume() == 1 - 1e-9 or front.hypervolume() < 1
    with pytest.raises(ValueError, match="accuracy of the network .* is None; it must be a finite number"):
        fronts.search(space, evaluate, ["accuracy"], evaluations=3, by="random")
    with pytest.raises(ValueError, match="objectives are empty"):
        fronts.search(space, evaluate, [], evaluations=3, by="random")


def test_a_limit():
    assert limit_of(" macs <= 20e6 ") == ("macs", 20e6) and limit_of("latency<=.5") == ("latency", 0.5)
    assert [limit_of(f"macs<=1.5{unit}")[1] for unit in "kMG"] == [1.5e3, 1.5e6, 1.5e9] and limit_of("macs<=2 M")[1] == 2e6
    for text in ("macs", "macs<=", "macs<=2m", "macs<=2MB", "macs>=3", "macs<=3+4", "macs<=__import__('os')", "<=3",
                 "macs<=nan", "macs<=1e999"):
        with pytest.raises(ValueError, match=r"it must be NAME<=NUMBER|must be finite"):
            limit_of(text)


def test_a_front_goes_to_a_file_and_back():
    space, evaluate = additive(edges=3)
    front = fronts.search(space, evaluate, ["quality", "macs"], evaluations=20, by="random", limits=["macs<=1000"])
    again = Front.from_json(front.to_json())
    assert again.networks == front.networks and again.limits == {"macs": 1000.0} and again.objectives == front.objectives
    np.testing.assert_array_equal(again.evaluated, front.evaluated)
    assert again.hypervolume() == front.hypervolume() > again.hypervolume(3) > 0
    fits = sorted(each.values["macs"] for each in front.networks)[1]
    best = max((each for each in front.networks if each.values["macs"] <= fits), key=lambda each: each.values["quality"])
    assert front.pick(f"macs<={fits}") == best.genotype and front.pick() == front.networks[0].genotype
    assert front.best(f"macs<={fits}") == best
    named = front.rows([f"n{n}" for n in range(len(front.networks))], ["quality"])
    assert named[0] == ["", "quality", "macs", "params", "network"] and named[1][0] == "1" and named[1][-1] == "n0"
    assert named[1][1] == f"{100 * front.networks[0].values['quality']:.2f} %" and front.rows()[0][-1] == "params"
    for limits, message in ((["macs<=-5"], "no network of the front has macs<=-5; the least there is"),
                            (["watts<=5"], "the front says nothing of watts; it has quality, macs, params")):
        with pytest.raises(ValueError, match=message):
            front.pick(*limits)
    for change in ({"schema": 2}, {"objectives": {"quality": 3}}, {"networks": []}, {"evaluated": [[1]]}, {"limits": 3},
                   {"space": 3}, {"networks": [{"groups": {}, "values": {"quality": True}}]}):
        with pytest.raises(ValueError, match="not a front of schema 1"):
            Front.from_json(json.dumps(json.loads(front.to_json()) | change))


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = ("import sys, dnas, dnas.fronts, dnas.selection.pareto, launch.main\n"
            "print([name for name in ('jax', 'pymoo', 'sklearn', 'matplotlib') if name in sys.modules])")
    out = subprocess.run([sys.executable, "-c", code.replace(", dnas.selection.pareto", "")], capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stderr
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pymoo" not in out.stdout and "sklearn" not in out.stdout, out.stderr


def test_the_python_of_the_document(capsys):
    text = (Path(__file__).parent.parent / "docs/fronts.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    exec(code, {})
    assert "<genotype of width:" in capsys.readouterr().out


def test_a_training_says_what_the_front_says_of_the_network():
    space, evaluate = additive(edges=3)
    judge = lambda genotype: {"accuracy": 0.3942 + 0.0 * evaluate(genotype)["quality"]}
    front = fronts.search(space, judge, ["accuracy", "macs"], evaluations=20, by="random")
    data = dnas.data.load("digits", limit=60)
    run = types.SimpleNamespace(folder=None, supernet=types.SimpleNamespace(space=space, data=data))
    choice = types.SimpleNamespace(folder=Path("runs/x/selections/mine"), selection={"name": "pareto"}, front=front)
    architecture = Architecture(front.networks[0].genotype, "x", {}, {}, "x", False, search=run, choice=choice)
    macs, params = (front.networks[0].values[name] for name in ("macs", "params"))
    assert picked(architecture, "macs<=1e9").picked == f"mine: {macs:,.5g} macs, accuracy 39.42 % in the supernet"
    said = picked(architecture, "params<=1e9").picked
    assert said == f"mine: {macs:,.5g} macs, {params:,.5g} params, accuracy 39.42 % in the supernet"


# On a supernet, through the command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    dnas.search(TOY, "darts", dnas.data.load("digits", limit=200), epochs=1, batch=16, out=folder, progress=False)
    return folder


PARETO = ["--selection", "pareto", "--selection.evaluations", "12", "--selection.population", "5", "--selection.predicted",
          "100", "--cache", "off"]


@needs_pymoo
@pytest.mark.heavy
def test_the_command_finds_a_front_and_trains_a_network_of_it(run, capsys, tmp_path):
    assert main(["train", str(run), "--pick", "macs<=1e9"]) == 2
    assert "has no front; make it by `dnas select" in capsys.readouterr().err
    assert main(["select", str(run), *PARETO]) == 0
    out = capsys.readouterr().out
    assert "of 12 networks evaluated" in out and "% of the box" in out and "12 tried" in out
    assert re.search(r"\n1 +[0-9.]+ % ", out) and re.search(r"accuracy +macs +params +network\n", out)
    folder = run / "selections" / "pareto"
    assert {"front.json", "front.svg", "front.png", "genotype.json"} <= {path.name for path in folder.iterdir()}
    front = fronts.load_front(folder)
    assert front.objectives == {"accuracy": 1, "macs": -1} and len(front.evaluated) == 12
    assert dnas.load_genotype(folder) == front.networks[0].genotype
    supernet = dnas.open(run, trust=True).supernet
    context, space = supernet.context, supernet.space
    for each in front.networks:
        assert each.values["macs"] == space.cost(each.genotype)["macs"]
        score = context.score(context.state, [each.genotype.gates(space.groups)])["accuracy"]
        np.testing.assert_allclose(each.values["accuracy"], score.mean(), atol=1e-7)
    cheapest = min(front.networks, key=lambda each: each.values["macs"])
    argv = ["train", str(run), "--pick", f"macs<={cheapest.values['macs']:.0f}", "--epochs", "1", "--cache", "off"]
    capsys.readouterr()
    assert main([*argv, "--run", str(tmp_path / "net")]) == 0
    assert re.search(r"\nnetwork   .*\npick      pareto: [0-9,]+ macs, accuracy [0-9.]+ % in the supernet\n",
                     capsys.readouterr().out)
    assert dnas.load_genotype(tmp_path / "net") == cheapest.genotype
    assert main([*argv, "--selection", "pareto", "--run", str(tmp_path / "net")]) == 0  # the same training, finished before
    capsys.readouterr()
    for words, message in ((["macs<=1"], "no network of the front has macs<=1; the least there is"),
                           (["size<=1"], "the front says nothing of size"), (["macs"], "it must be NAME<=NUMBER")):
        assert main(["train", str(run), "--pick", *words]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert main(["train", str(tmp_path / "net"), "--pick", "macs<=1e9"]) == 2
    assert "takes a network of a front, and net has none" in capsys.readouterr().err
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert re.search("of 12 networks the front has [0-9]+, none of which dominates another", page)
    assert "all networks evaluated, and the front" in page
    assert main(["select", str(run), *PARETO]) == 0 and "finished before" in capsys.readouterr().out
    (folder / "front.json").write_text("{}")
    assert main(["select", str(run), *PARETO]) == 2 and "not a front of schema 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", [pytest.param("pareto", marks=needs_pymoo), "evolution", "predictor"])
def test_a_killed_selection_goes_on_bit_identically(run, tmp_path, name):
    """Killed after a step in the middle of a round, and at the end of one."""
    context = dnas.open(run, trust=True).supernet.context._replace(width=3)
    sizes = {} if name == "predictor" else {"population": 5}
    make = lambda: dnas.config.build_selection(name, {"evaluations": 13, "seed": 4, **sizes})[0]
    straight = select(make(), context, folder=tmp_path / "straight")
    calls = []

    class Killed(Exception):
        pass

    def score(state, masks, *args):
        calls.append(len(masks))
        if len(calls) in (2, 4):
            raise Killed
        return context.score(state, masks, *args)

    for _ in range(2):
        with pytest.raises(Killed):
            select(make(), context._replace(score=score), folder=tmp_path / "killed")
    again = select(make(), context._replace(score=score), folder=tmp_path / "killed")
    assert again.genotype == straight.genotype and (name == "pareto") == bool(straight.front)
    assert not straight.front or again.front.to_json() == straight.front.to_json()
    for key, values in straight.scores.items():
        np.testing.assert_array_equal(again.scores[key], values)
    rows = np.concatenate([straight.scores[f"tried/{group}"] for group in context.space.groups], 1)
    assert len(np.unique(rows, axis=0)) == 13 and straight.cost["evaluations"] == 13 * context.examples
    assert sum(calls) == 13 + calls[1] + calls[3]  # no others are evaluated again


@pytest.mark.parametrize("words, message", [
    (["--selection", "pareto", "--selection.objectives", "macs", "params"], "objectives must have accuracy"),
    (["--selection", "pareto", "--selection.objectives", "accuracy", "latency"], "'latency', which needs its file"),
    (["--selection", "pareto", "--selection.objectives", "accuracy"], "they must be two or more, each once"),
    (["--selection", "pareto", "--selection.evaluations", "17"], "evaluations must be at most 16: space toy has no more"),
    (["--selection", "evolution", "--selection.limit", "macs<=1"], "no network of space toy was found with macs<=1"),
    (["--selection", "evolution", "--selection.limit", "macs=1"], "must be NAME<=NUMBER"),
    (["--selection", "predictor", "--selection.device", "phone"], "device needs latency, the file that it is of")])
def test_bad_options_are_one_line_and_write_nothing(run, capsys, words, message):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["select", str(run), *words, "--cache", "off"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(not __import__("importlib").util.find_spec("dnas.tabular.latency"), reason="there are no latency tables")
def test_latencies_of_a_file_are_an_objective_and_a_limit(run, tmp_path, capsys):
    from dnas.tabular import latency

    space = dnas.open(run, trust=True).supernet.space
    decisions = np.array(list(itertools.product(range(4), repeat=2)), np.int32)
    table = latency.LatencyTable("toy", dict(space.options), dict(space.groups), "a device", 1, 1, decisions,
                                 1.0 + decisions.sum(1), np.zeros(16))
    latency.write(tmp_path / "l.npz", table)
    argv = ["select", str(run), "--selection", "evolution", "--selection.evaluations", "6", "--selection.latency",
            str(tmp_path / "l.npz"), "--selection.limit", "latency<=3", "--cache", "off"]
    assert main([*argv, "--out", str(tmp_path / "choice")]) == 0
    assert latency.latency_by(tmp_path / "l.npz")(dnas.load_genotype(tmp_path / "choice")) <= 3
    assert main([*argv[:4], "--selection.latency", str(tmp_path / "absent.npz")]) == 2
    assert "absent.npz" in capsys.readouterr().err


# On a table alone


@needs_pymoo
@pytest.mark.skipif(not (EXISTING / "nb201.npz").exists(), reason="DNAS_DATA has no nb201.npz")
def test_a_table_has_a_front(capsys, tmp_path):
    argv = ["front", str(EXISTING / "nb201.npz"), "--evaluations", "60", "--population", "30", "--predicted", "300"]
    assert main([*argv, "--limit", "macs<=60e6", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "of 60 networks evaluated with macs<=60000000" in out and "|nor_conv" in out
    front = fronts.load_front(tmp_path / "out")
    assert front.evaluated[:, 1].max() <= 60e6 and list(front.objectives) == ["cifar10_valid_12", "macs"]
    assert (tmp_path / "out" / "front.svg").exists()
    for words, message in ((["--out", str(tmp_path / "out")], "has a front"),
                           (["--objectives", "cifar10_test_200", "macs"], "test columns are for reports"),
                           (["--objectives", "cifar10_valid", "macs"], "objectives have 'cifar10_valid'; there are"),
                           (["--out", str(tmp_path / "out" / "front.svg")], "front.svg is a file; out must be a folder")):
        assert main([*argv, *words]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    one = ["--objectives", "cifar10_valid_12", "--by", "random", "--out", str(tmp_path / "one")]
    assert main([*argv, *one]) == 0 and len(fronts.load_front(tmp_path / "one").networks) == 1
    assert not (tmp_path / "one" / "front.svg").exists()  # which needs two axes
