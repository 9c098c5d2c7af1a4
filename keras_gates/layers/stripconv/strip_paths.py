"""The ways to compute a convolution with some of its stripes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

from keras import ops

from keras_gates.layers.stripconv import strip_costs
from keras_gates.layers.stripconv import strip_ops
from keras_gates.layers.stripconv.compiled import Compiled
from keras_gates.layers.stripconv.stripe_weights import dense_kernel
from keras_gates.layers.stripconv.stripes import Stripes
from keras_gates.layers.stripconv.trimming import trim

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Shape
    from keras_gates.layers.window import Window


@dataclasses.dataclass(eq=False)
class StripPaths:
    """Computes by the stripes alone, or by the dense kernel that contains them.

    Attributes:
        stripes: the `Stripes`.
        settings: the arguments of the convolution by name: `strides`,
            `padding`, `dilation_rate`, `data_format`.
        window: `shape -> Window`, for an input of this shape.
        method: `"stripes"`, `"dense"`, or `"auto"` for the cheaper one.
        owner: name of the layer, for messages.
    """

    stripes: Stripes
    settings: dict[str, Any]
    window: Callable[[Shape], Window]
    method: str
    owner: str

    def __post_init__(self) -> None:
        self._by_stripes = Compiled(self._convolve)

    def __call__(
        self, x: Any, weights: Any, training: bool | None = False
    ) -> Any:
        """The convolution, without bias; always dense in training."""
        window = self.window(x.shape)
        channels = weights.shape[1]
        if training or self.choice(window, channels) == "dense":
            return self._dense(x, weights, window)
        return self._by_stripes(x, weights)

    @property
    def _first(self) -> bool:
        data_format: str = self.settings["data_format"]
        return data_format == "channels_first"

    def choice(self, window: Window, channels: int) -> str:
        """How inference computes: `"stripes"` or `"dense"`."""
        if self.method == "dense":
            return "dense"
        if self.method == "auto":
            pays = strip_costs.pays(self.stripes, window, channels)
            return "stripes" if pays else "dense"
        if not strip_ops.can_convolve(self.stripes, window):
            raise ValueError(
                f"StripConv '{self.owner}' cannot compute by stripes alone. "
                f"Received: {window.sizes} pixels with strides "
                f"{window.strides}. Expected: known numbers, so large that no "
                'position of the kernel misses them all. Pass method="auto".'
            )
        return "stripes"

    def _convolve(self, x: Any, weights: Any) -> Any:
        window = self.window(x.shape)
        return strip_ops.convolve(x, weights, self.stripes, window, self._first)

    def _dense(self, x: Any, weights: Any, window: Window) -> Any:
        how = trim(window, self.stripes.box)
        x = how.padded(x, 1 if self._first else 3)
        kernel = dense_kernel(weights, self.stripes, how.box)
        return ops.conv(x, kernel, **{**self.settings, "padding": how.padding})
