"""A normalization of fewer channels, with the statistics of all of them.

Of n channels k have gone, which were constants c_j. With r = (n - k) / n, and
means over those that stay,

    mu = r * mean(x) + sum(c) / n
    var = r * mean((x - mu)^2) + sum((c - mu)^2) / n

are the statistics of all n. What is written out is a model of that, with the
name of the layer: stock operations in float32 at least, as Keras has it, and an
`EinsumDense` that multiplies each channel by gamma and adds beta.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclasses.dataclass(frozen=True, eq=False)
class Left:
    """What is left of a normalization.

    Attributes:
        layer: the layer.
        shape: that of its input when the channels are gone, the axis of the
            batch included.
        dtype: that of its input.
        axis: the axis of the channels, counted from the first.
        removed: the constants that have gone, NaN for the channels that stay;
            float64, `(channels,)`.
        groups: into how many groups the channels fall, of which each has
            statistics of its own.
    """

    layer: keras.Layer
    shape: tuple[int | None, ...]
    dtype: str
    axis: int
    removed: NDArray[np.float64]
    groups: int = 1

    def constants(self) -> tuple[NDArray[np.float64], ...]:
        """What the constants of each group add to its statistics.

        Returns:
            `(share, mean, spread)`, each `(groups,)`: how many of the channels
            have gone, k / n; what they are on average; and the mean over all
            n of the squares of what they are off that.
        """
        each = self.removed.reshape(self.groups, -1)
        gone = ~np.isnan(each)
        count = gone.sum(axis=1)
        zeros = np.where(gone, each, 0.0)
        mean = zeros.sum(axis=1) / np.maximum(count, 1)
        off = np.where(gone, zeros - mean[:, None], 0.0)
        size = each.shape[1]
        return count / size, mean, (off**2).sum(axis=1) / size

    def group_of(self) -> NDArray[np.intp]:
        """The group of each channel that stays."""
        size = self.removed.size // self.groups
        return np.flatnonzero(np.isnan(self.removed)) // size


def written_out(left: Left, spans: Sequence[int]) -> keras.Model:
    """The model that is called in the place of a layer.

    Args:
        left: what is left of the layer.
        spans: the axes that its statistics are taken over.
    """
    layer = left.layer
    inputs = keras.Input(
        batch_shape=(None, *left.shape[1:]),
        dtype=left.dtype,
        name=f"{layer.name}_input",
    )
    computes = keras.backend.result_type(left.dtype, "float32")
    x = _cast(inputs, computes)
    if left.groups == 1:
        x = _normalized(left, x, spans)
    else:
        x = _normalized_in_groups(left, x, spans)
    x = _scaled(left, x, spans, computes)
    x = _cast(x, layer.compute_dtype, name="cast_back")
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
        self.gamma: keras.Variable | None = None
        self.beta: keras.Variable | None = None
        for layer in model.layers:
            if layer.name == "scale":
                self.gamma, self.beta = layer.kernel, layer.bias
            elif layer.name == "shift":
                self.beta = layer.kernel


def _op(path: str, name: str, *args: Any, **config: Any) -> Any:
    """What an operation of `keras.ops` gives, with a name of its own."""
    cls: Any = gr.operation(path)
    operation = cls(**config)
    operation.name = name
    return operation(*args)


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


def _normalized(left: Left, x: Any, spans: Sequence[int]) -> Any:
    """`(x - mu) / sigma`, the statistics over all axes in `spans`."""
    share, mean, spread = (float(y[0]) for y in left.constants())
    of_x = _mean(x, spans, "mean_of_left")
    mu = _product(of_x, 1 - share, "share_of_mean")
    mu = _sum(mu, share * mean, "mean")
    off = _op("numpy.Subtract", "centered", x, mu)
    squares = _op("numpy.Square", "squares", off)
    var = _mean(squares, spans, "variance_of_left")
    var = _product(var, 1 - share, "share_of_variance")
    gone = _sum(mu, -mean, "mean_of_gone")
    gone = _op("numpy.Square", "square_of_gone", gone)
    gone = _product(gone, share, "share_of_gone")
    var = _op("numpy.Add", "variance", var, gone)
    var = _sum(var, spread + left.layer.epsilon, "variance_and_epsilon")
    inverse = _op("math.Rsqrt", "inverse_deviation", var)
    # An old option divides and does not center.
    whole = getattr(left.layer, "rms_scaling", False)
    return _op("numpy.Multiply", "normalized", x if whole else off, inverse)


def _normalized_in_groups(left: Left, x: Any, spans: Sequence[int]) -> Any:
    """The same with statistics of each group.

    Means over space come first; so what gathers channels into groups, and
    hands their statistics out again, costs nothing for each position.
    """
    rank, axis = len(left.shape), left.axis
    space = [a for a in spans if a != axis]
    group_of = left.group_of()
    share, mean, spread = (y.astype("float32") for y in left.constants())
    # (kept, groups): the mean of a group, of which some channels have gone.
    size = left.removed.size // left.groups
    member = np.eye(left.groups, dtype="float32")[group_of] / size

    def of_group(y: Any, name: str) -> Any:
        y = _mean(y, space, f"{name}_of_left", keepdims=False)
        return _op("numpy.Matmul", f"{name}_of_groups", y, member)

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

    mu = of_group(x, "mean")
    mu = _op("numpy.Add", "mean", mu, share * mean)
    off = _op("numpy.Subtract", "centered", x, of_channel(mu, "mean_of_each"))
    squares = _op("numpy.Square", "squares", off)
    var = of_group(squares, "variance")
    gone = _op("numpy.Subtract", "mean_of_gone", mu, mean)
    gone = _op("numpy.Square", "square_of_gone", gone)
    gone = _op("numpy.Multiply", "share_of_gone", gone, share)
    var = _op("numpy.Add", "variance", var, gone)
    rest = (spread + np.float32(left.layer.epsilon)).astype("float32")
    var = _op("numpy.Add", "variance_and_epsilon", var, rest)
    inverse = _op("math.Rsqrt", "inverse_deviation", var)
    inverse = of_channel(inverse, "inverse_of_each")
    return _op("numpy.Multiply", "normalized", off, inverse)


def _scaled(left: Left, x: Any, spans: Sequence[int], dtype: str) -> Any:
    """`x * gamma + beta`, with the regularizers that these had."""
    layer = left.layer
    gamma, beta = layer.gamma is not None, layer.beta is not None
    if not gamma and not beta:
        return x
    letters = _LETTERS[: len(left.shape)]
    weight = layer.gamma if gamma else layer.beta
    axes = list(spans) if len(weight.shape) > 1 else [left.axis]
    own = "".join(letters[a] for a in axes)
    if not gamma:
        shift = keras.layers.EinsumDense(
            f"ay,y{own.replace('a', 'z')}->a{own}",
            output_shape=tuple(left.shape[a] for a in axes),
            name="shift",
            dtype=dtype,
            **_like(layer, "beta", "kernel"),
        )
        y = shift(_ones(x))
        for a in range(1, len(left.shape)):
            if a not in axes:
                y = _op("numpy.ExpandDims", f"shift_{a}", y, axis=a)
        return _op("numpy.Add", "shifted", x, y)
    scale = keras.layers.EinsumDense(
        f"{letters},{own}->{letters}",
        output_shape=tuple(left.shape[1:]),
        bias_axes=own if beta else None,
        name="scale",
        dtype=dtype,
        **_like(layer, "gamma", "kernel"),
        **(_like(layer, "beta", "bias") if beta else {}),
    )
    return scale(x)


def _like(layer: keras.Layer, old: str, new: str) -> dict[str, Any]:
    """The arguments for a weight that stands for one of the layer."""
    return {
        f"{new}_{what}": getattr(layer, f"{old}_{what}")
        for what in ("initializer", "regularizer", "constraint")
    }


def _ones(x: Any) -> Any:
    """A one for each sample, `(batch, 1)`."""
    key = (slice(None), slice(0, 1)) + (0,) * (len(x.shape) - 2)
    ones = _op("numpy.OnesLike", "ones", x)
    return _op("numpy.GetItem", "one", ones, key)
