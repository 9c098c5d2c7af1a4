"""Gates inside the loops of recurrent layers, closed, pruned and explained.

The truth is the model's own `GatedRecurrent` with closed factors at 0, which
`tests/layers/test_gated_recurrent.py` holds against the layer by hand.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

UNITS, STEPS, FEATURES = 6, 5, 3
CLOSED = [1, 4]


def sequence(shape=(STEPS, FEATURES)):
    return keras.Input(shape)


def head(y):
    return L.Dense(2)(y)


def tied(make=L.LSTM):
    """A decoder that begins with the states of its encoder."""
    a, b = sequence(), sequence()
    _, *states = make(UNITS, return_state=True, name="encoder")(a)
    decoder = make(UNITS, return_sequences=True, name="decoder")
    return keras.Model([a, b], head(decoder(b, initial_state=states)))


def both_ways():
    """The states of both directions are concatenated for the decoder."""
    a, b = sequence(), sequence()
    encoder = L.Bidirectional(L.LSTM(UNITS, return_state=True), name="encoder")
    _, h0, c0, h1, c1 = encoder(a)
    states = [L.Concatenate()([h0, h1]), L.Concatenate()([c0, c1])]
    decoder = L.LSTM(2 * UNITS, return_sequences=True, name="decoder")
    return keras.Model([a, b], head(decoder(b, initial_state=states)))


def read_state():
    a = sequence()
    _, h = L.GRU(UNITS, return_state=True, name="cells")(a)
    return keras.Model(a, head(h))


def stacked():
    a = sequence()
    x = L.LSTM(UNITS, return_sequences=True, name="first")(a)
    x = L.BatchNormalization()(x)
    x = L.Bidirectional(L.GRU(UNITS, return_sequences=True), name="second")(x)
    x = L.Dense(5, activation="relu", name="between")(x)
    return keras.Model(a, head(L.SimpleRNN(UNITS, name="third")(x)))


def residual():
    a = sequence()
    x = L.Dense(UNITS, name="project")(a)
    x = L.Add()([x, L.LSTM(UNITS, return_sequences=True, name="cells")(x)])
    return keras.Model(a, head(L.GlobalAveragePooling1D()(x)))


def convolutions():
    a = keras.Input((3, 6, 6, 2))
    x = L.ConvLSTM2D(UNITS, 3, return_sequences=True, name="first")(a)
    x = L.ConvLSTM2D(UNITS, 3, padding="same", name="second")(x)
    return keras.Model(a, L.Conv2D(2, 3)(x))


def twice():
    a, b = sequence(), sequence()
    cells = L.GRU(UNITS, name="cells")
    return keras.Model([a, b], head(L.Concatenate()([cells(a), cells(b)])))


def nested():
    i = sequence()
    inner = keras.Model(i, L.LSTM(UNITS, name="cells")(i), name="inner")
    a, b = sequence(), sequence()
    return keras.Model([a, b], head(L.Add()([inner(a), inner(b)])))


class Own(L.Layer):
    """A layer of your own, with a recurrent one in it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cells = L.LSTM(UNITS, name="cells", return_sequences=True)
        self.last = L.Dense(4, name="last")

    def build(self, shape):
        self.cells.build(shape)
        self.last.build((*shape[:-1], UNITS))
        self.built = True

    def call(self, x):
        return self.last(self.cells(x))


def own():
    a = sequence()
    return keras.Model(a, head(Own(name="own")(a)))


def round_cells():
    a = sequence()
    cells = L.RNN(L.GRUCell(UNITS), name="cells", go_backwards=True)
    return keras.Model(a, head(cells(a)))


def masked():
    return keras.Sequential(
        [
            keras.Input((STEPS,), dtype="int32"),
            L.Embedding(9, 4, mask_zero=True, name="words"),
            L.LSTM(UNITS, name="first", return_sequences=True),
            L.GRU(UNITS, name="second"),
            L.Dense(2),
        ]
    )


MODELS = {
    "tied": tied,
    "tied GRU": lambda: tied(L.GRU),
    "both ways": both_ways,
    "read state": read_state,
    "stacked": stacked,
    "residual": residual,
    "convolutions": convolutions,
    "twice": twice,
    "nested": nested,
    "own": own,
    "around cells": round_cells,
    "masked": masked,
}


def units_of(model):
    """How wide each recurrent layer is, by its name."""
    found = {}
    for layer in helpers.layers_of(model):
        cell = getattr(layer, "cell", None)
        if cell is not None:
            width = getattr(cell, "units", None) or cell.filters
            found[layer.name] = width
    return found


