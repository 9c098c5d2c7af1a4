"""Nested models that are called on tensors with a mask of time steps."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon.verify import closed_gates
from tests import helpers
from tests.surgeon import wide_judge

# Keras warns of a model that is called on a masked tensor.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Layer '.*' .of type .*was passed an input with a mask"
)

STEPS, WIDTH, WORDS = 6, 8, 11


def tokens(batch=5, seed=0):
    rng = np.random.default_rng(seed)
    length = rng.integers(2, STEPS + 1, (batch, 1))
    words = rng.integers(1, WORDS, (batch, STEPS))
    return np.where(np.arange(STEPS) < length, words, 0).astype("int32")


def model_of(x, *ys, name="model"):
    return keras.Model(x, ys[0] if len(ys) == 1 else list(ys), name=name)


def gated(x):
    return kg.FilterGate()(L.Dense(WIDTH, activation="relu")(x))


def recurrent(layer):
    def inside(x):
        return layer(5, return_sequences=True)(gated(x))

    return inside


def residual(x):
    return L.SimpleRNN(4)(L.Add()([x, L.Dense(WIDTH)(gated(x))]))


def softmaxed(x):
    # A mask of steps fits one softmax over them.
    x = L.Flatten()(L.Dense(1)(gated(x)))
    return L.Dense(4)(x)


def attention(x):
    x = gated(x)
    return L.MultiHeadAttention(2, 3)(x, x)


def unmasked(x):
    return L.Dense(4)(gated(x))


def pooled(x):
    return L.GlobalAveragePooling1D()(gated(x))


def branched(x):
    x = gated(x)
    left = kg.FilterGate()(L.Dense(6)(x))
    return L.LSTM(4)(L.Concatenate()([left, x]))


def deeper(x):
    inner = keras.Input((STEPS, WIDTH))
    core = model_of(inner, L.GRU(4)(gated(inner)), name="core")
    return core(gated(x))


def wrapped(x):
    return L.Bidirectional(L.LSTM(4))(gated(x))


INSIDE = {
    "lstm": recurrent(L.LSTM),
    "gru": recurrent(L.GRU),
    "rnn": recurrent(L.SimpleRNN),
    "residual": residual,
    "softmaxed": softmaxed,
    "attention": attention,
    "unmasked": unmasked,
    "pooled": pooled,
    "branched": branched,
    "deeper": deeper,
    "wrapped": wrapped,
}


def nested(inside, name="inner"):
    x = keras.Input((STEPS, WIDTH))
    return model_of(x, inside(x), name=name)


def head(y):
    if len(y.shape) == 3:
        y = L.LSTM(4)(y)
    return L.Dense(3)(y)


def embedded(masked=True):
    first = keras.Input((STEPS,), dtype="int32", name="words")
    return first, L.Embedding(WORDS, WIDTH, mask_zero=masked)(first)


def drawn(model, seed=0):
    x = tokens()
    helpers.randomize(model, seed, x, "half")
    for layer in helpers.layers_of(model):
        if isinstance(layer, L.Embedding):
            rng = np.random.default_rng(seed)
            layer.embeddings.assign(rng.normal(size=layer.embeddings.shape))
    return model


def assert_pruned(model, x=None):
    """Compares with the user's own model, its gates closed in place."""
    x = tokens() if x is None else x
    plan = kg.surgeon.plan(model, helpers.THRESHOLD, keep_at_least=1)
    pruned = plan.apply()
    found = kg.surgeon.verify(model, pruned, plan, x=x)
    assert max(found.values()) < 2e-5
    got = helpers.run(pruned, x)
    with closed_gates(model, plan.masks()):
        expected = helpers.run(model, x)
    assert max(helpers.differences(expected, got)) < 2e-5
    return pruned


@pytest.mark.parametrize("name", INSIDE)
def test_a_model_on_masked_words(name):
    first, x = embedded()
    model = drawn(model_of(first, head(nested(INSIDE[name])(x))))
    pruned = assert_pruned(model)
    assert pruned.count_params() < model.count_params()
    assert isinstance(pruned.get_layer("inner"), keras.Model)
    assert not helpers.gates_of(pruned)


