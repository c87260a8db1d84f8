"""Say what pictures show: the classes that a trained network gives them, with their probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from launch import cache
from launch.arguments import parsed, shown


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory of a training, or a weights.safetensors."""
    pictures: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PICTURE ...",
                                                                              help_behavior_hint="(required)")] = ()
    """PNG or JPEG files, or folders of them. They are brought to the network's size, grey or colour as its data was."""
    top: int = 3
    """Classes to show for each picture, the most probable first."""
    space: Annotated[str | None, shown("FACTORY", "that of the run")] = None
    """Where the network's space is, if it is your own: package.module:factory or file.py:factory."""
    cache: Annotated[str | None, shown("DIR|off", "as for search")] = None
    """Where compiled programs are kept for the next time."""


def main(argv: Sequence[str]) -> int:
    """Runs `dnas predict`. Raises ValueError, in one line, for what it cannot read or use."""
    arguments = parsed(Arguments(tyro.MISSING), "dnas predict", __doc__, list(argv))
    if not arguments.pictures:
        raise ValueError("dnas predict RUN PICTURE ...: no picture given")
    if arguments.top < 1:
        raise ValueError(f"--top {arguments.top}: it must be at least 1")
    import dnas
    from dnas.data.decode import File, decode
    from launch.compare import columns
    from search_spaces.trained import in_batches

    pictures = [each for name in arguments.pictures for each in _pictures(name)]
    trained = dnas.load(arguments.run, space=arguments.space)
    takes = trained.described.input
    height, width, channels = takes.image
    if takes.pixels != "uint8" or channels not in (1, 3):
        raise ValueError(f"{arguments.run}: its network takes {takes.pixels} images of {channels} channels, and "
                         "pictures are uint8 of 1 or 3; dnas.load gives it to Python, for arrays")
    cache.enable(arguments.cache)
    images = decode([File(picture) for picture in pictures], (height, width), takes.fit, channels)
    rows = []
    for picture, shares in zip(pictures, in_batches(trained.predict, images)):
        order = (-shares).argsort(kind="stable")[:arguments.top]
        rows.append([picture, *(text for k in order for text in (trained.classes[k], f"{100 * shares[k]:.1f} %"))])
    print(columns(rows, left=1))
    return 0


def _pictures(name: str) -> list[str]:
    """The picture of that name, or those in the folder of that name. Raises ValueError where it has none."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return [name]
    found = [str(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
    if not found:
        raise ValueError(f"{name} holds no .png, .jpg or .jpeg file")
    return found
