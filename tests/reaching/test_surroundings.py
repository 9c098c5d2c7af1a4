"""What training does not move is closed first, whatever the optimizer."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_gates as kg
from keras_gates.reaching.live_factors import LiveFactors
from keras_gates.reaching.surroundings import Surroundings
from keras_gates.transforms import GateSpec

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 12)).astype("float32")
X[:, 4:10] = -0.4  # Nothing that the class depends on.
Y = (X @ RNG.normal(size=(12, 3))).argmax(-1)
DEAD = set(range(4, 10))

OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.02, momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(3e-3),
    "AdamW": lambda: keras.optimizers.AdamW(3e-3, weight_decay=0.01),
}


def fit(model, optimizer, *callbacks, epochs=10):
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(X, Y, 12, epochs, verbose=0, callbacks=list(callbacks))


def normalized():
    """A normalization takes away what constant inputs add."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12,))
    x = layers.BatchNormalization()(layers.Dense(16)(x))
    return keras.Model(inputs, layers.Dense(3)(layers.ReLU()(x)))


def half_dead():
    """Neurons of which every other one is never positive."""
    keras.utils.set_random_seed(0)
    bias = np.where(np.arange(16) % 2, -100.0, 0.0).astype("float32")
    hidden = layers.Dense(
        16,
        activation="relu",
        bias_initializer=lambda shape, dtype: keras.ops.array(bias, dtype),
        name="hidden",
    )
    inputs = keras.Input((12,))
    x = kg.FilterGate(name="gate")(hidden(inputs))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_constant_inputs_close_first(optimizer):
    gated = kg.insert_gates(normalized(), filters=GateSpec(inputs=True))
    reach = kg.callbacks.ReachBudget(macs=0.5)
    fit(gated, OPTIMIZERS[optimizer](), reach)
    closed = kg.surgeon.plan(gated, reach.thresholds).closed
    (name,) = (name for name in closed if name.startswith("input"))
    # All of them, or else only such.
    assert set(closed[name]) >= DEAD or set(closed[name]) <= DEAD
    assert closed[name]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_neurons_that_are_never_positive_close_first(optimizer):
    model = half_dead()
    reach = kg.callbacks.ReachBudget(macs=0.5)
    fit(model, OPTIMIZERS[optimizer](), reach)
    closed = kg.surgeon.plan(model, reach.thresholds).closed["gate"]
    assert closed == list(range(1, 16, 2))


def test_movement_is_seen_where_it_is():
    model = half_dead()
    live = LiveFactors(model)
    around = Surroundings(model, live)
    ones = np.ones(16)
    around.watch(ones)
    before = around.moving.copy()
    fit(model, OPTIMIZERS["AdamW"](), epochs=1)
    around.watch(ones)
    assert (before == 1).all()
    assert (around.moving[::2] > 0.5).all()
    # Decay shortens kernels, and does not move them otherwise.
    assert around.moving[1::2].tolist() == [0.5] * 8


def test_closed_ones_keep_what_was_seen_of_them():
    model = half_dead()
    around = Surroundings(model, LiveFactors(model))
    around.watch(np.ones(16))
    fit(model, OPTIMIZERS["SGD"](), epochs=1)
    around.watch(np.zeros(16))
    assert (around.moving == 1).all()


def test_nothing_is_said_of_weights_that_are_frozen():
    model = half_dead()
    model.get_layer("hidden").trainable = False
    model.layers[-1].trainable = False
    around = Surroundings(model, LiveFactors(model))
    around.watch(np.ones(16))
    fit(model, OPTIMIZERS["SGD"](), epochs=1)
    importance = around.importance(np.ones(16))
    assert (around.moving == 1).all()
    assert np.isfinite(importance).all() and (importance > 0).all()
