"""Side effects of a `call` are detected, and nothing is changed."""

import contextlib
import re

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from keras_gates.graphs import opened
from keras_gates.graphs import private
from tests import helpers
from tests.graphs import own_layers as own

SHAPE = (6, 12)


def layer_of(call, name="own", **attributes):
    """A layer with a `call`, built, and what it holds."""

    class Odd(L.Layer):
        def __init__(self):
            super().__init__(name=name)
            for key, value in attributes.items():
                setattr(self, key, value)

        def build(self, shape):
            for value in attributes.values():
                if isinstance(value, L.Layer):
                    value.build(shape)

    Odd.call = call
    return Odd()


def variable(*shape, **options):
    options = {"trainable": False, **options}
    return keras.Variable(np.zeros(shape, "float32"), **options)


def snapshot(layer):
    held = [
        (each.name, key, value if isinstance(value, (int, float)) else None)
        for each in private.sublayers(layer, own=True)
        for key, value in sorted(vars(each).items())
        if not private.is_of_tensorflow(key)
    ]
    counts = [
        (len(private.calls_of(each)), len(each.losses), each.built)
        for each in private.sublayers(layer, own=True)
    ]
    sizes = [
        (key, len(value))
        for key, value in vars(layer).items()
        if isinstance(value, (list, dict)) and key[0] != "_"
    ]
    return (
        held,
        counts,
        sizes,
        [helpers.numpy_of(v).tolist() for v in layer.variables],
    )


def look(layer, output=None):
    """What is found; the layer must be as it was.

    With an `output` given, no backend is asked for it: some refuse calls that
    others take.
    """
    known = contextlib.nullcontext()
    if output is not None:
        known = private.known_output(layer, keras.KerasTensor(output))
    with known:
        layer(keras.Input(SHAPE))
    before = snapshot(layer)
    node = private.calls_of(layer)[-1]
    found = own.trace.trace(node, own.new_copies(), owned=False)
    assert snapshot(layer) == before
    return found


def sets_attribute(self, x):
    self.number += 1
    return x * 2


def appends(self, x):
    self.log.append(1)
    return x * 2


def notes_in_dict(self, x):
    self.notes["n"] = self.notes.get("n", 0) + 1
    return x * 2


def counts_in_array(self, x):
    self.array[0] += 1
    return x * float(self.array[0])


TOTAL = [0]


def counts_elsewhere(self, x):
    TOTAL[0] += 1
    return x * TOTAL[0]


def assigns(self, x):
    self.count.assign_add(1.0)
    return x * 2


def assigns_inside(self, x):
    self.dense.bias.assign(ops.ones((12,)))
    return self.dense(x)


def draws(self, x):
    return x + keras.random.normal((12,), seed=self.seed)


RANDOM = np.random.default_rng(0)


def draws_with_numpy(self, x):
    return x + ops.convert_to_tensor(RANDOM.normal(size=12), "float32")


def adds_loss(self, x):
    self.add_loss(ops.mean(x))
    return x * 2


def branches(self, x):
    return x * 2 if ops.sum(x) > 0 else x


def takes_float(self, x):
    return x * float(ops.max(x))


def takes_numpy(self, x):
    return x * self.w.numpy()


def uses_numpy(self, x):
    return ops.convert_to_tensor(np.tanh(x))


def iterates(self, x):
    return ops.stack(list(x))


def reads_inner_kernel(self, x):
    return ops.matmul(x, ops.transpose(self.dense.kernel))


def passes_inner_kernel(self, x):
    return ops.matmul(x, self.dense.kernel)


def reads_inner_array(self, x):
    kernel = ops.convert_to_numpy(self.dense.kernel)
    return ops.matmul(x, ops.convert_to_tensor(kernel))


def reads_raw(self, x):
    return ops.matmul(x, private.raw_value(self.dense.kernel) * 1.0)


def asks_for_variables(self, x):
    return x + self.w if isinstance(self.w, keras.Variable) else x * 1.0


def asks_for_symbols(self, x):
    return x * 2 if isinstance(x, keras.KerasTensor) else x * 3


def asks_for_samples(self, x):
    return x * 2 if x.shape[0] is None else x * 3


def trains_always(self, x):
    return self.drop(x, training=True)


def makes_layers(self, x):
    return L.LayerNormalization()(x)


