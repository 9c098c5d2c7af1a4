"""Scores a model: one number, higher is better."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_gates.graphs.variables import values_of


def scorer(
    model: keras.Model, evaluate: Any, metric: str
) -> Callable[[], float]:
    """A function of no arguments that scores `model` as it is now.

    Args:
        model: the model.
        evaluate: a function of it, or data for `model.evaluate`.
        metric: the name of the metric to read, if it is data.

    Raises:
        TypeError: `evaluate` is neither, or can be read only once.
        ValueError: the model must be compiled, and is not.
    """
    if callable(evaluate):
        return lambda: _number(evaluate(model), "`evaluate(model)`")
    if evaluate is None or isinstance(evaluate, (str, numbers.Number)):
        raise TypeError(
            "`evaluate` must be a function of the model that returns a "
            f"number, or data for `model.evaluate`. Received: {evaluate!r} "
            f"(of type {type(evaluate).__name__})."
        )
    if hasattr(evaluate, "__next__"):
        raise TypeError(
            "`evaluate` is read again in each trial. Received: an iterator "
            f"({type(evaluate).__name__}), which can be read once. Pass "
            "arrays (x, y), a tf.data.Dataset, a keras.utils.PyDataset or a "
            "function of the model."
        )
    if not model.compiled:
        raise ValueError(
            f"Model '{model.name}' is not compiled, so data alone can't score "
            "it. Compile it with metrics, or pass a function of the model "
            "that returns a number."
        )
    names = ("x", "y", "sample_weight")
    parts = evaluate if isinstance(evaluate, tuple) else (evaluate,)
    data = dict(zip(names, parts, strict=False))

    def score() -> float:
        logs = model.evaluate(**data, verbose=0, return_dict=True)
        if metric not in logs:
            raise ValueError(
                f"There is no metric {metric!r} of model '{model.name}' to "
                f"read. Received from `evaluate`: {', '.join(logs)}. Pass one "
                "of these as `metric`, or compile the model with it."
            )
        value = _number(logs[metric], f"metric {metric!r}")
        return -value if metric == "loss" else value

    return score


def _number(value: Any, what: str) -> float:
    try:
        return float(keras.ops.convert_to_numpy(value))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what} must be one number, higher being better. Received: "
            f"{value!r} (of type {type(value).__name__})."
        ) from error


def check_score(score: float) -> None:
    """Refuse a score that can't be compared."""
    if not math.isfinite(score):
        raise ValueError(
            "The score of the model with all gates open must be finite. "
            f"Received: {score}. Check the model and the data first."
        )


@contextlib.contextmanager
def whole(model: keras.Model) -> Iterator[None]:
    """A context in which an interruption does not lose the model's weights.

    On JAX, Keras takes the weights out of a model while it evaluates it,
    and puts them back only at the end.
    """
    before = []
    if keras.backend.backend() == "jax":
        variables = [*model.variables, *model.metrics_variables]
        before = [(v, values_of(v)) for v in variables]
    try:
        yield
    except BaseException:
        for variable, value in before:
            variable.assign(value)
        raise
