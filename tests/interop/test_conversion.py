"""To tf_keras and back, against the Keras 3 model itself."""

import keras
import numpy as np
import pytest

import keras_gates as kg
from keras_gates.interop import from_tf_keras
from keras_gates.interop import to_tf_keras
from tests import helpers
from tests import own_layers
from tests.surgeon import example_layers
from tests.surgeon import example_operations
from tests.surgeon import small_models as sm

BACKEND = keras.backend.backend()
if BACKEND != "tensorflow":
    pytest.skip("tf_keras needs TensorFlow", allow_module_level=True)
k2 = pytest.importorskip("tf_keras")

# The promise; other kernels sum in another order, and 1e-6 has been seen.
RTOL = 1e-5
# What Keras 2 has no layer for that could hold the weights.
REFUSED = {
    "RMSNormalization": "no counterpart in tf_keras",
    "ReversibleEmbedding": "no counterpart in tf_keras",
    "GroupQueryAttention": "no counterpart in tf_keras",
    "applications.convnext.LayerScale": "no counterpart in tf_keras",
    "StripConv": "no counterpart in tf_keras",
    "IntegerLookup": "no counterpart in tf_keras",
    "CategoryEncoding": "maximum supported output rank is 2",
    **dict.fromkeys(
        "RandomShear RandomSharpness RandomPerspective RandomGaussianBlur "
        "RandomErasing RandomElasticTransform RandomCrop MixUp CutMix".split(),
        "no counterpart in tf_keras",
    ),
}
EXAMPLES = example_layers.EXAMPLES + example_operations.EXAMPLES
SUBJECTS = {example.subject: example for example in reversed(EXAMPLES)}
MORE = [
    example
    for example in EXAMPLES
    if example is not SUBJECTS[example.subject]
    and (
        example.subject in ("Dense", "Activation", "LSTM", "GRU", "Reshape")
        or "with state" in example.note
        or "broadcast" in example.note
    )
    # A function of the tests' own.
    and example.note != "stranger"
]


def outputs(model, x):
    """The outputs of a model of tf_keras, as `helpers.run` gives them."""
    found = keras.tree.flatten(model(x, training=False))
    return [np.asarray(y, "float64") for y in found]


def inputs_for(model):
    x = helpers.inputs_for(model)
    whole = model.inputs[0].dtype == "int32"
    return np.arange(20).reshape(4, 5) % 10 if whole else x


def compare(model, x=None):
    """Equal, there and back; returns both."""
    x = inputs_for(model) if x is None else x
    expected = helpers.run(model, x)
    legacy = to_tf_keras(model)
    assert isinstance(legacy, k2.Model)
    there = helpers.differences(expected, outputs(legacy, x))
    back = from_tf_keras(legacy)
    again = helpers.differences(expected, helpers.run(back, x))
    assert max(there) < RTOL, there
    assert max(again) < RTOL, again
    return legacy, back


def ungated(example):
    """What the surgeon makes of an example with all its gates open."""
    model = helpers.randomize(example.build(), closed="none")
    return kg.surgeon.prune(model, 0.0)


@pytest.mark.parametrize("example", [*SUBJECTS.values(), *MORE], ids=str)
def test_every_layer_and_operation_with_a_rule(example):
    model = ungated(example)
    if example.subject in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[example.subject]):
            to_tf_keras(model)
    else:
        compare(model)


@pytest.mark.parametrize("make", sm.MODELS)
def test_pruned_models(make):
    compare(kg.surgeon.prune(make(), helpers.THRESHOLD))


def test_names_structures_and_flags_are_kept():
    model = kg.surgeon.prune(sm.siamese(), helpers.THRESHOLD)
    legacy, back = compare(model)
    assert set(legacy.input) == set(back.input) == {"left", "right"}
    assert set(legacy.output) == set(back.output)
    assert [w.name for w in legacy.inputs] == [w.name for w in back.inputs]
    chain = kg.surgeon.prune(sm.chain(), helpers.THRESHOLD)
    chain.get_layer("hidden").trainable = False
    legacy, back = compare(chain)
    names = ["features", "hidden", "out"]
    for found in (chain, legacy, back):
        assert [layer.name for layer in found.layers] == names
        assert not found.get_layer("hidden").trainable
        assert found.get_layer("out").trainable


