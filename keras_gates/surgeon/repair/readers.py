"""The kernels of a call that can be fitted, and what they read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import graph as gr
from keras_gates.graphs import private
from keras_gates.graphs import time_axis
from keras_gates.surgeon.repair import forms
from keras_gates.surgeon.repair.windows import Window
from keras_gates.surgeon.rules import einsum

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.repair.forms import Array

_L = keras.layers
# Layers whose bias is one number for each of their outputs.
_WITH_BIAS = (
    *(_L.Dense, _L.Conv1D, _L.Conv2D, _L.Conv3D),
    *(_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose),
    *(_L.SeparableConv1D, _L.SeparableConv2D),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """A kernel in one call.

    Attributes:
        call: the call.
        layer: the layer that holds the kernel.
        name: that of the kernel, where the layer has several; else "".
        source: the tensor that it reads.
        kernel: the kernel.
        bias: what is added to its product, or None.
        form: how the kernel meets the input.
        activation: what the layer does with the sum; None where the output
            of the layer is something else than a function of it.
        inner: whether it reads what the layer makes of its inputs on the way,
            and puts the layer's output out; see `inside.read`.
    """

    call: Call
    layer: keras.Layer
    name: str
    source: Tensor
    kernel: keras.Variable
    bias: keras.Variable | None
    form: forms.Form
    activation: Callable[[Any], Any] | None
    inner: bool = False

    @property
    def path(self) -> str:
        """That of the layer, and the name of the kernel if it has several."""
        return f"{self.call.path}/{self.name}" if self.name else self.call.path

    def matrix(self) -> Array:
        """The kernel as `(groups, inputs, outputs)`, float64."""
        return self.form.matrix(values_of(self.kernel))

    def offset(self) -> Array:
        """The bias of each output, zeros where there is none: `(outputs,)`."""
        count = self.outputs
        if self.bias is None:
            return np.zeros(count)
        # Of the two biases of a GRU, the first is added to the data's product.
        return values_of(self.bias).reshape(-1)[:count]

    @property
    def may_have_bias(self) -> bool:
        """Whether the layer has none, and stays what it is with one."""
        form, own = self.form, self.call.op is self.layer
        opened = any(
            scope.site.opened is not None for scope in self.call.scopes
        )
        if self.bias is not None or opened or not own:
            return False
        if type(self.layer) is _L.EinsumDense:
            return form.joined == 1 and form.axis_out == -1
        return type(self.layer) in _WITH_BIAS

    @property
    def outputs(self) -> int:
        """How many outputs there are, over all groups."""
        axes = self.form.out_axes(len(self.kernel.shape))
        return int(np.prod([self.kernel.shape[axis] for axis in axes]))

    def sizes(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of the axes of places, for an input of a shape."""
        if self.form.folded:
            x = (x[0] * x[1], *x[2:])
        y: tuple[int, ...] = ()
        if self.activation is not None:
            y = self.layer.compute_output_shape(x)
            y = _moved(y, self.form.axis_out)
        return self.form.places(_moved(x, self.form.axis_in), y)

    def assign(self, matrix: Array, offset: Array | None) -> None:
        """Set the kernel and, unless it is None, the bias."""
        kernel = self.form.kernel(matrix, tuple(self.kernel.shape))
        self.kernel.assign(kernel.astype(_numpy_type(self.kernel)))
        if offset is not None and self.bias is not None:
            bias = values_of(self.bias)
            bias.reshape(-1)[: len(offset)] = offset
            self.bias.assign(bias.astype(_numpy_type(self.bias)))


def values_of(variable: keras.Variable) -> Array:
    """A copy of the values of a variable, in float64."""
    return np.array(keras.ops.convert_to_numpy(variable), "float64")


