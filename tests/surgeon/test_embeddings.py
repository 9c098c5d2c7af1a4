"""Embeddings, positions and tokens go with the width of their stream.

The truth is the user's own model whose readers have zeros in the rows of the
closed channels: a channel closes where it is read.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers
from tests.surgeon import token_layers as tl

WIDTH, STEPS, WORDS = 8, 6, 11
HAS_REVERSIBLE = hasattr(L, "ReversibleEmbedding")
needs_reversible = pytest.mark.skipif(
    not HAS_REVERSIBLE, reason="this Keras has no ReversibleEmbedding"
)


def block(h):
    inner = L.Dense(12, activation="relu", name="ff")(h)
    return L.Add(name="sum")([h, L.Dense(WIDTH, name="out")(inner)])


def stream(layer, dtype="float32"):
    """The layer writes to a stream that two layers read."""
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        x = keras.Input((STEPS, 5))
        h = L.Dense(WIDTH, name="first")(x)
        y = L.Dense(3, name="last")(block(layer(name="own")(h)))
        model = keras.Model(x, y)
    finally:
        keras.config.set_dtype_policy(old)
    helpers.randomize(model)
    return model


def some_words():
    return np.random.default_rng(0).integers(0, WORDS, (4, STEPS))


def halved(model, **options):
    scores = kg.surgeon.score(model, "l2")
    rule = kg.Quantile(0.5, scope="gate")
    plan = kg.surgeon.plan(model, rule, scores=scores, **options)
    return plan, plan.apply()


def with_zeros(model, x, weights):
    """What the user's model puts out with other values of some weights.

    Args:
        model: the model.
        x: a batch.
        weights: pairs of a weight, and the index of what is zero in it.
    """
    before = [helpers.numpy_of(weight) for weight, _ in weights]
    for (weight, index), value in zip(weights, before, strict=True):
        value = value.copy()
        value[index] = 0.0
        weight.assign(value)
    want = helpers.numpy_of(model(x))
    for (weight, _), value in zip(weights, before, strict=True):
        weight.assign(value)
    return want


def assert_near(got, want, rtol=helpers.RTOL):
    got = helpers.numpy_of(got).astype("float64")
    want = want.astype("float64")
    np.testing.assert_allclose(
        got, want, rtol=0, atol=rtol * np.abs(want).max()
    )


@pytest.mark.parametrize("name", tl.STREAMS)
def test_the_width_of_a_stream_goes(name, tmp_path):
    model = stream(tl.STREAMS[name])
    before = [helpers.numpy_of(w) for w in model.weights]
    plan, small = halved(model)
    assert small.get_layer("first").units == WIDTH // 2
    for weight in small.get_layer("own").weights:
        assert WIDTH // 2 in tuple(weight.shape)
    x = helpers.inputs_for(model)
    rows = [
        (model.get_layer(reader).kernel, plan.closed["first"])
        for reader in ("ff", "last")
    ]
    inner = [(model.get_layer("out").kernel, plan.closed["ff"])]
    assert_near(small(x), with_zeros(model, x, [*rows, *inner]))
    assert max(plan.verify(small, x).values()) < helpers.RTOL
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    assert_near(again(x), helpers.numpy_of(small(x)))
    assert all(
        map(np.array_equal, before, map(helpers.numpy_of, model.weights))
    )


@pytest.mark.parametrize("name", tl.STREAMS)
def test_the_class_is_kept_where_it_can_be(name):
    model = stream(tl.STREAMS[name])
    plan, small = halved(model)
    own = small.get_layer("own")
    # Sines are those of the width that there was.
    kept = name != "Sine"
    assert isinstance(own, tl.STREAMS[name]) == kept
    written_out, small = halved(model, written_out=True)
    assert isinstance(small.get_layer("own"), keras.Model)
    assert max(written_out.verify(small).values()) < helpers.RTOL
    assert not any("ones_like" in line for line in str(plan).splitlines())


def test_rows_that_are_not_looked_up_are_cut_alike():
    model = stream(tl.SlicedPosition)
    plan, small = halved(model)
    kept = np.setdiff1d(np.arange(WIDTH), plan.closed["first"])
    table = helpers.numpy_of(model.get_layer("own").table)
    got = helpers.numpy_of(small.get_layer("own").table)
    np.testing.assert_array_equal(got, table[:, kept])


@pytest.mark.parametrize("written_out", [None, True])
def test_the_optimizer_goes_on(written_out):
    model = stream(tl.SlicedPosition)
    model.compile("adam", "mse")
    x = helpers.inputs_for(model)
    model.fit(x, np.zeros((len(x), STEPS, 3)), verbose=0)
    scores = kg.surgeon.score(model, "l2")
    rule = kg.Quantile(0.5, scope="gate")
    small = kg.surgeon.prune(
        model,
        rule,
        scores=scores,
        written_out=written_out,
        keep_optimizer=True,
    )
    small.fit(x, np.zeros((len(x), STEPS, 3)), verbose=0)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("name", ["ClassToken", "Position", "Sine"])
def test_in_other_types(name, dtype):
    model = stream(tl.STREAMS[name], dtype)
    plan, small = halved(model)
    assert small.get_layer("first").units == WIDTH // 2
    assert small.get_layer("first").dtype_policy.name == dtype
    assert max(plan.verify(small).values()) < 0.1


@pytest.mark.parametrize("name", ["Position", "ClassToken", "HeldToken"])
def test_gates_in_the_stream(name):
    model = kg.insert_gates(stream(tl.STREAMS[name]), filters=1e-4)
    gates = helpers.gates_of(model)
    for gate in gates:
        size = gate.factor.shape[0]
        gate.factor.assign(np.where(np.arange(size) % 2, 0.0, 0.8))
    small = kg.surgeon.prune(model, 0.5)
    assert not helpers.gates_of(small)
    assert small.count_params() < model.count_params()
    helpers.assert_same(model, small, helpers.inputs_for(model))


@needs_reversible
@pytest.mark.parametrize("layer", [tl.Tied, tl.TiedLayer])
def test_a_table_that_is_read_both_ways(layer):
    x = keras.Input((STEPS,), dtype="int32")
    own = layer(WORDS, WIDTH, name="own")
    model = keras.Model(x, own(x))
    helpers.randomize(model, x=some_words())
    plan, small = halved(model)
    made = small.get_layer("own")
    assert type(made) is layer and made.width == WIDTH // 2
    (closed,) = plan.closed.values()
    table = own.table if layer is tl.Tied else own.embedding.embeddings
    words = some_words()
    want = with_zeros(model, words, [(table, (slice(None), closed))])
    assert_near(small(words), want)
    out, small = halved(model, written_out=True)
    assert max(out.verify(small, words).values()) < helpers.RTOL


def language_model(**options):
    x = keras.Input((STEPS,), dtype="int32")
    words = L.ReversibleEmbedding(WORDS, WIDTH, name="words", **options)
    h = tl.Position(name="position")(words(x))
    model = keras.Model(x, words(block(h), reverse=True))
    helpers.randomize(model, x=some_words())
    return model


@needs_reversible
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_weights": False},
        {"logit_soft_cap": 5.0},
        {"mask_zero": True},
        {"reverse_dtype": "float32", "dtype": "bfloat16"},
    ],
    ids=repr,
)
def test_words_in_and_words_out(options):
    model = language_model(**options)
    plan, small = halved(model)
    words, closed = model.get_layer("words"), plan.closed["words"]
    assert small.get_layer("words").output_dim == WIDTH // 2
    assert tuple(small.get_layer("position").table.shape)[-1] == WIDTH // 2
    back = words.embeddings if words.tie_weights else words.reverse_embeddings
    at = (slice(None), closed) if words.tie_weights else closed
    weights = [
        (back, at),
        (model.get_layer("ff").kernel, closed),
        (model.get_layer("out").kernel, plan.closed["ff"]),
    ]
    x = some_words()
    loose = 0.05 if "dtype" in options else helpers.RTOL
    assert_near(small(x), with_zeros(model, x, weights), loose)
    assert max(plan.verify(small, x).values()) < loose
    # Each place of the table costs what it holds, at each step.
    (row,) = [r for r in plan.rows if r.layer == "words"]
    assert row.macs[1] == STEPS * WORDS * WIDTH // 2


@needs_reversible
def test_a_subclass_that_adds_nothing_is_its_parent():
    class Words(L.ReversibleEmbedding):
        """Another name."""

    x = keras.Input((STEPS,), dtype="int32")
    words = Words(WORDS, WIDTH, name="words")
    model = keras.Model(x, words(block(words(x)), reverse=True))
    helpers.randomize(model, x=some_words())
    plan, small = halved(model)
    made = small.get_layer("words")
    assert type(made) is Words and made.output_dim == WIDTH // 2
    assert max(plan.verify(small, some_words()).values()) < helpers.RTOL


@needs_reversible
def test_what_is_read_back_whole_keeps_the_table():
    x = keras.Input((STEPS,), dtype="int32")
    given = keras.Input((STEPS, WIDTH))
    words = L.ReversibleEmbedding(WORDS, WIDTH, name="words")
    y = L.Dense(3, name="last")(words(x))
    model = keras.Model([x, given], [y, words(given, reverse=True)])
    with pytest.raises(ValueError, match="read back by a tensor"):
        kg.surgeon.score(model, "l2")
