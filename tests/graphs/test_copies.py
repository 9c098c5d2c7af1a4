"""A copied layer is the layer that Keras makes from the same config."""

import types

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.graphs import configs
from keras_gates.graphs import copies
from keras_gates.graphs import create
from keras_gates.graphs.copies import Copies
from keras_gates.graphs.rewrite import new_copies
from tests import helpers
from tests.surgeon import small_models as sm
from tests.surgeon.results import parts_of
from tests.surgeon.results import same
from tests.surgeon.results import weights_of

T = helpers.THRESHOLD
L2 = keras.regularizers.L2

# Two configs for each class: the pattern is learnt on one, used on the other.
CONV = ({"filters": 4, "kernel_size": 3}, {"filters": 6, "kernel_size": 2})
ODD = {
    "activation": "relu",
    "kernel_initializer": keras.initializers.HeNormal(seed=3),
    "kernel_regularizer": L2(0.5),
    "bias_constraint": "non_neg",
    "activity_regularizer": "l1",
    "dtype": "mixed_bfloat16",
    "trainable": False,
    "name": "odd",
}
OTHERS = {"dtype": "bfloat16", "trainable": False, "name": "odd"}
POOL = ({"pool_size": 2}, {"pool_size": 3, "strides": 1, "padding": "same"})
CONFIGS = {
    "Dense": ({"units": 3}, {"units": 5, "use_bias": False}),
    "BatchNormalization": ({}, {"axis": 1, "momentum": 0.9, "scale": False}),
    "LayerNormalization": ({}, {"epsilon": 0.1, "center": False}),
    "Activation": ({"activation": "relu"}, {"activation": "tanh"}),
    "ReLU": ({}, {"max_value": 6.0}),
    "LeakyReLU": ({}, {"negative_slope": 0.2}),
    "ELU": ({}, {"alpha": 0.5}),
    "Concatenate": ({}, {"axis": 1}),
    "Flatten": ({}, {"data_format": "channels_first"}),
    "ZeroPadding2D": ({}, {"padding": ((1, 0), (0, 2))}),
    "UpSampling2D": ({}, {"size": 3, "interpolation": "bilinear"}),
}


def configs_of(cls):
    """A plain config and an odd one of a class."""
    name = cls.__name__
    if "Depthwise" in name:
        plain, odd = {"kernel_size": 3}, {"kernel_size": 2}
    elif "Conv" in name:
        plain, odd = CONV
    elif "Global" in name:
        plain, odd = {}, {"keepdims": True}
    elif "Pooling" in name:
        plain, odd = POOL
    else:
        plain, odd = CONFIGS.get(name, ({}, {}))
    kernel = (
        cls is L.Dense or name.startswith("Conv") and cls is not L.Concatenate
    )
    return plain, {**odd, **(ODD if kernel else OTHERS)}


def call(layer):
    """Build a layer by calling it on what it takes."""
    name = type(layer).__name__
    rank = next((n for n in (1, 2, 3) if f"{n}D" in name), 2)
    x = keras.Input((*[8] * rank, 4))
    merges = type(layer).__base__ is L.Add.__base__
    layer([x, x] if merges else x)
    return layer


def described(value):
    """Plain data that tells what an object holds, at any depth."""
    if isinstance(value, types.FunctionType | types.MethodType):
        return value.__qualname__
    if isinstance(value, dict):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [described(item) for item in value]
    if isinstance(value, set):
        return type(value), sorted(value)
    if hasattr(value, "get_config"):
        return type(value), value.get_config()
    if hasattr(value, "__dict__"):
        return type(value), described(vars(value))
    return type(value), value


def held(layer):
    """What a layer holds, but for the arguments that it was made with."""
    state = {k: v for k, v in vars(layer).items() if k != "_auto_config"}
    return described(state)


