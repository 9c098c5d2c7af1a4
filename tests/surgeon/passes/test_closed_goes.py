"""Closed channels are removed: for each rule, what stays has a reason.

A gate before the subject closes channels that are zero, or another
constant; one after it closes what it puts out; and scores close half of each
group. A channel that was closed and is still there was closed for nothing.
"""

import re

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.passes import worth
from tests import helpers
from tests.surgeon import example_layers
from tests.surgeon import example_operations
from tests.surgeon.examples import FIRST
from tests.surgeon.examples import HAS_CHANNELS_FIRST

EXAMPLES = [
    example
    for example in (*example_layers.EXAMPLES, *example_operations.EXAMPLES)
    if example.cls is not None
]

# Reasons that name what would have to be known, or what is not written out.
REASONS = (
    "reads all channels together",
    "softmax over the channels",
    "feeds them back into itself",
    "several cells in one RNN",
    "it keeps its state between batches",
    "its initial state comes from outside",
    "it is supported only for two",
    "attention",
    "a product over the channels",
    "they stand for the others",
    "computes its statistics over them",
    "its channels are not on axis",
    "which has channels",
    "its mask depends on all features",
    "its statistics describe the data",
    "it turns values into categories",
    "its equation is supported only if",
    "its bias does not have one value per",
    "stranger is not from keras.activations",
)
# One operand is closed and the others, which it is added to, are not.
TIED = (
    *("Add three", "Average three", "Multiply three", "BranchGate closed"),
    # A weight is added to them.
    *("EinsumDense source (1, 8)", "EinsumDense source (8, 8)"),
    # Tensors that are multiplied: heads go whole, and a constant other than
    # zero is read as long as what it is multiplied with varies.
    *("Dot", "numpy.Einsum", "nn.DotProductAttention"),
)
# A constant that met a zero border differs from place to place, and only one
# whole kernel could read the sum of all. A product with an array has no bias,
# and a mean or an extreme over channels has none either.
# Times a factor for each step, constants are none any more.
BORDER = re.compile(
    "(Depthwise|Separable)Conv.*padding=same|Conv.D groups=.*padding=same|"
    r"numpy\.(Dot|Matmul)|nn\.Conv|EinsumDense abc,b >abc|"
    r"numpy\.(Mean|Max|Amax|Min|Amin) channels|"
    "ReversibleEmbedding reverse"
)
# Behind them a closed channel varies, and no other carries it: the only one of
# its group, or one with another gamma at each position.
ALONE = ("GroupNormalization groups=2", "LayerNormalization axis=[1, 2]")
ONE = "one channel has to stay to hold the constant of the others"


@pytest.fixture(autouse=True)
def _writing_out_is_free(monkeypatch):
    """The models here are so small that it would not pay."""
    monkeypatch.setattr(worth, "WRITING_OUT", 0)


def closing(model, front, behind):
    """Close channels by their number modulo 4; all factors are 0 or 1."""
    for gate in helpers.gates_of(model):
        shape = tuple(gate.factor.shape)
        shut = front if gate.name.startswith("front") else behind
        open_ = np.ones(shape)
        if shape:
            open_ = ~np.isin(np.arange(shape[0]) % 4, shut)
        gate.factor.assign(open_)


def built(example):
    model = example.build()
    if keras.backend.is_float_dtype(model.inputs[0].dtype):
        helpers.randomize(model)
    if hasattr(model, "keep_zero"):
        model.keep_zero()
    return model


def staying(plan):
    """What a plan says of closed channels that stay, line by line."""
    return re.findall(r"of them stay: (.*)", str(plan))


WAYS = {
    "zeros in front": ((2,), ()),
    "constants in front": ((1,), ()),
    "behind": ((), (0, 1)),
}


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_what_is_closed_goes(example):
    model = built(example)
    for way, (front, behind) in WAYS.items():
        closing(model, front, behind)
        for line in staying(kg.surgeon.plan(model, 0.5)):
            assert excused(str(example).replace("-", " "), way, line), line
    closing(model, (), ())
    for exact in (True, False):
        found = groups.find(expand.read(model), exact).groups
        half = {
            name: np.arange(group.units.size) % 2 + 0.25
            for name, group in found.items()
        }
        if half:
            plan = kg.surgeon.plan(model, 0.5, scores=half, exact=exact)
            assert not staying(plan)
            assert plan.params[1] < plan.params[0]


def excused(example, way, line):
    if way == "constants in front" and (line == ONE or BORDER.match(example)):
        return True
    tied = example in TIED or example.startswith("UnitNormalization")
    tied = tied or example in ALONE
    return tied or any(reason in line for reason in REASONS)


# Constants before layers that Keras records training=True for -----------

INTERPOLATIONS = ["nearest", "bilinear", "bicubic"]
if keras.backend.backend() != "torch":
    INTERPOLATIONS += ["lanczos3", "lanczos5"]
