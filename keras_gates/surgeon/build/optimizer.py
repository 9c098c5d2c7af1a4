"""Carry the state of a model's optimizer over to the pruned model.

A gate's factor s that went into a weight changed its unit: w' = s w. What a
slot holds decides what becomes of it, besides the cut:

- a gradient, g' = g / s, and its square, g' ** 2 = (g / s) ** 2: what the
  averages would be, had they been taken over the gradients of w';
- a step, d' = s d: the weight goes on moving as it did;
- a weight, as the weight itself, with the constants that it absorbed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import create
from keras_gates.graphs import private
from keras_gates.surgeon.build.weight_map import cuts_of
from keras_gates.surgeon.rules import Composite
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.packing import PackingConv
from keras_gates.surgeon.rules.registry import rule_of_class

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.build.weight_map import Cut
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds

GRADIENT, SIZE, SQUARE = "gradient", "size of a gradient", "square"
STEP, STEP_SQUARE, WEIGHT = "step", "square of a step", "weight"
# Means of squares along one axis: the state stands for their product.
ROWS, COLUMNS = "rows", "columns"

# The power of the factor that each is multiplied by.
_POWERS = {GRADIENT: -1, SIZE: -1, SQUARE: -2, STEP: 1, STEP_SQUARE: 2}

_MOMENTS = {"_momentums": GRADIENT, "_velocities": SQUARE}
# Optimizer -> the attribute that lists a slot for each weight -> what it is.
_SLOTS = {
    "SGD": {"momentums": STEP},
    "Adam": {**_MOMENTS, "_velocity_hats": SQUARE},
    "AdamW": {**_MOMENTS, "_velocity_hats": SQUARE},
    "Nadam": _MOMENTS,
    "Lamb": _MOMENTS,
    "Lion": {"_momentums": GRADIENT},
    "Adamax": {"_m": GRADIENT, "_u": SIZE},
    "RMSprop": {
        "_velocities": SQUARE,
        "_momentums": STEP,
        "_average_gradients": GRADIENT,
    },
    "Adagrad": {"_accumulators": SQUARE},
    "Adadelta": {
        "_accumulated_grads": SQUARE,
        "_accumulated_delta_vars": STEP_SQUARE,
    },
    "Adafactor": {"_r": ROWS, "_c": COLUMNS, "_v": SQUARE},
    "Muon": {"momentums": GRADIENT, "adam_velocities": SQUARE},
    "ScheduleFreeAdamW": {"_momentums": WEIGHT, "_velocities": SQUARE},
}
# What any optimizer may have.
_COMMON = {
    "_accumulated_gradients": GRADIENT,
    "_model_variables_moving_average": WEIGHT,
}


def carry(
    model: keras.Model, pruned: keras.Model, decision: Decision, folds: Folds
) -> None:
    """Compile a pruned model as the model is, and continue its optimizer.

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
    found = cuts_of(decision, folds, pruned)
    for old, new in _pairs(model.optimizer, pruned.optimizer):
        _scalars(old, new)
        if old.built:
            _slots(old, new, found)


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
                f"Optimizer '{old.name}' (of type {type(old).__name__}) is "
                "several optimizers in one, whose states can't be told apart "
                "here. Prune with keep_optimizer=False and compile the result."
            )
    changed = [call.op.name for call in graph.calls if _repacked(call)]
    for name in changed or _written_out(model, graph):
        raise ValueError(
            f"Pruning gives layer '{name}' weights of another form, for which "
            "the optimizer has no state. Prune with keep_optimizer=False and "
            "compile the result."
        )


def _repacked(call: Call) -> bool:
    return isinstance(rule_of(call), PackingConv) and call.op.trainable


def _written_out(model: keras.Model, graph: Graph) -> list[Any]:
    """The names of the composite layers that a graph does without."""
    if graph.model is model:
        return []
    rules = [(x, rule_of_class(type(x))) for x in create.sublayers(model)]
    return [x.name for x, rule in rules if isinstance(rule, Composite)]


def _pairs(old: keras.Optimizer, new: keras.Optimizer) -> Iterator[Any]:
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
    """Cut the slots of each weight that was trained before."""
    lists = private.slots_of(new)
    place = {id(w): i for i, w in enumerate(private.trained_by(old))}
    for index, weight in enumerate(private.trained_by(new)):
        cut = cuts.get(id(weight))
        number = place.get(id(cut.old)) if cut else None
        if number is None:
            continue  # A bias that pruning added, or a weight once frozen.
        before = {
            name: _array(getattr(old, name)[number])
            for name in lists
            if getattr(old, name, None) and lists[name][index] is not None
        }
        for name, array in before.items():
            kind = _kind(old, name, cut)
            if kind in (ROWS, COLUMNS) and array.ndim:
                known = {_kind(old, n, cut): a for n, a in before.items()}
                array = _factored(known[ROWS], known[COLUMNS], cut, kind)
            elif array.shape == tuple(cut.old.shape):
                array = _whole(array, cut, kind, weight)
            elif array.ndim:
                raise _unknown(old, name, cut)
            lists[name][index].assign(array)


def _kind(optimizer: Any, name: str, cut: Any) -> Any:
    """What a slot is; where nothing was scaled, it need not be known."""
    kind = {**_COMMON, **_row(type(optimizer))}.get(name)
    if kind is None and cut.factor is not None:
        raise _unknown(optimizer, name, cut)
    return kind


def _row(cls: Any) -> Any:
    """The slots of an optimizer of Keras; of its subclasses none is known.

    For torch Keras has subclasses of its own, which hold the same.
    """
    rows = {getattr(keras.optimizers, n, None): r for n, r in _SLOTS.items()}
    of_keras = cls.__module__.partition(".")[0] == keras.__name__
    known = [c for c in cls.__mro__ if c in rows]
    return rows[known[0]] if known and (of_keras or cls in rows) else {}


def _unknown(optimizer: Any, name: str, cut: Any) -> Any:
    return ValueError(
        f"Optimizer '{optimizer.name}' (of type {type(optimizer).__name__}) "
        f"holds {name.strip('_')} for the weight '{cut.old.path}', and how "
        "pruning changes them is not known. Prune with keep_optimizer=False "
        "and compile the result."
    )


def _whole(array: Any, cut: Any, kind: str, weight: Any) -> Any:
    """A slot that is shaped like its weight."""
    if kind == WEIGHT:
        # The difference, so that absorbed constants are in it as well.
        return _array(weight) + cut.of(array - _array(cut.old), 1)
    array = cut.of(array, _POWERS.get(kind, 0))
    return np.abs(array) if kind == SIZE else array


def _factored(rows: Any, columns: Any, cut: Any, kind: str) -> Any:
    """Means of the matrix that rows and columns stand for, once cut."""
    mean = rows.mean(-1, keepdims=True)
    share = np.divide(rows, mean, out=np.zeros_like(rows), where=mean != 0)
    squares = cut.of(share[..., None] * columns[..., None, :], -2)
    return squares.mean(-1 if kind == ROWS else -2)


def _array(variable: keras.Variable) -> NDArray[np.float64]:
    return np.array(keras.ops.convert_to_numpy(variable), "float64")