def close(model, closed=CLOSED):
    """Close some units of each gate, of each direction of an encoder alike."""
    rng = np.random.default_rng(2)
    for gate in helpers.gates_of(model):
        count = gate.factor.shape[0]
        factor = rng.uniform(0.6, 1.5, count)
        # Not 0: what stays must not show in what is compared.
        factor[np.isin(np.arange(count) % UNITS, closed)] = 0.02
        gate.factor.assign(factor)


def at_zero(model):
    for gate in helpers.gates_of(model):
        values = helpers.numpy_of(gate.factor)
        gate.factor.assign(np.where(np.abs(values) < 0.05, 0, values))


@pytest.mark.parametrize("name", MODELS)
def test_insert_gates_gates_inside_the_loop_and_units_go(name):
    model = helpers.randomize(MODELS[name]())
    before = helpers.fingerprint(model)
    gated = kg.insert_gates(model, filters=1e-3)
    assert helpers.fingerprint(model) == before
    rng = np.random.default_rng(0)
    x = helpers.inputs_for(model)
    if name == "masked":
        x = rng.integers(0, 3, (4, STEPS)).astype("int32")
    expected, got = helpers.run(model, x), helpers.run(gated, x)
    assert max(helpers.differences(expected, got)) < helpers.RTOL
    looped = [
        layer
        for layer in helpers.layers_of(gated)
        if isinstance(layer, kg.GatedRecurrent)
    ]
    one_way = ("forward_", "backward_")
    recurrent = [
        layer
        for layer in helpers.layers_of(model)
        if hasattr(layer, "return_state") and not layer.name.startswith(one_way)
    ]
    assert len(looped) == len(recurrent)
    close(gated)
    plan = kg.surgeon.plan(gated, 0.05)
    small = plan.apply()
    assert plan.exact
    assert plan.params[1] == small.count_params()
    assert max(plan.verify(small).values()) < 1e-5
    at_zero(gated)
    far = helpers.differences(helpers.run(gated, x), helpers.run(small, x))
    assert max(far) < helpers.RTOL
    # Each layer is a stock one again, by its name, with units fewer.
    assert not helpers.gates_of(small)
    widths = units_of(small)
    for layer, width in units_of(model).items():
        assert widths[layer] == width * (UNITS - len(CLOSED)) // UNITS


def test_stochastic_factors_inside_a_loop():
    model = helpers.randomize(residual())
    spec = kg.transforms.GateSpec(strength=1e-2, stochastic=True)
    gated = kg.insert_gates(model, filters=spec)
    x = helpers.inputs_for(model)
    far = helpers.differences(helpers.run(model, x), helpers.run(gated, x))
    assert max(far) < helpers.RTOL
    gate = gated.get_layer("cells_filter_gate")
    assert gate.gate.stochastic
    # What is drawn is not the same twice.
    gate.gate.weight.assign(np.zeros(UNITS))
    y = [helpers.numpy_of(gated(x, training=True)) for _ in range(2)]
    assert np.abs(y[0] - y[1]).max() > 1e-4
    log_alpha = np.linspace(-1.0, 2.0, UNITS)
    log_alpha[CLOSED] = -2.2  # a factor of 0.02
    for each in helpers.gates_of(gated):
        each.weight.assign(log_alpha)
    plan = kg.surgeon.plan(gated, 0.05)
    small = plan.apply()
    assert units_of(small) == {"cells": UNITS - len(CLOSED)}
    assert max(plan.verify(small).values()) < 1e-5


def test_open_factors_are_in_the_kernel_and_in_the_reader():
    a = sequence()
    cells = L.LSTM(UNITS, name="cells")
    dense = L.Dense(2, name="head")
    model = keras.Model(a, dense(kg.GatedRecurrent(cells)(a)))
    helpers.randomize(model)
    factor = np.linspace(0.5, 1.5, UNITS)
    factor[CLOSED] = 0
    model.get_layer("cells_gate").factor.assign(factor)
    small = kg.surgeon.prune(model, 0.05)
    assert [layer.name for layer in small.layers[1:]] == ["cells", "head"]
    kept = np.flatnonzero(factor)
    kernel = helpers.numpy_of(cells.cell.recurrent_kernel)
    kernel = kernel.reshape(UNITS, 4, UNITS)[kept][:, :, kept]
    kernel = kernel.reshape(len(kept), -1) * factor[kept, None]
    got = helpers.numpy_of(small.get_layer("cells").cell.recurrent_kernel)
    np.testing.assert_allclose(got, kernel, rtol=1e-6)
    read = helpers.numpy_of(dense.kernel)[kept] * factor[kept, None]
    got = helpers.numpy_of(small.get_layer("head").kernel)
    np.testing.assert_allclose(got, read, rtol=1e-6)


