"""Recurrent units closed by scores: zero inside the loop, and gone.

The truth is a recurrence in NumPy, or the user's own model in which the rows
of the closed units, in the recurrent kernel and in all that reads them, are
zero.
"""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

UNITS, STEPS, FEATURES = 8, 6, 3
CLOSED = [0, 2, 3, 7]
OPEN = [1, 4, 5, 6]

SHAPES = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "softsign": lambda x: x / (1 + np.abs(x)),
}


class Recurrence:
    """A layer of Keras in NumPy, some of whose units are held at zero."""

    def __init__(self, layer, open_units):
        cell = layer.cell
        self.layer = layer
        self.act = SHAPES[cell.activation.__name__]
        self.gate = None
        if not isinstance(layer, L.SimpleRNN):
            self.gate = SHAPES[cell.recurrent_activation.__name__]
        self.w, self.u = map(
            helpers.numpy_of, (cell.kernel, cell.recurrent_kernel)
        )
        size = self.w.shape[-1]
        self.b = np.zeros(size)
        if cell.use_bias:
            self.b = helpers.numpy_of(cell.bias)
        self.kept = np.isin(np.arange(cell.units), open_units)
        self.reset_after = getattr(cell, "reset_after", False)
        if self.reset_after and not cell.use_bias:
            self.b = np.zeros((2, size))
        self.step = {
            "SimpleRNN": self._simple,
            "GRU": self._gru,
            "LSTM": self._lstm,
        }[type(layer).__name__]

    def _simple(self, x, states):
        return [self.act(x @ self.w + self.b + states[0] @ self.u)]

    def _gru(self, x, states):
        (h,) = states
        if self.reset_after:
            a = np.split(x @ self.w + self.b[0], 3, -1)
            r = np.split(h @ self.u + self.b[1], 3, -1)
            z, s = self.gate(a[0] + r[0]), self.gate(a[1] + r[1])
            return [z * h + (1 - z) * self.act(a[2] + s * r[2])]
        a = np.split(x @ self.w + self.b, 3, -1)
        u = np.split(self.u, 3, -1)
        z, s = self.gate(a[0] + h @ u[0]), self.gate(a[1] + h @ u[1])
        return [z * h + (1 - z) * self.act(a[2] + (s * h) @ u[2])]

    def _lstm(self, x, states):
        h, c = states
        i, f, g, o = np.split(x @ self.w + h @ self.u + self.b, 4, -1)
        c = self.gate(f) * c + self.gate(i) * self.act(g)
        return [self.gate(o) * self.act(c), c]

    def __call__(self, x, mask=None, states=None):
        """The sequence, and the last states."""
        count = 2 if isinstance(self.layer, L.LSTM) else 1
        nothing = np.zeros((len(x), self.layer.units))
        states = [nothing] * count if states is None else states
        states = [s * self.kept for s in states]
        mask = np.ones(x.shape[:2], bool) if mask is None else mask
        order = range(x.shape[1])
        order = reversed(order) if self.layer.go_backwards else order
        # What masked steps before all others put out.
        y = states[0] if keras.backend.backend() == "jax" else nothing
        found = []
        for t in order:
            there = mask[:, t, None]
            new = [s * self.kept for s in self.step(x[:, t], states)]
            states = [
                np.where(there, s, old)
                for s, old in zip(new, states, strict=True)
            ]
            other = 0 if self.layer.zero_output_for_mask else y
            y = np.where(there, new[0], other)
            found.append(y)
        # A last output that is masked is the one before; Keras with
        # `zero_output_for_mask` returns that of the last step.
        return np.stack(found, 1), states


def scores_of(*names, closed=CLOSED, size=UNITS):
    values = np.ones(size)
    values[closed] = 0.1
    return dict.fromkeys(names, values)


def prune(model, *names, closed=CLOSED, size=UNITS, **options):
    """The plan and the model, checked for what must hold in any case."""
    scores = scores_of(*names, closed=closed, size=size)
    before = helpers.fingerprint(model)
    plan = kg.surgeon.plan(model, 0.5, scores=scores, **options)
    small = plan.apply()
    assert helpers.fingerprint(model) == before
    assert plan.params[1] == small.count_params() < plan.params[0]
    return plan, small


def sequence(seed=0, batch=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, STEPS, FEATURES)).astype("float32")


