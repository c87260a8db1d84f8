"""Make a table that `dnas evaluate --table` reads, from the official files of a benchmark.

Of NAS-Bench-Macro that is nas-bench-macro_cifar10.json. Of NAS-Bench-201 it is NATS-Bench's unpacked folder
NATS-tss-v1_0-3ffb9-simple, or the file NATS-tss-v1_0-3ffb9.pickle.pbz2, which takes far more memory. These are pickles, and
nats_bench unpickles them: a pickle can run any code, so give the official files only. That needs pip install 'dnas[nats]'.
The table, and everything that dnas itself reads, is plain arrays.
"""

import difflib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dnas.options import REQUIRED
from launch.parser import Positional, Shown, parse

USAGE = """usage: dnas table import PATH --out FILE.npz

Makes the table that `dnas evaluate --table` reads from the official files of
NATS-Bench's topology space or of NAS-Bench-Macro; `dnas table import --help`
says more."""


@dataclass(frozen=True)
class Arguments:
    """Options of `dnas table import`."""

    path: Annotated[str, Positional("PATH")] = REQUIRED
    """The official .json of NAS-Bench-Macro, or folder or file of the topology space. Nothing else: that is unpickled."""
    out: Annotated[str, Shown("FILE.npz")] = REQUIRED
    """The table to write; it must not exist."""


def main(argv: Sequence[str]) -> int:
    """Runs `dnas table`. Raises ValueError for bad input, and then writes nothing."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if argv[0] != "import":
        near = "; did you mean 'import'?" if difflib.get_close_matches(argv[0], ["import"]) else ""
        raise ValueError(f"dnas table has no {argv[0]!r}{near or '; it has import'}")
    arguments = parse(Arguments(), "dnas table import", __doc__, argv[1:])
    source, out = Path(arguments.path).expanduser(), Path(arguments.out).expanduser()
    if out.suffix != ".npz":
        raise ValueError(f"--out {out}: it must end in .npz")
    if out.exists():
        raise ValueError(f"--out {out} exists; remove it, or choose another")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}")
    if source.is_dir() and not (source / "meta.pickle.pbz2").is_file():
        raise ValueError(f"{source} has no meta.pickle.pbz2; give the unpacked folder NATS-tss-v1_0-3ffb9-simple")
    if source.name.endswith(".tar"):
        raise ValueError(f"{source} is packed; give the folder that `tar -xf {source}` makes of it")
    if not source.exists():
        raise ValueError(f"{source}: there is no such folder or file")
    macro = source.suffix == ".json"
    if not macro and importlib.util.find_spec("nats_bench") is None:
        raise ValueError("this needs the package nats_bench; install it with: pip install 'dnas[nats]'")

    import numpy as np

    from dnas.runs.files import write_atomic
    from dnas.tabular.benchmarks import load

    buffer, title = io.BytesIO(), "NAS-Bench-Macro" if macro else "NATS-Bench's topology space"
    try:
        np.savez_compressed(buffer, **(_macro if macro else _topology)(source))
        buffer.seek(0)
        table = load(buffer)
    except Exception as error:  # of any type, from nats_bench or a pickle
        said = str(error).replace(str(buffer), "what was read")
        raise ValueError(f"{source}: it cannot be read as {title} ({type(error).__name__}: {said}); give the official "
                         "files") from error
    write_atomic(out, buffer.getvalue())
    print(f"written    {out}: {len(table.ops):,} networks, {len(table.columns)} columns: "
          f"{', '.join(sorted(table.columns))}")
    return 0


def _macro(source: Path) -> dict:
    """The arrays of NAS-Bench-Macro's own file."""
    from dnas.tabular.macro import from_json

    return from_json(source.read_text(encoding="utf-8"))


def _topology(source: Path) -> dict:
    """The arrays of NATS-Bench's topology space."""
    from dnas.tabular.nasbench201 import BENCHMARK
    from dnas.tabular.nats import from_api
    from search_spaces.nasbench201 import from_string

    api = _opened(source)
    if len(api) != BENCHMARK.size:
        raise ValueError(f"it has {len(api)} architectures; NATS-Bench's topology space has {BENCHMARK.size}")
    return from_api(api, BENCHMARK.size, from_string, _say)


def _opened(source: Path):
    """The api of the official package, which unpickles."""
    import nats_bench

    return nats_bench.create(str(source), "tss", fast_mode=source.is_dir(), verbose=False)


def _say(done: int) -> None:
    if done % 1000 == 0:
        print(f"read       {done:,} cells", flush=True)