def test_outputs_of_the_model_are_scaled_and_states_are_not():
    a = sequence()
    cells = L.GRU(UNITS, return_state=True, name="cells")
    y, h = kg.GatedRecurrent(cells)(a)
    model = helpers.randomize(keras.Model(a, [y, h]))
    model.get_layer("cells_gate").factor.assign(np.linspace(0.5, 1.5, UNITS))
    small = kg.surgeon.prune(model, 0.05)
    assert isinstance(small.get_layer("cells_gate"), L.Rescaling)
    x = helpers.inputs_for(model)
    far = helpers.differences(helpers.run(model, x), helpers.run(small, x))
    assert max(far) < helpers.RTOL


def plan_of(model, **closed):
    helpers.randomize(model, closed="none")
    for name, units in closed.items():
        gate = model.get_layer(name)
        factor = np.ones(gate.factor.shape[0])
        factor[units] = 0
        gate.factor.assign(factor)
    return kg.surgeon.plan(model, 0.05)


def test_a_gate_behind_is_explained():
    a = sequence()
    y = kg.FilterGate(name="gate")(L.LSTM(UNITS, name="cells")(a))
    plan = plan_of(keras.Model(a, head(y)), gate=CLOSED)
    assert "insert_gates does (keras_gates.GatedRecurrent)" in str(plan)
    assert "by scores" in str(plan)


def test_a_unit_that_only_one_of_two_tied_gates_closes_is_explained():
    gated = kg.insert_gates(tied(), filters=True)
    plan = plan_of(gated, encoder_filter_gate=[1], decoder_filter_gate=[1, 3])
    assert "'encoder_filter_gate' leaves open" in str(plan)
    small = plan.apply()
    assert units_of(small) == {"encoder": UNITS - 1, "decoder": UNITS - 1}
    assert max(plan.verify(small).values()) < 1e-5


@pytest.mark.parametrize("number", [1, 2])
def test_a_state_that_is_read_as_it_is_keeps_its_units(number):
    a = sequence()
    cells = L.LSTM(UNITS, name="cells", return_state=True)
    found = kg.GatedRecurrent(cells)(a)
    model = keras.Model(a, head(L.Concatenate()([found[0], found[number]])))
    plan = plan_of(model, cells_gate=CLOSED)
    assert "read its output instead" in str(plan)
    assert units_of(plan.apply()) == {"cells": UNITS}
    assert max(plan.verify(plan.apply()).values()) < 1e-5


def test_states_that_are_gated_go():
    a = sequence()
    cells = L.LSTM(UNITS, name="cells", return_state=True)
    y, h, _ = kg.GatedRecurrent(cells, gate_states=True)(a)
    model = keras.Model(a, head(L.Concatenate()([y, h])))
    plan = plan_of(model, cells_gate=CLOSED)
    assert units_of(plan.apply()) == {"cells": UNITS - len(CLOSED)}
    assert max(plan.verify(plan.apply()).values()) < 1e-5


def test_scores_close_more_of_what_gates_have_closed_in_part():
    a = sequence()
    y = kg.GatedRecurrent(L.LSTM(UNITS, name="cells"))(a)
    model = keras.Model(a, head(L.Dense(5, activation="relu", name="d")(y)))
    helpers.randomize(model)
    close(model)
    assert set(kg.surgeon.score(model, "l2")) == {"cells", "d"}
    scores = {"cells": np.where(np.arange(UNITS) == 2, 0.1, 1.0)}
    thresholds = {"group": 0.5, "filter": 0.05}
    plan = kg.surgeon.plan(model, thresholds, scores=scores)
    small = plan.apply()
    assert units_of(small) == {"cells": UNITS - len(CLOSED) - 1}
    assert max(plan.verify(small).values()) < 1e-5


def test_all_units_closed_leave_one_that_is_zero():
    a = sequence()
    y = kg.GatedRecurrent(L.GRU(UNITS, name="cells"))(a)
    other = L.GlobalAveragePooling1D()(a)
    model = keras.Model(a, head(L.Concatenate()([y, other])))
    plan = plan_of(model, cells_gate=list(range(UNITS)))
    assert max(plan.verify(plan.apply()).values()) < 1e-5
    alone = keras.Model(a, head(kg.GatedRecurrent(L.GRU(UNITS, name="g"))(a)))
    with pytest.raises(ValueError, match="'g_gate'"):
        plan_of(alone, g_gate=list(range(UNITS)))


def test_the_names_of_layers_inside_may_be_alike():
    a, b = sequence(), sequence()
    made = [
        kg.GatedRecurrent(L.GRU(UNITS, name="cells"), name=name)(x)
        for name, x in (("one", a), ("other", b))
    ]
    model = keras.Model([a, b], head(L.Concatenate()(made)))
    plan = plan_of(model, one=CLOSED, other=[0])
    small = plan.apply()
    assert units_of(small) == {"one_cells": 4, "other_cells": 5}
    assert max(plan.verify(small).values()) < 1e-5


