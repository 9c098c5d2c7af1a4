"""Tables of plain text."""

from __future__ import annotations

from typing import Any


def text(head: Any, rows: Any) -> Any:
    """Columns under a ruled head; numbers to the right, the rest left.

    Integers get thousands separators, and `None` reads "unknown". A column
    is one of numbers if any of its entries is an integer.
    """
    columns = list(zip(*rows, strict=True))
    right = [any(isinstance(x, int) for x in column) for column in columns]
    lines = [head, None, *([_cell(x) for x in row] for row in rows)]
    widths = [
        max(len(line[i]) for line in lines if line) for i in range(len(head))
    ]
    lines[1] = ["-" * width for width in widths]
    return "\n".join(_line(line, widths, right) for line in lines)


def _line(cells: Any, widths: Any, right: Any) -> Any:
    padded = [
        cell.rjust(width) if number else cell.ljust(width)
        for cell, width, number in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _cell(value: Any) -> Any:
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) else str(value)
