"""A text as a data set: windows of characters, and the next character at each position."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dnas.data.checks import checked_file
from dnas.data.dataset import Dataset, assembled
from dnas.data.splits import HOLDOUT, SPLITS, TEST, whole_number

WINDOW = 64


def text_file(path: Path, *, window: int | None = None, limit: int | None = None) -> Dataset:
    """The Dataset of a UTF-8 file for the task next-token: inputs and targets [N, window] int32, numbers of characters.

    Characters are numbered by their code points; `class_names` are the characters, escaped if not printable.
    The text is cut into four blocks, train, valid, holdout and test, and each block into windows that do not overlap, so
    that splits share no characters. A target is the character after its input, of the same block.
    window: characters, default WINDOW. limit: windows to use outside the test set, the first of each block.
    Raises ValueError, beginning with the path, if it is not UTF-8 or too short.
    """
    window = whole_number(f"{path}: window", WINDOW if window is None else window, 1)
    numbers, characters = _numbered(path)
    blocks = dict(zip(SPLITS, np.split(numbers, _borders(len(numbers)))))
    counts = {part: max(0, len(block) - 1) // window for part, block in blocks.items()}
    if min(counts.values()) < 1:
        part = min(blocks, key=lambda part: len(blocks[part]))
        raise ValueError(f"{path}: {len(numbers):,} characters leave {len(blocks[part]):,} for the {part} split, which "
                         f"needs at least {window + 1} for a window of {window}")
    counts |= _limited(str(path), {part: counts[part] for part in SPLITS[:3]}, limit)
    inputs, targets = (np.concatenate([blocks[part][shift:shift + counts[part] * window] for part in SPLITS])
                       .reshape(-1, window) for shift in (0, 1))
    splits = dict(zip(SPLITS, np.split(np.arange(len(inputs), dtype=np.int32), np.cumsum(list(counts.values()))[:-1])))
    names = tuple(c if c.isprintable() else ascii(c)[1:-1] for c in characters)
    data = assembled(str(path), inputs, targets, splits, len(characters), "next-token")
    return data._replace(name=path.resolve().stem, class_names=names, characters="".join(characters))


def windows_of(path: Path, characters: str, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets [N, window] int32 of a UTF-8 file, one window after the other, without an incomplete last one.
    characters: those of the Dataset that numbers them.

    Raises ValueError, beginning with the path, if the file is too short or has other characters.
    """
    codes = _codes(path)
    if len(codes) <= window:
        raise ValueError(f"{path}: {len(codes):,} characters; a window of {window} and the character after it need "
                         f"{window + 1}")
    alphabet = np.array([ord(character) for character in characters], np.uint32)
    numbers = np.searchsorted(alphabet, codes).clip(max=len(alphabet) - 1)
    strange = alphabet[numbers] != codes
    if strange.any():
        line = 1 + int((codes[:strange.argmax()] == ord("\n")).sum())
        raise ValueError(f"{path}, line {line}: character {ascii(chr(codes[strange.argmax()]))} is not one of the "
                         f"{len(alphabet)} that the network was trained on")
    count = (len(codes) - 1) // window
    inputs, targets = (numbers[shift:shift + count * window].reshape(count, window).astype(np.int32) for shift in (0, 1))
    return inputs, targets


def _numbered(path: Path) -> tuple[np.ndarray, list[str]]:
    """The number of each character int32, and the characters in the order of their numbers."""
    codes, numbers = np.unique(_codes(path), return_inverse=True)
    if len(codes) < 2:
        raise ValueError(f"{path}: {len(codes)} different characters; a text needs at least two")
    return numbers.reshape(-1).astype(np.int32), [chr(code) for code in codes]


def _codes(path: Path) -> np.ndarray:
    """The code point uint32 of each character."""
    try:
        text = checked_file(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; the text must be stored as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; it should be a file that can be read") from None
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _borders(length: int) -> list[int]:
    """First positions of the blocks valid, holdout and test."""
    test = round(length * (1 - TEST))
    holdout = round(test * (1 - HOLDOUT))
    return [holdout // 2, holdout, test]


def _limited(where: str, counts: dict[str, int], limit: int | None) -> dict[str, int]:
    """How many windows of each part to use, in proportion to their numbers."""
    total = sum(counts.values())
    if limit is None:
        return counts
    if whole_number(f"{where}: limit", limit, 1) > total:
        raise ValueError(f"{where}: limit {limit}, but it has {total} windows outside the test set")
    ends = np.rint(np.cumsum(list(counts.values())) * (limit / total)).astype(int)
    selected = dict(zip(counts, np.diff(ends, prepend=0).tolist()))
    if min(selected.values()) < 1:
        part = min(selected, key=selected.get)
        raise ValueError(f"{where}: {limit} windows outside the test set leave the {part} split empty")
    return selected
