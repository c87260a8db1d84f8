"""From data to prediction in Python alone: every step a function of `dnas`, and what each leaves can be opened again."""

import json

import numpy as np
import pytest

import dnas

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 240)
    return rng.integers(0, 128, (240, 8, 8, 1), dtype=np.uint8) + 127 * labels[:, None, None, None].astype(np.uint8), labels


@pytest.fixture(scope="module")
def walk(images, tmp_path_factory):
    """Two seeds of a search, a choice from one of them, and its network, in a folder."""
    folder = tmp_path_factory.mktemp("walk")
    np.savez(folder / "bright.npz", x=images[0], y=images[1])
    data = dnas.data.load(folder / "bright.npz")
    space, method = dnas.space("width", data, channels=4, stages=1), dnas.method("darts", arch_lr=0.01)
    runs = dnas.search(space, method, data, epochs=2, batch=16, seeds=[0, 1], out=folder / "runs", progress=False)
    choice = dnas.select(folder / "runs" / "0", "magnitude", progress=False)
    network = dnas.train(choice, epochs=2, batch=16, lr=0.05, out=folder / "net", progress=False)
    return folder, data, runs, choice, network


def test_what_a_search_returns_is_what_is_opened(walk):
    folder, data, runs, _, _ = walk
    for seed, run in enumerate(runs):
        again = dnas.open(folder / "runs" / str(seed))
        assert again.config == json.loads(json.dumps(run.config)) and again.config["seed"] == seed
        assert again.genotype == run.genotype and again.records == run.records and again.holdout == run.holdout
        assert all(again.logits[name].shape == (3, *group.shape) for name, group in run.groups.items())
        assert all((again.logits[name] == rows).all() for name, rows in run.logits.items())
        assert again.supernet.epoch == 2 and again.supernet.space.groups == run.supernet.space.groups
        for name, rows in run.gates.items():
            np.testing.assert_allclose(again.gates[name], rows, rtol=1e-6)
        assert again.results == json.loads(json.dumps(run.results))


def test_objects_show_themselves_in_a_few_lines(walk):
    _, data, runs, choice, network = walk
    for part in (data, runs[0], runs[0].supernet, runs[0].genotype, choice, network, runs[0].supernet.space,
                 runs[0].supernet.method):
        assert 10 < len(repr(part)) < 1000, type(part)
    assert "<svg" in runs[0].genotype._repr_svg_() and "<svg" in runs[0]._repr_html_() and "<svg" in network._repr_svg_()


def test_the_network_predicts_and_loads_again(walk, images):
    folder, data, _, choice, network = walk
    again = dnas.load(folder / "net")
    assert again.genotype == choice.genotype
    assert again.results["test"]["accuracy"] == network.results["test"]["accuracy"] > 0.9
    np.testing.assert_array_equal(again.predict(images[0][:5]), network.predict(images[0][:5]))
    assert again.predict(images[0]).shape == (240, 2)
    assert json.loads((folder / "net" / "config.json").read_text())["lr"] == 0.05


def test_in_memory_it_is_the_same(walk, images, tmp_path, monkeypatch):
    """Nothing is written, arrays will do, and the numbers are those of the run directories."""
    folder, data, runs, choice, network = walk
    monkeypatch.chdir(tmp_path)
    arrays = dnas.data.from_arrays("bright", *images)
    space, method = dnas.space("width", arrays, channels=4, stages=1), dnas.method("darts", arch_lr=0.01)
    run = dnas.search(space, method, arrays, epochs=2, batch=16, progress=False)
    assert run.folder is None and run.genotype == runs[0].genotype and run.holdout == runs[0].holdout
    chosen = dnas.select(run, "magnitude", progress=False)
    again = dnas.train(chosen, epochs=2, batch=16, lr=0.05, progress=False)
    assert chosen.genotype == choice.genotype and chosen.folder is None
    np.testing.assert_allclose(again.predict(images[0][:5]), network.predict(images[0][:5]), rtol=1e-5)
    assert not list(tmp_path.iterdir())


def test_arrays_and_objects_of_ones_own_are_given_again(images, tmp_path):
    """A run of parts without names says so, and opens with them."""
    from dnas.methods.darts import darts
    from tests.toy_space import toy

    arrays = dnas.data.from_arrays("bright", *images)
    space, method = toy(arrays.image, arrays.classes, channels=3), darts(lr=0.05)
    run = dnas.search(space, method, arrays, epochs=1, batch=16, out=tmp_path / "run", progress=False)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["digest"] == arrays.digest() and config["method"]["name"] == "" and config["method"]["lr"] == 0.05
    other = dnas.data.from_arrays("other", images[0][::-1], images[1])
    for parts, message in (({}, "the run's data were arrays, array:bright; pass the same data again"),
                           ({"data": arrays, "space": space}, "the method was an object without a name; pass it again"),
                           ({"data": other, "space": space, "method": method}, "other arrays than those")):
        with pytest.raises(ValueError, match=message):
            _ = dnas.open(tmp_path / "run", **parts).supernet
    again = dnas.open(tmp_path / "run", data=arrays, space=space, method=method)
    assert again.supernet.epoch == 1 and again.genotype == run.genotype
    choice = dnas.select(again, "random", progress=False)
    assert choice.folder == tmp_path / "run" / "selections" / "random"
    for what in run, again, choice:  # neither the arrays nor the space has to be given again
        network = dnas.train(what, epochs=1, batch=16, progress=False)
        assert network.genotype.space == "toy" and network.results["train_examples"] == 173
    assert dnas.train(run, space=space, epochs=1, batch=16, progress=False).genotype == run.genotype
    with pytest.raises(ValueError, match="the space toy was given as an object, whose size cannot be changed"):
        dnas.train(run, channels=8, progress=False)
    with pytest.raises(ValueError, match="holds a run of another config: digest is"):
        other = dnas.data.from_arrays("bright", images[0][::-1], images[1])
        dnas.search(space, method, other, epochs=1, batch=16, out=tmp_path / "run", progress=False)


