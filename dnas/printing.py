"""What is printed while something goes on: names out of files and folders among it, which no terminal shall obey."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` without what a terminal would obey, or show in another order than it stands. Line ends and tabs stay, and bytes
    of a file's name that are no text are spelled out."""
    letters = text.encode(errors="backslashreplace").decode()
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in letters)


def print_flushed(text: str) -> None:
    """Prints a text at once."""
    print(printable(text), flush=True)
