"""The constraints against numpy, inside `fit` and outside."""

import copy
import pickle

import keras
import numpy as np
import pytest
from keras import ops

from keras_gates.callbacks import BindSoftThreshold
from keras_gates.constraints import KeepSign
from keras_gates.constraints import SoftThreshold
from keras_gates.constraints import UnitInterval
from keras_gates.layers import FilterGate

# Keras hands tensors and variables to np.array, which NumPy 2 deprecates for
# objects whose __array__ takes no `copy` (torch tensors, Keras variables).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

STRENGTH = 0.25
START = np.array([1.0, -0.5, 0.02, 0.0], "float32")
INPUTS = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
TARGETS = np.random.default_rng(1).normal(size=(12, 4)).astype("float32")
SGD = keras.optimizers.SGD


def soft_threshold(factor, step):
    return np.sign(factor) * np.maximum(np.abs(factor) - step, 0)


def gradient(factor, batch):
    residual = INPUTS[batch] * factor - TARGETS[batch]
    return np.sum(2 * residual * INPUTS[batch], axis=0) / residual.size


def simulate(rates, accumulation=1):
    """Proximal gradient descent on batches of 4, in float64."""
    factor, total = START.astype("float64"), 0.0
    for index, rate in enumerate(rates):
        start = 4 * (index % 3)
        total = total + gradient(factor, slice(start, start + 4))
        if (index + 1) % accumulation == 0:
            factor = factor - rate * total / accumulation
            factor = soft_threshold(factor, rate * STRENGTH)
            total = 0.0
    return factor


def fit(optimizer, epochs=1, callbacks=(), **compile_arguments):
    gate = FilterGate(constraint=SoftThreshold(STRENGTH))
    model = keras.Sequential([keras.Input((4,)), gate])
    gate.factor.assign(START)
    model.compile(optimizer=optimizer, loss="mse", **compile_arguments)
    model.fit(
        INPUTS,
        TARGETS,
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[BindSoftThreshold(), *callbacks],
    )
    return ops.convert_to_numpy(gate.factor)


def decay(rate):
    # A third of the rate after each batch.
    return keras.optimizers.schedules.ExponentialDecay(rate, 1, 1 / 3)


DECAYED = [0.9, 0.3, 0.1]


def test_unit_interval():
    values = np.array([-1.0, -0.0, 0.3, 1.0, 7.0], "float32")
    clipped = ops.convert_to_numpy(UnitInterval()(ops.array(values)))
    np.testing.assert_array_equal(clipped, np.clip(values, 0, 1))


@pytest.mark.parametrize(
    "optimizer, rates",
    [
        (lambda: SGD(0.5), [0.5] * 3),
        (lambda: SGD(decay(0.9)), DECAYED),
        (lambda: SGD(lambda: 0.5), [0.5] * 3),
    ],
    ids=["constant", "schedule", "callable"],
)
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_soft_threshold_in_fit(optimizer, rates, run_eagerly):
    factor = fit(optimizer(), run_eagerly=run_eagerly)
    # Three steps in float32 against float64, values of order 1.
    np.testing.assert_allclose(factor, simulate(rates), atol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="torch.compile takes a minute to start and needs a C++ compiler",
)
def test_soft_threshold_under_xla():
    factor = fit(SGD(decay(0.9)), jit_compile=True)
    np.testing.assert_allclose(factor, simulate(DECAYED), atol=1e-6)


def test_soft_threshold_gives_exact_zeros():
    assert np.any(fit(SGD(0.5)) == 0.0)


def test_soft_threshold_follows_a_rate_that_a_callback_sets():
    rates = [0.9, 0.3]
    scheduler = keras.callbacks.LearningRateScheduler(lambda i: rates[i])
    factor = fit(SGD(0.5), epochs=2, callbacks=[scheduler])
    np.testing.assert_allclose(
        factor, simulate([0.9] * 3 + [0.3] * 3), atol=1e-6
    )


@pytest.mark.parametrize("wrapped", [False, True])
def test_soft_threshold_with_gradient_accumulation(wrapped):
    optimizer = SGD(0.5, gradient_accumulation_steps=2)
    if wrapped:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 8.0)
    factor = fit(optimizer, epochs=2)
    expected = simulate([0.5] * 6, accumulation=2)
    np.testing.assert_allclose(factor, expected, atol=1e-6)


