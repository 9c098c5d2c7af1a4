"""Write a model for another runtime: SavedModel, LiteRT or ONNX.

With --int8, weights and activations are 8-bit integers, calibrated on --data.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import keras

from keras_gates import _files
from keras_gates.cli import data as samples
from keras_gates.cli import exporting
from keras_gates.cli import models
from keras_gates.cli import outputs
from keras_gates.cli.exits import Failure
from keras_gates.cli.exits import Outcome
from keras_gates.cli.exits import one_line
from keras_gates.cli.progress import Progress

# Name -> its writer, and the suffix of its file; "" is a folder.
_FORMATS = {
    "savedmodel": (exporting.savedmodel, ("",)),
    "litert": (exporting.litert, (".tflite",)),
    "onnx": (exporting.onnx, (".onnx",)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    parser.add_argument(
        "model", type=pathlib.Path, metavar="MODEL", help="a .keras file"
    )
    add = parser.add_argument
    add("--to", choices=sorted(_FORMATS), required=True, help="the format")
    add(
        "-o",
        "--output",
        type=pathlib.Path,
        metavar="PATH",
        help="where to save it (default: beside MODEL, with its name)",
    )
    add("--int8", action="store_true", help="quantize after training")
    add("--force", action="store_true", help="overwrite existing files")
    samples.add_arguments(parser, "for --int8")


def run(given: argparse.Namespace, progress: Progress) -> Outcome:
    """Run the verb."""
    write, suffixes = _FORMATS[given.to]
    path: pathlib.Path = given.output or given.model.with_suffix(suffixes[0])
    read = given.model, given.data
    outputs.check(path, suffixes, given.force, f"A {given.to} file", read)
    if given.int8 and given.data is None:
        raise Failure("--int8 needs samples. Pass --data x.npz.")
    progress.step(f"reading {given.model}")
    model = models.load(given.model, given.imports)
    data = samples.read(given, model)
    progress.step(f"exporting to {given.to}")
    with _files.replacing(path) as new:
        try:
            write(model, new, None if data is None else data.x, given.int8)
        except Failure:
            raise
        except Exception as error:
            raise Failure(_failed(given, model, error)) from error
    result: dict[str, Any] = {
        "model": model.name,
        "format": given.to,
        "int8": given.int8,
        "files": {str(path): outputs.size(path)},
    }
    size = outputs.size(path)
    return Outcome(f"wrote {path}: {size:,} bytes", result)


def _failed(
    given: argparse.Namespace, model: keras.Model, error: Exception
) -> str:
    return (
        f"'{model.name}' could not be exported to {given.to} on the "
        f"{keras.backend.backend()} backend: {type(error).__name__}: "
        f"{one_line(error)[:400]}"
    )
