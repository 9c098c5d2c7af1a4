"""The expected cost of a model, against the surgeon's own count of it."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gates as kg
from keras_gates.surgeon.expected.model_cost import ModelCost
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates.find import factors_of
from keras_gates.surgeon.passes import worth
from tests import depth_models
from tests.helpers import randomize


def transformer():
    """Two blocks, gates on hidden units and on branches."""
    x = inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(8, 2, 2)(x)
    x = layers.Reshape((9, 8))(x)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(2, 4)(y, y)
        x = layers.Add()([x, kg.BranchGate()(y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(12, activation="gelu")(y)
        y = layers.Dense(8)(kg.FilterGate()(y))
        x = layers.Add()([x, kg.BranchGate()(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def joined():
    """A concatenation, a depthwise convolution, and moves."""
    x = inputs = keras.Input((6, 6, 3))
    x = kg.FilterGate()(layers.Conv2D(6, 3, activation="relu")(x))
    y = kg.FilterGate()(layers.Conv2D(4, 3, padding="same")(x))
    z = kg.FilterGate()(layers.Conv2D(4, 1)(x))
    x = layers.Concatenate()([y, z])
    x = layers.DepthwiseConv2D(3)(x)
    x = layers.Flatten()(kg.FilterGate()(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def recurrent():
    x = inputs = keras.Input((8, 3))
    x = kg.FilterGate()(layers.Conv1D(6, 3)(x))
    return keras.Model(inputs, layers.Dense(2)(layers.GRU(4)(x)))


def loops():
    """Gates inside the loops of an encoder and of what starts with it."""
    x, y = keras.Input((4, 3)), keras.Input((4, 3))
    encoder = layers.Bidirectional(layers.GRU(3, return_state=True))
    whole, *states = encoder(x)
    start = layers.Concatenate()(states)
    z = layers.GRU(6, return_sequences=True)(y, initial_state=start)
    z = layers.LSTM(4)(layers.BatchNormalization()(z))
    z = layers.Concatenate()([z, layers.Dense(3)(whole)])
    return gated(keras.Model([x, y], layers.Dense(2)(z)), filters=True)


def written_out():
    """Attention of operations, the hidden units and branches of which close."""
    x = inputs = keras.Input((6, 5))
    x = layers.Dense(8)(x)
    for _ in range(2):
        q, k, v = (
            ops.reshape(layers.Dense(8)(x), (-1, 6, 2, 4)) for _ in "qkv"
        )
        y = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
        y = ops.reshape(ops.einsum("bhqk,bkhd->bqhd", y, v), (-1, 6, 8))
        x = layers.Add()([x, kg.BranchGate()(layers.Dense(8)(y))])
        y = kg.FilterGate()(layers.Dense(12, "relu")(x))
        x = layers.Add()([x, kg.BranchGate()(layers.Dense(8)(y))])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def stream(norm, attends=True):
    """A residual stream that a gate closes, after each sum."""
    gate = kg.FilterGate(name="stream")
    inputs = keras.Input((6, 6, 1))
    x = gate(layers.Reshape((9, 8))(layers.Conv2D(8, 2, 2)(inputs)))
    for _ in range(2):
        if attends:
            y = norm()(x)
            x = gate(layers.Add()([x, layers.MultiHeadAttention(2, 4)(y, y)]))
        y = layers.Dense(12, activation="gelu")(norm()(x))
        y = layers.Dense(8)(kg.FilterGate()(y))
        x = gate(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling1D()(norm()(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    return opened(model)


def convnext():
    gate = kg.FilterGate(name="stream")
    inputs = keras.Input((8, 8, 3))
    x = gate(layers.Conv2D(8, 2, strides=2)(inputs))
    for _ in range(2):
        y = layers.DepthwiseConv2D(3, padding="same")(x)
        y = layers.LayerNormalization()(y)
        y = kg.FilterGate()(layers.Dense(16, activation="gelu")(y))
        y = layers.EinsumDense("abcd,d->abcd", (4, 4, 8))(layers.Dense(8)(y))
        x = gate(layers.Add()([x, y]))
    x = layers.Conv2D(12, 2, strides=2)(layers.LayerNormalization()(x))
    x = layers.GlobalAveragePooling2D()(kg.FilterGate()(x))
    model = keras.Model(inputs, layers.Dense(4)(layers.LayerNormalization()(x)))
    return opened(model)


def opened(model):
    """Random weights, all gates open."""
    randomize(model, closed="none")
    for layer in model.layers:
        if isinstance(layer, kg.FilterGate):
            layer.factor.assign(np.ones(layer.factor.shape))
    return model


STREAMS = {
    "layers": lambda: stream(layers.LayerNormalization),
    "squares": lambda: stream(layers.RMSNormalization, attends=False),
    "groups": lambda: stream(lambda: layers.GroupNormalization(4)),
    "convnext": convnext,
}


def gated(model, **kinds):
    return kg.insert_gates(model, **kinds)


def copies_of_weights():
    """Attention over steps, with a copy of each weight for each channel."""
    inputs = keras.Input((5, 3))
    h = layers.Dense(8, activation="relu")(inputs)
    a = layers.Softmax()(layers.Flatten()(layers.Dense(1)(h)))
    x = layers.Multiply()(
        [h, layers.Permute((2, 1))(layers.RepeatVector(8)(a))]
    )
    x = layers.Dense(6, activation="relu")(layers.GlobalAveragePooling1D()(x))
    return gated(keras.Model(inputs, layers.Dense(2)(x)), filters=True)


def small_resnet():
    return kg.zoo.resnet(8, input_shape=(8, 8, 3))


MODELS = {
    "mlp": lambda: gated(kg.zoo.mlp(), filters=True),
    "lenet": lambda: gated(kg.zoo.lenet5(), filters=True),
    "residual": lambda: gated(small_resnet(), filters=True, branches=True),
    "layers": lambda: gated(small_resnet(), layers=True, blocks=True),
    "projections": lambda: gated(
        kg.zoo.resnet(8, "projection", input_shape=(8, 8, 3)), filters=True
    ),
    "stripes": lambda: kg.to_stripconv(small_resnet()),
    "resconv": lambda: kg.to_resconv(small_resnet()),
    "gammas": lambda: kg.slim(small_resnet(), 0.0),
    "transformer": transformer,
    "written out": written_out,
    "own blocks": lambda: gated(
        depth_models.stack(2), filters=["*/wide"], branches=True
    ),
    "joined": joined,
    "copies": copies_of_weights,
    "recurrent": recurrent,
    "loops": loops,
}


def cost_of(model):
    """The `ModelCost` and the names of the gates."""
    graph = expand.read(model)
    gates = factors_of(graph)
    if any(gate.kind != "batch_norm" for gate in gates):
        gates = [gate for gate in gates if gate.kind != "batch_norm"]
    return ModelCost(graph, [gate.name for gate in gates]), gates


def number(tensor):
    return float(ops.convert_to_numpy(tensor))


def corners(model, gates, count, seed=0):
    """`(masks, plan)` of random closings that leave the outputs alive."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(20 * count):
        masks = {}
        for gate in gates:
            shut = rng.random(gate.values.shape) < rng.choice([0.2, 0.5, 0.8])
            whole = rng.random()
            shut = np.ones_like(shut) if whole < 0.1 else np.asarray(shut)
            masks[gate.name] = np.zeros_like(shut) if whole > 0.8 else shut
        # The plan closes what scores say: the weights stay as they are.
        scores = {n: np.where(m, 0.0, 1.0) for n, m in masks.items()}
        try:
            plan = kg.surgeon.plan(
                model, dict.fromkeys(masks, 0.5), scores=scores
            )
        except ValueError:
            continue  # an output would be constant
        yield masks, plan
        found += 1
        if found == count:
            return
    raise AssertionError("no corner leaves the outputs alive")


