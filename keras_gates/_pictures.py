"""Drawing with Matplotlib, which is imported on first use."""

from __future__ import annotations

from typing import Any

# The colors of what stays, of what is removed, and of the line between.
STAYS, GOES, LIMIT = "#3b82c4", "#b9bec6", "#c43b4b"
# The number of bars that a legend is as high as.
_BESIDE = 3


def axes(ax: Any = None, size: tuple[float, float] = (6.4, 4.8)) -> Any:
    """Axes to draw on: those passed, or new ones from pyplot.

    Args:
        ax: axes of matplotlib, or None.
        size: width and height of a new figure, in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise _missing() from error
    return _plain(pyplot.subplots(figsize=size, layout="constrained")[1])


def grid(rows: int, columns: int, size: tuple[float, float]) -> Any:
    """An array of axes of a new figure, `(rows, columns)`.

    Pyplot makes the figure, since a notebook cannot draw any before pyplot
    has chosen its backend, and forgets it: the notebook would show it twice.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise _missing() from error
    figure, found = pyplot.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained"
    )
    pyplot.close(figure)
    for ax in found.flat:
        _plain(ax)
    return found


def _plain(ax: Any) -> Any:
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _missing() -> ImportError:
    return ImportError(
        "Pictures need matplotlib, which is not installed. Run: "
        "pip install 'keras_gates[report]'."
    )


def before_and_after(
    ax: Any, names: list[str], before: list[int], after: list[int]
) -> None:
    """Draw a bar for each name: the size before, with the size after on top."""
    ax.barh(names, before, color=GOES, label="before")
    ax.barh(names, after, color=STAYS, label="after")
    for at, (old, new) in enumerate(zip(before, after, strict=True)):
        told = f"{old:,}" if old == new else f"{old:,} → {new:,}"
        ax.text(max(old, new), at, f" {told}", va="center", fontsize="small")
    # Half a bar of space at either end; the first name is on top.
    ax.set_ylim(len(names), -1)
    widest = max([*before, *after, 1])
    ax.set_xlim(0, widest * 1.3)
    # A wide bar at the bottom, with its label, leaves no room there.
    low = max([*before[-_BESIDE:], *after[-_BESIDE:], 0]) < widest / 2
    high = max([*before[:_BESIDE], *after[:_BESIDE], 0]) < widest / 2
    if low or high:
        ax.legend(frameon=False, loc="lower right" if low else "upper right")
    else:
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
