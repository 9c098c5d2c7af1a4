"""Times of two models, in Keras and in other runtimes.

The models take turns, so that other load on the machine affects both equally.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import keras
import numpy as np

from keras_gates.cli import exporting
from keras_gates.cli.exits import Failure
from keras_gates.cli.exits import one_line
from keras_gates.surgeon.verifying import sample_inputs

# Runs a model once.
Run: TypeAlias = Callable[[], Any]

_TURNS, _WARM = 30, 3


class NotThere(Exception):
    """A runtime or its exporter is not installed, or does not work."""


def measure(
    name: str, before: keras.Model, after: keras.Model
) -> tuple[float, float]:
    """The median milliseconds of one sample, of both models.

    Raises:
        NotThere: the runtime can't run them here.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            x = sample_inputs.batches(before, None, 1, seed=0)[0]
            runs = [
                RUNTIMES[name](model, x, pathlib.Path(folder) / str(number))
                for number, model in enumerate((before, after))
            ]
            first, second = _timed(runs)
        except ImportError as error:
            raise NotThere(f"{error.name or error} is not installed") from error
        except Failure as error:
            raise NotThere(str(error)) from error
        except Exception as error:
            words = one_line(error)[:200]
            raise NotThere(f"{type(error).__name__}: {words}") from error
    return first, second


def _timed(runs: list[Run]) -> list[float]:
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(_WARM + _TURNS):
        for run, seconds in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if turn >= _WARM:
                seconds.append(time.perf_counter() - start)
    return [1000 * statistics.median(each) for each in times]


def _keras(model: keras.Model, x: Any, path: pathlib.Path) -> Run:
    return lambda: model.predict_on_batch(x)


def _litert(model: keras.Model, x: Any, path: pathlib.Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    path = path.with_suffix(".tflite")
    exporting.litert(model, path)
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    for each in interpreter.get_input_details():
        # Zeros, since the time does not depend on the values.
        interpreter.resize_tensor_input(
            each["index"], [max(1, size) for size in each["shape_signature"]]
        )
    interpreter.allocate_tensors()
    for each in interpreter.get_input_details():
        zeros = np.zeros(each["shape"], each["dtype"])
        interpreter.set_tensor(each["index"], zeros)
    run: Run = interpreter.invoke
    return run


def _onnx(model: keras.Model, x: Any, path: pathlib.Path) -> Run:
    import onnxruntime

    path = path.with_suffix(".onnx")
    exporting.onnx(model, path)
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    flat = [np.asarray(array) for array in keras.tree.flatten(x)]
    inputs = zip(session.get_inputs(), flat, strict=True)
    fed = {each.name: array for each, array in inputs}
    return lambda: session.run(None, fed)


# Name -> a function from a model, inputs and a path to write to, to a `Run`.
RUNTIMES: dict[str, Callable[[keras.Model, Any, pathlib.Path], Run]] = {
    "keras": _keras,
    "litert": _litert,
    "onnx": _onnx,
}
