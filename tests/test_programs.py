"""Programs are compiled once a process and traced once a cache folder; and never is one taken for another."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.engine import programs, traced
from dnas.engine.programs import compile_program, start_compiling
from dnas.platform import platform

KEY = {"space": {"name": "toy", "channels": 4}, "method": ["darts", 1]}
ROOT = Path(__file__).parent.parent


class State(NamedTuple):
    step: jax.Array
    weights: dict


class Other(NamedTuple):
    value: jax.Array


@pytest.fixture
def folder(tmp_path):
    """A cache folder in force; and every program forgotten, as in a new process."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    programs._programs.clear()
    yield tmp_path / "traced"
    jax.config.update("jax_compilation_cache_dir", before)
    programs._programs.clear()


@pytest.fixture
def counted():
    """A step that counts how often it is traced: custom derivative, random numbers, a loop, a NamedTuple, donation."""
    @jax.custom_vjp
    def twice(x):
        return 2 * x

    twice.defvjp(lambda x: (2 * x, None), lambda _, g: (3 * g,))

    def step(key, state, x):
        step.traces += 1
        noise = jax.random.normal(jax.random.fold_in(key, state.step), x.shape)
        gradient = jax.grad(lambda w: (twice(w) * (x + noise)).sum())(state.weights["w"])
        moved = jax.lax.fori_loop(0, 3, lambda _, w: w - 0.1 * gradient, state.weights["w"])
        return State(state.step + 1, {"w": moved}), {"norm": jnp.abs(gradient).sum()}

    step.traces = 0
    return step


def arguments():
    return jax.random.key(3), State(jnp.int32(2), {"w": jnp.arange(4.0)}), jnp.linspace(0, 1, 4)


def anew(function):
    """As in a new process: no program is remembered, and JAX has not traced the function before."""
    programs._programs.clear()
    return functools.wraps(function)(lambda *args: function(*args))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(one, other)


def test_a_program_read_from_its_file_is_the_one_that_was_traced(folder, counted):
    direct = compile_program(anew(counted), arguments(), donate_argnums=(1,))(*arguments())
    traces = counted.traces
    first = compile_program(anew(counted), arguments(), key=KEY, donate_argnums=(1,))(*arguments())
    assert counted.traces == traces + 1
    program = compile_program(anew(counted), arguments(), key=KEY, donate_argnums=(1,))
    assert counted.traces == traces + 1
    key, state, x = arguments()
    same(direct, first)
    same(direct, program(key, state, x))
    assert state.weights["w"].is_deleted() and not x.is_deleted()


def test_in_one_process_equal_programs_are_one(folder, counted):
    one, other = lambda *args: counted(*args), lambda *args: counted(*args)
    assert compile_program(one, arguments()) is compile_program(other, arguments())
    one, other, traces = anew(counted), anew(counted), counted.traces
    assert compile_program(one, arguments(), key=KEY) is compile_program(other, arguments(), key=KEY)
    assert counted.traces == traces + 1
    waiting = [start_compiling(counted, arguments(), donate_argnums=(2,)) for _ in range(2)]
    assert waiting[0]() is waiting[1]()


def test_programs_of_one_text_that_use_other_arguments_or_constants_differ():
    x, y = jnp.float32(1), jnp.float32(2)
    assert [float(compile_program(f, (x, y))(x, y)) for f in (lambda x, y: x + 1, lambda x, y: y + 1)] == [2, 3]
    for constant in jnp.arange(5.0), jnp.arange(5.0) + 1, jnp.arange(2e5), jnp.arange(2e5) + 1:
        program = compile_program(lambda x, c=constant: c[0] + c[-1] + x, (x,))
        assert float(program(x)) == float(constant[0] + constant[-1] + 1)
    outputs = [compile_program(f, (x,))(x) for f in (lambda x: {"a": x}, lambda x: {"b": x}, lambda x: (x,))]
    assert list(map(jax.tree.structure, outputs)) == list(map(jax.tree.structure, [{"a": 0}, {"b": 0}, (0,)]))


@pytest.mark.parametrize("change", ["key", "shape", "dtype", "weak", "tree", "donation", "x64", "platform", "precision",
                                    "source", "versions"])