def close_to(got, expected):
    # Six steps of a few sums of eight terms in float32.
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-6)


def configs():
    for make in (L.SimpleRNN, L.GRU, L.LSTM):
        yield make, {}
        yield make, {"return_sequences": True}
        yield make, {"go_backwards": True, "return_sequences": True}
        yield make, {"use_bias": False}
        yield make, {"unroll": True}
        yield make, {"dropout": 0.3, "recurrent_dropout": 0.3}
        yield make, {"activation": "relu"}
        yield make, {"activation": "softsign"}
    for make in (L.GRU, L.LSTM):
        yield make, {"recurrent_activation": "hard_sigmoid"}
        yield make, {"activation": "linear", "return_sequences": True}
    for bias in (True, False):
        yield L.GRU, {"reset_after": False, "use_bias": bias}
        yield L.GRU, {"reset_after": True, "use_bias": bias}
    yield L.GRU, {"reset_after": False, "go_backwards": True}
    yield L.LSTM, {"unit_forget_bias": False}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("make, config", list(configs()), ids=str)
def test_a_closed_unit_goes_with_its_feedback(make, config, exact):
    inputs = keras.Input((STEPS, FEATURES))
    layer = make(UNITS, name="cells", **config)
    head = L.Dense(2, name="head")
    model = keras.Model(inputs, head(layer(inputs)))
    helpers.randomize(model)
    plan, small = prune(model, "cells", exact=exact)
    assert small.get_layer("cells").units == len(OPEN)
    assert plan.exact
    x = sequence()
    y, _ = Recurrence(layer, OPEN)(x)
    y = y if layer.return_sequences else y[:, -1]
    weights = [helpers.numpy_of(w) for w in head.weights]
    close_to(helpers.run(small, x)[0], y @ weights[0] + weights[1])
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


@pytest.mark.parametrize("make", [L.SimpleRNN, L.GRU, L.LSTM])
@pytest.mark.parametrize("zero", [False, True])
def test_masks_and_states(make, zero):
    inputs = keras.Input((STEPS, FEATURES))
    mask = keras.Input((STEPS,), dtype="bool")
    layer = make(
        UNITS,
        return_sequences=True,
        return_state=True,
        zero_output_for_mask=zero,
        name="cells",
    )
    found = layer(inputs, mask=mask)
    heads = [L.Dense(2, name=f"head_{i}") for i in range(len(found))]
    outputs = [h(y) for h, y in zip(heads, found, strict=True)]
    model = keras.Model([inputs, mask], outputs)
    helpers.randomize(model, x=[sequence(), np.ones((5, STEPS), bool)])
    _, small = prune(model, "cells")
    assert small.get_layer("cells").units == len(OPEN)
    x = sequence()
    there = np.random.default_rng(3).random((5, STEPS)) < 0.6
    there[:, 0] = True
    y, states = Recurrence(layer, OPEN)(x, there)
    expected = [
        a @ helpers.numpy_of(h.kernel) + helpers.numpy_of(h.bias)
        for a, h in zip([y, *states], heads, strict=True)
    ]
    for a, b in zip(helpers.run(small, [x, there]), expected, strict=True):
        close_to(a, b)


# Larger models: the user's own, with rows of its kernels at zero -----------


@contextlib.contextmanager
def rows_at_zero(*kernels, closed=CLOSED, width=UNITS):
    """Within, rows of kernels are zero, one block of `width` after another."""
    before = [helpers.numpy_of(kernel) for kernel in kernels]
    for kernel, values in zip(kernels, before, strict=True):
        array = values.copy()
        at = [i for i in range(array.shape[0]) if i % width in closed]
        array[at] = 0
        kernel.assign(array)
    yield
    for kernel, values in zip(kernels, before, strict=True):
        kernel.assign(values)


def loops(*layers):
    """The recurrent kernels of layers."""
    cells = []
    for layer in layers:
        both = getattr(layer, "forward_layer", None)
        inner = [layer] if both is None else [both, layer.backward_layer]
        cells += [x.cell for x in inner]
    return [cell.recurrent_kernel for cell in cells]


def check(model, small, x, *kernels, closed=CLOSED, width=UNITS):
    with rows_at_zero(*kernels, closed=closed, width=width):
        expected = helpers.run(model, x)
    assert min(helpers.variation(expected)) > 1e-3
    got = helpers.run(small, x)
    assert max(helpers.differences(expected, got)) < helpers.RTOL