def goes_by_condition(self, x):
    return ops.cond(ops.sum(x) > 0, lambda: x * 2.0, lambda: x)


def goes_by_condition_later(self, x):
    x = ops.cond(ops.sum(x) > 0, lambda: x, lambda: -x)
    return x + 1.0


def maps(self, x):
    return ops.map(lambda row: row * self.w, x)


def maps_at_once(self, x):
    return ops.vectorized_map(lambda row: row * self.w, x)


def scans(self, x):
    def step(state, row):
        return state + row * self.w, state

    return ops.scan(step, ops.zeros_like(x[0]), x)[1]


def repeats(self, x):
    return ops.fori_loop(0, 2, lambda n, y: y * 0.5, x)


def repeats_while(self, x):
    return ops.while_loop(lambda n, y: n < 2, lambda n, y: (n + 1, y), (0, x))[
        1
    ]


def is_not_for_symbols(self, x):
    if isinstance(x, keras.KerasTensor):
        raise RuntimeError("no symbols, please")
    return x * 2


class Holder:
    """Not a layer, nor a list: Keras does not look into it."""


def uses_hidden(self, x):
    return x * self.holder.w


def hidden():
    holder = Holder()
    holder.w = variable(12, name="hidden")
    return {"holder": holder}


def dense():
    return {"dense": L.Dense(12, name="dense")}


WALLS = {
    "sets an attribute": (sets_attribute, {"number": 0}, "attribute `number`"),
    "appends": (appends, lambda: {"log": []}, "attribute `log`"),
    "notes": (notes_in_dict, lambda: {"notes": {}}, "attribute `notes`"),
    "an array": (
        counts_in_array,
        lambda: {"array": np.zeros(1)},
        "something else in each run",
    ),
    "elsewhere": (counts_elsewhere, {}, "something else in each run"),
    "assigns": (
        assigns,
        lambda: {"count": variable(name="count")},
        "assigns its variable 'count'",
    ),
    "assigns inside": (assigns_inside, dense, "changes the state of 'bias'"),
    "draws": (
        draws,
        lambda: {"seed": keras.random.SeedGenerator(1)},
        "or draws random numbers",
    ),
    "numpy draws": (draws_with_numpy, {}, "something else in each run"),
    "adds a loss": (adds_loss, {}, "adds a loss"),
    "branches": (branches, {}, "can't be traced: TypeError"),
    "float": (takes_float, {}, "can't be traced"),
    "numpy()": (
        takes_numpy,
        lambda: {"w": variable(12)},
        "no attribute 'numpy'",
    ),
    "np.tanh": (uses_numpy, {}, "can't be traced"),
    "iterates": (iterates, {}, "can't be traced"),
    "inner kernel as array": (reads_inner_array, dense, "values"),
    "raw value": (reads_raw, dense, "something else in each run"),
    "hidden": (uses_hidden, hidden, "uses the variable 'hidden'"),
    "asks for variables": (
        asks_for_variables,
        lambda: {"w": variable(12)},
        "something else on symbolic",
    ),
    "asks for symbols": (asks_for_symbols, {}, "something else on symbolic"),
    "asks for samples": (asks_for_samples, {}, "something else on symbolic"),
    "trains always": (
        trains_always,
        lambda: {"drop": L.Dropout(0.5, name="noise")},
        "runs 'noise' in training mode, even in inference",
    ),
    "makes layers": (makes_layers, {}, "something else in each run"),
    "condition": (goes_by_condition, {}, "uses `keras.ops.cond`"),
    "a later condition": (
        goes_by_condition_later,
        {},
        "uses `keras.ops.cond`, which calls functions",
    ),
    "maps": (maps, lambda: {"w": variable(12)}, "`keras.ops.map`"),
    "maps at once": (
        maps_at_once,
        lambda: {"w": variable(12)},
        "`keras.ops.vectorized_map`",
    ),
    "scans": (scans, lambda: {"w": variable(12)}, "`keras.ops.scan`"),
    "repeats": (repeats, {}, "`keras.ops.fori_loop`"),
    "repeats while": (repeats_while, {}, "`keras.ops.while_loop`"),
    "no symbols": (is_not_for_symbols, {}, "RuntimeError: no symbols"),
}