def test_budgets_json_counts_and_a_search():
    a = sequence()
    y = L.LSTM(16, name="a", return_sequences=True)(a)
    y = L.Bidirectional(L.GRU(8), name="b")(y)
    model = keras.Model(a, head(y))
    gated = kg.insert_gates(model, filters={"strength": 1e-2, "weigh": "macs"})
    assert kg.stats.count(gated).macs == kg.stats.count(model).macs
    rng = np.random.default_rng(0)
    for gate in helpers.gates_of(gated):
        gate.factor.assign(rng.uniform(0.1, 1, gate.factor.shape))
    plan = kg.surgeon.plan(gated, kg.Budget(macs=0.5))
    before, after = plan.macs
    assert 0.4 * before < after <= 0.5 * before
    again = kg.surgeon.Plan.from_json(plan.to_json(), gated)
    assert again.apply().count_params() == plan.params[1]
    wide = kg.surgeon.prune(gated, kg.Quantile(0.3), round_to=4)
    assert all(width % 4 == 0 for width in units_of(wide).values())
    x = rng.normal(size=(6, STEPS, FEATURES)).astype("float32")
    gated.compile("sgd", "mse")
    y = helpers.run(gated, x)[0]

    def evaluate(m):
        return -float(np.mean((helpers.run(m, x)[0] - y) ** 2))

    found = kg.find_thresholds(gated, evaluate, max_drop=0.05, trials=3)
    assert kg.surgeon.prune(gated, found.thresholds) is not None


@pytest.mark.filterwarnings("ignore:ReachBudget brings", "ignore:Budget")
def test_a_training_reaches_its_budget():
    a = sequence()
    model = keras.Model(a, head(L.GRU(12, name="cells")(a)))
    gated = kg.insert_gates(model, filters=True)
    gated.compile(keras.optimizers.Adam(1e-2), "mse")
    x = np.random.default_rng(0).normal(size=(16, STEPS, FEATURES))
    callbacks = [
        kg.callbacks.ReachBudget(params=0.5),
        kg.callbacks.ClosedGates(1e-6),
    ]
    history = gated.fit(
        x, np.ones((16, 2)), epochs=3, verbose=0, callbacks=callbacks
    )
    assert history.history["closed_gates"][-1] > 0
    before, after = kg.surgeon.plan(gated, 1e-6).params
    assert after <= 0.5 * (before - 12)


def test_where_gates_go_is_shown():
    text = str(kg.transforms.find_structure(stacked()))
    for name in ("first", "second", "third"):
        assert f"in the loop of {name}" in text
    text = str(kg.transforms.find_structure(twice()))
    assert text.count("in the loop of cells") == 1


def test_layers_that_keep_their_class_get_no_gate_inside():
    with pytest.raises(ValueError, match="keeps its class"):
        kg.insert_gates(own(), filters=["own/cells"], written_out=False)


def stateful():
    a = keras.Input(batch_shape=(4, STEPS, FEATURES))
    return keras.Model(a, head(L.LSTM(UNITS, stateful=True, name="cells")(a)))


def several_cells():
    a = sequence()
    cells = [L.GRUCell(UNITS), L.LSTMCell(UNITS)]
    return keras.Model(a, head(L.RNN(cells, name="cells")(a)))


NONE = {
    "keeps its state between batches": stateful,
    "one RNN per cell": several_cells,
}


@pytest.mark.parametrize("why", NONE)
def test_what_gets_no_gate_says_why(why):
    with pytest.raises(ValueError, match=why):
        kg.insert_gates(NONE[why](), filters=True)


def test_a_gate_inside_time_distributed_is_refused_by_name():
    a = keras.Input((2, STEPS, FEATURES))
    inner = kg.GatedRecurrent(L.LSTM(UNITS, name="cells"))
    model = keras.Model(a, head(L.TimeDistributed(inner, name="each")(a)))
    with pytest.raises(ValueError, match="'cells_gate' is inside 'each'"):
        kg.surgeon.plan(model, 0.05)


def test_an_activation_with_weights_in_a_gated_loop_is_refused_by_name():
    class Slope(L.Layer):
        def build(self, shape):
            self.slope = self.add_weight(shape=(), name="slope")

        def call(self, x):
            return x * self.slope

    a = sequence()
    cells = L.LSTM(UNITS, activation=Slope(), name="cells")
    model = keras.Model(a, head(kg.GatedRecurrent(cells)(a)))
    cells.cell.activation.build((None, UNITS))
    if not cells.cell.activation.weights:
        pytest.skip("this Keras makes no weights there")
    with pytest.raises(ValueError, match="'cells_gate' is in the loop of"):
        kg.surgeon.plan(model, 0.05)