def test_a_shipped_space_may_be_an_object(walk, tmp_path):
    """Its name and options are enough to open the run again; one of another name is given again."""
    from search_spaces.width import width
    from tests.toy_space import toy

    _, data, _, _, _ = walk
    space = width(data.image, data.classes, channels=4, stages=1)
    dnas.search(space, dnas.method("darts"), data, epochs=1, batch=16, out=tmp_path / "run", progress=False)
    again = dnas.open(tmp_path / "run").supernet.space
    assert again.groups == space.groups and again.options == space.options
    dnas.search(toy(data.image, data.classes), "darts", data, epochs=1, batch=16, out=tmp_path / "own", progress=False)
    with pytest.raises(ValueError, match="the space 'toy' is not registered here; .* pass it again .in Python space=."):
        _ = dnas.open(tmp_path / "own").supernet


def test_methods_that_differ_in_numbers_are_lanes(walk, tmp_path):
    _, data, runs, _, _ = walk
    space, method = runs[0].supernet.space, runs[0].supernet.method
    swept = dnas.search(space, [method.replace(lr=lr) for lr in (0.025, 0.1)], data, epochs=1, batch=16,
                        out=tmp_path / "sweep", progress=False)
    assert [str(run.folder.relative_to(tmp_path / "sweep")) for run in swept] == ["lr=0.025/0", "lr=0.1/0"]
    assert [run.config["method"]["lr"] for run in swept] == [0.025, 0.1]
    assert swept[0].records != swept[1].records


@pytest.mark.parametrize("call, message", [
    (lambda data: dnas.search("nasbench20", "darts", data), "no space 'nasbench20'; did you mean 'nasbench201'"),
    (lambda data: dnas.search("width", "dart", data), "no method 'dart'; did you mean 'darts'"),
    (lambda data: dnas.search("width", "darts", "digit"), "no file, folder or data set 'digit'; did you mean 'digits'"),
    (lambda data: dnas.search("width", "darts", data, epochs=0), "epochs is 0; it must be a whole number, 1 to"),
    (lambda data: dnas.search("width", "darts", data, seeds=[1, 1]), "name a seed twice"),
    (lambda data: dnas.search("width", "darts", data, seeds=0), "a search needs at least one seed"),
    (lambda data: dnas.search("width", ["darts", "darts"], data), "have the same space and method"),
    (lambda data: dnas.search(3, "darts", data), "space is int; it must be a SearchSpace, or the name of one"),
    (lambda data: dnas.search("width", 3, data), "method is int; it must be a Method, or the name of one"),
    (lambda data: dnas.search("width", "darts", data, batch=1000), "batch 1000 is larger than the train split"),
    (lambda data: dnas.search("width", "darts", data, budget=dnas.Budget(macs=-1)), "budget.macs is -1; it must be"),
    (lambda data: dnas.space("width", data, chanels=3), "space width has no option chanels; did you mean channels"),
    (lambda data: dnas.space("width", data, channels="3"), "channels is '3'; it must be a whole number"),
    (lambda data: dnas.method("darts", hypergradient="exact"), "hypergradient is 'exact'; it must be one of first-order"),
    (lambda data: dnas.search(dnas.space("width", dnas.data.load("digits")), "darts", data), "classes 10, and bright has 2"),
    (lambda data: dnas.open("absent"), "absent is not a run directory"),
    (lambda data: dnas.load("absent"), "absent does not exist"),
    (lambda data: dnas.select("absent"), "absent is not a run directory"),
    (lambda data: dnas.train("absent"), "no published genotype 'absent'"),
    (lambda data: dnas.train("darts-v2", data, preset="cifa"), "preset is 'cifa'; it must be one of quick"),
    (lambda data: dnas.train("darts-v2", data, rate=1), "training has no option rate; its options are lr"),
    (lambda data: dnas.search("width", "darts", data, budget=5), "budget is 5; it must be a Budget"),
    (lambda data: dnas.estimate("width", "darts", data, seeds=0), "seeds is 0; it must be a whole number, 1 to"),
    (lambda data: dnas.estimate("width", "dart", data), "no method 'dart'")])
def test_wrong_arguments_are_one_clear_line(walk, tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        call(walk[1])
    assert message in str(error.value) and "\n" not in str(error.value) and not list(tmp_path.iterdir())
