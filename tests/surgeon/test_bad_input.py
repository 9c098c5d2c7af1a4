"""What is refused: by a clear error, and with nothing changed."""

import threading

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon import plan
from keras_gates.surgeon import prune
from keras_gates.surgeon import verify
from tests import helpers
from tests.surgeon import small_models as sm
from tests.surgeon.refusals import compiled
from tests.surgeon.refusals import refuse

T = helpers.THRESHOLD
NAN = float("nan")


# Arguments ---------------------------------------------------------------

ARGUMENTS = [
    ({"thresholds": NAN}, ValueError, "`thresholds`.*finite"),
    ({"thresholds": -1}, ValueError, "`thresholds`.*at least 0"),
    ({"thresholds": True}, TypeError, "`thresholds`.*bool"),
    ({"thresholds": "half"}, TypeError, "`thresholds`.*str"),
    ({"thresholds": None}, TypeError, "`thresholds`.*NoneType"),
    ({"thresholds": {"filters": T}}, ValueError, "'filters'.*gate1, gate2"),
    ({"thresholds": {"gate9": T}}, ValueError, "'gate9'.*gate1, gate2"),
    ({"thresholds": {"gate1": NAN}}, ValueError, r"`thresholds\['gate1'\]`"),
    ({"keep_at_least": -1}, ValueError, "`keep_at_least`.*at least 0"),
    ({"keep_at_least": 1.5}, TypeError, "`keep_at_least`.*float"),
    ({"keep_at_least": True}, TypeError, "`keep_at_least`.*bool"),
    ({"keep_at_least": {"conv1": 1}}, ValueError, "`keep_at_least`.*conv1"),
    ({"round_to": 0}, ValueError, "`round_to`.*at least 1.*0"),
    ({"round_to": 2.0}, TypeError, "`round_to`.*int.*2.0"),
    ({"round_to": True}, TypeError, "`round_to`.*int.*True"),
    ({"exact": "no"}, TypeError, "`exact`.*'no'.*str"),
    ({"exact": 1}, TypeError, "`exact`.*int"),
    ({"exact": None}, TypeError, "`exact`.*NoneType"),
]


@pytest.mark.parametrize("arguments, error, match", ARGUMENTS)
def test_arguments(arguments, error, match):
    model = compiled(sm.convnet())
    arguments = {"thresholds": T, **arguments}
    for call in (plan, prune):
        refuse(model, lambda: call(model, **arguments), error, match)  # noqa: B023


@keras.saving.register_keras_serializable(package="keras_gates_tests")
class Subclassed(keras.Model):
    def call(self, x):
        return x


NO_MODELS = [
    (lambda: 3, TypeError, "built Keras model.*3.*int"),
    (lambda: None, TypeError, "built Keras model.*NoneType"),
    (lambda: L.Dense(3, name="lone"), TypeError, "lone.*Dense"),
    (lambda: keras.Model, TypeError, "built Keras model"),
    (
        lambda: keras.Sequential([L.Dense(3)], name="open"),
        ValueError,
        "'open' is not built.*keras.Input",
    ),
    (
        lambda: Subclassed(name="sub"),
        ValueError,
        r"'sub'.*Subclassed.*subclassed.*keras_gates\.functional\(model, x\)",
    ),
    (
        lambda: keras.Sequential([keras.Input((3,)), L.Dense(3)], name="bare"),
        ValueError,
        "'bare' has no gates.*FilterGate",
    ),
]


@pytest.mark.parametrize("make, error, match", NO_MODELS)
def test_what_is_no_gated_built_model(make, error, match):
    for call in (plan, prune):
        with pytest.raises(error, match=match):
            call(make(), T)


def test_a_pruned_model_has_no_gates_left_to_prune():
    model = sm.chain()
    small = prune(model, T)
    refuse(small, lambda: prune(small, T), ValueError, "'chain' has no gates")


# Layers that can't be cut ------------------------------------------------


class NoConfig(L.Layer):
    """Keras can't tell its config: an argument is no plain value."""

    def __init__(self, setting, **kwargs):
        super().__init__(**kwargs)
        self.held = [setting]  # under another name than the argument's

    def call(self, x):
        return 2 * x


class Forgetful(L.Layer):
    """Its config forgets an argument, so it comes back at another size."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.mix = self.add_weight(shape=(shape[-1], self.units), name="mix")

    def call(self, x):
        return keras.ops.matmul(x, self.mix)

    def get_config(self):
        return L.Layer.get_config(self)


def behind_gate(layer):
    inputs = keras.Input((5,))
    x = L.Dense(8, name="hidden")(inputs)
    x = layer(kg.FilterGate(name="gate")(x))
    return helpers.randomize(keras.Model(inputs, L.Dense(3, name="out")(x)))


def locked(layer):
    """A layer with what Python can't copy."""
    layer.lock = threading.Lock()
    return layer


def quantised():
    model = sm.chain()
    model.get_layer("out").quantize("int8")
    return model


def with_lora():
    model = sm.chain()
    model.get_layer("out").enable_lora(2)
    return model


