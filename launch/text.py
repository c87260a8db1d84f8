"""Text for a terminal."""


def plain(text: str) -> str:
    """`text` on one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
