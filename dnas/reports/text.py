"""Tables and times as text."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 1e9
"""Seconds, 30 years, that are told in hours."""


def columns(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Rows of texts in columns; the first `left` are aligned left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) if i < left else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows)


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min; 1e+12 s of what cannot be."""
    if abs(seconds) >= LONGEST:
        return f"{seconds:.3g} s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{max(seconds, 1)} s"
    return f"{seconds // 60} min {seconds % 60} s" if seconds < 3600 else f"{seconds // 3600} h {seconds % 3600 // 60} min"
