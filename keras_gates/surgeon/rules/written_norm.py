"""A normalization of fewer channels with the statistics of all.

What is written out is a model of `Statistics`, with the name of the layer:
stock operations in float32 at least, as Keras has it, and an `EinsumDense`
that multiplies each channel by gamma and adds beta.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.surgeon.rules.norm_form import Form
from keras_gates.surgeon.rules.norm_form import form_of

if TYPE_CHECKING:
    from keras_gates.surgeon.rules.norm_form import Weight

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclasses.dataclass(frozen=True, eq=False)
class Left:
    """What is left of a normalization.

    Attributes:
        layer: the layer, or a model that computes what one does.
        form: what it computed.
        shape: that of its input when the channels are gone, the batch axis
            included.
        dtype: that of its input.
        removed: the constants that have gone, NaN for the channels that stay;
            float64, `(channels,)`.
        gives: the dtype of what it puts out.
    """

    layer: keras.Layer
    form: Form
    shape: tuple[int | None, ...]
    dtype: str
    removed: NDArray[np.float64]
    gives: str

    def reduced(self) -> Form:
        """What is left of the form."""
        form, stays = self.form, np.isnan(self.removed)
        statistics = form.statistics.without(self.removed, form.group_of)
        return dataclasses.replace(
            form, statistics=statistics, group_of=form.group_of[stays]
        )


def written_out(left: Left) -> keras.Model:
    """The model that is called in place of a layer."""
    layer = left.layer
    inputs = keras.Input(
        batch_shape=(None, *left.shape[1:]),
        dtype=left.dtype,
        name=f"{layer.name}_input",
    )
    computes = keras.backend.result_type(left.dtype, "float32")
    form = left.reduced()
    x = _cast(inputs, computes)
    if form.statistics.groups == 1:
        x = _normalized(form, x)
    else:
        x = _normalized_in_groups(form, x)
    x = _scaled(left, x, computes)
    x = _cast(x, left.gives, name="cast_back")
    # Its dtype would be that of what the model is called on first.
    model = keras.Model(inputs, x, name=layer.name)
    model.trainable = layer.trainable
    return model


def is_written_out(layer: Any) -> bool:
    """Whether a layer may be what `written_out` has made."""
    return isinstance(layer, keras.Model)


class Held:
    """The weights of a model that was written out, by their old names."""

    def __init__(self, model: keras.Model) -> None:
        self.weights: list[keras.Variable] = list(model.weights)
        form = form_of(model)
        gamma = None if form is None else form.gamma
        beta = None if form is None else form.beta
        self.gamma = None if gamma is None else gamma.variable
        self.beta = None if beta is None else beta.variable


def _op(path: str, name: str, *args: Any, **config: Any) -> Any:
    """What an operation of `keras.ops` gives, with a name of its own."""
    return gr.named_operation(path, name, **config)(*args)


def _cast(x: Any, dtype: str, name: str = "cast") -> Any:
    same = keras.backend.standardize_dtype(x.dtype) == dtype
    return x if same else _op("core.Cast", name, x, dtype=dtype)


def _product(x: Any, number: float, name: str) -> Any:
    return x if number == 1 else _op("numpy.Multiply", name, x, number)


def _sum(x: Any, number: float, name: str) -> Any:
    return x if number == 0 else _op("numpy.Add", name, x, number)


def _mean(x: Any, axes: Sequence[int], name: str, keepdims: bool = True) -> Any:
    if not axes:
        return x
    axis = list(axes)
    return _op("numpy.Mean", name, x, axis=axis, keepdims=keepdims)


def _normalized(form: Form, x: Any) -> Any:
    """`(x - mu) / sigma`, the statistics over all axes in `spans`."""
    of, spans = form.statistics, form.spans
    mu, off = None, x
    if of.has_mean:
        of_x = _mean(x, spans, "mean_of_left")
        mu = _product(of_x, _only(of.share), "share_of_mean")
        mu = _sum(mu, _only(of.shift), "mean")
        off = _op("numpy.Subtract", "centered", x, mu)
    squares = _op("numpy.Square", "squares", off)
    var = _mean(squares, spans, "variance_of_left")
    var = _product(var, _only(of.weight), "share_of_variance")
    rest, pull, center = _only(of.rest), _only(of.pull), _only(of.center)
    if mu is None:
        rest += pull * center**2
    elif pull:
        gone = _sum(mu, -center, "mean_of_gone")
        gone = _op("numpy.Square", "square_of_gone", gone)
        gone = _product(gone, pull, "share_of_gone")
        var = _op("numpy.Add", "variance", var, gone)
    var = _sum(var, rest, "variance_and_epsilon")
    inverse = _op("math.Rsqrt", "inverse_deviation", var)
    # An old option divides and does not center.
    over = off if of.centers else x
    return _op("numpy.Multiply", "normalized", over, inverse)


def _only(numbers: NDArray[np.float64]) -> float:
    return float(numbers[0])


def _normalized_in_groups(form: Form, x: Any) -> Any:
    """The same with statistics of each group.

    Means over space come first; so what gathers channels into groups, and
    hands their statistics out again, costs nothing for each position.
    """
    rank, axis, group_of = len(x.shape), form.axis, form.group_of
    space = [a for a in form.spans if a != axis]
    of = form.statistics
    size = np.maximum(np.bincount(group_of, minlength=of.groups), 1)

    def of_group(y: Any, times: NDArray[np.float64], name: str) -> Any:
        # (kept, groups): the mean of a group, of which channels have gone.
        member = (np.eye(of.groups) * (times / size))[group_of]
        y = _mean(y, space, f"{name}_of_left", keepdims=False)
        return _op("numpy.Matmul", f"{name}_of_groups", y, _single(member))

    def of_channel(y: Any, name: str) -> Any:
        indices = [int(group) for group in group_of]
        take: Any = gr.operation("numpy.Take")
        take = take(axis=1)
        take.name = name
        y = take(y, indices=indices)
        for a in range(1, rank):
            if a != axis:
                y = _op("numpy.ExpandDims", f"{name}_{a}", y, axis=a)
        return y

    mu = of_group(x, of.share, "mean")
    mu = _op("numpy.Add", "mean", mu, _single(of.shift))
    off = _op("numpy.Subtract", "centered", x, of_channel(mu, "mean_of_each"))
    squares = _op("numpy.Square", "squares", off)
    var = of_group(squares, of.weight, "variance")
    gone = _op("numpy.Subtract", "mean_of_gone", mu, _single(of.center))
    gone = _op("numpy.Square", "square_of_gone", gone)
    gone = _op("numpy.Multiply", "share_of_gone", gone, _single(of.pull))
    var = _op("numpy.Add", "variance", var, gone)
    var = _op("numpy.Add", "variance_and_epsilon", var, _single(of.rest))
    inverse = _op("math.Rsqrt", "inverse_deviation", var)
    inverse = of_channel(inverse, "inverse_of_each")
    return _op("numpy.Multiply", "normalized", off, inverse)


def _single(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    return numbers.astype("float32")


def _scaled(left: Left, x: Any, dtype: str) -> Any:
    """`x * gamma + beta`, with the regularizers that these had."""
    gamma, beta = left.form.gamma, left.form.beta
    if gamma is None:
        return x if beta is None else _shifted(left, x, beta, dtype)
    letters = _LETTERS[: len(left.shape)]
    own = _letters(gamma, letters)
    bias = None if beta is None else _letters(beta, letters)
    scale = keras.layers.EinsumDense(
        f"{letters},{own}->{letters}",
        output_shape=tuple(left.shape[1:]),
        bias_axes=bias,
        name="scale",
        dtype=dtype,
        **gamma.like("kernel"),
        **({} if beta is None else beta.like("bias")),
    )
    return scale(x)


def _letters(weight: Weight, letters: str) -> str:
    return "".join(letters[axis] for axis in weight.axes if axis is not None)


def _shifted(left: Left, x: Any, beta: Weight, dtype: str) -> Any:
    """`x + beta`: a weight is what a layer makes of a one."""
    own = _letters(beta, _LETTERS[: len(left.shape)])
    axes = [axis for axis in beta.axes if axis is not None]
    shift = keras.layers.EinsumDense(
        f"ay,y{own.replace('a', 'z')}->a{own}",
        output_shape=tuple(left.shape[axis] for axis in axes),
        name="shift",
        dtype=dtype,
        **beta.like("kernel"),
    )
    y = shift(_ones(x))
    for a in range(1, len(left.shape)):
        if a not in axes:
            y = _op("numpy.ExpandDims", f"shift_{a}", y, axis=a)
    return _op("numpy.Add", "shifted", x, y)


def _ones(x: Any) -> Any:
    """A one for each sample, `(batch, 1)`."""
    key = (slice(None), slice(0, 1)) + (0,) * (len(x.shape) - 2)
    ones = _op("numpy.OnesLike", "ones", x)
    return _op("numpy.GetItem", "one", ones, key)
