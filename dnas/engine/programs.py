"""Compiles programs ahead of time, and keeps their traced form between processes.

A start spends its time on three things: tracing a function (Python), lowering it (Python), and compiling it (XLA). JAX keeps
compiled programs in a folder, but has to trace and lower first to find them. Beside them this keeps the traced form of a
program whose caller names all that it depends on, so that the next process reads that instead.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import importlib.util
import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from threading import RLock, local
from typing import Any, NamedTuple

import jax
from jax import export

from dnas import _IMPORTED
from dnas.engine import traced
from dnas.platform import current, of_machine
from dnas.platform import platform as on_platform

COMPILER_OPTIONS = (
    ("cpu", "", {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"}),
    ("cuda", "0.12", {"xla_gpu_enable_triton_gemm": False}))
"""(platform, version, options): XLA's options on a platform for each jaxlib before a version, "" for all.

On a CPU the default library for convolutions takes twice as long for the gradient of the kernel as the earlier one (jaxlib
0.10 and 0.12; see docs/speed.md). On a GPU jaxlib 0.10.2 aborts the process over the gradient of a product with a strided
slice, which the DARTS space has, where it may choose Triton for products; 0.12.0 does not."""

_listed: contextvars.ContextVar[list[Listed] | None] = contextvars.ContextVar("listed", default=None)

REMEMBERED = 16
"""Most programs that one process holds to avoid compiling them again."""

_SOURCES = ("dnas", "search_spaces")
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
_NO_MATTER = ("cache", "log", "dump", "traceback", "profile", "warn")
"""Words in the names of those settings of JAX that change no program."""
_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="compile")
_programs: OrderedDict[Any, Future] = OrderedDict()
_registered: set[type] = set()
_lock = RLock()
_thread = local()
_compiled_anew = 0


class Listed(NamedTuple):
    """A program that `listed` kept from being compiled."""

    function: Callable
    args: tuple
    donate_argnums: tuple[int, ...]


@contextlib.contextmanager
def listed() -> Iterator[list[Listed]]:
    """A block in which this thread puts programs into the list that it gets, and compiles none: for `dnas.engine.targets`.
    In place of a compiled program there is None."""
    token = _listed.set([])
    try:
        yield _listed.get()
    finally:
        _listed.reset(token)


def compile_program(function: Callable, args: Sequence, *, key: Any = None, donate_argnums: Sequence[int] = (),
                    platform: str | None = None) -> jax.stages.Compiled:
    """The compiled `function(*args)`. Equal programs are compiled once, in one process and across processes.

    Args:
        args: arrays, or `jax.ShapeDtypeStruct` in their place, in any containers.
        key: JSON that names all that the function computes, except for `args`, the toolkit's own source, and the versions
            of libraries: the space and its options, the method and its structure, constants of the data. With it and
            JAX's cache, a later process does not trace the function. None if anything is a user's own code or cannot be
            named.
        platform: the platform to trace the function for, as `dnas.platform.platform` takes it.

    Raises ValueError for a key that JSON cannot express, and the errors of tracing and compiling.
    """
    return start_compiling(function, args, key=key, donate_argnums=donate_argnums, platform=platform)()


def start_compiling(function: Callable, args: Sequence, *, key: Any = None, donate_argnums: Sequence[int] = (),
                    platform: str | None = None) -> Callable[[], jax.stages.Compiled]:
    """The same in the background: returns once the function is traced. Call what it returns to wait for the program."""
    donated = tuple(donate_argnums)
    if _listed.get() is not None:
        _listed.get().append(Listed(function, tuple(args), donated))
        return lambda: None
    with on_platform(platform) if platform else contextlib.nullcontext():
        folder = None if key is None else _folder(args)
        if folder is None:
            return _of_text(_lower(function, args, donated), _devices(args))
        name = _digest(key, args, donated)
        if name in _programs:
            with contextlib.suppress(KeyError):
                return _remembered(name)
        return _start(name, _lower_traced(function, args, donated, folder / f"{name}.bin"))


def compiled_anew() -> int:
    """How many programs of this module this process has compiled so far, those from JAX's cache left out."""
    return _compiled_anew


def compiler_options(jaxlib: str | None = None) -> dict[str, Any]:
    """COMPILER_OPTIONS for the platform to trace for and a version of jaxlib, by default the installed one."""
    numbers = lambda text: tuple(map(int, re.findall(r"\d+", text)[:3]))
    jaxlib = numbers(jaxlib or version("jaxlib"))
    return {name: value for platform, before, options in COMPILER_OPTIONS for name, value in options.items()
            if platform == current() and (not before or jaxlib < numbers(before))}


