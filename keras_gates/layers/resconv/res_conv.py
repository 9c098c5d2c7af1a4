"""A convolution with a shortcut that fuses away."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import ops

from keras_gates.layers import stock
from keras_gates.layers.fusible import Fusible
from keras_gates.layers.layer_gate import LayerGate
from keras_gates.layers.resconv import expansion
from keras_gates.layers.resconv import fusion
from keras_gates.layers.resconv import shortcut as sc

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Activation
    from keras_gates.layers.arguments import Constraint
    from keras_gates.layers.arguments import Initializer
    from keras_gates.layers.arguments import Regularizer
    from keras_gates.layers.arguments import Shape
    from keras_gates.layers.arguments import Sizes


@keras.saving.register_keras_serializable(package="keras_gates")
class ResConv(Fusible):
    """A convolution that carries its own shortcut.

    `outputs = activation(m * BN(conv(inputs)) + g * f(inputs))`

    `m`, the layer scaling factor, says how much the convolution matters: an L1
    penalty on it closes layers that are not needed, and only `f` remains of
    them. `g`, the information control parameter, is the strength of the
    shortcut `f`. Both are scalars. With the shortcut, deep networks without any
    other shortcuts train well. It costs nothing in inference: `fuse` returns a
    single convolution that computes the same.

    The rank, 1D or 2D, follows from the input. If `groups` is the number of
    input channels, the convolution is depthwise.

    Reference:

    - Xu et al., Layer Pruning via Fusible Residual Convolutional Block for
      Deep Neural Networks, equations 4 to 11

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer or tuple of integers, the size of the kernel.
        strides: Integer or tuple. Defaults to `1`.
        padding: `"same"` (the default) or `"valid"`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to
            that of Keras' config.
        dilation_rate: Integer or tuple. Defaults to `1`.
        groups: Integer, as in `keras.layers.Conv2D`. Defaults to `1`.
        activation: Activation after the sum. Defaults to `None`.
        use_bias: Whether the convolution has a bias. Defaults to `False`: the
            batch normalization has one.
        batch_norm: `True` (the default) for a batch normalization after the
            convolution, a dict of its arguments, or `False` for none.
        shortcut: The shortcut `f`. `"identity"`; `"conv"`, a 1x1 convolution
            with bias; `"pool"`, an average pooling with the kernel, strides
            and padding of the convolution, which counts the zeros of the
            padding; `"pool_conv"`, the pooling and then the 1x1 convolution,
            which has the convolution's `groups`. `"auto"` (the default) takes
            the first of them that fits the shapes.
        kernel_initializer: Initializer of the kernels, including the
            shortcut's.
        bias_initializer: Initializer of the biases.
        kernel_regularizer: Regularizer of the kernels.
        bias_regularizer: Regularizer of the biases.
        kernel_constraint: Constraint of the kernels.
        bias_constraint: Constraint of the biases.
        m_initializer: Initializer of `m`. Defaults to `"ones"`.
        m_regularizer: Regularizer of `m`, such as
            `keras_gates.regularizers.L1(1e-3)`.
        m_constraint: Constraint of `m`.
        g_initializer: Initializer of `g`. Defaults to `"ones"`.
        g_regularizer: Regularizer of `g`. The paper has none.
        g_constraint: Constraint of `g`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Input shape:
        `(batch, *sizes, channels)`, or `(batch, channels, *sizes)` with
        `data_format="channels_first"`, of one or two sizes, which may be
        unknown.

    Output shape:
        The same as a `Conv1D` or `Conv2D` with these arguments.

    Raises:
        ValueError: If no single convolution could compute the same, or if the
            input shape does not fit.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> inputs = keras.Input((32, 32, 3))
    >>> x = kg.ResConv(16, 3, activation="relu", name="first")(inputs)
    >>> penalty = kg.regularizers.L1(1e-3)
    >>> layer = kg.ResConv(16, 3, activation="relu", m_regularizer=penalty)
    >>> x = layer(x)
    >>> layer.shortcut_kind
    'identity'
    >>> fused = layer.fuse()
    >>> type(fused).__name__, tuple(fused.kernel.shape)
    ('Conv2D', (3, 3, 16, 16))
    """

    weights_with_arguments = ("kernel", "bias", "m", "g")

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "same",
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        groups: int = 1,
        activation: Activation = None,
        use_bias: bool = False,
        batch_norm: bool | dict[str, Any] = True,
        shortcut: str = "auto",
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        m_initializer: Initializer = "ones",
        m_regularizer: Regularizer = None,
        m_constraint: Constraint = None,
        g_initializer: Initializer = "ones",
        g_regularizer: Regularizer = None,
        g_constraint: Constraint = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            dilation_rate=dilation_rate,
            padding=padding,
            data_format=data_format,
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.batch_norm = batch_norm
        self.shortcut = shortcut
        self.m_initializer = keras.initializers.get(m_initializer)
        self.m_regularizer = keras.regularizers.get(m_regularizer)
        self.m_constraint = keras.constraints.get(m_constraint)
        self.g_initializer = keras.initializers.get(g_initializer)
        self.g_regularizer = keras.regularizers.get(g_regularizer)
        self.g_constraint = keras.constraints.get(g_constraint)
        stock.normalization(self, "norm")
        # All axes are equal if no argument says how many there are.
        sc.resolve(self, self.window((None,) * (self.rank or 1)))

    @property
    def m(self) -> keras.Variable:
        """The layer scaling factor."""
        return self.gate.factor

    def build(self, input_shape: Shape) -> None:
        window, channels = self.read(input_shape)
        self.shortcut_kind = sc.resolve(self, window, channels)
        fixed: dict[int, int | None] = {self.channel_axis: channels}
        if sc.depends_on_size(self.shortcut_kind, window):
            first = 2 if self.channel_axis == 1 else 1
            fixed.update(enumerate(window.sizes, first))
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes=fixed
        )
        self.taps = window.taps
        rank = len(window.kernel)
        self.conv = self.convolution(rank, channels, name="conv")
        self.conv.build(input_shape)
        shape = self.conv.compute_output_shape(input_shape)
        self.norm = stock.normalization(self, "norm")
        if self.norm is not None:
            self.norm.build(shape)
        self.gate = LayerGate(
            self.m_initializer,
            self.m_regularizer,
            constraint=self.m_constraint,
            dtype=self.dtype_policy,
            name="gate",
        )
        self.gate.build(shape)
        # In float32, and never cast, for the same reason as gates.
        self.g = self.add_weight(
            name="g",
            shape=(),
            dtype="float32",
            autocast=False,
            initializer=self.g_initializer,
            regularizer=self.g_regularizer,
            constraint=self.g_constraint,
        )
        self.pointwise = None
        if self.shortcut_kind.endswith("conv"):
            self.pointwise = self._pointwise(rank, channels)
            self.pointwise.build(input_shape)

    def call(self, inputs: Any) -> Any:
        outputs = self.conv(inputs)
        if self.norm is not None:
            outputs = self.norm(outputs)
        shortcut = inputs
        if self.shortcut_kind.startswith("pool"):
            window, channels = self.read(inputs.shape)
            shortcut = stock.zero_padded_mean(
                inputs, window, channels, self.data_format
            )
        if self.pointwise is not None:
            shortcut = self.pointwise(shortcut)
        g = ops.cast(self.g, self.compute_dtype)
        return self.activation(self.gate(outputs) + g * shortcut)

    def fuse(self) -> keras.Layer:
        """The one layer that computes the same in inference.

        Returns:
            A built `Conv1D`, `Conv2D`, `DepthwiseConv1D` or
            `DepthwiseConv2D` of the same name, with a bias and the
            activation. It has no constraints, since the sum need not satisfy
            them.

        Raises:
            ValueError: If the layer is not built.
        """
        self._check_built("fused")
        return fusion.fuse(self)

    def expand(
        self, inputs: keras.KerasTensor, made: dict[str, Any] | None = None
    ) -> keras.KerasTensor:
        """Write the layer out as stock layers, on a KerasTensor.

        `m` becomes a `LayerGate` of this layer's name, so that the surgeon
        can close it, and `g` a `Rescaling`, or a part of the 1x1
        convolution. The layers hold copies of the weights.

        Args:
            inputs: KerasTensor that this layer could be called on.
            made: Dict for the new layers, so that the next call of the same
                layer finds them.

        Returns:
            A KerasTensor.

        Raises:
            ValueError: If the layer is not built.
        """
        self._check_built("expanded")
        return expansion.expand(self, inputs, {} if made is None else made)

    def get_config(self) -> dict[str, Any]:
        batch_norm = self.batch_norm
        if isinstance(batch_norm, dict):
            layer = keras.layers.BatchNormalization(name="norm", **batch_norm)
            whole = layer.get_config()
            batch_norm = {name: whole[name] for name in batch_norm}
        return {
            **super().get_config(),
            "batch_norm": batch_norm,
            "shortcut": self.shortcut,
        }

    # The layers inside ---------------------------------------------------

    def _pointwise(self, rank: int, channels: int) -> keras.Layer:
        start = self.kernel_initializer
        if isinstance(start, keras.initializers.Initializer):
            # A single initializer would draw the same numbers twice.
            start = type(start).from_config(start.get_config())
        return self.convolution(
            rank,
            channels,
            kernel_size=1,
            strides=self.strides if self.shortcut_kind == "conv" else 1,
            dilation_rate=1,
            padding="valid",
            use_bias=True,
            kernel_initializer=start,
            name="pointwise",
        )

    def _check_built(self, done: str) -> None:
        if not self.built:
            raise ValueError(
                f"ResConv '{self.name}' can't be {done} yet. Received: a "
                "layer without weights. Expected: a built layer. Call it on "
                "an input, or build its model."
            )
