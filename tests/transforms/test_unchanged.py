"""With nothing closed, a copy computes what the model does.

Every public transform on ordinary models, `prune` among them, and on models
with layers of the user's own, which are seen through. Where the
documentation says that a transform changes the function, the test says so.
"""

import re

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates import transforms as tr
from keras_gates.surgeon.verifying import sample_inputs
from tests import helpers
from tests import own_layers

# Copies of a layer compute bit by bit the same, but for the shape that a
# backend's threads and fused kernels give a sum.
EXACT = 1e-6
# A factor that is multiplied into a kernel is one more rounding each.
FOLDED = 1e-5


def conv_block(x, filters, axis=-1, **options):
    x = L.Conv2D(filters, 3, padding="same", use_bias=False, **options)(x)
    return L.ReLU()(L.BatchNormalization(axis)(x))


def cnn():
    x = keras.Input((8, 8, 3))
    y = L.MaxPooling2D()(conv_block(x, 6))
    y = L.Conv2D(8, 3, activation="tanh", padding="same")(y)
    y = L.Dropout(0.3)(L.Flatten()(y))
    y = L.Dense(8, activation="gelu")(y)
    return keras.Model(x, L.Dense(3, activation="softmax")(y))


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(6, 3, padding="same", activation="silu"),
            L.BatchNormalization(),
            L.AveragePooling2D(2),
            L.Conv2D(8, 3, padding="same"),
            L.LeakyReLU(0.2),
            L.GlobalMaxPooling2D(),
            L.Dense(3),
        ]
    )


def residual():
    x = keras.Input((8, 8, 3))
    y = conv_block(x, 6)
    for _ in range(2):
        z = L.Conv2D(6, 3, padding="same")(conv_block(y, 6))
        y = L.ReLU()(L.Add()([y, L.BatchNormalization()(z)]))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(y)))


def several():
    """Two inputs, a dict of outputs, and operations without a layer."""
    image, facts = keras.Input((8, 8, 3)), keras.Input((5,))
    y = L.GlobalAveragePooling2D()(conv_block(image, 6))
    z = L.Dense(6, activation="elu")(facts)
    both = ops.concatenate([y * 0.5, z], axis=-1)
    both = L.Dense(8, activation="relu")(both) + 1.0
    outputs = {"class": L.Dense(3, activation="softmax")(both)}
    outputs["size"] = L.Dense(1)(ops.maximum(y, z))
    return keras.Model([image, facts], outputs)


def tokens():
    x = keras.Input((7,), dtype="int32")
    y = L.Embedding(20, 6, mask_zero=True)(x)
    y = L.Bidirectional(L.LSTM(4, return_sequences=True))(y)
    y = L.GRU(5)(y)
    return keras.Model(x, L.Dense(2)(L.Dense(6, activation="relu")(y)))


def sequence():
    x = keras.Input((9, 4))
    y = L.Conv1D(6, 3, padding="same", activation="relu")(x)
    y = L.Dense(4, activation="tanh")(y)
    z = L.MultiHeadAttention(2, 3)(y, y)
    y = L.LayerNormalization()(L.Add()([y, z]))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(y)))


def shared():
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    conv = L.Conv2D(6, 3, padding="same", activation="relu")
    dense = L.Dense(5, activation="tanh")
    pool = L.GlobalAveragePooling2D()
    y, z = (dense(pool(conv(x))) for x in (a, b))
    return keras.Model([a, b], L.Dense(2)(L.Subtract()([y, z])))


def nested():
    x = keras.Input((8, 8, 3))
    tower = keras.Sequential(
        [keras.Input((8, 8, 6)), L.Conv2D(6, 3, padding="same"), L.ReLU()]
    )
    inner = keras.Input((8, 8, 6))
    block = keras.Model(inner, L.Add()([inner, conv_block(inner, 6)]))
    y = block(tower(conv_block(x, 6)))
    y = L.GlobalAveragePooling2D()(tower(block(y)))
    return keras.Model(x, L.Dense(3)(y))


def separable():
    x = keras.Input((8, 8, 3))
    y = L.SeparableConv2D(6, 3, padding="same", activation="relu")(x)
    y = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(y)
    y = L.ReLU(6.0)(L.BatchNormalization()(y))
    y = L.Conv2D(8, 1, groups=2)(y)
    y = L.Conv2DTranspose(4, 3, strides=2)(y)
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(y)))


def channels_first():
    layout = {"data_format": "channels_first"}
    x = keras.Input((3, 8, 8))
    y = L.MaxPooling2D(**layout)(conv_block(x, 6, 1, **layout))
    y = L.Conv2D(8, 3, activation="relu", **layout)(y)
    return keras.Model(x, L.Dense(3)(L.Flatten(**layout)(y)))


MODELS = [
    *(cnn, sequential, residual, several, tokens, sequence, shared),
    *(nested, separable, channels_first),
    *(own_layers.images, own_layers.sequences, own_layers.nested),
]


def scored(model, **options):
    """Pruned with scores, nothing closed."""
    scores = kg.surgeon.score(model, "l2")
    return kg.surgeon.prune(model, kg.Quantile(0.0), scores=scores, **options)


def gates(**kinds):
    return lambda model: kg.insert_gates(model, **kinds)


def gated(transform):
    """A transform of the model with gates, all of them open."""
    return lambda model: transform(kg.insert_gates(model, filters=True))


def of_shortcuts(model):
    return kg.insert_gates(model, layers=True, mismatch="skip")


def none_deleted(model):
    name = next(iter(kg.surgeon.score(model, "l2")))
    return kg.surgeon.delete_channels(model, name, [])


