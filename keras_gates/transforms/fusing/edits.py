"""What becomes of a call: the edits that `rewrite` makes."""

from __future__ import annotations

import functools
from typing import Any

import keras

from keras_gates.transforms.fusing import forms


def passed(recall: Any) -> Any:
    """Nothing: the call hands its input on."""
    return recall.tensor(recall.site.node.input_tensors[0])


def merged(layer: keras.Layer, form: Any, source: Any) -> Any:
    """An edit: a layer like `layer`, of another form, called on `source`."""
    return functools.partial(_merged, layer, form, source)


def _merged(layer: keras.Layer, form: Any, source: Any, recall: Any) -> Any:
    new, weights = forms.remade(layer, form)
    outputs = new(recall.tensor(source))
    new.set_weights(weights)
    return outputs
