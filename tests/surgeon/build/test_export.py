"""Exported models compute the same as the pruned model.

A freshly pruned model is exported, never called before: that is what users
do, and Keras' ONNX export asks functional models for a call.
"""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_gates.surgeon import prune
from tests import helpers
from tests.surgeon import small_models as sm

T = helpers.THRESHOLD
BACKEND = keras.backend.backend()
# Among them constants merged for the zero border, a gather on the input (a
# `keras.ops.take`), and a gate that stays as a Rescaling.
MODELS = [
    sm.constants,
    sm.gated_input,
    sm.rescaled,
    sm.sequential,
    sm.residual,
    sm.siamese,
]
# Other kernels sum in another order: the rounding of float32, as elsewhere.
RTOL = helpers.RTOL


def only_on(*backends):
    return pytest.mark.skipif(
        BACKEND not in backends,
        reason=f"Keras exports this on {' and '.join(backends)} only",
    )


def exported(make, path, **options):
    """Export a pruned model; returns it with inputs for it."""
    small = prune(make(), T)
    small.export(path, verbose=False, **options)
    return small, helpers.inputs_for(small, batch=5)


def compare(small, x, outputs):
    """Outputs, in whatever order, against the model's own."""
    expected = helpers.run(small, x)
    got = [np.asarray(y, "float64") for y in outputs]
    assert len(got) == len(expected)
    for y in expected:
        far = [
            helpers.differences([y], [other])[0]
            for other in got
            if other.shape == y.shape
        ]
        assert min(far) < RTOL, far


@only_on("tensorflow", "jax")
@pytest.mark.parametrize("make", MODELS)
def test_saved_model(make, tmp_path):
    tf = pytest.importorskip("tensorflow")
    small, x = exported(make, tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    outputs = served.serve(keras.tree.map_structure(tf.constant, x))
    compare(small, x, [y.numpy() for y in keras.tree.flatten(outputs)])


def named_inputs(names, x):
    """Arrays by input name; with one input, whatever its name is."""
    if isinstance(x, dict):
        return {n: x[next(k for k in x if k in n)] for n in names}
    return dict(zip(names, keras.tree.flatten(x), strict=True))


@only_on("tensorflow")
@pytest.mark.parametrize("make", MODELS)
def test_litert(make, tmp_path):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    path = tmp_path / "small.tflite"
    small, x = exported(make, path, format="litert")
    interpreter = litert.Interpreter(model_path=str(path))
    details = interpreter.get_input_details()
    arrays = named_inputs([detail["name"] for detail in details], x)
    for detail in details:
        shape = arrays[detail["name"]].shape
        interpreter.resize_tensor_input(detail["index"], shape)
    interpreter.allocate_tensors()
    for detail in details:
        interpreter.set_tensor(detail["index"], arrays[detail["name"]])
    interpreter.invoke()
    outputs = interpreter.get_output_details()
    compare(small, x, [interpreter.get_tensor(y["index"]) for y in outputs])


@only_on("tensorflow")
@pytest.mark.parametrize("make", MODELS)
def test_onnx(make, tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    path = tmp_path / "small.onnx"
    small, x = exported(make, path, format="onnx")
    session = runtime.InferenceSession(path)
    names = [entry.name for entry in session.get_inputs()]
    compare(small, x, session.run(None, named_inputs(names, x)))


# The .keras file, elsewhere -------------------------------------------------

LOADER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "keras_gates":
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
try:
    import keras_gates
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("keras_gates can be imported")

import keras
import numpy as np

for name in sys.argv[1:]:
    model = keras.models.load_model(name + ".keras")
    stored = np.load(name + ".npz")
    x = {n[2:]: stored[n] for n in stored.files if n.startswith("x_")}
    outputs = model(x["only"] if "only" in x else x, training=False)
    for number, y in enumerate(keras.tree.flatten(outputs)):
        expected = stored[f"y_{number}"]
        far = np.abs(keras.ops.convert_to_numpy(y) - expected).max()
        assert far <= 1e-6 * np.abs(expected).max(), (name, number, far)
print("same", len(sys.argv) - 1)
"""


@pytest.mark.once
def test_the_file_loads_where_keras_gates_is_not_installed(tmp_path):
    names = []
    for make in MODELS:
        model = prune(make(), T)
        x = helpers.inputs_for(model)
        name = str(tmp_path / model.name)
        names.append(name)
        model.save(f"{name}.keras")
        inputs = x if isinstance(x, dict) else {"only": x}
        outputs = enumerate(helpers.run(model, x))
        np.savez(
            f"{name}.npz",
            **{f"x_{key}": array for key, array in inputs.items()},
            **{f"y_{number}": y for number, y in outputs},
        )
    run = subprocess.run(
        [sys.executable, "-c", LOADER, *names],
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["same", str(len(MODELS))]
