"""Faults that models in the styles of public code have shown, by kind.

The truth is the user's own model with zeros in the kernels that make what is
closed.
"""

import warnings

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

WIDTH, CLOSED = 8, [1, 2, 5, 6]
HALF = kg.Quantile(0.5, scope="gate")


def scores(*names):
    values = np.ones(WIDTH)
    values[CLOSED] = 0.1
    return dict.fromkeys(names, values)


def zeroed(model, *names):
    """The outputs with zeros where the closed channels are made."""
    for name in names:
        layer = model.get_layer(name)
        kernel, bias = map(helpers.numpy_of, layer.weights)
        kernel[..., CLOSED] = bias[CLOSED] = 0
        layer.set_weights([kernel, bias])
    expected = helpers.run(model, helpers.inputs_for(model))
    assert min(helpers.variation(expected)) > 1e-3
    return expected


def loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras", safe_mode=False)


def assert_close(model, expected):
    x = helpers.inputs_for(model)
    far = helpers.differences(expected, helpers.run(model, x))
    assert max(far) < helpers.RTOL


# Shapes that a layer is made with -------------------------------------------


@keras.saving.register_keras_serializable("strangers")
class Told(L.Layer):
    """Its `compute_output_shape` goes by an argument, its `call` does not."""

    def __init__(self, width=WIDTH, **options):
        super().__init__(**options)
        self.width = width

    def call(self, x):
        return ops.relu(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def distance(tensors):
    return ops.abs(tensors[0] - tensors[1])


def test_a_lambda_with_an_output_shape():
    """The distance in a Siamese network, as tutorials write it."""
    x = keras.Input((4,))
    embedding = keras.Model(x, L.Dense(WIDTH, name="made")(x), name="base")
    pair = [keras.Input((4,)) for _ in range(2)]
    y = L.Lambda(distance, output_shape=(WIDTH,))([*map(embedding, pair)])
    model = keras.Model(pair, L.Dense(3, name="end")(y))
    helpers.randomize(model)
    plan = kg.surgeon.plan(model, 0.5, scores=scores("base/made"))
    small = plan.apply()
    assert small.get_layer("end").kernel.shape[0] == WIDTH - len(CLOSED)
    x = helpers.inputs_for(model)
    got = helpers.run(small, x)
    layer = embedding.get_layer("made")
    kernel, bias = map(helpers.numpy_of, layer.weights)
    kernel[:, CLOSED] = bias[CLOSED] = 0
    layer.set_weights([kernel, bias])
    expected = helpers.run(model, x)
    assert min(helpers.variation(expected)) > 1e-3
    assert max(helpers.differences(expected, got)) < helpers.RTOL


@pytest.mark.parametrize(
    "layer",
    [Told, lambda: L.Lambda(lambda x: 2 * ops.relu(x), output_shape=(WIDTH,))],
)
def test_the_shape_that_keras_infers_has_to_be_right(layer, tmp_path):
    x = keras.Input((4,))
    y = layer()(L.Dense(WIDTH, name="made")(x))
    model = keras.Model(x, L.Dense(3)(y))
    helpers.randomize(model)
    plan = kg.surgeon.plan(model, 0.5, scores=scores("made"))
    small = plan.apply()
    assert any("Keras infers an output of the shape" in n for n in plan.notes)
    expected = zeroed(model, "made")
    assert_close(small, expected)
    assert_close(loaded(small, tmp_path), expected)


@keras.saving.register_keras_serializable("strangers")
class Standardized(L.Conv2D):
    """A convolution with weight standardization, which is written out."""

    def convolution_op(self, x, kernel):
        mean = ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        size = ops.std(kernel, axis=(0, 1, 2), keepdims=True)
        return super().convolution_op(x, (kernel - mean) / (size + 1e-3))


def test_a_written_out_norm_after_a_written_out_bias_is_loaded(tmp_path):
    """The sizes of space are known on loading as well."""
    x = keras.Input((6, 6, 2))
    y = L.GroupNormalization(2)(Standardized(WIDTH, 3, name="made")(x))
    model = keras.Model(x, L.Dense(3)(L.Flatten()(ops.relu(y))))
    helpers.randomize(model)
    found = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, HALF, scores=found)
    small = plan.apply()
    assert small.count_params() < model.count_params()
    expected = helpers.run(small, helpers.inputs_for(model))
    assert max(plan.verify(small).values()) < helpers.RTOL
    assert_close(loaded(small, tmp_path), expected)


