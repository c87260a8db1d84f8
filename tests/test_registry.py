"""Names to factories, and what is public without importing jax."""

import inspect
import subprocess
import sys
from importlib import metadata

import pytest

import dnas
from dnas import config, options, registry
from dnas.methods import METHODS
from dnas.methods.darts import darts
from dnas.selection import SELECTIONS
from search_spaces import SPACES

REGISTRIES = {"space": SPACES, "method": METHODS}
EVERY = [(kind, name) for kind, found in REGISTRIES.items() for name in found]


@pytest.mark.parametrize("kind, name", EVERY)
def test_every_name(kind, name):
    factory = registry.resolve(name, kind)
    assert callable(factory) and registry.resolve(REGISTRIES[kind][name], kind) is factory
    assert len(registry.describe(name, kind)) > 20


def test_selections_that_share_a_file_have_lines_of_their_own():
    lines = [registry.describe(name, "selection") for name in SELECTIONS]
    assert len(set(lines)) == len(lines) and min(map(len, lines)) > 20
    assert "random search with a training budget" in registry.describe("halving", "selection")


@pytest.mark.parametrize("name, message", [
    ("nasbench20", "no space 'nasbench20'; did you mean 'nasbench201'\\? there are .*nasbench201"),
    ("zzz", "no space 'zzz'; there are .*nasbench201.*, and others as package.module:factory or file.py:factory"),
    ("search_spaces.nasbench201:nasbench", "has no callable 'nasbench'; did you mean 'nasbench201'"),
    ("absent_module:f", "No module named 'absent_module'; it must be package.module:factory of an installed package"),
    ("absent.py:f", "no file 'absent.py'"),
    ("broken.py:f", "broken.py:f: importing it failed with ZeroDivisionError: division by zero"),
    ("needs.py:f", "importing it failed with ModuleNotFoundError: No module named 'absent_module'")])
def test_bad_names(tmp_path, monkeypatch, name, message):
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "needs.py").write_text("import absent_module")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        registry.resolve(name, "space")


def test_entry_points(monkeypatch, tmp_path):
    (tmp_path / "foreign.py").write_text('"""A space of others."""\ndef build(): return 7\n')
    point = metadata.EntryPoint("theirs", "foreign:build", "dnas.search_spaces")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == point.group else [])
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.resolve("theirs", "space")() == 7
    assert registry.describe("theirs", "space") == "A space of others."
    with pytest.raises(ValueError, match="did you mean 'theirs'"):
        registry.locate("their", "space")
    with pytest.raises(ValueError, match="no method 'theirs'"):
        registry.locate("theirs", "method")


