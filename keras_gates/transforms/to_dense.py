"""Converts layers with stripes back to stock layers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import patterns
from keras_gates.graphs.configs import config_of
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.names import Names
from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers.stripconv.strip_conv import StripConv
from keras_gates.layers.stripconv.stripes import Stripes
from keras_gates.layers.stripconv.trimming import trim
from keras_gates.surgeon.gates import see_through

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Shape
    from keras_gates.graphs.patterns import Patterns
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.layers.stripconv.trimming import Trim

_OWN = ("needs", "stripes", "method")


def to_dense(
    model: keras.Model,
    only_slower: bool = False,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
) -> keras.Model:
    """Copy a model with `Conv2D` layers instead of `StripConv`.

    The kernels are zero where there is no stripe. Rows and columns on the
    outside that have none at all are left out, with as much padding or
    cropping in front as they made up for: the copy computes the same, and
    loads where keras_gates is not installed.

    Args:
        model: A built functional or Sequential model. It is not changed.
        only_slower: Whether to convert only pruned layers that would compute
            dense kernels anyway, because their stripes are slower on this
            backend for the tensor sizes of this model. Defaults to `False`:
            every `StripConv`.
        include: What to convert: one or a list of layer names (`*` stands for
            anything), layers and layer classes. Defaults to `None`: every
            `StripConv`.
        exclude: What to leave out, likewise.

    Returns:
        A new model, not compiled. The layers keep their names.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the model is not built or has no recorded graph, or a
            pattern fits no `StripConv`.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> row = [[0], [0, 1], [1]]
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8, 8, 3)),
    ...         kg.StripConv(
    ...             2, 3, padding="same", stripes=[row, row, [[]] * 3]
    ...         ),
    ...     ]
    ... )
    >>> [type(layer).__name__ for layer in kg.to_dense(model).layers]
    ['ZeroPadding2D', 'Conv2D']
    >>> kg.to_dense(model).layers[-1].kernel_size
    (2, 3)
    """
    graph = see_through.read_to_write(model)
    turned = patterns.chosen_layers(
        graph,
        "StripConvs",
        lambda op: "" if isinstance(op, StripConv) else "it is no StripConv",
        include,
        exclude,
    )
    ids = {id(op) for op in turned}
    # The input shapes of each.
    found: IdentityDict[keras.Operation, list[Shape]] = IdentityDict()
    for site in [s for g in [graph, *graph.nested()] for s in g.sites]:
        if id(site.op) in ids:
            shape = tuple(site.node.input_tensors[0].shape)
            found.setdefault(site.op, []).append(shape)
    if only_slower:
        slow = [(x, s) for x, s in found.items() if not _pays(x, s)]
        found = IdentityDict(slow)
    names = Names.from_graph(graph)
    made: IdentityDict[keras.Operation, list[keras.Layer]] = IdentityDict()

    def edit(recall: Recall) -> Any:
        op = recall.op
        if op not in found:
            return None
        if op not in made:
            made[op] = _layers(op, found[op], names)
        x = recall.args[0] if recall.args else recall.kwargs["inputs"]
        for layer in made[op]:
            x = layer(x)
        conv, (kernel, bias) = made[op][-1], _weights(op)
        box = tuple(slice(*axis) for axis in _trim(op, found[op]).box)
        conv.set_weights([kernel[box]] + [bias] * conv.use_bias)
        return x

    return rewrite(graph, edit)


def _pays(layer: StripConv, shapes: list[Shape]) -> bool:
    if layer.stripes is None:
        return True
    return all(layer.computes(shape) == "stripes" for shape in shapes)


def _weights(
    layer: StripConv,
) -> tuple[NDArray[np.floating], NDArray[np.floating] | None]:
    kernel = keras.ops.convert_to_numpy(layer.effective_kernel())
    bias = layer.bias
    return kernel, None if bias is None else keras.ops.convert_to_numpy(bias)


def _trim(layer: StripConv, shapes: list[Shape]) -> Trim:
    """How the layer's kernel is trimmed, in the same way for all calls."""
    kept = layer.stripes
    if kept is None:
        factors = keras.ops.convert_to_numpy(layer.skeleton)
        kept = Stripes(factors != 0)
    rows, columns = layer.kernel_size
    whole = ((0, rows), (0, columns))
    box = kept.box if kept.count else whole
    ways = [trim(layer.window(shape), box) for shape in shapes]
    alike = all(way == ways[0] for way in ways)
    return ways[0] if alike else trim(layer.window(shapes[0]), whole)


def _layers(
    layer: StripConv, shapes: list[Shape], names: Names
) -> list[keras.Layer]:
    """The layers that replace a StripConv; the convolution is the last one."""
    how = _trim(layer, shapes)
    config = {
        key: value
        for key, value in config_of(layer).items()
        if key not in _OWN and not key.startswith("skeleton_")
    }
    config |= {"kernel_size": how.kernel_size, "padding": how.padding}
    conv = keras.layers.Conv2D.from_config(config)
    conv.trainable = layer.trainable
    settings = {"data_format": layer.data_format, "dtype": layer.dtype_policy}
    found = []
    pads = np.array(how.pads)
    if (pads < 0).any():
        name = names.free(f"{layer.name}_crop")
        widths = np.maximum(-pads, 0).tolist()
        found.append(keras.layers.Cropping2D(widths, name=name, **settings))
    if (pads > 0).any():
        name = names.free(f"{layer.name}_pad")
        widths = np.maximum(pads, 0).tolist()
        found.append(keras.layers.ZeroPadding2D(widths, name=name, **settings))
    return [*found, conv]
