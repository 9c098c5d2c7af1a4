"""Functions that log a name, a value and a step, whatever they log to."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import keras
import numpy as np

# Takes a name, a number or an array of factors, and a step.
Logger: TypeAlias = Callable[[str, Any, int], Any]


def logger_of(to: Any) -> Logger:
    """The function that logs to something.

    Args:
        to: as in `LogGates`.

    Raises:
        ImportError: what writes for TensorBoard is not installed.
        TypeError: it is of no known form.
    """
    if isinstance(to, keras.callbacks.TensorBoard):
        # Runs of one folder are drawn together.
        to = os.path.join(to.log_dir, "gates")
    if isinstance(to, (str, os.PathLike)):
        return _to_folder(os.fspath(to))
    if hasattr(to, "add_scalar") and hasattr(to, "add_histogram"):
        return _to_writer(to)
    if callable(to):
        logger: Logger = to
        return logger
    raise TypeError(
        "LogGates logs to a keras.callbacks.TensorBoard, a folder, a writer "
        "with add_scalar and add_histogram, or a function of a name, a value "
        f"and a step. Received: {to!r} (of type {type(to).__name__})."
    )


def _to_folder(folder: str) -> Logger:
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "To log to a folder, TensorBoard has to be installed. Run: pip "
            "install 'keras_gates[tensorboard]'. Or pass LogGates a function "
            "of a name, a value and a step."
        ) from error
    try:
        import tensorflow as tf
    except ImportError:
        return _to_torch(folder)
    writer = tf.summary.create_file_writer(folder)

    def log(name: str, value: Any, step: int) -> None:
        with writer.as_default():
            if np.ndim(value):
                tf.summary.histogram(name, value, step=step)
            else:
                tf.summary.scalar(name, value, step=step)
        writer.flush()

    return log


def _to_torch(folder: str) -> Logger:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "To log to a folder, TensorFlow or PyTorch has to be installed, "
            "which write what TensorBoard reads. Or pass LogGates a function "
            "of a name, a value and a step."
        ) from error
    return _to_writer(SummaryWriter(folder))


def _to_writer(writer: Any) -> Logger:
    def log(name: str, value: Any, step: int) -> None:
        if np.ndim(value):
            writer.add_histogram(name, value, step)
        else:
            writer.add_scalar(name, value, step)
        if hasattr(writer, "flush"):
            writer.flush()

    return log
