"""How tests look into a pruned model."""

import keras
import numpy as np

from tests import helpers


def parts_of(model):
    """All layers and operations of a model and of those nested in it."""
    found = list(getattr(model, "operations", model.layers))
    for part in list(found):
        if isinstance(part, keras.Model):
            found += parts_of(part)
    return found


def weights_of(model):
    return [helpers.numpy_of(w) for w in model.weights]


def same(arrays, others):
    pairs = zip(arrays, others, strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)