@pytest.mark.parametrize("mode", ["concat", "sum", "ave", "mul", None])
@pytest.mark.parametrize("make", [L.SimpleRNN, L.GRU, L.LSTM])
def test_both_directions(make, mode):
    inputs = keras.Input((STEPS, FEATURES))
    layer = L.Bidirectional(
        make(UNITS, return_sequences=True), merge_mode=mode, name="both"
    )
    found = layer(inputs)
    found = found if isinstance(found, (list, tuple)) else [found]
    heads = [L.Dense(2) for _ in found]
    model = keras.Model(
        inputs, [h(y) for h, y in zip(heads, found, strict=True)]
    )
    helpers.randomize(model)
    plan, small = prune(model, "both")
    cut = small.get_layer("both")
    assert cut.forward_layer.units == cut.backward_layer.units == len(OPEN)
    kernels = [*loops(layer), *(h.kernel for h in heads)]
    check(model, small, sequence(), *kernels)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


def test_layers_upon_layers():
    inputs = keras.Input((STEPS, FEATURES))
    first = L.GRU(UNITS, return_sequences=True, name="first")
    second = L.Bidirectional(L.LSTM(UNITS), name="second")
    head = L.Dense(2)
    model = keras.Model(inputs, head(second(L.Dropout(0.2)(first(inputs)))))
    helpers.randomize(model)
    _, small = prune(model, "first", "second")
    assert small.get_layer("first").units == len(OPEN)
    read = [second.forward_layer.cell.kernel, second.backward_layer.cell.kernel]
    check(model, small, sequence(), *loops(first, second), *read, head.kernel)


def test_what_is_added_to_a_recurrent_layer_goes_with_it():
    inputs = keras.Input((STEPS, FEATURES))
    cells = L.LSTM(UNITS, return_sequences=True, name="cells")
    skip, head = L.Dense(UNITS, name="skip"), L.Dense(2)
    y = L.Add()([cells(inputs), skip(inputs)])
    again = L.GRU(UNITS, return_sequences=True, name="again")
    y = L.Add()([y, again(y)])
    model = keras.Model(inputs, head(L.ReLU()(y)))
    helpers.randomize(model)
    scores = kg.surgeon.score(model, "l2")
    assert len(scores) == 1
    (name,) = scores
    plan, small = prune(model, name)
    assert small.get_layer("cells").units == small.get_layer("skip").units == 4
    kernels = [*loops(cells, again), again.cell.kernel, head.kernel]
    check(model, small, sequence(), *kernels)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


@pytest.mark.parametrize("make", [L.SimpleRNN, L.GRU, L.LSTM])
def test_a_decoder_goes_with_the_encoder_whose_state_it_begins_with(make):
    source = keras.Input((STEPS, FEATURES))
    target = keras.Input((STEPS, FEATURES))
    encoder = make(UNITS, return_state=True, name="encoder")
    decoder = make(UNITS, return_sequences=True, name="decoder")
    head = L.Dense(2)
    _, *states = encoder(source)
    model = keras.Model(
        [source, target], head(decoder(target, initial_state=states))
    )
    helpers.randomize(model)
    plan, small = prune(model, "encoder")
    assert small.get_layer("encoder").units == len(OPEN)
    assert small.get_layer("decoder").units == len(OPEN)
    x = [sequence(), sequence(1)]
    check(model, small, x, *loops(encoder, decoder), head.kernel)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


def test_both_ways_of_an_encoder_are_the_state_of_a_decoder():
    source = keras.Input((STEPS, FEATURES))
    target = keras.Input((STEPS, FEATURES))
    encoder = L.Bidirectional(L.LSTM(UNITS, return_state=True), name="encoder")
    decoder = L.LSTM(2 * UNITS, return_sequences=True, name="decoder")
    head = L.Dense(2)
    _, h0, c0, h1, c1 = encoder(source)
    states = [L.Concatenate()([h0, h1]), L.Concatenate()([c0, c1])]
    model = keras.Model(
        [source, target], head(decoder(target, initial_state=states))
    )
    helpers.randomize(model)
    plan, small = prune(model, "encoder")
    assert small.get_layer("decoder").units == 2 * len(OPEN)
    x = [sequence(), sequence(1)]
    check(model, small, x, *loops(encoder, decoder), head.kernel)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


