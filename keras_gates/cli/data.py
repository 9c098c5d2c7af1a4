"""Samples from files: arrays of NumPy, or folders of images."""

from __future__ import annotations

import argparse
import math
import pathlib
import zipfile
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates import _checks
from keras_gates.cli.exits import Failure
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.scores.accuracy import accuracy as share_told
from keras_gates.surgeon.scores.inputs import Inputs

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_COLORS = {1: "L", 3: "RGB", 4: "RGBA"}


class Data(NamedTuple):
    """Some samples.

    Attributes:
        x: an array, or a dict of them by the inputs' names.
        y: the labels, or None.
    """

    x: Any
    y: NDArray[Any] | None

    @property
    def pair(self) -> Any:
        """The form that `fit` takes: `(x, y)`, or only x."""
        return self.x if self.y is None else (self.x, self.y)

    def first(self, count: int) -> Any:
        """The x of some samples."""
        return keras.tree.map_structure(lambda a: a[:count], self.x)


def add_arguments(parser: argparse.ArgumentParser, use: str) -> None:
    """Adds the options for samples."""
    add = parser.add_argument_group("data").add_argument
    add(
        "--data",
        type=pathlib.Path,
        metavar="PATH",
        help=f"{use}: an .npz file with x (or an array for each input, by "
        "name) and y for labels, an .npy file, or a folder of images, whose "
        "subfolders are classes",
    )
    add(
        "--samples",
        type=int,
        default=512,
        metavar="N",
        help="use at most N samples, spread over all (default: 512)",
    )
    add(
        "--scale",
        type=_number,
        default=1.0,
        metavar="S",
        help="multiply the pixels of images, 0 to 255, by S, such as 1/255",
    )


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    try:
        found = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(
            f"a number or a fraction is expected, such as 1/255: {text!r}"
        )
    return found


def read(given: argparse.Namespace, model: keras.Model) -> Data | None:
    """The requested samples for a model, if any.

    Raises:
        Failure: they can't be read, or do not fit the model.
    """
    path: pathlib.Path | None = given.data
    if path is None:
        return None
    if given.samples < 1:
        raise Failure(
            f"--samples must be at least 1. Received: {given.samples}."
        )
    if not path.exists():
        raise Failure(f"There is no file or folder '{path}' of data.")
    if path.is_dir():
        found = _images(path, model, given.samples, given.scale)
    else:
        found = _arrays(path, model)
    spread = _spread(path, found, given.samples)
    if gr.functional_of(model) is None:
        return spread
    return spread._replace(x=_checked(path, spread.x, model))


def _checked(path: pathlib.Path, x: Any, model: keras.Model) -> Any:
    """Samples in the structure that the model takes.

    Raises:
        Failure: they do not fit the model, or are not finite numbers.
    """
    arrays = keras.tree.flatten(x)
    if any(a.dtype.kind in "fc" and not np.isfinite(a).all() for a in arrays):
        raise Failure(f"'{path}' has NaN or infinity. Leave out such samples.")
    inputs = Inputs.of_model(model, str(path))
    takes_text = any(t.dtype == "string" for t in inputs.tensors)
    if not takes_text and any(a.dtype.kind not in "fiub" for a in arrays):
        raise Failure(
            f"'{path}' must hold numbers. Received: arrays of "
            f"{_checks.listed(sorted({a.dtype.name for a in arrays}))}."
        )
    try:
        return inputs.pack(x)
    except (TypeError, ValueError) as error:
        raise Failure(str(error).replace(f"`{path}`", f"'{path}'")) from error


