"""The expected cost of a model as a penalty on its gates."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gates._checks import nonnegative_number
from keras_gates.layers import hard_concrete
from keras_gates.penalties import magnitude
from keras_gates.regularizers.of_model import OfModel
from keras_gates.thresholds.rule import NAMED

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence

    from keras_gates.surgeon.expected.model_cost import ModelCost
    from keras_gates.surgeon.rules.source import Source

RESOURCES = ("macs", "params")


@keras.saving.register_keras_serializable(package="keras_gates")
class ExpectedCost(OfModel):
    """The expected cost of the pruned model, given how far gates are open.

    `loss = strength * cost(min(abs(factors), 1)) / cost(1)`

    The cost is that of the whole model, including everything that is coupled:
    channels tied by an addition, branches that are removed as a whole, the
    inputs of the next layer. If every factor is 0 or 1, it is what `plan`
    counts. In between, factors act like independent probabilities: a product
    where all of several gates must be open, and one minus a product where any
    of them must be. A layer's multiply-adds are the product of its inputs and
    outputs, so the pull on a channel depends on what remains around it.

    It is one penalty for all gates of a model, so it must know the model.
    `bind` sets the model, and attaches the penalty to one of the gates'
    variables, so that Keras adds it to the loss:

    ```python
    penalty = kg.regularizers.ExpectedCost(0.1).bind(gated)
    gated.compile(...)
    gated.fit(...)
    ```

    A stochastic gate is open to the degree of the probability that it is not
    closed.

    In a custom training loop, add `penalty()` to the loss. Copies, clones and
    saved models keep the strength, but not the model: bind them again.

    Reference:

    - [Gordon et al., 2018, MorphNet](https://arxiv.org/abs/1711.06798)

    Args:
        strength: Number >= 0, in units of loss for the whole model's cost.
        of: `"macs"` or `"params"`. Defaults to `"macs"`.
        sizes: Sizes that the model's inputs leave open, as in `Budget`.

    Raises:
        ValueError: If `strength` is negative or not a number, or `of` is
            unknown; by `bind`, if the model has no gates, or nothing in it
            can be counted.
        RuntimeError: If applied before it is bound.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> gate = kg.FilterGate()
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((3,)),
    ...         keras.layers.Dense(4),
    ...         gate,
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> penalty = kg.regularizers.ExpectedCost(1.0).bind(model)
    >>> gate.set_weights([keras.ops.array([1.0, 0.0, 0.0, 1.0])])
    >>> float(keras.ops.convert_to_numpy(penalty()))
    0.5
    """

    def __init__(
        self, strength: float, of: str = "macs", sizes: Any = None
    ) -> None:
        self.strength = nonnegative_number(
            strength, "strength", type(self).__name__
        )
        if of not in RESOURCES:
            raise ValueError(
                f"ExpectedCost can't count this. Received: of={of!r}. "
                f"Expected: one of {list(RESOURCES)}."
            )
        self.of, self.sizes = of, sizes
        self._cost: ModelCost | None = None
        self._variables: list[keras.Variable] = []
        self._openings: list[Callable[[Any], Any]] = []
        self._whole = 1.0

    def bind(
        self, model: keras.Model, kinds: Sequence[str] | None = None
    ) -> ExpectedCost:
        """Penalize the gates of a model from now on.

        Args:
            model: A built functional or Sequential model with gates.
            kinds: Which kinds of gates, such as `["batch_norm"]` for gammas.
                Defaults to `None`: all but gammas.

        Returns:
            The penalty itself.
        """
        self.watch(model, kinds)
        self.put_on(self._variables, model, "gates")
        return self

    def watch(
        self, model: keras.Model, kinds: Sequence[str] | None = None
    ) -> ExpectedCost:
        """Set the model without penalizing it: to add to a loss, or to log.

        Args:
            model: As in `bind`.
            kinds: As in `bind`.

        Returns:
            The penalty itself.
        """
        # Saved models need this class, but not the imports of `bind`.
        from keras_gates.graphs import graph as gr
        from keras_gates.surgeon.expected.model_cost import ModelCost
        from keras_gates.surgeon.gates import expand
        from keras_gates.surgeon.gates.find import gates_of
        from keras_gates.surgeon.gates.find import unknown_gates

        live = {
            name: source
            for name, source in gates_of(gr.read(model)).items()
            if _is_asked(source, kinds)
        }
        graph = expand.read(model)
        if not live:
            raise ValueError(
                f"ExpectedCost found no gate to penalize in '{model.name}'. "
                f"Received: kinds={kinds!r}. Insert gates: "
                "keras_gates.insert_gates(model, "
                f"filters=True).{unknown_gates(graph)}"
            )
        cost = ModelCost(graph, list(live), self.sizes)
        every = np.ones(cost.circuit.count)
        whole = float(cost.of(np, every, self.of))
        if not whole:
            raise ValueError(
                f"ExpectedCost finds no {self.of} in '{model.name}' that can "
                "be counted. Pass `sizes` if those of an input are open."
            )
        self._cost, self._whole = cost, whole
        self._variables = [source.variable for source in live.values()]
        self._openings = [_opening(source) for source in live.values()]
        return self

    def __call__(self, x: Any = None) -> Any:
        if self._cost is None:
            raise RuntimeError(
                "ExpectedCost has no model. Received: no model. Expected: "
                "bind(model), once for each model, and again for one that "
                "was loaded."
            )
        each = [
            ops.reshape(opening(ops.convert_to_tensor(variable)), (-1,))
            for variable, opening in zip(
                self._variables, self._openings, strict=True
            )
        ]
        cost = self._cost.of(ops, ops.concatenate(each), self.of)
        return cost * (self.strength / self._whole)

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength, "of": self.of, "sizes": self.sizes}


def _is_asked(source: Source, kinds: Sequence[str] | None) -> bool:
    if kinds is None:
        return source.kind not in NAMED
    return source.kind in kinds


def _opening(source: Source) -> Callable[[Any], Any]:
    """How far a gate is open, from 0 to 1, given its variable's values."""
    if source.factors is not None:  # the probability that it is not closed
        return hard_concrete.openness
    return functools.partial(_openness, _scale(source))


def _scale(source: Source) -> float:
    """The typical value of an open factor: 1 for gates."""
    if source.kind not in NAMED:
        return 1.0
    return float(np.abs(source.values()).mean()) or 1.0


def _openness(scale: float, factors: Any) -> Any:
    """Clipped to 0 and 1, with a gradient above 1."""
    size = magnitude(factors) / scale
    return size - ops.stop_gradient(ops.maximum(size - 1.0, 0.0))