def test_states_computed_by_another_layer_and_normalized():
    context = keras.Input((5,))
    target = keras.Input((STEPS, FEATURES))
    start = L.Dense(UNITS, activation="tanh", name="start")
    cells = L.GRU(UNITS, name="cells")
    head = L.Dense(2)
    norm = L.BatchNormalization()
    state = norm(start(context))
    model = keras.Model(
        [context, target], head(cells(target, initial_state=state))
    )
    x = [np.random.default_rng(2).normal(size=(5, 5)), sequence()]
    helpers.randomize(model, x=x)
    _, small = prune(model, "start")
    assert small.get_layer("start").units == len(OPEN)
    assert small.get_layer("cells").units == len(OPEN)
    check(model, small, x, *loops(cells), head.kernel)


def test_a_gate_behind_the_layer_still_leaves_the_feedback():
    inputs = keras.Input((STEPS, FEATURES))
    gated = kg.FilterGate(name="gate")(L.LSTM(UNITS, name="cells")(inputs))
    model = keras.Model(inputs, L.Dense(2)(gated))
    helpers.randomize(model, closed="none")
    model.get_layer("gate").factor.assign(np.isin(np.arange(UNITS), OPEN))
    plan = kg.surgeon.plan(model, 0.5)
    assert plan.apply().get_layer("cells").units == UNITS
    assert "feeds them back" in str(plan)
    helpers.assert_same(model, plan.apply(), sequence())
    loose = kg.surgeon.plan(model, 0.5, exact=False)
    assert loose.apply().get_layer("cells").units == len(OPEN)
    assert not loose.exact


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "random"])
def test_every_criterion_scores_recurrent_units(criterion):
    inputs = keras.Input((STEPS, FEATURES))
    y = L.LSTM(UNITS, name="a", return_sequences=True)(inputs)
    y = L.Bidirectional(L.GRU(UNITS), name="b")(y)
    model = keras.Model(inputs, L.Dense(2)(y))
    scores = kg.surgeon.score(model, criterion)
    assert {n: s.shape for n, s in scores.items()} == {"a": (8,), "b": (8,)}
    assert all(np.ptp(s) > 0 for s in scores.values())


@pytest.mark.parametrize("criterion", ["apoz", "mean", "taylor"])
def test_data_score_recurrent_units(criterion):
    inputs = keras.Input((STEPS, FEATURES))
    y = L.LSTM(UNITS, name="a", activation="relu")(inputs)
    model = keras.Model(inputs, L.Dense(2)(y))
    helpers.randomize(model)
    labels = np.random.default_rng(1).normal(size=(5, 2))
    scores = kg.surgeon.score(
        model, criterion, (sequence(), labels), loss="mse"
    )
    assert scores["a"].shape == (UNITS,)


def test_a_unit_without_weights_from_the_data_scores_low():
    """The columns of the kernel for the data are a part of a unit, too."""
    inputs = keras.Input((STEPS, FEATURES))
    layer = L.LSTM(UNITS, name="a", recurrent_initializer="orthogonal")
    model = keras.Model(inputs, L.Dense(2)(layer(inputs)))
    kernel = helpers.numpy_of(layer.cell.kernel).reshape(FEATURES, 4, UNITS)
    kernel *= 10
    kernel[:, :, [1, 5]] = 1e-3
    layer.cell.kernel.assign(kernel.reshape(FEATURES, -1))
    for criterion in ("l1", "l2"):
        scores = kg.surgeon.score(model, criterion)["a"]
        assert set(np.argsort(scores)[:2]) == {1, 5}


@pytest.mark.filterwarnings("ignore:Budget")
def test_budgets_and_widths():
    inputs = keras.Input((STEPS, FEATURES))
    y = L.LSTM(32, name="a", return_sequences=True)(inputs)
    y = L.GRU(32, name="b")(y)
    model = keras.Model(inputs, L.Dense(2)(y))
    scores = kg.surgeon.score(model, "l2")
    for budget in (kg.Budget(macs=0.5), kg.Budget(params=0.3)):
        before, after = getattr(
            kg.surgeon.plan(model, budget, scores=scores), budget.resource
        )
        assert 0.8 * budget.amount < after / before <= budget.amount
    small = kg.surgeon.prune(model, kg.Quantile(0.3), scores=scores, round_to=8)
    assert [small.get_layer(n).units % 8 for n in "ab"] == [0, 0]
    assert small.count_params() < model.count_params()


