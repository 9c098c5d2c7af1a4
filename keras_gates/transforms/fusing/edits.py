"""Edits of calls for `rewrite`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.transforms.fusing import forms

if TYPE_CHECKING:
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.transforms.fusing.linear import Linear

    # What becomes of a call.
    Edit = Callable[[Recall], Any]
    # By the id of a `Site`.
    Edits = dict[int, Edit]


def passed(recall: Recall) -> keras.KerasTensor:
    """An edit that passes the input on."""
    return recall.tensor(recall.site.node.input_tensors[0])


def merged(layer: keras.Layer, form: Linear, source: keras.KerasTensor) -> Edit:
    """An edit that calls a layer like `layer`, of another form, on `source`."""
    return functools.partial(_merged, layer, form, source)


def _merged(
    layer: keras.Layer,
    form: Linear,
    source: keras.KerasTensor,
    recall: Recall,
) -> Any:
    new, weights = forms.remade(layer, form)
    outputs = new(recall.tensor(source))
    new.set_weights(weights)
    return outputs
