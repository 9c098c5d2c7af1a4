"""Decays weights before they are pruned."""

from __future__ import annotations

import math
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_gates.graphs.variables import synchronize
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.weight_slices import WeightSlices
from keras_gates.surgeon.gates.weight_slices import slices_of
from keras_gates.surgeon.plan import plan
from keras_gates.surgeon.scores import score

# The share of the training in which weights decay.
_COURSE = 0.8


class _Fading(NamedTuple):
    """Slices of a weight, some of which decay.

    Attributes:
        slices: as `weight_slices` has them.
        closed: which of them decay; bool, `(slices,)`.
        norms: the size of each at the start; float, `(slices,)`.
    """

    slices: WeightSlices
    closed: NDArray[np.bool_]
    norms: NDArray[np.float64]


class GrowDecay(keras.callbacks.Callback):
    """Decays the weights that will be pruned while a model trains.

    ```python
    grow = kg.callbacks.GrowDecay(kg.Budget(macs=0.5))
    model.fit(..., callbacks=[grow])
    small = kg.surgeon.prune(model, grow.thresholds, scores=grow.scores)
    ```

    A sudden cut removes channels that the rest of the network relies on. This
    callback chooses the channels at the start, by scores, and then decays the
    kernel slices that read them: after each batch, they are scaled down to at
    most `(1 + cos(pi * t)) / 2` of their initial size. They are 0 at t = 1,
    after four fifths of the training. Meanwhile, the rest of the network learns
    to work without them, and the cut at the end removes zeros.

    No gate is needed, and there is no strength to tune. The loss does not
    change, so any optimizer works.

    The logs hold `fading_left`, the size of the decaying weights as a share of
    their initial size.

    In a custom training loop, call `start(model, steps)` once, and `step()`
    after each optimizer step.

    Reference:

    - [Wang et al., 2021, Neural Pruning via Growing
      Regularization](https://arxiv.org/abs/2012.09243), where the factor of an
      L2 penalty grows

    Args:
        thresholds: What to close, as in `plan`: a number, a rule such as
            `Budget` or `Quantile`, or a dict by group.
        scores: As in `plan`. Defaults to `None`: `score(model, "l2")` when
            training begins.
        **options: Further options of `plan`, such as `keep_at_least`.

    Attributes:
        thresholds: What to pass to `prune`.
        scores: The scores that were used; `None` before training.

    Raises:
        ValueError: When training begins, if no kernel reads the closed
            channels.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(100, activation="relu"),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> model.compile(optimizer="adam", loss="mse")
    >>> x, y = np.ones((100, 8)), np.ones((100, 2))
    >>> grow = kg.callbacks.GrowDecay(kg.Budget(macs=0.5))
    >>> history = model.fit(
    ...     x, y, batch_size=4, epochs=8, verbose=0, callbacks=[grow]
    ... )
    >>> small = kg.surgeon.prune(model, grow.thresholds, scores=grow.scores)
    >>> small.layers[0].units
    50
    """

    def __init__(
        self, thresholds: Any, scores: Any = None, **options: Any
    ) -> None:
        super().__init__()
        self.thresholds, self.scores = thresholds, scores
        self.options = options
        self._fading: list[_Fading] = []
        self._total = self._done = 0
        self._size = 1.0

    def start(self, model: keras.Model, steps: int) -> None:
        """Begin training in a custom loop.

        Args:
            model: The model, built.
            steps: The total number of optimizer steps.
        """
        if self.scores is None:
            self.scores = score(model, "l2")
        decided = plan(
            model, self.thresholds, scores=self.scores, **self.options
        )
        self._fading = _read_by(model, decided.masks())
        if not self._fading:
            raise ValueError(
                f"GrowDecay found nothing in '{model.name}' to decay. "
                "Received: thresholds that close no channel that a kernel "
                "reads. print(keras_gates.surgeon.plan(model, thresholds, "
                "scores=scores)) shows what closes."
            )
        self._model, self._total, self._done = model, max(1, steps), 0
        self._size = self._left() or 1.0

    def step(self) -> None:
        """Update the weights after an optimizer step.

        Raises:
            RuntimeError: If `start` was not called.
        """
        if not self._total:
            raise RuntimeError(
                "GrowDecay has not started. Received: step() before start(). "
                "Expected: start(model, steps) once, or fit(callbacks=[...])."
            )
        self._done += 1
        share = min(1.0, self._done / (_COURSE * self._total))
        self._fade((1 + math.cos(math.pi * share)) / 2)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        steps = self.params.get("steps")
        if not steps:
            raise ValueError(
                "GrowDecay needs the number of training steps. Received: "
                "data of unknown length. Pass steps_per_epoch to fit()."
            )
        self.start(self.model, steps * self.params["epochs"])

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self.step()

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if logs is not None:
            logs["fading_left"] = self._left() / self._size

    def _fade(self, allowed: float) -> None:
        """Scale slices down to a share of their initial size."""
        synchronize(self._model)
        for slices, closed, norms in self._fading:
            values = ops.reshape(slices.variable, slices.shape)
            rest = [a for a in range(len(slices.shape)) if a != slices.axis]
            now = ops.sqrt(
                ops.sum(ops.square(ops.cast(values, "float32")), rest, True)
            )
            shape = [1] * len(slices.shape)
            shape[slices.axis] = -1
            most = np.where(closed, allowed * norms, np.inf).reshape(shape)
            limit = ops.convert_to_tensor(most, "float32")
            # The epsilon keeps slices of zeros at zero.
            factors = ops.minimum(1.0, limit / (now + 1e-30))
            values = values * ops.cast(factors, values.dtype)
            slices.variable.assign(ops.reshape(values, slices.variable.shape))

    def _left(self) -> float:
        """The total size of the decaying slices."""
        synchronize(self._model)
        total = 0.0
        for slices, closed, _ in self._fading:
            values = ops.convert_to_numpy(slices.variable)
            along = np.moveaxis(values.reshape(slices.shape), slices.axis, 0)
            total += float(np.abs(along[closed]).sum())
        return total


def _read_by(
    model: keras.Model, masks: dict[str, NDArray[np.bool_]]
) -> list[_Fading]:
    """The kernel slices that read the closed units of groups."""
    graph = expand.read(model)
    found = groups.find(graph)
    closed = np.zeros(len(found.labelling.classes), bool)
    for name, mask in masks.items():
        if name in found.groups:
            closed[found.groups[name].units[mask]] = True
    return [
        _Fading(slices, closed[slices.classes], _norms(slices))
        for slices in slices_of(graph, found)
        if slices.reads and closed[slices.classes].any()
    ]


def _norms(slices: WeightSlices) -> NDArray[np.float64]:
    values = ops.convert_to_numpy(slices.variable).astype("float64")
    along = np.moveaxis(values.reshape(slices.shape), slices.axis, 0)
    norms: NDArray[np.float64] = np.linalg.norm(
        along.reshape(len(along), -1), axis=1
    )
    return norms
