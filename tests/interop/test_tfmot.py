"""The real tensorflow-model-optimization works on pruned models."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf_keras needs TensorFlow", allow_module_level=True)
k2 = pytest.importorskip("tf_keras")

# It asks for versions in a way that Python deprecates, and warns of what it
# passes over, which here is meant.
pytestmark = [
    pytest.mark.filterwarnings("ignore:distutils Version:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Lambda layers are not supported"),
]
RTOL = 1e-5  # as in test_conversion
X = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
Y = np.arange(32) % 10


@pytest.fixture(scope="module")
def small():
    """A pruned residual net with a gather, and a gate that stays."""
    inputs = keras.Input((8, 8, 1))
    x = block(inputs, "stem")
    y = kg.FilterGate(name="reader")(x)  # reads fewer channels than x has
    y = L.Conv2D(8, 3, padding="same", name="branch")(y)
    x = keras.ops.relu(x + y)
    x = L.GlobalAveragePooling2D()(x)
    x = kg.FilterGate(name="scale")(x)
    model = keras.Model(inputs, L.Dense(10, name="logits")(L.Softmax()(x)))
    helpers.randomize(model, closed="none")
    factors = np.linspace(0.6, 1.4, 8)
    model.get_layer("stem_gate").factor.assign([0.1] * 2 + [1.0] * 6)
    model.get_layer("reader").factor.assign(np.where(factors < 0.9, 0, factors))
    model.get_layer("scale").factor.assign(factors)
    pruned = kg.surgeon.prune(model, 0.5)
    kinds = {type(op).__name__ for op in pruned.operations}
    assert {"Take", "Rescaling", "Add", "Relu"} <= kinds
    return pruned


def block(x, name):
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name=name)(x)
    x = L.BatchNormalization(name=f"{name}_norm")(x)
    x = L.ReLU(name=f"{name}_relu")(x)
    return kg.FilterGate(name=f"{name}_gate")(x)


def tools():
    import tensorflow_model_optimization as tfmot

    return tfmot


@pytest.fixture(autouse=True)
def installed():
    try:
        tools()
    except ImportError:
        pytest.skip("tensorflow-model-optimization is not installed")


def train(model, callbacks=()):
    loss = k2.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(X, Y, epochs=2, verbose=0, callbacks=list(callbacks))
    return model


def kernels(model):
    return [helpers.numpy_of(w) for w in model.weights if w.name == "kernel"]


def same(legacy, model):
    expected = [np.asarray(legacy(X), "float64")]
    assert max(helpers.differences(expected, helpers.run(model, X))) < RTOL


def test_sparsity(small):
    sparsity = tools().sparsity.keras
    half = sparsity.ConstantSparsity(0.5, 0, frequency=1)
    legacy = kg.interop.to_tf_keras(small)
    wrapped = sparsity.prune_low_magnitude(legacy, pruning_schedule=half)
    train(wrapped, [sparsity.UpdatePruningStep()])
    stripped = sparsity.strip_pruning(wrapped)
    back = kg.interop.from_tf_keras(stripped)
    same(stripped, back)
    assert len(kernels(back)) == 3
    for kernel in kernels(back):
        # Half of an odd number is rounded.
        assert abs((kernel == 0).mean() - 0.5) <= 0.5 / kernel.size


def test_clustering(small):
    clustering = tools().clustering.keras
    wrapped = clustering.cluster_weights(
        kg.interop.to_tf_keras(small),
        number_of_clusters=4,
        cluster_centroids_init=clustering.CentroidInitialization.LINEAR,
    )
    stripped = clustering.strip_clustering(train(wrapped))
    back = kg.interop.from_tf_keras(stripped)
    same(stripped, back)
    assert len(kernels(back)) == 3
    assert all(len(np.unique(kernel)) <= 4 for kernel in kernels(back))


def test_quantisation_aware_training_and_its_litert_model(small, tmp_path):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    tf = pytest.importorskip("tensorflow")
    aware = tools().quantization.keras.quantize_model(
        kg.interop.to_tf_keras(small)
    )
    train(aware)
    aware.export(str(tmp_path / "aware"))
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "aware")
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    interpreter = litert.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    kinds = [d["dtype"] for d in interpreter.get_tensor_details()]
    assert kinds.count(np.int8) > 5
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]
    got = []
    for image in X:
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        got.append(interpreter.get_tensor(result)[0])
    expected = aware(X, training=False).numpy()
    # A step of eight bits is 1/255 of a range; a few are off by a few steps.
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()


def test_what_is_still_wrapped_is_refused(small):
    aware = tools().quantization.keras.quantize_model(
        kg.interop.to_tf_keras(small)
    )
    with pytest.raises(ValueError, match="strip_pruning"):
        kg.interop.from_tf_keras(aware)
