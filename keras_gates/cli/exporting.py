"""Writes models for other runtimes."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.cli.exits import Failure
from keras_gates.surgeon.verifying import sample_inputs

_EXTRA = "'keras_gates[export]'."
_INSTALLED = {"onnxscript": "onnxscript, or use the TensorFlow backend."}
# The number of samples for calibrating activations.
_CALIBRATED = 200


def savedmodel(
    model: keras.Model, path: pathlib.Path, x: Any = None, int8: bool = False
) -> None:
    """Write a TensorFlow SavedModel.

    Raises:
        Failure: TensorFlow is not installed, the backend is torch, or int8 is
            requested.
    """
    if int8:
        raise Failure("--int8 is for --to litert and --to onnx.")
    _needs("tensorflow", "A SavedModel")
    if keras.backend.backend() == "torch":
        raise Failure(
            "A SavedModel can't be written on torch. Run with "
            "KERAS_BACKEND=tensorflow or jax."
        )
    model.export(path, format="tf_saved_model", verbose=False)


def litert(
    model: keras.Model, path: pathlib.Path, x: Any = None, int8: bool = False
) -> None:
    """Write a LiteRT file (formerly TensorFlow Lite).

    Args:
        model: the model.
        path: where to.
        x: for int8, samples for calibration.
        int8: whether weights and activations are 8-bit integers; inputs and
            outputs do not change.

    Raises:
        Failure: TensorFlow is not the backend.
    """
    _needs("tensorflow", "LiteRT")
    if keras.backend.backend() != "tensorflow":
        raise Failure(
            "LiteRT needs the TensorFlow backend. Received: "
            f"{keras.backend.backend()}. Run with KERAS_BACKEND=tensorflow."
        )
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if int8:
            array = _sole(model, x)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: _ones(array)
        path.write_bytes(converter.convert())


def onnx(
    model: keras.Model, path: pathlib.Path, x: Any = None, int8: bool = False
) -> None:
    """Write an ONNX file; arguments as in `litert`.

    Raises:
        Failure: the exporter is not installed.
    """
    _needs("onnx", "ONNX")
    backend = keras.backend.backend()
    _needs("onnxscript" if backend == "torch" else "tf2onnx", "ONNX")
    # Keras can't export a model to ONNX that was never called.
    model.predict_on_batch(sample_inputs.batches(model, None, 1, seed=0)[0])
    if not int8:
        model.export(path, format="onnx", verbose=False)
        return
    _needs("onnxruntime", "--int8 for ONNX")
    from onnxruntime import quantization

    array = _sole(model, x)
    with tempfile.TemporaryDirectory() as folder:
        floats = pathlib.Path(folder) / "model.onnx"
        model.export(floats, format="onnx", verbose=False)
        quantization.quantize_static(floats, path, _reader(floats, array))


def _reader(path: pathlib.Path, array: NDArray[Any]) -> Any:
    """Samples in the form of onnxruntime's calibration."""
    import onnxruntime
    from onnxruntime import quantization

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    rows = (batch[0] for batch in _ones(array))

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            row = next(rows, None)
            return None if row is None else {name: row}

    return Reader()


def _ones(array: NDArray[Any]) -> Iterator[list[NDArray[Any]]]:
    """Batches of one sample."""
    for row in array[:_CALIBRATED]:
        yield [row[None]]


def _sole(model: keras.Model, x: Any) -> NDArray[Any]:
    """The samples of the one input of a model.

    Raises:
        Failure: there are no samples, or several inputs.
    """
    if x is None:
        raise Failure("--int8 needs samples. Pass --data x.npz.")
    flat = keras.tree.flatten(x)
    if len(flat) != 1 or len(model.inputs) != 1:
        raise Failure(
            f"--int8 is for models of one input. '{model.name}' has "
            f"{len(model.inputs)}."
        )
    return np.asarray(flat[0], model.inputs[0].dtype)


def _needs(package: str, what: str) -> None:
    try:
        __import__(package)
    except ImportError as error:
        raise Failure(
            f"{what} needs {package}, which is not installed. Run: pip "
            f"install {_INSTALLED.get(package, _EXTRA)}"
        ) from error
