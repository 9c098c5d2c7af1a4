"""Logs gates to TensorBoard or to any other logger."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.callbacks.loggers import logger_of
from keras_gates.graphs import graph as gr
from keras_gates.graphs.variables import synchronize
from keras_gates.regularizers.expected_cost import ExpectedCost
from keras_gates.surgeon.gates.find import factors_of
from keras_gates.thresholds.resolve import asked
from keras_gates.thresholds.resolve import resolve

if TYPE_CHECKING:
    from keras_gates.callbacks.loggers import Logger
    from keras_gates.thresholds.rule import Factors

# What callbacks of this package add to the logs, by the suffixes of the names.
_TOLD = ("_left", "_goal")


class LogGates(keras.callbacks.Callback):
    """Logs gates while a model trains: to TensorBoard, or to any logger.

    ```python
    board = keras.callbacks.TensorBoard("logs")
    reach = kg.callbacks.ReachBudget(macs=0.5)
    log = kg.callbacks.LogGates(board)
    gated.fit(..., callbacks=[reach, board, log])
    ```

    It logs:

    - `gates/closed`: the share of factors that are closed; also by kind of
      gate, as in `gates/closed_filter`.
    - `gates/expected_macs`: the expected cost of the pruned model, as a share,
      given how far gates are open; see `regularizers.ExpectedCost`.
    - `gates/macs_left`, `gates/macs_goal`, `gates/fading_left`: the logs of
      `ReachBudget` and `GrowDecay`, if these come earlier in the list of
      callbacks.
    - `factors/<gate>`: the factors of each gate, as a histogram.

    Args:
        to: Where to log: a `keras.callbacks.TensorBoard`, a folder for
            TensorBoard, a writer with `add_scalar` and `add_histogram`, like
            PyTorch's `SummaryWriter`, or a function of a name, a value and a
            step. The value is a number, or a NumPy array for a histogram.
        thresholds: What counts as closed: a number, a dict or a rule, as in
            `plan`. Defaults to `None`: factors that are exactly 0.
        every: The number of steps between two logs. Defaults to `None`: one log
            per epoch, whose step is the epoch.
        cost: `"macs"` or `"params"`, what `gates/expected_...` counts; None
            to leave it out.
        histograms: Whether to log the factors.

    Raises:
        ImportError: If `to` is a folder and no writer for TensorBoard is
            installed.
        TypeError: If `to` is none of these.
        ValueError: If `every` is not an integer of at least 1; when training
            begins, if the model has no gates.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> gate = kg.FilterGate(name="gate")
    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), gate, keras.layers.Dense(1)]
    ... )
    >>> gate.set_weights([keras.ops.array([0.0, 1.0])])
    >>> seen = {}
    >>> def logger(name, value, step):
    ...     seen[name] = value
    >>> log = kg.callbacks.LogGates(logger)
    >>> log.start(model)
    >>> log.log(step=0)
    >>> seen["gates/closed"], seen["gates/expected_macs"]
    (0.5, 0.5)
    """

    def __init__(
        self,
        to: str | os.PathLike[str] | keras.callbacks.TensorBoard | Any,
        thresholds: Any = None,
        *,
        every: int | None = None,
        cost: str | None = "macs",
        histograms: bool = True,
    ) -> None:
        super().__init__()
        whole = isinstance(every, int) and not isinstance(every, bool)
        if every is not None and not (whole and every >= 1):
            raise ValueError(
                "`every` must be a number of steps of at least 1, or None "
                f"for once per epoch. Received: every={every!r}."
            )
        self.logger: Logger = logger_of(to)
        self.thresholds = thresholds
        self.every, self.histograms = every, histograms
        self._expected = None if cost is None else ExpectedCost(1.0, cost)
        self._gated: keras.Model | None = None
        self._steps = 0

    # A loop of the user's own ----------------------------------------------

    def start(self, model: keras.Model) -> None:
        """Begin to log a model in a custom training loop.

        Args:
            model: The model with gates, built.

        Raises:
            ValueError: If it has none.
        """
        gates = asked(self.thresholds, factors_of(gr.read(model)))
        if not gates:
            raise ValueError(
                f"LogGates found no gate in '{model.name}'. Put gates into it "
                "(keras_gates.insert_gates); or, for the gammas of batch "
                'normalizations, pass thresholds={"batch_norm": 0.1}.'
            )
        if self._expected is not None:
            self._expected.watch(model, sorted({gate.kind for gate in gates}))
        self._gated = model

    def log(self, step: int, logs: dict[str, Any] | None = None) -> None:
        """Log the current state of the gates.

        Args:
            step: The step or epoch to log them under.
            logs: The logs of other callbacks.

        Raises:
            RuntimeError: If `start` was not called.
        """
        model = self._gated
        if model is None:
            raise RuntimeError(
                "LogGates has no model. Call start(model) before the first "
                "log(step), or pass the callback to fit()."
            )
        synchronize(model)
        gates = asked(self.thresholds, factors_of(gr.read(model)))
        for name, share in self._closed(gates).items():
            self.logger(f"gates/{name}", share, step)
        if self._expected is not None:
            share = float(keras.ops.convert_to_numpy(self._expected()))
            self.logger(f"gates/expected_{self._expected.of}", share, step)
        for name, value in (logs or {}).items():
            if name.endswith(_TOLD):
                self.logger(f"gates/{name}", float(value), step)
        for gate in gates if self.histograms else ():
            self.logger(f"factors/{gate.name}", gate.values.reshape(-1), step)

    def _closed(self, gates: list[Factors]) -> dict[str, float]:
        """The shares of closed factors, in total and by kind."""
        closed: dict[str, NDArray[np.bool_]]
        if self.thresholds is None:
            closed = {gate.name: gate.values == 0 for gate in gates}
        else:
            closed = resolve(self.thresholds, gates)
        kinds: dict[str, list[NDArray[np.bool_]]] = {"closed": []}
        for gate in gates:
            mask = closed[gate.name].reshape(-1)
            kinds["closed"].append(mask)
            kinds.setdefault(f"closed_{gate.kind}", []).append(mask)
        return {
            name: float(np.concatenate(masks).mean())
            for name, masks in kinds.items()
        }

    # Keras' fit -------------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.start(self.model)
        self._steps = 0

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._steps += 1
        if self.every is not None and self._steps % self.every == 0:
            self.log(self._steps, logs)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if self.every is None:
            self.log(epoch, logs)
