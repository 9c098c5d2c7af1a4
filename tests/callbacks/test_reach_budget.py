"""Training to a budget: met, kept by the cut, resumed, refused."""

import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gates as kg
from keras_gates.callbacks import ReachBudget
from keras_gates.layers import hard_concrete
from keras_gates.reaching.live_factors import LiveFactors

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 8)).astype("float32")
Y = (X @ RNG.normal(size=(8, 3))).argmax(-1)


def chain(dtype=None, **gate):
    """Gates behind two layers of units."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(24, activation="relu", dtype=dtype),
            kg.FilterGate(dtype=dtype, name="first", **gate),
            layers.Dense(24, activation="relu", dtype=dtype),
            kg.FilterGate(dtype=dtype, name="second", **gate),
            layers.Dense(3, dtype="float32"),
        ]
    )


def residual():
    """Gates on filters and branches of a small residual network."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8,))
    x = layers.Reshape((4, 2, 1))(x)
    x = layers.Conv2D(8, 3, padding="same")(x)
    for _ in range(2):
        y = layers.Conv2D(12, 3, padding="same", use_bias=False)(x)
        y = layers.BatchNormalization()(y)
        y = kg.FilterGate()(layers.ReLU()(y))
        y = layers.Conv2D(8, 3, padding="same")(y)
        x = layers.Add()([x, kg.BranchGate()(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def convolutions():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8,))
    x = layers.Reshape((4, 2, 1))(x)
    for name in ("one", "two"):
        x = layers.Conv2D(10, 3, padding="same", name=name)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def compiled(model, optimizer=None, **options):
    model.compile(
        optimizer or keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    return model


def fit(model, *callbacks, epochs=10, batch_size=12, **options):
    return model.fit(
        X,
        Y,
        epochs=epochs,
        batch_size=batch_size,
        verbose=0,
        callbacks=list(callbacks),
        **options,
    ).history


def assert_met(model, reach, macs, tolerance=0.02):
    """The budget is met, and the cut changes nothing."""
    plan = kg.surgeon.plan(model, reach.thresholds)
    left = plan.macs.after / plan.macs.before
    assert macs - tolerance <= left <= macs
    before = ops.convert_to_numpy(model(X, training=False))
    small = plan.apply()
    after = ops.convert_to_numpy(small(X, training=False))
    scale = np.abs(before).max()
    # float32, a few layers; half precision has three digits.
    half = "16" in str(model.layers[0].compute_dtype)
    assert np.abs(after - before).max() <= (3e-2 if half else 1e-5) * scale
    return small


def schedule(rate):
    return keras.optimizers.schedules.CosineDecay(rate, 200)


OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(schedule(0.05), momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(3e-3),
    "AdamW": lambda: keras.optimizers.AdamW(schedule(3e-3), weight_decay=0.01),
    "averages": lambda: keras.optimizers.Adam(3e-3, use_ema=True),
    "slow": lambda: keras.optimizers.SGD(1e-6),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_meets_it(name):
    model, reach = compiled(chain(), OPTIMIZERS[name]()), ReachBudget(macs=0.5)
    history = fit(model, reach, validation_data=(X, Y))
    assert_met(model, reach, 0.5)
    assert history["macs_goal"][-1] == 0.5
    assert 0.48 <= history["macs_left"][-1] <= 0.5
    assert history["macs_left"][0] == 1
    # What falls does so step by step.
    assert np.diff(history["macs_left"]).max() < 0.05
    assert history["gates_closed"][-1] > 0.2


COMPILED = {
    "XLA": pytest.param(
        {"jit_compile": True},
        marks=pytest.mark.skipif(
            keras.backend.backend() != "tensorflow",
            reason="JAX does so anyway, and torch for half a minute",
        ),
    ),
    "eager": pytest.param({"jit_compile": False, "run_eagerly": True}),
    "several": pytest.param(
        {"steps_per_execution": 3},
        marks=pytest.mark.skipif(
            keras.backend.backend() == "torch", reason="it steps one by one"
        ),
    ),
}


@pytest.mark.parametrize("options", COMPILED.values(), ids=COMPILED)
def test_however_it_is_compiled(options):
    model, reach = compiled(chain(), **options), ReachBudget(macs=0.4)
    fit(model, reach)
    assert_met(model, reach, 0.4)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_in_half_precision(dtype):
    model, reach = compiled(chain(dtype)), ReachBudget(macs=0.5)
    fit(model, reach)
    assert_met(model, reach, 0.5)


@pytest.mark.parametrize(
    "make",
    [
        residual,
        lambda: kg.slim(convolutions(), 0.0),
        lambda: kg.to_stripconv(convolutions()),
        lambda: kg.insert_gates(convolutions(), filters=True, layers=True),
    ],
    ids=["residual", "gammas", "stripes", "inserted"],
)
def test_any_kind_of_gate(make):
    model, reach = compiled(make()), ReachBudget(macs=0.5)
    with warnings.catch_warnings():
        # A layer gate is a large part of a network this small.
        warnings.filterwarnings("ignore", "Budget.*larger steps")
        fit(model, reach)
    assert_met(model, reach, 0.5, tolerance=0.15)


def test_several_budgets_are_all_kept():
    model = compiled(chain())
    reach = ReachBudget(macs=0.6, params=0.3)
    history = fit(model, reach)
    plan = kg.surgeon.plan(model, reach.thresholds)
    assert plan.macs.after <= 0.6 * plan.macs.before
    assert 0.27 <= plan.params.after / plan.params.before <= 0.3
    assert {"macs_left", "macs_goal"} <= set(history)


def test_a_number_of_multiply_adds():
    model = compiled(chain())
    fit(model, reach := ReachBudget(kg.Budget(macs=300, keep_essential=0.2)))
    plan = kg.surgeon.plan(model, reach.thresholds)
    assert 280 <= plan.macs.after <= 300
    assert all(len(closed) <= 19 for closed in plan.closed.values())


def test_the_closed_set_is_fixed_from_six_tenths_on():
    model, reach = compiled(chain()), ReachBudget(macs=0.5)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            factors = [layer.factor for layer in self.model.layers[1:4:2]]
            each = [ops.convert_to_numpy(f) == 0 for f in factors]
            seen.append(np.concatenate(each))

    fit(model, reach, Look(), epochs=20)
    for closed in seen[12:]:
        np.testing.assert_array_equal(closed, seen[-1])
    assert seen[-1].any() and not seen[0].any()


def coarse():
    """Four channels with most of the cost, and many cheap ones behind them."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Reshape((8, 1)),
            layers.Conv1D(4, 8, padding="same", activation="relu"),
            kg.FilterGate(name="first"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            kg.FilterGate(name="second"),
            layers.Dense(3),
        ]
    )


def test_what_is_left_of_the_budget_is_given_back_early():
    """One of four channels is a quarter of the cost."""
    model, reach = coarse(), ReachBudget(macs=0.4)
    reach.start(model, steps=400)
    gates = [model.get_layer(name).factor for name in ("first", "second")]
    gates[0].assign([0.9, 0.8, 0.7, 0.6])
    gates[1].assign(np.linspace(0.5, 1.5, 64))

    def open_ones():
        return [int((ops.convert_to_numpy(g) != 0).sum()) for g in gates]

    for _ in range(238):
        reach.step()
    ranked, left = open_ones(), reach.get_state()["controller"]["left"]
    for _ in range(4):
        reach.step()
    state = reach.get_state()["controller"]
    assert state["fixed"] and left < 0.36 < state["left"] <= 0.4
    assert open_ones()[1] > ranked[1]
    sizes = [np.sort(ops.convert_to_numpy(g)) for g in gates]
    # What comes back starts no larger than what has been open.
    new = open_ones()[1] - ranked[1]
    assert sizes[1][-ranked[1] - new] <= sizes[1][-ranked[1]]


def test_closed_factors_are_zero_at_every_step():
    """Nothing may come to live on what an optimizer moves them."""
    optimizer = keras.optimizers.Adam(0.05)
    model, reach = compiled(chain(), optimizer), ReachBudget(macs=0.5)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if reach.get_state()["controller"]:
                closed = reach.get_state()["controller"]["closed"]
                if keras.backend.backend() == "jax":
                    self.model.jax_state_sync()
                each = [layer.factor for layer in self.model.layers[1:4:2]]
                values = np.concatenate([ops.convert_to_numpy(f) for f in each])
                seen.append(
                    (len(closed), np.abs(values[closed]).max(initial=0))
                )

    fit(model, reach, Look(), epochs=20)  # 400 steps, a look at every other
    counts, largest = map(np.array, zip(*seen, strict=True))
    assert len(seen) > 390 and counts[-1] > 10 and not largest.any()


def test_random_gates_train_to_a_budget():
    model = compiled(chain(stochastic=True, seed=1))
    history = fit(model, reach := ReachBudget(macs=0.5))
    assert_met(model, reach, 0.5)
    assert np.diff(history["macs_left"]).max() < 0.05
    gates = model.layers[1], model.layers[3]
    for gate in gates:
        closed = ops.convert_to_numpy(gate.factor) == 0
        assert closed.any() and not closed.all()
        # Once they are closed, training does not draw them any more.
        x = np.ones((1, 24), "float32")
        for _ in range(20):
            drawn = ops.convert_to_numpy(gate(x, training=True))[0]
            assert (drawn[closed] == 0).all()
    # And what is closed stays so.
    before = [ops.convert_to_numpy(gate.factor) == 0 for gate in gates]
    fit(model, ReachBudget(macs=0.5), epochs=10)
    for gate, closed in zip(gates, before, strict=True):
        assert (ops.convert_to_numpy(gate.factor)[closed] == 0).all()


def test_the_pull_on_random_gates_is_the_slope_of_their_expected_number():
    live = LiveFactors(chain(stochastic=True))
    values = np.linspace(-1, 6, live.count)
    numeric = hard_concrete.openness(
        ops.convert_to_tensor(values[:, None] + [-2.501, -2.499])
    )
    slope = np.diff(ops.convert_to_numpy(numeric))[:, 0] / 0.002
    np.testing.assert_allclose(live.pulls(values), 4 * slope, rtol=1e-2)
    assert (LiveFactors(chain()).pulls(values) == 1).all()


def test_useless_units_close_first():
    # Half of the units see nothing, and can do nothing.
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8,))
    dead = layers.Dense(
        12, "relu", kernel_initializer="zeros", bias_initializer="zeros"
    )
    dead.trainable = False
    alive = layers.Dense(12, "relu")
    gate = kg.FilterGate()
    x = gate(layers.Concatenate()([dead(x), alive(x)]))
    model = compiled(keras.Model(inputs, layers.Dense(3)(x)))
    fit(model, reach := ReachBudget(macs=0.5), epochs=20)
    closed = ops.convert_to_numpy(gate.factor) == 0
    # By chance it would be six of each; a backend's random numbers differ.
    assert closed[:12].sum() >= 9 and closed[12:].sum() <= 3
    assert reach.thresholds


def test_a_loop_of_ones_own():
    model = chain()
    optimizer = keras.optimizers.SGD(0.05)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    reach = ReachBudget(macs=0.5)
    with pytest.raises(RuntimeError, match="start"):
        reach.step()
    reach.start(model, steps=200)
    for number in range(200):
        part = slice(12 * (number % 20), 12 * (number % 20) + 12)
        model.train_on_batch(X[part], Y[part])
        reach.step()
    assert_met(model, reach, 0.5)


def test_what_goes_on_after_a_cut_off_is_what_would_have_been(tmp_path):
    whole, reach = compiled(chain()), ReachBudget(macs=0.5)
    fit(whole, reach, shuffle=False)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 6:
                raise KeyboardInterrupt

    def backups():
        state = keras.callbacks.BackupAndRestore(str(tmp_path / "weights"))
        return state, ReachBudget(macs=0.5, backup_dir=tmp_path / "state")

    with pytest.raises(KeyboardInterrupt):
        fit(compiled(chain()), *backups(), Stop(), shuffle=False)
    assert (tmp_path / "state" / "reach_budget.json").exists()
    other = ReachBudget(macs=0.4, backup_dir=tmp_path / "state")
    with pytest.raises(ValueError, match="another budget"):
        fit(compiled(chain()), other)
    model, callbacks = compiled(chain()), backups()
    history = fit(model, *callbacks, shuffle=False)
    assert len(history["loss"]) == 4
    assert_met(model, callbacks[1], 0.5)
    assert not (tmp_path / "state" / "reach_budget.json").exists()
    for one, two in zip(whole.weights, model.weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(one),
            ops.convert_to_numpy(two),
            atol=1e-4,  # float32, through a file and 80 steps
        )


def test_it_goes_on_without_its_state(tmp_path):
    model = compiled(chain())
    fit(model, ReachBudget(macs=0.5), epochs=10)
    gone = [ops.convert_to_numpy(w) == 0 for w in model.trainable_weights]
    # What is closed stays so: the budget is met from the start.
    fit(model, reach := ReachBudget(macs=0.5), epochs=10)
    for before, weight in zip(gone, model.trainable_weights, strict=True):
        assert (ops.convert_to_numpy(weight)[before] == 0).all() or (
            before.ndim != 1
        )
    assert_met(model, reach, 0.5)


def test_what_opens_again_starts_small():
    """One huge step on closed factors: they come back, and none is large."""
    model = chain()
    reach = ReachBudget(macs=0.3)
    reach.start(model, steps=400)
    first, second = (
        model.get_layer(name).factor for name in ("first", "second")
    )
    values = np.linspace(0.1, 1.0, 24).astype("float32")
    for variable in (first, second):
        variable.assign(values)
    for _ in range(150):
        reach.step()
    closed = ops.convert_to_numpy(first) == 0
    assert closed.any()
    first.assign(np.where(closed, 50.0, ops.convert_to_numpy(first)))
    after, steps = ops.convert_to_numpy(first), 0
    while steps < 10 and not ((after > 0) & (after < 50))[closed].any():
        reach.step()
        after, steps = ops.convert_to_numpy(first), steps + 1
    stayed = after[~closed]
    assert 0 < after[closed].max() <= stayed[stayed > 0].min()


def test_it_resumes_whatever_numbers_unnamed_layers_have(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 6:
                raise KeyboardInterrupt

    def model(width=24):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8,))
        x = layers.Dense(width, activation="relu")(inputs)
        outputs = layers.Dense(3)(layers.Dense(24, activation="relu")(x))
        spec = kg.transforms.GateSpec(inputs=True)
        gated = kg.insert_gates(keras.Model(inputs, outputs), filters=spec)
        return compiled(gated)

    def callbacks():
        state = keras.callbacks.BackupAndRestore(str(tmp_path / "weights"))
        return state, ReachBudget(macs=0.5, backup_dir=tmp_path / "state")

    first = model()
    with pytest.raises(KeyboardInterrupt):
        fit(first, *callbacks(), Stop())
    with pytest.raises(ValueError, match="belongs to a model with the gates"):
        fit(model(16), ReachBudget(macs=0.5, backup_dir=tmp_path / "state"))
    again, both = model(), callbacks()
    names = [[x.name for x in m.layers] for m in (first, again)]
    assert names[0] != names[1]
    assert len(fit(again, *both)["loss"]) == 4
    assert_met(again, both[1], 0.5)


def test_its_state_is_data():
    model = compiled(chain())
    reach = ReachBudget(macs=0.5)
    fit(model, reach)
    state = json.loads(json.dumps(reach.get_state()))
    ReachBudget(macs=0.5).set_state(state)
    with pytest.raises(ValueError, match="another budget"):
        ReachBudget(params=0.5).set_state(state)


BAD = [
    ({}, ValueError, "none"),
    ({"macs": 0}, ValueError, "more than 0"),
    ({"macs": "half"}, TypeError, "must be a number"),
]


@pytest.mark.parametrize("arguments, error, match", BAD)
def test_bad_budgets_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        ReachBudget(**arguments)


def test_other_things_are_no_budgets():
    with pytest.raises(TypeError, match="takes Budgets"):
        ReachBudget(0.5)
    with pytest.raises(TypeError, match="latency"):
        ReachBudget(kg.Budget(latency=0.5))
    with pytest.raises(ValueError, match="one of each"):
        ReachBudget(kg.Budget(macs=0.5), macs=0.4)


def test_models_that_can_not_get_there_are_refused_at_once():
    plain = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="nothing to close"):
        fit(compiled(plain), ReachBudget(macs=0.5))
    with pytest.raises(ValueError, match="least that these gates can reach"):
        fit(compiled(chain()), ReachBudget(macs=0.01))
    with pytest.raises(ValueError, match="steps"):
        ReachBudget(macs=0.5).start(chain(), steps=0)


def test_a_budget_that_is_met_closes_nothing():
    model, reach = compiled(chain()), ReachBudget(macs=1.0)
    with pytest.warns(UserWarning, match="already within"):
        fit(model, reach, epochs=1)
    assert kg.surgeon.plan(model, reach.thresholds).macs.after == (
        kg.surgeon.plan(model, reach.thresholds).macs.before
    )


def test_a_short_training_is_told_at_once_and_meets_it_all_the_same():
    model, reach = compiled(chain()), ReachBudget(macs=0.5)
    with pytest.warns(UserWarning, match="20 training steps"):
        fit(model, reach, epochs=1)
    assert_met(model, reach, 0.5)


def test_a_training_that_is_stopped_has_the_budget_for_thresholds():
    model, reach = compiled(chain()), ReachBudget(macs=0.5)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 4

    with pytest.warns(UserWarning, match="stopped before"):
        fit(model, reach, Stop())
    plan = kg.surgeon.plan(model, reach.thresholds)
    assert 0.48 <= plan.macs.after / plan.macs.before <= 0.5


def test_a_metric_that_is_nan_does_not_matter():
    def nothing(y_true, y_pred):
        return ops.mean(y_pred) * float("nan")

    model, reach = chain(), ReachBudget(macs=0.5)
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[nothing],
    )
    fit(model, reach)
    assert_met(model, reach, 0.5)


def test_factors_that_are_nan_are_told():
    model, reach = compiled(chain()), ReachBudget(macs=0.5)

    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            factor = self.model.layers[1].factor
            factor.assign(ops.convert_to_numpy(factor) * np.nan)

    with pytest.warns(UserWarning, match="not finite"):
        fit(model, reach, Break())
    assert reach.thresholds is None


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="other data of unknown length are read once",
)
@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.filterwarnings("ignore:.*shuffle=True")
def test_data_of_unknown_length():
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(12)
    batches = batches.filter(lambda x, y: True)
    model, reach = compiled(chain()), ReachBudget(macs=0.5)
    history = model.fit(batches, epochs=10, verbose=0, callbacks=[reach])
    assert history.history["macs_left"][0] == 1
    assert_met(model, reach, 0.5)
    with pytest.warns(UserWarning, match="steps_per_epoch"):
        compiled(chain()).fit(
            batches, epochs=2, verbose=0, callbacks=[ReachBudget(macs=0.5)]
        )