def test_regularizers_and_mixed_precision_are_kept():
    regularizer = keras.regularizers.L2(0.25)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(
                3, kernel_regularizer=regularizer, dtype="mixed_bfloat16"
            ),
        ]
    )
    legacy = to_tf_keras(model)
    back = from_tf_keras(legacy)
    for found in (legacy.layers[-1], back.layers[-1]):
        assert float(found.kernel_regularizer.l2) == 0.25
        assert found.compute_dtype == "bfloat16"
        assert found.variable_dtype == "float32"


def test_the_new_model_shares_no_memory():
    model = sm.chain()
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    before = helpers.weights_digest(small)
    legacy = to_tf_keras(small)
    legacy.set_weights([w + 1 for w in legacy.get_weights()])
    assert helpers.weights_digest(small) == before


def test_a_saved_model_of_tf_keras_is_loaded(tmp_path):
    """With a gather and a scale, which are not layers of tf_keras."""
    for number, make in enumerate((sm.gated_input, sm.rescaled)):
        small = kg.surgeon.prune(make(), helpers.THRESHOLD)
        legacy = to_tf_keras(small)
        path = str(tmp_path / f"{number}.keras")
        legacy.save(path)
        x = helpers.inputs_for(small)
        loaded = outputs(k2.models.load_model(path), x)
        assert max(helpers.differences(helpers.run(small, x), loaded)) < RTOL


@pytest.mark.parametrize("make", [own_layers.images, own_layers.sequences])
def test_layers_of_the_users_own_are_written_out(make):
    model = helpers.randomize(make())
    before = helpers.fingerprint(model)
    compare(model)
    assert helpers.fingerprint(model) == before
    legacy = to_tf_keras(model)
    assert legacy.count_params() >= model.count_params()


def test_a_layer_that_cannot_be_written_out_says_why():
    model = keras.Sequential(
        [keras.Input((4,)), own_layers.Closed(3, name="strange")]
    )
    with pytest.raises(ValueError, match="'strange'.*written out: .*a loss"):
        to_tf_keras(model)


# What is refused -------------------------------------------------------------


@keras.saving.register_keras_serializable("keras_gates_tests")
class Own(keras.initializers.Zeros):
    """An initializer that tf_keras can't know."""


def refusals():
    L = keras.layers
    yield L.Dense(3, kernel_initializer=Own()), "Own has no counterpart"
    yield L.Lambda(helpers.noisy), "has no counterpart in tf_keras"
    yield L.LSTM(3, activation="celu"), "activation 'celu' has no counterpart"


@pytest.mark.parametrize(
    "layer, why", list(refusals()), ids=["initializer", "lambda", "activation"]
)
def test_what_has_no_counterpart_is_named(layer, why):
    layer.name = "strange"
    model = keras.Sequential([keras.Input((4, 5)), layer])
    with pytest.raises(ValueError, match=f"(?s)'strange'.*{why}"):
        to_tf_keras(model)


def legacy_refusals():
    L = k2.layers
    yield L.Lambda(lambda x: x + 1, name="strange"), "no counterpart in Keras 3"
    yield L.Dense(3, "hard_sigmoid", name="strange"), "'hard_sigmoid' has no"
    yield L.LSTM(3, time_major=True, name="strange"), "time_major=True"


@pytest.mark.parametrize(
    "layer, why",
    list(legacy_refusals()),
    ids=["lambda", "activation", "time first"],
)
def test_what_has_no_counterpart_in_keras_3_is_named(layer, why):
    model = k2.Sequential([k2.Input((4, 5)), layer])
    with pytest.raises(ValueError, match=f"(?s)'strange'.*{why}"):
        from_tf_keras(model)


def test_training_that_a_call_prescribes_is_refused():
    inputs = k2.Input((5,))
    norm = k2.layers.BatchNormalization(name="norm")
    model = k2.Model(inputs, norm(inputs, training=False))
    with pytest.raises(ValueError, match="'norm' is called with training"):
        from_tf_keras(model)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="a model of tf_keras. Received"):
        from_tf_keras(sm.chain())
    with pytest.raises(TypeError, match="must be a built Keras model"):
        to_tf_keras("model")
    with pytest.raises(ValueError, match="has no graph to read"):
        from_tf_keras(k2.Sequential([k2.layers.Dense(3)]))


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="TensorFlow backend. Received: jax"):
        to_tf_keras(sm.chain())
