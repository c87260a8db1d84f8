"""TensorBoard events of a run, written once an epoch. metrics.jsonl stays the source of truth.

The events go through tensorboardX's own record writer rather than its SummaryWriter, whose thread dies on a full disk
and leaves the search waiting for ever.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from dnas.runs.directory import RunWriteError, flatten
from dnas.types import Group

COMPARED = "accuracy", "loss"
"""Quantities, of hold-out and test, that stand beside a search's hyperparameters; the first is the task's metric. Untold,
the plugin takes all, the gate of each operation too."""


class Events(NamedTuple):
    """Writers of one events file.

    epoch(record, logits): the numbers of a metrics record as scalars (nested names joined by "/"), and the softmaxed
        logits `[E, K]` of each group as gates/<group>/<source>-<target>/<op>, at step record["epoch"].
    config(config): the configuration, as text and as hyperparameters.
    done(): the run has ended well.
    picture(path, epoch, tag): a PNG file as the image `tag`, "cell" unless given.
    close()
    All raise RunWriteError.
    """

    epoch: Callable[..., None]
    config: Callable[..., None]
    done: Callable[[], None]
    picture: Callable[..., None]
    close: Callable[[], None]


def events(folder: str | Path, groups: Mapping[str, Group], *, purge_step: int | None = None) -> Events:
    """Opens a new events file in `folder`; `purge_step` hides what earlier files say of that epoch and later ones."""
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    def write(step, *summaries, **fields):
        event = Event(step=int(step), wall_time=time.time(), **fields)
        for item in summaries:
            event.summary.MergeFrom(item)
        try:
            file.write_event(event)
            file.flush()
        except OSError as error:
            raise RunWriteError(Path(folder), error) from error

    def epoch(record, logits):
        numbers = flatten(record, "/")
        step = numbers.pop("epoch")
        numbers = {name: float(value) for name, value in numbers.items()
                   if isinstance(value, Real) and math.isfinite(value)}
        write(step, *(summary.scalar(tag, value) for tag, value in {**numbers, **_gates(logits, groups)}.items()))

    def config(values):
        text = "\n".join("    " + line for line in json.dumps(values, indent=1, default=str).splitlines())
        experiment, session, _ = hyperparameters(values)
        write(0, summary.text("config", text), session, *([experiment] if groups else []))

    def done():
        write(0, hyperparameters({})[2])

    def picture(path, epoch=0, tag="cell"):
        from matplotlib.image import imread

        write(epoch, summary.image(tag, imread(path), dataformats="HWC"))

    def close():
        try:
            file.close()
        except OSError as error:
            raise RunWriteError(Path(folder), error) from error

    try:
        file = EventsWriter(os.path.join(folder, "events"), f".{os.getpid()}")
    except OSError as error:
        raise RunWriteError(Path(folder), error) from error
    if purge_step is not None:
        write(purge_step, session_log=SessionLog(status=SessionLog.START))
    charts = {name: {f"{s}-{t}": ["Multiline", [f"gates/{name}/{s}-{t}/.*"]] for s, t in group.edges}
              for name, group in groups.items()}
    if charts:
        write(0, summary.custom_scalars(charts))
    return Events(epoch, config, done, picture, close)


def hyperparameters(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Summaries for the hparams plugin, which compares runs: of the experiment, of a run's begin, of its good end.

    Of nested configs the names are joined by "."; of a genotype only the name counts.
    """
    from tensorboardX import summary

    metric = config["metric"]["name"] if "metric" in config else COMPARED[0]
    flat = {name: value for name, value in flatten(config, ".").items()
            if name == "genotype.name" or not name.startswith("genotype.")}
    flat = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in flat.items()}
    return summary.hparams({name: value for name, value in flat.items() if isinstance(value, (str, int, float))},
                           {f"{name}/{split}": None for name in (metric, *COMPARED[1:]) for split in ("holdout", "test")})


def _gates(logits, groups: Mapping[str, Group]) -> dict[str, float]:
    tags = {}
    for name, group in groups.items():
        for e, ((s, t), row) in enumerate(zip(group.edges, group.softmax(logits[name]))):
            tags |= {f"gates/{name}/{s}-{t}/{op}": float(p) for op, p in zip(group.edge_ops(e), row)}
    return tags
