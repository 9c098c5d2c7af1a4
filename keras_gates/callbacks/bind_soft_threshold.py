"""Binds soft thresholds to the optimizer whose learning rate they follow."""

from __future__ import annotations

from typing import Any

import keras

from keras_gates.constraints import SoftThreshold


class BindSoftThreshold(keras.callbacks.Callback):
    """Binds each `SoftThreshold` of the model to the model's optimizer.

    `SoftThreshold` takes steps in proportion to the learning rate, so it must
    know the optimizer. This callback sets it when training begins.

    Raises:
        ValueError: If no weight of the model has a `SoftThreshold`.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> gate = kg.FilterGate(constraint=kg.constraints.SoftThreshold(0.5))
    >>> model = keras.Sequential([keras.Input((2,)), gate])
    >>> model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    >>> data = keras.ops.ones((4, 2))
    >>> history = model.fit(
    ...     data, data, verbose=0, callbacks=[kg.callbacks.BindSoftThreshold()]
    ... )
    >>> bool(keras.ops.all(gate.factor == 1.0 - 0.5 * 0.5))
    True
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        constraints = [
            variable.constraint
            for variable in self.model.variables
            if isinstance(getattr(variable, "constraint", None), SoftThreshold)
        ]
        if not constraints:
            raise ValueError(
                "BindSoftThreshold found nothing to bind in "
                f"'{self.model.name}'. Received: a model in which no weight "
                "has a SoftThreshold. Expected: at least one. Pass "
                "constraint=SoftThreshold(...) to a gate, or leave the "
                "callback out."
            )
        for constraint in constraints:
            constraint.bind(self.model.optimizer)