# What a plan counts ---------------------------------------------------------


@keras.saving.register_keras_serializable("strangers")
class Decoder(L.Layer):
    """Reads the kernel of another layer backwards, as tied autoencoders do."""

    def __init__(self, dense, **options):
        super().__init__(**options)
        self.dense = dense

    def build(self, shape):
        size = self.dense.kernel.shape[0]
        self.bias = self.add_weight(shape=(size,), name="bias")

    def call(self, x):
        return x @ ops.transpose(self.dense.kernel) + self.bias


def test_tied_weights_are_counted_once():
    x = keras.Input((6,))
    first = L.Dense(WIDTH, activation="relu", name="first")
    second = L.Dense(5, activation="relu")
    y = Decoder(second)(second(first(x)))
    model = keras.Model(x, Decoder(first)(ops.relu(y)))
    found = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, HALF, scores=found)
    small = plan.apply()
    assert plan.params == (model.count_params(), small.count_params())
    assert sum(row.params.before for row in plan.rows) == model.count_params()


@keras.saving.register_keras_serializable("strangers")
class Biased(L.Layer):
    """Attention with a table of relative positions, of which it looks up."""

    def __init__(self, heads, size, **options):
        super().__init__(**options)
        self.heads, self.size = heads, size
        self.qkv, self.out = L.Dense(3 * heads * size), L.Dense(6)

    def build(self, shape):
        steps = shape[1]
        self.qkv.build(shape)
        self.out.build((None, steps, self.heads * self.size))
        self.table = self.add_weight(
            shape=(2 * steps - 1, self.heads), name="table"
        )
        at = np.arange(steps)
        self.places = (at[:, None] - at + steps - 1).reshape(-1)
        self.built = True

    def call(self, x):
        steps = x.shape[1]
        y = ops.reshape(self.qkv(x), (-1, steps, 3, self.heads, self.size))
        query, key, value = ops.unstack(ops.transpose(y, (2, 0, 3, 1, 4)))
        bias = ops.take(self.table, self.places, axis=0)
        bias = ops.reshape(bias, (steps, steps, self.heads))
        products = query @ ops.swapaxes(key, -1, -2)
        products = products + ops.transpose(bias, (2, 0, 1))
        y = ops.transpose(ops.softmax(products) @ value, (0, 2, 1, 3))
        y = ops.reshape(y, (-1, steps, self.heads * self.size))
        return self.out(y)

    def get_config(self):
        own = {"heads": self.heads, "size": self.size}
        return {**super().get_config(), **own}


@pytest.mark.parametrize("written_out", [None, True])
def test_a_table_is_counted_as_it_is(written_out):
    x = keras.Input((5, 6))
    model = keras.Model(x, L.Dense(3)(L.Flatten()(Biased(4, 2)(x))))
    helpers.randomize(model)
    found = kg.surgeon.score(model, "l2")
    options = {} if written_out is None else {"written_out": True}
    plan = kg.surgeon.plan(model, HALF, scores=found, **options)
    small = plan.apply()
    assert plan.params == (model.count_params(), small.count_params())
    assert max(plan.verify(small).values()) < helpers.RTOL


# Modes ----------------------------------------------------------------------