def test_step_by_step():
    inputs = keras.Input((STEPS, FEATURES))
    model = keras.Model(inputs, L.Dense(2)(L.LSTM(32, name="a")(inputs)))
    widths = []
    small = kg.surgeon.prune_iteratively(
        model,
        kg.Quantile(0.5),
        steps=2,
        on_step=lambda m, _: widths.append(m.get_layer("a").units),
    )
    assert widths == [24, 16]
    assert small.get_layer("a").units == 16


def test_the_optimizer_goes_on():
    inputs = keras.Input((STEPS, FEATURES))
    y = L.GRU(UNITS, name="cells", return_sequences=True)(inputs)
    y = L.Bidirectional(L.LSTM(UNITS), name="both")(y)
    model = keras.Model(inputs, L.Dense(2)(y))
    model.compile("adam", "mse")
    x, y = sequence(), np.ones((5, 2))
    model.fit(x, y, verbose=0)
    scores = scores_of("cells", "both")
    small = kg.surgeon.prune(model, 0.5, scores=scores, keep_optimizer=True)
    small.fit(x, y, verbose=0)
    assert int(small.optimizer.iterations) == 2
    old, new = (m.get_layer("cells").cell for m in (model, small))

    def slot(m, weight):
        weights = m.optimizer._trainable_variables
        at = [i for i, w in enumerate(weights) if w is weight]
        return helpers.numpy_of(m.optimizer._momentums[at[0]])

    again = kg.surgeon.prune(model, 0.5, scores=scores, keep_optimizer=True)
    new = again.get_layer("cells").cell
    whole = slot(model, old.recurrent_kernel).reshape(UNITS, 3, UNITS)
    expected = whole[OPEN][:, :, OPEN].reshape(len(OPEN), -1)
    np.testing.assert_array_equal(slot(again, new.recurrent_kernel), expected)


def test_deleting_units_means_what_it_did():
    inputs = keras.Input((STEPS, FEATURES))
    layer, head = L.LSTM(UNITS, name="cells"), L.Dense(2)
    model = keras.Model(inputs, head(layer(inputs)))
    helpers.randomize(model)
    small = kg.surgeon.delete_channels(model, layer, CLOSED)
    check(model, small, sequence(), *loops(layer), head.kernel)


def test_a_stateful_layer_stays_whole_with_its_reason():
    inputs = keras.Input(batch_shape=(4, STEPS, FEATURES))
    y = L.LSTM(UNITS, stateful=True, name="cells")(inputs)
    model = keras.Model(inputs, L.Dense(2)(L.Dense(6, name="rest")(y)))
    scores = kg.surgeon.score(model, "l2")
    assert set(scores) == {"rest"}
    with pytest.raises(ValueError, match="keeps its state"):
        kg.surgeon.plan(model, 0.5, scores=scores_of("cells"))


def test_a_unit_that_stays_closed_feeds_nothing_back():
    """All units closed: one stays, to be there, and is zero in its loop."""
    inputs = keras.Input((STEPS, FEATURES))
    layer = L.SimpleRNN(UNITS, name="cells", return_sequences=True)
    other = L.Dense(UNITS, name="other")
    heads = L.Dense(2), L.Dense(2)
    y = heads[0](layer(inputs)), heads[1](other(inputs))
    model = keras.Model(inputs, L.Add()(list(y)))
    helpers.randomize(model)
    _, small = prune(model, "cells", closed=list(range(UNITS)))
    kernels = [*loops(layer), heads[0].kernel]
    check(model, small, sequence(), *kernels, closed=range(UNITS))


