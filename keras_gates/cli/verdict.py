"""Whether outputs that differ are the same to rounding."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from keras_gates.graphs import private
from keras_gates.surgeon.verifying.masked_run import resolution_of

# What float32 rounding does in deep networks, with room.
_FLOAT32 = 1e-4
# Half precision is off by so many of its own steps.
_STEPS = 4


def too_far(
    far: Mapping[str, float], model: keras.Model, tolerance: float | None
) -> str:
    """What is wrong, if outputs differ by more than they may.

    Args:
        far: the difference of each output, relative to its scale.
        model: the model that they are compared with.
        tolerance: how far they may differ; None for what rounding does.
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