def _arrays(path: pathlib.Path, model: keras.Model) -> Data:
    with path.open("rb") as file:
        try:
            content = np.load(file, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise Failure(
                f"'{path}' is not a file of NumPy arrays. Expected: what "
                "numpy.savez('data.npz', x=..., y=...) writes."
            ) from error
        if isinstance(content, np.ndarray):
            return Data(content, None)
        try:
            arrays = {name: content[name] for name in content.files}
        except (ValueError, zipfile.BadZipFile) as error:
            raise Failure(
                f"'{path}' holds more than plain arrays, or is damaged."
            ) from error
    names = [tensor.name for tensor in model.inputs or ()]
    y = arrays.get("y")
    if "x" in arrays:
        return Data(arrays["x"], y)
    if names and set(names) <= arrays.keys():
        return Data({name: arrays[name] for name in names}, y)
    raise Failure(
        f"'{path}' holds {_checks.listed(list(arrays))}. Expected: x, or an "
        f"array for each input ({_checks.listed(names)}), and y for labels."
    )


def _images(
    path: pathlib.Path, model: keras.Model, most: int, scale: float
) -> Data:
    """Images at the model's input size; the folders are the labels."""
    shape = _image_shape(path, model)
    classes = sorted(p for p in path.iterdir() if p.is_dir())
    labelled = [
        (image, number)
        for number, folder in enumerate(classes or [path])
        for image in sorted(folder.rglob("*"))
        if image.suffix.lower() in _IMAGES
    ]
    if not labelled:
        raise Failure(
            f"There are no images in '{path}'. Expected: files that end in "
            f"{', '.join(_IMAGES)}."
        )
    chosen = [labelled[i] for i in _places(len(labelled), most)]
    x = np.stack([_image(image, shape) for image, _ in chosen])
    x = np.asarray(x * scale, "float32")
    if keras.config.image_data_format() == "channels_first":
        x = np.moveaxis(x, -1, 1)
    y = np.array([number for _, number in chosen])
    return Data(x, y if classes else None)


def _image_shape(
    path: pathlib.Path, model: keras.Model
) -> tuple[int, int, int]:
    """Height, width and channels of a model's input images.

    Raises:
        Failure: it takes other inputs, or several sizes.
    """
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs or ()]
    if len(shapes) == 1 and len(shapes[0]) == 3 and None not in shapes[0]:
        height, width, channels = shapes[0]
        if keras.config.image_data_format() == "channels_first":
            channels, height, width = shapes[0]
        if channels in _COLORS:
            return height, width, channels
    raise Failure(
        f"'{path}' is a folder of images, and the model's inputs are "
        f"{shapes}. Pass an .npz file, unless the input is one image of a "
        "known size."
    )


def _image(path: pathlib.Path, shape: tuple[int, int, int]) -> NDArray[Any]:
    height, width, channels = shape
    try:
        from PIL import Image
    except ImportError as error:
        raise Failure(
            "Images need Pillow, which is not installed. Run: "
            "pip install 'keras_gates[cli]'."
        ) from error
    try:
        with Image.open(path) as image:
            found = image.convert(_COLORS[channels])
    except OSError as error:
        raise Failure(f"'{path}' can't be read as an image.") from error
    resized = found.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, "float32").reshape(shape)


def _spread(path: pathlib.Path, data: Data, most: int) -> Data:
    """A subset of the samples, evenly spread."""
    arrays = [*keras.tree.flatten(data.x)]
    arrays += [] if data.y is None else [data.y]
    sizes = {a.shape[0] if a.ndim else 0 for a in arrays}
    if len(sizes) > 1 or 0 in sizes:
        raise Failure(
            f"The arrays in '{path}' hold {sorted(sizes)} samples. Expected: "
            "one number for all, and at least one sample."
        )
    places = _places(sizes.pop(), most)
    x = keras.tree.map_structure(lambda a: a[places], data.x)
    return Data(x, None if data.y is None else data.y[places])


def _places(count: int, most: int) -> NDArray[np.intp]:
    """The positions of `most` of `count` samples, evenly spread."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(np.intp)


def accuracy(model: keras.Model, data: Data | None) -> float | None:
    """The accuracy of a model; None if there are no classes."""
    if data is None or data.y is None or len(model.outputs) != 1:
        return None
    return share_told(data.y, model.predict(data.x, verbose=0))
