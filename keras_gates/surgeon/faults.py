"""Errors of rules and layers, with the name of the layer."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Protocol

import keras

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call

_PACKAGE = __name__.partition(".")[0]


class RuleFault(ValueError):
    """A rule failed on a call."""


class _OfAKind(Protocol):
    """A `Rule`; this module is below the rules, which raise its errors."""

    @property
    def kind(self) -> str: ...


@contextlib.contextmanager
def of_rule(call: Call, rule: _OfAKind) -> Iterator[None]:
    """A context that adds the layer's name to what a rule raises.

    Args:
        call: the `Call` that the rule is asked of.
        rule: the `Rule`.

    Raises:
        RuleFault: the rule raised something, which is the cause.
    """
    try:
        yield
    except RuleFault:
        raise
    except Exception as error:
        shapes = [tuple(tensor.shape) for tensor in call.inputs]
        why = f" {error}" if isinstance(error, NotImplementedError) else ""
        raise RuleFault(
            f"The rule ('{rule.kind}') for layer '{call.path}' (of type "
            f"{type(call.op).__name__}) failed with a {type(error).__name__} "
            f"on inputs of the shapes {shapes}.{why} If you registered it, "
            "the error above says where; otherwise please report the model, "
            "and exclude the layer for now."
        ) from error


@contextlib.contextmanager
def of_layer(path: str, op: object) -> Iterator[None]:
    """A context that adds the layer's name to what Keras or a backend raises.

    Args:
        path: the path of the layer, or the name of a model.
        op: the layer itself.

    Raises:
        ValueError: the layer can't be made, or called, at its new size.
    """
    try:
        yield
    except Exception as error:
        if _ours(error):
            raise
        raise ValueError(
            f"Layer '{path}' (of type {type(op).__name__}) can't be created "
            f"at its new size; Keras raised a {type(error).__name__} (above). "
            f"{_hint()}"
        ) from error


def _ours(error: BaseException) -> bool:
    """Whether the package raised an error itself."""
    (frame, _), *_ = reversed(list(traceback.walk_tb(error.__traceback__)))
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] == _PACKAGE


def _hint() -> str:
    distribution = keras.distribution.distribution()
    if distribution is None:
        return (
            "If its class is your own, its rule must name the config keys "
            "that hold widths (`config`), and `call` must take inputs of any "
            "width."
        )
    shape = tuple(distribution.device_mesh.shape)
    return (
        f"A {type(distribution).__name__} shares weights out on a mesh of the "
        f"shape {shape}, and the new width may not divide. Pass round_to, a "
        "multiple of the mesh's size."
    )
