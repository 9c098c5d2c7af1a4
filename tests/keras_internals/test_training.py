"""Variables, optimizers, and how a model was compiled."""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_gates.graphs import private
from keras_gates.surgeon.build import optimizer as by_optimizer
from tests import helpers


def trained(optimizer, **options):
    x = keras.Input((3,))
    model = keras.Model(x, L.Dense(2)(x))
    model.compile(optimizer, "mse", **options)
    helpers.fit(
        model, np.ones((2, 3)), np.ones((2, 2)), batch_size=1, verbose=0
    )
    return model


def test_raw_value():
    variable = keras.Variable([1.0, 2.0])
    raw = private.raw_value(variable)
    assert keras.ops.convert_to_numpy(raw).tolist() == [1.0, 2.0]
    with keras.StatelessScope():
        assert private.raw_value(keras.Variable("zeros", shape=(2,))) is None


def test_autocasts():
    assert private.autocasts(keras.Variable([1.0]))
    assert not private.autocasts(keras.Variable([1.0], autocast=False))


def test_trained_by():
    model = trained("sgd")
    found = private.trained_by(model.optimizer)
    assert [w.path for w in found] == [w.path for w in model.weights]


SLOTTED = {
    "SGD": {"momentum": 0.9},
    "Adam": {"amsgrad": True},
    "AdamW": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}


@pytest.mark.parametrize("name", sorted(by_optimizer._SLOTS))
def test_slots_of(name):
    """All that the table of slots names is there, under that name."""
    cls = getattr(keras.optimizers, name, None)
    if cls is None:
        assert name in ("Muon", "ScheduleFreeAdamW")  # Keras 3.9 lacks them
        return
    model = trained(cls(**SLOTTED.get(name, {})))
    slots = private.slots_of(model.optimizer)
    assert set(by_optimizer._SLOTS[name]) <= slots.keys()
    assert all(len(row) == 2 for row in slots.values())


def test_slots_that_any_optimizer_may_have():
    options = {"use_ema": True, "gradient_accumulation_steps": 2}
    model = trained(keras.optimizers.SGD(**options))
    slots = private.slots_of(model.optimizer)
    assert set(by_optimizer._COMMON) <= slots.keys()


def test_batches_of():
    options = {"gradient_accumulation_steps": 2}
    model = trained(keras.optimizers.SGD(**options))
    assert int(private.batches_of(model.optimizer)) == 2
    assert int(model.optimizer.iterations) == 1


def test_loss_weights_of():
    assert private.loss_weights_of(trained("sgd", loss_weights=[3.0])) == [3.0]
    assert private.loss_weights_of(trained("sgd")) is None
    assert private.loss_weights_of(keras.Sequential()) is None


BIASED = {
    "Dense": lambda: L.Dense(4, use_bias=False),
    "EinsumDense": lambda: L.EinsumDense("abc,cd->abd", (None, 4)),
    "Conv1D": lambda: L.Conv1D(4, 2, use_bias=False),
    "Conv1DTranspose": lambda: L.Conv1DTranspose(4, 2, use_bias=False),
    "SeparableConv1D": lambda: L.SeparableConv1D(4, 2, use_bias=False),
}


def biased(name):
    """A model of one layer that was given a bias, what it made of x, and x."""
    model = keras.Sequential([keras.Input((5, 3)), BIASED[name]()])
    x = np.ones((2, 5, 3), "float32")
    before = model(x)
    private.give_bias(model.layers[0], 4)
    _ = model.layers[0].bias.assign([0.0, 1.0, 2.0, 3.0])
    return model, before, x


@pytest.mark.parametrize("name", BIASED)
def test_give_bias(name):
    model, before, x = biased(name)
    (layer,) = model.layers
    got = keras.ops.convert_to_numpy(model(x) - before)
    np.testing.assert_allclose(got, np.broadcast_to(range(4), got.shape), 1e-5)
    assert any(w is layer.bias for w in model.trainable_variables)
    again = type(layer).from_config(layer.get_config())
    again.build((None, 5, 3))
    assert [w.shape for w in again.weights] == [w.shape for w in layer.weights]


@pytest.mark.parametrize("name", BIASED)
def test_drop_bias(name):
    model, before, x = biased(name)
    (layer,) = model.layers
    private.drop_bias(layer)
    plain = BIASED[name]().get_config()
    assert {**layer.get_config(), "name": ""} == {**plain, "name": ""}
    assert all(w.name != "bias" for w in model.weights)
    assert not keras.ops.convert_to_numpy(model(x) - before).any()
