"""The remaining stripes at each position of the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates import _pictures
from keras_gates._checks import nonnegative_number
from keras_gates.layers.stripconv.strip_conv import StripConv
from keras_gates.surgeon.gates import see_through

if TYPE_CHECKING:
    from numpy.typing import NDArray


def stripe_shares(
    model: keras.Model, threshold: float = 0.0
) -> dict[str, NDArray[np.float64]]:
    """The share of the filters that have a stripe at each position.

    For a pruned layer, the remaining filters count.

    Args:
        model: A built functional or Sequential model with `StripConv`
            layers, pruned or not. `Conv2D` layers are ignored.
        threshold: Number >= 0. In a layer with a skeleton, stripes whose
            factor is 0 or below the threshold do not count. Defaults to 0.

    Returns:
        A dict from the paths of the layers, in the order of the model, to
        arrays of the height and width of their kernels: shares from 0 to 1.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has no `StripConv` layer, or `threshold` is
            negative.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> row, none = [[0], [0, 1], [1]], [[], [], []]
    >>> layer = kg.StripConv(2, 3, stripes=[row, none, row], name="conv")
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    >>> kg.stats.stripe_shares(model)["conv"].tolist()
    [[0.5, 1.0, 0.5], [0.0, 0.0, 0.0], [0.5, 1.0, 0.5]]
    """
    threshold = nonnegative_number(threshold, "threshold", "stripe_shares")
    shares = {
        call.path: _left(call.op, threshold).mean(axis=2)
        for call in see_through.read(model).calls
        if isinstance(call.op, StripConv)
    }
    if not shares:
        raise ValueError(
            f"Model '{model.name}' has no StripConv layer. Make a model with "
            "`keras_gates.to_stripconv`, train it, and look at it before "
            "`keras_gates.to_dense`."
        )
    return shares


def draw_stripes(model: keras.Model, threshold: float = 0.0) -> Any:
    """A picture of `stripe_shares`: a column of positions for each layer.

    The positions are numbered row by row, s1 to s9 for a 3x3 kernel.

    Reference:

    - [Meng et al., 2020, Pruning Filter in Filter](
      https://arxiv.org/abs/2009.14410), figure 2 of the supplement

    Args:
        model: As in `stripe_shares`.
        threshold: As in `stripe_shares`.

    Returns:
        A `matplotlib.figure.Figure`; `savefig` writes it.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError, ValueError: As `stripe_shares`.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> layers = [keras.Input((8, 8, 3)), kg.StripConv(2, 3)]
    >>> figure = kg.stats.draw_stripes(keras.Sequential(layers))
    """
    shares = stripe_shares(model, threshold)
    columns = _columns(shares)
    rows, layers = columns.shape
    size = max(5.0, 0.35 * layers + 2.5), max(3.0, 0.25 * rows + 1.5)
    axes = _pictures.grid(1, 1, size).flat[0]
    figure = axes.figure
    picture = axes.imshow(
        columns, cmap="viridis", vmin=0, vmax=1, aspect="auto"
    )
    axes.set_xticks(range(layers), list(shares), rotation=90, fontsize=7)
    names = [f"s{number}" for number in range(1, rows + 1)]
    axes.set_yticks(range(rows), names, fontsize=7)
    axes.set_ylabel("position in the kernel")
    figure.colorbar(picture, label="share of filters with a stripe there")
    return figure


def _left(layer: StripConv, threshold: float) -> NDArray[np.bool_]:
    """The mask of a layer's stripes."""
    if layer.stripes is not None:
        return layer.stripes.kept
    factors = np.asarray(np.abs(keras.ops.convert_to_numpy(layer.skeleton)))
    return (factors > 0) & (factors >= threshold)


def _columns(shares: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """A column for each layer, NaN below those of small kernels."""
    columns = [share.reshape(-1) for share in shares.values()]
    picture = np.full((max(map(len, columns)), len(columns)), np.nan)
    for number, column in enumerate(columns):
        picture[: len(column), number] = column
    return picture
