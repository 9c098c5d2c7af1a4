"""What an output depends on: values of the data, and not masks beside them."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon import plan
from keras_gates.surgeon import prune
from keras_gates.surgeon import score
from tests import helpers
from tests.surgeon import small_models as sm

pytestmark = [
    # Keras hands torch tensors to np.array, and `pytest.warns` sees it.
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning"
    ),
    pytest.mark.filterwarnings("ignore:Budget.*larger steps:UserWarning"),
]
STEPS, WIDTH = 6, 12


def gate(x, name):
    return kg.FilterGate(name=name)(x)


def with_mask(middle, dtype="bool"):
    """`middle` of gated data and of a mask; a head after it."""

    def build():
        x = keras.Input((STEPS, 5), name="data")
        mask = keras.Input((STEPS,), dtype=dtype, name="mask")
        h = gate(L.Dense(WIDTH, activation="relu")(x), "gate")
        h = middle(h, mask)
        if len(h.shape) > 2:  # a Flatten warns of masks
            h = ops.reshape(h, (-1, h.shape[1] * h.shape[2]))
        h = L.Dense(8, activation="relu")(h)
        return keras.Model([x, mask], L.Dense(3, name="out")(h))

    return build


def embedded():
    """One input, whose zeros are a mask beside it."""
    ids = keras.Input((STEPS,), dtype="int32", name="data")
    h = gate(L.Embedding(50, WIDTH, mask_zero=True)(ids), "gate")
    h = L.GRU(8, name="gru")(h)
    return keras.Model(ids, L.Dense(3, name="out")(h))


def masked():
    x = keras.Input((STEPS, 5), name="data")
    h = L.Masking()(x)
    h = gate(L.Dense(WIDTH, activation="relu")(h), "gate")
    return keras.Model(x, L.Dense(3, name="out")(L.LSTM(8)(h)))


def picked():
    x = keras.Input((STEPS, 5), name="data")
    at = keras.Input((STEPS, WIDTH), dtype="int32", name="mask")
    h = gate(L.Dense(WIDTH, activation="relu")(x), "gate")
    h = ops.take_along_axis(h, at % STEPS, axis=1)
    return keras.Model([x, at], L.Dense(3, name="out")(L.Flatten()(h)))


def compared():
    """The mask is a test of the data, as deep as they are."""
    x = keras.Input((STEPS, 5), name="data")
    h = gate(L.Dense(WIDTH, activation="relu")(x), "gate")
    there = ops.any(ops.not_equal(x, 0.0), axis=-1)
    return keras.Model(x, L.Dense(3)(L.GRU(8)(h, mask=there)))


WAYS = {
    "GRU": with_mask(lambda x, m: L.GRU(8)(x, mask=m)),
    "LSTM, sequence": with_mask(
        lambda x, m: L.LSTM(8, return_sequences=True)(x, mask=m)
    ),
    "SimpleRNN, by position": with_mask(
        lambda x, m: L.SimpleRNN(8)(x, None, m)
    ),
    "Bidirectional": with_mask(
        lambda x, m: L.Bidirectional(L.LSTM(8))(x, mask=m)
    ),
    "two recurrent layers": with_mask(
        lambda x, m: L.GRU(8)(L.LSTM(8, return_sequences=True)(x, mask=m))
    ),
    "TimeDistributed": with_mask(
        lambda x, m: L.TimeDistributed(L.Dense(8))(x, mask=m)
    ),
    "pooling": with_mask(lambda x, m: L.GlobalAveragePooling1D()(x, mask=m)),
    "MultiHeadAttention": with_mask(
        lambda x, m: L.MultiHeadAttention(2, 4)(
            x, x, attention_mask=m[:, None, :]
        )
    ),
    "MultiHeadAttention, value_mask": with_mask(
        lambda x, m: L.MultiHeadAttention(2, 4)(x, x, value_mask=m)
    ),
    "Attention": with_mask(lambda x, m: L.Attention()([x, x], mask=[m, m])),
    "where": with_mask(lambda x, m: ops.where(m[..., None], x, 0.5)),
    "product": with_mask(lambda x, m: x * ops.cast(m, "float32")[..., None]),
    "take_along_axis": picked,
    "Embedding": embedded,
    "Masking": masked,
    "a test of the data": compared,
}


def some(model, seed=0):
    """Inputs whose masks are the same in each sample."""
    rng = np.random.default_rng(seed)
    found = {}
    for kt in model.inputs:
        shape = (16, *kt.shape[1:])
        if kt.name == "data" and keras.backend.is_float_dtype(kt.dtype):
            found[kt.name] = rng.normal(size=shape).astype("float32")
        elif kt.name == "data":
            found[kt.name] = rng.integers(1, 50, shape)
        else:
            found[kt.name] = np.ones(shape, kt.dtype)
    return [found[kt.name] for kt in model.inputs]


def varies(model):
    """How much the outputs vary with the data alone."""
    x = some(model)
    x = x if len(x) > 1 else x[0]
    return max(np.ptp(y, axis=0).max() for y in helpers.run(model, x))


def drawn(build):
    model = build()
    rng = np.random.default_rng(0)
    for w in model.trainable_weights:
        size = rng.normal(size=tuple(w.shape)) * 0.4
        w.assign(size + (0.2 if len(w.shape) == 1 else 0))
    return sm.set_gates(model, gate=np.linspace(0.05, 0.95, WIDTH))


def least(model):
    """The plan for the least that a budget can reach."""
    with pytest.raises(ValueError, match="can reach is") as error:
        plan(model, kg.Budget(params=2, keep_essential=0))
    params = str(error.value).split("can reach is ")[1].split()[0]
    params = int(params.replace(",", ""))
    return plan(model, kg.Budget(params=params, keep_essential=0))


@pytest.mark.parametrize("name", WAYS)
def test_a_mask_is_no_way_round_for_a_budget(name):
    model = drawn(WAYS[name])
    assert varies(model) > 1e-2
    found = least(model)
    assert len(found.closed["gate"]) < WIDTH
    assert varies(found.apply()) > 1e-4


@pytest.mark.parametrize("name", WAYS)
def test_a_threshold_that_closes_the_data_off_is_refused(name):
    with pytest.raises(ValueError, match="no longer depends.*'gate'"):
        plan(drawn(WAYS[name]), 2.0)


def test_the_message_speaks_of_masks_where_they_are_left():
    with pytest.raises(ValueError, match="values of.*only on masks"):
        plan(drawn(WAYS["GRU"]), 2.0)


@pytest.mark.parametrize("name", ["GRU", "Bidirectional", "LSTM, sequence"])
@pytest.mark.parametrize("share", [0.6, 0.3])
def test_scores_leave_a_way_for_the_data(name, share):
    model = drawn(WAYS[name])
    scores = score(model, "l2")
    try:
        small = prune(model, kg.Budget(macs=share), scores=scores)
    except ValueError as error:
        assert "can't be reached" in str(error)
        return
    assert varies(small) > 1e-4


# Several inputs ----------------------------------------------------------


def two_inputs(join, shortcut=False):
    a = keras.Input((STEPS, 5), name="data")
    b = keras.Input((STEPS, 5), name="other")
    left = gate(L.Dense(WIDTH, activation="relu")(a), "gate")
    right = gate(L.Dense(WIDTH, activation="relu")(b), "gate_b")
    h = join(left, right)
    if shortcut:
        h = L.Concatenate()([h, a])
    return keras.Model([a, b], L.Dense(3, name="out")(L.Flatten()(h)))


JOINS = {
    "Concatenate": lambda a, b: L.Concatenate()([a, b]),
    "Add": lambda a, b: L.Add()([a, b]),
    "attention": lambda a, b: L.MultiHeadAttention(2, 4)(a, b),
    "states": lambda a, b: L.GRU(WIDTH, return_sequences=True)(
        a, initial_state=b[:, -1]
    ),
}


@pytest.mark.parametrize("name", JOINS)
def test_a_budget_keeps_each_input(name):
    """The gate of one has all of the smallest factors."""
    model = two_inputs(JOINS[name])
    helpers.randomize(model, closed="ones")
    sm.set_gates(model, gate=np.linspace(0.01, 0.1, WIDTH))
    sm.set_gates(model, gate_b=np.linspace(0.5, 0.9, WIDTH))
    found = least(model)
    assert len(found.closed["gate"]) < WIDTH
    small, x = found.apply(), some(model)
    x[1] = np.broadcast_to(x[0][:1], x[1].shape)
    assert np.ptp(helpers.run(small, x)[0], axis=0).max() > 1e-5


def test_a_threshold_may_leave_an_input_out():
    model = two_inputs(JOINS["Concatenate"])
    helpers.randomize(model, closed="ones")
    closed = plan(model, {"gate": 2.0}).closed
    assert len(closed["gate"]) == WIDTH
    # And then a budget does not look for it.
    budget = kg.Budget(params=0.3)
    sm.set_gates(model, gate_b=np.linspace(0.5, 0.9, WIDTH))
    found = plan(model, {"gate": 2.0, "gate_b": budget})
    assert 0 < len(found.closed["gate_b"]) < WIDTH


def test_where_something_leads_round_all_may_close():
    model = two_inputs(JOINS["Add"], shortcut=True)
    helpers.randomize(model, closed="ones")
    sm.set_gates(model, gate=np.linspace(0.01, 0.1, WIDTH))
    sm.set_gates(model, gate_b=np.linspace(0.5, 0.9, WIDTH))
    budget = {"gate": kg.Budget(params=2)}
    with pytest.raises(ValueError, match="can reach is") as error:
        plan(model, budget)
    least = int(str(error.value).split("can reach is ")[1].split()[0])
    found = plan(model, {"gate": kg.Budget(params=least)})
    assert len(found.closed["gate"]) == WIDTH


def weighed(middle):
    """Gated data that `middle` weighs by others."""

    def build():
        a = keras.Input((STEPS, 5), name="data")
        b = keras.Input((STEPS, WIDTH), name="other")
        h = gate(L.Dense(WIDTH, activation="relu")(a), "gate")
        h = ops.reshape(middle(h, b), (-1, STEPS * WIDTH))
        return keras.Model([a, b], L.Dense(3, name="out")(h))

    return build


def by_hand(x, y):
    scores = ops.softmax(ops.matmul(y, ops.swapaxes(y, 1, 2)))
    return ops.matmul(scores, x)


WEIGHED = {
    "MultiHeadAttention": lambda x, y: L.MultiHeadAttention(2, 4)(y, x, y),
    "by keywords": lambda x, y: L.MultiHeadAttention(2, 4)(
        value=x, key=y, query=y
    ),
    "Attention": lambda x, y: L.Attention()([y, x, y]),
    "AdditiveAttention": lambda x, y: L.AdditiveAttention()([y, x, y]),
    "by hand": by_hand,
    "einsum": lambda x, y: ops.einsum("bij,bjd->bid", y[:, :, :STEPS], x),
    "Dot": lambda x, y: L.Dot((2, 1))([y[:, :, :STEPS], x]),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_weights_of_what_is_closed_are_no_way_round(name):
    """Whatever the scores are: a mean of zeros is zero."""
    model = drawn(weighed(WEIGHED[name]))
    with pytest.raises(ValueError, match="no longer depends.*'gate'"):
        plan(model, 2.0)
    if name not in ("by hand", "einsum", "Dot"):
        # Those who ask are cut off beside those who answer.
        assert len(plan(model, 0.5).closed["gate"]) == WIDTH // 2


def test_states_like_zeros_are_no_way_round():
    def build():
        x = keras.Input((STEPS, 5), name="data")
        other = keras.Input((8,), name="mask")
        h = gate(L.Dense(WIDTH, activation="relu")(x), "gate")
        h = L.GRU(8)(h, initial_state=ops.zeros_like(other))
        return keras.Model([x, other], L.Dense(3, name="out")(h))

    with pytest.raises(ValueError, match="no longer depends.*'gate'"):
        plan(drawn(build), 2.0)


def test_a_model_of_choices_alone_keeps_them():
    """Nothing but a comparison comes in, so that is what it works with."""
    x = keras.Input((8,), name="data")
    h = ops.cast(x > 0, "float32")
    h = gate(L.Dense(WIDTH, activation="relu")(h), "gate")
    model = drawn(lambda: keras.Model(x, L.Dense(3, name="out")(h)))
    with pytest.raises(ValueError, match="no longer depends.*'gate'"):
        plan(model, 2.0)
    assert varies(prune(model, kg.Budget(macs=0.3))) > 1e-4


def test_a_table_that_is_looked_up_reads_its_numbers():
    """`take` from an array is an embedding: the indices are the data."""
    ids = keras.Input((4,), dtype="int32", name="data")
    x = keras.Input((4,), name="other")
    table = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
    h = L.Flatten()(ops.take(table, ids, axis=0))
    h = gate(L.Dense(WIDTH, activation="relu")(h), "gate")
    h = L.Concatenate()([h, gate(L.Dense(WIDTH)(x), "gate_b")])
    model = keras.Model([ids, x], L.Dense(3, name="out")(h))
    sm.set_gates(model, gate=np.linspace(0.01, 0.1, WIDTH))
    sm.set_gates(model, gate_b=np.linspace(0.5, 0.9, WIDTH))
    found = plan(model, kg.Budget(params=0.5, keep_essential=0))
    assert len(found.closed["gate"]) < WIDTH