@pytest.mark.parametrize("name", MODELS)
def test_at_every_corner_it_is_what_the_plan_counts(name):
    model = MODELS[name]()
    cost, gates = cost_of(model)
    for masks, plan in corners(model, gates, 4):
        assert round(cost.at(masks, "macs")) == plan.macs.after
        assert round(cost.at(masks, "params")) == plan.params.after


@pytest.mark.parametrize("price", [0, 16], ids=["free", "weighed"])
@pytest.mark.parametrize("name", STREAMS)
def test_what_is_written_out_is_counted(name, price, monkeypatch):
    """With the channels that carry others, and what is not worth it."""
    monkeypatch.setattr(worth, "WRITING_OUT", price)
    model = STREAMS[name]()
    cost, gates = cost_of(model)
    for masks, plan in corners(model, gates, 4):
        assert round(cost.at(masks, "macs")) == plan.macs.after
        assert round(cost.at(masks, "params")) == plan.params.after


def test_constants_that_merge_are_counted():
    # Random shifts make constants of closed channels, and borders of zeros
    # keep one of each tensor.
    model = randomize(MODELS["gammas"](), closed="none")
    cost, gates = cost_of(model)
    for masks, plan in corners(model, gates, 3):
        assert cost.at(masks, "macs") == pytest.approx(
            plan.macs.after, rel=0.01
        )


