"""The optimizer goes on in the pruned model: its state is cut with it.

The truths are NumPy's, by hand, and trainings: of the gated model with its
gates held, and of a model that was pruned before it was trained.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import optimizers as O

import keras_gates as kg
from tests import helpers
from tests.surgeon import small_models as sm

T = helpers.THRESHOLD
# Tracing takes TensorFlow longer than these few steps do.
EAGER = keras.backend.backend() == "tensorflow"
GATE = np.array([0.1, 1.0, 0.0, 1.0, 1.0, 0.2, 1.0, 1.0])
SCALES = np.array([0.1, 0.7, 0.0, 2.0, 1.3, 0.2, 0.9, 0.6])
OPEN = SCALES >= T

# What a slot is multiplied by where the weight was multiplied by s.
POWERS = {
    "sgd": (lambda: O.SGD(0.1, momentum=0.9), {"momentums": 1}),
    "nesterov": (
        lambda: O.SGD(0.1, momentum=0.9, nesterov=True),
        {"momentums": 1},
    ),
    "adam": (lambda: O.Adam(0.01), {"_momentums": -1, "_velocities": -2}),
    "amsgrad": (lambda: O.Adam(0.01, amsgrad=True), {"_velocity_hats": -2}),
    "adamw": (lambda: O.AdamW(0.01), {"_momentums": -1, "_velocities": -2}),
    "nadam": (lambda: O.Nadam(0.01), {"_momentums": -1, "_velocities": -2}),
    "lion": (lambda: O.Lion(0.01), {"_momentums": -1}),
    "adamax": (lambda: O.Adamax(0.01), {"_m": -1, "_u": -1}),
    "rmsprop": (
        lambda: O.RMSprop(0.01, momentum=0.9, centered=True),
        {"_velocities": -2, "_momentums": 1, "_average_gradients": -1},
    ),
    "adagrad": (lambda: O.Adagrad(0.01), {"_accumulators": -2}),
    "adadelta": (
        lambda: O.Adadelta(0.1),
        {"_accumulated_grads": -2, "_accumulated_delta_vars": 2},
    ),
    "lamb": (lambda: O.Lamb(0.01), {"_momentums": -1, "_velocities": -2}),
    "accumulating": (
        lambda: O.SGD(0.1, gradient_accumulation_steps=5),
        {"_accumulated_gradients": -1},
    ),
    "averaging": (
        lambda: O.SGD(0.1, use_ema=True, ema_overwrite_frequency=None),
        {"_model_variables_moving_average": 1},
    ),
}
# Those that look at one coordinate at a time: what is cut off does not
# change what becomes of the rest.
ALONE = [name for name in POWERS if name not in ("lamb", "averaging")]


def prune(model, threshold=T):
    """The pruned model, compiled as the model is."""
    return kg.surgeon.prune(model, threshold, keep_optimizer=True)


def chain(factors, optimizer=None, build=sm.chain):
    """A small model with these factors, held while it trains."""
    model = build(closed="none")
    gate = model.get_layer("gate")
    gate.factor.assign(factors)
    gate.trainable = False
    if optimizer is not None:
        model.compile(optimizer, loss="mse", run_eagerly=EAGER)
    return model


def data(model, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(8, 3)).astype("float32")
    return helpers.inputs_for(model, seed, batch=8), y


def fit(model, steps=3, seed=0):
    """Train for some steps, each on all samples."""
    x, y = data(model, seed)
    model.fit(x, y, batch_size=8, epochs=steps, verbose=0)
    return model


def slots(model, name):
    """Slots by the name of the layer and of the weight."""
    optimizer = model.optimizer
    pairs = zip(
        optimizer._trainable_variables, getattr(optimizer, name), strict=True
    )
    return {
        "/".join(w.path.split("/")[-2:]): helpers.numpy_of(slot)
        for w, slot in pairs
    }


def close(got, expected, rtol):
    """By the scale of the larger array: a single number may be near 0."""
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= rtol * np.abs(expected).max()
    assert np.abs(expected).max() > 0


# By hand -------------------------------------------------------------------


@pytest.mark.parametrize("name", POWERS)
def test_slots_are_cut_and_scaled_with_their_weights(name):
    make, powers = POWERS[name]
    model = fit(chain(SCALES, make()))
    small = prune(model)
    s = SCALES[OPEN].astype("float32")
    kernel = helpers.numpy_of(model.get_layer("hidden").kernel)[:, OPEN]
    new = helpers.numpy_of(small.get_layer("hidden").kernel)
    # What follows is about factors that went into the layer in front.
    np.testing.assert_allclose(new, kernel * s, rtol=1e-6)
    for attribute, power in powers.items():
        before, after = slots(model, attribute), slots(small, attribute)
        assert set(after) == set(before)
        # One rounding to float32, and one for each factor of the power.
        close(
            after["hidden/kernel"],
            before["hidden/kernel"][:, OPEN] * s**power,
            1e-6,
        )
        close(
            after["hidden/bias"], before["hidden/bias"][OPEN] * s**power, 1e-6
        )
        assert np.array_equal(after["out/kernel"], before["out/kernel"][OPEN])
        assert np.array_equal(after["out/bias"], before["out/bias"])


def test_negative_factors_change_the_sign_of_gradients_only():
    """A tanh passes no factor, so that it goes into the layer behind."""
    model = gated_tanh(-SCALES, O.Adamax(0.01))
    small = prune(fit(model))
    s = -SCALES[OPEN, None].astype("float32")
    m, u = (slots(model, name)["out/kernel"][OPEN] for name in ("_m", "_u"))
    close(slots(small, "_m")["out/kernel"], m / s, 1e-6)
    close(slots(small, "_u")["out/kernel"], u / np.abs(s), 1e-6)


def gated_tanh(factors, optimizer):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(8, activation="tanh", name="hidden"),
            kg.FilterGate(name="gate", trainable=False),
            L.Dense(3, name="out"),
        ]
    )
    model.get_layer("gate").factor.assign(factors)
    model.compile(optimizer, loss="mse", run_eagerly=EAGER)
    return model


def test_a_factor_of_zero_leaves_a_slot_of_zero():
    """An open gate may be at 0, where nothing is closed."""
    model = fit(chain([0.0] + [1.0] * 7, O.Adam(0.01)))
    small = prune(model, threshold=0.0)
    for name in ("_momentums", "_velocities"):
        kernel = slots(small, name)["hidden/kernel"]
        assert np.isfinite(kernel).all()
        assert not kernel[:, 0].any()
        assert kernel[:, 1:].any()


@pytest.mark.parametrize("factors", [GATE, SCALES], ids=["ones", "scales"])
def test_factored_slots_are_those_of_the_matrix_they_stand_for(factors):
    model = fit(chain(factors, O.Adafactor(0.1)))
    small = prune(model)
    r, c = (slots(model, n)["hidden/kernel"] for n in ("_r", "_c"))
    squares = np.outer(r / r.mean(), c)[:, OPEN] / factors[OPEN] ** 2
    for name, axis in (("_r", 1), ("_c", 0)):
        got = slots(small, name)["hidden/kernel"]
        # The means of five to eight numbers in float32.
        close(got, squares.mean(axis), 1e-5)
    v = slots(model, "_v")["out/bias"]
    assert np.array_equal(slots(small, "_v")["out/bias"], v)


def test_convolutions_and_what_is_behind_them():
    model = sm.constants()
    for gate in helpers.gates_of(model):
        gate.trainable = False
    model.compile(O.SGD(0.01, momentum=0.9), loss="mse")
    small = prune(fit(model))
    before, after = (slots(m, "momentums") for m in (model, small))
    # Of the constants 0 to 3, the largest stays and stands for the others.
    rows = [3, 4, 5, 6, 7]
    conv2 = before["conv2/kernel"][:, :, rows][..., 3:]
    assert np.array_equal(after["conv2/kernel"], conv2)
    assert np.array_equal(after["norm/gamma"], before["norm/gamma"][rows])
    assert np.array_equal(after["out/kernel"], before["out/kernel"][3:])


def test_layers_of_nested_models():
    model = sm.siamese()
    model.compile(O.SGD(0.01, momentum=0.9), loss=["mse", "mse"])
    x = helpers.inputs_for(model)
    y = keras.tree.map_structure(np.ones_like, helpers.run(model, x))
    names = helpers.functional(model)._outputs_struct
    model.fit(x, dict(zip(sorted(names), y, strict=True)), verbose=0)
    small = prune(model)
    old, new = (m.get_layer("tower").get_layer("code") for m in (model, small))
    gate = helpers.numpy_of(model.get_layer("tower").get_layer("gate").factor)
    rows = np.abs(gate) >= T
    ratio = helpers.numpy_of(new.kernel) / helpers.numpy_of(old.kernel)[rows]
    before, after = (slots(m, "momentums") for m in (model, small))
    # A quotient of two roundings.
    close(after["code/kernel"], before["code/kernel"][rows] * ratio, 1e-6)


# By training -----------------------------------------------------------------


@pytest.mark.parametrize("name", ALONE)
def test_training_goes_on_as_in_the_gated_model(name):
    """Gates at 0 or 1 scale nothing: the gated model shows what is next."""
    model = fit(chain(GATE, POWERS[name][0]()))
    # Closed gates at exactly 0, as pruning takes them, from here on.
    model.get_layer("gate").factor.assign(np.where(GATE < T, 0, GATE))
    small = prune(model)
    fit(model, 4, seed=1)
    fit(small, 4, seed=1)
    for part in ("kernel", "bias"):
        expected = helpers.numpy_of(getattr(model.get_layer("hidden"), part))
        got = helpers.numpy_of(getattr(small.get_layer("hidden"), part))
        # Sums of fewer terms round otherwise; four steps carry it on, and
        # a sign or a quotient of small gradients magnifies it.
        close(got, expected[..., OPEN], 1e-4)
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations)


@pytest.mark.parametrize("name", ["adam", "amsgrad", "lion", "adamax"])
def test_averages_are_those_of_the_gradients_of_the_new_weights(name):
    """At a learning rate of 0, pruning before and after training agree."""
    make, powers = POWERS[name]
    optimizer = make()
    optimizer.learning_rate = 0.0
    model = chain(SCALES)
    model.get_layer("gate").factor.assign(np.where(OPEN, SCALES, 0))
    early = kg.surgeon.prune(model, T)
    early.compile(optimizer, loss="mse", run_eagerly=EAGER)
    model.compile(
        type(optimizer).from_config(optimizer.get_config()),
        loss="mse",
        run_eagerly=EAGER,
    )
    late = prune(fit(model))
    fit(early)
    for attribute in powers:
        expected, got = slots(early, attribute), slots(late, attribute)
        for key in expected:
            # Squares of sums over eight samples, in float32.
            close(got[key], expected[key], 1e-5)


# What is carried besides -----------------------------------------------------


def test_the_result_is_compiled_as_the_model():
    model = chain(SCALES)
    schedule = O.schedules.ExponentialDecay(0.1, 10, 0.5)
    model.compile(
        O.SGD(schedule, momentum=0.9, clipnorm=3.0),
        loss=keras.losses.Huber(0.3),
        metrics=["mae"],
    )
    fit(model)
    small = prune(model)
    assert small.optimizer.clipnorm == 3.0
    rates = [float(m.optimizer.learning_rate) for m in (model, small)]
    assert rates[0] == rates[1] < 0.1
    assert small.optimizer is not model.optimizer
    x, y = data(small)
    assert set(small.evaluate(x, y, verbose=0, return_dict=True)) == {
        "loss",
        "mae",
    }


def test_a_plan_carries_the_same_state():
    model = fit(chain(SCALES, O.AdamW(0.01)))
    plan = kg.surgeon.plan(model, T)
    small = plan.apply(keep_optimizer=True)
    for name in ("_momentums", "_velocities"):
        expected, got = slots(prune(model), name), slots(small, name)
        assert all(np.array_equal(got[k], expected[k]) for k in expected)
    assert not plan.apply().compiled


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_without_gates_training_goes_on_as_if_channels_were_never_there(name):
    """Channels that only zeros lead out of have no part in training."""
    inputs = keras.Input((5,))
    x = L.Dense(8, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, L.Dense(3, name="out")(x))
    helpers.randomize(model)
    hidden = model.get_layer("hidden")
    # Dead units: no gradient, and no momentum, comes through them.
    kernel = helpers.numpy_of(hidden.kernel)
    dead = np.arange(8) % 2 == 0
    hidden.kernel.assign(np.where(dead, 0.0, kernel))
    hidden.bias.assign(np.where(dead, -1.0, 0.1))
    model.compile(POWERS[name][0](), loss="mse", run_eagerly=EAGER)
    fit(model)
    scores = {"hidden": np.where(dead, 0.0, 1.0)}
    small = kg.surgeon.prune(model, 0.5, scores=scores, keep_optimizer=True)
    fit(model, 4, seed=1)
    fit(small, 4, seed=1)
    expected = helpers.numpy_of(model.get_layer("out").kernel)[~dead]
    # As above: fewer terms round otherwise, over four steps.
    close(helpers.numpy_of(small.get_layer("out").kernel), expected, 1e-4)


def test_a_learning_rate_set_by_hand_stays():
    model = fit(chain(SCALES, O.Adam(0.01)))
    model.optimizer.learning_rate = 0.003
    assert float(prune(model).optimizer.learning_rate) == np.float32(0.003)


def test_the_scale_of_the_loss_stays():
    inner = O.Adam(0.01)
    model = chain(SCALES, O.LossScaleOptimizer(inner, initial_scale=64.0))
    small = prune(fit(model))
    assert float(small.optimizer.dynamic_scale) == 64.0
    assert int(small.optimizer.inner_optimizer.iterations) == 3
    kernel = small.optimizer.inner_optimizer._velocities[0]
    assert helpers.numpy_of(kernel).any()


def test_frozen_layers_have_no_slots():
    model = chain(SCALES)
    model.get_layer("hidden").trainable = False
    model.compile(O.Adam(0.01), loss="mse")
    small = prune(fit(model))
    assert set(slots(small, "_momentums")) == {"out/kernel", "out/bias"}


def test_before_any_training_the_state_is_new():
    small = prune(chain(SCALES, O.Adam(0.01)))
    assert int(small.optimizer.iterations) == 0
    assert not any(s.any() for s in slots(small, "_momentums").values())
    fit(small)


def test_a_bias_that_pruning_adds_starts_at_rest():
    inputs = keras.Input((5,))
    x = L.Dense(8, name="hidden")(inputs)
    x = kg.FilterGate(name="gate", trainable=False)(x)
    x = L.Activation("sigmoid")(x)  # closed channels are 0.5 after it
    model = keras.Model(inputs, L.Dense(3, use_bias=False, name="out")(x))
    model.get_layer("gate").factor.assign(GATE)
    model.compile(O.SGD(0.1, momentum=0.9), loss="mse")
    small = prune(fit(model))
    after = slots(small, "momentums")
    assert after["out/bias"].shape == (3,)
    assert not after["out/bias"].any()
    assert after["out/kernel"].any()


def test_the_model_is_left_alone():
    model = fit(chain(SCALES, O.Adam(0.01)))
    before = helpers.fingerprint(model)
    state = [helpers.numpy_of(v) for v in model.optimizer.variables]
    fit(prune(model))
    assert helpers.fingerprint(model) == before
    for old, new in zip(state, model.optimizer.variables, strict=True):
        assert np.array_equal(old, helpers.numpy_of(new))


# What is refused -------------------------------------------------------------


@keras.saving.register_keras_serializable("keras_gates_tests")
class OwnOptimizer(O.SGD):
    """A class of a user's: what its slots are is not known."""