RESIZED = [
    {"interpolation": name, "antialias": antialias, "size": size}
    for name in INTERPOLATIONS
    for antialias in (False, True)
    for size in ((24, 20), (5, 7))
] + [
    {"crop_to_aspect_ratio": True, "size": (10, 5)},
    {
        "crop_to_aspect_ratio": True,
        "size": (14, 20),
        "interpolation": "nearest",
    },
    {"pad_to_aspect_ratio": True, "size": (10, 5)},
    {"pad_to_aspect_ratio": True, "size": (16, 24), "fill_value": 0.4},
    {"pad_to_aspect_ratio": True, "size": (10, 5), "fill_value": 1.5},
    {"pad_to_aspect_ratio": True, "size": (6, 20), "interpolation": "bicubic"},
]


def closed_in_front(middle, constant, width=8):
    """Channels that are zero, or `constant`, then `middle`, then a kernel."""
    inputs = keras.Input((12, 10, 3))
    x = L.Conv2D(width, 3, name="made")(inputs)
    x = kg.FilterGate(name="gate")(x)
    if constant:
        x = ops.add(x, np.full(width, constant, "float32"))
    y = L.Conv2D(2, 3, name="read")(middle(x))
    model = keras.Model(inputs, y)
    helpers.randomize(model, closed="none")
    factors = np.linspace(0.6, 1.4, width)
    factors[[1, 2, 4, 7]] = 0.0
    model.get_layer("gate").factor.assign(factors)
    return model


@pytest.mark.parametrize("constant", [0.0, 0.4])
@pytest.mark.parametrize("how", RESIZED, ids=str)
def test_constants_are_carried_through_resizing(how, constant):
    size, rest = how["size"], {k: v for k, v in how.items() if k != "size"}
    model = closed_in_front(lambda x: L.Resizing(*size, **rest)(x), constant)
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small)
    # Where the rim is another constant than the channel's, nothing is known;
    # where it is zero, the constants merge into one that stays.
    rim = rest.get("fill_value", 0.0)
    left = 4
    if how.get("pad_to_aspect_ratio") and rim != constant:
        left = 8 if rim else 5
    assert small.get_layer("made").filters == left


@pytest.mark.parametrize("constant", [0.0, 0.4])
@pytest.mark.parametrize(
    "make",
    [
        lambda: L.CenterCrop(6, 5),
        lambda: L.CenterCrop(14, 12),  # larger than the image: it is resized
        lambda: L.RandomCrop(6, 5),
        lambda: L.RandomFlip(),
        lambda: L.RandomRotation(0.2),
        lambda: L.RandomZoom(0.2, fill_mode="constant", fill_value=0.7),
        lambda: L.RandomContrast(0.5),
        lambda: L.RandomBrightness(0.5),
    ],
)
def test_preprocessing_is_what_it_is_in_inference(make, constant):
    model = closed_in_front(lambda x: make()(x), constant)
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small)
    assert small.get_layer("made").filters == 4


@pytest.mark.skipif(not HAS_CHANNELS_FIRST, reason="no such convolution")
def test_channels_first():
    inputs = keras.Input((3, 12, 10))
    x = L.Conv2D(8, 3, name="made", **FIRST)(inputs)
    x = kg.FilterGate(axis=1, name="gate")(x)
    x = L.Resizing(9, 9, pad_to_aspect_ratio=True, **FIRST)(x)
    x = L.RandomFlip(**FIRST)(x)
    model = keras.Model(inputs, L.Conv2D(2, 3, **FIRST)(x))
    helpers.randomize(model, closed="none")
    model.get_layer("gate").factor.assign(np.arange(8) % 2)
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small)
    assert small.get_layer("made").filters == 4


def test_a_dense_layer_called_in_training_is_the_same():
    """Keras takes `training` for the sake of quantization."""
    inputs = keras.Input((5,))
    x = kg.FilterGate(name="gate")(L.Dense(8, name="made")(inputs))
    x = L.Dense(6, activation="relu", name="next")(x, training=True)
    model = keras.Model(inputs, L.Dense(2)(kg.FilterGate(name="shut")(x)))
    helpers.randomize(model, closed="none")
    model.get_layer("gate").factor.assign(np.zeros(8))
    model.get_layer("shut").factor.assign([1.0, 0, 0, 1, 1, 1])
    assert "no longer depends" in refusal(model)
    model.get_layer("gate").factor.assign(np.arange(8) % 2)
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small)


def refusal(model):
    with pytest.raises(ValueError) as error:
        kg.surgeon.plan(model, 0.5)
    return str(error.value)


class InTraining(L.Layer):
    """A layer of a user's that differs in training."""

    def call(self, x, training=False):
        return x + 1.0 if training else x


