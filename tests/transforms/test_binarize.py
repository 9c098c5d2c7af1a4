"""Gates at 0 or 1: against the model with its factors assigned."""

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers
from tests.surgeon import small_models as sm

T = helpers.THRESHOLD


def at_zero_and_one(model):
    """The truth: the outputs with factors assigned in the model itself."""
    x = helpers.inputs_for(model)
    gates = helpers.gates_of(model)
    before = [helpers.numpy_of(gate.factor) for gate in gates]
    for gate, factor in zip(gates, before, strict=True):
        gate.factor.assign((np.abs(factor) >= T).astype("float32"))
    outputs = helpers.run(model, x)
    for gate, factor in zip(gates, before, strict=True):
        gate.factor.assign(factor)
    return x, outputs


@pytest.mark.parametrize("make", sm.MODELS, ids=lambda make: make.__name__)
def test_a_copy_with_gates_at_zero_and_one(make):
    model = make()
    before = helpers.fingerprint(model)
    x, expected = at_zero_and_one(model)
    copy = kg.binarize(model, T)
    assert helpers.fingerprint(model) == before
    assert type(copy) is type(model)
    # The same operations on the same numbers.
    assert max(helpers.differences(expected, helpers.run(copy, x))) == 0
    pairs = zip(helpers.gates_of(model), helpers.gates_of(copy), strict=True)
    for gate, twin in pairs:
        factor = np.abs(helpers.numpy_of(gate.factor)) >= T
        np.testing.assert_array_equal(helpers.numpy_of(twin.factor), factor)
    helpers.bump(copy)
    assert helpers.fingerprint(model) == before


def test_gates_are_frozen_and_nothing_else():
    model = sm.residual()
    copy = kg.binarize(model, T)
    for layer, twin in zip(
        helpers.layers_of(model), helpers.layers_of(copy), strict=True
    ):
        assert twin.trainable is not hasattr(twin, "kind")
        assert layer.trainable
    size = sum(helpers.numpy_of(g.factor).size for g in helpers.gates_of(model))
    counted = [
        sum(int(np.prod(tuple(w.shape))) for w in m.trainable_weights)
        for m in (model, copy)
    ]
    assert counted[0] - counted[1] == size


def test_penalties_of_gates_leave_the_loss():
    inputs = keras.Input((4,))
    gate = kg.FilterGate(name="gate", regularizer=kg.regularizers.L1(0.1))
    outputs = keras.layers.Dense(2, kernel_regularizer="l2")(gate(inputs))
    copy = kg.binarize(keras.Model(inputs, outputs), T)
    assert len(copy.losses) == 1
    copy.compile(optimizer="sgd", loss="mse")
    copy.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    kept = helpers.numpy_of(copy.get_layer("gate").factor)
    assert kept.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("make", [sm.residual, sm.convnet, sm.siamese])
def test_the_copy_is_pruned_at_any_threshold_in_between(make):
    model = make()
    copy = kg.binarize(model, T)
    before = kg.surgeon.plan(model, T)
    after = kg.surgeon.plan(copy, 0.5)
    assert after.closed == before.closed
    small = after.apply()
    assert max(kg.surgeon.verify(copy, small, 0.5).values()) < helpers.RTOL
    assert kg.stats.count(small).macs == before.macs[1]


@pytest.mark.parametrize(
    "thresholds, options, closed",
    [
        ({"filter": T}, {}, 4),
        ({"filter": 9.0}, {"keep_at_least": 3}, 5),
        (kg.Budget(macs=0.5), {}, 4),
        (kg.Quantile(0.25), {}, 2),
    ],
)
def test_thresholds_of_every_kind(thresholds, options, closed):
    model = sm.set_gates(sm.chain(), gate=[0.1, 0.2, 0.3, 0.4, 1, 2, 3, 4])
    copy = kg.binarize(model, thresholds, **options)
    factor = helpers.numpy_of(copy.get_layer("gate").factor)
    assert factor.tolist() == [0] * closed + [1] * (8 - closed)
    plan = kg.surgeon.plan(model, thresholds, **options)
    again = helpers.numpy_of(kg.binarize(model, plan).get_layer("gate").factor)
    np.testing.assert_array_equal(factor, again)