def test_another_program_is_not_read(folder, monkeypatch, change):
    def step(x):
        traces.append(x)
        return jax.tree.map(lambda leaf: leaf + 1, x)

    traces, x, extra = [], jnp.ones(2), {}
    compile_program(step, (x,), key=KEY)
    step_anew = anew(step)
    key, block = KEY | {"method": ["darts", 2]} if change == "key" else KEY, None
    if change in ("shape", "dtype", "weak", "tree"):
        x = {"shape": jnp.ones(3), "dtype": jnp.ones(2, jnp.int32), "weak": 1.0, "tree": [jnp.ones(2)]}[change]
        if change == "weak":
            compile_program(anew(step), (jnp.float32(1),), key=KEY)
            del traces[1:]
    elif change == "donation":
        extra = {"donate_argnums": (0,)}
    elif change == "platform":
        extra = {"platform": "tpu"}
    elif change == "x64":
        block = jax.enable_x64(True)
    elif change == "precision":
        block = jax.default_matmul_precision("float32")
    elif change == "source":
        monkeypatch.setattr(programs, "_source", lambda: ("another", 0.0))
    else:
        monkeypatch.setattr(programs, "version", lambda name: "another")
    with block or platform(None):
        compile_program(step_anew, (x,), key=key, **extra)
    assert len(traces) == 2


def test_changed_source_is_not_cached(folder, monkeypatch):
    monkeypatch.setattr(programs, "_source", lambda: ("later", programs._IMPORTED + 1))
    compile_program(lambda x: x + 1, (1.0,), key=KEY)
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "renamed", "writable", "link"])
def test_damaged_or_foreign_files_are_ignored_and_written_again(folder, counted, damage):
    expected = compile_program(counted, arguments(), key=KEY)(*arguments())
    [path] = folder.iterdir()
    good = path.read_bytes()
    assert folder.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o077 == 0
    if damage == "renamed":
        compile_program(lambda *args: args, arguments(), key="another")
        [other] = set(folder.iterdir()) - {path}
        os.replace(other, path)
    elif damage == "writable":
        path.chmod(0o666)
    elif damage == "link":
        path.rename(folder.parent / "elsewhere")
        path.symlink_to(folder.parent / "elsewhere")
    else:
        path.write_bytes({"cut": good[:-9], "flipped": good[:-9] + b"?" + good[-8:], "empty": b""}[damage])
    traces = counted.traces
    same(expected, compile_program(anew(counted), arguments(), key=KEY)(*arguments()))
    assert counted.traces == traces + 1
    assert traced.read(path) and not path.is_symlink() and path.stat().st_mode & 0o077 == 0


def test_a_folder_that_others_can_write_to_is_left_alone(folder, counted):
    folder.mkdir()
    folder.chmod(0o777)
    compile_program(counted, arguments(), key=KEY)
    assert not [*folder.iterdir()]


def test_the_oldest_files_go(tmp_path, monkeypatch):
    monkeypatch.setattr(traced, "MOST", 3)
    paths = [tmp_path / "traced" / f"{n}.bin" for n in range(5)]
    for n, path in enumerate(paths):
        traced.write(path, b"x")
        os.utime(path, (n, n))
        if n == 3:
            assert traced.read(paths[1]) == b"x"  # used just now
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["1.bin", "3.bin", "4.bin"]
    monkeypatch.setattr(traced, "TOTAL", 150)
    traced.write(paths[0], b"y" * 50)
    assert sum(path.stat().st_size for path in paths[0].parent.iterdir()) <= 150


def test_what_cannot_be_exported_is_compiled_as_it_is(folder):
    def called(x):
        return jax.pure_callback(lambda x: np.asarray(x) * 2, jax.ShapeDtypeStruct((), jnp.float32), x)

    def unknown(x):
        return Other(x * 2)

    for function in called, unknown:
        result = compile_program(function, (jnp.float32(3),), key=function.__name__)(jnp.float32(3))
        assert float(jax.tree.leaves(result)[0]) == 6 and isinstance(result, Other) == (function is unknown)
    assert not folder.exists()


def test_errors_of_the_function_and_of_the_key_are_raised(folder):
    def refuses(x):
        raise ValueError("no such network")

    for key in None, KEY:
        with pytest.raises(ValueError, match="no such network"):
            compile_program(refuses, (1.0,), key=key)
    with pytest.raises(ValueError, match="must be JSON"):
        compile_program(lambda x: x, (1.0,), key={"of": object()})


SCRIPT = """
import jax, jax.numpy as jnp, sys
for name, value in (("compilation_cache_dir", sys.argv[1]), ("persistent_cache_min_compile_time_secs", 0),
                    ("persistent_cache_min_entry_size_bytes", 0)):
    jax.config.update("jax_" + name, value)
from dnas.engine.programs import compile_program
def step(x):
    print("traced")
    return jnp.sin(x) @ x
print(float(compile_program(step, (jax.ShapeDtypeStruct((3,), "float32"),), key=1)(jnp.arange(3.0)).sum()))
"""


def test_the_next_process_neither_traces_nor_compiles(tmp_path):
    said, files = [], []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, text=True, capture_output=True,
                              check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        said.append(done.stdout.split())
        files.append({path for path in tmp_path.rglob("*") if not path.name.endswith("-atime")})
    assert said == [["traced", said[1][0]], said[1]] and len(said[1]) == 1
    assert files[0] == files[1] and any(path.name.startswith("jit_") for path in files[0])
