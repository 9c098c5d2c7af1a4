"""Channels that go through normalizations, exactly.

The truth is the user's own model with what is closed at zero, and for the
algebra NumPy in float64.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.graphs import graph as graphs
from keras_gates.surgeon.passes import worth
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.norm_form import form_of
from keras_gates.surgeon.rules.written_norm import Left
from keras_gates.surgeon.rules.written_norm import written_out
from tests import helpers

WIDTH = 12
IN = (5, 6)
# Sums over a dozen channels and a few layers in float32.
CLOSE = 2e-6

NORMS = {
    "LayerNormalization": lambda: L.LayerNormalization(),
    "no scale": lambda: L.LayerNormalization(scale=False),
    "no shift": lambda: L.LayerNormalization(center=False),
    "neither": lambda: L.LayerNormalization(center=False, scale=False),
    "two axes": lambda: L.LayerNormalization(axis=[1, 2]),
    "two axes, no scale": lambda: L.LayerNormalization([1, 2], scale=False),
    "RMSNormalization": lambda: L.RMSNormalization(),
    "one group": lambda: L.GroupNormalization(1),
    "three groups": lambda: L.GroupNormalization(3),
    "groups, no scale": lambda: L.GroupNormalization(3, scale=False),
}
SOME = ("LayerNormalization", "RMSNormalization", "three groups")


@pytest.fixture
def free(monkeypatch):
    """The models here are so small that writing out would not pay."""
    monkeypatch.setattr(worth, "WRITING_OUT", 0)


def samples(shape=IN, seed=0):
    """Inputs whose means are not small beside their deviation."""
    rng = np.random.default_rng(seed)
    return (2 + rng.normal(size=(6, *shape))).astype("float32")


def drawn(model, seed=0):
    """The model with weights that are not as they were initialized."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            value = helpers.numpy_of(keras.ops.cast(weight, "float32"))
            weight.assign(value + 0.3 * rng.normal(size=value.shape))
    return model


def half(model):
    """Half of each group by scores: one channel in two."""
    found = kg.surgeon.score(model, "random")
    return {name: np.arange(len(s)) % 2 + 0.25 for name, s in found.items()}


def closed(model, channels=slice(1, 7)):
    """Close the same channels of all filter gates; the others are not 1."""
    rng = np.random.default_rng(1)
    for gate in helpers.gates_of(model):
        factors = rng.uniform(0.6, 1.4, gate.factor.shape)
        factors[channels] = 0
        gate.factor.assign(factors)
    return model


def check(plan, x, close=CLOSE):
    """Prune, and compare with the masked model; also what was counted."""
    small = plan.apply()
    found = plan.verify(small, x)
    assert max(found.values()) < close
    outputs = keras.tree.flatten(helpers.predicted(small, x))
    assert all(np.ptp(y.astype("float32"), axis=0).max() > 0 for y in outputs)
    assert plan.params[1] == small.count_params()
    assert plan.macs[1] == kg.stats.count(small).macs
    return small


def block(x, norm, width=WIDTH, pre=True):
    """A branch with a shortcut, the norm before the branch or after both."""
    y = norm()(x) if pre else x
    y = L.Dense(2 * width, activation="gelu")(y)
    y = L.Add()([x, L.Dense(width)(y)])
    return y if pre else norm()(y)


def stream(norm, pre=True, gate=lambda x: x, shape=IN):
    inputs = keras.Input(shape)
    x = gate(L.Dense(WIDTH, name="made")(inputs))
    for _ in range(2):
        x = block(x, norm, pre=pre)
    x = norm()(x) if pre else x
    head = L.Dense(3)(L.GlobalAveragePooling1D()(x))
    return drawn(keras.Model(inputs, head))


# The algebra ----------------------------------------------------------------


def normalized(x, layer, axes, groups=1):
    """A normalization in float64, of all channels."""
    shape = x.shape
    if groups > 1:
        x = x.reshape(*shape[:-1], groups, -1)
        axes = [*range(1, len(shape) - 1), len(shape)]
    mean = x.mean(axis=tuple(axes), keepdims=True)
    var = ((x - mean) ** 2).mean(axis=tuple(axes), keepdims=True)
    off = x if getattr(layer, "rms_scaling", False) else x - mean
    y = (off / np.sqrt(var + layer.epsilon)).reshape(shape)
    for name, function in (("gamma", np.multiply), ("beta", np.add)):
        if getattr(layer, name) is not None:
            y = function(y, helpers.numpy_of(getattr(layer, name)))
    return y


