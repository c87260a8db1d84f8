"""A self-contained HTML page: text, tables and pictures in one file that needs no network and prints well."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; margin: 2rem auto; max-width: 76rem;
       padding: 0 1.2rem }
h1 { font-size: 1.6rem; margin: 0 0 .3rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem }
p { max-width: 60rem; margin: .5rem 0 } .quiet { color: #555 }
.wide { overflow-x: auto; margin: .6rem 0 1.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #e3e3e3; white-space: nowrap }
th { border-bottom: 2px solid #888; font-weight: 600 } th.text, td.text { text-align: left } td.best { font-weight: 700 }
td.text + td.text { white-space: normal; overflow-wrap: anywhere } td { vertical-align: top }
figure { margin: .8rem 0; break-inside: avoid } figcaption { color: #555; font-size: .85rem }
img { max-width: 100%; height: auto } .grid { display: grid; gap: .4rem 1.4rem;
       grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)) }
code, pre { font: .86rem/1.45 ui-monospace, monospace; background: #f5f5f5 } pre { padding: .7rem; overflow-x: auto;
       white-space: pre-wrap; overflow-wrap: anywhere } code { padding: .05rem .25rem; overflow-wrap: anywhere }
@media print { html, body { font-size: 11px } body { margin: 0; max-width: none } h2 { break-after: avoid }
       tr { break-inside: avoid } .wide { overflow: visible } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page of `parts`, which are HTML already; `title` is text."""
    return "\n".join(["<!doctype html>", '<html lang="en">', '<head><meta charset="utf-8">',
                      '<meta name="viewport" content="width=device-width, initial-scale=1">',
                      f"<title>{escape(title)}</title>", f"<style>{STYLE}</style></head>", "<body>",
                      f"<h1>{escape(title)}</h1>", *parts, "</body></html>", ""])


def heading(text: str) -> str:
    """Begins a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, *, quiet: bool = False) -> str:
    """A paragraph of plain text."""
    return f'<p{" class=quiet" if quiet else ""}>{escape(text)}</p>'


def code(text: str) -> str:
    """Text as it stands, in a typewriter face."""
    return f"<pre>{escape(text)}</pre>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text: int = 1,
          best: Iterable[tuple[int, int]] = ()) -> str:
    """A table of texts; its first `text` columns are aligned left, the cells (row, column) of `best` are bold."""
    best = set(best)
    kinds = lambda r, c: " ".join(["text"] * (c < text) + ["best"] * ((r, c) in best))
    cell = lambda tag, r, c, value: f'<{tag} class="{kinds(r, c)}">{escape(str(value))}</{tag}>'
    lines = ["<tr>" + "".join(cell("th", -1, c, value) for c, value in enumerate(header)) + "</tr>"]
    lines += ["<tr>" + "".join(cell("td", r, c, value) for c, value in enumerate(row)) + "</tr>"
              for r, row in enumerate(rows)]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def picture(path: str | Path, caption: str) -> str:
    """The SVG or PNG at `path`, carried in the page itself."""
    path = Path(path)
    return _figure({".svg": "svg+xml", ".png": "png"}[path.suffix], path.read_bytes(), caption)


def svg(text: str, caption: str) -> str:
    """The same of the text of an SVG."""
    return _figure("svg+xml", text.encode(errors="replace"), caption)


def _figure(kind: str, content: bytes, caption: str) -> str:
    data = base64.b64encode(content).decode()
    return (f'<figure><img alt="{escape(caption, quote=True)}" src="data:image/{kind};base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def grid(parts: Iterable[str]) -> str:
    """Parts side by side, as many as fit."""
    return f'<div class="grid">{"".join(parts)}</div>'