def test_an_optimizer_of_ones_own_is_cut_where_nothing_is_scaled():
    model = fit(chain(GATE, OwnOptimizer(0.1, momentum=0.9)))
    before = slots(model, "momentums")
    after = slots(prune(model), "momentums")
    expected = before["hidden/kernel"][:, OPEN]
    assert np.array_equal(after["hidden/kernel"], expected)


def test_an_optimizer_of_ones_own_is_refused_where_factors_went_in():
    model = fit(chain(SCALES, OwnOptimizer(0.1, momentum=0.9)))
    with pytest.raises(ValueError, match="momentums for the weight 'hidden"):
        prune(model)


def test_a_model_that_is_not_compiled_is_refused():
    with pytest.raises(ValueError, match="needs a compiled model"):
        prune(sm.chain())


def test_several_optimizers_in_one_are_refused():
    model = chain(SCALES)
    both = O.MultiOptimizer(lambda variable: O.SGD(0.1))
    model.compile(both, loss="mse")
    with pytest.raises(ValueError, match="combines several optimizers"):
        prune(model)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: kg.StripConv(4, 3, padding="same", name="conv"),
        lambda: kg.ResConv(4, 3, padding="same", name="conv"),
    ],
    ids=["packed", "written out"],
)
def test_layers_whose_weights_become_others_are_refused_by_name(layer):
    inputs = keras.Input((6, 6, 4))
    x = layer()(inputs)
    x = kg.FilterGate(name="gate")(x)
    x = L.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, L.Dense(2)(x))
    model.get_layer("gate").factor.assign([0.1, 1.0, 1.0, 1.0])
    model.compile("sgd", loss="mse")
    with pytest.raises(
        ValueError, match="the form of the weights of layer 'conv'"
    ):
        prune(model, {"gate": T})


def test_a_loss_that_is_not_registered_is_refused():
    def strange(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred))

    model = chain(SCALES)
    model.compile("adam", loss=strange)
    with pytest.raises(ValueError, match="can't be compiled as the original"):
        prune(model)
