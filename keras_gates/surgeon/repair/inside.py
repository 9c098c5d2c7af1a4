"""What the last kernel of an attention layer reads, seen from outside.

The layer is run with a kernel that passes on what it reads, some at a time,
as much as the output has room for. The layer itself stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.repair.walk import run

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.repair.readers import Reader


def read(reader: Reader, inputs: Mapping[Tensor, Any]) -> NDArray[Any]:
    """What a kernel reads inside its layer, `(samples, ..., *read axes)`.

    Args:
        reader: the kernel; the last thing that its layer does is to multiply
            by it, and to add the bias.
        inputs: those of the call.
    """
    shape = tuple(reader.kernel.shape)
    count, room = math.prod(shape[:-1]), shape[-1]
    parts = []
    for start in range(0, count, room):
        shown = np.zeros((count, room), "float32")
        numbers = np.arange(start, min(start + room, count))
        shown[numbers, numbers - start] = 1.0
        values = [(reader.kernel, shown.reshape(shape))]
        if reader.bias is not None:
            values.append((reader.bias, np.zeros(reader.bias.shape, "float32")))
        (output,) = run(reader.call, inputs.__getitem__, values)
        part = np.asarray(keras.ops.convert_to_numpy(output))
        parts.append(part[..., : len(numbers)])
    joined = np.concatenate(parts, -1)
    return joined.reshape(*joined.shape[:-1], *shape[:-1])