def copied(op, changes=None, like=None):
    """A copy of `op` by the pattern of `like`; None if it is rebuilt."""
    changes = changes or {}
    copies = Copies(None)
    copies.make(like or op, changes)
    return copies.plain(op, changes)


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    "cls",
    sorted(create.PLAIN, key=lambda c: c.__name__),
    ids=lambda c: c.__name__,
)
def test_a_copy_holds_what_keras_puts_into_it(cls, built):
    plain, odd = (cls(**config) for config in configs_of(cls))
    if built:
        for layer in (plain, odd):
            call(layer)
    for op, like in ((plain, plain), (odd, plain), (plain, odd)):
        new = copied(op, like=like)
        if new is None:
            # Only what follows from a config in a roundabout way, has no
            # `get_config`, or holds a regularizer that keeps tensors.
            assert cls in (L.Flatten, L.ELU) or "odd" in (op.name, like.name)
            continue
        (truth,) = configs.from_configs(op, {})
        assert held(new) == held(truth)
        assert new.get_config() == op.get_config()
        assert new.built == truth.built
        assert vars(new)["_tracker"] is not vars(op)["_tracker"]


CHANGES = {
    L.Conv2D: {"filters": 3, "use_bias": False},
    L.Dense: {"units": 2},
    L.DepthwiseConv2D: {"depth_multiplier": 2},
    L.SeparableConv2D: {"filters": 2},
    L.Concatenate: {"axis": 1},
}


@pytest.mark.parametrize("cls", CHANGES, ids=lambda c: c.__name__)
def test_a_copy_holds_the_changes(cls):
    plain, odd = (call(cls(**config)) for config in configs_of(cls))
    odd.activity_regularizer = None
    new = copied(odd, CHANGES[cls], like=plain)
    (truth,) = configs.from_configs(odd, CHANGES[cls])
    assert held(new) == held(truth)
    assert CHANGES[cls].items() <= new.get_config().items()


# What is not copied ---------------------------------------------------------


class OwnDense(L.Dense):
    pass


@keras.saving.register_keras_serializable(package="tests.copies")
def own_activation(x):
    return keras.ops.relu(x)


@keras.saving.register_keras_serializable(package="tests.copies")
class OwnPenalty(L2):
    pass


def with_lora():
    layer = call(L.Dense(3))
    layer.enable_lora(2)
    return layer


def quantized():
    layer = call(L.Dense(4))
    layer.quantize("int8")
    return layer


def holding(**values):
    layer = call(L.Dense(3))
    for name, value in values.items():
        setattr(layer, name, value)
    return layer


NOT_COPIED = {
    "a subclass": lambda: call(OwnDense(3)),
    "a function of your own": lambda: call(L.Dense(3, own_activation)),
    "a layer inside": lambda: call(L.Dense(3, L.ReLU())),
    "an object of your own": lambda: holding(kernel_regularizer=OwnPenalty(1)),
    "a generator": lambda: call(
        L.Dense(
            3,
            kernel_initializer=keras.initializers.HeNormal(
                keras.random.SeedGenerator(1)
            ),
        )
    ),
    "a class without a `get_config`": lambda: call(L.ELU()),
    "LoRA": with_lora,
    "other layers": lambda: call(L.Dropout(0.5)),
}


@pytest.mark.parametrize("case", NOT_COPIED)
def test_what_is_not_plain_is_made_from_its_config(case):
    op = NOT_COPIED[case]()
    like = call(L.Dense(3)) if type(op) is L.Dense else op
    assert copied(op, like=like) is None
    assert copied(like, like=like) is not None or op is like
    assert Copies(None).make(op, {}).get_config() == op.get_config()


def test_quantized_layers_are_made_from_their_config():
    assert copied(quantized(), like=call(L.Dense(4))) is None


def test_what_is_put_on_a_layer_is_carried_over():
    op = holding(tag=[1], call=lambda x: x)
    assert copied(op, like=L.Dense(3)) is None
    copies = Copies(None)
    for changes in ({}, {"units": 2}):
        new = call(copies.make(op, changes))
        assert new.call is op.call
        copies.finish(op, new)
        assert new.tag == [1] and new.tag is not op.tag


