"""Programs are compiled for other chips in a process of their own; what cannot be is one line. No chip is needed."""

import subprocess
from importlib.metadata import version

import jax
import jax.numpy as jnp
import pytest

import dnas
from dnas.engine import targets
from dnas.engine.hlo import Work
from dnas.engine.programs import compile_program, compiled_anew, compiler_options, listed
from dnas.engine.targets import CHIPS, CompilerFailed, Examined, chip_of, examine
from dnas.platform import current, platform
from launch.main import main

X = jax.ShapeDtypeStruct((64, 32), jnp.float32)


def step(key, state, x):
    noise = jax.random.normal(key, x.shape)
    return {"weights": state["weights"] - x.T @ (x + noise)}, jnp.sum(noise)


ARGS = jax.eval_shape(jax.random.key, 0), {"weights": jax.ShapeDtypeStruct((32, 32), jnp.float32)}, X


@pytest.fixture
def installed(monkeypatch):
    """Every compiler counts as installed."""
    monkeypatch.setattr(targets, "installed", lambda platform: True)


@pytest.fixture
def ending(monkeypatch):
    """The process that compiles ends in this way: (exit status, standard output, standard error)."""
    def end(status, out="", err=""):
        done = subprocess.CompletedProcess([], status, out.encode(), err.encode())
        monkeypatch.setattr(targets.subprocess, "run", lambda *_, **__: done)

    return end


def test_a_program_is_compiled_and_not_run():
    before = compiled_anew()
    found = examine(step, ARGS, CHIPS["cpu"])
    assert found.chip == "cpu" and found.seconds > 0 and compiled_anew() == before
    assert found.work.operations == 2 * 64 * 32 * 32 and found.work.kernels > 0
    assert found.work.bytes == found.work.device_bytes > 4 * (64 * 32 + 2 * 32 * 32)
    assert found.memory > examine(step, ARGS, CHIPS["cpu"], donate_argnums=(1,)).memory
    assert found.least_seconds() == {}


def test_its_text_is_written(tmp_path):
    found = examine(step, ARGS, CHIPS["cpu"], text=tmp_path / "program.txt")
    assert targets.hlo.work((tmp_path / "program.txt").read_text()) == found.work


def test_it_is_traced_for_the_platform_of_the_chip(ending):
    traced = []
    ending(0, '{"work": [1, 2, 3, 4], "memory": 5, "seconds": 6}')
    for chip in "h100", "v5e":
        found = examine(lambda x: (traced.append(current()), x + 1)[1], (X,), CHIPS[chip])
        assert found == Examined(chip, Work(1, 2, 3, 4), 5, 6)
    assert set(traced) == {"cuda", "tpu"}


@pytest.mark.parametrize("status, out, err, message", [
    (-6, "", "F0000 tiling.cc:627] Check failed: a == b (64 vs. 16)\n*** trace\n",
     r"for NVIDIA H100 SXM ended by SIGABRT: F0000 tiling.cc:627\] Check failed: a == b"),
    (-9, "", "", "ended by SIGKILL: it said nothing$"),
    (1, "", "Traceback\nImportError: no such thing\n", "failed: ImportError: no such thing$"),
    (0, '{"error": "OUT OF MEMORY: 29.5G of 15.75G hbm"}', "noise", "failed: OUT OF MEMORY: 29.5G of 15.75G hbm$")])
def test_a_compiler_that_fails_is_one_line(ending, status, out, err, message):
    ending(status, out, err)
    with pytest.raises(CompilerFailed, match=message):
        examine(step, ARGS, CHIPS["h100"])


def test_what_cannot_be_traced_or_exported_is_said():
    with pytest.raises(TypeError, match="dot_general requires contracting dimensions"):
        examine(lambda x: x @ x, (X,), CHIPS["cpu"])
    callback = lambda x: jax.pure_callback(lambda x: x, x, x)
    with pytest.raises(ValueError, match="JAX cannot export the program, to compile it for the CPU of this machine"):
        examine(callback, (X,), CHIPS["cpu"])


def test_the_least_time_is_of_bandwidth_launches_and_operations():
    found = Examined("h100", Work(4000, 9, int(3.352e10), int(4.945e12)), None, 1.0)
    assert found.least_seconds() == pytest.approx({"bandwidth": 0.01, "launches": 0.01, "operations": 0.01})
    assert found.least_seconds("bfloat16")["operations"] == pytest.approx(494.5 / 989.5 / 100)