class Holder(helpers.Opaque):
    """Calls a model with a gate in it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        gate = kg.FilterGate(name="inner")
        self.tower = keras.Sequential([keras.Input((5,)), gate])

    def function(self, x):
        return self.tower(x)


def gate_inside():
    inputs = keras.Input((5,))
    return keras.Model(inputs, L.Dense(3)(Holder(name="wrapper")(inputs)))


def spoilt(value):
    return lambda: sm.set_gates(sm.chain(), gate=[value] + [1.0] * 7)


LAYERS = [
    (quantised, "'out' is quantized.*Prune the model first"),
    (with_lora, "'out' has LoRA enabled.*without LoRA"),
    (gate_inside, "'inner' is inside 'wrapper'.*Holder"),
    (
        lambda: behind_gate(NoConfig(threading.Lock(), name="odd")),
        "'odd'.*NoConfig.*can't be recreated.*get_config",
    ),
    (
        lambda: behind_gate(locked(Forgetful(4, name="odd"))),
        "'odd'.*Forgetful.*`lock` is.*get_config",
    ),
    (spoilt(NAN), "'gate' has factors that are not finite"),
    (spoilt(float("inf")), "'gate' has factors that are not finite"),
]


@pytest.mark.parametrize("make, match", LAYERS)
def test_layers(make, match):
    model = make()
    refuse(model, lambda: prune(model, T), ValueError, f"(?s){match}")


def test_the_remedy_for_lora_works(tmp_path):
    model = with_lora()
    out = model.get_layer("out")
    out.lora_kernel_b.assign(np.full(out.lora_kernel_b.shape, 0.3))
    path = tmp_path / "merged.weights.h5"
    model.save_weights(path)
    merged = sm.chain()
    merged.load_weights(path)
    x = helpers.inputs_for(model)
    # Merging adds the product to the kernel: a rounding of float32 more.
    far = helpers.differences(helpers.run(model, x), helpers.run(merged, x))
    assert max(far) < helpers.RTOL
    helpers.assert_same(merged, prune(merged, T))


def test_an_unregistered_layer_is_a_barrier_and_no_error():
    model = sm.barred()
    found = plan(model, T)
    why = "\n".join(line for row in found.rows for line in row.why)
    assert "no rule for Unknown" in why
    assert "keras_gates.surgeon.register" in why
    helpers.assert_same(model, found.apply())


def test_a_python_lambda_is_a_barrier_and_keeps_its_function():
    shift = np.float32(0.5)
    model = behind_gate(L.Lambda(lambda x: keras.ops.flip(x, -1) * shift))
    small = prune(model, T)
    helpers.assert_same(model, small)


def test_an_axis_of_unknown_size():
    inputs = keras.Input((None, 4))
    with pytest.raises(ValueError, match="'gate' cannot be built.*axis 1 is"):
        kg.FilterGate(axis=1, name="gate")(inputs)


def test_names_are_unique_within_a_model():
    inputs = keras.Input((4,))
    x = kg.FilterGate(name="twin")(L.Dense(4, name="twin")(inputs))
    with pytest.raises(ValueError, match='"twin" is used 2 times'):
        keras.Model(inputs, x)


# Outputs that would become constant --------------------------------------


def shut(make, **gates):
    return lambda: sm.set_gates(make(closed="none"), **gates)


CONSTANT = [
    (shut(sm.chain, gate=[0.1] * 8), T, "'gate'", True),
    (shut(sm.scalar_chain, layer_gate=0.1), T, "'layer_gate'", False),
    (sm.convnet, 99.0, "'gate1'", True),
    (shut(sm.siamese, gate=[0.1] * 8), T, "'tower/gate'", True),
    (shut(sm.gated_input, gate=[0.1] * 6), T, "'gate'", True),
    (shut(sm.gated_output, gate=[0.1] * 4), T, "'gate'", True),
    (shut(sm.sequence, whole=0.0), T, "'whole'", False),
]


@pytest.mark.parametrize("make, threshold, gate, has_floor", CONSTANT)
def test_constant_outputs(make, threshold, gate, has_floor):
    model = compiled(make())
    match = f"no longer depends on.*a completely closed gate: {gate}. Lower"
    for call in (plan, prune):
        refuse(model, lambda: call(model, threshold), ValueError, match)  # noqa: B023
    with pytest.raises(ValueError) as caught:
        prune(model, threshold)
    assert ("keep_at_least" in str(caught.value)) is has_floor


@pytest.mark.parametrize(
    "make, threshold", [(m, t) for m, t, _, floor in CONSTANT if floor]
)
def test_keep_at_least_is_the_remedy(make, threshold):
    model = make()
    small = prune(model, threshold, keep_at_least=1)
    found = verify(model, small, threshold, keep_at_least=1)
    assert max(found.values()) < helpers.RTOL
    x = helpers.inputs_for(model)
    assert max(helpers.variation(helpers.run(small, x))) > 1e-3


def test_a_lower_threshold_is_the_remedy_for_scalar_gates():
    model = shut(sm.scalar_chain, layer_gate=0.1)()
    assert verify(model, prune(model, {"layer": 0.1}), 0.1)["out"] < 1e-5


def test_a_shortcut_is_the_remedy():
    model = shut(sm.residual, block1=0.1, block2=0.1)()
    assert prune(model, T).count_params() < model.count_params() / 2
