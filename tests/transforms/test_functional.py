"""Functional models that are made of subclassed ones."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers
from tests.graphs import own_layers
from tests.transforms import subclassed_models as sm

PLAIN = "ignore:The functional model 'gan'"


def snapshot(model):
    """What a model is, to see that it stays so."""
    return [
        (
            layer.name,
            sorted(vars(layer)),
            layer.built,
            len(layer._inbound_nodes),
            len(layer.losses),
            [helpers.numpy_of(w).tolist() for w in layer.weights],
        )
        for layer in model._flatten_layers()
    ]


def made(name):
    """`(model with weights, what it takes)`."""
    cls, example = sm.MODELS[name]
    keras.utils.set_random_seed(0)
    model, x = cls(), example()
    model(x)
    random = np.random.default_rng(1)
    for weight in model.weights:
        value = random.normal(scale=0.4, size=weight.shape)
        if "variance" in weight.path:
            value = random.uniform(0.5, 1.5, weight.shape)
        if keras.backend.is_float_dtype(weight.dtype):
            weight.assign(value)
    return model, x


def by_path(y):
    pairs = keras.tree.flatten_with_path(y)
    return {path: helpers.numpy_of(x) for path, x in pairs}


def assert_same(first, second, rtol=1e-5):
    """The tolerance is by the outputs' scale: sums are made in other orders."""
    first, second = by_path(first), by_path(second)
    assert first.keys() == second.keys()
    for path, a in first.items():
        atol = rtol * np.abs(a).max()
        np.testing.assert_allclose(a, second[path], rtol=0, atol=atol)


@pytest.mark.filterwarnings(PLAIN)
@pytest.mark.parametrize("name", sm.MODELS)
def test_it_computes_the_same_and_goes_through_prune(name):
    model, x = made(name)
    want = helpers.predicted(model, x)
    before = snapshot(model)
    twin = kg.functional(model, x)
    assert twin.name == model.name and not twin.compiled
    assert_same(want, helpers.predicted(twin, x))
    assert snapshot(model) == before
    # It shares nothing.
    own = {id(v) for v in model.variables}
    assert not any(id(v) in own for v in twin.variables)
    pruned(twin, x)
    gated(twin, x)
    assert snapshot(model) == before


def pruned(twin, x):
    scores = kg.surgeon.score(twin, "l2")
    plan = kg.surgeon.plan(twin, kg.Quantile(0.5), scores=scores)
    small = plan.apply()
    assert small.count_params() < 0.9 * twin.count_params()
    assert max(plan.verify(small, x).values()) < helpers.RTOL


def gated(twin, x):
    model = kg.insert_gates(twin, filters=1e-4)
    for number, gate in enumerate(helpers.gates_of(model)):
        closed = np.arange(gate.factor.shape[0]) % 3 == number % 3
        gate.factor.assign(np.where(closed, 0.0, 1.3))
    small = kg.surgeon.prune(model, 0.5)
    assert small.count_params() < twin.count_params()
    got = helpers.predicted(small, x)
    assert_same(helpers.predicted(model, x), got)


@pytest.mark.parametrize("name", ["resnet", "nested"])
def test_names_and_weights_are_kept(name):
    model, x = made(name)
    twin = kg.functional(model, x)

    def held(model):
        layers = [y for y in model._flatten_layers() if not y._layers]
        return {
            (
                layer.name,
                *(helpers.numpy_of(w).tobytes() for w in layer.weights),
            )
            for layer in layers
            if layer.weights
        }

    assert held(twin) == held(model)


def test_nested_models_are_functional():
    model, x = made("nested")
    twin = kg.functional(model, x)
    inside = [y for y in twin._flatten_layers() if isinstance(y, keras.Model)]
    assert {y.name for y in inside} >= {"pair", "left", "right", "top"}
    assert all(type(y).__name__ == "Functional" for y in inside)
    assert twin.get_layer("pair").get_layer("left").get_layer("hidden").units


