"""Tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence


def text(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns under a ruled head; numbers to the right, the rest left.

    Integers get thousands separators, and `None` reads "unknown". A column
    is one of numbers if any of its entries is an integer.
    """
    columns = list(zip(*rows, strict=True))
    right = [any(isinstance(x, int) for x in column) for column in columns]
    cells = [head, *([_cell(x) for x in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [cells[0], ["-" * width for width in widths], *cells[1:]]
    return "\n".join(_line(line, widths, right) for line in lines)


def _line(
    cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]
) -> str:
    padded = [
        cell.rjust(width) if number else cell.ljust(width)
        for cell, width, number in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _cell(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) else str(value)
