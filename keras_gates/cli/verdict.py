"""Whether a difference of outputs is rounding."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from keras_gates.graphs import private
from keras_gates.surgeon.verifying.masked_run import resolution_of

# Float32 rounding in deep networks, with a margin.
_FLOAT32 = 1e-4
# The error of half precision, in its own steps.
_STEPS = 4


def too_far(
    far: Mapping[str, float], model: keras.Model, tolerance: float | None
) -> str:
    """What is wrong if outputs differ too much.

    Args:
        far: the difference of each output, relative to its scale.
        model: the model that they are compared with.
        tolerance: the allowed difference; None for rounding.
    """
    if tolerance is None:
        types = {layer.compute_dtype for layer in private.sublayers(model)}
        coarsest = max(map(resolution_of, types), default=0.0)
        tolerance = max(_FLOAT32, _STEPS * coarsest)
    name = max(far, key=lambda each: far[each])
    if far[name] <= tolerance:
        return ""
    return (
        f"output '{name}' differs by {far[name]:.2g} of its scale, and "
        f"{tolerance:.2g} is allowed (--tolerance). Nothing was written."
    )
