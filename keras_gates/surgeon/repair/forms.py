"""Linear layers as what they are: rows of inputs times a matrix.

At each place of its output a layer reads a row of inputs for each of its
groups, and multiplies it by the matrix of that group. One group is the rule; a
convolution may have several, a depthwise one has a group for each channel.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any
from typing import ClassVar
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.repair.windows import Places
from keras_gates.surgeon.repair.windows import Window

Array: TypeAlias = "NDArray[np.float64]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form(abc.ABC):
    """How the kernel of a layer meets its input.

    Attributes:
        axis_in: the channel axis in the input.
        axis_out: the channel axis in the output.
        folded: whether the first axis after that of samples belongs to it, as
            time does in TimeDistributed.
        joined: how many axes of the input a kernel sums over, `axis_in` last.
    """

    axis_in: int = -1
    axis_out: int = -1
    folded: bool = False
    joined: int = 1
    # Whether inputs of one channel follow each other in a row; otherwise each
    # tap has all channels, one tap after the other.
    repeats: ClassVar[bool] = False

    @abc.abstractmethod
    def places(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of the axes of places, of an input and an output.

        Both as `laid_out`: samples first, channels last. The output is () if
        it is something else than the product.
        """

    @abc.abstractmethod
    def rows(self, x: Array, places: Places, sizes: tuple[int, ...]) -> Array:
        """What is read of an input: `(groups, places, inputs)`."""

    @abc.abstractmethod
    def matrix(self, kernel: Array) -> Array:
        """The kernel as `(groups, inputs, outputs)`."""

    @abc.abstractmethod
    def kernel(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """The kernel of a shape that is this matrix."""

    @abc.abstractmethod
    def out_axes(self, rank: int) -> tuple[int, ...]:
        """The axes of a kernel of this rank along which outputs vary."""

    def laid_out(self, x: NDArray[np.generic], axis: int) -> Array:
        """A tensor with its samples first and the channels last."""
        small = x.dtype not in (np.float32, np.float64)
        array: NDArray[Any] = np.asarray(x, "float32" if small else x.dtype)
        if self.folded:
            array = array.reshape(-1, *array.shape[2:])
        moved: Array = np.moveaxis(array, axis, -1)
        return moved


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product(Form):
    """A matrix product over an axis, at any place along the others.

    Attributes:
        turned: whether the kernel is `(out, in)`.
    """

    turned: bool = False

    def places(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        return x[1 : -self.joined]

    def rows(self, x: Array, places: Places, sizes: tuple[int, ...]) -> Array:
        read = x[(places.sample, *places.at)]
        found: Array = read.reshape(1, len(places.sample), -1)
        return found

    def matrix(self, kernel: Array) -> Array:
        kernel = kernel.T if self.turned else kernel
        count = math.prod(kernel.shape[: self.joined])
        return kernel.reshape(1, count, -1)

    def kernel(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        if self.turned:
            turned: Array = matrix[0].T
            return turned.reshape(shape)
        return matrix.reshape(shape)

    def out_axes(self, rank: int) -> tuple[int, ...]:
        return (0,) if self.turned else tuple(range(self.joined, rank))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convolution(Form):
    """A convolution, in groups or not; the kernel is `(..., in, out)`.

    Attributes:
        window: its window.
        groups: how many groups its channels are in.
    """

    window: Window
    groups: int = 1

    def places(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        return y[1:-1] if y else self.window.outputs(x[1:-1])

    def rows(self, x: Array, places: Places, sizes: tuple[int, ...]) -> Array:
        taps = list(self.window.taps(x, places, sizes))
        read = np.stack(taps, 1)  # (places, taps, channels)
        count, number, _ = read.shape
        read = read.reshape(count, number, self.groups, -1)
        return read.transpose(2, 0, 1, 3).reshape(self.groups, count, -1)

    def matrix(self, kernel: Array) -> Array:
        read = math.prod(kernel.shape[:-1])
        split = kernel.reshape(read, self.groups, -1)
        return split.transpose(1, 0, 2)

    def kernel(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        return matrix.transpose(1, 0, 2).reshape(shape)

    def out_axes(self, rank: int) -> tuple[int, ...]:
        return (rank - 1,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transposed(Convolution):
    """A transposed convolution; the kernel is `(..., out, in)`."""

    def matrix(self, kernel: Array) -> Array:
        return super().matrix(np.swapaxes(kernel, -1, -2))

    def kernel(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        swapped = (*shape[:-2], shape[-1], shape[-2])
        return np.swapaxes(super().kernel(matrix, swapped), -1, -2)

    def out_axes(self, rank: int) -> tuple[int, ...]:
        return (rank - 2,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depthwise(Form):
    """A kernel for each channel, `(..., channels, multiplier)`.

    Attributes:
        window: its window.
        turned: whether the last axes of the kernel are `(1, out)`, as those
            of a convolution with a group for each channel.
    """

    window: Window
    turned: bool = False

    def places(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        return y[1:-1]

    def rows(self, x: Array, places: Places, sizes: tuple[int, ...]) -> Array:
        taps = list(self.window.taps(x, places, sizes))
        # (taps, places, channels)
        return np.stack(taps).transpose(2, 1, 0)

    def matrix(self, kernel: Array) -> Array:
        taps = math.prod(kernel.shape[:-2])
        if self.turned:
            # One input a group: as many groups as the input has channels.
            return kernel.reshape(taps, -1, 1).transpose(1, 0, 2)
        return kernel.reshape(taps, *kernel.shape[-2:]).transpose(1, 0, 2)

    def kernel(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        return matrix.transpose(1, 0, 2).reshape(shape)

    def out_axes(self, rank: int) -> tuple[int, ...]:
        return (rank - 1,) if self.turned else (rank - 2, rank - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pointwise(Form):
    """The second kernel of a separable convolution.

    Attributes:
        first: the depthwise part.
        depthwise: its kernel.
    """

    repeats: ClassVar[bool] = True

    first: Depthwise
    depthwise: Array = dataclasses.field(repr=False, compare=False)

    def places(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        return y[1:-1]

    def rows(self, x: Array, places: Places, sizes: tuple[int, ...]) -> Array:
        read = self.first.rows(x, places, sizes)
        # (channels, places, multiplier)
        found = read @ self.first.matrix(self.depthwise)
        return found.transpose(1, 0, 2).reshape(1, len(places.sample), -1)

    def matrix(self, kernel: Array) -> Array:
        return kernel.reshape(1, -1, kernel.shape[-1])

    def kernel(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        return matrix.reshape(shape)

    def out_axes(self, rank: int) -> tuple[int, ...]:
        return (rank - 1,)
