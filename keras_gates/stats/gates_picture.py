"""Histograms of the factors of gates."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates import _pictures
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.gates.find import factors_of
from keras_gates.thresholds.resolve import key_of
from keras_gates.thresholds.resolve import resolve
from keras_gates.thresholds.rule import NAMED

if TYPE_CHECKING:
    from keras_gates.thresholds.rule import Factors

_BINS, _COLUMNS = 40, 4


def plot_gates(
    model: keras.Model, thresholds: Any = None, *, by: str = "kind"
) -> Any:
    """Draw histograms of the factors of a model's gates, and what closes.

    The factors of trained gates form two groups: those near 0, and the others.
    A threshold belongs between them.

    Args:
        model: A built model with gates.
        thresholds: A number, a dict, or a rule such as `Quantile(0.5)`, as in
            `plan`: closed factors are drawn in another color, and numbers as
            lines. For a `Budget`, pass `plan(model, budget).masks()`, which has
            a mask for each gate. Defaults to `None`.
        by: `"kind"` for a panel for each kind of gate, or `"gate"` for one
            for each gate.

    Returns:
        A `matplotlib.figure.Figure`; `savefig` writes it.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError, ValueError: the thresholds are not those of this model, as
            in `plan`; the model has no gates; or `by` is unknown.

    Example:
    >>> import keras_gates as kg
    >>> gated = kg.insert_gates(kg.zoo.mlp([8], input_shape=(4,)), filters=True)
    >>> figure = kg.stats.plot_gates(gated, thresholds=0.05)
    >>> len(figure.axes)
    1
    """
    if by not in ("kind", "gate"):
        raise ValueError(f'`by` must be "kind" or "gate". Received: {by!r}.')
    gates = _gates(model, thresholds)
    closed = _closed(thresholds, gates)
    panels: dict[str, list[Factors]] = {}
    for gate in gates:
        panels.setdefault(gate.kind if by == "kind" else gate.name, [])
        panels[gate.kind if by == "kind" else gate.name].append(gate)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = max(5.0, 3.2 * columns), 0.4 + 2.6 * rows
    axes = _pictures.grid(rows, columns, size)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, (title, members) in zip(axes.flat, panels.items(), strict=False):
        masks = [closed[gate.name] for gate in members]
        limits = {_limit(thresholds, gate) for gate in members} - {None}
        title = f"{title} gates" if by == "kind" else title
        _draw(ax, title, members, masks, limits if len(limits) == 1 else set())
    axes.flat[0].set_ylabel("factors")
    return axes.flat[0].figure


def _gates(model: keras.Model, thresholds: Any) -> list[Factors]:
    """The gates to draw."""
    keys = thresholds if isinstance(thresholds, dict) else ()
    found = [
        gate
        for gate in factors_of(see_through.read(model))
        if gate.kind not in NAMED or key_of(keys, gate.name, gate.kind)
    ]
    if not found:
        raise ValueError(
            f"Model '{model.name}' has no gates to draw. Put some into it "
            "with keras_gates.insert_gates; or, for the gammas of batch "
            'normalizations, pass thresholds={"batch_norm": 0.1}.'
        )
    return found


def _closed(
    thresholds: Any, gates: list[Factors]
) -> dict[str, NDArray[np.bool_]]:
    """The closed factors of each gate."""
    none = {gate.name: np.zeros(gate.values.shape, bool) for gate in gates}
    if thresholds is None:
        return none
    if isinstance(thresholds, dict) and all(
        isinstance(mask, np.ndarray) for mask in thresholds.values()
    ):
        return {name: thresholds.get(name, none[name]) for name in none}
    return resolve(thresholds, gates)


def _limit(thresholds: Any, gate: Factors) -> float | None:
    """The number that a gate's factors are compared with, if it is one."""
    found = thresholds
    if isinstance(thresholds, dict):
        key = key_of(thresholds, gate.name, gate.kind)
        found = None if key is None else thresholds[key]
    return float(found) if isinstance(found, numbers.Real) else None


def _draw(
    ax: Any,
    title: str,
    gates: list[Factors],
    masks: list[NDArray[np.bool_]],
    limits: set[float | None],
) -> None:
    """One panel: a histogram, with closed factors in another color."""
    values = np.concatenate([np.abs(g.values).reshape(-1) for g in gates])
    shut = np.concatenate([mask.reshape(-1) for mask in masks])
    top = float(values.max(initial=0.0)) or 1.0
    ax.hist(
        [values[shut], values[~shut]],
        bins=np.linspace(0, top * 1.001, _BINS),
        color=[_pictures.LIMIT, _pictures.STAYS],
        label=[f"closed: {shut.sum():,}", f"open: {(~shut).sum():,}"],
        stacked=True,
    )
    for limit in limits:
        ax.axvline(limit, color=_pictures.LIMIT, linestyle="--", linewidth=1)
    ax.set_title(title, fontsize="medium")
    ax.set_xlabel("size of the factor")
    ax.legend(frameon=False, fontsize="small")