def _moved(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """A shape with one of its axes last."""
    left = list(shape)
    return (
        *left[: axis % len(left)],
        *left[axis % len(left) :][1:],
        left[axis],
    )


def _numpy_type(variable: keras.Variable) -> str:
    """A type of NumPy that holds the values; Keras casts what it is given."""
    known = ("float16", "float32", "float64")
    return variable.dtype if variable.dtype in known else "float32"


def readers_of(call: Call) -> list[Reader]:
    """The kernels of a call that are known to multiply one of its inputs."""
    part = time_axis.layer_of(call.op)
    find = _FOUND.get(type(part))
    if find is None or gr.has_own_call(part) or gr.has_own_call(call.op):
        return []
    found = find(call, part)
    if part is not call.op:
        found = [
            dataclasses.replace(
                r, form=dataclasses.replace(r.form, folded=True)
            )
            for r in found
        ]
    return [r for r in found if _is_plain(r)]


def _is_plain(reader: Reader) -> bool:
    """Whether kernel and bias are variables with a value for each output."""
    bias = reader.bias
    if not isinstance(reader.kernel, keras.Variable):
        return False
    if bias is None:
        return True
    outputs = reader.outputs
    one = len(bias.shape) == 1 or bias.shape[0] == 2 or reader.name
    size = int(np.prod(bias.shape))
    return bool(one) and size in (outputs, 2 * outputs)


def _axis(op: keras.Layer, rank: int) -> int:
    first = getattr(op, "data_format", None) == "channels_first"
    return 1 - rank if first else -1


def _one(
    call: Call,
    op: keras.Layer,
    form: forms.Form,
    kernel: keras.Variable | None = None,
) -> list[Reader]:
    return [
        Reader(
            call,
            op,
            "",
            call.inputs[0],
            op.kernel if kernel is None else kernel,
            op.bias,
            form,
            op.activation or keras.activations.linear,
        )
    ]


def _dense(call: Call, op: keras.Layer) -> list[Reader]:
    if getattr(op, "quantization_mode", None):
        return []
    return _one(call, op, forms.Product())


def _einsum(call: Call, op: keras.Layer) -> list[Reader]:
    if getattr(op, "quantization_mode", None):
        return []
    try:
        spec = einsum.read(op.equation)
    except ValueError:
        return []
    if len(spec.kernel) == 2:
        turned = spec.kernel[0] == spec.new
        form = forms.Product(
            axis_in=spec.axis_in, axis_out=spec.axis_out, turned=turned
        )
        return _one(call, op, form)
    # Heads side by side, with what they hold, as if they were one axis.
    last = spec.x.endswith(spec.old) and spec.y.endswith(spec.new)
    if spec.kernel != spec.old + spec.new or len(spec.new) > 1 or not last:
        return []
    return _one(call, op, forms.Product(joined=len(spec.old)))


def _convolution(call: Call, op: keras.Layer) -> list[Reader]:
    axis = _axis(op, len(op.kernel_size) + 2)
    window = Window.of_layer(op)
    if op.groups > 1 and op.kernel.shape[-2] == 1:
        if op.filters != op.groups:
            return []
        form: forms.Form = forms.Depthwise(
            window=window, turned=True, axis_in=axis, axis_out=axis
        )
    else:
        form = forms.Convolution(
            window=window, groups=op.groups, axis_in=axis, axis_out=axis
        )
    return _one(call, op, form)


def _transposed(call: Call, op: keras.Layer) -> list[Reader]:
    axis = _axis(op, len(op.kernel_size) + 2)
    window = Window.of_layer(op, transposed=True)
    form = forms.Transposed(window=window, axis_in=axis, axis_out=axis)
    return _one(call, op, form)


def _depthwise(call: Call, op: keras.Layer) -> list[Reader]:
    axis = _axis(op, len(op.kernel_size) + 2)
    window = Window.of_layer(op)
    form = forms.Depthwise(window=window, axis_in=axis, axis_out=axis)
    return _one(call, op, form)


def _separable(call: Call, op: keras.Layer) -> list[Reader]:
    axis = _axis(op, len(op.kernel_size) + 2)
    first = forms.Depthwise(window=Window.of_layer(op))
    form = forms.Pointwise(
        first=first,
        depthwise=values_of(op.depthwise_kernel),
        axis_in=axis,
        axis_out=axis,
    )
    return _one(call, op, form, op.pointwise_kernel)


def _recurrent(call: Call, op: keras.Layer) -> list[Reader]:
    return _of_cell(call, op, "")


def _of_cell(call: Call, op: keras.Layer, name: str) -> list[Reader]:
    cell = op.cell
    form = forms.Product()
    source = call.inputs[0]
    return [Reader(call, op, name, source, cell.kernel, cell.bias, form, None)]


def _recurrent_convolution(call: Call, op: keras.Layer) -> list[Reader]:
    """What each step makes of its input, which the state is added to."""
    cell = op.cell
    axis = _axis(cell, len(cell.kernel_size) + 2)
    form = forms.Convolution(
        window=Window.of_layer(cell), axis_in=axis, axis_out=axis, folded=True
    )
    bias = cell.bias if cell.use_bias else None
    source = call.inputs[0]
    return [Reader(call, op, "", source, cell.kernel, bias, form, None)]


def _bidirectional(call: Call, op: keras.Layer) -> list[Reader]:
    sides = (("forward", op.forward_layer), ("backward", op.backward_layer))
    return [
        reader
        for name, layer in sides
        if _FOUND.get(type(layer)) is _recurrent
        for reader in _of_cell(call, layer, name)
    ]


def _attention(call: Call, op: keras.Layer) -> list[Reader]:
    found = []
    value = call.argument("value")
    read = {
        "query": call.argument("query"),
        "value": value,
        "key": call.argument("key") or value,
    }
    for name, source in read.items():
        dense = private.attention_projection(op, name)
        if dense is None or source is None:
            continue
        form = forms.Product()
        kernel, bias = dense.kernel, dense.bias
        found.append(
            Reader(call, dense, name, source, kernel, bias, form, None)
        )
    output = private.attention_projection(op, "output")
    if output is not None and len(call.outputs) == 1:
        found.append(
            Reader(
                call,
                output,
                "output",
                call.inputs[0],
                output.kernel,
                output.bias,
                forms.Product(joined=len(output.kernel.shape) - 1),
                None,
                inner=True,
            )
        )
    return found


_FOUND: Mapping[type, Callable[[Call, keras.Layer], list[Reader]]] = {
    _L.Dense: _dense,
    _L.EinsumDense: _einsum,
    **dict.fromkeys((_L.Conv1D, _L.Conv2D, _L.Conv3D), _convolution),
    **dict.fromkeys(
        (_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose),
        _transposed,
    ),
    **dict.fromkeys((_L.DepthwiseConv1D, _L.DepthwiseConv2D), _depthwise),
    **dict.fromkeys((_L.SeparableConv1D, _L.SeparableConv2D), _separable),
    **dict.fromkeys((_L.SimpleRNN, _L.GRU, _L.LSTM), _recurrent),
    **dict.fromkeys(
        (_L.ConvLSTM1D, _L.ConvLSTM2D, _L.ConvLSTM3D), _recurrent_convolution
    ),
    _L.Bidirectional: _bidirectional,
    _L.MultiHeadAttention: _attention,
    _L.GroupQueryAttention: _attention,
}
