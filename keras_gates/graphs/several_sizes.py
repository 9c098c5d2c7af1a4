"""Merges calls recorded at several sizes into calls for any size.

A `call` that computes with an unknown size can't be traced with it. It is
traced with known sizes, and the differences between the runs show what depends
on the sizes: the target of a `reshape`, a mask for each sample, a table that is
cut to a number of steps. What holds for any size is generalized; the rest holds
for the sizes of the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.graphs.stand_ins import SideEffect
from keras_gates.graphs.stand_ins import StandIn

if TYPE_CHECKING:
    from keras_gates.graphs.private import Node

    # As `Node.outputs[0].shape`.
    Shape = tuple[int | None, ...]

_RESHAPE = private.operation("numpy.Reshape")
_SAMPLES = "its `call` computes with the number of samples"
_OTHER = "its `call` computes something else for inputs of other sizes"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What sizes that a model leaves open are taken for.

    Attributes:
        samples: that of the first axis; None leaves it open.
        others: that of any other axis; None leaves them open.
    """

    samples: int | None
    others: int | None

    def of(self, shape: Shape, number: int = 0) -> Shape:
        """The shape of an input with these sizes in it.

        Args:
            shape: as the model has it.
            number: that of the input.
        """
        first = self.samples if shape[0] is None else shape[0]
        rest = (self.others if size is None else size for size in shape[1:])
        return (first, *rest)

    def in_writing(self, fixed: bool) -> Sizes:
        """Those of the model that is made of a run.

        Args:
            fixed: whether the calls hold for the sizes of the run only.
        """
        return Sizes(None, self.others if fixed else None)


@dataclasses.dataclass(frozen=True)
class Given(Sizes):
    """Sizes for each input by itself.

    Attributes:
        shapes: those of the inputs, of which the first axis does not matter.
    """

    shapes: tuple[Shape, ...] = ()

    def of(self, shape: Shape, number: int = 0) -> Shape:
        first = self.samples if shape[0] is None else shape[0]
        return (first, *self.shapes[number][1:])

    def in_writing(self, fixed: bool) -> Sizes:
        return self


def tried(shapes: list[Shape]) -> Iterator[tuple[Sizes, Sizes, Sizes]]:
    """Three sizes each: other samples in the second, others in the third.

    Args:
        shapes: those of the inputs, which may be of a certain rank.
    """
    for others, more in ((8, 12), (6, 10), (16, 32)):
        yield Sizes(2, others), Sizes(3, others), Sizes(2, more)
        if not any(None in shape[1:] for shape in shapes):
            return


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """One run of a `call`.

    Attributes:
        nodes: the recorded calls.
        record: what they were called on, as plain data, one entry for each.
    """

    nodes: list[Node]
    record: list[Any]


@dataclasses.dataclass(eq=False)
class Revision:
    """What of recorded calls is otherwise for other sizes.

    Attributes:
        values: by the id of a constant among the arguments, what it is for
            any number of samples.
        operations: by the id of a recorded call, what is called in its place.
        targets: by the id of the recorded call of a `reshape` whose first axis
            stays that of the samples, the sizes of the others, -1 for one
            that follows.
        spread: the ids of outputs that hold the same for each sample, if
            they depend on variables alone.
        fixed: whether the calls hold for the sizes of the run only, that of
            samples aside.
    """

    values: dict[int, Any] = dataclasses.field(default_factory=dict)
    operations: dict[int, keras.Operation] = dataclasses.field(
        default_factory=dict
    )
    targets: dict[int, tuple[int, ...]] = dataclasses.field(
        default_factory=dict
    )
    spread: set[int] = dataclasses.field(default_factory=set)
    fixed: bool = False


def revised(
    run: Recorded, more_samples: Recorded, more_others: Recorded
) -> Revision:
    """Compare runs at three sizes.

    Raises:
        SideEffect: they have made other calls, or compute with the number of
            samples.
    """
    found = Revision()
    runs = run, more_samples, more_others
    if len({len(each.nodes) for each in runs}) > 1:
        raise SideEffect(_OTHER)
    for number, nodes in enumerate(zip(*(r.nodes for r in runs), strict=True)):
        entries = [each.record[number] for each in runs]
        _Entry(found, nodes, entries).compare()
    if not len({repr(each.record[len(run.nodes)]) for each in runs}) == 1:
        raise SideEffect(_OTHER)
    return found


