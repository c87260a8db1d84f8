"""Make a table of NAS-Bench-201 that `dnas evaluate --table` reads, from the official NATS-Bench topology files.

NATS_PATH is the unpacked folder NATS-tss-v1_0-3ffb9-simple, or the file NATS-tss-v1_0-3ffb9.pickle.pbz2, which takes far
more memory. They are pickles, and nats_bench unpickles them: a pickle can run any code, so give the official files only.
The table, and everything that dnas itself reads, is plain arrays. It needs pip install 'dnas[nats]'.
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

USAGE = """usage: dnas table import NATS_PATH --out FILE.npz

Makes the table that `dnas evaluate --table` reads from the official files of
NATS-Bench's topology space; `dnas table import --help` says more."""


@dataclass(frozen=True)
class Arguments:
    """Options of `dnas table import`."""

    nats: Annotated[str, Positional("NATS_PATH")] = REQUIRED
    """The official folder or file of the topology space. Nothing else: it is unpickled."""
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
    source, out = Path(arguments.nats).expanduser(), Path(arguments.out).expanduser()
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
    if importlib.util.find_spec("nats_bench") is None:
        raise ValueError("this needs the package nats_bench; install it with: pip install 'dnas[nats]'")

    import numpy as np

    from dnas.runs.files import write_atomic
    from dnas.tabular.nasbench201 import CELLS, load
    from dnas.tabular.nats import from_api
    from search_spaces.nasbench201 import from_string

    buffer = io.BytesIO()
    try:
        api = _opened(source)
        if len(api) != CELLS:
            raise ValueError(f"it has {len(api)} architectures; NATS-Bench's topology space has {CELLS}")
        np.savez_compressed(buffer, **from_api(api, CELLS, from_string, _say))
        buffer.seek(0)
        table = load(buffer)
    except Exception as error:  # of any type, from nats_bench or a pickle
        said = str(error).replace(str(buffer), "what was read")
        raise ValueError(f"{source}: it cannot be read as NATS-Bench's topology space ({type(error).__name__}: {said}); "
                         "give the official files") from error
    write_atomic(out, buffer.getvalue())
    print(f"written    {out}: {len(table.ops):,} cells, {len(table.columns)} columns: {', '.join(sorted(table.columns))}")
    return 0


def _opened(source: Path):
    """The api of the official package, which unpickles."""
    import nats_bench

    return nats_bench.create(str(source), "tss", fast_mode=source.is_dir(), verbose=False)


def _say(done: int) -> None:
    if done % 1000 == 0:
        print(f"read       {done:,} cells", flush=True)
