"""Functions that log a name, a value and a step to various backends."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import keras
import numpy as np

# A function of a name, a number or an array of factors, and a step.
Logger: TypeAlias = Callable[[str, Any, int], Any]


def logger_of(to: Any) -> Logger:
    """The function that logs to `to`.

    Args:
        to: as in `LogGates`.

    Raises:
        ImportError: no writer for TensorBoard is installed.
        TypeError: it is none of these.
    """
    if isinstance(to, keras.callbacks.TensorBoard):
        # TensorBoard draws the runs of one folder together.
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
            "To log to a folder, TensorBoard must be installed. Run: pip "
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
            "To log to a folder, TensorFlow or PyTorch must be installed, "
            "since they write the files. Or pass LogGates a function of a "
            "name, a value and a step."
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
