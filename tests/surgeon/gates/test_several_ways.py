"""Layers that are called in several ways, each traced by itself."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.graphs import private
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import see_through
from tests import helpers

PACKAGE = "tests.several_ways"


@keras.saving.register_keras_serializable(PACKAGE)
class Head(L.Layer):
    """What detectors call on feature maps of several sizes."""

    def __init__(self, filters, classes, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.classes = filters, classes
        self.tower = L.Conv2D(filters, 3, padding="same", name="tower")
        self.norm = L.BatchNormalization(name="norm")
        self.out = L.Conv2D(classes, 1, name="out")

    def build(self, shape):
        self.tower.build(shape)
        inner = (*shape[:-1], self.filters)
        self.norm.build(inner)
        self.out.build(inner)

    def call(self, x):
        x = ops.relu(self.norm(self.tower(x)))
        x = self.out(x)
        # Each size is another reshape.
        return ops.reshape(x, (-1, x.shape[1] * x.shape[2], self.classes))

    def get_config(self):
        more = {"filters": self.filters, "classes": self.classes}
        return {**super().get_config(), **more}


@keras.saving.register_keras_serializable(PACKAGE)
class Turn(L.Layer):
    """Turns pairs of channels by the step, for any number of heads."""

    def call(self, x, start=0):
        steps, size = x.shape[1], x.shape[-1]
        at = np.arange(start, start + steps)[:, None]
        angles = at / 10.0 ** (np.arange(size // 2) / size)
        cos, sin = (
            ops.cast(np.concatenate([f(angles)] * 2, -1)[:, None], x.dtype)
            for f in (np.cos, np.sin)
        )
        first, second = ops.split(x, 2, axis=-1)
        return x * cos + ops.concatenate([-second, first], axis=-1) * sin


@keras.saving.register_keras_serializable(PACKAGE)
class Either(L.Layer):
    """Goes one way or the other through layers of which one is common."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.common = L.Dense(units, activation="relu", name="common")
        self.up = L.Dense(5, name="up")
        self.down = L.Dense(3, name="down")

    def build(self, shape):
        self.common.build(shape)
        self.up.build((*shape[:-1], self.units))
        self.down.build((*shape[:-1], self.units))

    def call(self, x, up=True):
        x = self.common(x)
        return self.up(x) if up else self.down(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(PACKAGE)
class Scaled(L.Layer):
    """Uses its own weight, at any rank."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale")

    def call(self, x, twice=False):
        x = x * self.scale
        return x * 2.0 if twice else x


@keras.saving.register_keras_serializable(PACKAGE)
class ReadsKernel(L.Layer):
    """Calls a layer inside in one way and reads its kernel in the other."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = L.Dense(4, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x, directly=False):
        if directly:
            return ops.matmul(x, self.inner.kernel)
        return self.inner(x)


def pyramid():
    x = keras.Input((8, 8, 3))
    first = L.Conv2D(6, 3, padding="same", activation="relu", name="first")(x)
    second = L.Conv2D(6, 3, 2, padding="same", name="second")(first)
    head = Head(8, 4, name="head")
    y = L.Concatenate(axis=1)([head(first), head(second)])
    return keras.Model(x, y)


def rotary():
    x = keras.Input((6, 8))
    h = L.Dense(16, activation="relu", name="hidden")(x)
    turn = Turn(name="turn")
    q = turn(L.Reshape((6, 4, 4))(L.Dense(16, name="q")(h)))
    k = turn(L.Reshape((6, 2, 4))(L.Dense(8, name="k")(h)), start=2)
    y = L.Concatenate(axis=2)([q, k])
    return keras.Model(x, L.Dense(3, name="last")(L.Flatten()(y)))


def either():
    x = keras.Input((7,))
    h = L.Dense(8, activation="relu", name="hidden")(x)
    layer = Either(6, name="either")
    return keras.Model(x, [layer(h), layer(h, up=False)])


MODELS = {"pyramid": pyramid, "rotary": rotary, "either": either}


def disturbed(model):
    random = np.random.default_rng(1)
    for weight in model.weights:
        value = helpers.numpy_of(weight)
        weight.assign(value + random.uniform(0.05, 0.3, value.shape))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_each_way_has_parts_of_its_own(name, tmp_path):
    model = disturbed(MODELS[name]())
    graph = see_through.read(model)
    sites = [s for s in graph.sites if type(s.op).__module__ == __name__]
    assert len(sites) == 2
    opened = [s.opened for s in sites]
    assert all(isinstance(each, gr.Opened) for each in opened)
    assert opened[0] is not opened[1] and opened[0].twin is opened[1].twin
    assert all("several ways" in each.fixed for each in opened)

    before = [helpers.numpy_of(w) for w in model.weights]
    scores = kg.surgeon.score(model, "l2")
    rule = kg.Quantile(0.5, scope="gate")
    plan = kg.surgeon.plan(model, rule, scores=scores)
    small = plan.apply()
    assert small.count_params() < 0.75 * model.count_params()
    assert max(plan.verify(small).values()) < helpers.RTOL
    # The class is kept, at all of its calls.
    own = type(sites[0].op)
    assert [type(layer) for layer in small.layers].count(own) == 1
    layer = small.get_layer(sites[0].name)
    assert [n.operation for n in private.nodes_of(small)].count(layer) == 2
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:]))
    for a, b in zip(
        keras.tree.flatten(small(x)),
        keras.tree.flatten(again(x)),
        strict=True,
    ):
        np.testing.assert_array_equal(helpers.numpy_of(a), helpers.numpy_of(b))
    assert all(
        map(np.array_equal, before, map(helpers.numpy_of, model.weights))
    )


