"""What thresholds close: the factors that a layer holds."""

import dataclasses

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Source:
    """The factors of one layer.

    Attributes:
        layer: the layer.
        kind: the kind that thresholds speak of.
        variable: the variable that holds the factors.
        zeroed: the weights of the layer, with the role of their axis, that
            are zero where a closed factor stays; a gate leaves none.
    """

    layer: keras.Layer
    kind: str
    variable: keras.Variable
    zeroed: dict = dataclasses.field(default_factory=dict)

    @property
    def shape(self):
        return tuple(self.variable.shape)

    def values(self):
        """The factors as they are."""
        return np.array(keras.ops.convert_to_numpy(self.variable))
