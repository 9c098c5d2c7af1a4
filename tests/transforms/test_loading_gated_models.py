"""A gated model that Keras can save is one that it can load.

Keras doesn't restore a layer that is called both in a model and in a model
nested in it, so all calls of a gate have to be in one functional model.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import depth_models as dm
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
SEVERAL = {
    "depth": (blocks, {"filters": True, "branches": True, "heads": True}),
    "blocks": (both, {"filters": True, "blocks": 1e-3, "heads": 1e-3}),
    "layers": (images, {"filters": 1e-3, "layers": True}),
    "weighed": (
        twice,
        {"filters": kg.transforms.GateSpec(strength=1e-3, weigh="macs")},
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_gated_models_are_loaded(network, tmp_path):
    check(NETWORKS[network](), tmp_path, filters=1e-3)


@pytest.mark.parametrize("case", SEVERAL)
def test_gates_of_several_kinds_are_loaded(case, tmp_path):
    network, kinds = SEVERAL[case]
    check(network(), tmp_path, **kinds)


def test_layers_are_named_after_the_model_that_they_were_in():
    gated = kg.insert_gates(blocks(), filters=True, branches=True)
    names = [layer.name for layer in gated.layers]
    # What was nowhere else has a number no more, and the shared gate its name.
    for n in (0, 1):
        assert f"block_{n}_wide" in names
        assert f"block_{n}_wide_filter_gate" in names
        assert f"block_{n}_attention_branch_gate" in names
    assert "embed_filter_gate" in names
    assert len({*names}) == len(names)
    calls = gated.get_layer("embed_filter_gate")._inbound_nodes
    assert len(calls) == 5


def test_models_that_share_nothing_stay_nested():
    spec = kg.transforms.GateSpec(include="*/wide")
    gated = kg.insert_gates(nested(part("one"), part("other")), filters=spec)
    for name in ("one", "other"):
        inner = gated.get_layer(name)
        assert any(x.name.startswith("wide_filter_gate") for x in inner.layers)
    gated = kg.insert_gates(images(), blocks=True, written_out=False)
    assert type(gated.get_layer("block_0")) is own_layers.Residual


def test_only_as_many_models_are_dissolved_as_have_to_be():
    inner = nested(part("part"), shape=(5,))
    inputs = keras.Input((5,), name="z")
    outer = keras.Model(inputs, L.Dense(2, name="last")(inner(inputs)))
    gated = kg.insert_gates(outer, filters=True)
    names = [layer.name for layer in gated.get_layer("nested").layers]
    assert "part_wide" in names and "embed_filter_gate" in names


# How nested models are called ------------------------------------------------


def called(call, inner, shape=(LENGTH, 5), inputs=()):
    """A nested model on a stream, called in some way."""
    x = keras.Input(shape, name="x")
    y = call(L.Dense(WIDTH, name="embed")(x), inner)
    y = L.Add(name="more")([y, L.Dense(WIDTH, name="beside")(y)])
    y = L.LSTM(3, name="last")(y) if len(shape) > 1 else y
    return keras.Model([x, *inputs] if inputs else x, L.Dense(2)(y))


def recurrent():
    inputs = keras.Input((LENGTH, WIDTH), name="i")
    y = L.LSTM(4, return_sequences=True, name="lstm")(inputs)
    y = L.Add(name="add")([inputs, L.Dense(WIDTH, name="dense")(y)])
    return keras.Model(inputs, y, name="inner")


@pytest.mark.parametrize("training", [True, False])
def test_what_a_nested_model_is_told_is_told_to_its_layers(training, tmp_path):
    inputs = keras.Input((WIDTH,), name="i")
    y = L.Dense(8, activation="relu", name="wide")(inputs)
    y = L.BatchNormalization(name="norm")(y)
    y = L.Add(name="add")([inputs, L.Dense(WIDTH, name="narrow")(y)])
    inner = keras.Model(inputs, y, name="inner")
    model = called(lambda x, m: m(x, training=training), inner, (5,))
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    helpers.randomize(model, x=x)
    gated = kg.insert_gates(model, filters=True)
    assert (
        gated.get_layer("inner_norm")
        ._inbound_nodes[-1]
        .arguments.kwargs["training"]
        is training
    )
    # Without a word from outside, what is told inside counts.
    before, after = (helpers.numpy_of(m(x)) for m in (model, gated))
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)
    gated.save(tmp_path / "gated.keras")
    loaded = keras.saving.load_model(tmp_path / "gated.keras")
    np.testing.assert_allclose(
        helpers.numpy_of(loaded(x)), after, rtol=1e-5, atol=1e-6
    )


@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
def test_masks_that_tensors_carry_into_a_nested_model(tmp_path):
    inputs = keras.Input((LENGTH,), dtype="int32", name="x")
    x = L.Embedding(3, WIDTH, mask_zero=True, name="embed")(inputs)
    x = recurrent()(x)
    x = L.Add()([x, L.Dense(WIDTH, name="beside")(x)])
    x = L.LSTM(3, name="last")(x)
    model = keras.Model(inputs, L.Dense(2, name="logits")(x))
    gated, *_ = check(model, tmp_path, filters=True, branches=True)
    assert "inner" not in [layer.name for layer in gated.layers]


def test_nested_models_of_another_type(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = nested(part("one"), part("other"))
    finally:
        keras.config.set_dtype_policy("float32")
    gated = kg.insert_gates(model, filters=True)
    x = data(model)[0]
    assert differ(model, gated, x) == 0
    gated.save(tmp_path / "gated.keras")
    loaded = keras.saving.load_model(tmp_path / "gated.keras")
    assert differ(gated, loaded, x) == 0


def in_steps():
    return called(
        lambda x, m: L.TimeDistributed(m, name="steps")(x), part("part")
    )


def with_mask():
    mask = keras.Input((LENGTH,), dtype="bool", name="mask")
    return called(lambda x, m: m(x, mask=mask), recurrent(), inputs=[mask])


@keras.saving.register_keras_serializable("loading")
class Deaf(L.Layer):
    """Layers that ask for `training` in one that doesn't take it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.drop = L.Dropout(0.5, seed=1, name="drop")
        self.norm = L.UnitNormalization(name="unit")

    def call(self, x):
        return self.norm(self.drop(x))