def normalized():
    inputs = keras.Input((4,))
    x = keras.layers.BatchNormalization(name="norm")(inputs)
    x = kg.FilterGate(name="gate")(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


@pytest.mark.parametrize(
    "make, thresholds, options, error, match",
    [
        (normalized, {"batch_norm": T}, {}, ValueError, "gate layers.*'norm'"),
        (sm.chain, -1, {}, ValueError, "at least 0"),
        (sm.chain, T, {"round_to": 0}, ValueError, "`round_to`"),
    ],
)
def test_what_is_refused(make, thresholds, options, error, match):
    model = make()
    before = helpers.fingerprint(model)
    with pytest.raises(error, match=match):
        kg.binarize(model, thresholds, **options)
    assert helpers.fingerprint(model) == before


def test_a_plan_has_its_options():
    model = sm.chain()
    with pytest.raises(TypeError, match="already has its options.*round_to"):
        kg.binarize(model, kg.surgeon.plan(model, T), round_to=4)


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_gate_inside_a_loop_alone_is_frozen(stochastic):
    x = keras.Input((3, 4))
    gate = kg.GatedRecurrent(
        keras.layers.LSTM(4, name="lstm"), stochastic=stochastic, seed=0
    )
    model = keras.Model(x, keras.layers.Dense(2)(gate(x)))
    closed, opened = (-9.0, 9.0) if stochastic else (0.0, 0.7)
    gate.gate.weight.assign([opened, closed, opened, closed])
    copy = kg.binarize(model, T)
    for one in (copy, keras.Model.from_config(copy.get_config())):
        twin = one.get_layer("lstm_gate")
        assert not twin.gate.trainable
        assert len(twin.trainable_weights) == 3
    twin = copy.get_layer("lstm_gate")
    factor = keras.ops.convert_to_numpy(twin.factor)
    np.testing.assert_array_equal(factor, [1, 0, 1, 0])
    small = kg.surgeon.prune(copy, 0.5)
    x = helpers.inputs_for(copy)
    far = helpers.differences(helpers.run(copy, x), helpers.run(small, x))
    assert max(far) < 1e-6
    assert small.get_layer("lstm").units == 2


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_factors_of_heads_alone_are_frozen(stochastic):
    x = keras.Input((3, 4))
    gate = kg.GatedAttention(
        keras.layers.MultiHeadAttention(
            4, 2, kernel_regularizer="l2", name="att"
        ),
        regularizer=kg.regularizers.L1(0.1),
        stochastic=stochastic,
        seed=0,
    )
    model = keras.Model(x, keras.layers.Dense(2)(gate(x, x)))
    penalties = len(model.losses)
    closed, opened = (-9.0, 9.0) if stochastic else (0.0, 0.7)
    gate.weight.assign([opened, closed, opened, closed])
    before = helpers.fingerprint(model)
    copy = kg.binarize(model, T)
    assert helpers.fingerprint(model) == before and gate.weight.trainable
    twin = copy.get_layer("att")
    assert keras.ops.convert_to_numpy(twin.factor).tolist() == [1, 0, 1, 0]
    again = keras.Model.from_config(copy.get_config())
    again.set_weights(copy.get_weights())
    data = helpers.inputs_for(copy)
    for one in (copy, again, kg.binarize(copy, T)):
        twin = one.get_layer("att")
        assert twin.trainable and not twin.weight.trainable
        assert len(twin.trainable_weights) == 8
        assert len(one.losses) == penalties - 1
        assert len(one.trainable_weights) == 10
        small = kg.surgeon.prune(one, 0.5)
        far = helpers.differences(
            helpers.run(one, data), helpers.run(small, data)
        )
        assert max(far) < 1e-6
        left = small.get_layer("att")
        assert left.num_heads == 2 and len(left.trainable_weights) == 8
    copy.compile(optimizer="sgd", loss="mse")
    kernel = copy.get_layer("att").layer._output_dense.kernel
    old = helpers.numpy_of(kernel)
    copy.fit(np.ones((8, 3, 4)), np.ones((8, 3, 2)), verbose=0)
    factor = keras.ops.convert_to_numpy(copy.get_layer("att").factor)
    assert factor.tolist() == [1, 0, 1, 0]
    assert (helpers.numpy_of(kernel) != old).any()
