"""Decodes pictures (PNG, JPEG, WebP, BMP), from files with any content, to arrays of one size."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Ends of their file names."""
OTHER_SUFFIXES = (".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm")
"""Ends of file names of pictures in other formats, which are not read."""
Fit = Literal["crop", "pad", "stretch"]
"""How a picture is brought to a size: crop fills it and cuts off the rest, evenly on both sides; pad fits the whole picture,
on black; stretch changes its proportions."""
FITS = get_args(Fit)
MOST_PIXELS = 2**26
GREY = ("1", "L", "LA")
ORIENTATION, TURNS = 0x0112, ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE",
                              "ROTATE_90")
"""The EXIF tag of a picture's orientation, and the transformations that undo its values from 2 on."""
THREADS, CHUNK = 8, 32
"""Most threads, whose number bounds the memory of large pictures, and how many pictures one of them decodes at a time."""


class File(NamedTuple):
    """A picture at the path `where`, or the bytes that `read` returns, which messages call `where`."""

    where: str
    read: Callable[[], bytes] | None = None


class Header(NamedTuple):
    """The header of a picture: height and width in pixels, upright; whether it is grey; whether it has transparent parts."""

    height: int
    width: int
    grey: bool
    transparent: bool


def is_picture(path: Path) -> bool:
    """Whether the name or content of a file is that of a picture, even if broken or in a format that is not read.

    A file that cannot be opened counts as one; the reason is reported when it is read.
    """
    from PIL import Image

    if path.suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES):
        return True
    if not path.is_file():
        return False
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS):
            return True
    except OSError as error:  # its errno is None if the content is at fault
        return error.errno is not None
    except Image.DecompressionBombError:
        return True
    except Exception:  # decoders raise whatever they meet
        return False


def headers(files: Sequence[File]) -> list[Header]:
    """The headers of all files. Raises ValueError that begins with the first file that is not a picture."""
    read = lambda start: [_header(file) for file in files[start:start + CHUNK]]
    return [header for chunk in _in_threads(read, len(files)) for header in chunk]


def decode(files: Sequence[File], size: tuple[int, int], fit: Fit, channels: int,
           on_broken: Callable[[int, ValueError], None] | None = None) -> np.ndarray:
    """The pictures as [N, H, W, channels] uint8 of `size` (H, W).

    They are turned upright by their EXIF; transparent parts are laid on white. channels: 1 for grey, 3 for RGB.
    on_broken: called, from any thread, with the number and the error of each picture that cannot be read and stays black.
    Raises ValueError, without `on_broken`, that begins with the first file that is not a whole picture of a sensible size.
    """
    images = np.zeros((len(files), *size, channels), np.uint8)

    def fill(start):
        for i, file in enumerate(files[start:start + CHUNK], start):
            try:
                images[i] = _decoded(file, size, fit, channels)
            except ValueError as error:
                if on_broken is None:
                    raise
                on_broken(i, error)

    for _ in _in_threads(fill, len(files)):
        pass
    return images


def _in_threads(work: Callable, count: int) -> Iterator:
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on sizes that are refused below, and on odd metadata
        yield from pool.map(work, range(0, count, CHUNK))


def _header(file: File) -> Header:
    with _opened(file) as image:
        turned = _turn(image) in TURNS[3:]
        width, height = reversed(image.size) if turned else image.size
        return Header(height, width, image.mode in GREY, image.has_transparency_data)


def _decoded(file: File, size: tuple[int, int], fit: Fit, channels: int) -> np.ndarray:
    from PIL.Image import Transpose, alpha_composite, new

    with _opened(file) as image:
        turn = _turn(image)
        image.draft(None, (2 * max(size), 2 * max(size)))
        image.load()
        if turn:
            image = image.transpose(Transpose[turn])
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = alpha_composite(new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        return np.asarray(_fitted(image, size, fit)).reshape(*size, channels)


def _fitted(image: Image, size: tuple[int, int], fit: Fit) -> Image:
    from PIL.Image import Resampling, new

    (height, width), (wide, high) = size, image.size
    if (wide, high) == (width, height):
        return image
    if fit == "pad":
        scale = min(width / wide, height / high)
        inner = max(1, round(wide * scale)), max(1, round(high * scale))
        whole = new(image.mode, (width, height))
        whole.paste(image.resize(inner, Resampling.BILINEAR), ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return whole
    box = (0, 0, wide, high)
    if fit == "crop":
        scale = max(width / wide, height / high)
        left, top = (wide - width / scale) / 2, (high - height / scale) / 2
        box = max(0, left), max(0, top), min(wide, wide - left), min(high, high - top)
    return image.resize((width, height), Resampling.BILINEAR, box)


@contextmanager
def _opened(file: File) -> Iterator[Image]:
    """The picture with its header read. Errors with it inside the block become ValueError."""
    from PIL import Image, UnidentifiedImageError

    try:
        if file.read is None and not Path(file.where).is_file():
            raise OSError("not a regular file")
        with Image.open(io.BytesIO(file.read()) if file.read else file.where, formats=FORMATS) as image:
            if image.size[0] * image.size[1] > MOST_PIXELS:
                raise Image.DecompressionBombError
            if image.mode == "F" or image.mode.startswith("I"):
                raise ValueError("16-bit grey, which 8 bits cannot hold; store such images in a .npz")
            yield image
    except UnidentifiedImageError:
        raise ValueError(f"{file.where}: not a PNG, JPEG, WebP or BMP picture; convert it, or remove it") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{file.where}: a picture of more than {MOST_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # decoders raise whatever they meet in a damaged file
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file.where}: a picture that cannot be read ({reason})") from None


def _turn(image: Image) -> str | None:
    """The transposition that turns a photograph upright, or None. (Pillow would decode a whole PNG to read its EXIF.)"""
    try:
        value = image.getexif().get(ORIENTATION, 1) if image.format != "PNG" else 1
        return TURNS[value - 2] if value in range(2, 9) else None
    except Exception:  # metadata may hold anything, and is not worth losing a picture for
        return None