class _Entry:
    """One call at three sizes.

    Args:
        found: gets what is otherwise.
        nodes: the recorded calls.
        entries: `(what was called, names, arguments)` of each.
    """

    def __init__(
        self, found: Revision, nodes: tuple[Node, ...], entries: list[Any]
    ) -> None:
        self.found = found
        self.nodes = nodes
        self.whats, names, self.given = zip(*entries, strict=True)
        kinds = [w[0] if isinstance(w, tuple) else w for w in self.whats]
        counts = {len(x) for x in self.given}
        if len(set(kinds)) > 1 or len({str(n) for n in names}) > 1:
            raise SideEffect(_OTHER)
        if len(counts) > 1:
            raise SideEffect(_OTHER)

    def compare(self) -> None:
        """Note what is otherwise."""
        shapes = [[tuple(x.shape) for x in n.outputs] for n in self.nodes]
        for outputs in zip(*shapes, self.nodes[0].outputs, strict=True):
            if outputs[0][:1] != outputs[1][:1]:
                self.found.spread.add(id(outputs[-1]))
        if isinstance(self.nodes[0].operation, _reshapes()):
            self._reshape([each[0] for each in shapes])
        else:
            if self.whats[0] != self.whats[1] and not self._of_weights():
                raise SideEffect(_SAMPLES)
            self.found.fixed |= self.whats[0] != self.whats[2]
        self._arguments()

    def _of_weights(self) -> bool:
        """Whether all that is read follows from variables."""
        inputs = self.nodes[0].input_tensors
        return bool(inputs) and all(map(_is_of_variables, inputs))

    def _reshape(self, shapes: list[Shape]) -> None:
        """Let sizes that are otherwise, or not known, follow from the rest."""
        first, samples, others = shapes
        if self._of_weights():
            self.found.fixed |= first != others
            return
        unknown = {axis for axis, size in enumerate(first) if size is None}
        by_samples = unknown | _differing(first, samples)
        either = by_samples | _differing(first, others)
        if len(either) == 2 and 0 in either and self._keeps_samples():
            self.found.targets[id(self.nodes[0])] = _with_open(first, either)[
                1:
            ]
            return
        if len(either) > 1:
            self.found.fixed = True
            either = by_samples
        if len(either) > 1:
            raise SideEffect(_SAMPLES)
        assert _RESHAPE is not None
        target = _with_open(first, either)
        self.found.operations[id(self.nodes[0])] = _RESHAPE(target)

    def _keeps_samples(self) -> bool:
        """Whether the first axis is that of the samples, before and after."""
        sizes = [
            (node.input_tensors[0].shape[0], node.outputs[0].shape[0])
            for node in self.nodes
        ]
        (before, _), (more, _), _ = sizes
        return before != more and all(a == b for a, b in sizes)

    def _arguments(self) -> None:
        node = self.nodes[0]
        given = node.arguments
        flat = keras.tree.flatten((given.args, _without_training(given.kwargs)))
        for value, *told in zip(flat, *self.given, strict=True):
            if isinstance(value, keras.KerasTensor):
                if len({*map(repr, told)}) > 1:
                    raise SideEffect(_OTHER)
                continue
            self.found.fixed |= told[0] != told[2]
            if told[0] == told[1]:
                continue
            row = _one_row(value)
            if row is None:
                raise SideEffect(_SAMPLES)
            self.found.values[id(value)] = row


def _differing(first: Shape, other: Shape) -> set[int]:
    """The axes of different sizes."""
    pairs = enumerate(zip(first, other, strict=True))
    return {axis for axis, (a, b) in pairs if a != b}


def _with_open(shape: Shape, axes: set[int]) -> tuple[int, ...]:
    """A shape with -1 in place of some of its sizes."""
    return tuple(
        -1 if size is None or axis in axes else size
        for axis, size in enumerate(shape)
    )


def _without_training(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k != "training"}


def _reshapes() -> tuple[type[Any], ...]:
    return () if _RESHAPE is None else (_RESHAPE,)


def _is_of_variables(kt: keras.KerasTensor) -> bool:
    """Whether a symbolic tensor comes of no input."""
    pending = [kt]
    while pending:
        x = pending.pop()
        before = private.made_of(x)
        if not before and not isinstance(x, StandIn):
            return False
        pending += before
    return True


def _one_row(value: Any) -> Any:
    """What a constant holds for each sample; None if that is not the same."""
    if not (isinstance(value, np.ndarray) or keras.ops.is_tensor(value)):
        return None
    array = np.asarray(keras.ops.convert_to_numpy(value))
    return None if not alike(array) else keras.ops.convert_to_tensor(array[:1])


def alike(array: NDArray[Any]) -> bool:
    """Whether an array holds the same for each sample."""
    return array.ndim > 0 and bool((array == array[:1]).all())
