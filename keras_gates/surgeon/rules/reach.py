"""How the outputs of an operation depend on an input.

An output may depend on an input by its *values*, which is what a network is
for, or only by what the input chooses: which steps a mask leaves out, which
rows an index picks. A search that closes gates must not cut all values off and
be content with the masks that are left.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.surgeon.rules.modes import Reach

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.rules.known import Known

VALUES = Reach.VALUES
CHOICE = Reach.CHOICE
NOTHING = Reach.NOTHING

# The names by which calls of Keras take what chooses among the data.
_CHOOSING = ("mask", "condition", "condlist", "indices")


def by_argument(call: Call, known: Sequence[Known | None]) -> list[int]:
    """For each input of a call, its `Reach`, from its argument's name.

    Args:
        call: the `Call`.
        known: for each input, a `Known` or None.

    Where all that goes in is of that kind, as the numbers of the rows that
    are looked up in a table of constants, it is the data. What puts out truth
    values of something else, as a comparison does, passes on a choice. Where
    all that is attended to is the same, queries and keys get nowhere.
    """
    most = CHOICE if _is_test(call) else VALUES
    if len(call.inputs) == 1:
        return [most]
    given = [*_arguments(call)]
    weighing = _weighing(call, dict(given), known)
    if not weighing and not any(_chooses(name) for name, _ in given):
        return [most] * len(call.inputs)
    found: dict[Tensor, Reach] = {}
    for name, value in given:
        level = CHOICE if _chooses(name) else VALUES
        level = NOTHING if name in weighing else level
        for tensor in keras.tree.flatten(value):
            if any(tensor is x for x in call.inputs):
                found[tensor] = max(level, found.get(tensor, NOTHING))
    if VALUES not in found.values() and not weighing:
        found = {}
    return [min(most, found.get(tensor, VALUES)) for tensor in call.inputs]


def _chooses(name: str) -> bool:
    return any(name == x or name.endswith(f"_{x}") for x in _CHOOSING)


def _arguments(call: Call) -> Iterator[tuple[str, Any]]:
    """Pairs of name and value, however they were passed."""
    names = list(_names(call.op.call))
    # What a call takes as `*args` has no name.
    names += [""] * (len(call.args) - len(names))
    yield from zip(names, call.args, strict=False)
    yield from call.kwargs.items()


def _names(method: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the arguments that a method takes by position."""
    function = getattr(method, "__func__", None)
    if not isinstance(function, types.FunctionType):
        return _positional(method)
    return _of_function(function)[1:]


@functools.lru_cache(maxsize=256)
def _of_function(function: types.FunctionType) -> tuple[str, ...]:
    return _positional(function)


def _positional(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    )


def _weighing(
    call: Call, given: dict[str, Any], known: Sequence[Known | None]
) -> tuple[str, ...]:
    """The arguments by which a call weighs what is the same everywhere."""
    if "query" not in given or "value" not in given:
        return ()
    of = dict(zip(call.inputs, known, strict=True))
    return ("query", "key") if steady(of.get(given["value"])) else ()


def steady(known: Known | None) -> bool:
    """Whether a tensor is known and the same at each of its positions."""
    if known is None or not known.complete:
        return False
    return all(size == 1 for size in known.values.shape[1:-1])


def _is_test(call: Call) -> bool:
    """Whether truth values come out of what is none."""
    tests = all(t.dtype == "bool" for t in call.outputs)
    return tests and not all(t.dtype == "bool" for t in call.inputs)
