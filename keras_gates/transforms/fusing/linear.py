"""Linear operations in one form that can be composed and added."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A convolution, or anything that can be written as one.

    `y[o] = bias + sum over taps t: kernel[t] @ x[o * strides + start + t *
    dilation]`, with zeros for missing pixels.

    Attributes:
        kernel: `(*taps, channels of a group, filters)`, in float64.
        bias: one number for each filter.
        groups: the number of groups; as many as channels if it is depthwise.
        strides: pixels from one output to the next, for each axis.
        start: the position of the first tap for the first output.
        dilation: pixels from one tap to the next.
        biased: whether there is a bias, even one of zeros.
        borders: whether it reads zeros around its input.
        placed: whether `start` is known; it is 0 if the size of the input, on
            which "same" depends, is not.
    """

    kernel: NDArray[np.float64]
    bias: NDArray[np.float64]
    groups: int
    strides: tuple[int, ...]
    start: tuple[int, ...]
    dilation: tuple[int, ...]
    biased: bool
    borders: bool = False
    placed: bool = True

    @property
    def taps(self) -> tuple[int, ...]:
        return self.kernel.shape[:-2]

    @property
    def channels(self) -> int:
        return int(self.kernel.shape[-2]) * self.groups

    @property
    def filters(self) -> int:
        return int(self.kernel.shape[-1])

    @property
    def diagonal(self) -> bool:
        """Whether each channel depends on the same input channel only."""
        return self.groups == self.channels == self.filters

    @property
    def single(self) -> bool:
        return math.prod(self.taps) == 1

    @property
    def zero_outside(self) -> bool:
        """Whether it is zero outside of its own output."""
        still = self.single and set(self.strides) <= {1}
        return still and max(self.start, default=0) <= 0 and not self.biased


def pointwise(
    scale: NDArray[Any], offset: NDArray[Any], rank: int, biased: bool = True
) -> Linear:
    """`scale * x + offset`, with one of each per channel."""
    ones = (1,) * rank
    return Linear(
        np.reshape(scale, (*ones, 1, -1)).astype("float64"),
        np.asarray(offset, "float64"),
        len(scale),
        ones,
        (0,) * rank,
        ones,
        biased,
    )


def identity(channels: int, rank: int) -> Linear:
    """The identity."""
    return pointwise(np.ones(channels), np.zeros(channels), rank, False)


def then(first: Linear, second: Linear) -> Linear | None:
    """The composition; None if no single form represents it."""
    if second.borders and not first.zero_outside:
        return None
    if first.borders and not second.placed:
        return None
    if not (first.single or second.single):
        return None
    if second.diagonal:
        kernel = first.kernel * second.kernel
        groups = first.groups
    elif first.diagonal:
        kernel = second.kernel * _of_inputs(first.kernel[..., 0, :], second)
        groups = second.groups
    else:
        return None
    axes = zip(second.start, first.strides, first.start, strict=True)
    reach = second if first.single else first
    pace = first.strides if first.single else (1,) * len(first.strides)
    return Linear(
        kernel,
        second.bias + _through(first.bias, second),
        groups,
        _times(first.strides, second.strides),
        tuple(b * stride + a for b, stride, a in axes),
        _times(reach.dilation, pace),
        first.biased or second.biased,
        first.borders or second.borders,
        first.placed and second.placed,
    )


def plus(base: Linear, other: Linear) -> Linear | None:
    """The sum on the taps of `base`; None if `other` needs other taps."""
    kernel = _regrouped(other, base.groups)
    known = base.placed and other.placed
    # The padding of "same" depends only on these and the size.
    alike = (base.taps, base.dilation) == (other.taps, other.dilation)
    if kernel is None or base.strides != other.strides:
        return None
    if not known and (base.placed or other.placed or not alike):
        return None
    indices = []
    for axis, count in enumerate(other.taps):
        pixels = other.start[axis] + np.arange(count) * other.dilation[axis]
        found, rest = divmod(pixels - base.start[axis], base.dilation[axis])
        if rest.any() or found.min() < 0 or found.max() >= base.taps[axis]:
            return None
        indices.append(found)
    total = base.kernel.copy()
    for tap in itertools.product(*map(range, other.taps)):
        place = tuple(index[t] for index, t in zip(indices, tap, strict=True))
        total[place] += kernel[tap]
    return dataclasses.replace(
        base,
        kernel=total,
        bias=base.bias + other.bias,
        biased=base.biased or other.biased,
    )


def _times(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a * b for a, b in zip(first, second, strict=True))


def _inputs(linear: Linear) -> NDArray[np.intp]:
    """`(rows, filters)`: the channel that each entry of a tap reads."""
    rows = linear.kernel.shape[-2]
    group = np.arange(linear.filters) // (linear.filters // linear.groups)
    inputs: NDArray[np.intp] = group * rows + np.arange(rows)[:, None]
    return inputs


def _of_inputs(
    vectors: NDArray[np.float64], linear: Linear
) -> NDArray[np.float64]:
    """`(..., channels)` as `(..., rows, filters)` of a form's kernel."""
    return vectors[..., _inputs(linear)]


def _through(
    constants: NDArray[np.float64], linear: Linear
) -> NDArray[np.float64]:
    """The output for constant channels, away from borders."""
    axes = tuple(range(len(linear.taps) + 1))
    products = linear.kernel * _of_inputs(constants, linear)
    summed: NDArray[np.float64] = products.sum(axes)
    return summed


def _regrouped(linear: Linear, groups: int) -> NDArray[np.float64] | None:
    """Its kernel with fewer groups, filled with zeros, or None."""
    if linear.groups % groups:
        return None
    rows = linear.channels // groups
    found = np.zeros((*linear.taps, rows, linear.filters))
    own = np.arange(linear.filters)
    places = _inputs(linear) - own // (linear.filters // groups) * rows
    found[..., places, own] = linear.kernel
    return found