@pytest.mark.parametrize("name", ["lstm", "attention", "unmasked", "branched"])
def test_a_mask_that_is_an_argument(name):
    data = keras.Input((STEPS, WIDTH), name="data")
    mask = keras.Input((STEPS,), dtype="bool", name="mask")
    y = nested(INSIDE[name])(data, mask=mask)
    model = model_of([data, mask], head(y))
    x = [np.random.default_rng(0).normal(size=(5, STEPS, WIDTH)), tokens() > 0]
    x[0] = x[0].astype("float32")
    helpers.randomize(model, 0, x, "half")
    pruned = assert_pruned(model, x)
    assert pruned.count_params() < model.count_params()


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("masked_first", [True, False])
def test_called_with_a_mask_and_without(name, masked_first):
    first, x = embedded()
    inner = nested(INSIDE[name])
    calls = [x, ops.copy(x)] if masked_first else [ops.copy(x), x]
    model = drawn(model_of(first, *[head(inner(each)) for each in calls]))
    pruned = assert_pruned(model)
    names = [layer.name for layer in pruned.layers]
    assert names.count("inner") == 1


def test_a_sequential_on_masked_words():
    first, x = embedded()
    layers = [L.Dense(WIDTH, activation="relu"), kg.FilterGate(), L.LSTM(4)]
    inner = keras.Sequential([keras.Input((STEPS, WIDTH)), *layers])
    model = drawn(model_of(first, L.Dense(3)(inner(x))))
    pruned = assert_pruned(model)
    assert pruned.count_params() < model.count_params()


def test_each_step_of_a_masked_sequence():
    first, x = embedded()
    step = keras.Input((WIDTH,))
    inner = model_of(step, L.Dense(4)(gated(step)))
    model = drawn(model_of(first, head(L.TimeDistributed(inner)(x))))
    pruned = assert_pruned(model)
    assert pruned.count_params() < model.count_params()


