"""Tables: as plain text, as Markdown, and as HTML."""

from __future__ import annotations

import html as _html
from collections.abc import Sequence
from typing import NamedTuple


class Change(NamedTuple):
    """A number before and after; HTML draws it as a bar.

    Attributes:
        before: the number before; None where there is none.
        after: the number after.
        most: what fills the bar.
    """

    before: int | None
    after: int | None
    most: int = 0

    def __str__(self) -> str:
        left, right = (
            "-" if n is None else f"{n:,}" for n in (self.before, self.after)
        )
        return left if left == right else f"{left} -> {right}"


# An integer gets thousands separators, and None reads "unknown".
Cell = str | int | Change | None


def text(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The `lines` of a table, joined."""
    return "\n".join(lines(head, rows))


def lines(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Columns under a ruled header; numbers are right-aligned, the rest left.

    A column is numeric if any of its entries is an integer.

    Args:
        head: the title of each column.
        rows: for each row, one cell per column.

    Returns:
        The header, the rule below it, and a line for each row.
    """
    numbers = _numbers(head, rows)
    cells = [list(head), *([_cell(x) for x in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    cells.insert(1, ["-" * width for width in widths])
    return [_line(row, widths, numbers) for row in cells]


def markdown(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The same as a table of Markdown."""
    rule = ["---:" if number else "---" for number in _numbers(head, rows)]
    cells = [list(head), rule, *([_cell(x) for x in row] for row in rows)]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def html(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The same as a table of HTML, with a bar for each `Change`."""
    sides = ["right" if n else "left" for n in _numbers(head, rows)]
    out = ["<table>", _html_row("th", list(map(escape, head)), sides)]
    for row in rows:
        out.append(_html_row("td", list(map(_html_cell, row)), sides))
    return "\n".join([*out, "</table>"])


def escape(words: object) -> str:
    """Text escaped for HTML."""
    return _html.escape(str(words))


# How wide a bar is, in pixels.
_BAR = 140


def _html_row(tag: str, cells: list[str], sides: list[str]) -> str:
    filled = (
        f'<{tag} style="text-align:{side}">{cell}</{tag}>'
        for cell, side in zip(cells, sides, strict=True)
    )
    return f"<tr>{''.join(filled)}</tr>"


def _html_cell(value: Cell) -> str:
    told = escape(_cell(value)).replace("-&gt;", "&rarr;")
    if not isinstance(value, Change) or not value.most:
        return told
    # The removed part is faint, in the color of the text, which reads on any
    # background.
    bars = "".join(
        f'<rect width="{_BAR * (size or 0) / value.most:.1f}" height="5" '
        f'fill="{fill}"/>'
        for size, fill in [
            (value.before, 'currentColor" fill-opacity=".2'),
            (value.after, "#3b82c4"),
        ]
    )
    return (
        f'<span style="white-space:nowrap">{told}</span><br>'
        f'<svg width="{_BAR}" height="5">{bars}</svg>'
    )


def _numbers(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[bool]:
    """Which columns are numeric."""
    return [
        any(isinstance(row[i], int) for row in rows) for i in range(len(head))
    ]


def _line(cells: list[str], widths: list[int], numbers: list[bool]) -> str:
    padded = [
        cell.rjust(width) if number else cell.ljust(width)
        for cell, width, number in zip(cells, widths, numbers, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _cell(value: Cell) -> str:
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) else str(value)