def test_it_trains_as_the_model_does():
    model, x = made("resnet")
    model.drop.rate = 0.0
    twin = kg.functional(model, x)
    y = {"logits": floats(3, 4), "features": floats(3, 12)}
    for each in (model, twin):
        each.compile(keras.optimizers.SGD(0.01), "mse")
        each.fit(x, y, epochs=2, batch_size=3, shuffle=False, verbose=0)
    # Two steps magnify what the first rounds.
    got = helpers.predicted(twin, x)
    assert_same(helpers.predicted(model, x), got, rtol=1e-4)


def floats(*shape):
    return sm.floats(*shape)()


def test_dropout_in_training_only_stays():
    model, x = made("resnet")
    twin = kg.functional(model, x)
    assert twin.get_layer("drop").rate == 0.5
    still, noisy = (twin(x, training=t)["features"] for t in (False, True))
    assert (helpers.numpy_of(noisy) == 0).mean() > 0.2
    assert (helpers.numpy_of(still) == 0).mean() < 0.1


def test_it_is_saved_without_the_class(tmp_path):
    model, x = made("nested")
    twin = kg.functional(model, x)
    twin.save(tmp_path / "twin.keras")
    loaded = keras.models.load_model(tmp_path / "twin.keras")
    assert_same(helpers.predicted(twin, x), helpers.predicted(loaded, x))


# What describes the inputs ---------------------------------------------------