@pytest.mark.parametrize("constants", [0.0, 3.0, "apart"])
@pytest.mark.parametrize("name", NORMS)
def test_what_is_written_out_has_the_statistics_of_all(name, constants):
    layer = NORMS[name]()
    if isinstance(layer, L.RMSNormalization):
        pytest.skip("it stays what it is")
    layer.build((None, 5, WIDTH))
    drawn(layer)
    rng = np.random.default_rng(0)
    # Means of five deviations.
    x = 5 + rng.normal(size=(4, 5, WIDTH))
    gone = np.arange(WIDTH) % 3 == 1
    gone[:2] = True
    values = rng.normal(size=WIDTH) if constants == "apart" else constants
    x[..., gone] = np.broadcast_to(values, WIDTH)[gone]
    groups = getattr(layer, "groups", 1)
    axes = [1, 2] if groups > 1 or name in ("one group",) else [2]
    axes = [1, 2] if name.startswith("two axes") else axes
    removed = np.where(gone, x[0, 0], np.nan)
    inputs = keras.Input((5, WIDTH))
    call = graphs.read(keras.Model(inputs, layer(inputs))).calls[0]
    form = rule_of(call).form(call)
    left = Left(
        layer, form, (None, 5, (~gone).sum()), "float32", removed, "float32"
    )
    model = written_out(left)
    for part in model.layers:
        if part.name == "scale":
            part.kernel.assign(helpers.numpy_of(layer.gamma)[..., ~gone])
        if part.name == "scale" and layer.beta is not None:
            part.bias.assign(helpers.numpy_of(layer.beta)[..., ~gone])
        if part.name == "shift":
            beta = helpers.numpy_of(layer.beta)[..., ~gone]
            part.kernel.assign(beta[np.newaxis])
    expected = normalized(x, layer, axes, groups)[..., ~gone]
    got = helpers.predicted(model, x[..., ~gone].astype("float32"))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5)
    # What it computes can be told from its operations again.
    again, told = left.reduced(), form_of(model)
    assert (told.axis, told.spans) == (again.axis, again.spans)
    np.testing.assert_array_equal(told.group_of, again.group_of)
    used = np.unique(told.group_of)
    for name in ("share", "shift", "weight", "pull", "rest"):
        one = getattr(told.statistics, name)[used]
        other = getattr(again.statistics, name)[used]
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


# By scores ------------------------------------------------------------------


@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("name", NORMS)
def test_half_of_a_stream_goes_by_scores(name, pre, free):
    model = stream(NORMS[name], pre)
    plan = kg.surgeon.plan(model, 0.5, scores=half(model))
    small = check(plan, samples())
    assert plan.exact
    assert small.get_layer("made").units == WIDTH // 2
    assert "of them stay" not in str(plan)


def test_a_block_of_convnext(free):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 2, strides=2, name="stem")(inputs)
    for _ in range(2):
        y = L.DepthwiseConv2D(3, padding="same")(x)
        y = L.LayerNormalization(epsilon=1e-6)(y)
        y = L.Dense(32, activation="gelu")(y)
        y = L.Dense(8)(y)
        y = L.EinsumDense("abcd,d->abcd", (4, 4, 8))(y)
        x = L.Add()([x, y])
    x = L.LayerNormalization()(x)
    x = L.Conv2D(12, 2, strides=2)(x)
    x = L.LayerNormalization()(L.GlobalAveragePooling2D()(x))
    model = drawn(keras.Model(inputs, L.Dense(4)(x)))
    plan = kg.surgeon.plan(model, 0.5, scores=half(model))
    check(plan, samples((8, 8, 3)))
    assert plan.params[1] < 0.4 * plan.params[0]


@pytest.mark.parametrize("name", SOME)
def test_all_channels_but_two(name, free):
    model = stream(NORMS[name])
    scores = half(model)
    scores["made"] = np.eye(WIDTH)[3] + np.eye(WIDTH)[7] + 0.25
    small = check(kg.surgeon.plan(model, 0.5, scores=scores), samples())
    assert small.get_layer("made").units == 2