def test_a_layer_that_holds_what_no_constructor_put_there_has_no_pattern():
    """As a later Keras may: the first layer then differs from its copy."""
    op = call(L.Dense(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(L.Dense, "__init__", _with_an_array(L.Dense.__init__))
        assert copied(op) is None


def _with_an_array(init):
    def wrapped(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.table = np.arange(3)

    return wrapped


# Keras as it is not known to be ---------------------------------------------


def broken(*args, **kwargs):
    raise AttributeError("no such attribute in this Keras")


@pytest.mark.parametrize(
    "owner, name",
    [
        ("copies._Pattern", "copy"),
        ("copies._Pattern", "__init__"),
        ("twins.Twins", "_keras"),
        ("twins.Twins", "_variable"),
    ],
)
def test_what_is_unknown_falls_back_to_configs(owner, name, monkeypatch):
    model = sm.convnet()
    monkeypatch.setattr(f"keras_gates.graphs.{owner}.{name}", broken)
    small, copy = kg.surgeon.prune(model, T), kg.slim(model, 1e-4)
    helpers.assert_same(model, small)
    x = helpers.inputs_for(model)
    # The same operations in the same order on the same numbers.
    assert same(helpers.run(model, x), helpers.run(copy, x))


# Nothing is shared ----------------------------------------------------------


def test_a_copy_shares_nothing_that_changes():
    op = call(L.Dense(3, kernel_regularizer=L2(0.5)))
    new = copied(op)
    new.kernel_regularizer.l2 = 9.0
    new.kernel_initializer.scale = 9.0
    call(new)
    assert op.kernel_regularizer.l2 == 0.5
    assert op.kernel_initializer.scale == 1.0
    assert len(op._inbound_nodes) == len(new._inbound_nodes) == 1
    assert [w is v for w, v in zip(op.weights, new.weights, strict=True)] == [
        False,
        False,
    ]
    new.kernel.assign(new.kernel + 1.0)
    assert not same(op.get_weights(), new.get_weights())
    assert new.build.__wrapped__.__self__ is new
    assert {id(w) for w in new.weights} == {
        id(w) for w in new.trainable_variables
    }


# Whole models ---------------------------------------------------------------


@pytest.fixture
def plainly(monkeypatch):
    """`prune` as it is with no layer copied, and each called by Keras."""

    def prune(model):
        with monkeypatch.context() as patch:
            patch.setattr(create, "SHORTCUTS", False)
            patch.setattr(copies, "PATTERNS", False)
            return kg.surgeon.prune(model, T)

    return prune


@pytest.mark.parametrize("make", sm.MODELS)
def test_a_model_is_as_if_nothing_were_copied(make, plainly):
    model = make()
    model.trainable = False
    before = helpers.fingerprint(model)
    small, truth = kg.surgeon.prune(model, T), plainly(model)
    assert keras.saving.serialize_keras_object(
        small
    ) == keras.saving.serialize_keras_object(truth)
    assert [w.path for w in small.weights] == [w.path for w in truth.weights]
    assert same(weights_of(small), weights_of(truth))
    for part, twin in zip(parts_of(small), parts_of(truth), strict=True):
        assert type(part) is type(twin)
        nodes = [len(p._inbound_nodes) for p in (part, twin)]
        nodes += [len(p._outbound_nodes) for p in (part, twin)]
        assert nodes[0::2] == nodes[1::2]
        if isinstance(part, keras.Layer):
            assert part.trainable == twin.trainable
            assert part.dtype_policy.name == twin.dtype_policy.name
            assert vars(part).keys() == vars(twin).keys()
    x = helpers.inputs_for(small)
    assert same(helpers.run(small, x), helpers.run(truth, x))
    assert helpers.fingerprint(model) == before


def test_a_copied_model_learns_as_if_nothing_were_copied(plainly):
    model = sm.convnet()
    runs = []
    for small in (kg.surgeon.prune(model, T), plainly(model)):
        small.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        x = helpers.inputs_for(small)
        y = [np.ones_like(out) for out in helpers.run(small, x)]
        before = weights_of(small)
        for _ in range(3):
            small.train_on_batch(x, y[0])
        after = weights_of(small)
        assert not any(
            np.array_equal(a, b)
            for a, b, w in zip(before, after, small.weights, strict=True)
            if w.trainable
        )
        runs.append(after)
    # The same operations in the same order on the same numbers.
    assert same(*runs)


class Unsaid(L.Layer):
    """Without a `get_config`: Keras tells a name only to `**kwargs`."""

    def __init__(self, factor=1.0, **options):
        super().__init__(**options)
        self.factor = factor

    def call(self, x):
        return x * self.factor


def test_a_name_that_no_config_tells_is_kept():
    layer = Unsaid(3.0, name="mine")
    assert "name" not in layer.get_config()
    new = new_copies().make(layer, {"factor": 2.0})
    assert (new.name, new.factor) == ("mine", 2.0)
