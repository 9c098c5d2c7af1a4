"""The hard concrete distribution: random factors that are often exactly 0 or 1.

`s = sigmoid((log u - log(1 - u) + log_alpha) / beta)`, u uniform in (0, 1);
`z = clip(s * (zeta - gamma) + gamma, 0, 1)`
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

# As in the paper: the temperature, and how far beyond 0 and 1 it is stretched.
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
# Beyond these the factor in inference is exactly 0, or exactly 1.
CLOSED, OPEN = -2.5, 2.5
# At this value it is 0 in training, too, whatever is drawn.
NEVER = -30.0
# At this value, a drawn factor is 0 half of the time.
_EVEN = BETA * math.log(-GAMMA / ZETA)
# Uniform numbers stay this far from 0 and 1, where the logarithm diverges.
_EDGE = 1e-6


def factor_of(log_alpha: Any) -> Any:
    """The factor in inference."""
    stretched = ops.sigmoid(log_alpha) * (ZETA - GAMMA) + GAMMA
    return ops.clip(stretched, 0.0, 1.0)


def drawn(log_alpha: Any, seed: Any) -> Any:
    """A factor in training."""
    u = keras.random.uniform(
        ops.shape(log_alpha), _EDGE, 1 - _EDGE, "float32", seed
    )
    noise = ops.log(u) - ops.log(1 - u)
    s = ops.sigmoid((noise + log_alpha) / BETA)
    return ops.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def openness(log_alpha: Any) -> Any:
    """The probability that a drawn factor is not 0."""
    return ops.sigmoid(log_alpha - _EVEN)


def chance(log_alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    """`openness` for a NumPy array."""
    found: NDArray[np.float64] = 1 / (1 + np.exp(_EVEN - log_alpha))
    return found


def weight_of(factor: float) -> float:
    """`log_alpha` of a factor in the open interval (0, 1)."""
    share = (factor - GAMMA) / (ZETA - GAMMA)
    return math.log(share) - math.log1p(-share)


@keras.saving.register_keras_serializable(package="keras_gates")
class OfFactor(keras.initializers.Initializer):
    """Initializes `log_alpha` so that the factor in inference has given values.

    Args:
        initializer: that of the factor.
    """

    def __init__(self, initializer: Any) -> None:
        self.initializer = keras.initializers.get(initializer)

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        factor = self.initializer(shape, dtype=dtype)
        share = (factor - GAMMA) / (ZETA - GAMMA)
        share = ops.clip(share, _EDGE, 1 - _EDGE)
        between = ops.log(share) - ops.log(1 - share)
        # 0 and 1 themselves must not be missed by rounding.
        start = ops.where(factor >= 1, ops.full_like(factor, OPEN), between)
        return ops.where(factor <= 0, ops.full_like(factor, CLOSED), start)

    def get_config(self) -> dict[str, Any]:
        return {"initializer": keras.initializers.serialize(self.initializer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OfFactor:
        return cls(keras.initializers.deserialize(config["initializer"]))


@keras.saving.register_keras_serializable(package="keras_gates")
class OfOpenness(keras.regularizers.Regularizer):
    """A penalty on the probability that factors are not 0.

    Args:
        regularizer: the penalty.
    """

    def __init__(self, regularizer: Any) -> None:
        self.regularizer = keras.regularizers.get(regularizer)

    def __call__(self, x: Any) -> Any:
        return self.regularizer(openness(ops.convert_to_tensor(x)))

    def get_config(self) -> dict[str, Any]:
        return {"regularizer": keras.regularizers.serialize(self.regularizer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OfOpenness:
        return cls(keras.regularizers.deserialize(config["regularizer"]))
