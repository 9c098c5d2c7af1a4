"""Small versions of what layers of public packages do in `call`.

The truth is the user's own model, with the closed channels at 0.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.graphs import trace
from keras_gates.graphs.opened import Opened
from keras_gates.graphs.private import known_output
from keras_gates.graphs.rewrite import new_copies
from tests import helpers

HALF = kg.Quantile(0.5, scope="gate")


def opened(layer, *inputs, **arguments):
    """What a layer is made of, called on inputs."""
    y = layer(*inputs, **arguments)
    node = keras.tree.flatten(y)[0]._keras_history
    found = trace.trace(
        layer._inbound_nodes[node.node_index], new_copies(), owned=False
    )
    assert isinstance(found, Opened), found.reason
    return found


def pruned(layer, steps=6, width=4, x=None):
    """The model of a layer, and the pruned one; compared."""
    inputs = keras.Input((steps, width))
    y = L.Dense(3)(layer(inputs))
    if x is None:
        shape = (3, steps or 5, width)
        x = np.random.default_rng(0).normal(size=shape).astype("float32")
    model = keras.Model(inputs, y)
    helpers.randomize(model, x=x, closed="none")
    scores = {
        name: values
        for name, values in kg.surgeon.score(model, "l2").items()
        if len(values) == 8  # the hidden ones
    }
    plan = kg.surgeon.plan(model, HALF, scores=scores)
    small = plan.apply()
    assert max(plan.verify(small, x).values()) < 1e-5
    assert small.count_params() < model.count_params()
    return model, small


class Block(L.Layer):
    """Layers with a hidden width; subclasses do something around them."""

    def __init__(self, width=8, activation="relu", **options):
        super().__init__(**options)
        self.width = width
        self.activation = activation
        self.wide = L.Dense(width, activation=activation)
        self.narrow = L.Dense(4)

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], self.width))
        self.built = True

    def hidden(self, x):
        return self.narrow(self.wide(x))

    def call(self, x):
        return self.hidden(x)

    def get_config(self):
        own = {"width": self.width, "activation": self.activation}
        return {**super().get_config(), **own}


class Flat(Block):
    """Works with the number of samples, which a reshape merges."""

    def call(self, x):
        samples, steps, width = ops.shape(x)
        y = self.hidden(ops.reshape(x, (samples * steps, width)))
        return ops.reshape(y, (samples, steps, width))


class Token(Block):
    """A token for each sample, made for so many of them."""

    def build(self, shape):
        super().build(shape)
        self.token = self.add_weight(
            shape=(1, 1, 4), initializer="random_normal", name="token"
        )

    def call(self, x):
        token = ops.repeat(self.token, ops.shape(x)[0], axis=0)
        return self.hidden(ops.concatenate([token, x], axis=1))


class Positions(Block):
    """A table that is looked up by numbers which are no input."""

    def build(self, shape):
        super().build(shape)
        self.table = L.Embedding(shape[1], 4)
        self.table.build()

    def call(self, x):
        return self.hidden(x + self.table(ops.arange(ops.shape(x)[1])))


class Causal(Block):
    """A mask that is made of a size which the model leaves open."""

    def call(self, x):
        steps = ops.shape(x)[1]
        before = ops.arange(steps)[:, None] >= ops.arange(steps)[None]
        mixed = ops.matmul(ops.cast(before, x.dtype)[None], x)
        return x + self.hidden(mixed)


class Noted(Block):
    """Leaves notes for the user as attributes."""

    def call(self, x):
        self.steps = []
        for part in (self.wide, self.narrow):
            x = part(x)
            self.steps.append(x)
        return x


class Counting(Block):
    """Reads what the last call has left."""

    calls = 0

    def call(self, x):
        self.calls = self.calls + 1
        return self.hidden(x) * self.calls


class Pair(L.Layer):
    """Returns None where it might return something."""

    def call(self, x, scores=False):
        return 2.0 * x, None


class Holding(Block):
    """Calls a layer that returns None among its outputs."""

    def __init__(self, **options):
        super().__init__(**options)
        self.pair = Pair()

    def call(self, x):
        y, _ = self.pair(x)
        return self.hidden(y)


class Emptied(Block):
    """Returns nothing in place of what it was not asked for."""

    def call(self, x):
        return self.hidden(x), ops.zeros((0, 3, 2))


class Cached(L.Dense):
    """A stock layer with further arguments."""

    def call(self, x, cache=None):
        y = super().call(x)
        return y if cache is None else y + cache


class CallsCached(Block):
    def build(self, shape):
        super().build(shape)
        self.cached = Cached(4)
        self.cached.build(shape)

    def call(self, x):
        return self.hidden(self.cached(x, cache=None))


class Sequenced(L.Layer):
    """Holds a Sequential."""

    def __init__(self, **options):
        super().__init__(**options)
        self.parts = keras.Sequential([L.Dense(8, "relu"), L.Dense(4)])

    def build(self, shape):
        self.parts.build(shape)
        self.built = True

    def call(self, x):
        return x + self.parts(x)


class Twice(Block):
    """Holds layers that a Sequential in it holds, too."""

    def build(self, shape):
        super().build(shape)
        self.parts = keras.Sequential([self.wide, self.narrow])

    def call(self, x):
        return x + self.parts(x)


class Biased(Block):
    """A weight that is picked by whole numbers, which are a weight, too."""

    def build(self, shape):
        super().build(shape)
        self.table = self.add_weight(
            shape=(5, 4), initializer="random_normal", name="table"
        )
        self.index = self.add_weight(
            shape=(6,), dtype="int32", trainable=False, name="index"
        )
        self.index.assign([4, 3, 2, 1, 0, 2])

    def call(self, x):
        return self.hidden(x + ops.take(self.table, self.index, axis=0))


KINDS = [
    *(Flat, Token, Positions, Noted, Sequenced, Biased),
    *(Holding, CallsCached),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_width_inside_goes(kind):
    model, small = pruned(kind())
    # Half of the eight hidden channels, with a row, a column and a bias each.
    assert model.count_params() - small.count_params() >= 4 * (4 + 1 + 4)


@pytest.mark.parametrize("kind", [Flat, Token, Positions, Biased, Noted])
def test_it_holds_for_any_number_of_samples(kind):
    found = opened(kind(), keras.Input((6, 4)))
    assert not found.fixed
    assert found.model.inputs[0].shape == (None, 6, 4)


def test_empty_outputs():
    found = opened(Emptied(), keras.Input((6, 4)))
    assert not found.fixed
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    expected, got = helpers.run(found.layer, x), helpers.run(found.model, x)
    assert [y.shape for y in got] == [(3, 6, 4), (0, 3, 2)]
    assert np.allclose(expected[0], got[0], atol=1e-6)


def test_open_sizes_hold_for_single_ones():
    found = opened(Causal(), keras.Input((None, 4)))
    assert "sizes" in found.fixed
    assert None not in found.model.inputs[0].shape[1:]
    assert found.model.inputs[0].shape[0] is None


def test_sizes_of_a_trace_do_not_leak():
    x = keras.Input((None, 4))
    model = keras.Model(x, L.Dense(3)(Causal()(x)))
    for size in (5, 9):
        data = np.random.default_rng(0).normal(size=(3, size, 4))
        _, small = pruned(Causal(), None, x=data.astype("float32"))
    assert small.inputs[0].shape == model.inputs[0].shape
    assert small.outputs[0].shape == (None, None, 3)


def test_the_class_is_kept_where_sizes_are_open():
    _, small = pruned(Causal(name="causal"), None)
    assert type(small.get_layer("causal")) is Causal
    assert small.get_layer("causal").width == 4


def test_what_reads_its_own_notes_stays_closed():
    x = keras.Input((6, 4))
    layer = Counting()
    layer(x)
    found = trace.trace(layer._inbound_nodes[0], new_copies(), owned=False)
    assert "`calls`" in found.reason


class Averaged(Block):
    """Computes with the number of samples."""

    def call(self, x):
        return self.hidden(x) / ops.shape(x)[0]


def test_computing_with_the_number_of_samples_bars():
    layer = Averaged()
    layer.build((None, 6, 4))
    with known_output(layer, keras.KerasTensor((None, 6, 4))):
        layer(keras.Input((6, 4)))
    found = trace.trace(layer._inbound_nodes[0], new_copies(), owned=False)
    assert "the number of samples" in found.reason


def test_layers_that_a_model_inside_holds_too_bar():
    layer = Twice()
    layer(keras.Input((6, 4)))
    found = trace.trace(layer._inbound_nodes[0], new_copies(), owned=False)
    assert "also belongs to a model in it" in found.reason


def test_the_layer_is_left_as_it_was():
    layer = Noted()
    x = keras.Input((6, 4))
    layer(x)
    before = layer.steps
    nodes = len(layer._inbound_nodes), len(layer.wide._inbound_nodes)
    assert isinstance(
        trace.trace(layer._inbound_nodes[0], new_copies(), owned=False), Opened
    )
    assert layer.steps is before
    after = len(layer._inbound_nodes), len(layer.wide._inbound_nodes)
    assert after == nodes


def quick(x):
    return x * ops.sigmoid(1.702 * x)


def shifted(x):
    return ops.tanh(x) + 0.5


def mixing(x):
    return x / ops.sum(ops.abs(x), axis=-1, keepdims=True)


def per_channel(x):
    return x * ops.arange(8, dtype="float32")


@pytest.mark.parametrize("function", [quick, shifted, lambda x: ops.relu(x)])
def test_functions_of_single_numbers_are_activations(function):
    pruned(L.Dense(8, activation=function))


@pytest.mark.parametrize("function", [mixing, per_channel])
def test_functions_that_tell_channels_apart_bar(function):
    x = keras.Input((6, 4))
    model = keras.Model(x, L.Dense(3)(L.Dense(8, activation=function)(x)))
    with pytest.raises(ValueError, match=function.__name__):
        kg.surgeon.score(model, "l2")