@keras.saving.register_keras_serializable("strangers")
class Shaky(L.Layer):
    """Its `call` trains unless it is told otherwise."""

    def call(self, x, training=True):
        return x + 1.0 if training else x


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.RandomRotation(0.2),
        lambda: L.RandomContrast(0.5),
        lambda: L.RandomTranslation(0.2, 0.2),
        Shaky,
    ],
)
def test_a_repair_runs_the_model_in_inference(layer):
    x = keras.Input((6, 6, 2))
    y = L.Conv2D(WIDTH, 3, activation="relu", name="made")(layer()(x))
    model = keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(y)))
    helpers.randomize(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*samples are few.*")
        small = kg.surgeon.prune(
            model,
            0.5,
            scores=scores("made"),
            repair=helpers.inputs_for(model, batch=8),
        )
    assert small.get_layer("made").filters == WIDTH - len(CLOSED)


class Unbuilt(L.Layer):
    """Has no `build`, of which Keras warns; its `call` asks for a size."""

    def __init__(self, width=WIDTH, **options):
        super().__init__(**options)
        self.width = width
        self.dense = L.Dense(width)

    def call(self, x):
        return ops.reshape(self.dense(x), (-1, self.width))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_what_is_tried_does_not_warn():
    x = keras.Input((4,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = keras.Model(x, L.Dense(3)(Unbuilt(name="own")(x)))
    found = kg.surgeon.score(model, "l2")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        small = kg.surgeon.prune(model, HALF, scores=found)
    assert not any(issubclass(each.category, UserWarning) for each in told)
    assert small.get_layer("own").width == WIDTH // 2


# Messages -------------------------------------------------------------------


def shuffled(x):
    x = L.Reshape((*x.shape[1:-1], 2, x.shape[-1] // 2))(x)
    x = ops.swapaxes(x, -1, -2)
    return L.Reshape((*x.shape[1:-2], -1))(x)


def test_an_output_that_scores_cut_off_names_the_groups():
    x = keras.Input((4,))
    y = L.Dense(WIDTH, name="first")(x)
    for _ in range(2):
        left, right = ops.split(y, 2, axis=-1)
        right = L.Dense(WIDTH // 2, activation="relu")(right)
        y = shuffled(L.Concatenate()([left, right]))
    model = keras.Model(x, L.Dense(3)(y))
    found = kg.surgeon.score(model, "l2")
    closed = {n: np.arange(1.0, len(v) + 1) for n, v in found.items()}
    with pytest.raises(ValueError, match="no longer depends") as error:
        kg.surgeon.plan(model, kg.Quantile(0.75), scores=closed)
    text = str(error.value)
    assert "closed channels of 'first'" in text and "_scored" not in text


@pytest.mark.parametrize("change", ["lora", "int8"])
def test_layers_inside_of_others_are_named(change):
    x = keras.Input((5, 6))
    attention = L.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model(x, L.Dense(3)(attention(x, x)))
    if change == "lora":
        attention._query_dense.enable_lora(2)
        match = "'attention/query' has LoRA enabled"
    else:
        attention._query_dense.quantize("int8")
        match = "'attention/query' is quantized"
    with pytest.raises(ValueError, match=match):
        kg.surgeon.score(model, "l2")


def test_an_einsum_over_heads_at_unknown_sizes_is_solved():
    """A gate closes what a layer of several axes reads as a whole."""
    x = keras.Input((None, 6))
    heads = L.EinsumDense("btd,dhk->bthk", (None, 2, 4))(x)
    y = L.RMSNormalization()(heads)
    y = kg.LayerGate(name="gate")(y)
    y = L.EinsumDense("bthk,hkd->btd", (None, 5))(y)
    model = keras.Model(x, L.Dense(3)(L.Concatenate()([y, x])))
    model.get_layer("gate").factor.assign(0.0)
    small = kg.surgeon.prune(model, 0.5)
    inputs = np.random.default_rng(0).normal(size=(2, 3, 6)).astype("float32")
    far = helpers.differences(
        helpers.run(model, inputs), helpers.run(small, inputs)
    )
    assert max(far) < helpers.RTOL
