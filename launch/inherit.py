"""What `dnas train` takes from a trained supernet: weights to start from, and a teacher."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.arguments import absolute, given

if TYPE_CHECKING:
    from dnas import SearchSpace
    from dnas.data import Dataset
    from dnas.types import Tree
    from launch.subject import Subject
    from launch.trained import Supernet

STRAY = 0.01
"""Share of the examples that judge a network which may be among those that the supernet has learnt from: data sets have
duplicates."""


class Origin(NamedTuple):
    """What a training takes from a supernet.

    space, options: the space whose networks run on its weights and how it was built, None and {} for another network.
    config: what config.json says of it. given: arguments of `dnas.engine.train.train`. lines: the same for a person.
    """

    space: SearchSpace | None = None
    options: Mapping[str, Any] = {}
    config: Mapping[str, Any] = {}
    given: Mapping[str, Any] = {}
    lines: Sequence[str] = ()


def of_its_size(arguments: Any, subject: Subject, argv: Sequence[str]) -> Any:
    """The arguments of a training that inherits, without a preset's sizes. Raises ValueError where others are asked for."""
    own = {"space": subject.space["name"], "cells": subject.space.get("cells"), "channels": subject.space.get("channels"),
           "auxiliary": 0.0}
    for name, there in own.items():
        asked = getattr(arguments, name)
        if given(argv, f"--{name}") is not None and (absolute(asked) if name == "space" else asked) != there:
            raise ValueError(f"--{name} {asked}: --inherit trains the supernet's own network, " +
                             ("which has no such head" if name == "auxiliary" else f"its {name}: {there}"))
    return dataclasses.replace(arguments, space=None, cells=None, channels=None, auxiliary=0.0)


def source_of(arguments: Any, subject: Subject, data: Dataset) -> Origin:
    """What `arguments` ask for of the subject's supernet.

    Raises ValueError, in one line, if the subject has no supernet, or one for other data.
    """
    if not (arguments.inherit or arguments.distill):
        return Origin()
    flag = "--inherit" if arguments.inherit else "--distill"
    if subject.search is None:
        raise ValueError(f"{flag} needs the supernet of a search, and {arguments.subject} has none; give the run directory "
                         "of a search, or a folder of its selections")
    from launch.trained import supernet

    trained = supernet(subject.search)
    _check(flag, arguments, trained, data)
    which = f"the supernet of {trained.folder}, epoch {trained.epoch}"
    config = {"run": str(trained.folder.absolute()), "epoch": trained.epoch,
              "choice": subject.choice and str(subject.choice.absolute())}
    made = Origin(config={"supernet": config}, lines=[f"note      {note}" for note in trained.notes])
    if arguments.inherit:
        made = _inherited(made, which, trained, subject)
    if arguments.distill:
        made = _taught(made, which, trained, arguments)
    return made


def _inherited(made: Origin, which: str, trained: Supernet, subject: Subject) -> Origin:
    """With the weights, those that a selection has fine-tuned as it left them."""
    space = trained.ready.space
    if space.inherited is None:
        raise ValueError(f"--inherit: space {space.name} does not say how its networks run on a supernet's weights; one "
                         "that flax_space, nnx_space or pure_space makes does")
    tuned = _tuned(trained, subject.choice) if subject.choice else None
    state = trained.context.state if tuned is None else tuned
    start = tuple(space.inherit(tree, subject.genotype) for tree in (state.weights, state.stats))
    line = f"weights   of {which}" + ("" if tuned is None else f", fine-tuned in {subject.choice}")
    return made._replace(space=space.inherited, options=trained.ready.config["space"], given={**made.given, "start": start},
                         lines=[*made.lines, line])


def _taught(made: Origin, which: str, trained: Supernet, arguments: Any) -> Origin:
    """With the teacher."""
    from dnas.algorithms.distillation import supernet_teacher

    context = trained.context
    teacher = supernet_teacher(trained.ready.space, context.state, context.gates(context.state))
    line = f"teacher   {which}: {arguments.distill:g} of the loss, temperature {arguments.distill_temperature:g}"
    return made._replace(given={**made.given, "teacher": teacher}, lines=[*made.lines, line])


def _check(flag: str, arguments: Any, trained: Supernet, data: Dataset) -> None:
    """Raises ValueError where the supernet is for other data, or has learnt from those that are to judge now."""
    before = trained.ready.data
    if _size(before) != _size(data):
        raise ValueError(f"{flag}: the supernet of {trained.folder} is for {_size(before)}, and {data.name} has "
                         f"{_size(data)}")
    if trained.ready.config["data"] == list(arguments.data) and trained.searched.limit == arguments.limit:
        return
    known = set(_digests(before, "train", "valid"))
    judging = [name for name in ("holdout", "test") if name not in arguments.splits]
    digests = _digests(data, *judging)
    seen = sum(digest in known for digest in digests)
    if seen > STRAY * len(digests):
        raise ValueError(f"{flag}: the supernet of {trained.folder} was trained on {seen} of the {len(digests)} examples "
                         f"that would judge the network; give the --data and --limit of its search")


def _size(data: Dataset) -> str:
    outputs = "classes" if data.targets.dtype.kind in "iu" else "targets"
    return f"{data.kind} of {'x'.join(map(str, data.image))} of {data.classes} {outputs}"


def _digests(data: Dataset, *splits: str) -> list[bytes]:
    return [blake2b(each.tobytes(), digest_size=16).digest() for name in splits for each in data.inputs[data.splits[name]]]


def _tuned(trained: Supernet, choice: Path) -> Tree | None:
    """The state of the search as the selection in the folder `choice` fine-tuned it, None if it did not."""
    from dnas.runs import checkpoint
    from dnas.selection.select import load_selected
    from launch.trained import made

    selected = load_selected(choice)
    if selected is None or not selected.cost.get("epochs"):
        return None
    options = json.loads((choice / "config.json").read_text(encoding="utf-8"))["selection"]
    selection = made(options.pop("name"), options)
    found = checkpoint.latest(choice / "checkpoints", selection.begin(trained.context), set_aside=False)
    return found.tree.state if found else None