# By gates before the norm ---------------------------------------------------


def chain(norm, before=(), after=()):
    inputs = keras.Input(IN)
    x = kg.FilterGate(name="gate")(L.Dense(WIDTH, name="made")(inputs))
    for layer in (*before, norm, *after):
        x = layer(x)
    return drawn(keras.Model(inputs, [L.Dense(4)(x), L.Dense(9)(x)]))


# How many of six constants stay after each norm: none where they are zero
# again; one for each group; two where the constants differ.
CARRIERS = {
    "LayerNormalization": (1, 2),
    "no scale": (1, 2),
    "no shift": (1, 2),
    "neither": (1, 2),
    # gamma varies in space, and so do multiples of one another.
    "two axes": (6, 6),
    "RMSNormalization": (0, 1),
    "one group": (1, 2),
    # Channels 1 to 6 are in groups of four.
    "three groups": (2, 4),
}


@pytest.mark.parametrize("name", CARRIERS)
def test_a_gate_before_a_norm(name, free):
    for stays, before in zip(
        CARRIERS[name], ([], [L.BatchNormalization()]), strict=True
    ):
        model = closed(chain(NORMS[name](), before))
        plan = kg.surgeon.plan(model, 0.5)
        small = check(plan, samples())
        assert small.get_layer("made").units == 6 + stays
        if 0 < stays < 6:
            assert "stand for the others" in str(plan)


def test_constants_that_are_alike_have_one_carrier(free):
    model = closed(chain(L.LayerNormalization(), [L.Rescaling(1.0, 0.5)]))
    small = check(kg.surgeon.plan(model, 0.5), samples())
    assert small.get_layer("made").units == 7


AFTER = {
    "pooling": ([L.Dropout(0.1), L.GlobalAveragePooling1D()], 7),
    "another gate": ([kg.FilterGate(name="again")], 6),
    "factors": ([L.EinsumDense("abc,c->abc", (5, WIDTH), bias_axes="c")], 7),
    "moves": ([L.Permute((2, 1)), L.Permute((2, 1))], 7),
    "a valid convolution": ([L.Conv1D(7, 3)], 7),
    # What is followed no further, and so is read.
    "a border": ([L.Conv1D(7, 3, padding="same")], WIDTH),
    "a nonlinear function": ([L.Activation("tanh")], WIDTH),
    "a maximum": ([L.GlobalMaxPooling1D()], WIDTH),
    "each position": ([L.Flatten()], WIDTH),
}


@pytest.mark.parametrize("name", AFTER)
def test_what_carries_others_is_followed_to_kernels(name, free):
    after, width = AFTER[name]
    config = [type(x).from_config(x.get_config()) for x in after]
    model = closed(chain(L.LayerNormalization(), after=config))
    plan = kg.surgeon.plan(model, 0.5)
    assert check(plan, samples()).get_layer("made").units == width


def test_the_norms_of_a_stream_share_their_carrier(free):
    gate = kg.FilterGate(name="gate")
    inputs = keras.Input(IN)
    x = gate(L.Dense(WIDTH, name="made")(inputs))
    for _ in range(2):
        y = L.Dense(24, activation="gelu")(L.LayerNormalization()(x))
        x = gate(L.Add()([x, L.Dense(WIDTH)(y)]))
    x = L.LayerNormalization()(x)
    model = closed(drawn(keras.Model(inputs, L.Dense(3)(x))))
    small = check(kg.surgeon.plan(model, 0.5), samples())
    assert small.get_layer("made").units == 7


def test_gates_are_inserted_where_norms_follow(free):
    model = stream(NORMS["LayerNormalization"])
    gated = closed(kg.insert_gates(model, filters=1e-4), slice(1, 6))
    small = check(kg.surgeon.plan(gated, 0.5), samples())
    assert small.get_layer("made").units == WIDTH - 4


# Kinds of models ------------------------------------------------------------