# torch's tensors hand an operation with an array to NumPy.
@pytest.mark.parametrize("call", [reads_inner_kernel, passes_inner_kernel])
def test_weights_of_layers_inside_are_read(call):
    found = look(layer_of(call, **dense()), (None, *SHAPE))
    assert isinstance(found, opened.Opened), found
    ((variable, place),) = found.bare
    assert (
        variable is found.twin.dense.kernel
        and place.layer in found.model.layers
    )


@pytest.mark.filterwarnings("ignore:__array_wrap__")
@pytest.mark.parametrize("name", WALLS)
def test_walls(name):
    call, attributes, why = WALLS[name]
    held = attributes() if callable(attributes) else attributes
    found = look(layer_of(call, **held), (None, *SHAPE))
    assert isinstance(found, opened.Opaque), found
    assert re.search(why, found.reason), found.reason


# What is a function after all ------------------------------------------------


def loops(self, x):
    for layer in self.parts:
        x = layer(x)
    return x


def in_dicts(self, x):
    return x * self.w["a"][0] + self.w["b"]["c"]


def uses_arrays(self, x):
    return ops.multiply(x, np.arange(12, dtype="float32"))


def twice(self, x):
    return self.dense(ops.relu(self.dense(x)))


FUNCTIONS = {
    "loops": (loops, lambda: {"parts": [L.Dense(12), L.ReLU(), L.Dense(7)]}),
    "in dicts": (
        in_dicts,
        lambda: {"w": {"a": [variable(12)], "b": {"c": variable(12)}}},
    ),
    "in tuples": (
        lambda self, x: x * self.w[0] + self.w[1],
        lambda: {"w": (variable(12), variable(12))},
    ),
    "arrays": (uses_arrays, dict),
    "twice": (twice, dense),
    "a seed of its own": (
        lambda self, x: x + keras.random.normal((12,), seed=3),
        dict,
    ),
    "a Sequential": (
        lambda self, x: self.chain(x) * 2,
        lambda: {"chain": keras.Sequential([L.Dense(12), L.ReLU()])},
    ),
}


def assert_same(layer, found, *x):
    given = list(x) if len(x) > 1 else x[0]
    want = keras.tree.flatten(layer(*x))
    got = keras.tree.flatten(found.model(given))
    for a, b in zip(want, got, strict=True):
        a, b = helpers.numpy_of(a), helpers.numpy_of(b)
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6 * np.abs(a).max())


def samples(*shape):
    x = np.random.default_rng(0).normal(size=shape or (3, *SHAPE))
    return ops.convert_to_tensor(x, "float32")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_a_function_is_opened(name):
    call, attributes = FUNCTIONS[name]
    layer = layer_of(call, **attributes())
    for part in getattr(layer, "parts", []):
        part.build((None, *SHAPE))
    found = look(layer)
    assert isinstance(found, opened.Opened), found
    for v in layer.variables:
        v.assign(np.full(v.shape, 0.3))
    found = look(layer)
    assert_same(layer, found, samples())
    assert not found.fixed


def test_the_copy_shares_nothing():
    layer = layer_of(twice, **dense())
    found = look(layer)
    own_ones = {id(v) for v in layer.variables}
    assert found.model.variables
    assert not own_ones & {id(v) for v in found.model.variables}


def test_lambdas():
    table = np.arange(12, dtype="float32")
    for made in (
        L.Lambda(lambda x: ops.tanh(x) * 2),
        L.Lambda(lambda x, by: x * by, arguments={"by": 3.0}),
        L.Lambda(lambda x: ops.multiply(x, table)),
    ):
        found = own.looked_into(made, keras.Input(SHAPE))
        assert_same(made, found, samples())
    held = variable(12, name="outside")
    made = L.Lambda(lambda x: x * held)
    found = own.traced(made, keras.Input(SHAPE))
    assert isinstance(found, opened.Opaque) and "outside" in found.reason


