"""Products of tensors, axis by axis.

Each axis of each operand has a letter, as in `einsum`. Letters that several
operands have tie their channels: heads in `bhqd,bhkd->bhqk`, which the output
has as well, and the sizes of a key, `d`, which it has not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.graph import Tensor
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.letters import Terms
from keras_gates.surgeon.rules.letters import gathered
from keras_gates.surgeon.rules.letters import matmul_terms
from keras_gates.surgeon.rules.letters import reduced
from keras_gates.surgeon.rules.letters import spread_out
from keras_gates.surgeon.rules.product import Product
from keras_gates.surgeon.rules.reach import NOTHING
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import operands

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Entry
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.modes import Scaling

_SUMMED = (
    "a product of tensors sums over its channels, and the other side has none"
)
_APART = "it is multiplied with a tensor that has no matching channels"
_CROSSED = "a product of tensors has channels of both along two axes"
_SEVERAL = "a product of tensors finds channels along more than one axis"


@dataclasses.dataclass(frozen=True)
class Contraction(Rule):
    """A product of tensors, summed over some of their axes.

    Attributes:
        terms: `call -> Terms`; it raises a ValueError for what is no product
            that can be followed.
        why: the reason why both sides are kept whole then.
    """

    kind: str = "product"
    costs: Any = None
    terms: Callable[[Call], Terms] = matmul_terms
    why: str = (
        "a product over the channels needs the same channels on both sides"
    )

    multiplies = True

    def pick(self, call: Call) -> Rule:
        try:
            if len(call.inputs) < 2 or len(self._tensors(call)) != len(
                call.inputs
            ):
                raise ValueError("not all of its operands are tensors")
            terms = self.terms(call)
        except ValueError:
            return Product(costs=None, why=self.why, counts=self.counts)
        ranks = [len(t.shape) for t in (*call.inputs, call.outputs[0])]
        if [*map(len, (*terms.inputs, terms.output))] != ranks:
            return Product(costs=None, why=self.why, counts=self.counts)
        return self

    def _tensors(self, call: Call) -> list[Tensor]:
        found = operands(call)
        return [x for x in found if isinstance(x, Tensor)]

    def zeroing(self, call: Call) -> Sequence[int]:
        """The inputs where a zero makes the product zero."""
        return range(len(call.inputs))

    def shared_axes(self, call: Call, index: int) -> list[int]:
        terms = self.terms(call)
        term = terms.inputs[index]
        return [a for a, c in enumerate(term) if terms.is_shared(c)]

    def carried_axes(self, call: Call, index: int) -> dict[int, int]:
        terms = self.terms(call)
        letters = enumerate(terms.inputs[index])
        return {
            a: terms.output.index(c) for a, c in letters if c in terms.output
        }

    def met_axes(self, call: Call, index: int, other: int) -> dict[int, int]:
        own, theirs = (self.terms(call).inputs[i] for i in (index, other))
        return {a: theirs.index(c) for a, c in enumerate(own) if c in theirs}

    def head_axis(self, call: Call, flow: Flow) -> int | None:
        terms = self.terms(call)
        axes = lb.varying(lb.collapse(flow.labels[0]))
        heads = [a for a in axes if terms.is_shared(terms.output[a])]
        return heads[0] if heads else None

    def repeats(self, call: Call, index: int) -> tuple[int, int]:
        """`(axis, times)`: how often each channel of an input is used.

        As by the query heads that share a head of keys.
        """
        return 0, 1

    def _wide(
        self, call: Call, index: int, array: NDArray[Entry]
    ) -> NDArray[Entry]:
        """An array like an input's labels, as long as what it meets."""
        axis, times = self.repeats(call, index)
        varies = times > 1 and array.shape[axis] > 1
        return np.repeat(array, times, axis) if varies else array

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        terms = self.terms(call)
        wide = [self._wide(call, i, x) for i, x in enumerate(inputs)]
        along = self._letters(call, inputs, wide, units)
        for letter in dict.fromkeys(x for x in along if x is not None):
            first, *rest = (
                spread_out(lb.collapse(wide[i]), terms.inputs[i], letter)
                for i, own in enumerate(along)
                if own == letter
            )
            for other in rest:
                units.tie(first, other)
        summed = {c for c in along if c is not None and c not in terms.output}
        multiplied = tuple(i for i, c in enumerate(along) if c in summed)
        labels, sources = self._outcome(call, wide, along)
        roles = {}
        for index in multiplied[:1]:
            letter = along[index] or ""
            ids = lb.along(wide[index], terms.inputs[index].index(letter))
            if ids is not None:
                roles["in"] = ids
        return Flow(
            [labels],
            [sources],
            roles,
            mixes=bool(multiplied),
            untied=tuple(i for i, c in enumerate(along) if c is None),
            states=tuple(
                i
                for i, c in enumerate(along)
                if multiplied and c is not None and i not in multiplied
            ),
            multiplied=multiplied,
            reads={},
        )

    def _letters(
        self,
        call: Call,
        inputs: list[NDArray[np.intp]],
        wide: list[NDArray[np.intp]],
        units: Units,
    ) -> list[str | None]:
        """For each input, the letter of its removable channels."""
        terms = self.terms(call)
        along: list[str | None] = []
        for index, array in enumerate(wide):
            axes = lb.varying(lb.collapse(array))
            if len(axes) > 1:
                units.pin(inputs[index], _SEVERAL)
            single = len(axes) == 1
            along.append(terms.inputs[index][axes[0]] if single else None)
        barred: tuple[int, str] | None = (-1, "")
        while barred is not None:
            barred = next(self._barred(call, along), None)
            if barred is not None:
                index, why = barred
                units.pin(inputs[index], why)
                along[index] = None
        return along

    def _barred(
        self, call: Call, along: Sequence[str | None]
    ) -> Iterator[tuple[int, str]]:
        """The inputs whose channels must stay, and why."""
        terms = self.terms(call)
        carried = dict.fromkeys(c for c in along if c and c in terms.output)
        # Prefer removing heads to removing their dimensions.
        shared = [c for c in carried if terms.is_shared(c)]
        first = [*shared, *carried][:1]
        for index, letter in enumerate(along):
            why = self._bar(call, along, index)
            if letter in carried and letter not in first:
                why = why or _CROSSED
            if why is not None:
                yield index, why

    def _bar(
        self, call: Call, along: Sequence[str | None], index: int
    ) -> str | None:
        """Why the channels of an input have to stay, if they do."""
        terms, letter = self.terms(call), along[index]
        if letter is None:
            return None
        size = self._size(call, index, letter)
        holders = [
            i
            for i, term in enumerate(terms.inputs)
            if letter in term and self._size(call, i, letter) == size
        ]
        if any(along[i] != letter for i in holders):
            return _APART
        if letter not in terms.output and len(holders) == 1:
            return _SUMMED
        return None

    def _size(self, call: Call, index: int, letter: str) -> int | None:
        axis = self.terms(call).inputs[index].index(letter)
        repeated, times = self.repeats(call, index)
        size = call.inputs[index].shape[axis]
        return size * times if size and axis == repeated else size

    def _outcome(
        self,
        call: Call,
        wide: list[NDArray[np.intp]],
        along: Sequence[str | None],
    ) -> tuple[NDArray[np.intp], list[NDArray[np.intp] | None]]:
        """The labels of the output, and where its coordinates stem from."""
        terms, rank = self.terms(call), len(call.outputs[0].shape)
        carrying = [
            i
            for i, c in enumerate(along)
            if c is not None and c in terms.output
        ]
        if not carrying:
            nothing = np.zeros((1,) * rank, np.intp)
            mixes = any(c is not None for c in along)
            return lb.fixed(rank), [None if mixes else nothing for _ in wide]
        numbers = [
            self._wide(call, i, np.arange(math.prod(x)).reshape(x))
            for i, x in enumerate(self._extents(call, wide))
        ]
        own = {
            i: spread_out(wide[i], terms.inputs[i], terms.output)
            for i in carrying
        }
        extents = np.broadcast_shapes(*(x.shape for x in own.values()))
        labels = np.broadcast_to(own[carrying[0]], extents)
        sources: list[NDArray[np.intp] | None] = []
        for index, array in enumerate(numbers):
            found = spread_out(array, terms.inputs[index], terms.output)
            inside = all(
                n in (1, e) for n, e in zip(found.shape, extents, strict=True)
            )
            lost = along[index] is not None and index not in carrying
            sources.append(
                np.broadcast_to(found, extents) if inside and not lost else None
            )
        return labels, sources

    def _extents(
        self, call: Call, wide: list[NDArray[np.intp]]
    ) -> list[tuple[int, ...]]:
        """The shapes of the inputs' labels."""
        found = []
        for index, array in enumerate(wide):
            axis, times = self.repeats(call, index)
            shape = list(array.shape)
            if shape[axis] > 1:
                shape[axis] //= times
            found.append(tuple(shape))
        return found

    # What follows from zeros ------------------------------------------------

    def _zeros(
        self, call: Call, zeros: Sequence[NDArray[np.bool_]]
    ) -> list[NDArray[np.bool_]]:
        """Where each input is zero, with the axes of all letters."""
        terms = self.terms(call)
        return [
            spread_out(self._wide(call, i, zero), term, terms.letters)
            for i, (zero, term) in enumerate(
                zip(zeros, terms.inputs, strict=True)
            )
        ]

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """Zero if each product in the sum has a factor of zero."""
        terms = self.terms(call)
        zeros = [
            np.zeros((1,) * len(term), bool)
            if x is None
            else np.asarray(x.plain() == 0)
            for x, term in zip(values, terms.inputs, strict=True)
        ]
        every = self._zeros(call, zeros)
        factors = self.zeroing(call)
        varies = np.array(True)
        for index in factors:
            varies = varies & ~every[index]
        some = gathered(varies, terms.letters, terms.output)
        some = reduced(some, flow.labels[0].shape)
        return [known(np.where(some, np.nan, 0.0))]

    def demanded(
        self,
        call: Call,
        flow: Flow,
        index: int,
        wanted: Sequence[NDArray[np.bool_]],
        zeros: Sequence[NDArray[np.bool_]],
    ) -> NDArray[np.bool_]:
        """Nothing depends on what is only multiplied by zero."""
        terms = self.terms(call)
        every = self._zeros(call, zeros)
        asked = spread_out(wanted[0], terms.output, terms.letters)
        # Of a sum over keys, say, no zero makes up for a query.
        factors = self.zeroing(call)
        partners = {
            *factors,
            *(flow.multiplied if index in flow.multiplied else ()),
        }
        for other in partners - {index}:
            asked = asked & ~every[other]
        found = gathered(asked, terms.letters, terms.inputs[index])
        axis, times = self.repeats(call, index)
        if times > 1 and found.shape[axis] > 1:
            shape = found.shape
            split = (*shape[:axis], -1, times, *shape[axis + 1 :])
            found = np.asarray(found.reshape(split).any(axis=axis + 1))
        return reduced(found, zeros[index].shape)

    def reading(self, call: Call) -> Reading:
        return ZERO

    def scaling(self, call: Call) -> Scaling | None:
        return LINEAR

    def carries(self, call: Call, index: int) -> Scaling | None:
        return LINEAR if index in self.zeroing(call) else None

    def one_takes_all(self, call: Call) -> bool:
        return True

    def reaches(self, call: Call, known: Sequence[Known | None]) -> list[int]:
        factors = (known[index] for index in self.zeroing(call))
        if any(x is not None and (x.values == 0).all() for x in factors):
            return [NOTHING] * len(known)
        return super().reaches(call, known)