def test_a_norm_that_is_called_twice(free):
    inputs = keras.Input(IN)
    norm = L.LayerNormalization(name="norm")
    sides = [norm(L.Dense(WIDTH, name=n)(inputs)) for n in ("made", "b")]
    model = drawn(keras.Model(inputs, L.Dense(3)(L.Concatenate()(sides))))
    plan = kg.surgeon.plan(model, 0.5, scores=half(model))
    small = check(plan, samples())
    assert small.get_layer("made").units == WIDTH // 2
    # Where its inputs hold other constants, it reads them.
    inputs = keras.Input(IN)
    gate = kg.FilterGate(name="gate")
    sides = [gate(L.Dense(WIDTH, name=n)(inputs)) for n in ("made", "b")]
    sides[1] = L.Rescaling(1.0, 0.5)(sides[1])
    sides = [kg.FilterGate()(norm(x)) for x in sides]
    model = closed(drawn(keras.Model(inputs, L.Dense(3)(L.Add()(sides)))))
    small = check(kg.surgeon.plan(model, 0.5), samples())
    assert small.get_layer("made").units == WIDTH


def test_a_norm_in_a_nested_model_that_is_called_twice(free):
    inputs = keras.Input((5, WIDTH))
    inner = keras.Model(inputs, block(inputs, L.LayerNormalization))
    inputs = keras.Input(IN)
    x = inner(inner(L.Dense(WIDTH, name="made")(inputs)))
    model = drawn(keras.Model(inputs, L.Dense(3)(L.LayerNormalization()(x))))
    small = check(kg.surgeon.plan(model, 0.5, scores=half(model)), samples())
    assert small.get_layer("made").units == WIDTH // 2


