"""What becomes of a call: the edits that `rewrite` makes."""

import functools

from keras_gates.transforms.fusing import forms


def passed(recall):
    """Nothing: the call hands its input on."""
    return recall.tensor(recall.site.node.input_tensors[0])


def merged(layer, form, source):
    """An edit: a layer like `layer`, of another form, called on `source`."""
    return functools.partial(_merged, layer, form, source)


def _merged(layer, form, source, recall):
    new, weights = forms.remade(layer, form)
    outputs = new(recall.tensor(source))
    new.set_weights(weights)
    return outputs
