"""Choose the architecture of a trained supernet: by magnitude, perturbation, sampling or a selection of yours."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dnas import registry
from dnas.selection import SELECTIONS
from launch import cache, options
from launch.arguments import given, parse, parsed, part_of
from launch.prepare import budget_lines, prepare


@dataclass(frozen=True)
class Arguments:
    """What the command line says; `selection_options` is added to it."""

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory of a search. It is read, and written in its folder `selections` only."""
    selection: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(SELECTIONS) + "}|FACTORY")] = "perturbation"
    """How to choose: a name, package.module:factory or file.py:factory."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR",
                                             help_behavior_hint="(default: RUN/selections/SELECTION)")] = None
    """Where the choice is written, and continued if it was interrupted."""
    cache: Annotated[str | None, tyro.conf.arg(metavar="DIR|off", help_behavior_hint="(default: as for search)")] = None
    """Where compiled programs are kept for the next time."""


def main(argv: Sequence[str]) -> int:
    """Runs `dnas select`. Raises ValueError, in one line, for what it cannot read or use."""
    name = given(argv, "--selection") or Arguments.selection
    part = part_of("selection", options.read(registry.locate(name, SELECTIONS, "selection")))
    form = dataclasses.make_dataclass("Arguments", [part], bases=(Arguments,), frozen=True)
    arguments = parsed(form(folder=tyro.MISSING, selection=name), "dnas select", __doc__, list(argv))
    folder = Path(arguments.folder).expanduser()
    searched = parse("search", "", ["--config", str(folder)])
    ready = prepare(searched)
    chosen = dataclasses.asdict(arguments.selection_options)
    selection = registry.resolve(name, SELECTIONS, "selection")(**chosen)

    import jax
    import jax.numpy as jnp

    from dnas import checkpoint, open_run
    from dnas.pictures import draw_genotype, terminal_cell
    from dnas.selection.select import bench, select

    images = jax.ShapeDtypeStruct((searched.batch, *ready.data.image), jnp.float32)
    template = jax.eval_shape(ready.method.init, jax.random.key(0), images)
    found = checkpoint.latest(folder / "checkpoints", template, set_aside=False)
    if found is None:
        raise ValueError(f"{folder} has no checkpoint; search there first: dnas search --run {folder}")
    out = Path(arguments.out).expanduser() if arguments.out else folder / "selections" / name.rpartition(":")[2]
    config = {"run": str(folder.absolute()), "epoch": found.epoch, "selection": {"name": name, **chosen}}
    try:
        opened = open_run(out, config)
    except ValueError as error:
        raise ValueError(str(error).replace("--run", "--out")) from None
    with opened:
        cache.enable(arguments.cache)
        for message in found.skipped:
            print(message)
        on = bench(ready.space, ready.method, _tuner(searched, ready), ready.data, found.tree, batch=searched.batch,
                   seed=searched.seed)
        plan = selection.plan(on)
        print(f"run        {folder}, epoch {found.epoch} of {searched.epochs}")
        print(f"selection  {name}: {plan['evaluations']:,} images forward through the supernet, "
              f"{plan['epochs']} epochs of fine-tuning", flush=True)
        result = select(selection, on, folder=out, say=lambda text: print(text, flush=True))
        for suffix in ("svg", "png"):
            draw_genotype(result.genotype, ready.space.groups, out / f"cells.{suffix}")
    cost = ready.space.cost(result.genotype)
    print("", terminal_cell(result.genotype, ready.space.groups), ready.space.format(result.genotype), "", sep="\n")
    print(f"size       {cost['params']:,} parameters, {cost['macs']:,} multiply-adds per image as a network of its own")
    for line in budget_lines(ready.config, ready.space, result.genotype):
        print(f"budget     {line}")
    print(f"cost       {result.cost['evaluations']:,} images forward, {result.cost['epochs']} epochs, "
          f"{result.cost['seconds']:.1f} s")
    print(f"written    {out}")
    return 0


def _tuner(searched, ready):
    """The method of the run at a tenth of its first learning rate, constant, if it has one."""
    from launch.prepare import built_method

    config = {**ready.config, "method": dict(ready.config["method"])}
    if {"lr", "lr_min"} <= config["method"].keys():
        config["method"]["lr"] = config["method"]["lr_min"] = config["method"]["lr"] / 10
    if "arch_warmup" in config["method"]:
        config["method"]["arch_warmup"] = 0
    return built_method(config, ready.space, searched.epochs, ready.steps)