class Branch(L.Layer):
    """A layer that no rule knows."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.norm = L.LayerNormalization(name="norm")
        self.up = L.Dense(2 * width, activation="relu", name="up")
        self.down = L.Dense(width, name="down")

    def build(self, shape):
        self.norm.build(shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], 2 * self.width))

    def call(self, x):
        return x + self.down(self.up(self.norm(x)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_a_norm_in_a_layer_that_is_seen_through(free):
    inputs = keras.Input(IN)
    x = L.Dense(WIDTH, name="made")(inputs)
    x = Branch(WIDTH)(Branch(WIDTH)(x))
    model = drawn(keras.Model(inputs, L.Dense(3)(L.LayerNormalization()(x))))
    small = check(kg.surgeon.plan(model, 0.5, scores=half(model)), samples())
    assert small.get_layer("made").units == WIDTH // 2


def test_a_sequential_stays_one_and_is_saved_and_cut_again(free, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(IN)])
    for layer in (L.Dense(WIDTH, name="made"), L.LayerNormalization()):
        model.add(layer)
    model.add(L.Dense(WIDTH))
    model.add(L.LayerNormalization(scale=False, name="norm"))
    model.add(L.Dense(16, activation="relu"))
    model.add(L.Dense(3))
    drawn(model)
    small = check(kg.surgeon.plan(model, 0.5, scores=half(model)), samples())
    assert isinstance(small, keras.Sequential)
    assert [layer.name for layer in small.layers] == [
        layer.name for layer in model.layers
    ]
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    x = samples()
    np.testing.assert_array_equal(
        helpers.predicted(loaded, x), helpers.predicted(small, x)
    )
    plan = kg.surgeon.plan(loaded, 0.5, scores=half(loaded))
    check(plan, x)
    assert plan.params[1] < plan.params[0]


def tokens():
    found = np.random.default_rng(0).integers(0, 3, (8, 5))
    found[:, 0] = 1
    return found.astype("int32")


@pytest.mark.parametrize("name", ["LayerNormalization", "three groups"])
def test_a_mask_of_time_steps_is_an_argument_of_what_reads(name, free):
    """So it is in the record: what is written out need not hand it on."""
    inputs = keras.Input((5,), dtype="int32")
    x = L.Embedding(9, WIDTH, mask_zero=True, name="made")(inputs)
    x = L.Dense(16, activation="relu", name="up")(NORMS[name]()(x))
    x = NORMS[name]()(L.Dense(WIDTH)(x))
    outputs = [L.LSTM(4)(x), L.GlobalAveragePooling1D()(x)]
    model = drawn(keras.Model(inputs, outputs))
    for width in (6, 3):
        plan = kg.surgeon.plan(model, 0.5, scores=half(model))
        model = check(plan, tokens())
        assert model.get_layer("made").output_dim == width


def test_a_mask_that_goes_along_with_a_tensor_keeps_a_norm(free):
    """A model in place of a layer would lose it."""

    def kept(last):
        inputs = keras.Input((5,), dtype="int32")
        x = L.Embedding(9, WIDTH, mask_zero=True, name="made")(inputs)
        x = L.Dense(16, activation="relu", name="up")(x)
        x = kg.FilterGate(name="gate")(L.Dense(WIDTH, name="down")(x))
        x = L.LayerNormalization(name="norm")(x)
        model = closed(drawn(keras.Model(inputs, last(x))))
        plan = kg.surgeon.plan(model, 0.5)
        check(plan, tokens())
        (row,) = [row for row in plan.rows if row.layer == "down"]
        return row.after == WIDTH, str(plan)

    def attention(x):
        x = L.MultiHeadAttention(2, 4, name="attention")(x, x)
        return L.Dense(3)(L.GlobalAveragePooling1D()(x))

    stays, text = kept(attention)
    assert stays
    assert "the mask of time steps that 'attention' finds" in text
    stays, text = kept(L.Dense(3))
    assert stays
    assert "that the loss of the model finds" in text
    stays, text = kept(L.LSTM(4))
    assert not stays
    assert "not pass on the mask" not in text


@pytest.mark.filterwarnings("ignore:`verify` can't tell:UserWarning")
@pytest.mark.parametrize(
    "policy", ["mixed_float16", "float16", "mixed_bfloat16", "bfloat16"]
)
def test_half_precision_takes_statistics_in_float32(policy, free):
    keras.config.set_dtype_policy(policy)
    try:
        model = stream(L.LayerNormalization)
        plan = kg.surgeon.plan(model, 0.5, scores=half(model))
        # The last output is rounded to 8 or 11 bits, after a few layers.
        check(plan, samples(), close=0.05 if "bfloat" in policy else 6e-3)
    finally:
        keras.config.set_dtype_policy("float32")


def test_the_optimizer_goes_on(free):
    inputs = keras.Input(IN)
    x = L.LayerNormalization(name="norm")(L.Dense(WIDTH, name="made")(inputs))
    x = L.RMSNormalization(name="rms")(L.Dense(WIDTH)(x))
    x = L.LayerNormalization(scale=False, name="shift")(L.Dense(WIDTH)(x))
    model = drawn(keras.Model(inputs, L.Dense(3)(x)))
    model.compile("adam", "mse")
    model.fit(samples(), np.ones((6, 5, 3)), verbose=0)
    scores = half(model)
    plan = kg.surgeon.plan(model, 0.5, scores=scores)
    small = plan.apply(keep_optimizer=True)

    def momentum(model, layer, number):
        weight = model.get_layer(layer).weights[number]
        at = [v is weight for v in model.trainable_variables].index(True)
        return helpers.numpy_of(model.optimizer._momentums[at]).ravel()

    kept = np.arange(WIDTH) % 2 == 1
    pairs = [("norm", 0, 1), ("norm", 1, 1), ("shift", 0, 1)]
    # A gradient for a weight that is twice as large, squared, is half of it.
    for layer, number, factor in [*pairs, ("rms", 0, np.sqrt(0.5))]:
        before, after = (momentum(m, layer, number) for m in (model, small))
        assert np.abs(before).max() > 0
        np.testing.assert_allclose(after, before[kept] * factor, rtol=1e-5)
    small.fit(samples(), np.ones((6, 5, 3)), verbose=0)


def test_a_plan_goes_to_json_and_back_and_rounds(free):
    model = stream(NORMS["LayerNormalization"])
    options = {"scores": half(model), "round_to": 4}
    plan = kg.surgeon.plan(model, 0.5, **options)
    small = check(plan, samples())
    assert small.get_layer("made").units == 8
    again = kg.surgeon.Plan.from_json(plan.to_json(), model)
    assert again.params == plan.params


# What decides, and what is approximate ---------------------------------------


def test_what_does_not_pay_is_kept_and_said():
    inputs = keras.Input(IN)
    x = L.LayerNormalization(name="norm")(L.Dense(8, name="made")(inputs))
    model = drawn(keras.Model(inputs, L.Dense(2)(x)))
    scores = {"made": np.array([0.1] + 7 * [1.0])}
    plan = kg.surgeon.plan(model, 0.5, scores=scores)
    assert plan.params[0] == plan.params[1]
    assert "which costs more than it saves" in str(plan)
    # Beside wide kernels it does.
    inputs = keras.Input(IN)
    x = L.LayerNormalization(name="norm")(L.Dense(8, name="made")(inputs))
    model = drawn(keras.Model(inputs, L.Dense(200)(x)))
    plan = kg.surgeon.plan(model, 0.5, scores=scores)
    small = check(plan, samples())
    assert small.get_layer("made").units == 7
    assert any(
        "'norm'" in note and "written out" in note for note in plan.notes
    )
    # An RMSNormalization costs nothing.
    inputs = keras.Input(IN)
    x = L.RMSNormalization(name="norm")(L.Dense(8, name="made")(inputs))
    model = drawn(keras.Model(inputs, L.Dense(2)(x)))
    small = check(kg.surgeon.plan(model, 0.5, scores=scores), samples())
    assert type(small.get_layer("norm")) is L.RMSNormalization


def test_the_approximate_form_is_the_stock_layer(free):
    model = stream(NORMS["LayerNormalization"])
    scores = kg.surgeon.score(model, "l2", exact=False)
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores, exact=False)
    small = plan.apply()
    assert not plan.exact
    kinds = {type(layer) for layer in small.layers}
    assert L.LayerNormalization in kinds
    assert keras.Model not in kinds


# Again ----------------------------------------------------------------------


def third(model):
    """One channel in three, of each group."""
    found = kg.surgeon.score(model, "random")
    return {name: np.arange(len(s)) % 3 + 0.25 for name, s in found.items()}


@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("name", SOME)
def test_a_stream_can_be_cut_again_and_again(name, pre, free, tmp_path):
    """The statistics are those of all channels that there ever were."""
    model = start = stream(NORMS[name], pre)
    for width in (8, 5, 3):
        model = check(
            kg.surgeon.plan(model, 0.5, scores=third(model)), samples()
        )
        assert model.get_layer("made").units == width
        assert len(model.layers) == len(start.layers)
        model.save(tmp_path / "small.keras")
        model = keras.saving.load_model(tmp_path / "small.keras")


def operations(x, written="squares"):
    """Normalizations that a user may write."""
    mean = keras.ops.mean(x, axis=-1, keepdims=True)
    if written == "squares":
        var = keras.ops.mean(keras.ops.square(x - mean), -1, keepdims=True)
        return (x - mean) * keras.ops.rsqrt(var + 1e-3)
    if written == "root":
        var = keras.ops.var(x, axis=-1, keepdims=True)
        return (x - mean) / keras.ops.sqrt(var + 1e-3)
    if written == "difference":
        var = keras.ops.mean(x * x, axis=-1, keepdims=True) - mean * mean
        return (x - mean) / (var + 1e-3) ** 0.5
    if written == "sums":
        off = x - keras.ops.sum(x, axis=-1, keepdims=True) / x.shape[-1]
        var = keras.ops.sum(off**2, axis=-1) * (1 / x.shape[-1])
        root = keras.ops.reciprocal(keras.ops.sqrt(var + 1e-3))
        return off * keras.ops.expand_dims(root, -1)
    square = keras.ops.mean(keras.ops.power(x, 2), axis=-1, keepdims=True)
    return x * keras.ops.rsqrt(square + 1e-5)


WRITTEN = ("squares", "root", "difference", "sums", "no mean")


class Own(L.Layer):
    """One of them as a layer."""

    def __init__(self, written, **kwargs):
        super().__init__(**kwargs)
        self.written = written

    def build(self, shape):
        self.scale = self.add_weight(
            shape=shape[-1:], initializer="ones", name="scale"
        )
        self.shift = self.add_weight(shape=shape[-1:], name="shift")

    def call(self, x):
        return operations(x, self.written) * self.scale + self.shift

    def get_config(self):
        return {**super().get_config(), "written": self.written}


def as_model(written):
    inputs = keras.Input((5, WIDTH))
    x = operations(inputs, written)
    return keras.Model(inputs, L.EinsumDense("abc,c->abc", (5, WIDTH))(x))


@pytest.mark.parametrize("kind", [Own, as_model])
@pytest.mark.parametrize("written", WRITTEN)
def test_norms_that_users_write(written, kind, free):
    model = stream(lambda: kind(written))
    for width in (6, 3):
        plan = kg.surgeon.plan(model, 0.5, scores=half(model))
        model = check(plan, samples())
        assert model.get_layer("made").units == width


NOT_NORMS = {
    "a negative epsilon": lambda x, m, v: (x - m) / keras.ops.sqrt(v - 1e-3),
    "no variance": lambda x, m, v: (x - m) / keras.ops.sqrt(m * m + 1e-3),
    "another mean": lambda x, m, v: (
        (x - keras.ops.mean(keras.ops.abs(x), -1, keepdims=True))
        / keras.ops.sqrt(v + 1e-3)
    ),
    "over time": lambda x, m, v: (
        (x - keras.ops.mean(x, 1, keepdims=True)) / keras.ops.sqrt(v + 1e-3)
    ),
    # There are as many steps as channels.
    "along the wrong axis": lambda x, m, v: (
        (x - keras.ops.expand_dims(m[..., 0], 1)) / keras.ops.sqrt(v + 1e-3)
    ),
    "no root": lambda x, m, v: (x - m) / (v + 1e-3),
    "twice": lambda x, m, v: 2 * x - m * keras.ops.rsqrt(v + 1e-3),
}


@pytest.mark.parametrize("name", NOT_NORMS)
def test_what_is_no_norm_is_not_taken_for_one(name):
    x = keras.Input((WIDTH, WIDTH))
    mean = keras.ops.mean(x, axis=-1, keepdims=True)
    var = keras.ops.var(x, axis=-1, keepdims=True)
    assert form_of(keras.Model(x, NOT_NORMS[name](x, mean, var))) is None


def small_vit(width=16):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(width, 4, strides=4, name="made")(inputs)
    x = L.Reshape((4, width))(x)
    for _ in range(2):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(2, 8)(y, y)])
        x = block(x, L.LayerNormalization, width)
    x = L.LayerNormalization()(x)
    head = L.Dense(4)(L.GlobalAveragePooling1D()(x))
    return drawn(keras.Model(inputs, head))


def small_convnext():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(12, 2, strides=2, name="made")(inputs)
    for _ in range(2):
        y = L.DepthwiseConv2D(3, padding="same")(x)
        y = L.LayerNormalization(epsilon=1e-6)(y)
        y = L.Dense(12)(L.Dense(32, activation="gelu")(y))
        y = L.EinsumDense("abcd,d->abcd", (4, 4, 12))(y)
        x = L.Add()([x, y])
    x = L.LayerNormalization()(L.GlobalAveragePooling2D()(x))
    return drawn(keras.Model(inputs, L.Dense(4)(x)))


@pytest.mark.parametrize("make", [small_vit, small_convnext])
def test_each_step_narrows_the_stream(make, free):
    widths, model = [], make()
    last = kg.surgeon.prune_iteratively(
        model,
        kg.Quantile(0.6, scope="gate"),
        steps=3,
        on_step=lambda m, step: widths.append(m.get_layer("made").filters),
    )
    assert widths[0] > widths[1] > widths[2]
    assert last.count_params() < 0.5 * model.count_params()


@pytest.mark.once
@pytest.mark.parametrize("make", [small_vit, small_convnext])
def test_repair_of_what_is_written_out(make):
    model = make()
    x = np.random.default_rng(0).normal(size=(48, 8, 8, 3)).astype("float32")
    held = np.random.default_rng(1).normal(size=(48, 8, 8, 3))
    held = held.astype("float32")
    scores = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, kg.Quantile(0.4), scores=scores)
    assert "written out" in str(plan)
    cut = plan.apply()
    report = kg.surgeon.repair(plan, x)
    mended = report.model
    expected = helpers.predicted(model, held)

    def off(small):
        return np.square(helpers.predicted(small, held) - expected).mean()

    assert off(mended) <= off(cut)
    assert "dense" in str(report)
    # And of what was cut before.
    again = kg.surgeon.score(mended, "l2")
    kg.surgeon.prune(mended, kg.Quantile(0.2), scores=again, repair=x)