@keras.saving.register_keras_serializable()
class Shifted(L.Layer):
    """Its mask is not the one that it was given."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x):
        return x * 1.0

    def compute_mask(self, inputs, previous_mask=None):
        if previous_mask is None:
            return None
        return ops.roll(previous_mask, 1, axis=1)


def test_a_mask_that_cannot_be_told_names_the_layer_and_the_remedy():
    first, x = embedded()
    inner = nested(lambda x: L.LSTM(4, name="reader")(Shifted()(gated(x))))
    model = drawn(model_of(first, L.Dense(3)(inner(x))))
    with pytest.raises(ValueError, match="mask.*'reader'.*separate input"):
        kg.surgeon.plan(model, helpers.THRESHOLD)


def test_a_model_that_cannot_be_read_is_kept_whole_at_all_calls():
    first, x = embedded()
    at = keras.Input((STEPS, WIDTH))
    y = L.LSTM(WIDTH, return_sequences=True)(Shifted()(L.Dense(WIDTH)(at)))
    inner = model_of(at, y, name="inner")
    y = inner(x), inner(ops.copy(x))
    model = drawn(model_of(first, *[head(gated(each)) for each in y]))
    pruned = assert_pruned(model)
    assert pruned.count_params() < model.count_params()
    assert [layer.name for layer in pruned.layers].count("inner") == 1


def test_two_calls_of_which_one_is_permuted():
    """A gather inside is on the axis that both calls have it on, or nowhere."""
    x = keras.Input((7, 4))
    y = L.Permute((2, 1))(L.Dense(7)(L.Permute((2, 1))(x)))
    z = kg.FilterGate()(L.BatchNormalization()(y))
    at = keras.Input((7, 4))
    out = L.Concatenate()([at, L.Conv1D(4, 3, padding="same")(at)])
    out = L.Concatenate()([out, L.BatchNormalization()(at)])
    inner = model_of(at, out, name="inner")
    y = L.Flatten()(L.Concatenate()([inner(y), inner(z)]))
    model = model_of(x, L.Dense(3)(y))
    data = np.random.default_rng(0).normal(size=(5, 7, 4)).astype("float32")
    helpers.randomize(model, 0, data, "half")
    assert_pruned(model, data)


def test_a_gate_along_another_axis_says_that_it_removes_nothing():
    x = keras.Input((8, 8, 3))
    y = L.Permute((3, 1, 2))(L.Conv2D(6, 1)(x))
    y = kg.FilterGate(name="gate")(L.Permute((2, 3, 1))(L.Dense(8)(y)))
    model = model_of(x, L.Dense(3)(L.GlobalMaxPooling2D()(y)))
    data = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    helpers.randomize(model, 0, data, "half")
    plan = kg.surgeon.plan(model, helpers.THRESHOLD)
    if model.count_params() - 6 == plan.apply().count_params():
        assert any("nothing" in note for note in plan.notes)


@pytest.mark.parametrize("stored", [False, True])
def test_scores_of_a_layer_of_stripes_that_heads_a_group(stored):
    """The group has a name beside that of the gate."""
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    y = L.ReLU()(L.BatchNormalization(name="norm")(y))
    model = model_of(x, L.Dense(3)(L.GlobalAveragePooling2D()(y)))
    model = kg.to_stripconv(model)
    data = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    helpers.randomize(model, 0, data, "none")
    assert list(kg.surgeon.score(model)) == ["conv/channels"]
    scores = {"conv/channels": np.arange(8.0)}
    for thresholds in (kg.Quantile(0.5), {"group": 3.5, "conv": 0.3}):
        plan = kg.surgeon.plan(model, thresholds, scores=scores)
        assert ("conv" in plan.closed) is isinstance(thresholds, dict)
        if stored:
            plan = kg.surgeon.Plan.from_json(plan.to_json(), model)
        assert "4 of 8 channels closed" in plan.rows[0].why
        pruned = plan.apply()
        assert pruned.get_layer("norm").gamma.shape == (4,)
        found = kg.surgeon.verify(model, pruned, plan, x=data)
        assert max(found.values()) < 2e-5
    # As it was stored while the group had the name of the gate.
    text = plan.to_json().replace("conv/channels", "conv")
    with pytest.raises(ValueError, match="'conv' is not a gate"):
        kg.surgeon.Plan.from_json(text, model)
    with pytest.raises(ValueError, match=r"'conv'.*shape \(3, 3, 8\)"):
        kg.surgeon.plan(model, 0.5, scores={"conv": np.arange(8.0)})


@pytest.mark.parametrize("seed", [322, 425, 1126, 1893, 3529, 3552, 3586, 3885])
def test_random_models_that_were_not_made_once(seed):
    verdict = wide_judge.judge(seed)
    assert verdict.outcome == "equal", verdict


@keras.saving.register_keras_serializable()
class Weighed(L.Layer):
    """A mean over time whose weights are a softmax over what is not masked."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scores = L.Dense(1, name="scores")

    def call(self, x, mask=None):
        scores = self.scores(x)[..., 0]
        if mask is not None:
            scores = ops.where(mask, scores, -1e9)
        return ops.sum(ops.softmax(scores)[..., None] * x, axis=1)


@keras.saving.register_keras_serializable()
class Crossed(L.Layer):
    """Each of two tensors has a mask of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.project = L.Dense(4, name="project")

    def call(self, query, value, query_mask=None, value_mask=None):
        value = self.project(value)
        scores = ops.matmul(query, ops.swapaxes(value, 1, 2))
        if value_mask is not None:
            scores = ops.where(value_mask[:, None], scores, -1e9)
        y = ops.matmul(ops.softmax(scores), value)
        if query_mask is not None:
            y = y * ops.cast(query_mask, y.dtype)[..., None]
        return ops.mean(y, axis=1)


def within(x):
    """A model inside a model puts out what carries the mask."""
    outer = keras.Input((STEPS, WIDTH))
    return model_of(outer, nested(unmasked, "core")(outer), name="inner")(x)


READERS = {
    "own": lambda x: Weighed()(x),
    "own with two": lambda x: Crossed()(x, L.Dense(4)(x)),
    "attention": lambda x: L.Flatten()(L.Attention()([x, x])),
    "additive": lambda x: L.Flatten()(L.AdditiveAttention()([x, x])),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("made", [lambda x: nested(unmasked)(x), within])
def test_a_layer_behind_finds_the_mask_that_a_model_hands_on(name, made):
    """No record has it, so what the layer is made of would lack it."""
    first, x = embedded()
    y = READERS[name](made(x))
    model = drawn(model_of(first, L.Dense(3)(gated(y))))
    pruned = assert_pruned(model)
    assert pruned.count_params() < model.count_params()
