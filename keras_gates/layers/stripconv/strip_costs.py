"""The cost of computing with stripes, compared with the dense kernel."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import keras

from keras_gates.layers.stripconv import strip_ops
from keras_gates.layers.stripconv.trimming import trim

if TYPE_CHECKING:
    from keras_gates.layers.stripconv.stripes import Stripes
    from keras_gates.layers.window import Window


@dataclasses.dataclass(frozen=True)
class Rates:
    """The cost of single steps on a backend, in multiply-adds.

    In multiply-adds of the backend's dense convolution. Fitted to the CPU times
    of `benchmarks/stripes.py`, on two cores that were shared with other
    processes.

    Attributes:
        product: a multiply-add of the product with the stripes.
        written: a number that this product writes, and the sums read.
        summed: adding one position of the kernel to one output.
        constant: the constant overhead, as a share of the dense kernel.
    """

    product: float
    written: float
    summed: float
    constant: float


RATES = {
    "tensorflow": Rates(1.14, 35.0, 15.0, 0.16),
    "jax": Rates(0.85, 84.0, 18.0, 0.03),
    "torch": Rates(0.64, 120.0, 28.0, 0.24),
}
# The least predicted gain for which stripes are used, since the rates are not
# more accurate.
_MARGIN = 0.9


def pays(stripes: Stripes, window: Window, channels: int) -> bool:
    """Whether computing by stripes takes less time than the dense kernel.

    False on an accelerator, for which no rates were measured.

    Args:
        stripes: the `Stripes`.
        window: the `Window` on the input.
        channels: the number of input channels.
    """
    if not only_cpu():
        return False
    by_stripes, dense = shares(stripes, window, channels)
    return by_stripes < _MARGIN * dense


def shares(
    stripes: Stripes, window: Window, channels: int
) -> tuple[float, float]:
    """The costs of both methods, relative to a `Conv2D` of the same width.

    Args:
        stripes: the `Stripes`.
        window: the `Window` on the input.
        channels: the number of input channels.

    Returns:
        `(by stripes, by the dense kernel in the smallest box)`. The first is
        infinite if the stripes can't be computed alone.
    """
    rates = RATES[keras.backend.backend()]
    rows, columns, filters = stripes.kept.shape
    whole = rows * columns * filters * channels
    size = trim(window, stripes.box).kernel_size
    dense = math.prod(size) / (rows * columns)
    if not strip_ops.can_convolve(stripes, window):
        return math.inf, dense
    taps = stripes.kept.any(axis=2).sum()
    each = (
        stripes.count * (rates.product * channels + rates.written)
        + rates.summed * taps * filters
    )
    return float(each / whole) + rates.constant, dense


def only_cpu() -> bool:
    """Whether the backend has no accelerator."""
    if keras.backend.backend() == "torch":
        device: str = keras.ops.zeros(()).device.type
        return device == "cpu"
    devices = keras.distribution.list_devices()
    return all(device.lower().startswith("cpu") for device in devices)