class Plain(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(3, name="dense")

    def call(self, x):
        return self.dense(x)


EXAMPLES = {
    "array": lambda: np.ones((1, 4), "float32"),
    "double": lambda: np.ones((7, 4)),
    "tensor": lambda: ops.ones((2, 4)),
    "Input": lambda: keras.Input((4,)),
    "InputSpec": lambda: keras.InputSpec(shape=(None, 4)),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_inputs_are_like_an_example(kind):
    model = Plain()
    model(ops.ones((1, 4)))
    twin = kg.functional(model, EXAMPLES[kind]())
    assert tuple(twin.inputs[0].shape) == (None, 4)
    assert twin.inputs[0].dtype == "float32"
    x = floats(5, 4)
    assert_same(model(x), twin(x))


class Structured(keras.Model):
    """Takes and returns whatever structure it is given."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3, name="dense")

    def call(self, x):
        y = keras.tree.map_structure(self.dense, x)
        return {"same": y, "first": keras.tree.flatten(y)[0]}


STRUCTURES = {
    "list": lambda x: [x, 2 * x],
    "list of one": lambda x: [x],
    "tuple": lambda x: (x, 2 * x),
    "dict": lambda x: {"b": x, "a": 2 * x},
    "nested": lambda x: {"a": [x, (2 * x, 3 * x)], "b": {"c": 4 * x}},
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_structures_are_kept(kind):
    model, x = Structured(), STRUCTURES[kind](floats(3, 4))
    model(x)
    twin = kg.functional(model, x)
    keras.tree.assert_same_structure(twin.input, x)
    assert_same(model(x), twin(x))
    assert_same(helpers.predicted(model, x), helpers.predicted(twin, x))


def test_dict_keys_name_the_inputs():
    model, x = Structured(), {"b": floats(3, 4), "a": floats(3, 4)}
    model(x)
    twin = kg.functional(model, x)
    assert {kt.name for kt in twin.inputs} == {"a", "b"}


def test_unbuilt_models_are_built_in_a_copy():
    model = Plain(name="new")
    twin = kg.functional(model, floats(2, 4))
    assert not model.built and not model.dense.built and not model.weights
    assert tuple(twin.get_layer("dense").kernel.shape) == (4, 3)


def test_layers_that_a_call_would_build_are_left():
    class Late(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.built = L.Dense(3, name="dense"), True

        def call(self, x):
            return self.dense(x)

    model = Late()
    twin = kg.functional(model, floats(2, 4))
    assert not model.dense.built and twin.get_layer("dense").built


def test_compiled_models_are_left_compiled():
    model, x = Plain(), floats(4, 4)
    model.compile("adam", "mse")
    model.fit(x, x[:, :3], verbose=0)
    twin = kg.functional(model, x)
    assert model.compiled and not twin.compiled
    assert_same(model(x), twin(x))
    model.fit(x, x[:, :3], verbose=0)


def test_functional_models_are_copied():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)], name="chain")
    twin = kg.functional(model, floats(2, 4))
    assert twin is not model and twin.name == "chain"
    assert_same(model(floats(2, 4)), twin(floats(2, 4)))


def test_a_sequential_is_built():
    model = keras.Sequential([L.Dense(3, name="dense")], name="chain")
    twin = kg.functional(model, floats(2, 4))
    assert not model.built and twin.get_layer("dense").units == 3


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", *own_layers.DOUBLE]
)
def test_policies_are_kept(policy):
    class Scaled(keras.Model):
        def build(self, shape):
            self.scale = self.add_weight(
                shape=shape[-1:], initializer="random_normal", name="scale"
            )
            self.dense = L.Dense(3, dtype=self.dtype_policy, name="dense")
            self.dense.build(shape)

        def call(self, x):
            return self.dense(ops.relu(x * self.scale))

    model, x = Scaled(dtype=policy), floats(2, 4)
    want = model(x)
    twin = kg.functional(model, x)
    got = twin(x)
    assert got.dtype == want.dtype
    assert twin.get_layer("dense").dtype_policy.name == policy
    assert {w.dtype for w in twin.weights} == {w.dtype for w in model.weights}
    # Half a digit of the coarsest: both may round where the other does not.
    assert_same(ops.cast(want, "float32"), ops.cast(got, "float32"), 1e-2)


def test_frozen_layers_stay_frozen():
    model, x = made("resnet")
    model.stem.trainable = False
    model.blocks[1].trainable = False
    twin = kg.functional(model, x)
    assert not twin.get_layer("stem").trainable
    assert len(twin.trainable_weights) == len(model.trainable_weights)


# What can't be ---------------------------------------------------------------


def model_of(function, name="odd", **layers):
    """A model with a `call`, and layers as attributes."""

    class Odd(keras.Model):
        def __init__(self):
            super().__init__(name=name)
            for key, value in layers.items():
                setattr(self, key, value)

        call = function

    return Odd()


def draws(self, x):
    return x + keras.random.normal((4,), seed=self.seed)


def adds_loss(self, x):
    self.add_loss(ops.sum(x))
    return x * 2


def counts(self, x):
    self.count.assign_add(1.0)
    return x * 2


def branches(self, x):
    return x * 2 if ops.sum(x) > 0 else x


def returns_none(self, x):
    return x * 2, None


def remembers(self, x):
    self.last = x
    self.calls.append(1)
    return x * 2


def takes_turns(self, x):
    self.turn[0] = 1 - self.turn[0]
    return L.ReLU(max_value=0.5 + self.turn[0])(x)


def trains_always(self, x):
    return self.drop(x, training=True)


REFUSED = {
    "draws": (draws, {"seed": keras.random.SeedGenerator(1)}, "random numbers"),
    "adds a loss": (adds_loss, {}, "adds a loss"),
    "counts": (
        counts,
        {"count": keras.Variable(0.0, name="count", trainable=False)},
        "assigns its variable 'count'",
    ),
    "branches": (branches, {}, "can't be traced"),
    "returns None": (returns_none, {}, "can't be traced"),
    "remembers": (remembers, {"calls": []}, "sets its attribute `calls`"),
    "takes turns": (takes_turns, {"turn": [0]}, "sets its attribute `turn`"),
    "trains always": (
        trains_always,
        {"drop": L.Dropout(0.5, name="noise")},
        "runs 'noise' in training mode, even in inference",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_more_than_a_function_is_refused(name):
    function, attributes, why = REFUSED[name]
    model = model_of(function, **attributes)
    before = snapshot(model)
    with pytest.raises(
        ValueError, match=f"'odd'.*Odd.*{why}.*layer of its own"
    ):
        kg.functional(model, floats(2, 4))
    assert snapshot(model) == before
    assert getattr(model, "calls", []) == []


def test_the_reason_is_told_where_the_model_was_never_called():
    class Odd(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(4)

        def call(self, x):
            return self.dense(x) if ops.sum(x) > 0 else x

    # "as a Python `bool`", "boolean conversion", "used as a boolean".
    with pytest.raises(ValueError, match=r"traced: \w+: .*bool"):
        kg.functional(Odd(), keras.Input((4,)))


def branches_in_training(self, x, training=False):
    return x * 3 if training else self.dense(x)


def never_trains(self, x):
    return self.norm(x, training=False)


OTHERWISE = {
    "branches": (
        branches_in_training,
        {"dense": lambda: L.Dense(4)},
        "computes something else in training",
    ),
    "never trains": (
        never_trains,
        {"norm": lambda: L.BatchNormalization(name="still")},
        "calls 'still' with training=False while it is trained",
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_otherwise_in_training_is_for_inference_only(name):
    function, layers, why = OTHERWISE[name]
    model = model_of(function, **{k: make() for k, make in layers.items()})
    x = floats(2, 4)
    model(x)
    with pytest.raises(ValueError, match=f"'odd'.*{why}.*inference_only=True"):
        kg.functional(model, x)
    twin = kg.functional(model, x, inference_only=True)
    assert_same(helpers.predicted(model, x), helpers.predicted(twin, x))


# `pytest.warns` gives what is ignored elsewhere by its module.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_steps_of_the_class_are_said_to_be_lost():
    model, x = made("gan")
    with pytest.warns(UserWarning, match="'gan'.*plain.*Gan.*`train_step`"):
        kg.functional(model, x)


BAD = {
    "no model": (lambda: (L.Dense(2), 1), TypeError, "Dense"),
    "no example": (lambda: (Plain(), 4), ValueError, "Received: 4"),
    "no samples": (
        lambda: (Plain(), np.float32(4)),
        ValueError,
        "axis of samples",
    ),
    "a text": (lambda: (Plain(), ["x"]), ValueError, "Received: 'x'"),
    "another shape": (
        lambda: (made("autoencoder")[0], np.ones((2, 3), "float32")),
        ValueError,
        "'autoencoder'.*can't be traced",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    arguments, error, match = BAD[name]
    with pytest.raises(error, match=match):
        kg.functional(*arguments())


@pytest.mark.parametrize(
    "verb",
    [
        lambda m: kg.surgeon.prune(m, 0.5),
        lambda m: kg.surgeon.plan(m, 0.5),
        lambda m: kg.surgeon.score(m, "l2"),
        lambda m: kg.insert_gates(m, filters=1e-4),
        lambda m: kg.slim(m, 1e-4),
        lambda m: kg.stats.count(m),
    ],
)
def test_others_say_what_to_do(verb):
    model, _ = made("autoencoder")
    with pytest.raises(
        ValueError, match=r"keras_gates\.functional\(model, x\)"
    ):
        verb(model)


def test_a_layer_inside_may_be_odd():
    class Noisy(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed = keras.random.SeedGenerator(1)

        def call(self, x):
            return x + 0.0 * keras.random.normal(ops.shape(x), seed=self.seed)

    def call(self, x):
        return self.last(self.noise(self.first(x)))

    layers = {
        "first": L.Dense(6, name="first"),
        "noise": Noisy(name="noise"),
        "last": L.Dense(3, name="last"),
    }
    model, x = model_of(call, **layers), floats(2, 4)
    model(x)
    twin = kg.functional(model, x)
    assert isinstance(twin.get_layer("noise"), Noisy)
    assert_same(model(x), twin(x))


def test_warnings_are_not_of_the_trial():
    model, x = made("translator")
    kg.functional(model, x)
