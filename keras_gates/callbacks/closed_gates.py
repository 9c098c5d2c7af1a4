"""Logs how many gates are closed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_gates._checks import nonnegative_number
from keras_gates.graphs import private
from keras_gates.layers import BlockGate
from keras_gates.layers import BranchGate
from keras_gates.layers import FilterGate
from keras_gates.layers import HeadGate
from keras_gates.layers import LayerGate
from keras_gates.layers.factor_layer import FactorLayer

_KINDS = tuple(
    gate.kind
    for gate in (FilterGate, HeadGate, LayerGate, BranchGate, BlockGate)
)


class ClosedGates(keras.callbacks.Callback):
    """Logs the share of closed gate factors at the end of each epoch.

    `closed_gates = count(abs(factor) < threshold) / count(factor)`

    The share, a number in [0, 1], appears in the progress bar and in the
    history as `closed_gates`. If thresholds are given by kind, the share within
    each kind is logged too, as `closed_filter_gates` and so on, since ten layer
    gates would be lost among thousands of filter factors.

    Put it before callbacks that read the share, such as `EarlyStopping`
    or `CSVLogger`.

    Args:
        thresholds: A number for all gates, or a dict by kind of gate, such as
            `{"filter": 0.05, "layer": 0.2}`. Kinds of gates that are not in the
            dict are not counted.

    Raises:
        ValueError: If a threshold is negative, NaN or not a number, if a kind
            is unknown, or if the model has no gate to count.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> gate = kg.FilterGate()
    >>> model = keras.Sequential([keras.Input((2,)), gate])
    >>> model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    >>> gate.set_weights([keras.ops.array([0.01, 1.0])])
    >>> data = keras.ops.ones((4, 2))
    >>> history = model.fit(
    ...     data, data, verbose=0, callbacks=[kg.callbacks.ClosedGates(0.05)]
    ... )
    >>> history.history["closed_gates"]
    [0.5]
    """

    def __init__(self, thresholds: dict[str, float] | float) -> None:
        super().__init__()
        self.thresholds = _validated_thresholds(thresholds)
        self._by_kind = isinstance(thresholds, dict)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if not any(self._counted_gates()):
            raise ValueError(
                f"ClosedGates found nothing to count in '{self.model.name}'. "
                f"Received: a model without gates of kind "
                f"{', '.join(self.thresholds)}. Expected: at least one. Add "
                "gates, or leave the callback out."
            )

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        # Keras passes one dict to all callbacks in turn, and appends History
        # and the progress bar after those of the user, so both see the change.
        if logs is not None:
            logs.update(self._shares())

    def _shares(self) -> dict[str, float]:
        closed: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for kind, gate in self._counted_gates():
            is_closed = ops.abs(gate.factor) < self.thresholds[kind]
            closed[kind] += int(ops.sum(ops.cast(is_closed, "int32")))
            total[kind] += math.prod(gate.factor.shape)
        shares = {"closed_gates": closed.total() / total.total()}
        if self._by_kind:
            for kind in total:
                name = f"closed_{kind}_gates"
                shares[name] = closed[kind] / total[kind]
        return shares

    def _counted_gates(self) -> Iterator[tuple[str, FactorLayer]]:
        for layer in _all_layers(self.model):
            if not isinstance(layer, FactorLayer) or not layer.built:
                continue
            kind = layer.kind
            if kind is not None and kind in self.thresholds:
                yield kind, layer


def _all_layers(model: keras.Model) -> Any:
    return private.sublayers(model, own=True)


def _validated_thresholds(
    thresholds: dict[str, float] | float,
) -> dict[str, float]:
    """Return a dict from kind to threshold."""
    if not isinstance(thresholds, dict):
        threshold = nonnegative_number(thresholds, "thresholds", "ClosedGates")
        return dict.fromkeys(_KINDS, threshold)
    unknown = [kind for kind in thresholds if kind not in _KINDS]
    if unknown or not thresholds:
        raise ValueError(
            "ClosedGates cannot use these `thresholds`. Received: the kinds "
            f"{list(thresholds)}. Expected: one or more of {list(_KINDS)}. "
            "Correct the keys, or pass one number for all kinds."
        )
    return {
        kind: nonnegative_number(threshold, "thresholds", "ClosedGates")
        for kind, threshold in thresholds.items()
    }
