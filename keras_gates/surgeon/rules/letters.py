"""Letters for the axes of multiplied tensors, as in `einsum`."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Entry

_LETTERS = string.ascii_letters


class Terms(NamedTuple):
    """The letters of the axes of tensors.

    Attributes:
        inputs: those of each input of a call.
        output: those of the output.
    """

    inputs: tuple[str, ...]
    output: str

    @property
    def letters(self) -> str:
        """All letters, those of the output first."""
        return "".join(dict.fromkeys(self.output + "".join(self.inputs)))

    def is_shared(self, letter: str) -> bool:
        """Whether several inputs and the output have it, as heads."""
        several = sum(letter in term for term in self.inputs) > 1
        return several and letter in self.output


def spread_out(
    array: NDArray[Entry], term: str, letters: str
) -> NDArray[Entry]:
    """An array with the axes of `term` as one with those of `letters`.

    Of an axis that `letters` lacks the first entry stands for all; one that
    `term` lacks has an extent of 1.
    """
    at = [0 if c not in letters else slice(None) for c in term]
    array = array[tuple(at)]
    left = [c for c in term if c in letters]
    order = sorted(range(len(left)), key=lambda i: letters.index(left[i]))
    array = array.transpose(order)
    lacking = tuple(i for i, c in enumerate(letters) if c not in term)
    return np.expand_dims(array, lacking)


def gathered(
    array: NDArray[np.bool_], letters: str, term: str
) -> NDArray[np.bool_]:
    """For the axes of `term`, whether any entry along the others is true."""
    others = tuple(i for i, c in enumerate(letters) if c not in term)
    array = np.asarray(array.any(axis=others))
    left = [c for c in letters if c in term]
    return array.transpose([left.index(c) for c in term])


def reduced(
    array: NDArray[np.bool_], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Whether any is true where `shape` has an extent of 1."""
    pairs = enumerate(zip(array.shape, shape, strict=True))
    once = tuple(a for a, (own, size) in pairs if own > size == 1)
    some = np.asarray(array.any(axis=once, keepdims=True))
    return np.broadcast_to(some, shape)


# What the operands of a call are -------------------------------------------


def matmul_terms(call: Call) -> Terms:
    """Those of `matmul`, `x1 @ x2`."""
    first, second = (len(t.shape) for t in call.inputs)
    if min(first, second) < 2:
        raise ValueError("it multiplies a vector")
    *batch, i, j, k = [*_LETTERS[: max(first, second) + 1]]
    outer = "".join(batch)
    left = outer[len(outer) - first + 2 :] + i + j
    right = outer[len(outer) - second + 2 :] + j + k
    return Terms((left, right), outer + i + k)


def einsum_terms(call: Call) -> Terms:
    """Those of `einsum`, an ellipsis written out."""
    equation = call.op.subscripts.replace(" ", "")
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != len(call.inputs):
        raise ValueError("some of its operands are not tensors of the model")
    free = [c for c in _LETTERS if c not in equation]
    most = 0
    for number, tensor in enumerate(call.inputs):
        if "..." in terms[number]:
            count = len(tensor.shape) - len(terms[number]) + 3
            names = "".join(free[:count][::-1])
            terms[number] = terms[number].replace("...", names)
            most = max(most, count)
    output = output.replace("...", "".join(free[:most][::-1]))
    if any(len(set(term)) < len(term) for term in (*terms, output)):
        raise ValueError("its equation has a letter twice")
    return Terms(tuple(terms), output)


def dot_terms(call: Call) -> Terms:
    """Those of the layer `Dot`."""
    if call.op.normalize:
        raise ValueError("it normalizes its operands")
    first, second = (len(t.shape) for t in call.inputs)
    axes = call.op.axes
    pair = (axes, axes) if isinstance(axes, int) else tuple(axes)
    if isinstance(axes, int):
        pair = (axes % first, axes % second)
    left = list(_LETTERS[:first])
    right = [left[0], *_LETTERS[first : first + second - 1]]
    right[pair[1] % second] = summed = left[pair[0] % first]
    output = [c for c in left if c != summed]
    output += [c for c in right[1:] if c != summed]
    if len(output) == 1:  # the layer puts out a number for each sample
        output.append(_LETTERS[-1])
    return Terms(("".join(left), "".join(right)), "".join(output))
