"""Penalties on the factors of one gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_gates._checks import nonnegative_number

__all__ = ["CostL1", "L1", "MeanL1", "Polarization"]


@keras.saving.register_keras_serializable(package="keras_gates")
class L1(keras.regularizers.Regularizer):
    """The sum of the absolute factors.

    `loss = l1 * sum(abs(factor))`

    The subgradient at 0 is 0 on every backend: a factor that a constraint has
    set to exactly 0 moves again only if the data pulls it.

    A number passed to a transform as a penalty means this one:
    `insert_gates(model, filters=1e-4)`, `slim(model, 1e-4)`,
    `to_resconv(model, 1e-4)` and `to_stripconv(model, 1e-4)` pull each factor
    by 1e-4.

    L1 alone shrinks a factor but rarely makes it 0, and the weights before the
    gate can grow to compensate. Combine it with `constraints.UnitInterval` and
    with weight decay on those weights.

    Args:
        l1: Strength, a number >= 0 in units of loss per unit of factor.

    Raises:
        ValueError: If `l1` is negative, NaN or not a number.

    Example:
    >>> import keras_gates as kg
    >>> penalty = kg.regularizers.L1(0.5)
    >>> float(penalty(keras.ops.array([1.0, -3.0, 0.0])))
    2.0
    """

    def __init__(self, l1: float) -> None:
        self.l1 = nonnegative_number(l1, "l1", type(self).__name__)

    def __call__(self, x: Any) -> Any:
        return ops.multiply(ops.sum(magnitude(x)), self.l1)

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1}


@keras.saving.register_keras_serializable(package="keras_gates")
class MeanL1(keras.regularizers.Regularizer):
    """The mean of the absolute factors: each gated layer has the same weight.

    `loss = l1 / n * sum(abs(factor))`, for a gate of `n` factors.

    With `L1`, a layer of 512 filters is penalized 8 times as much as one of
    64; here both by at most `l1`. With `l1=1.0` on filter gates this is the
    paper's weighting. On a scalar gate the mean is the value itself: for the
    paper's layer gates use `L1(1 / number_of_gated_layers)`.

    Reference:

    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623), section 4

    Args:
        l1: Strength, a number >= 0 in units of loss per unit of mean factor.

    Raises:
        ValueError: If `l1` is negative, NaN or not a number.

    Example:
    >>> import keras_gates as kg
    >>> penalty = kg.regularizers.MeanL1(0.5)
    >>> float(penalty(keras.ops.array([1.0, -3.0, 0.0, 0.0])))
    0.5
    """

    def __init__(self, l1: float) -> None:
        self.l1 = nonnegative_number(l1, "l1", type(self).__name__)

    def __call__(self, x: Any) -> Any:
        return ops.multiply(ops.mean(magnitude(x)), self.l1)

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1}


@keras.saving.register_keras_serializable(package="keras_gates")
class CostL1(keras.regularizers.Regularizer):
    """L1 with each factor weighted by the cost of its channel or layer.

    `loss = l1 * sum(cost * abs(factor))`

    A channel that costs twice as many multiply-adds is pulled twice as hard.
    Pass `cost` as a share of the whole model (of its MACs or parameters), so
    that `l1` means the same for every model.

    Args:
        l1: Strength, a number >= 0 in units of loss.
        cost: Number >= 0 for all factors of a gate, or a vector with one such
            number for each of its factors.

    Raises:
        ValueError: If `l1` or an entry of `cost` is negative, NaN or not a
            number, or if the length of `cost` is not that of the factor.

    Example:
    >>> import keras_gates as kg
    >>> penalty = kg.regularizers.CostL1(0.5, cost=[1.0, 2.0])
    >>> float(penalty(keras.ops.array([1.0, -3.0])))
    3.5
    """

    def __init__(
        self, l1: float, cost: float | Sequence[float] | NDArray[Any]
    ) -> None:
        self.l1 = nonnegative_number(l1, "l1", type(self).__name__)
        self.cost = _validated_cost(cost)

    def __call__(self, x: Any) -> Any:
        # A vector of one entry would otherwise broadcast over all factors.
        cost = self.cost
        if isinstance(cost, list) and tuple(x.shape) != (len(cost),):
            raise ValueError(
                f"CostL1 cannot weight {getattr(x, 'path', 'a tensor')}. "
                f"Received: a cost of {len(cost)} entries and a factor of "
                f"shape {tuple(x.shape)}. Expected: one entry for each "
                "factor. Pass a vector of that length, or one number for all."
            )
        costs = ops.convert_to_tensor(cost, dtype=x.dtype)
        return ops.multiply(ops.sum(ops.multiply(costs, magnitude(x))), self.l1)

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1, "cost": self.cost}


@keras.saving.register_keras_serializable(package="keras_gates")
class Polarization(keras.regularizers.Regularizer):
    """Separates the factors of a gate into two groups: at 0, and at one value.

    `loss = strength * (t * sum(abs(g)) - sum(abs(g - mean(g))))`

    L1 alone pulls all factors equally, so useful ones shrink, too, and a
    threshold has to be found among them. Here, the second term pushes factors
    away from their mean. The share that ends at 0 grows with `t`: at 1 or less,
    about half of the factors of a gate; at 2 or more, all of them.

    Factors need a bounded range, or the upper group grows without limit: use
    `constraints.UnitInterval`, which is the default of `insert_gates`. A scalar
    gate is its own mean, so only `t * abs(g)` remains.

    Reference:

    - [Zhuang et al., 2020, Neuron-level Structured Pruning using Polarization
      Regularizer](https://papers.nips.cc/paper/2020/hash/703957b6dd9e3a7980e040bee50ded65-Abstract.html),
      equation 3

    Args:
        strength: Number >= 0, in units of loss per unit of factor.
        t: Number, the weight of the L1 term. Defaults to 1.2.

    Raises:
        ValueError: If `strength` or `t` is negative, NaN or not a number.

    Example:
    >>> import keras_gates as kg
    >>> penalty = kg.regularizers.Polarization(1.0, t=1.0)
    >>> float(penalty(keras.ops.array([0.0, 0.0, 1.0, 1.0])))
    0.0
    >>> float(penalty(keras.ops.array([0.5, 0.5, 0.5, 0.5])))
    2.0
    """

    def __init__(self, strength: float, t: float = 1.2) -> None:
        name = type(self).__name__
        self.strength = nonnegative_number(strength, "strength", name)
        self.t = nonnegative_number(t, "t", name)

    def __call__(self, x: Any) -> Any:
        pull = ops.multiply(ops.sum(magnitude(x)), self.t)
        apart = ops.sum(magnitude(ops.subtract(x, ops.mean(x))))
        return ops.multiply(ops.subtract(pull, apart), self.strength)

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength, "t": self.t}


def magnitude(x: Any) -> Any:
    """Return `abs(x)`, with sub-gradient 0 at 0.

    The gradient of `ops.abs` at 0 is 0 in TensorFlow and torch but 1 in JAX,
    where a penalty would push every closed factor below zero.
    """
    return ops.multiply(x, ops.stop_gradient(ops.sign(x)))


def _validated_cost(cost: Any) -> float | list[float]:
    """Return a float or a list of floats: what a JSON config can hold."""
    if np.ndim(cost) == 0:
        return nonnegative_number(cost, "cost", "CostL1")
    if np.ndim(cost) != 1 or len(cost) == 0:
        raise ValueError(
            "CostL1 cannot use this `cost`. Received: an array of shape "
            f"{np.shape(cost)}. Expected: a number or a vector. Pass one "
            "number per factor of the gate."
        )
    return [nonnegative_number(c, "cost", "CostL1") for c in cost]
