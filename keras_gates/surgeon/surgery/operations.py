"""Single operations on a model: Keras-Surgeon's functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_gates.surgeon.surgery.surgeon import Surgeon


def delete_layer(
    model: keras.Model,
    layer: keras.Layer | str,
    *,
    node_indices: Sequence[int] | None = None,
    copy: bool = True,
) -> keras.Model:
    """Remove a layer from a model; its input takes the place of its output.

    Args:
        model: A built Functional or Sequential model.
        layer: One of its layers with one input, or the layer's name.
        node_indices: Which of its calls; all by default.
        copy: For compatibility; the model is always copied.

    Returns:
        A new model.

    Raises:
        ValueError: The layer is not in the model, has several inputs, or a
            layer after it does not fit its new input.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dropout(0.5, name="dropout"),
    ...         keras.layers.Dense(2, name="out"),
    ...     ]
    ... )
    >>> new = kg.surgeon.delete_layer(model, model.get_layer("dropout"))
    >>> [layer.name for layer in new.layers]
    ['out']
    """
    return _operate(model, "delete_layer", layer, node_indices=node_indices)


def insert_layer(
    model: keras.Model,
    layer: keras.Layer | str,
    new_layer: keras.Layer,
    *,
    node_indices: Sequence[int] | None = None,
    copy: bool = True,
) -> keras.Model:
    """Insert a new layer before a layer.

    Args:
        model: A built Functional or Sequential model.
        layer: One of its layers with one input, or the layer's name.
        new_layer: A layer, built or not; a copy of it is inserted.
        node_indices: Before which of the layer's calls; all by default,
            where the new layer is then shared.
        copy: For compatibility; the model is always copied.

    Returns:
        A new model.

    Raises:
        TypeError: `new_layer` is not a layer.
        ValueError: The layer is not in the model, has several inputs, or does
            not fit its new input.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(2, name="out")]
    ... )
    >>> new = kg.surgeon.insert_layer(
    ...     model, model.get_layer("out"), keras.layers.Dropout(0.5, name="new")
    ... )
    >>> [layer.name for layer in new.layers]
    ['new', 'out']
    """
    return _operate(
        model,
        "insert_layer",
        layer,
        new_layer=new_layer,
        node_indices=node_indices,
    )


def replace_layer(
    model: keras.Model,
    layer: keras.Layer | str,
    new_layer: keras.Layer,
    *,
    node_indices: Sequence[int] | None = None,
    copy: bool = True,
) -> keras.Model:
    """Replace a layer by a new one.

    Args:
        model: A built Functional or Sequential model.
        layer: One of its layers, or the layer's name.
        new_layer: A layer, built or not; a copy of it is inserted.
        node_indices: Which of the layer's calls; all by default, where the
            new layer is then shared.
        copy: For compatibility; the model is always copied.

    Returns:
        A new model.

    Raises:
        TypeError: `new_layer` is not a layer.
        ValueError: The layer is not in the model, or a layer after it does not
            fit its new input.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(10, name="classes")]
    ... )
    >>> new = kg.surgeon.replace_layer(
    ...     model, model.get_layer("classes"), keras.layers.Dense(3)
    ... )
    >>> new.output_shape
    (None, 3)
    """
    return _operate(
        model,
        "replace_layer",
        layer,
        new_layer=new_layer,
        node_indices=node_indices,
    )


def delete_channels(
    model: keras.Model,
    layer: keras.Layer | str,
    channels: Sequence[int],
    *,
    node_indices: Sequence[int] | None = None,
    copy: bool | None = None,
    tied: bool = False,
) -> keras.Model:
    """Delete channels of a layer, with all weights that belong to them.

    The remaining kernels, biases and statistics are those of the original, as
    after `numpy.delete`, across normalizations, depthwise convolutions,
    pooling, concatenation and flattening. The output of deleted channels is
    *not* compensated, even if it is constant. `keras_gates.surgeon.prune`
    absorbs the constants that closed gates and gammas leave.

    Args:
        model: A built Functional or Sequential model. Gates in it are
            dissolved, as in pruning.
        layer: A layer of it with channels, or the layer's name: filters of
            convolutions, units of `Dense`, recurrent and bidirectional
            layers, dimensions of an `Embedding`.
        channels: Positions of the channels to delete; negative ones count
            from the end.
        node_indices: Which of the layer's calls; all by default. If only some
            are given, these get a separate layer, `<name>_delete_channels`.
        copy: For compatibility; the model is always copied.
        tied: Whether to also delete channels of other layers that can only be
            removed together with these, such as those added to them.

    Returns:
        A new model. An output that the channels reach becomes narrower.

    Raises:
        TypeError: A channel is not an int.
        ValueError: The layer is not in the model or has no channels; the
            channels are out of range, given twice, or all of the layer's
            channels; they are tied to channels of other layers (which the
            message lists) and `tied` is False; or a layer after it reads all of
            them together, as an `Embedding` does.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((28, 28, 1)),
    ...         keras.layers.Conv2D(8, 3, name="conv"),
    ...         keras.layers.Flatten(),
    ...         keras.layers.Dense(10),
    ...     ]
    ... )
    >>> new = kg.surgeon.delete_channels(model, model.get_layer("conv"), [0, 5])
    >>> [tuple(w.shape) for w in new.weights]
    [(3, 3, 1, 6), (6,), (4056, 10), (10,)]
    """
    return _operate(
        model,
        "delete_channels",
        layer,
        channels=channels,
        node_indices=node_indices,
        tied=tied,
    )


def _operate(
    model: keras.Model, job: str, layer: keras.Layer | str, **options: Any
) -> keras.Model:
    surgeon = Surgeon(model)
    surgeon.add_job(job, layer, **options)
    return surgeon.operate()