def compile_lowered(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The program, with COMPILER_OPTIONS if this version of XLA has them."""
    return _compile(lowered, compiler_options())


def _compile(lowered, options):
    global _compiled_anew
    _thread.from_cache = False
    try:
        program = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "option" not in str(error):
            raise
        program = lowered.compile()
    with _lock:
        _compiled_anew += not _thread.from_cache
    return program


def _on_event(event, **_):
    """Called by JAX in the thread that compiles."""
    if event == "/jax/compilation_cache/cache_hits":
        _thread.from_cache = True


jax.monitoring.register_event_listener(_on_event)


def _lower(function, args, donated):
    """Keeps unused arguments: without them, programs that use different arguments could have equal texts."""
    return jax.jit(function, donate_argnums=donated, keep_unused=True).lower(*args)


def _lower_traced(function, args, donated, path):
    """The lowered function from the file `path`; else traced, and written to `path` if JAX can export it.

    Either way it is lowered from the exported form, so that XLA finds an earlier process's program in its cache.
    """
    _register_namedtuples(args)
    exported = _deserialized(traced.read(path))
    if exported is None:
        jitted = jax.jit(function, donate_argnums=donated)
        jitted.trace(*args)  # raises the function's own errors; the export does not trace it again
        try:
            data = bytes(export.export(jitted)(*args).serialize())
        except Exception:  # of many types: callbacks, containers or custom calls that cannot be exported
            return _lower(function, args, donated)
        traced.write(path, data)
        exported = _deserialized(data)
    try:
        return _lower(exported.call, args, donated)
    except Exception:
        return _lower(function, args, donated)


def _deserialized(data):
    with contextlib.suppress(Exception):
        return data and export.deserialize(bytearray(data))


def _register_namedtuples(tree):
    """Lets exported functions take and return the NamedTuples in `tree`."""
    for part in jax.tree.leaves(tree, is_leaf=lambda node: node is not tree):
        if part is not tree:
            if hasattr(type(part), "_fields") and type(part) not in _registered:
                _registered.add(type(part))
                with contextlib.suppress(ValueError):  # registered elsewhere, or another of that name
                    name = f"{type(part).__module__}.{type(part).__qualname__}"
                    export.register_namedtuple_serialization(type(part), serialized_name=name)
            _register_namedtuples(part)


def _of_text(lowered, devices):
    """Starts compiling a lowered function, unless this process has compiled the same text for the same devices."""
    if getattr(lowered._lowering, "const_args", None):  # constants that are not in the text
        return _threads.submit(_compile, lowered, compiler_options()).result
    text = hashlib.sha256(lowered.as_text().encode()).hexdigest()
    return _start((text, current(), lowered.in_tree, lowered.out_tree, devices), lowered)


def _start(name, lowered):
    with _lock:
        if name not in _programs:
            _programs[name] = _threads.submit(_compile, lowered, compiler_options())
            _programs[name].add_done_callback(functools.partial(_forget_failed, name))
        result = _remembered(name)
        while len(_programs) > REMEMBERED:
            _programs.popitem(last=False)
        return result


def _remembered(name):
    with _lock:
        _programs.move_to_end(name)
        return _programs[name].result


def _forget_failed(name, future):
    if future.cancelled() or future.exception():
        with _lock:
            _programs.pop(name, None)


def _folder(args) -> Path | None:
    """The folder of traced programs. None if JAX has no cache folder, the arguments are on several devices or on those
    of another machine, or the toolkit's source has changed since it was imported."""
    cache = jax.config.jax_compilation_cache_dir
    if not cache or "://" in cache or not jax.config.jax_enable_compilation_cache or _source()[1] > _IMPORTED:
        return None
    devices = _devices(args)
    return None if len(devices) > 1 or not devices <= {*jax.local_devices()} else Path(cache) / "traced"


def _devices(args) -> frozenset:
    """The devices on which the arguments lie; none for shapes without a sharding."""
    shardings = {leaf.sharding for leaf in jax.tree.leaves(args) if getattr(leaf, "sharding", None) is not None}
    return frozenset().union(*(sharding.device_set for sharding in shardings))


def _digest(key, args, donated) -> str:
    """A digest of everything that the exported form depends on."""
    try:
        json.dumps(key)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the key of a program must be JSON: {error}") from None
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda *args: args, *args))
    shapes = [(leaf.shape, str(leaf.dtype), bool(leaf.weak_type)) for leaf in leaves]
    settings = {name: repr(getattr(jax.config, name, None)) for name in sorted(jax.config.values)
                if not any(word in name for word in _NO_MATTER)}
    parts = [key, shapes, str(tree), donated, current(), of_machine(), settings, os.environ.get("XLA_FLAGS", ""),
             _source()[0], {name: version(name) for name in _LIBRARIES}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _source() -> tuple[str, float]:
    """A digest of the toolkit's own source files, and the time at which the last of them was changed."""
    digest, latest = hashlib.sha256(), 0.0
    for package in _SOURCES:
        spec = importlib.util.find_spec(package)
        for folder in map(Path, spec.submodule_search_locations if spec else ()):
            for path in sorted(folder.rglob("*.py")):
                content = path.read_bytes()
                digest.update(f"{package}/{path.relative_to(folder)} {len(content)}\n".encode() + content)
                status = path.stat()
                latest = max(latest, status.st_mtime, status.st_ctime)
    return digest.hexdigest(), latest
