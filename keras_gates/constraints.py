"""Constraints that set gate factors to exact zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gates._checks import nonnegative_number
from keras_gates.graphs import private

__all__ = ["HardThreshold", "KeepSign", "SoftThreshold", "UnitInterval"]


@keras.saving.register_keras_serializable(package="keras_gates")
class UnitInterval(keras.constraints.Constraint):
    """Clips each factor to [0, 1] after each step.

    `factor = min(max(factor, 0), 1)`

    With an L1 penalty in the loss this gives exact zeros: the penalty moves a
    useless factor down by a constant step, the clip stops it at 0, and the
    subgradient of L1 at 0 keeps it there. The upper bound keeps the weights
    after the gate from trading scale with it. This combination is the default
    choice: it works with any optimizer and any learning rate schedule.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> clip = kg.constraints.UnitInterval()
    >>> clipped = clip(keras.ops.array([-0.5, 0.25, 2.0]))
    >>> [float(factor) for factor in clipped]
    [0.0, 0.25, 1.0]
    """

    def __call__(self, w: keras.Variable) -> Any:
        return ops.clip(w, 0.0, 1.0)


@keras.saving.register_keras_serializable(package="keras_gates")
class KeepSign(keras.constraints.Constraint):
    """Stops each factor at 0 where a step would change its sign.

    `factor = sign * max(sign * factor, 0)`

    This is the counterpart of `UnitInterval` for the gammas of batch
    normalizations, which may be above 1 and, in a trained network, negative.
    With an L1 penalty in the loss it gives exact zeros.

    Args:
        signs: 1 or -1 for all factors, or a vector with one for each.
            Defaults to 1.

    Raises:
        ValueError: If an entry of `signs` is neither 1 nor -1.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> keep = kg.constraints.KeepSign([1, 1, -1])
    >>> kept = keep(keras.ops.array([2.0, -0.5, -0.25]))
    >>> [float(factor) for factor in kept]
    [2.0, 0.0, -0.25]
    """

    def __init__(self, signs: int | Sequence[int] = 1) -> None:
        self.signs = _validated_signs(signs)

    def __call__(self, w: Any) -> Any:
        w = ops.convert_to_tensor(w)
        signs = ops.convert_to_tensor(self.signs, dtype=w.dtype)
        # Plus 0, since 0 times -1 is -0.
        return ops.add(signs * ops.maximum(signs * w, 0.0), 0.0)

    def get_config(self) -> dict[str, Any]:
        return {"signs": self.signs}


@keras.saving.register_keras_serializable(package="keras_gates")
class HardThreshold(keras.constraints.Constraint):
    """Sets each small factor to 0 after each step.

    `factor = factor if abs(factor) >= delta else 0`

    With an L1 penalty this is the mask of stripe-wise pruning: once the penalty
    has moved a factor below `delta`, it stays at 0, unless a single step takes
    it above `delta` again. Start the factors well above `delta`.

    Reference:

    - [Meng et al., 2020, Pruning Filter in Filter](
      https://arxiv.org/abs/2009.14410)

    Args:
        delta: Number >= 0, in units of the factor.

    Raises:
        ValueError: If `delta` is negative, NaN or not a number.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> mask = kg.constraints.HardThreshold(0.25)
    >>> masked = mask(keras.ops.array([-0.5, -0.125, 0.25, 0.0]))
    >>> [float(factor) for factor in masked]
    [-0.5, 0.0, 0.25, 0.0]
    """

    def __init__(self, delta: float) -> None:
        self.delta = nonnegative_number(delta, "delta", type(self).__name__)

    def __call__(self, w: Any) -> Any:
        w = ops.convert_to_tensor(w)
        return ops.where(ops.abs(w) >= self.delta, w, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {"delta": self.delta}


@keras.saving.register_keras_serializable(package="keras_gates")
class SoftThreshold(keras.constraints.Constraint):
    """The proximal step of an L1 penalty, taken after each optimizer update.

    `factor = sign(factor) * max(abs(factor) - learning_rate * strength, 0)`

    With SGD this is proximal gradient descent on
    `loss + strength * sum(abs(factor))`, and factors become exactly 0. Use it
    in place of an L1 regularizer, not on top of one.

    The step follows the optimizer's current learning rate, schedules and
    callbacks included: a step of fixed size would close every gate once the
    rate has decayed, since updates shrink with the rate and the step would not.
    The constraint must therefore know the optimizer. Use
    `keras_gates.callbacks.BindSoftThreshold` in `fit`, or call `bind` in a
    custom training loop. With gradient accumulation the step is taken when the
    optimizer updates.

    With adaptive optimizers such as Adam, the same `strength` does not pull all
    factors equally: they rescale the gradient but not this step. Prefer L1 with
    `UnitInterval` there. An optimizer with `use_ema=True` overwrites the zeros
    with averages at the end of `fit`.

    Copies, clones and saved models keep the strength, but not the optimizer.

    Reference:

    - [Huang and Wang, 2018, Data-Driven Sparse Structure Selection for Deep
      Neural Networks](https://arxiv.org/abs/1707.01213)

    Args:
        strength: Number >= 0 in units of loss per unit of factor: the `l1` of
            the penalty that this step replaces.
        optimizer: Optimizer whose learning rate to follow. Defaults to `None`:
            bind it later.

    Raises:
        ValueError: If `strength` is negative, NaN or not a number.
        TypeError: If `optimizer` is not a Keras optimizer.
        RuntimeError: If applied before it is bound.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> shrink = kg.constraints.SoftThreshold(0.5)
    >>> shrink = shrink.bind(keras.optimizers.SGD(learning_rate=0.5))
    >>> shrunk = shrink(keras.ops.array([-1.0, 0.125, 0.75]))
    >>> [float(factor) for factor in shrunk]
    [-0.75, 0.0, 0.5]
    """

    def __init__(
        self, strength: float, optimizer: keras.Optimizer | None = None
    ) -> None:
        self.strength = nonnegative_number(
            strength, "strength", type(self).__name__
        )
        self.optimizer: keras.Optimizer | None = None
        if optimizer is not None:
            self.bind(optimizer)

    def bind(self, optimizer: keras.Optimizer) -> SoftThreshold:
        """Follow the learning rate of `optimizer` from now on.

        Args:
            optimizer: The Keras optimizer that trains the constrained weight.

        Returns:
            The constraint itself.
        """
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "SoftThreshold cannot follow this optimizer. Received: "
                f"{optimizer!r}. Expected: a keras.optimizers.Optimizer. Pass "
                "the `optimizer` of the compiled model."
            )
        self.optimizer = optimizer
        return self

    def __call__(self, w: Any) -> Any:
        if self.optimizer is None:
            raise RuntimeError(
                f"SoftThreshold on {getattr(w, 'path', 'a tensor')} does not "
                "know whose learning rate to follow. Received: no optimizer. "
                "Expected: the one that trains this weight. Add "
                "keras_gates.callbacks.BindSoftThreshold() to the callbacks of "
                "fit(), or call bind(model.optimizer) on the constraint."
            )
        step = ops.cast(_step_size(self.optimizer), w.dtype) * self.strength
        shrunk = ops.maximum(ops.abs(w) - step, 0.0)
        return ops.multiply(ops.sign(w), shrunk)

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}

    def __reduce__(self) -> tuple[Any, ...]:
        # copy, deepcopy and pickle: a copy belongs to another model, and must
        # not follow (or keep alive) the optimizer of this one.
        return type(self).from_config, (self.get_config(),)


def _step_size(optimizer: Any) -> Any:
    """Return the learning rate of this step, or 0 if nothing is updated."""
    # Keras wraps the optimizer in a LossScaleOptimizer under mixed_float16.
    # The wrapper passes on the learning rate but not the accumulation.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rate = ops.convert_to_tensor(optimizer.learning_rate)
    period = optimizer.gradient_accumulation_steps
    if not period:
        return rate
    # Keras applies constraints after each batch, even if gradients are only
    # accumulated. The public `iterations` counts updates, not batches.
    updates = ops.equal((private.batches_of(optimizer) + 1) % period, 0)
    return ops.where(updates, rate, 0.0)


def _validated_signs(signs: Any) -> int | list[int]:
    """Return 1, -1 or a list of these: what a JSON config can hold."""
    known = np.ndim(signs) < 2 and np.isin(signs, (1, -1)).all()
    if not known or np.size(signs) == 0:
        raise ValueError(
            f"KeepSign cannot use these `signs`. Received: signs={signs!r}. "
            "Expected: 1, -1, or a vector of these, one for each factor."
        )
    found: int | list[int] = np.asarray(signs, int).tolist()
    return found
