"""Tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence

# An integer gets thousands separators, and None reads "unknown".
Cell = str | int | None


def text(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The `lines` of a table, one below the other."""
    return "\n".join(lines(head, rows))


def lines(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Columns under a ruled head; numbers to the right, the rest left.

    A column is one of numbers if any of its entries is an integer.

    Args:
        head: the title of each column.
        rows: for each row, a cell a column.

    Returns:
        The head, the rule under it, and a line for each of the rows.
    """
    numbers = [
        any(isinstance(row[i], int) for row in rows) for i in range(len(head))
    ]
    cells = [list(head), *([_cell(x) for x in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    cells.insert(1, ["-" * width for width in widths])
    return [_line(row, widths, numbers) for row in cells]


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
