"""Prints text with names from files and folders, without control characters that a terminal would obey."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` without characters that control a terminal or the order of text, but with line ends and tabs. Bytes of a file
    name that are not text are escaped."""
    letters = text.encode(errors="backslashreplace").decode()
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in letters)


def print_flushed(text: str) -> None:
    """Prints a text at once."""
    print(printable(text), flush=True)
