"""A gated model that Keras can save is one that it can load.

Keras doesn't restore a layer that is called both in a model and in a model
nested in it, so all calls of a gate have to be in one functional model.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers
from tests import own_layers

LENGTH, WIDTH = 4, 6


def data(model, seed=1):
    random = np.random.default_rng(seed)
    return [
        random.integers(0, 3, (4, *x.shape[1:])).astype("int32")
        if "int" in x.dtype
        else random.normal(size=(4, *x.shape[1:])).astype("float32")
        for x in model.inputs
    ]


def differ(one, other, x):
    both = (helpers.run(model, x) for model in (one, other))
    return max(helpers.differences(*both))


def places(model):
    """The models that call each layer."""
    found = {}
    for inner in model._flatten_layers():
        for layer in inner.layers if isinstance(inner, keras.Model) else ():
            found.setdefault(id(layer), set()).add(id(inner))
    return [*found.values()]


def check(model, tmp_path, tolerance=1e-5, **kinds):
    """Gate, save, load, copy, prune: always the same function."""
    x = data(model)
    x = x if len(x) > 1 else x[0]
    helpers.randomize(model, x=x)
    gated = kg.insert_gates(model, **kinds)
    assert differ(model, gated, x) < tolerance
    assert all(len(models) == 1 for models in places(gated))
    helpers.close(gated, "half", np.random.default_rng(0))
    plan = kg.surgeon.plan(gated, helpers.THRESHOLD)
    small = plan.apply()
    assert max(plan.verify(small, x).values()) < tolerance
    gated.save(tmp_path / "gated.keras")
    loaded = keras.saving.load_model(tmp_path / "gated.keras")
    made = type(gated).from_config(gated.get_config())
    cloned = keras.models.clone_model(gated)
    for copy in (made, cloned):
        copy.set_weights(gated.get_weights())
    for copy in (loaded, made, cloned):
        assert len(copy.weights) == len(gated.weights)
        assert differ(gated, copy, x) == 0
    again = kg.surgeon.plan(loaded, helpers.THRESHOLD)
    assert again.closed == plan.closed
    assert again.params == plan.params and again.macs == plan.macs
    assert differ(again.apply(), small, x) == 0
    return gated, plan, small


# Networks -------------------------------------------------------------------


@keras.saving.register_keras_serializable("loading")
class Block(L.Layer):
    """Attention and a feed-forward part on a stream."""

    def __init__(self, post=False, **options):
        super().__init__(**options)
        self.post, self.supports_masking = post, True
        self.attention = L.MultiHeadAttention(2, 3, name="attention")
        self.first = L.LayerNormalization(name="first")
        self.second = L.LayerNormalization(name="second")
        self.wide = L.Dense(8, activation="relu", name="wide")
        self.narrow = L.Dense(WIDTH, name="narrow")

    def build(self, shape):
        self.attention.build(shape, shape)
        for layer in (self.first, self.second, self.wide):
            layer.build(shape)
        self.narrow.build((*shape[:-1], 8))
        self.built = True

    def call(self, x):
        if self.post:
            x = self.first(x + self.attention(x, x))
            return self.second(x + self.narrow(self.wide(x)))
        y = self.first(x)
        x = x + self.attention(y, y)
        return x + self.narrow(self.wide(self.second(x)))

    def get_config(self):
        return {**super().get_config(), "post": self.post}


def blocks(post=False, count=2):
    inputs = keras.Input((LENGTH, 5), name="x")
    x = L.Dense(WIDTH, name="embed")(inputs)
    for number in range(count):
        x = Block(post, name=f"block_{number}")(x)
    x = L.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, L.Dense(3, name="logits")(x), name="blocks")


def part(name, shape=(WIDTH,), inner=()):
    """A residual part as a functional model."""
    inputs = keras.Input(shape, name=f"{name}_in")
    y = L.Dense(8, activation="relu", name="wide")(inputs)
    y = L.Add(name="add")([inputs, L.Dense(WIDTH, name="narrow")(y)])
    for model in inner:
        y = model(y)
    return keras.Model(inputs, y, name=name)


def nested(*parts, shape=(5,)):
    inputs = keras.Input(shape, name="x")
    x = L.Dense(WIDTH, name="embed")(inputs)
    for model in parts:
        x = model(x)
    x = L.Add(name="more")([x, L.Dense(WIDTH, name="beside")(x)])
    return keras.Model(inputs, L.Dense(3, name="logits")(x), name="nested")


def chain():
    """A Sequential on a stream."""
    inner = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            L.Dense(8, activation="relu", name="wide"),
            L.Dense(WIDTH, name="narrow"),
        ],
        name="chain",
    )
    inputs = keras.Input((5,), name="x")
    x = L.Dense(WIDTH, name="embed")(inputs)
    x = L.Add()([x, inner(x)])
    return keras.Model(inputs, L.Dense(3, name="logits")(x), name="chained")


def deep():
    return nested(part("outer", inner=[part("middle", inner=[part("inner")])]))


def twice():
    shared = part("shared")
    return nested(shared, part("other"), shared)


def images():
    inputs = keras.Input((6, 6, 2), name="x")
    x = L.Conv2D(6, 3, padding="same", name="stem")(inputs)
    x = own_layers.Residual(6, name="block_0")(x)
    x = own_layers.Residual(6, name="block_1")(x)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, L.Dense(3, name="logits")(x), name="images")


def both():
    """Blocks of a class in a functional model of the user's."""
    inputs = keras.Input((LENGTH, WIDTH), name="y")
    x = Block(name="block")(inputs)
    inner = keras.Model(inputs, x, name="inner")
    inputs = keras.Input((LENGTH, 5), name="x")
    x = inner(L.Dense(WIDTH, name="embed")(inputs))
    x = Block(name="block")(x)
    x = L.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, L.Dense(3, name="logits")(x), name="both")


NETWORKS = {
    "pre": blocks,
    "post": lambda: blocks(True),
    "one block": lambda: blocks(count=1),
    "nested": lambda: nested(part("part")),
    "two nested": lambda: nested(part("one"), part("other")),
    "deep": deep,
    "twice": twice,
    "chain": chain,
    "images": images,
    "both": both,
}
KINDS = {
    "filters": {"filters": 1e-3},
    "branches": {"filters": True, "branches": True},
    "weighed": {
        "filters": kg.transforms.GateSpec(strength=1e-3, weigh="macs")
    },
}


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_gated_models_are_loaded(network, kinds, tmp_path):
    check(NETWORKS[network](), tmp_path, **KINDS[kinds])
