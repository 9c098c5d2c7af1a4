"""How long a model takes, measured against another at the same time."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.shapes import shapes_of

if TYPE_CHECKING:
    from typing import TypeAlias

    # Runs a model once, and returns milliseconds.
    Run: TypeAlias = Callable[[], float]

# Pairs of runs for each model that is measured.
_PAIRS = 15
# A function of the user's may build, convert and time a model, many times
# over, so it is called less often.
_CALLS = 5
# The spread of a median is this many times that of one value, over the root
# of their number; and 19 of 20 medians are within two spreads.
_OF_MEDIAN = 1.25
_SURE = 2.0


@dataclasses.dataclass(frozen=True)
class Clock:
    """Measures models against one that stays the same.

    What a machine does beside changes from minute to minute, so each model
    is run in turn with the baseline, and what counts is the median of the
    ratios.

    Attributes:
        runner: a function from a model to a function that runs it once and
            returns milliseconds.
        baseline: that function of the baseline.
        whole: milliseconds of the baseline.
        noise: how far the ratio of the baseline to itself is from 1.
        pairs: how many ratios make a median.
    """

    runner: Callable[[keras.Model], Run]
    baseline: Run
    whole: float
    noise: float
    pairs: int

    def ratio(self, model: keras.Model) -> float:
        """How long a model takes, as a share of the baseline."""
        run = self.runner(model)
        found = [run() / self.baseline() for _ in range(self.pairs)]
        return statistics.median(found)


def clock(
    model: keras.Model,
    batch_size: int = 1,
    measure: Callable[[keras.Model], float] | None = None,
    input_shape: Any = None,
) -> Clock:
    """A `Clock` with `model` as its baseline.

    Args:
        model: the baseline.
        batch_size: samples a batch.
        measure: a function from a model to milliseconds, in the place of
            `predict_on_batch` here.
        input_shape: sizes that the inputs leave open, as in `kg.stats.count`.

    Raises:
        TypeError, ValueError: what `measure` returns is no time.
        ValueError: an input has an unknown size.
    """
    if measure is None:
        runner, pairs = _predicting(batch_size, input_shape), _PAIRS
    else:
        runner, pairs = _measuring(measure), _CALLS
    baseline, again = runner(model), runner(model)
    runs = [(again(), baseline()) for _ in range(pairs)]
    every = [t for pair in runs for t in pair]
    noise = _noise([a / b for a, b in runs])
    # What never varies is counted, and once will do.
    pairs = pairs if noise else 1
    return Clock(runner, baseline, statistics.median(every), noise, pairs)


def _noise(ratios: list[float]) -> float:
    """How far a median of such ratios may be from 1, by chance."""
    middle = statistics.median(ratios)
    spread = statistics.pstdev(ratios) * _OF_MEDIAN / math.sqrt(len(ratios))
    return abs(middle - 1) + _SURE * spread


def _measuring(
    measure: Callable[[keras.Model], float],
) -> Callable[[keras.Model], Run]:
    """The runner of a function of the user's."""

    def run(model: keras.Model) -> float:
        found: Any = measure(model)
        if isinstance(found, bool) or not isinstance(found, numbers.Real):
            raise TypeError(
                "`measure` must return a number of milliseconds. Received: "
                f"{found!r} (of type {type(found).__name__}) for model "
                f"'{model.name}'."
            )
        if not 0 < float(found) < math.inf:
            raise ValueError(
                "`measure` must return a positive number of milliseconds. "
                f"Received: {found!r} for model '{model.name}'."
            )
        return float(found)

    return lambda model: functools.partial(run, model)


def _predicting(
    batch_size: int, input_shape: Any
) -> Callable[[keras.Model], Run]:
    """The runner of `model.predict_on_batch` on this machine and backend.

    It is what they take, compiled as Keras compiles it, with the transfer of
    inputs and outputs.
    """

    def runner(model: keras.Model) -> Run:
        x = _zeros(model, batch_size, input_shape)

        def run() -> float:
            start = time.perf_counter()
            model.predict_on_batch(x)
            return 1000 * (time.perf_counter() - start)

        for _ in range(2):  # the first call compiles
            run()
        return run

    return runner


def _zeros(model: keras.Model, batch_size: int, input_shape: Any) -> Any:
    """A batch of zeros, in the structure that the model takes."""
    structure, _ = gr.structures(model)
    graph = gr.read(model)
    shapes = shapes_of(graph, input_shape)
    inputs = zip(graph.functional.inputs, graph.inputs, strict=True)
    filled = {id(kt): shapes[tensor] for kt, tensor in inputs}

    def zeros(kt: keras.KerasTensor) -> NDArray[Any]:
        shape: tuple[Any, ...]
        shape = (kt.shape[0] or batch_size, *filled[id(kt)][1:])
        if None in shape:
            raise ValueError(
                f"The latency of a model whose input '{kt.name}' has the "
                f"shape {tuple(kt.shape)} can't be measured. Give its sizes "
                "in keras.Input or to Budget(sizes=...), or set a budget of "
                "params instead."
            )
        dtype: str = kt.dtype
        return np.zeros(shape, dtype)

    return keras.tree.map_structure(zeros, structure)
