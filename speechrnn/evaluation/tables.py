"""Tables and numbers as people read them: in a terminal, in Markdown, in a page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A table of text."""

    head: tuple[str, ...]
    """Names of the columns."""
    align: str
    """`<` or `>` for each column."""
    rows: Sequence[tuple[str, ...]]
    """Cells as text."""

    def to_lines(self) -> list[str]:
        """Lines for a terminal, columns two spaces apart."""
        rows = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        formats = list(zip(self.align, widths, strict=True))
        return [
            "  ".join(f"{cell:{align}{width}}" for cell, (align, width) in zip(row, formats, strict=True)).rstrip()
            for row in rows
        ]

    def to_markdown(self) -> list[str]:
        """Lines of a Markdown table; a bar within a cell is escaped."""
        rule = "|" + "---|" * len(self.head)
        return [_markdown_line(self.head), rule, *map(_markdown_line, self.rows)]

    def to_html(self) -> str:
        """An HTML table whose cells have the class `text` or `number`; all text is escaped."""
        kinds = ["text" if align == "<" else "number" for align in self.align]

        def line(cells: tuple[str, ...], tag: str) -> str:
            pairs = zip(cells, kinds, strict=True)
            marked = (f'<{tag} class="{kind}">{html.escape(cell)}</{tag}>' for cell, kind in pairs)
            return f"<tr>{''.join(marked)}</tr>"

        rows = "\n".join(line(row, "td") for row in self.rows)
        head = f"<thead>{line(self.head, 'th')}</thead>"
        return f'<div class="wide"><table>\n{head}\n<tbody>\n{rows}\n</tbody></table></div>'


def _markdown_line(cells: tuple[str, ...]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return "|" + "|".join(f" {cell} " if cell else " " for cell in escaped) + "|"


def percent(rate: float) -> str:
    """A rate in [0, 1] as per cent with one decimal; a dash where there is none."""
    return number(rate, ".1%").replace("%", " %")


def number(value: float, form: str) -> str:
    """A number as `format` writes it; a dash for NaN."""
    return "-" if math.isnan(value) else format(value, form)