def test_a_layer_that_may_differ_in_training_stops_constants():
    if InTraining not in kg.surgeon.rules.registered():
        kg.surgeon.register(InTraining, kg.surgeon.rules.Elementwise())
    inputs = keras.Input((5,))
    x = kg.FilterGate(name="gate")(L.Dense(8, name="made")(inputs))
    x = InTraining()(x, training=True)
    model = keras.Model(inputs, L.Dense(2)(x))
    helpers.randomize(model, closed="none")
    model.get_layer("gate").factor.assign(np.arange(8) % 2)
    small = kg.surgeon.prune(model, 0.5)
    assert small.get_layer("made").units == 8
    x = helpers.inputs_for(model)
    with helpers.closed_gates(model):
        expected = helpers.numpy_of(model(x))  # not told of inference
    np.testing.assert_allclose(helpers.numpy_of(small(x)), expected, rtol=1e-5)


# Padding with other numbers than zero ---------------------------------------


@pytest.mark.parametrize("rim", [0.0, 0.4, 0.7, np.float32(0.4)])
@pytest.mark.parametrize("constant", [0.0, 0.4])
def test_padding_with_a_number(rim, constant):
    constant = float(np.float32(constant))
    rim = float(np.float32(rim))
    widths = [[0, 0], [1, 2], [2, 0], [0, 0]]
    model = closed_in_front(
        lambda x: ops.pad(x, widths, constant_values=rim), constant
    )
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small)
    left = 4 if rim == constant else (8 if rim else 5)
    assert small.get_layer("made").filters == left


@pytest.mark.parametrize("rim", [0.0, 0.7])
def test_channels_that_are_padded_with_a_number(rim):
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(4, 3, name="made")(inputs)
    x = kg.FilterGate(name="gate")(x)
    x = ops.pad(x, [[0, 0], [0, 0], [0, 0], [1, 3]], constant_values=rim)
    model = keras.Model(inputs, L.Conv2D(2, 3, name="read")(x))
    helpers.randomize(model, closed="none")
    model.get_layer("gate").factor.assign([0.0, 0.7, 0.0, 1.3])
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small)
    assert small.get_layer("read").kernel.shape[-2] == 2
    assert small.get_layer("made").filters == 2


def test_a_factor_does_not_pass_a_rim():
    """An open gate behind padding with a number scales the rim, too."""
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(4, 3, name="made")(inputs)
    x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=0.7)
    x = kg.FilterGate(name="gate")(x)
    x = L.Resizing(9, 12, pad_to_aspect_ratio=True, fill_value=0.5)(x)
    model = keras.Model(inputs, L.Conv2D(2, 3, name="read")(x))
    helpers.randomize(model, closed="none")
    model.get_layer("gate").factor.assign([1.4, 0.7, 2.0, 1.3])
    helpers.assert_same(model, kg.surgeon.prune(model, 0.5))


# Constants along axes that hold no channels ----------------------------------


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: L.Softmax(axis=1)(x),
        lambda x: L.Softmax(axis=(1, 2))(x),
        lambda x: ops.softmax(x, 2),
        lambda x: ops.log_softmax(x, 1),
        lambda x: L.GroupNormalization(groups=-1)(x),
        lambda x: L.GroupNormalization(groups=8, center=False)(x),
        lambda x: L.PReLU()(x),
        lambda x: kg.FilterGate(name="late")(L.ZeroPadding2D(1)(x)),
        lambda x: L.Dropout(0.3)(L.ZeroPadding2D(1)(x)),
    ],
)
@pytest.mark.parametrize("constant", [0.0, 0.4])
def test_constants_pass_what_leaves_channels_apart(middle, constant):
    model = closed_in_front(middle, constant)
    small = kg.surgeon.prune(model, 0.5)
    # Instance normalization divides a rounding error by sqrt(epsilon).
    helpers.assert_same(model, small, rtol=1e-4)
    assert small.get_layer("made").filters in (4, 5 if constant else 4)


def test_a_softmax_over_an_unknown_time_is_unknown():
    inputs = keras.Input((None, 3))
    x = kg.FilterGate(name="gate")(L.Dense(8, name="made")(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.Softmax(axis=1)(x)))
    helpers.randomize(model, x=np.ones((2, 4, 3), "float32"), closed="none")
    model.get_layer("gate").factor.assign(np.arange(8) % 2)
    small = kg.surgeon.prune(model, 0.5)
    x = np.random.default_rng(0).normal(size=(3, 5, 3)).astype("float32")
    helpers.assert_same(model, small, x)


def test_an_idle_output_of_a_nested_model_keeps_no_closed_channel():
    """What has to have some channel has one of those that stay anyway."""
    a, b = keras.Input((5, 6)), keras.Input((5, 6))
    inner = keras.Model(
        [a, b], [L.Conv1D(3, 3, padding="same")(a), L.ReLU()(b)], name="inner"
    )
    x = keras.Input((5, 4))
    made = L.Conv1D(6, 3, padding="same", name="made")(x)
    y, z = L.ELU()(made), L.BatchNormalization()(made)
    model = keras.Model(
        x, L.Concatenate()([inner([y, z])[0], inner([z, y])[0]])
    )
    scores = {"made": np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0])}
    plan = kg.surgeon.plan(model, 0.5, scores=scores)
    small = plan.apply()
    assert small.get_layer("made").filters == 5
    assert max(plan.verify(small).values()) < 1e-6
