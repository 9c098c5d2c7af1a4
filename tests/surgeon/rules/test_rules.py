"""Each rule, on a small model of its own, against the gated original."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.passes import worth
from keras_gates.surgeon.rules import Composite
from keras_gates.surgeon.rules import registered
from tests import helpers
from tests.surgeon import example_layers
from tests.surgeon import example_more_operations
from tests.surgeon import example_operations
from tests.surgeon.examples import AID
from tests.surgeon.examples import FEEDS_BACK
from tests.surgeon.examples import IMAGE
from tests.surgeon.examples import SIGNAL
from tests.surgeon.examples import TOGETHER
from tests.surgeon.examples import behind
from tests.surgeon.examples import front
from tests.surgeon.examples import layer

EXAMPLES = [
    *example_layers.EXAMPLES,
    *example_operations.EXAMPLES,
    *example_more_operations.EXAMPLES,
]
HERE = [example for example in EXAMPLES if example.cls is not None]


@pytest.fixture(autouse=True)
def _writing_out_is_free(monkeypatch):
    """The models here are so small that it would not pay."""
    monkeypatch.setattr(worth, "WRITING_OUT", 0)


def closed(gate):
    """Some channels in front, others behind, so that all four cases occur."""
    shape = tuple(gate.factor.shape)
    if not shape:
        return np.array(gate.name == "closed")
    turn = np.arange(shape[0]) % 4
    return np.isin(turn, (1, 2) if gate.name.startswith("front") else (0, 1))


def prepared(example):
    """The model of an example with weights and factors drawn."""
    return draw(example.build())


def draw(model):
    """Give a model weights, and gates that are clearly open or closed."""
    helpers.randomize(model, x=inputs_for(model))
    if hasattr(model, "keep_zero"):
        model.keep_zero()
    rng = np.random.default_rng(1)
    for gate in helpers.gates_of(model):
        shut = closed(gate)
        size = np.where(shut, 0.1, rng.uniform(0.6, 1.5, shut.shape))
        gate.factor.assign(size * rng.choice([-1, 1, 1], shut.shape))
    for factor in helpers.factors_of(model):
        if factor.name == "skeleton":
            size = helpers.numpy_of(factor)
            factor.assign(size * (rng.random(size.shape) < 0.7))
    return model


def inputs_for(model):
    if keras.backend.is_float_dtype(model.inputs[0].dtype):
        return helpers.inputs_for(model)
    rng = np.random.default_rng(0)
    return rng.integers(0, 8, (4, *model.inputs[0].shape[1:])).astype("int32")


def sizes(model, cls):
    """How much all calls of a class read and return, by sample."""
    calls = [
        call
        for call in gr.read(model).calls
        if type(call.op) is cls and not call.op.name.startswith(AID)
    ]
    found = {}
    for side in ("in", "out"):
        tensors = [t for call in calls for t in getattr(call, f"{side}puts")]
        whole = [[size or 1 for size in tensor.shape] for tensor in tensors]
        found[side] = sum(int(np.prod(shape)) for shape in whole)
    return found


# Keras' MixUp asks for int64 indices, which JAX has only when told so.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")
@pytest.mark.parametrize("example", HERE, ids=str)
def test_an_example_is_cut_and_computes_the_same(example):
    model = prepared(example)
    before = sizes(model, example.cls)
    assert before["in"], "the example does not hold its subject"
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small, inputs_for(model))
    if hasattr(example.cls, "kind"):
        assert not helpers.gates_of(small)
        return
    after = sizes(small, example.cls)
    shrunk = tuple(side for side in ("in", "out") if after[side] < before[side])
    assert shrunk == example.shrinks, (before, after)
    if example.why:
        assert example.why in str(kg.surgeon.plan(model, helpers.THRESHOLD))


def test_each_registered_class_has_an_example():
    subjects = {example.cls for example in EXAMPLES}
    # Other tests register classes of their own, as users do.
    ours = [
        cls
        for cls in registered()
        if cls.__module__.startswith("keras")
        and issubclass(cls, keras.Operation)
        and not isinstance(registered()[cls], Composite)
    ]
    # `test_categories.py` has those of words and of single values.
    apart = {L.HashedCrossing, L.StringLookup, L.TextVectorization}
    lacking = [c.__name__ for c in ours if c not in subjects | apart]
    assert not lacking, "Add examples for " + ", ".join(lacking)


def test_each_example_is_of_a_registered_class():
    lost = [str(e) for e in HERE if e.cls not in registered()]
    assert not lost


# What is kept for exactness alone -------------------------------------------

ALONE = [
    example
    for example in HERE
    if example.why in (FEEDS_BACK, TOGETHER)
    or (example.subject == "LayerNormalization" and example.shrinks)
]


@pytest.mark.parametrize("example", ALONE, ids=str)
def test_what_is_kept_to_be_exact_may_go_and_the_plan_says_so(example):
    model = prepared(example)
    plan = kg.surgeon.plan(model, helpers.THRESHOLD, exact=False)
    small = plan.apply()
    before, after = (sizes(m, example.cls) for m in (model, small))
    assert after["in"] < before["in"]
    assert after["out"] < before["out"]
    assert not plan.exact
    assert "not exact: " in str(plan)
    got = helpers.run(small, inputs_for(model))
    assert all(np.isfinite(y).all() for y in got)


def test_constants_never_become_a_bias_behind_a_transposed_convolution():
    example = layer("Conv2DTranspose", 8, 3, strides=2, shape=IMAGE)
    model = prepared(example)
    plan = kg.surgeon.plan(model, helpers.THRESHOLD, exact=False)
    assert plan.exact
    helpers.assert_same(model, plan.apply())


# Layers within layers --------------------------------------------------------

NESTED = [
    example
    for example in HERE
    if example.subject in ("Bidirectional", "TimeDistributed", "LSTM")
    and example.shrinks
]


@pytest.mark.parametrize("example", NESTED[::3], ids=str)
def test_a_layer_in_a_layer_can_be_saved_and_loaded(example, tmp_path):
    model = prepared(example)
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    x = inputs_for(model)
    for a, b in zip(helpers.run(small, x), helpers.run(loaded, x), strict=True):
        np.testing.assert_array_equal(a, b)


# Layers that are called more than once --------------------------------------

SHARED = {
    "PReLU": lambda: L.PReLU(),
    "Rescaling": lambda: L.Rescaling(np.arange(1.0, 9.0).tolist(), 0.1),
    "BatchNormalization": lambda: L.BatchNormalization(),
    "DepthwiseConv1D": lambda: L.DepthwiseConv1D(3, padding="same"),
    "Conv1D": lambda: L.Conv1D(8, 3),
    "LSTM": lambda: L.LSTM(8),
    "TimeDistributed": lambda: L.TimeDistributed(L.Dense(8)),
    "Bidirectional": lambda: L.Bidirectional(L.GRU(8)),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_layer_is_cut_for_all_of_its_calls(name):
    inputs = keras.Input(SIGNAL)
    shared = SHARED[name]()
    whole = shared(L.Dense(8)(inputs))
    cut = shared(front(inputs))
    model = keras.Model(inputs, [behind(cut), L.Dense(3)(whole)])
    draw(model)
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    again = kg.surgeon.prune(model, helpers.THRESHOLD, exact=False)
    assert [y.shape for y in again.outputs] == [y.shape for y in model.outputs]


# Constants that go into what stands behind -----------------------------------


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_a_constant_reaches_a_norm_only_past_nothing(activation, axis):
    """Into `moving_mean` without an activation, into a new bias with one."""
    inputs = keras.Input((8, 2))
    x = L.Dense(8, activation=activation, use_bias=False)(front(inputs))
    x = L.BatchNormalization(axis=axis)(x)
    model = draw(keras.Model(inputs, behind(x)))
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)


def test_an_offset_on_an_axis_as_long_as_the_last():
    """Keras on TensorFlow takes such an operand of `add` for a bias."""
    inputs = keras.Input((6, 6, 2))
    x = L.Dense(6)(inputs)
    shut = kg.FilterGate(name="shut")(L.Dense(6)(inputs))
    shut = L.BatchNormalization()(shut)
    y = ops.add(ops.moveaxis(x, -1, 1), ops.moveaxis(shut, -1, 1))
    model = keras.Model(inputs, ops.tanh(ops.moveaxis(y, 1, -1)))
    helpers.randomize(model, closed="none")
    model.get_layer("shut").factor.assign(np.zeros(6))
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert len(gr.read(small).calls) < len(gr.read(model).calls)