def test_what_is_inside_goes_from_all_ways():
    """The truth is the layer with those rows of its weights at zero."""
    model = disturbed(pyramid())
    scores = kg.surgeon.score(model, "l2")
    assert "head/tower" in scores
    scores = {
        name: np.arange(1.0, len(value) + 1) for name, value in scores.items()
    }
    plan = kg.surgeon.plan(
        model, kg.Quantile(0.5), scores={"head/tower": scores["head/tower"]}
    )
    small = plan.apply()
    assert small.get_layer("head").filters == 4
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    out = model.get_layer("head").out
    kernel, bias = out.get_weights()
    kernel[:, :, :4] = 0.0
    before = out.get_weights()
    out.set_weights([kernel, bias])
    want = helpers.numpy_of(model(x))
    out.set_weights(before)
    got = helpers.numpy_of(small(x))
    np.testing.assert_allclose(
        got, want, rtol=0, atol=helpers.RTOL * np.abs(want).max()
    )


def test_they_are_not_written_out():
    model = disturbed(pyramid())
    scores = kg.surgeon.score(model, "l2")
    with pytest.raises(ValueError, match=r"'head' is kept whole.*several ways"):
        kg.surgeon.plan(
            model, kg.Quantile(0.5), scores=scores, written_out=True
        )


def test_no_gate_comes_into_them():
    with pytest.raises(ValueError, match="can get gates.*'head'.*several ways"):
        kg.insert_gates(pyramid(), filters=1e-4)


@pytest.mark.parametrize(
    ("layer", "ways"),
    [
        (Scaled, ({"shape": (5, 4)}, {"shape": (4,)})),
        (ReadsKernel, ({}, {"directly": True})),
        (ReadsKernel, ({"directly": True}, {})),
    ],
)
def test_a_weight_that_is_not_common_keeps_it_closed(layer, ways):
    made, outputs, inputs = layer(name="own"), [], []
    for way in ways:
        rest = dict(way)
        inputs.append(keras.Input(rest.pop("shape", (4,))))
        outputs.append(made(inputs[-1], **rest))
    graph = expand.read(keras.Model(inputs, outputs))
    sites = [s for s in graph.sites if s.op is made]
    assert [s.opened for s in sites] == [None, None]
    assert all("in two ways" in s.opaque for s in sites)


def test_a_weight_that_is_used_alike_is_one():
    x = keras.Input((4,))
    h = L.Dense(6, name="hidden")(x)
    scaled = Scaled(name="scaled")
    both = L.Concatenate()([scaled(h), scaled(h, twice=True)])
    model = disturbed(keras.Model(x, L.Dense(2)(both)))
    scores = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    small = plan.apply()
    assert tuple(small.get_layer("scaled").scale.shape) == (3,)
    assert max(plan.verify(small).values()) < helpers.RTOL