@pytest.mark.parametrize("rate, rates", [(0.5, [0.5] * 3), (None, DECAYED)])
def test_soft_threshold_under_loss_scaling(rate, rates):
    inner = SGD(rate or decay(0.9))
    optimizer = keras.optimizers.LossScaleOptimizer(inner, 8.0)
    np.testing.assert_allclose(fit(optimizer), simulate(rates), atol=1e-6)


def test_soft_threshold_under_mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        factor = fit(SGD(0.5))
    finally:
        keras.config.set_dtype_policy("float32")
    # The product, its residual and its gradient carry 11 bits.
    np.testing.assert_allclose(factor, simulate([0.5] * 3), atol=3e-3)


def test_unbound_use_names_the_weight_and_the_remedy():
    gate = FilterGate(constraint=SoftThreshold(0.1), name="my_gate")
    gate.build((None, 2))
    with pytest.raises(RuntimeError, match="my_gate/factor.*BindSoftThreshold"):
        gate.constraint(gate.factor)


@pytest.mark.parametrize("optimizer", ["sgd", 0.1, SGD])
def test_bind_refuses_what_is_no_optimizer(optimizer):
    with pytest.raises(TypeError, match="cannot follow this optimizer"):
        SoftThreshold(0.1).bind(optimizer)
    with pytest.raises(TypeError, match="cannot follow this optimizer"):
        SoftThreshold(0.1, optimizer=optimizer)


@pytest.mark.parametrize("strength", [-0.1, float("nan"), None])
def test_bad_strength_is_refused(strength):
    with pytest.raises(ValueError, match="SoftThreshold .* `strength`"):
        SoftThreshold(strength)


def serialized(constraint):
    config = keras.constraints.serialize(constraint)
    assert config["config"] == {"strength": 0.1}
    return keras.constraints.deserialize(config)


@pytest.mark.parametrize(
    "duplicate",
    [
        serialized,
        copy.copy,
        copy.deepcopy,
        lambda constraint: pickle.loads(pickle.dumps(constraint)),
    ],
    ids=["serialized", "copy", "deepcopy", "pickle"],
)
def test_copies_keep_the_strength_and_not_the_optimizer(duplicate):
    constraint = SoftThreshold(0.1, optimizer=SGD(0.5))
    duplicate = duplicate(constraint)
    assert duplicate.strength == 0.1
    assert duplicate.optimizer is None
    assert constraint.optimizer is not None


def test_clones_and_loaded_models_are_bound_to_their_own_optimizer(tmp_path):
    gate = FilterGate(constraint=SoftThreshold(0.1))
    model = keras.Sequential([keras.Input((4,)), gate])
    model.compile(optimizer=SGD(0.5), loss="mse")
    gate.constraint.bind(model.optimizer)
    model.save(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    clone.compile(optimizer=SGD(0.25), loss="mse")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for other in (clone, loaded):
        constraint = other.layers[0].constraint
        assert constraint.optimizer is None
        other.fit(INPUTS, TARGETS, verbose=0, callbacks=[BindSoftThreshold()])
        assert constraint.optimizer is other.optimizer
    assert gate.constraint.optimizer is model.optimizer


def test_unit_interval_is_serialized():
    config = keras.constraints.serialize(UnitInterval())
    assert config["registered_name"] == "keras_gates>UnitInterval"
    assert isinstance(keras.constraints.deserialize(config), UnitInterval)


@pytest.mark.parametrize("signs", [1, -1, [1, -1, 1, -1]])
def test_keep_sign_projects(signs):
    kept = KeepSign(signs)
    w = np.array([2.0, -0.5, 0.0, -3.0], "float32")
    got = ops.convert_to_numpy(kept(ops.array(w)))
    same = np.sign(w) == np.broadcast_to(signs, w.shape)
    np.testing.assert_array_equal(got, np.where(same, w, 0))
    assert not np.signbit(got[got == 0]).any()
    assert KeepSign.from_config(kept.get_config()).signs == signs


@pytest.mark.parametrize("signs", [0, 2.0, [], [1, 0], [[1, -1]], "one"])
def test_keep_sign_refuses(signs):
    with pytest.raises(ValueError, match="KeepSign cannot use these `signs`"):
        KeepSign(signs)
