"""The parts of a stock recurrent layer: its cells and its outputs."""

from __future__ import annotations

from typing import Any
from typing import NamedTuple

import keras

LAYERS = (keras.layers.SimpleRNN, keras.layers.GRU, keras.layers.LSTM)
CONVOLUTIONS = (
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.ConvLSTM3D,
)
CELLS = (
    keras.layers.SimpleRNNCell,
    keras.layers.GRUCell,
    keras.layers.LSTMCell,
)


class Output(NamedTuple):
    """One of the flat outputs of a recurrent layer.

    Attributes:
        hidden: whether it holds the units' outputs; a state `c` does not.
        state: whether it is a state rather than the output itself.
        repeats: how often the units appear along its channel axis.
    """

    hidden: bool
    state: bool
    repeats: int = 1


def directions(layer: Any) -> list[keras.Layer]:
    """The layer itself, or both layers of a `Bidirectional`."""
    if type(layer) is keras.layers.Bidirectional:
        return [layer.forward_layer, layer.backward_layer]
    return [layer]


def cells(layer: Any) -> list[Any]:
    """The cells that hold the kernels, one for each direction."""
    return [way.cell for way in directions(layer)]


def units(layer: Any) -> int:
    """How many units, or filters, each direction has."""
    cell = cells(layer)[0]
    return int(getattr(cell, "units", None) or cell.filters)


def channel_axis(layer: Any) -> int:
    """The axis of the units in all outputs, counted from the end."""
    (cell, *_) = cells(layer)
    first = getattr(directions(layer)[0], "data_format", None)
    return -1 - cell.rank if first == "channels_first" else -1


def outputs(layer: Any) -> list[Output]:
    """The flat outputs of a recurrent layer, in order."""
    ways = directions(layer)
    mode = getattr(layer, "merge_mode", None)
    found = [Output(True, False) for _ in ways]
    if len(ways) > 1 and mode is not None:
        found = [Output(True, False, 2 if mode == "concat" else 1)]
    if layer.return_state:
        for way in ways:
            count = len(way.state_size) if _has_list(way) else 1
            count = 2 if isinstance(way, CONVOLUTIONS) else count
            # The output is the first of the states.
            found += [Output(number == 0, True) for number in range(count)]
    return found


def _has_list(way: Any) -> bool:
    return isinstance(way.state_size, (list, tuple))


def why_not(layer: Any) -> str | None:
    """Why the units of a layer can't have factors inside its loop.

    Returns:
        A clause, or None if they can.
    """
    kind = type(layer)
    if kind is keras.layers.Bidirectional:
        return _why_not_both(layer)
    if kind is keras.layers.RNN:
        cell = layer.cell
        if type(cell) is keras.layers.StackedRNNCells:
            return (
                "it has several cells; use one RNN for each, and gate those "
                "that may lose units"
            )
        if type(cell) not in CELLS:
            return (
                f"its cell is of type {type(cell).__name__}, which may use "
                "its state in any way"
            )
    elif kind not in (*LAYERS, *CONVOLUTIONS):
        return "it is no recurrent layer of Keras"
    if layer.stateful:
        return "it is stateful: its state would outlive a change of a factor"
    return None


def _why_not_both(layer: Any) -> str | None:
    ways = directions(layer)
    for way in ways:
        why = why_not(way)
        if why is not None or type(way) in CONVOLUTIONS:
            return f"of its '{way.name}' (of type {type(way).__name__}): " + (
                why or "a convolution both ways has no rule"
            )
    first, second = (cells(way)[0] for way in ways)
    if type(ways[0]) is not type(ways[1]) or type(first) is not type(second):
        return (
            "its two directions are of different types, "
            f"{type(ways[0]).__name__} and {type(ways[1]).__name__}"
        )
    if first.units != second.units:
        return (
            "its two directions have different widths, "
            f"{first.units} and {second.units}"
        )
    return None
