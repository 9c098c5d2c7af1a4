"""Carries the state of a model's optimizer over to the pruned model.

A gate's factor s that went into a weight changed its unit: w' = s w. What a
slot holds decides what becomes of it, besides the cut:

- a gradient, g' = g / s, and its square, g' ** 2 = (g / s) ** 2: what the
  averages would be, had they been taken over the gradients of w';
- a step, d' = s d: the weight goes on moving as it did;
- a weight, as the weight itself, with the constants that it absorbed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.surgeon.build.weight_map import cuts_of
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.registry import rule_of_class

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.build.weight_map import Cut
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds


class Slot(enum.Enum):
    """The kinds of optimizer slots."""

    GRADIENT = "gradient"
    SIZE = "size of a gradient"
    SQUARE = "square"
    STEP = "step"
    STEP_SQUARE = "square of a step"
    WEIGHT = "weight"
    # Means of squares along one axis: the state stands for their product.
    ROWS = "rows"
    COLUMNS = "columns"


# The power of the factor that each is multiplied by.
_POWERS = {
    Slot.GRADIENT: -1,
    Slot.SIZE: -1,
    Slot.SQUARE: -2,
    Slot.STEP: 1,
    Slot.STEP_SQUARE: 2,
}

_MOMENTS = {"_momentums": Slot.GRADIENT, "_velocities": Slot.SQUARE}
# Optimizer -> the attribute that lists a slot for each weight -> what it is.
_SLOTS: dict[str, dict[str, Slot]] = {
    "SGD": {"momentums": Slot.STEP},
    "Adam": {**_MOMENTS, "_velocity_hats": Slot.SQUARE},
    "AdamW": {**_MOMENTS, "_velocity_hats": Slot.SQUARE},
    "Nadam": _MOMENTS,
    "Lamb": _MOMENTS,
    "Lion": {"_momentums": Slot.GRADIENT},
    "Adamax": {"_m": Slot.GRADIENT, "_u": Slot.SIZE},
    "RMSprop": {
        "_velocities": Slot.SQUARE,
        "_momentums": Slot.STEP,
        "_average_gradients": Slot.GRADIENT,
    },
    "Adagrad": {"_accumulators": Slot.SQUARE},
    "Adadelta": {
        "_accumulated_grads": Slot.SQUARE,
        "_accumulated_delta_vars": Slot.STEP_SQUARE,
    },
    "Adafactor": {"_r": Slot.ROWS, "_c": Slot.COLUMNS, "_v": Slot.SQUARE},
    "Muon": {"momentums": Slot.GRADIENT, "adam_velocities": Slot.SQUARE},
    "ScheduleFreeAdamW": {
        "_momentums": Slot.WEIGHT,
        "_velocities": Slot.SQUARE,
    },
}
# What any optimizer may have.
_COMMON = {
    "_accumulated_gradients": Slot.GRADIENT,
    "_model_variables_moving_average": Slot.WEIGHT,
}


def carry(
    model: keras.Model, pruned: keras.Model, decision: Decision, folds: Folds
) -> None:
    """Compile a pruned model like the original, and continue its optimizer.

    Args:
        model: the compiled model.
        pruned: what `rebuild` made of it.
        decision: the `Decision`.
        folds: the `Folds`.

    Raises:
        ValueError: the model is not compiled, can't be compiled again from
            its config, or its optimizer holds what can't be cut safely.
    """
    try:
        pruned.compile_from_config(model.get_compile_config())
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Model '{pruned.name}' can't be compiled as the original is: "
            f"{error} Register custom losses, metrics and optimizers with "
            "`keras.saving.register_keras_serializable`, or prune with "
            "keep_optimizer=False and compile the result."
        ) from error
    cuts = cuts_of(decision, folds, pruned)
    for old, new in _pairs(model.optimizer, pruned.optimizer):
        _scalars(old, new)
        if old.built:
            _slots(old, new, cuts)


def check(model: keras.Model, graph: Graph) -> None:
    """Refuse what has no optimizer whose state could be carried.

    Args:
        model: the model.
        graph: the `Graph` that was made of it.

    Raises:
        ValueError: the model is not compiled, its optimizer is several in
            one, or a layer's weights become others when pruned.
    """
    if not model.compiled or getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"keep_optimizer=True needs a compiled model, and '{model.name}' "
            "is not compiled. Compile it, or leave keep_optimizer out."
        )
    for old, _ in _pairs(model.optimizer, model.optimizer):
        if isinstance(getattr(old, "optimizers", None), (list, tuple)):
            raise ValueError(
                f"Optimizer '{old.name}' (of type {type(old).__name__}) "
                "combines several optimizers, whose states can't be "
                "separated here. Prune with keep_optimizer=False and compile "
                "the result."
            )
    changed = [call.op.name for call in graph.calls if _repacked(call)]
    for name in changed or _written_out(model, graph):
        raise ValueError(
            f"Pruning changes the form of the weights of layer '{name}', for "
            "which the optimizer has no state. Prune with "
            "keep_optimizer=False and compile the result."
        )


def _repacked(call: Call) -> bool:
    packs = rule_of(call).packing is not None
    return packs and bool(call.op.trainable)


def _written_out(model: keras.Model, graph: Graph) -> list[str]:
    """The names of the composite layers that a graph does without."""
    if graph.model is model:
        return []
    rules = [(x, rule_of_class(type(x))) for x in private.sublayers(model)]
    there = {(type(call.op), call.op.name) for call in graph.calls}
    return [
        x.name
        for x, rule in rules
        if rule and rule.composite_of(x) and (type(x), x.name) not in there
    ]


def _pairs(
    old: keras.Optimizer, new: keras.Optimizer
) -> Iterator[tuple[keras.Optimizer, keras.Optimizer]]:
    """Optimizers, and those that they wrap, to scale the loss."""
    while old is not None:
        yield old, new
        old, new = (getattr(o, "inner_optimizer", None) for o in (old, new))


def _scalars(old: keras.Optimizer, new: keras.Optimizer) -> None:
    """Iterations, the learning rate, and what else there is but once."""
    for name, variable in vars(old).items():
        twin = vars(new).get(name)
        if isinstance(variable, keras.Variable) and twin is not None:
            twin.assign(_array(variable))


def _slots(
    old: keras.Optimizer, new: keras.Optimizer, cuts: dict[int, Cut]
) -> None:
    """Cut the slots of each trained weight."""
    lists = private.slots_of(new)
    place = {id(w): i for i, w in enumerate(private.trained_by(old))}
    for index, weight in enumerate(private.trained_by(new)):
        cut = cuts.get(id(weight))
        if cut is None or id(cut.old) not in place:
            continue  # A bias that pruning added, or a weight once frozen.
        number = place[id(cut.old)]
        slots = {
            name: variable
            for name, every in lists.items()
            if getattr(old, name, None)
            and (variable := every[index]) is not None
        }
        before = {name: _array(getattr(old, name)[number]) for name in slots}
        for name, array in before.items():
            slot = _slot(old, name, cut)
            if slot in (Slot.ROWS, Slot.COLUMNS) and array.ndim:
                known = {_slot(old, n, cut): a for n, a in before.items()}
                rows, columns = known[Slot.ROWS], known[Slot.COLUMNS]
                array = _factored(rows, columns, cut, slot)
            elif array.shape == tuple(cut.old.shape):
                array = _whole(array, cut, slot, weight)
            elif array.ndim:
                raise _unknown(old, name, cut)
            slots[name].assign(array)


def _slot(optimizer: keras.Optimizer, name: str, cut: Cut) -> Slot | None:
    """What a slot is; where nothing was scaled, it need not be known."""
    slot = {**_COMMON, **_row(type(optimizer))}.get(name)
    if slot is None and cut.factor is not None:
        raise _unknown(optimizer, name, cut)
    return slot


def _row(cls: type[Any]) -> dict[str, Slot]:
    """The slots of an optimizer of Keras; of its subclasses none is known.

    For torch Keras has subclasses of its own, which hold the same.
    """
    rows = {getattr(keras.optimizers, n, None): r for n, r in _SLOTS.items()}
    of_keras = cls.__module__.partition(".")[0] == keras.__name__
    known = [c for c in cls.__mro__ if c in rows]
    return rows[known[0]] if known and (of_keras or cls in rows) else {}


def _unknown(optimizer: keras.Optimizer, name: str, cut: Cut) -> ValueError:
    return ValueError(
        f"Optimizer '{optimizer.name}' (of type {type(optimizer).__name__}) "
        f"holds {name.strip('_')} for the weight '{cut.old.path}', and how "
        "pruning changes them is not known. Prune with keep_optimizer=False "
        "and compile the result."
    )


def _whole(
    array: NDArray[np.float64],
    cut: Cut,
    slot: Slot | None,
    weight: keras.Variable,
) -> NDArray[np.float64]:
    """A slot that is shaped like its weight."""
    if slot is Slot.WEIGHT:
        # The difference, so that absorbed constants are in it as well.
        return _array(weight) + cut.apply(array - _array(cut.old), 1)
    power = 0 if slot is None else _POWERS.get(slot, 0)
    array = cut.apply(array, power)
    return np.abs(array) if slot is Slot.SIZE else array


def _factored(
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    cut: Cut,
    slot: Slot | None,
) -> NDArray[np.float64]:
    """Means of the matrix that rows and columns stand for, once cut."""
    mean = rows.mean(-1, keepdims=True)
    share = np.divide(rows, mean, out=np.zeros_like(rows), where=mean != 0)
    squares = cut.apply(share[..., None] * columns[..., None, :], -2)
    axis = -1 if slot is Slot.ROWS else -2
    means: NDArray[np.float64] = squares.mean(axis)
    return means


def _array(variable: keras.Variable) -> NDArray[np.float64]:
    return np.array(keras.ops.convert_to_numpy(variable), "float64")
