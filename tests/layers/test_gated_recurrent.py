"""A gate inside the loop of a recurrent layer, against the layer by hand.

The truth is the stock layer with the rows of its recurrent kernel multiplied
by the factors, and what comes out of it multiplied by them.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

UNITS, STEPS, FEATURES = 4, 5, 3
# Half of them closed, one negative, one beyond 1.
FACTOR = np.array([1.4, 0.0, -0.6, 0.0], "float32")
MODES = ("concat", "sum", "ave", "mul", None)


def sequence(seed=0, batch=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, STEPS, FEATURES)).astype("float32")


def stock():
    for make in (L.SimpleRNN, L.GRU, L.LSTM):
        yield make(UNITS)
        yield make(UNITS, return_sequences=True, return_state=True)
        yield make(UNITS, go_backwards=True, use_bias=False)
    yield L.GRU(UNITS, reset_after=False, activation="softplus")
    yield L.LSTM(UNITS, unroll=True, activation="relu")
    for cell in (L.SimpleRNNCell, L.GRUCell, L.LSTMCell):
        yield L.RNN(cell(UNITS), return_state=True)
    yield L.Bidirectional(L.RNN(L.GRUCell(UNITS), return_state=True))
    for mode in MODES:
        yield L.Bidirectional(L.LSTM(UNITS, return_state=True), mode)
        yield L.Bidirectional(L.GRU(UNITS, return_sequences=True), mode)


def ways(layer):
    if isinstance(layer, L.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    return [layer]


def by_hand(layer, *args, factor=FACTOR, states=False, **kwargs):
    """What the stock layer puts out with factors in its loop and behind."""
    kernels = [way.cell.recurrent_kernel for way in ways(layer)]
    before = [helpers.numpy_of(kernel) for kernel in kernels]
    for kernel, array in zip(kernels, before, strict=True):
        kernel.assign(array * factor[:, None])
    found = [
        helpers.numpy_of(y) for y in keras.tree.flatten(layer(*args, **kwargs))
    ]
    for kernel, array in zip(kernels, before, strict=True):
        kernel.assign(array)
    two = getattr(layer, "merge_mode", "") is None
    count = 2 if two else 1
    lstm = isinstance(ways(layer)[0], L.LSTM) or isinstance(
        ways(layer)[0].cell, L.LSTMCell
    )
    for number in range(len(found)):
        state = number - count
        hidden = state < 0 or (states and (not lstm or state % 2 == 0))
        if hidden:
            repeats = found[number].shape[-1] // UNITS
            found[number] = found[number] * np.tile(factor, repeats)
    return found


def drawn(layer):
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            weight.assign(rng.normal(size=weight.shape) * 0.6)


def check(got, expected):
    flat = keras.tree.flatten(got)
    for a, b in zip(flat, expected, strict=True):
        # Five steps of a few sums of four terms in float32.
        np.testing.assert_allclose(helpers.numpy_of(a), b, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("states", [False, True])
def test_factors_act_inside_and_behind(states):
    for layer in stock():
        if states and not layer.return_state:
            continue
        gate = kg.GatedRecurrent(layer, gate_states=states)
        inputs = keras.Input((STEPS, FEATURES))
        model = keras.Model(inputs, gate(inputs))
        drawn(layer)
        x = sequence()
        check(model(x), by_hand(layer, x, factor=np.ones(UNITS)))
        gate.factor.assign(FACTOR)
        check(model(x), by_hand(layer, x, states=states))
        again = keras.Model.from_config(model.get_config())
        again.set_weights(model.get_weights())
        check(
            again(x),
            keras.tree.map_structure(
                helpers.numpy_of, [*keras.tree.flatten(model(x))]
            ),
        )


def test_recurrent_convolutions():
    rng = np.random.default_rng(0)
    for rank in (1, 2, 3):
        x = rng.normal(size=(2, 3, *[5] * rank, 2)).astype("float32")
        layer = getattr(L, f"ConvLSTM{rank}D")(UNITS, 3, return_state=True)
        gate = kg.GatedRecurrent(layer)
        gate(x)
        drawn(layer)
        gate.factor.assign(FACTOR)
        check(gate(x), by_hand(layer, x))


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="no such convolution"
)
def test_channels_first():
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 6, 5))
    layer = L.ConvLSTM2D(
        UNITS, 3, data_format="channels_first", return_sequences=True
    )
    gate = kg.GatedRecurrent(layer)
    y = gate(x.astype("float32"))
    assert y.shape[2] == UNITS
    gate.factor.assign(FACTOR)
    y = helpers.numpy_of(gate(x.astype("float32")))
    assert not y[:, :, [1, 3]].any()
    assert y[:, :, [0, 2]].any(axis=(0, 1, 3, 4)).all()


def test_masks_and_initial_states():
    x, there = sequence(), np.ones((3, STEPS), bool)
    there[:, 3:] = False
    there[0, 1] = False
    for make in (L.SimpleRNN, L.GRU, L.LSTM):
        layer = make(UNITS, return_sequences=True, zero_output_for_mask=True)
        gate = kg.GatedRecurrent(layer)
        gate(x)
        drawn(layer)
        gate.factor.assign(FACTOR)
        count = 2 if make is L.LSTM else 1
        states = [sequence(n)[:, 0, :1] * np.ones(UNITS) for n in range(count)]
        states = [s.astype("float32") for s in states]
        given = {"initial_state": states, "mask": there}
        check(gate(x, **given), by_hand(layer, x, **given))
        masking = L.Masking()
        masked = np.where(there[..., None], x, 0).astype("float32")
        y = gate(masking(masked))
        check(y, by_hand(layer, masking(masked)))
        inputs = keras.Input((STEPS, FEATURES))
        model = keras.Model(inputs, gate(masking(inputs)))
        check(model(masked), by_hand(layer, x, mask=there))


@pytest.mark.parametrize("make", [L.SimpleRNN, L.GRU, L.LSTM])
def test_a_sequence_in_parts_is_the_sequence(make):
    """As a decoder goes, one step after the other."""
    layer = make(UNITS, return_sequences=True, return_state=True)
    gate = kg.GatedRecurrent(layer)
    x = sequence()
    gate(x)
    drawn(layer)
    gate.factor.assign(FACTOR)
    y, *states = gate(x[:, :2])
    z, *_ = gate(x[:, 2:], initial_state=states)
    parts = np.concatenate([helpers.numpy_of(y), helpers.numpy_of(z)], 1)
    whole, *_ = gate(x)
    np.testing.assert_allclose(
        parts, helpers.numpy_of(whole), rtol=1e-4, atol=2e-6
    )


def test_it_trains_and_is_saved(tmp_path):
    inputs = keras.Input((STEPS, FEATURES))
    layer = L.GRU(UNITS, dropout=0.3, recurrent_dropout=0.2, name="gru")
    gate = kg.GatedRecurrent(
        layer,
        regularizer=kg.regularizers.L1(1e-2),
        constraint=kg.constraints.UnitInterval(),
    )
    model = keras.Model(inputs, L.Dense(1)(gate(inputs)))
    model.compile(keras.optimizers.Adam(0.05), "mse")
    # From 1, they may all be pushed up, against the constraint.
    gate.factor.assign(np.full(UNITS, 0.5))
    before = [helpers.numpy_of(w) for w in model.trainable_weights]
    model.fit(sequence(batch=8), np.ones((8, 1)), epochs=2, verbose=0)
    after = [helpers.numpy_of(w) for w in model.trainable_weights]
    assert all((a != b).any() for a, b in zip(before, after, strict=True))
    seeds = [w for w in layer.variables if "seed" in w.path]
    assert any(helpers.numpy_of(seed).any() for seed in seeds)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    check(again(sequence()), [helpers.numpy_of(model(sequence()))])
    assert again.get_layer("gru_gate").factor.dtype == "float32"


def test_stochastic_gates_are_saved():
    gate = kg.GatedRecurrent(L.GRU(UNITS), stochastic=True, seed=3)
    gate(sequence())
    again = kg.GatedRecurrent.from_config(gate.get_config())
    assert again.gate.stochastic and again.gate.seed == 3
    with pytest.raises(ValueError, match="takes no constraint"):
        kg.GatedRecurrent(L.GRU(UNITS), stochastic=True, constraint="non_neg")


def test_half_precision_leaves_the_factors_whole():
    gate = kg.GatedRecurrent(
        L.LSTM(UNITS, dtype="mixed_float16"), dtype="mixed_float16"
    )
    y = gate(sequence())
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    assert gate.factor.dtype == "float32"
    gate.factor.assign(FACTOR)
    assert not helpers.numpy_of(gate(sequence()))[:, [1, 3]].any()


class Own(L.Layer):
    state_size = UNITS

    def call(self, inputs, states):
        return inputs, [inputs]


def unequal():
    return L.Bidirectional(
        L.GRU(UNITS), backward_layer=L.GRU(UNITS + 1, go_backwards=True)
    )


def unlike():
    return L.Bidirectional(
        L.GRU(UNITS), backward_layer=L.LSTM(UNITS, go_backwards=True)
    )


REFUSED = {
    "no recurrent layer": lambda: L.Dense(UNITS, name="named"),
    "type Own": lambda: L.RNN(Own(), name="named"),
    "several cells": lambda: L.RNN(
        [L.GRUCell(UNITS), L.LSTMCell(UNITS)], name="named"
    ),
    "stateful": lambda: L.LSTM(UNITS, stateful=True, name="named"),
    "different widths, 4 and 5": unequal,
    "different types, GRU and LSTM": unlike,
    "GatedRecurrent can't gate": lambda: L.TimeDistributed(L.LSTM(UNITS)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_has_no_such_loop_is_refused_by_name(why):
    layer = REFUSED[why]()
    with pytest.raises(ValueError, match=f"'{layer.name}'.*") as caught:
        kg.GatedRecurrent(layer)
    assert why in str(caught.value)


@pytest.mark.parametrize("make", [L.GRU, L.LSTM])
def test_a_state_of_another_width_is_refused_where_it_is_passed(make):
    gate = kg.GatedRecurrent(make(UNITS, name="layer"))
    inputs = keras.Input((STEPS, FEATURES))
    states = [keras.Input((UNITS + 1,))] * (2 if make is L.LSTM else 1)
    with pytest.raises(ValueError, match=r"'layer_gate'.*\(None, 5\).*4"):
        gate(inputs, initial_state=states)


def test_what_is_no_layer_is_refused():
    with pytest.raises(ValueError, match="GatedRecurrent can't gate"):
        kg.GatedRecurrent("lstm")


def test_the_uniform_start_is_between_0_and_1():
    gate = kg.GatedRecurrent(L.GRU(64), initializer="uniform")
    gate.build((None, STEPS, FEATURES))
    values = ops.convert_to_numpy(gate.factor)
    assert 0 <= values.min() < 0.2 < 0.8 < values.max() <= 1
