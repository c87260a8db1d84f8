"""The folder in which JAX keeps compiled programs from one process to the next."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

ADVICE = "compiling without a cache; name another folder with --cache or DNAS_CACHE, or say off"


def enable(option: str | None) -> Path | None:
    """Turns on JAX's cache of compiled programs, and returns its folder; None if there is no cache.

    option: a folder, `off`, or None for the folder that JAX has already, else the environment variable DNAS_CACHE, else
        `dnas/xla` in the user's cache folder. A new folder gets mode 0700. A folder that others can write to, whose
        programs could be anyone's, or that cannot be created is not used, with a warning on standard error.
    """
    import jax

    if option is None and jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    option = option or os.environ.get("DNAS_CACHE") or _default()
    if option == "off":
        jax.config.update("jax_compilation_cache_dir", None)
        return None
    folder = Path(option).expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(1, "others can write to it")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(1, "it cannot be written to")
    except OSError as error:
        print(f"dnas: warning: cache {folder}: {error.strerror}; {ADVICE}", file=sys.stderr)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder


def _default() -> str:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "dnas", "xla")
