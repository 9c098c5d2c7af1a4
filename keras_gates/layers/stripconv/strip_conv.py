"""A convolution that learns the shape of its filters."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import ops

from keras_gates.layers.stripconv.strip_paths import StripPaths
from keras_gates.layers.stripconv.stripe_weights import AsKernel
from keras_gates.layers.stripconv.stripe_weights import dense_kernel
from keras_gates.layers.stripconv.stripes import Stripes
from keras_gates.layers.window import Window

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Constraint
    from keras_gates.layers.arguments import Initializer
    from keras_gates.layers.arguments import Regularizer
    from keras_gates.layers.arguments import Shape
    from keras_gates.layers.arguments import Sizes
    from keras_gates.layers.stripconv.stripes import Lists

_SETTINGS = ("strides", "padding", "dilation_rate", "data_format")
_METHODS = ("auto", "stripes", "dense")
_NEEDS = (
    "This layer is part of keras_gates. Install it and `import keras_gates` "
    "before loading, or save the model that `keras_gates.to_dense(model)` "
    "returns: it holds layers of Keras alone."
)


@keras.saving.register_keras_serializable(package="keras_gates")
class StripConv(keras.layers.Conv2D):
    """A 2D convolution whose filters learn their shape.

    `outputs = activation(conv(inputs, kernel * skeleton) + bias)`

    The skeleton has one factor per stripe, that is, for what one filter reads
    at one position of the kernel. Training drives some of them towards 0, and
    `keras_gates.surgeon.prune` (kind `"stripe"`) removes these stripes. A
    pruned layer still has this class. It stores only the remaining stripes, and
    computes either these alone or the dense kernel that contains them,
    whichever costs less.

    A pruned model with this layer needs keras_gates to load;
    `keras_gates.to_dense` converts it to one that does not.

    Reference:

    - [Meng et al., 2020, Pruning Filter in Filter](
      https://arxiv.org/abs/2009.14410)

    Args:
        filters: Integer, the number of filters.
        kernel_size: Integer or pair of integers, in pixels.
        skeleton_initializer: Initializer of the skeleton. Defaults to `"ones"`:
            the layer computes what its kernel computes.
        skeleton_regularizer: Regularizer of the skeleton, such as
            `keras_gates.regularizers.L1(1e-5)`. Defaults to `None`.
        skeleton_constraint: Constraint of the skeleton, such as
            `keras_gates.constraints.HardThreshold(0.01)`: the paper's hard
            mask. Defaults to `None`.
        stripes: The remaining stripes: for each row and each column of the
            kernel, a list of the filters that have a stripe there. Defaults to
            `None`: all of them, with a skeleton to train. Otherwise there is no
            skeleton, and the stripes are one weight of shape `(number, input
            channels)`.
        method: How a layer with `stripes` computes in inference: `"stripes"`,
            `"dense"`, or `"auto"`, the faster one according to a cost model.
            Training is always dense. Defaults to `"auto"`.
        **kwargs: Further arguments of `keras.layers.Conv2D`, such as `strides`,
            `padding`, `dilation_rate` and `data_format`. `groups` must be 1.

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height,
        width)` for `"channels_first"`.

    Output shape:
        The same as `keras.layers.Conv2D`.

    Raises:
        ValueError: If `groups` is not 1, or if `stripes` do not fit the kernel
            or are empty.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> layer = kg.StripConv(
    ...     16, 3, skeleton_regularizer=kg.regularizers.L1(1e-5)
    ... )
    >>> tuple(layer(keras.ops.ones((2, 8, 8, 4))).shape)
    (2, 6, 6, 16)
    >>> tuple(layer.skeleton.shape)
    (3, 3, 16)

    One row and one column of a kernel, for two filters:

    >>> layer = kg.StripConv(
    ...     2, 3, stripes=[[[1], [1], [1]], [[0, 1]] * 3, [[]] * 3]
    ... )
    >>> tuple(layer(keras.ops.ones((2, 8, 8, 4))).shape)
    (2, 6, 6, 2)
    >>> tuple(layer.stripe_kernel.shape)
    (9, 4)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        skeleton_initializer: Initializer = "ones",
        skeleton_regularizer: Regularizer = None,
        skeleton_constraint: Constraint = None,
        stripes: Lists | None = None,
        method: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, **kwargs)
        if self.groups != 1:
            raise ValueError(
                f"StripConv '{self.name}' cannot be split into groups: a "
                "stripe reads all input channels. Received: "
                f"groups={self.groups}. Expected: 1. Use keras.layers.Conv2D "
                "or keras.layers.DepthwiseConv2D for this convolution."
            )
        if method not in _METHODS:
            raise ValueError(
                f"StripConv '{self.name}' knows no such `method`. Received: "
                f"{method!r}. Expected: one of {_METHODS}."
            )
        self.skeleton_initializer = keras.initializers.get(skeleton_initializer)
        self.skeleton_regularizer = keras.regularizers.get(skeleton_regularizer)
        self.skeleton_constraint = keras.constraints.get(skeleton_constraint)
        self.method = method
        self.skeleton: keras.Variable | None = None
        self.stripes: Stripes | None = None
        if stripes is not None:
            self.stripes = Stripes.from_lists(
                stripes, self.kernel_size, filters, self.name
            )

    @property
    def kernel(self) -> keras.Variable:
        """The dense kernel, without the skeleton."""
        return self.effective_kernel() if self.stripes else super().kernel

    @property
    def channel_axis(self) -> int:
        """The channel axis of input and output."""
        return 1 if self.data_format == "channels_first" else -1

    def build(self, input_shape: Shape) -> None:
        if self.stripes is not None:
            self._build_stripes(self.stripes, input_shape)
            return
        super().build(input_shape)
        # Float32 without autocast, like the factors of gates.
        self.skeleton = self.add_weight(
            name="skeleton",
            shape=(*self.kernel_size, self.filters),
            dtype="float32",
            autocast=False,
            initializer=self.skeleton_initializer,
            regularizer=self.skeleton_regularizer,
            constraint=self.skeleton_constraint,
        )

    def _build_stripes(self, stripes: Stripes, input_shape: Shape) -> None:
        axis = self.channel_axis
        channels: Any = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(
            min_ndim=4, axes={axis: channels}
        )
        self.compute_output_shape(input_shape)
        self._paths = StripPaths(
            stripes,
            {key: getattr(self, key) for key in _SETTINGS},
            self.window,
            self.method,
            self.name,
        )
        as_kernel = AsKernel(stripes, channels)
        self.stripe_kernel = self.add_weight(
            name="stripe_kernel",
            shape=(stripes.count, channels),
            initializer=as_kernel.initializer(self.kernel_initializer),
            regularizer=as_kernel.regularizer(self.kernel_regularizer),
            constraint=as_kernel.constraint(self.kernel_constraint),
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.stripes is None:
            kernel = self.effective_kernel()
            outputs = self.convolution_op(inputs, kernel)
        else:
            # `convert_to_tensor` returns TensorFlow's variable itself, whose
            # values a compiled function would treat as constants.
            weights = ops.cast(self.stripe_kernel, self.compute_dtype)
            outputs = self._paths(inputs, weights, training)
        if self.bias is not None:
            shape = [1] * 4
            shape[self.channel_axis] = self.filters
            outputs = ops.add(outputs, ops.reshape(self.bias, shape))
        return outputs if self.activation is None else self.activation(outputs)

    def window(self, input_shape: Shape) -> Window:
        """The `Window` of the kernel on inputs of this shape."""
        first = self.data_format == "channels_first"
        return Window(
            self.kernel_size,
            self.strides,
            self.dilation_rate,
            self.padding,
            tuple(input_shape[2:4] if first else input_shape[1:3]),
        )

    def computes(self, input_shape: Shape) -> str:
        """How inference on inputs of this shape computes.

        Returns:
            `"stripes"` or `"dense"`.
        """
        if self.stripes is None:
            return "dense"
        channels = self.stripe_kernel.shape[1]
        return self._paths.choice(self.window(input_shape), channels)

    def effective_kernel(self) -> Any:
        """The kernel of a `Conv2D` that computes the same."""
        if self.stripes is not None:
            weights = ops.convert_to_tensor(self.stripe_kernel)
            return dense_kernel(weights, self.stripes)
        kernel = ops.convert_to_tensor(self.kernel)
        factors = ops.cast(self.skeleton, kernel.dtype)
        return ops.multiply(kernel, ops.expand_dims(factors, 2))

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refused, since low-rank updates have no stripes."""
        raise ValueError(
            f"StripConv '{self.name}' has no LoRA. Train it fully, or call "
            "keras_gates.to_dense on the pruned model and use LoRA there."
        )

    def save_own_variables(self, store: Any) -> None:
        # Conv2D would save only the kernel and the bias.
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "skeleton_initializer": keras.initializers.serialize(
                self.skeleton_initializer
            ),
            "skeleton_regularizer": keras.regularizers.serialize(
                self.skeleton_regularizer
            ),
            "skeleton_constraint": keras.constraints.serialize(
                self.skeleton_constraint
            ),
            "stripes": None,
            "method": self.method,
        }
        if self.stripes is not None:
            config["stripes"] = self.stripes.lists()
            # Keras prints the config if it cannot load the class.
            config = {"needs": _NEEDS, **config}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> StripConv:
        """A layer from its config."""
        config = {k: v for k, v in config.items() if k != "needs"}
        layer: StripConv = super().from_config(config)
        return layer
