"""RNN with cells of Keras, cut like the layers with the same cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs.rewrite import new_copies
from keras_gates.graphs.variables import copy_state
from keras_gates.surgeon.rules import counts
from keras_gates.surgeon.rules.composite import Composite
from keras_gates.surgeon.rules.recurrent import Recurrent
from keras_gates.surgeon.rules.recurrent import wrapped
from keras_gates.surgeon.rules.registry import rule_of_class
from keras_gates.surgeon.rules.rule import Barrier

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.rule import Rule

OWN = "a custom cell may use its state in any way"
_STATEFUL = "it is stateful: it keeps its states between batches"
_MASKED = (
    "at a masked step, several cells in one RNN behave differently from one "
    "RNN per cell; use one RNN per cell"
)
_SEVERAL = (
    "several cells in one RNN can't be separated here; use one RNN per cell"
)
_ARGUMENTS = ("sequences", "initial_state", "mask", "training")


@dataclasses.dataclass(frozen=True)
class Cells(Recurrent):
    """`RNN` around one cell, or several, which are written out one by one.

    A cell of your own is a barrier.
    """

    kind: str = "recurrent cells"

    def composite_of(
        self, op: keras.Operation, calls: Sequence[Call] = ()
    ) -> Composite | None:
        stack = type(getattr(op, "cell", None)) is keras.layers.StackedRNNCells
        masked = any(map(finds_mask, calls))
        if not stack or masked or op.stateful or not _is_stock(op):
            return None
        return STACK

    def pick(self, call: Call) -> Rule:
        op = call.op
        barrier = Barrier(counts=counts.cells, note=self.note)
        if not _is_stock(op):
            return dataclasses.replace(barrier, why=OWN)
        cells = counts.cells_of(op)
        if cells != [op.cell]:
            why = _MASKED if finds_mask(call) else _SEVERAL
            why = _STATEFUL if op.stateful else why
            return dataclasses.replace(barrier, why=why)
        like = rule_of_class(counts.LAYER_OF_CELL[type(op.cell)])
        if not isinstance(like, Recurrent):
            return dataclasses.replace(barrier, why=OWN)
        return dataclasses.replace(
            self,
            axes=like.axes,
            config=like.config,
            costs=like.costs,
            scales=like.scales,
            gates=like.gates,
        )

    def size(self, op: keras.Layer) -> int:
        return int(op.cell.units)

    def changed(self, **changes: Any) -> dict[str, Any]:
        return {"cell": wrapped(changes)}


def _is_stock(op: Any) -> bool:
    kinds = [type(cell) for cell in counts.cells_of(op)]
    return all(kind in counts.LAYER_OF_CELL for kind in kinds)


def finds_mask(call: Call) -> bool:
    """Whether a recurrent layer gets a mask, or finds one on its input."""
    return call.argument("mask") is not None or "mask" in call.found


def expand(layer: keras.layers.RNN, *given: Any, **kwargs: Any) -> Any:
    """An `RNN` of several cells as one for each, of KerasTensors.

    At each step, a cell reads the output of the previous cell at that step, so
    the cells can run one after the other over the whole sequence.

    Args:
        layer: the built layer.
        *given: the positional arguments of the call, and a dict to keep the
            new layers in.
        **kwargs: its keyword arguments.
    """
    *args, made = given
    told = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
    x, states = told["sequences"], told.get("initial_state")
    states = None if states is None else keras.tree.flatten(states)
    ends: list[Any] = []
    for number, cell in enumerate(layer.cell.cells):
        first = number not in made
        if first:
            made[number] = _one(layer, number)
        own = None
        if states is not None:
            count = len(keras.tree.flatten(cell.state_size))
            own, states = states[:count], states[count:]
        training = told.get("training")
        found = made[number](x, initial_state=own, training=training)
        x, *after = keras.tree.flatten(found)
        ends += after
        if first:
            copy_state(cell, made[number].cell)
    return [x, *ends]


def _one(layer: keras.layers.RNN, number: int) -> keras.layers.RNN:
    """The `RNN` of one of the cells; the last one has the layer's name."""
    cell = layer.cell.cells[number]
    copy, _ = new_copies().whole(cell)
    last = number == len(layer.cell.cells) - 1
    return keras.layers.RNN(
        copy,
        return_sequences=layer.return_sequences or not last,
        return_state=layer.return_state,
        # The first one turns the sequence round, for all.
        go_backwards=layer.go_backwards and number == 0,
        unroll=layer.unroll,
        activity_regularizer=layer.activity_regularizer if last else None,
        name=layer.name if last else f"{layer.name}_{cell.name}",
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )


STACK = Composite(expand=expand, shares=True)
