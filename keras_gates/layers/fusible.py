"""The base class of layers that fuse into a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple
from typing import NoReturn

import keras

from keras_gates.layers import stock
from keras_gates.layers.window import Window

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Activation
    from keras_gates.layers.arguments import Constraint
    from keras_gates.layers.arguments import Initializer
    from keras_gates.layers.arguments import Regularizer
    from keras_gates.layers.arguments import Shape
    from keras_gates.layers.arguments import Sizes

# The suffixes of argument names, after the name of a weight.
_HELPERS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}
_GEOMETRY = ("kernel_size", "strides", "dilation_rate")


class Geometry(NamedTuple):
    """The part of an input that a layer reads: a `Window`, and channels."""

    window: Window
    channels: int


class Fusible(keras.layers.Layer):
    """Base class of layers with the arguments of a convolution.

    Args:
        filters: as in `keras.layers.Conv2D`, like the following arguments.
        kernel_size: integer or tuple, like the next two.
        strides: pixels from one output to the next.
        dilation_rate: pixels from one tap to the next.
        padding: "same" or "valid".
        data_format: "channels_last" or "channels_first".
        groups: integer.
        activation: an activation.
        use_bias: whether the convolution has a bias.
        kernel_initializer: an initializer.
        bias_initializer: an initializer.
        kernel_regularizer: a regularizer.
        bias_regularizer: a regularizer.
        kernel_constraint: a constraint.
        bias_constraint: a constraint.
        **kwargs: keyword arguments of `keras.layers.Layer`.
    """

    weights_with_arguments: tuple[str, ...] = ("kernel", "bias")

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes,
        dilation_rate: Sizes,
        padding: str,
        data_format: str | None,
        groups: int,
        activation: Activation,
        use_bias: bool,
        kernel_initializer: Initializer,
        bias_initializer: Initializer,
        kernel_regularizer: Regularizer,
        bias_regularizer: Regularizer,
        kernel_constraint: Constraint,
        bias_constraint: Constraint,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = _plain(kernel_size)
        self.strides = _plain(strides)
        self.dilation_rate = _plain(dilation_rate)
        self.padding = padding
        self.data_format = data_format or keras.config.image_data_format()
        self.groups = groups
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        if padding not in ("same", "valid"):
            self.refuse(f"padding={padding!r}", "Expected: 'same' or 'valid'.")
        if self.rank not in (None, *stock.RANKS):
            given = [getattr(self, name) for name in _GEOMETRY]
            self.refuse(
                f"{_GEOMETRY} = {tuple(given)!r}",
                "Expected: integers, or tuples of one or two.",
            )
        # Keras checks which arguments go together.
        self.convolution(self.rank or 2, None, name="check")

    @property
    def channel_axis(self) -> int:
        """The channel axis, as for `BatchNormalization`."""
        return 1 if self.data_format == "channels_first" else -1

    @property
    def rank(self) -> int | None:
        """The number of spatial axes according to the arguments, or None."""
        given = [getattr(self, name) for name in _GEOMETRY]
        return next((len(a) for a in given if isinstance(a, tuple)), None)

    def window(self, sizes: Sequence[int | None]) -> Window:
        """The `Window` on an input of these sizes."""
        kernel, strides, dilation = (
            _spread(getattr(self, name), len(sizes)) for name in _GEOMETRY
        )
        return Window(kernel, strides, dilation, self.padding, tuple(sizes))

    def read(self, input_shape: Shape) -> Geometry:
        """The `Geometry` on an input, or an error if it does not fit."""
        rank = len(input_shape) - 2
        channels = input_shape[self.channel_axis] if rank > 0 else None
        if rank != (self.rank or rank) or rank not in stock.RANKS:
            wanted = [self.rank] if self.rank else stock.RANKS
            ranks = " or ".join(str(r + 2) for r in wanted)
            self.refuse(
                f"an input of shape {tuple(input_shape)}",
                f"Expected: an input of rank {ranks}, batch and channels "
                "included.",
            )
        if channels is None:
            self.refuse(
                f"an input of shape {tuple(input_shape)}",
                "Expected: a known number of channels. Give it in "
                f"keras.Input, or correct data_format='{self.data_format}'.",
            )
        sizes = list(input_shape[1:])
        sizes.pop(0 if self.channel_axis == 1 else -1)
        return Geometry(self.window(sizes), channels)

    def convolution(
        self, rank: int, channels: int | None, **changes: Any
    ) -> keras.Layer:
        """The convolution with these arguments, not built, without activation.

        Args:
            rank: 1 or 2.
            channels: those of the input; None for unknown.
            **changes: arguments to change.
        """
        names = [*_GEOMETRY, "padding", "data_format", "use_bias"]
        names += [f"{w}_{h}" for w in ("kernel", "bias") for h in _HELPERS]
        settings = {name: getattr(self, name) for name in names}
        settings = {**settings, "dtype": self.dtype_policy, **changes}
        return stock.convolution(
            rank, channels, self.filters, self.groups, **settings
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        window, channels = self.read(input_shape)
        conv = self.convolution(len(window.kernel), channels, name="shape")
        return tuple(conv.compute_output_shape(input_shape))

    def get_config(self) -> dict[str, Any]:
        names = [*_GEOMETRY, "filters", "groups", "padding", "data_format"]
        config = {name: getattr(self, name) for name in [*names, "use_bias"]}
        for weight in self.weights_with_arguments:
            for helper, module in _HELPERS.items():
                name = f"{weight}_{helper}"
                config[name] = module.serialize(getattr(self, name))
        config["activation"] = keras.activations.serialize(self.activation)
        return {**super().get_config(), **config}

    def refuse(self, received: str, remedy: str) -> NoReturn:
        """Raise the error for an impossible layer."""
        kind = type(self).__name__
        raise ValueError(
            f"{kind} '{self.name}' would not be a single convolution. "
            f"Received: {received}. {remedy}"
        )


def _plain(value: Sizes) -> int | tuple[int, ...]:
    """A tuple, also from the list of a config."""
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _spread(value: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,) * rank
