"""Counts by hand, and against Keras."""

import json
import math

import keras
import pytest
from keras import layers

import keras_gates as kg


@keras.saving.register_keras_serializable(package="tests_of_stats")
class Unruled(layers.Layer):
    """A layer that no rule knows, with 8 weights."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(8,), name="kernel")
        self.calls = 0

    def call(self, x):
        self.calls += 1  # a state of its own: it can't be seen through
        return x * self.kernel[0]


class Subclassed(keras.Model):
    def call(self, x):
        return x


def one(shape, *stack):
    """A chain of layers on one input."""
    inputs = x = keras.Input(shape)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x, name="one")


IMAGE = (9, 9, 4)
SEQUENCE = (7, 4)

# Input, layer, MACs; sizes of outputs and kernels are worked out by hand.
BY_HAND = {
    "dense": ((5,), layers.Dense(3), 5 * 3),
    "dense on a sequence": (SEQUENCE, layers.Dense(3), 7 * 4 * 3),
    "conv": (IMAGE, layers.Conv2D(6, 3), 49 * 9 * 4 * 6),
    "same": (IMAGE, layers.Conv2D(6, 3, padding="same"), 81 * 9 * 4 * 6),
    "strides": (IMAGE, layers.Conv2D(6, 3, 2), 16 * 9 * 4 * 6),
    "dilation": (IMAGE, layers.Conv2D(6, 3, dilation_rate=2), 25 * 9 * 4 * 6),
    "channels first": (
        (4, 9, 8),
        layers.Conv2D(6, 3, data_format="channels_first"),
        7 * 6 * 9 * 4 * 6,
    ),
    "conv 1d": (SEQUENCE, layers.Conv1D(6, 3, padding="causal"), 7 * 3 * 4 * 6),
    "conv 3d": ((5, 5, 5, 2), layers.Conv3D(3, 2), 64 * 8 * 2 * 3),
    "groups": (IMAGE, layers.Conv2D(6, 3, groups=2), 49 * 9 * 2 * 6),
    "one channel a group": (IMAGE, layers.Conv2D(8, 3, groups=4), 49 * 9 * 8),
    # Each of the 81 positions of the input meets the whole kernel.
    "transposed": (IMAGE, layers.Conv2DTranspose(6, 3, 2), 81 * 9 * 4 * 6),
    "depthwise": (
        IMAGE,
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        49 * 9 * 8,
    ),
    "separable": (
        IMAGE,
        layers.SeparableConv2D(6, 3, 2, depth_multiplier=2),
        16 * (9 * 8 + 8 * 6),
    ),
    "simple rnn": (SEQUENCE, layers.SimpleRNN(3), 7 * (4 + 3) * 3),
    "lstm": (SEQUENCE, layers.LSTM(3), 7 * (4 + 3) * 12),
    "lstm, sequences": (
        SEQUENCE,
        layers.LSTM(3, return_sequences=True),
        7 * (4 + 3) * 12,
    ),
    "gru": (SEQUENCE, layers.GRU(3), 7 * (4 + 3) * 9),
    "bidirectional": (
        SEQUENCE,
        layers.Bidirectional(layers.LSTM(3)),
        2 * 7 * (4 + 3) * 12,
    ),
    "time distributed": (
        (5, 4, 9, 8),
        layers.TimeDistributed(
            layers.Conv2D(6, 3, data_format="channels_first")
        ),
        5 * 7 * 6 * 9 * 4 * 6,
    ),
    "einsum": (SEQUENCE, layers.EinsumDense("abc,bd->adc", (3, 4)), 4 * 7 * 3),
    "batch normalization": (IMAGE, layers.BatchNormalization(), 0),
    "layer normalization": (IMAGE, layers.LayerNormalization(), 0),
    "prelu": (IMAGE, layers.PReLU(), 0),
    "embedding": ((7,), layers.Embedding(11, 3), 0),
    "gate": (IMAGE, kg.FilterGate(), 0),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case):
    shape, layer, macs = BY_HAND[case]
    model = one(shape, layer)
    found = kg.stats.count(model)
    assert found.macs == macs
    assert found.params == model.count_params()
    assert not found.unknown
    (row,) = found.layers
    assert row.name == layer.name
    assert row.type == type(layer).__name__
    trainable = sum(math.prod(w.shape) for w in model.trainable_weights)
    assert row.trainable == trainable


def test_layers_that_cost_nothing_have_no_row():
    model = one(IMAGE, layers.ReLU(), layers.Flatten(), layers.Dense(2))
    assert [x.type for x in kg.stats.count(model).layers] == ["Dense"]


def test_shared_layer():
    shared = layers.Dense(4, name="shared")
    model = one((4,), shared, shared, layers.Dense(2))
    found = kg.stats.count(model)
    assert found.params == model.count_params() == 20 + 10
    assert found.macs == 2 * 16 + 8
    assert found.layers[0].calls == 2
    assert "2 calls" in str(found)


def test_nested_models():
    inner = one((4,), layers.Dense(4, name="dense"))
    model = one((4,), inner, layers.Dense(3), layers.ReLU())
    found = kg.stats.count(model)
    assert found.params == model.count_params()
    assert found.macs == 16 + 12
    assert found.layers[0].name == "one/dense"


def test_sequential():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    assert kg.stats.count(model).macs == 12


def test_frozen_layers():
    model = one((4,), layers.Dense(3), layers.Dense(2))
    model.layers[1].trainable = False
    found = kg.stats.count(model)
    assert (found.params, found.trainable) == (15 + 8, 8)


def test_layer_without_a_rule():
    model = one((4,), layers.Dense(4), Unruled(name="mine"))
    found = kg.stats.count(model)
    assert found.params == model.count_params() == 20 + 8
    assert found.unknown == ("mine",)
    assert found.macs == 16
    assert "MACs unknown, and not in the total (no rule): 'mine'." in str(found)
    change = kg.stats.compare(model, model)
    assert change.macs_removed is None
    assert change.params_removed == 0


def test_operations():
    inputs = keras.Input((4, 5))
    product = keras.ops.matmul(inputs, keras.ops.transpose(inputs, (0, 2, 1)))
    found = kg.stats.count(keras.Model(inputs, product + 1.0))
    assert found.params == 0
    assert (found.macs, found.unknown) == (4 * 4 * 5, ())


# Open sizes


def open_model():
    return one((None, None, 4), layers.Conv2D(6, 3, 2, name="conv"))


def test_unknown_sizes():
    with pytest.raises(ValueError, match="'conv'.*`input_shape=`"):
        kg.stats.count(open_model())


@pytest.mark.parametrize(
    "model",
    [
        open_model(),
        keras.Sequential([keras.Input((None, None, 4)), open_model()]),
        one((None, None, 4), layers.ReLU(), open_model(), layers.ReLU()),
    ],
    ids=["plain", "sequential", "nested"],
)
def test_input_shape(model):
    found = kg.stats.count(model, input_shape=(9, 11, 4))
    assert found.macs == 4 * 5 * 9 * 4 * 6
    # Nothing was recorded in the model.
    with pytest.raises(ValueError, match="unknown"):
        kg.stats.count(model)


def test_sizes_that_do_not_matter():
    model = one(
        (None, None, 4), layers.GlobalAveragePooling2D(), layers.Dense(3)
    )
    assert kg.stats.count(model).macs == 12


def two_inputs():
    a, b = keras.Input((None, 4), name="a"), keras.Input((3,), name="b")
    x = layers.Conv1D(3, 1)(a)
    x = layers.GlobalMaxPooling1D()(x)
    return keras.Model([a, b], layers.Add()([x, b]), name="two")


@pytest.mark.parametrize("shape", [{"a": (5, 4)}, [(5, 4), (3,)]])
def test_several_inputs(shape):
    assert kg.stats.count(two_inputs(), shape).macs == 5 * 4 * 3


@pytest.mark.parametrize(
    "shape, match",
    [
        ((5, 4), "Expected: a shape for each of"),
        ({"c": (5, 4)}, "Expected: a shape for each of"),
        ({"a": (5, 6)}, "does not fit input 'a'"),
        ({"a": (5,)}, "does not fit input 'a'"),
    ],
)
def test_wrong_input_shape(shape, match):
    with pytest.raises(ValueError, match=match):
        kg.stats.count(two_inputs(), shape)


def test_input_shape_that_a_layer_refuses():
    model = one((None, None, 4), layers.Conv2D(6, 3, name="conv"))
    with pytest.raises(ValueError, match="does not fit layer 'conv'"):
        kg.stats.count(model, (2, 2, 4))


# What can't be counted


@pytest.mark.parametrize(
    "model, error, match",
    [
        (Subclassed(name="sub"), ValueError, "count_params"),
        (keras.Sequential(name="empty"), ValueError, "not built"),
        ("model", TypeError, "Keras model"),
    ],
    ids=["subclassed", "not built", "no model"],
)
def test_refused(model, error, match):
    with pytest.raises(error, match=match):
        kg.stats.count(model)


# Results


def test_to_dict_is_json():
    model = one((4,), layers.Dense(3, name="dense"), Unruled(name="mine"))
    found = kg.stats.count(model)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["model"] == "one"
    assert "multiply-add" in data["unit"]
    assert (data["params"], data["macs"]) == (23, 12)
    assert data["unknown"] == ["mine"]
    assert data["layers"][0] == {
        "name": "dense",
        "type": "Dense",
        "params": 15,
        "trainable": 15,
        "macs": 12,
        "calls": 1,
    }


def test_compare():
    before = one((4,), layers.Dense(8, name="a"), layers.Dense(2, name="b"))
    after = one((4,), layers.Dense(2, name="a"), layers.Dense(2, name="c"))
    found = kg.stats.compare(before, kg.stats.count(after))
    changes = {x.name: (x.params, x.macs) for x in found.layers}
    assert changes == {
        "a": ((40, 10), (32, 8)),
        "b": ((18, 0), (16, 0)),
        "c": ((0, 6), (0, 4)),
    }
    assert found.macs_removed == 1 - 12 / 48
    assert found.params_removed == 1 - 16 / 58
    data = json.loads(json.dumps(found.to_dict()))
    assert data["before"]["macs"] == 48
    assert data["macs_removed"] == 0.75
    assert "75.0%" in str(found)


def test_compare_with_a_pruned_model():
    model = one(
        (6, 6, 3),
        layers.Conv2D(8, 3, name="conv"),
        kg.FilterGate(name="gate"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, name="dense"),
    )
    model.get_layer("gate").factor.assign([1, 0, 1, 0, 1, 0, 1, 0])
    pruned = kg.surgeon.prune(model, 0.5)
    found = kg.stats.compare(model, pruned)
    changes = {x.name: x.macs for x in found.layers}
    assert changes["conv"] == (16 * 27 * 8, 16 * 27 * 4)
    assert changes["dense"] == (16, 8)
    plan = kg.surgeon.plan(model, 0.5)
    assert plan.macs == (found.before.macs, found.after.macs)
    assert plan.params == (found.before.params, found.after.params)