@pytest.mark.parametrize("names, chip", [(("cuda",), "h100"), (("gpu",), "h100"), (("tpu", "v5e"), "v5e"),
                                         ((None, "v5e"), "v5e"), (("cpu",), "cpu")])
def test_a_chip_is_named_by_itself_or_by_its_platform(installed, names, chip):
    assert chip_of(*names) == CHIPS[chip]


@pytest.mark.parametrize("names, message", [
    (("npu",), "platform must be one of cpu, cuda, tpu, not 'npu'"),
    (("cuda", "h1000"), "chip 'h1000' is not known; those that are: cpu, h100, v5e"),
    (("cuda", "v5e"), "chip v5e is of the platform tpu, not cuda")])
def test_unknown_names_are_refused(installed, names, message):
    with pytest.raises(ValueError, match=message):
        chip_of(*names)


@pytest.mark.parametrize("name, package", [("cuda", "jax[cuda13]"), ("tpu", "jax[tpu]")])
def test_a_compiler_that_is_missing_is_named(monkeypatch, name, package):
    monkeypatch.setitem(targets.PACKAGES, name, (("no_such_module",), package))
    with pytest.raises(ValueError) as error:
        dnas.estimate("width", platform=name)
    assert str(error.value) == f"the compiler for {name} is not installed: pip install '{package}=={jax.__version__}'"


def test_options_of_the_compiler_are_by_platform_and_version():
    with platform("cuda"):
        assert compiler_options("0.10.2") == {"xla_gpu_enable_triton_gemm": False}
        assert compiler_options("0.12.0.1") == {}
    with platform("cpu"):
        assert list(compiler_options("0.12.0.1")) == ["xla_cpu_experimental_ynn_fusion_type"]
    with platform("tpu"):
        assert compiler_options() == {}


def test_programs_are_listed_in_place_of_being_compiled():
    before = compiled_anew()
    with listed() as programs:
        assert compile_program(step, ARGS, donate_argnums=[1]) is None
    assert programs == [(step, ARGS, (1,))] and compiled_anew() == before


def test_an_estimate_for_a_platform_says_what_the_step_does_there():
    data = dnas.data.load("digits", limit=80)
    space = dnas.space("width", data, channels=2, stages=1, layers=1)
    found = dnas.estimate(space, "darts", data, batch=4, platform="cpu")
    plain = dnas.estimate(space, "darts", data, batch=4)
    assert (found.weights, found.macs) == (plain.weights, plain.macs) and plain.compiled is None
    assert found.compiled.work.operations > 4 * 4 * found.macs and found.memory_bytes == found.compiled.memory
    assert found.step_seconds == {} and "on the CPU of this machine, computed" in repr(found)


COMMAND = ["estimate", "--space", "width", "--space.channels", "2", "--space.stages", "1", "--limit", "80", "--batch", "4",
           "--epochs", "12", "--platform", "cuda", "--cache", "off"]


def test_the_command_says_what_was_computed(installed, monkeypatch, capsys):
    examined = Examined("h100", Work(2000, 3 * 10**9, 3 * 10**9, 10**9), 2**30, 1.5)
    monkeypatch.setattr("dnas.api.estimate.examine", lambda *_, **__: examined)
    assert main(COMMAND) == 0
    out = capsys.readouterr().out
    for line in ("peak memory   1.0 GiB of a step, data included, of 79.1 GiB there", "kernels       2,000 a step",
                 "chip          NVIDIA H100 SXM: compiled for it and not run; all numbers below are computed, not measured",
                 "bytes         3 GB a step", "operations    1 G a step",
                 "time          at least 5 ms a step, 0.42 s for 12 epochs of 7 steps (0.89 ms for bandwidth, 5 ms for "
                 "launches)"):
        assert f"\n{line}" in out


def test_the_command_refuses_in_one_line(ending, monkeypatch, capsys):
    monkeypatch.setitem(targets.PACKAGES, "cuda", (("no_such_module",), "jax[cuda13]"))
    assert main(COMMAND) == 2
    assert capsys.readouterr() == ("", "dnas: error: the compiler for cuda is not installed: pip install "
                                   f"'jax[cuda13]=={jax.__version__}'\n")
    monkeypatch.setattr(targets, "installed", lambda platform: True)
    ending(-6, "", "Check failed: a == b")
    assert main(COMMAND) == 1
    assert capsys.readouterr().err == (f"dnas: error: the compiler of jaxlib {version('jaxlib')} for NVIDIA H100 SXM ended "
                                       "by SIGABRT: Check failed: a == b\n")