def test_it_is_the_expectation_in_a_chain():
    # In a chain each channel has a chance of its own, and MACs are products
    # of independent sums: the mean over random closings is the cost of the
    # chances.
    x = inputs = keras.Input((5,))
    x = kg.FilterGate()(layers.Dense(6)(x))
    x = kg.FilterGate()(layers.Dense(7)(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    cost, _ = cost_of(model)
    chances = np.random.default_rng(0).uniform(0.5, 0.95, 13)
    first, second = chances[:6].sum(), chances[6:].sum()
    expected = 5 * first + first * second + 2 * second
    # A layer of which nothing is left would be gone: the chance is 1e-4.
    assert cost.of(np, chances, "macs") == pytest.approx(expected, rel=1e-2)


def test_many_cases_at_once_are_the_cases_one_by_one():
    cost, gates = cost_of(MODELS["residual"]())
    count = sum(gate.values.size for gate in gates)
    many = np.random.default_rng(0).random((3, count)).round()
    together = cost.of(np, many, "macs")
    each = [cost.of(np, one, "macs") for one in many]
    np.testing.assert_allclose(together, each)


def test_tensors_give_what_arrays_give():
    cost, gates = cost_of(joined())
    count = sum(gate.values.size for gate in gates)
    factors = np.random.default_rng(0).random(count)
    got = cost.of(ops, ops.convert_to_tensor(factors, "float32"), "macs")
    # Float32, and products of a few dozen numbers.
    assert number(got) == pytest.approx(cost.of(np, factors, "macs"), rel=1e-4)


class TestPenalty:
    def test_it_is_added_to_the_loss_and_pulls_by_cost(self):
        gates = [kg.FilterGate(), kg.FilterGate()]
        x = inputs = keras.Input((4,))
        x = gates[0](layers.Dense(3)(x))
        x = gates[1](layers.Dense(5)(x))
        model = keras.Model(inputs, layers.Dense(2)(x))
        gates[0].factor.assign([1.0, 0.0, 1.0])
        penalty = kg.regularizers.ExpectedCost(2.0).bind(model)
        # 4*2 + 2*5 + 5*2 of 4*3 + 3*5 + 5*2 multiply-adds.
        assert number(penalty()) == pytest.approx(2 * 28 / 37)
        model.compile(keras.optimizers.SGD(1.0), loss="mse")
        nothing = np.zeros((2, 4), "float32"), np.zeros((2, 2), "float32")
        model.train_on_batch(*nothing)
        factors = ops.convert_to_numpy(gates[0].factor)
        # A first unit saves 4 + 5 multiply-adds; no gradient at 0.
        step = 2 * 9 / 37
        np.testing.assert_allclose(
            factors, [1 - step, 0.0, 1 - step], rtol=1e-5
        )
        # A second unit saves 2 of the first layer's and 2 of the last's.
        factors = ops.convert_to_numpy(gates[1].factor)
        np.testing.assert_allclose(factors, [1 - 2 * 4 / 37] * 5, rtol=1e-5)

    def test_a_copy_has_to_be_bound_again(self):
        model = MODELS["mlp"]()
        penalty = kg.regularizers.ExpectedCost(0.5, of="params").bind(model)
        config = keras.regularizers.serialize(penalty)
        copy = keras.regularizers.deserialize(config)
        assert (copy.strength, copy.of) == (0.5, "params")
        with pytest.raises(RuntimeError, match="bind"):
            copy()

    def test_gammas_are_asked_for_by_kind(self):
        model = MODELS["gammas"]()
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.gamma.regularizer = None
        penalty = kg.regularizers.ExpectedCost(1.0)
        with pytest.raises(ValueError, match="no gate to penalize"):
            penalty.bind(model)
        penalty.bind(model, kinds=["batch_norm"])
        assert number(penalty()) == pytest.approx(1.0)

    def test_what_it_can_not_use_is_refused(self):
        with pytest.raises(ValueError, match="strength"):
            kg.regularizers.ExpectedCost(-1.0)
        with pytest.raises(ValueError, match="one of"):
            kg.regularizers.ExpectedCost(1.0, of="latency")
        with pytest.raises(ValueError, match="regularizer already"):
            kg.regularizers.ExpectedCost(1.0).bind(
                gated(kg.zoo.mlp(), filters=1e-3)
            )


class Positions(layers.Layer):
    """Adds a weight to each position, which needs a number for each sample."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x):
        return x + self.table


def test_a_layer_of_ones_own_has_tensors_without_values():
    x = inputs = keras.Input((4, 3))
    x = Positions()(layers.Dense(6)(x))
    x = layers.Dense(5, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    gated = kg.insert_gates(model, filters=True)
    penalty = kg.regularizers.ExpectedCost(1.0).bind(gated)
    assert keras.ops.convert_to_numpy(penalty()) == pytest.approx(1.0)