def deaf():
    inputs = keras.Input((WIDTH,), name="i")
    y = L.Dense(8, activation="relu", name="wide")(inputs)
    y = L.Dense(WIDTH, name="narrow")(Deaf(name="deaf")(y))
    inner = keras.Model(inputs, L.Add()([inputs, y]), name="inner")
    return called(lambda x, m: m(x, training=True), inner, (5,))


APART = {
    "in steps": (in_steps, "calls its model step by step"),
    "with a mask": (with_mask, "with a mask that its input does not carry"),
    "with training": (deaf, "`training`, which 'deaf' in it does not take"),
}


@pytest.mark.parametrize("case", APART)
@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
def test_no_gate_is_in_models_that_have_to_stay_apart(case, tmp_path):
    make, reason = APART[case]
    model = make()
    found = kg.transforms.find_structure(model).filters
    assert any(reason in one.reason for one in found)
    gated = kg.insert_gates(model, filters=True)
    assert all(len(models) == 1 for models in places(gated))
    gated.save(tmp_path / "gated.keras")
    loaded = keras.saving.load_model(tmp_path / "gated.keras")
    assert len(loaded.weights) == len(gated.weights)


# What else knows of the layers -----------------------------------------------


@pytest.mark.filterwarnings("ignore:The new model .* is not of the class")
def test_the_class_of_a_nested_model_comes_back():
    inner = dm.Backbone(3, name="backbone")
    inputs = keras.Input((dm.LENGTH, 5))
    x = L.GlobalAveragePooling1D()(inner(inputs))
    model = dm.randomized(keras.Model(inputs, L.Dense(3, name="logits")(x)))
    gated = kg.insert_gates(model, branches=True, filters=True)
    backbone = gated.get_layer("backbone")
    # Blocks are dissolved into the backbone, and that stays a model.
    assert "block_1_wide" in [layer.name for layer in backbone.layers]
    for gate in helpers.gates_of(gated):
        if gate.name.startswith("block_1") and "branch" in gate.name:
            gate.factor.assign(0.0)
        elif "wide_filter" in gate.name:
            gate.factor.assign([0.0, 1.0] * (dm.HIDDEN // 2))
    small = kg.surgeon.prune(gated, 0.5)
    backbone = small.get_layer("backbone")
    assert type(backbone) is dm.Backbone
    assert (backbone.num_layers, backbone.hidden) == (2, dm.HIDDEN // 2)
    assert max(kg.surgeon.verify(gated, small, 0.5).values()) < 1e-5


def test_checkpoints_of_the_whole_model(tmp_path):
    model = nested(part("part"))
    gated = kg.insert_gates(model, filters=1e-2)
    gated.compile("adam", "mse")
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 5)).astype("float32")
    y = random.normal(size=(8, 3)).astype("float32")
    path = tmp_path / "gated.keras"
    callbacks = [
        keras.callbacks.ModelCheckpoint(path),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
    ]
    helpers.fit(gated, x, y, epochs=2, verbose=0, callbacks=callbacks)
    loaded = keras.saving.load_model(path)
    assert differ(gated, loaded, x) == 0
    assert len(loaded.optimizer.variables) == len(gated.optimizer.variables)
    for each in (gated, loaded):
        helpers.fit(each, x, y, epochs=1, verbose=0, shuffle=False)
    assert differ(gated, loaded, x) < 1e-5
