"""A picture of a plan: the width of each layer, before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

from keras_gates import _pictures

if TYPE_CHECKING:
    from keras_gates.surgeon.report.document import PlanLike
    from keras_gates.surgeon.report.table import Row


def draw_widths(plan: PlanLike, ax: Any = None) -> Any:
    """Draw a bar for each layer with a kernel; as `Plan.plot`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = [row for row in plan.rows if _has_kernel(row)]
    ax = _pictures.axes(ax, (7.5, 1.4 + 0.24 * len(rows)))
    _pictures.before_and_after(
        ax,
        [row.layer for row in rows],
        [row.before or 0 for row in rows],
        [row.after or 0 for row in rows],
    )
    ax.set_xlabel("channels")
    ax.set_title(f"Width of each layer of '{plan.model.name}'")
    return ax


def _has_kernel(row: Row) -> bool:
    multiplies = row.macs is None or row.macs.before > 0
    return multiplies and row.params.before > 0 and row.before is not None