def test_public_names():
    assert dnas.__version__ and set(dnas.__all__) < set(dir(dnas))
    for name in dnas.__all__:
        assert getattr(dnas, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = dnas.absent


@pytest.mark.parametrize("code", [
    "import dnas, dnas.data, dnas.methods, dnas.registry, search_spaces",
    "from launch.main import main; assert main(['search', '--help']) == 0",
    "from launch.main import main; assert not any(main([k]) for k in ('spaces', 'methods', 'selections', 'datasets'))"])
def test_jax_is_not_imported(code):
    done = subprocess.run([sys.executable, "-c", f"{code}; import sys; assert 'jax' not in sys.modules"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_label_shows_what_differs_from_the_defaults_and_imports_nothing(tmp_path):
    assert config.label({"name": "darts", "lr": 0.5, "arch_every": 1}, "method") == "darts (lr 0.5)"
    (tmp_path / "mine.py").write_text("import absent\ndef f(*, n: int = 1, m: int = 2):\n    pass\ng = absent.of(f)\n")
    for name, shown in ("f", "m 3"), ("g", "n 1, m 3"), ("absent", "n 1, m 3"):
        place = f"{tmp_path}/mine.py:{name}"
        assert config.label({"name": place, "n": 1, "m": 3}, "space") == f"{place} ({shown})"
    assert config.label({"name": "absent.package:f", "n": 1}, "space") == "absent.package:f (n 1)"


def test_a_method_that_extends_another_has_the_options_of_both():
    own = registry.extends(darts, lr=0.1)(lambda method, *, beta=1.0: method.replace(arch_lr=beta))
    method = own(beta=0.5, momentum=0.8)
    assert (method.hyper["lr"], method.hyper["arch_lr"], method.hyper["momentum"]) == (0.1, 0.5, 0.8)
    assert list(inspect.signature(own).parameters)[:2] == ["beta", "lr"]
    with pytest.raises(TypeError, match="both have the option lr"):
        registry.extends(darts)(lambda method, *, lr=1.0: method)
    with pytest.raises(TypeError, match="no option mu"):
        registry.extends(darts, mu=1)


def test_options_of_an_extension_are_read_without_importing_it(tmp_path):
    place = "dnas.methods.beta_darts:beta_darts"
    spelled = options.spelled_out(place)
    assert spelled == options.from_signature(registry.load(place), place)
    assert [option.name for option in spelled[:2]] == ["beta", "lr"] and all(option.help for option in spelled)


@pytest.mark.parametrize("place, other", [("search_spaces.gpt:gpt", "search_spaces.vit:vit"),
                                          ("dnas.selection.evolution:evolution", "dnas.selection.pareto:pareto"),
                                          ("dnas.selection.predictor:predictor", "dnas.selection.pareto:pareto")])
def test_an_option_may_have_the_text_that_another_function_says(place, other):
    """Its docstring says "as for `module.function`": read with and without importing it."""
    spelled = options.spelled_out(place)
    assert spelled == options.from_signature(registry.load(place), place)
    texts = {option.name: option.help for option in options.spelled_out(other)}
    shared = [option for option in spelled if texts.get(option.name) == option.help]
    assert len(shared) >= 5 and not any("as for" in option.help for option in spelled)


JOINED = "pc-darts+beta-darts"


def test_joined_methods_are_the_first_extended_by_the_others():
    method = dnas.method(JOINED, beta=3.0, lr=0.2)
    assert method.source["name"] == JOINED and method.hyper["beta"] == 3 and method.hyper["lr"] == 0.2
    assert method.hyper["arch_warmup"] == 15, "the defaults are those of the first"
    assert "beta" in method.arch.terms and config.method_of({"method": method.source}, "", False).hyper == method.hyper


def test_options_of_joined_methods_are_read_without_importing_them():
    place = registry.locate(JOINED, "method")
    spelled = options.spelled_out(place)
    assert spelled == options.from_signature(registry.load(place), place)
    assert options.constant(place, "SPACE") == {"partial_channels": 4}


def test_a_file_of_ones_own_can_be_joined(tmp_path):
    own = tmp_path / "faster.py"
    own.write_text("from dnas.methods.darts import darts\nfrom dnas.registry import extends\n\n\n@extends(darts)\n"
                   "def faster(method, *, factor=2.0):\n    return method.replace(lr=factor * method.hyper['lr'])\n")
    method = dnas.method(f"beta-darts+{own}:faster", factor=3.0)
    assert method.hyper["lr"] == pytest.approx(0.075) and "beta" in method.arch.terms
    assert registry.is_place(method.source["name"], "method"), "it is imported only if the user named it"


@pytest.mark.parametrize("name, message", [
    ("darts+rarts", "rarts cannot follow a '\\+'"),
    ("darts+pc-darts", "darts cannot follow a '\\+': it is a method of its own"),
    ("beta-darts+beta-darts", "both have the option beta"),
    ("darts+beta", "no method 'beta'; did you mean 'beta-darts'"),
    ("darts+", "no method 'darts\\+'; did you mean 'darts'"),
])
def test_what_cannot_be_joined_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        dnas.method(name)
    if "no method" not in message:
        with pytest.raises(ValueError, match=message):
            options.read(registry.locate(name, "method"))