def test_in_nested_models_and_in_time_distributed():
    inner_inputs = keras.Input((STEPS, FEATURES))
    layer = L.GRU(UNITS, name="cells")
    inner = keras.Model(inner_inputs, layer(inner_inputs), name="inner")
    a, b = keras.Input((STEPS, FEATURES)), keras.Input((STEPS, FEATURES))
    head = L.Dense(2)
    model = keras.Model([a, b], head(L.Concatenate()([inner(a), inner(b)])))
    helpers.randomize(model)
    plan, small = prune(model, "inner/cells")
    assert small.get_layer("inner").get_layer("cells").units == len(OPEN)
    x = [sequence(), sequence(1)]
    check(model, small, x, *loops(layer), head.kernel)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5

    outer = keras.Input((4, STEPS, FEATURES))
    each = L.TimeDistributed(L.LSTM(UNITS), name="each")
    head = L.Dense(2)
    model = keras.Model(outer, head(each(outer)))
    helpers.randomize(model)
    plan, small = prune(model, "each")
    assert small.get_layer("each").layer.units == len(OPEN)
    x = np.random.default_rng(0).normal(size=(3, 4, STEPS, FEATURES))
    check(model, small, x, *loops(each.layer), head.kernel)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


# States that come from elsewhere ----------------------------------------------


def test_gates_on_states_leave_the_decoder_its_units():
    source = keras.Input((STEPS, FEATURES))
    target = keras.Input((STEPS, FEATURES))
    encoder = L.LSTM(UNITS, return_state=True, name="encoder")
    _, h, c = encoder(source)
    states = [kg.FilterGate(name=f"gate_{i}")(s) for i, s in enumerate((h, c))]
    decoder = L.LSTM(UNITS, return_sequences=True, name="decoder")
    y = decoder(target, initial_state=states)
    model = keras.Model([source, target], L.Dense(2)(y))
    helpers.randomize(model, closed="none")
    for number, shut in enumerate(([0, 2, 3], [3, 5])):
        factors = np.linspace(0.6, 1.5, UNITS)
        factors[shut] = 0.0
        model.get_layer(f"gate_{number}").factor.assign(factors)
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, [sequence(), sequence(1)])


def test_both_directions_begin_with_the_states_of_another():
    source = keras.Input((STEPS, FEATURES))
    target = keras.Input((STEPS, FEATURES))
    make = L.Bidirectional
    encoder = make(L.GRU(UNITS, return_state=True), name="encoder")
    decoder = make(L.GRU(UNITS, return_sequences=True), name="decoder")
    head = L.Dense(2)
    y, *states = encoder(source)
    also = L.Dense(2)
    model = keras.Model(
        [source, target],
        [head(decoder(target, initial_state=states)), also(y)],
    )
    helpers.randomize(model)
    plan, small = prune(model, "encoder")
    assert small.get_layer("decoder").forward_layer.units == len(OPEN)
    kernels = [*loops(encoder, decoder), head.kernel, also.kernel]
    check(model, small, [sequence(), sequence(1)], *kernels)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


def test_a_state_that_is_an_input_keeps_the_units():
    inputs, state = keras.Input((STEPS, FEATURES)), keras.Input((UNITS,))
    y = L.GRU(UNITS, name="cells")(inputs, initial_state=state)
    y = L.Dense(6, activation="relu", name="next")(y)
    model = keras.Model([inputs, state], L.Dense(2)(y))
    assert set(kg.surgeon.score(model, "l2")) == {"next"}
    with pytest.raises(ValueError, match="comes from outside"):
        kg.surgeon.plan(model, 0.5, scores=scores_of("cells"))


# Recurrent convolutions -------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"padding": "same", "return_sequences": True},
        {"use_bias": False, "strides": 2},
        {"go_backwards": True, "recurrent_dropout": 0.2},
        {"return_state": True},
    ],
    ids=str,
)
def test_recurrent_convolutions(config):
    inputs = keras.Input((4, 7, 6, 2))
    layer = L.ConvLSTM2D(UNITS, 3, name="cells", **config)
    found = layer(inputs)
    found = found if isinstance(found, (list, tuple)) else [found]
    heads = [L.Dense(2) for _ in found]
    model = keras.Model(
        inputs, [h(y) for h, y in zip(heads, found, strict=True)]
    )
    helpers.randomize(model)
    plan, small = prune(model, "cells")
    assert small.get_layer("cells").filters == len(OPEN)
    x = helpers.inputs_for(model)
    loop = layer.cell.recurrent_kernel
    before = helpers.numpy_of(loop)
    silent = before.copy()
    silent[..., CLOSED, :] = 0
    loop.assign(silent)
    with rows_at_zero(*(h.kernel for h in heads)):
        expected = helpers.run(model, x)
    loop.assign(before)
    assert min(helpers.variation(expected)) > 1e-3
    far = helpers.differences(expected, helpers.run(small, x))
    assert max(far) < helpers.RTOL
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="no such convolution"
)
def test_recurrent_convolutions_with_channels_first():
    inputs = keras.Input((4, 2, 7, 6))
    first = {"data_format": "channels_first"}
    x = L.ConvLSTM2D(
        UNITS, 3, return_sequences=True, padding="same", name="a", **first
    )(inputs)
    x = L.ConvLSTM2D(UNITS, 3, name="b", **first)(x)
    model = keras.Model(inputs, L.Conv2D(2, 3, **first)(x))
    helpers.randomize(model)
    plan, small = prune(model, "a", "b")
    assert small.get_layer("a").filters == small.get_layer("b").filters == 4
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


