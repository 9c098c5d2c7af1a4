"""How tests check a refusal: a clear error, and nothing changed."""

import json
import warnings

import keras
import pytest

from tests import helpers


def state(model):
    """All of a model that a refusal must leave as it was."""
    try:
        found = helpers.fingerprint(model)
    except NotImplementedError:  # a layer that can't tell its config
        found = {"weights": helpers.weights_digest(model)}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        slots = [helpers.numpy_of(v).tolist() for v in optimizer.variables]
        found["compile"] = id(optimizer), slots
        found["config"] = json.dumps(model.get_compile_config(), default=str)
    return found


def warned(action):
    """What `action` returns, and the texts of the `UserWarning`s it gives.

    `pytest.warns` would give the others again, without the module that they
    are ignored by.
    """
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        result = action()
    return result, [
        str(one.message) for one in given if one.category is UserWarning
    ]


def compiled(model):
    model.compile(optimizer=keras.optimizers.SGD(0.1, 0.9), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def refuse(model, action, error, match):
    """`action` raises, says what and where, and leaves the model alone."""
    before = state(model)
    with pytest.raises(error, match=match) as caught:
        action()
    assert caught.type in (TypeError, ValueError)
    assert state(model) == before
