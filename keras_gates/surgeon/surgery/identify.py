"""Finds channels to delete: the average percentage of zeros (APoZ).

Hu et al. 2016, https://arxiv.org/abs/1607.03250.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.without_gradients import without_gradients
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.rule import channel_axis
from keras_gates.surgeon.scores.batches import batches_of
from keras_gates.surgeon.surgery.nodes import sites_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site

_L = keras.layers
_ACTIVATIONS = (_L.ReLU, _L.LeakyReLU, _L.PReLU, _L.ELU, _L.Softmax)


def get_apoz(
    model: keras.Model,
    layer: keras.Layer | str,
    x_val: Any,
    node_indices: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Return the share of zeros among a layer's activations, per channel.

    Activations are taken after the next nonlinear activation: the layer's
    own, or that of a layer after it (a batch normalization may be between).

    Args:
        model: A built Functional or Sequential model.
        layer: One of its layers, or the layer's name.
        x_val: Inputs: an array, a list or dict of them for a model with
            several inputs, a `keras.utils.PyDataset`, or an iterable of
            batches, with or without labels.
        node_indices: Which of the layer's calls; all by default. The result
            is the mean over them.

    Returns:
        An array with a number from 0 to 1 for each channel.

    Raises:
        ValueError: The layer is not in the model, or no activation follows
            it before the model branches, mixes the channels, or ends.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((2,)),
    ...         keras.layers.Dense(2, activation="relu", name="hidden"),
    ...         keras.layers.Dense(1),
    ...     ]
    ... )
    >>> model.get_layer("hidden").set_weights([np.eye(2), np.zeros(2)])
    >>> x = np.array([[1.0, -1.0], [1.0, 1.0]])
    >>> kg.surgeon.get_apoz(model, "hidden", x).tolist()
    [0.0, 0.5]
    """
    graph = gr.read(model)
    own = sites_of(graph, layer, node_indices)
    tensors = [_activation(graph, site) for site in own]
    watched = keras.Model(gr.structures(model)[0], tensors)
    axis = channel_axis(own[0].op, len(tensors[0].shape))
    totals, samples = np.zeros(()), 0
    for batch in batches_of(model, x_val, "apoz", 32, "x_val"):
        with without_gradients():
            outputs = watched(batch.x, training=False)
        zeros = [_zeros(y, axis) for y in keras.tree.flatten(outputs)]
        totals = totals + np.mean(zeros, axis=0) * batch.size
        samples += batch.size
    return np.asarray(totals / samples)


def high_apoz(
    apoz: ArrayLike,
    method: str = "std",
    cutoff_std: float = 1,
    cutoff_absolute: float = 0.99,
) -> NDArray[np.intp]:
    """Return the channels with many zeros.

    Args:
        apoz: The result of `get_apoz`.
        method: `"std"`: those `cutoff_std` standard deviations above the
            mean; `"absolute"`: those at `cutoff_absolute`; `"both"`: those
            at the lower of the two.
        cutoff_std: How many standard deviations.
        cutoff_absolute: A share of zeros.

    Returns:
        An array of positions, for `delete_channels`.

    Raises:
        ValueError: `method` is none of these, or `apoz` has no channels.

    Example:
    >>> import keras_gates as kg
    >>> kg.surgeon.high_apoz([0.1, 0.2, 0.995], "absolute").tolist()
    [2]
    """
    shares = np.asarray(apoz)
    if shares.dtype.kind not in "fiu" or shares.ndim != 1 or not shares.size:
        raise ValueError(
            "`apoz` must be a share of zeros for each channel, as get_apoz "
            f"returns. Received: {apoz!r}."
        )
    above = shares.mean() + shares.std() * cutoff_std
    cutoffs = {
        "std": above,
        "absolute": cutoff_absolute,
        "both": min(cutoff_absolute, above),
    }
    if method not in cutoffs:
        raise ValueError(
            '`method` must be "std", "absolute" or "both". Received: '
            f"{method!r}."
        )
    return np.flatnonzero(shares >= cutoffs[method])


def _zeros(activations: Any, axis: int) -> NDArray[np.float64]:
    """The share of zeros in each channel."""
    zeros = np.equal(keras.ops.convert_to_numpy(activations), 0)
    rest = tuple(a for a in range(zeros.ndim) if a != axis)
    return np.asarray(zeros.mean(axis=rest))


def _activation(graph: Graph, site: Site) -> keras.KerasTensor:
    """The tensor after the next nonlinear activation."""
    first = site
    while not _nonlinear(site.op):
        readers = [
            s
            for s in graph.sites
            if any(t is site.node.outputs[0] for t in s.node.input_tensors)
        ]
        if len(readers) != 1 or _mixes(readers[0]):
            raise ValueError(
                f"No nonlinear activation follows layer '{first.name}' before "
                f"'{graph.model.name}' branches, mixes its channels, or ends, "
                "so there are no zeros to count."
            )
        site = readers[0]
    return site.node.outputs[0]


def _mixes(site: Site) -> bool:
    return not site.calls or rule_of(site.calls[0]).linear


def _nonlinear(op: keras.Operation) -> bool:
    linear = keras.activations.linear
    activation = getattr(op, "activation", None) or linear
    return isinstance(op, _ACTIVATIONS) or activation is not linear