def test_several_tensors_and_structures():
    class Joins(L.Layer):
        def call(self, x, more, scale=None, factor=1.0):
            a, b = more["a"], more["b"]
            return {"sum": x + a * factor, "product": [b * scale, x]}

    layer, ins = Joins(), [keras.Input(SHAPE) for _ in range(4)]
    x, a, b, s = ins
    layer(x, {"b": b, "a": a}, scale=s, factor=3.0)
    node = private.calls_of(layer)[-1]
    found = own.trace.trace(node, own.new_copies(), owned=False)
    assert isinstance(found, opened.Opened), found
    arrays = {id(kt): samples() * n for n, kt in enumerate(ins, 1)}
    given = [arrays[id(kt)] for kt in node.input_tensors]
    want = layer(
        arrays[id(x)],
        {"a": arrays[id(a)], "b": arrays[id(b)]},
        scale=arrays[id(s)],
        factor=3.0,
    )
    got = found.model(given)
    for y, z in zip(keras.tree.flatten(want), got, strict=True):
        np.testing.assert_allclose(*map(helpers.numpy_of, (y, z)), rtol=1e-6)


# Training --------------------------------------------------------------------


def norm():
    return {"norm": L.BatchNormalization(name="norm")}


OTHERWISE = {
    "branches": (
        lambda self, x, training=False: x * 3 if training else x * 2,
        dict,
        "something else in training",
    ),
    "never trains": (
        lambda self, x: self.norm(x, training=False),
        norm,
        "calls 'norm' with training=False while it is trained",
    ),
    "never trains, told": (
        lambda self, x, training=False: self.norm(x, training=False),
        norm,
        "calls 'norm' with training=False while it is trained",
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_otherwise_in_training_is_said(name):
    call, attributes, why = OTHERWISE[name]
    layer = layer_of(call, **attributes())
    found = look(layer)
    assert why in found.fixed
    assert_same(layer, found, samples())


def assigns_in_training(self, x, training=False):
    if training:
        self.count.assign_add(1.0)
    return x * 2


def draws_in_training(self, x, training=False):
    if training:
        x = x + keras.random.normal((12,), seed=self.seed)
    return x * 2


def test_states_of_training():
    found = look(layer_of(assigns_in_training, count=variable()))
    assert "in training" in found.fixed
    seed = keras.random.SeedGenerator(1)
    found = look(layer_of(draws_in_training, seed=seed))
    assert "in training" in found.fixed


ALIKE = {
    "passed on": lambda self, x, training=None: self.part(x, training=training),
    "heard": lambda self, x: self.part(x),
    "by default": lambda self, x, training=False: self.part(x),
    "trains by default": lambda self, x, training=True: self.part(
        x, training=training
    ),
    "in training only": lambda self, x, training=False: (
        self.part(x, training=True) if training else x
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_training_goes_on_to_the_parts(name):
    layer = layer_of(ALIKE[name], part=L.Dropout(0.5, name="part"))
    found = look(layer)
    assert not found.fixed
    ones = ops.ones((1, *SHAPE))
    for training in (True, False):
        y = helpers.numpy_of(found.model(ones, training=training))
        assert (y == 0).any() == training


def test_a_regularizer_of_activity_is_said():
    class Regularized(L.Layer):
        def call(self, x):
            return x * 2

    layer = Regularized(activity_regularizer="l2")
    found = own.looked_into(layer, keras.Input(SHAPE))
    assert "activity regularizer" in found.fixed


# Masks ------------------------------------------------------------------------


def masked(layer, **kwargs):
    tokens = keras.Input((6,), dtype="int32")
    x = L.Embedding(9, 12, mask_zero=True)(tokens)
    return own.traced(layer, x, **kwargs)


def test_a_mask_that_is_used_is_an_input():
    class Masked(L.Layer):
        def call(self, x, mask=None):
            if mask is None:
                return x
            return x * ops.cast(mask, x.dtype)[..., None]

    with pytest.warns(UserWarning, match="does not support masking"):
        found = masked(Masked(name="own"))
    assert isinstance(found, opened.Opened) and not found.fixed
    x, mask = samples(), np.arange(6) < np.array([[2], [6], [4]])
    got = found.model([x, ops.convert_to_tensor(mask)])
    want = helpers.numpy_of(x) * mask[..., None]
    np.testing.assert_allclose(helpers.numpy_of(got), want, rtol=1e-6)


def test_masks_that_go_on_otherwise_are_said():
    class Passes(L.Layer):
        def __init__(self):
            super().__init__()
            self.supports_masking = True

        def call(self, x):
            return ops.relu(x)

    assert "mask" in masked(Passes()).fixed