def test_the_multiply_adds_of_a_recurrent_convolution():
    inputs = keras.Input((4, 7, 6, 2))
    model = keras.Model(inputs, L.ConvLSTM2D(5, 3)(inputs))
    # At each of 5 x 4 places of 4 steps: 3 x 3 taps to 4 gates of 5 filters.
    places = 4 * 5 * 4
    assert kg.stats.count(model).macs == places * 9 * 20 * (2 + 5)


# Cells in an RNN -----------------------------------------------------------


def of_cells():
    for kind in ("SimpleRNN", "GRU", "LSTM"):
        yield kind, {}
        yield kind, {"use_bias": False}
        yield kind, {"activation": "relu"}
    yield "GRU", {"reset_after": False}


@pytest.mark.parametrize("exact", [True, False])
def test_an_rnn_round_a_cell_is_cut_as_the_layer(exact):
    for kind, config in of_cells():
        x = keras.Input((STEPS, FEATURES))
        start = L.Dense(UNITS, name="start")
        cell = getattr(L, f"{kind}Cell")(UNITS, **config)
        layer = L.RNN(cell, return_sequences=True, name="cells")
        head = L.Dense(2)
        model = keras.Model(x, head(layer(start(x))))
        helpers.randomize(model)
        plan, small = prune(model, "cells", "start", exact=exact)
        cut = small.get_layer("cells")
        assert type(cut) is L.RNN and type(cut.cell) is type(cell)
        assert cut.cell.units == len(OPEN) == small.get_layer("start").units
        kernels = [cell.recurrent_kernel, cell.kernel, head.kernel]
        check(model, small, sequence(), *kernels)
        assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


def test_an_rnn_round_a_cell_starts_with_states_and_finds_masks():
    source, target = (keras.Input((STEPS, FEATURES)) for _ in range(2))
    masked = L.Masking()(source)
    encoder = L.RNN(L.LSTMCell(UNITS), return_state=True, name="encoder")
    _, *states = encoder(masked)
    decoder = L.RNN(L.LSTMCell(UNITS), return_sequences=True, name="decoder")
    head = L.Dense(2)
    model = keras.Model(
        [source, target], head(decoder(target, initial_state=states))
    )
    helpers.randomize(model)
    plan, small = prune(model, "encoder")
    assert small.get_layer("decoder").cell.units == len(OPEN)
    x = [sequence(), sequence(1)]
    x[0][:, 2] = 0
    check(model, small, x, *loops(encoder, decoder), head.kernel)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


@pytest.mark.parametrize("mode", ["concat", "mul", None])
def test_both_directions_of_a_cell(mode):
    x = keras.Input((STEPS, FEATURES))
    start = L.Dense(UNITS, name="start")
    inner = L.RNN(L.GRUCell(UNITS), return_sequences=True)
    layer = L.Bidirectional(inner, merge_mode=mode, name="both")
    found = keras.tree.flatten(layer(start(x)))
    heads = [L.Dense(2) for _ in found]
    model = keras.Model(x, [h(y) for h, y in zip(heads, found, strict=True)])
    helpers.randomize(model)
    plan, small = prune(model, "both", "start")
    cut = small.get_layer("both")
    assert cut.forward_layer.cell.units == cut.backward_layer.cell.units == 4
    cells = [layer.forward_layer.cell, layer.backward_layer.cell]
    kernels = [*loops(layer), *(c.kernel for c in cells)]
    check(model, small, sequence(), *kernels, *(h.kernel for h in heads))
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