def identity_inserted(model):
    name = next(iter(kg.surgeon.score(model, "l2")))
    linear = L.Activation("linear", name="inserted")
    return kg.surgeon.insert_layer(model, name, linear)


def identity_deleted(model):
    return kg.surgeon.delete_layer(identity_inserted(model), "inserted")


ROWS = {
    "prune by scores": (scored, EXACT),
    "prune by scores, exact=False": (lambda m: scored(m, exact=False), EXACT),
    "prune by gates": (gated(lambda m: kg.surgeon.prune(m, 0.0)), FOLDED),
    "insert_gates filters": (gates(filters=True), EXACT),
    "insert_gates layers": (gates(layers=True), EXACT),
    "insert_gates branches": (gates(branches=True), EXACT),
    "insert_gates blocks": (gates(blocks=True), EXACT),
    "to_resconv": (kg.to_resconv, EXACT),
    "to_stripconv": (kg.to_stripconv, EXACT),
    "to_dense": (lambda m: kg.to_dense(kg.to_stripconv(m)), EXACT),
    "fuse": (kg.fuse, FOLDED),
    "fuse ResConvs": (lambda m: kg.fuse(kg.to_resconv(m)), FOLDED),
    "normalize_gammas": (
        lambda m: tr.normalize_gammas(kg.to_resconv(m)),
        FOLDED,
    ),
    "separate_shortcuts": (kg.separate_shortcuts, EXACT),
    "simplify_selections": (
        lambda m: tr.simplify_selections(kg.separate_shortcuts(m)),
        EXACT,
    ),
    "slim": (lambda m: kg.slim(m, 1e-4), EXACT),
    "binarize": (gated(lambda m: kg.binarize(m, 0.5)), EXACT),
    "drop_betas": (lambda m: tr.drop_betas(m, {"batch_norm": 0.0}), EXACT),
    "drop_shortcuts": (
        lambda m: tr.drop_shortcuts(of_shortcuts(m), 0.5),
        EXACT,
    ),
    "prune, drop_shortcuts": (
        lambda m: kg.surgeon.prune(of_shortcuts(m), 0.5, drop_shortcuts=True),
        FOLDED,
    ),
    "delete_channels": (none_deleted, EXACT),
    "insert_layer": (identity_inserted, EXACT),
    "delete_layer": (identity_deleted, EXACT),
}
# What a transform says where a model has nothing for it.
LACKING = re.compile(
    "No (filters|layers|branches|blocks) of this model can get gates|No "
    "convolution of model .* can be a ResConv|no shortcut to separate|finds "
    "no layer with stripes|has no batch normalization|has no gates"
)
# These have something for each.
WHOLE = (residual, nested, own_layers.images)


def ready(make):
    if make is channels_first and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no such convolutions on a CPU")
    model = make()
    (x,) = sample_inputs.batches(model, None, 6, 0)
    return helpers.randomize(model, x=x), x


def apart(model, other, x):
    expected, got = helpers.run(model, x), helpers.run(other, x)
    assert min(helpers.variation(expected)) > 1e-3
    return max(helpers.differences(expected, got))


# These take what to close, and change the function if that is something.
DECIDE = {"binarize", "drop_betas", "drop_shortcuts"}
# These are no transforms, or are tested through another row.
OTHERS = {
    *("added_shortcuts", "find_convolutions", "find_structure"),
    "functional",  # of models that have no graph yet
}


def test_every_transform_has_a_row():
    """With its default arguments, but for DECIDE: those close nothing here."""
    public = {n for n in tr.__all__ if not n[0].isupper()} - OTHERS
    rows = {name.split()[0] for name in ROWS}
    assert public - rows == set()
    assert rows >= DECIDE


@pytest.mark.parametrize("make", MODELS)
def test_nothing_closed_is_nothing_changed(make):
    model, x = ready(make)
    before = helpers.fingerprint(model)
    done = []
    for name, (transform, tolerance) in ROWS.items():
        try:
            other = transform(model)
        except ValueError as error:
            assert LACKING.search(str(error)), f"{name}: {error}"
            continue
        assert other is not model
        far = apart(model, other, x)
        assert far <= tolerance, f"{name}: {far:.2g}"
        done.append(name)
    assert helpers.fingerprint(model) == before
    assert len(done) == len(ROWS) if make in WHOLE else len(done) > 8


# Where the documentation says that the function changes --------------------


def half(model):
    for gate in helpers.gates_of(model):
        gate.factor.assign(0.5 * np.ones(gate.factor.shape))
    return model


CONSTANT = keras.initializers.Constant(0.5)
CHANGES = {
    "insert_gates(start='residual')": (
        lambda m: kg.insert_gates(
            m, layers=True, mismatch="skip", start="residual"
        )
    ),
    "insert_gates(initializer='uniform')": (
        lambda m: kg.insert_gates(m, filters=tr.GateSpec(initializer="uniform"))
    ),
    "to_resconv(start='residual')": (
        lambda m: kg.to_resconv(m, start="residual")
    ),
    "slim(gamma_initializer)": (
        lambda m: kg.slim(m, 1e-4, gamma_initializer=CONSTANT)
    ),
    "binarize of open factors": (
        lambda m: kg.binarize(half(kg.insert_gates(m, filters=True)), 0.1)
    ),
    "drop_betas of closed gammas": (
        lambda m: tr.drop_betas(m, {"batch_norm": kg.Quantile(0.5)})
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_the_function_by_design(name):
    model, x = ready(residual)
    other = CHANGES[name](model)
    base = model
    if "binarize" in name:
        base = half(kg.insert_gates(model, filters=True))
    assert apart(base, other, x) > 1e-3
