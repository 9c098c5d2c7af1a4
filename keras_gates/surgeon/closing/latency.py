"""Latency of a model, measured in turn with a baseline."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.shapes import shapes_of
from keras_gates.layers.stripconv.strip_costs import only_cpu

if TYPE_CHECKING:
    from typing import TypeAlias

    # Runs a model once.
    Run: TypeAlias = Callable[[], "Times"]

# Pairs of times for each model that is measured; each time is the least of some
# runs, which take turns, so that what runs beside has to hit all of them.
_PAIRS, _RUNS = 9, 3
# A user's function may build, convert and time a model, many times
# over, so it is called less often.
_CALLS = 5
# The spread of a median is this many times that of one value, over the root
# of their number; and 19 of 20 medians are within two spreads.
_OF_MEDIAN = 1.25
_SURE = 2.0
# Above this spread of a ratio, and above so many times that of the processor's
# time, the clock tells of what runs beside.
_DISTURBED, _TIMES = 0.02, 2.0


class Times(NamedTuple):
    """How long a run took, in milliseconds.

    Attributes:
        clock: by the clock.
        processor: of the processor, in all threads of this process; None
            where that does not tell.
    """

    clock: float
    processor: float | None = None


@dataclasses.dataclass(frozen=True)
class Clock:
    """Measures models against one that stays the same.

    The load of a machine changes from minute to minute, so each model is run in
    turn with the baseline, a few times per ratio, and the result is the median
    of the ratios. If other processes disturb the clock too much, processor time
    is used instead.

    Attributes:
        runner: a function from a model to a function that runs it once.
        baseline: that function of the baseline.
        whole: milliseconds of the baseline.
        noise: how far the ratio of the baseline to itself is from 1.
        pairs: how many ratios make a median.
        runs: how many runs of each there are for a ratio.
    """

    runner: Callable[[keras.Model], Run]
    baseline: Run
    whole: float
    noise: float
    pairs: int
    runs: int = 1

    def ratio(self, model: keras.Model) -> float:
        """The latency of a model, as a share of the baseline."""
        run = self.runner(model)
        times = _in_turn(run, self.baseline, self.pairs, self.runs)
        return statistics.median(_ratios(times))


def _in_turn(
    run: Run, other: Run, pairs: int, runs: int
) -> list[tuple[Times, Times]]:
    """Pairs of the least times of two, which take turns."""
    found = []
    for _ in range(pairs):
        each = [(run(), other()) for _ in range(runs)]
        first, second = zip(*each, strict=True)
        found.append((_least(first), _least(second)))
    return found


def _least(every: Sequence[Times]) -> Times:
    own = [x.processor for x in every if x.processor is not None]
    return Times(min(x.clock for x in every), min(own) if own else None)


def _ratios(pairs: list[tuple[Times, Times]]) -> list[float]:
    """The ratios of pairs, by the clock or by what tells better."""
    by_clock = [a.clock / b.clock for a, b in pairs]
    by_processor = [
        a.processor / b.processor
        for a, b in pairs
        if a.processor and b.processor
    ]
    if len(by_processor) < len(by_clock):
        return by_clock
    spread, own = _spread(by_clock), _spread(by_processor)
    disturbed = spread > max(_DISTURBED, _TIMES * own)
    return by_processor if disturbed else by_clock


def _spread(ratios: list[float]) -> float:
    """That of their median."""
    return statistics.pstdev(ratios) * _OF_MEDIAN / math.sqrt(len(ratios))


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
        measure: a function from a model to milliseconds, in place of
            `predict_on_batch` here.
        input_shape: sizes that the inputs leave open, as in `kg.stats.count`.

    Raises:
        TypeError, ValueError: what `measure` returns is no time.
        ValueError: an input has an unknown size.
    """
    if measure is None:
        runner = _predicting(batch_size, input_shape)
        pairs, runs = _PAIRS, _RUNS
    else:
        runner, pairs, runs = _measuring(measure), _CALLS, 1
    baseline, again = runner(model), runner(model)
    times = _in_turn(again, baseline, pairs, runs)
    whole = statistics.median(t.clock for pair in times for t in pair)
    noise = _noise(_ratios(times))
    # What never varies is counted, and once will do.
    pairs = pairs if noise else 1
    return Clock(runner, baseline, whole, noise, pairs, runs)


def _noise(ratios: list[float]) -> float:
    """How far a median of such ratios may be from 1, by chance."""
    return abs(statistics.median(ratios) - 1) + _SURE * _spread(ratios)


def _measuring(
    measure: Callable[[keras.Model], float],
) -> Callable[[keras.Model], Run]:
    """The runner of a user's function."""

    def run(model: keras.Model) -> Times:
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
        return Times(float(found))

    return lambda model: functools.partial(run, model)


def _predicting(
    batch_size: int, input_shape: Any
) -> Callable[[keras.Model], Run]:
    """The runner of `model.predict_on_batch` on this machine and backend.

    It is what they take, compiled as Keras compiles it, with the transfer of
    inputs and outputs.
    """
    alone = only_cpu()  # what an accelerator does is no time of the processor

    def runner(model: keras.Model) -> Run:
        x = _zeros(model, batch_size, input_shape)

        def run() -> Times:
            start, own = time.perf_counter(), time.process_time()
            model.predict_on_batch(x)
            passed = 1000 * (time.perf_counter() - start)
            spent = 1000 * (time.process_time() - own)
            return Times(passed, spent if alone else None)

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