def test_a_convolution_both_ways_is_kept_whole():
    x = keras.Input((3, 6, 6, 2))
    y = L.Bidirectional(L.ConvLSTM2D(4, 3), name="both")(x)
    model = keras.Model(x, L.Dense(2)(L.Conv2D(3, 3, name="next")(y)))
    assert set(kg.surgeon.score(model, "l2")) == {"next"}
    plan = kg.surgeon.plan(model, 0.5, scores={"next": np.ones(3)})
    assert "only for two SimpleRNN" in str(plan)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("state", [False, True])
def test_several_cells_become_one_rnn_for_each(backwards, state):
    x = keras.Input((STEPS, FEATURES))
    cells = [
        L.LSTMCell(UNITS, name="a"),
        L.GRUCell(UNITS, name="b"),
        L.SimpleRNNCell(UNITS, use_bias=False, name="c"),
    ]
    layer = L.RNN(
        cells,
        return_sequences=True,
        return_state=state,
        go_backwards=backwards,
        name="cells",
    )
    found = keras.tree.flatten(layer(x))
    heads = [L.Dense(2) for _ in found]
    model = keras.Model(x, [h(y) for h, y in zip(heads, found, strict=True)])
    helpers.randomize(model)
    names = ["cells_a", "cells_b", "cells"]
    assert list(kg.surgeon.score(model, "l2")) == names
    plan, small = prune(model, *names)
    for name, cell in zip(names, cells, strict=True):
        cut = small.get_layer(name)
        assert type(cut.cell) is type(cell)
        assert cut.cell.units == len(OPEN)
    kernels = [cell.recurrent_kernel for cell in cells]
    kernels += [cell.kernel for cell in cells[1:]]
    kernels += [head.kernel for head in heads]
    check(model, small, sequence(), *kernels)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


def test_several_cells_start_with_the_states_of_several():
    source, target = (keras.Input((STEPS, FEATURES)) for _ in range(2))

    def cells():
        return [L.LSTMCell(UNITS), L.GRUCell(UNITS)]

    encoder = L.RNN(cells(), return_state=True, name="encoder")
    decoder = L.RNN(cells(), return_sequences=True, name="decoder")
    _, *states = encoder(source)
    head = L.Dense(2)
    model = keras.Model(
        [source, target], head(decoder(target, initial_state=states))
    )
    helpers.randomize(model)
    names = list(kg.surgeon.score(model, "l2"))
    assert len(names) == 2  # the decoder's are tied to the encoder's
    plan, small = prune(model, *names)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5
    pairs = zip(encoder.cell.cells, decoder.cell.cells, strict=True)
    every = [cell for pair in pairs for cell in pair]
    kernels = [cell.recurrent_kernel for cell in every]
    kernels += [every[2].kernel, every[3].kernel, head.kernel]
    check(model, small, [sequence(), sequence(1)], *kernels)


class Repeating(L.Layer):
    """A cell of your own."""

    state_size = UNITS

    def call(self, inputs, states):
        return inputs, [inputs]


def masked_cells(x, inputs):
    cells = [L.GRUCell(UNITS), L.LSTMCell(UNITS)]
    there = keras.ops.any(keras.ops.not_equal(inputs, 0), axis=-1)
    return L.RNN(cells, name="cells")(x, mask=there)


WHOLE = {
    "behave differently from one RNN per cell": masked_cells,
    "use its state in any way": lambda x, _: L.RNN(Repeating())(x),
}


@pytest.mark.parametrize("why", WHOLE)
def test_cells_that_are_kept_whole_say_why(why):
    x = keras.Input((STEPS, FEATURES))
    y = L.Dense(UNITS, name="before")(x)
    model = keras.Model(x, L.Dense(2)(L.Dense(3)(WHOLE[why](y, x))))
    scores = {"before": np.ones(UNITS)}
    with pytest.raises(ValueError, match=why):
        kg.surgeon.plan(model, 0.5, scores=scores)


def test_several_cells_that_keep_their_state_say_why():
    x = keras.Input(batch_shape=(4, STEPS, FEATURES))
    cells = [L.GRUCell(UNITS), L.LSTMCell(UNITS)]
    y = L.RNN(cells, stateful=True, name="cells")(L.Dense(3, name="d")(x))
    model = keras.Model(x, L.Dense(2)(y))
    with pytest.raises(ValueError, match="keeps its states between batches"):
        kg.surgeon.plan(model, 0.5, scores={"d": np.ones(3)})
