"""Heads of stock attention, against the model with their rows at zero."""

import contextlib
import inspect

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers
from tests.surgeon.examples import find

STEPS, WIDTH = 5, 8
GROUPED = find("GroupQueryAttention")
NEW = inspect.signature(L.MultiHeadAttention).parameters
# The heads that are closed, of four.
CLOSED = np.array([False, True, False, True])


def multi(**config):
    config = {"num_heads": 4, "key_dim": 3, **config}
    return L.MultiHeadAttention(name="mha", **config)


def streams(count=3):
    """A model's input, and tensors of width 8 made of it."""
    inputs = keras.Input((STEPS, 4))
    made = [L.Dense(WIDTH, name=f"front_{n}")(inputs) for n in range(count)]
    return inputs, made


def around(call, layer=multi):
    """A model with a call of attention, and a residual around it."""
    inputs, (a, b, c) = streams()
    y = call(layer(), a, b, c)
    if isinstance(y, (list, tuple)):
        y = y[0]
    if len(y.shape) > 3:
        y = L.Reshape((STEPS, -1))(y)
    rest = [L.Dense(2)(x) for x in (a, b, c)]
    return keras.Model(inputs, [L.Dense(3, name="end")(y), *rest])


def nested():
    inner = keras.Input((STEPS, WIDTH))
    tower = keras.Model(inner, multi()(inner, inner), name="tower")
    inputs, (a, b) = streams(2)
    return keras.Model(inputs, L.Dense(3)(tower(a) + tower(b)))


def twice():
    inputs, (a, b) = streams(2)
    shared = multi()
    y = shared(a, b) + shared(b, a, a)
    return keras.Model(inputs, L.Dense(3)(y))


def at_each_step():
    inner = keras.Input((STEPS, WIDTH))
    tower = keras.Model(inner, multi()(inner, inner), name="tower")
    inputs = keras.Input((2, STEPS, 4))
    x = L.TimeDistributed(tower, name="td")(L.Dense(WIDTH)(inputs))
    return keras.Model(inputs, L.Dense(3)(x))


def several_axes():
    inputs = keras.Input((3, 4, 2))
    x = L.Dense(WIDTH)(inputs)
    y = multi(attention_axes=(1, 2))(x, x)
    return keras.Model(inputs, L.Dense(3)(y))


def one_axis_of_two():
    inputs = keras.Input((3, 4, 2))
    x = L.Dense(WIDTH)(inputs)
    y = multi(attention_axes=(2,))(x, x)
    return keras.Model(inputs, L.Dense(3)(y))


def embedded():
    inputs = keras.Input((STEPS,), dtype="int32")
    x = L.Embedding(10, WIDTH, mask_zero=True)(inputs)
    y = multi()(x, x)
    return keras.Model(inputs, L.Dense(3)(y))


def mask(c):
    return ops.matmul(c, ops.swapaxes(c, 1, 2)) > 0


MODELS = {
    "self": lambda: around(lambda f, a, b, c: f(a, a)),
    "cross": lambda: around(lambda f, a, b, c: f(a, b)),
    "keyed": lambda: around(lambda f, a, b, c: f(a, b, c)),
    "by name": lambda: around(lambda f, a, b, c: f(value=b, query=a)),
    "causal": lambda: around(lambda f, a, b, c: f(a, a, use_causal_mask=True)),
    "masked": lambda: around(
        lambda f, a, b, c: f(a, b, attention_mask=mask(c))
    ),
    "masked for all heads": lambda: around(
        lambda f, a, b, c: f(a, b, attention_mask=mask(c)[:, None])
    ),
    "scores dropped": lambda: around(
        lambda f, a, b, c: f(a, b, return_attention_scores=True)
    ),
    "no bias": lambda: around(
        lambda f, a, b, c: f(a, b), lambda: multi(use_bias=False)
    ),
    "dropout": lambda: around(
        lambda f, a, b, c: f(a, b), lambda: multi(dropout=0.3, seed=1)
    ),
    "output_shape": lambda: around(
        lambda f, a, b, c: f(a, b), lambda: multi(output_shape=6)
    ),
    "output of two axes": lambda: around(
        lambda f, a, b, c: f(a, b),
        lambda: multi(output_shape=(2, 3), use_bias=False),
    ),
    "float16": lambda: around(
        lambda f, a, b, c: f(a, b), lambda: multi(dtype="float16")
    ),
    "mixed": lambda: around(
        lambda f, a, b, c: f(a, b), lambda: multi(dtype="mixed_bfloat16")
    ),
    "nested": nested,
    "at each step": at_each_step,
    "twice": twice,
    "several channel axes": several_axes,
    "one axis of two": one_axis_of_two,
    "embedded": embedded,
}
if "use_gate" in NEW:
    MODELS["gate"] = lambda: around(
        lambda f, a, b, c: f(a, b), lambda: multi(use_gate=True)
    )


def drawn(model, seed=0):
    """The model with weights that leave no output alone."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            weight.assign(rng.normal(0, 0.6, weight.shape))
    return model


def attention(model, name="mha"):
    return next(x for x in helpers.layers_of(model) if x.name == name)


def data(model, seed=1):
    rng = np.random.default_rng(seed)
    shape = (3, *model.inputs[0].shape[1:])
    if model.inputs[0].dtype == "int32":
        return rng.integers(0, 4, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


@contextlib.contextmanager
def zeros(layer, closed, axis=0, kernel="_output_dense", bias=False):
    """Within, places along an axis of a kernel are 0."""
    dense = getattr(layer, kernel)
    before = [(w, helpers.numpy_of(w)) for w in dense.weights]
    for weight, values in before:
        if weight.name == "kernel" or bias:
            own = axis if weight.name == "kernel" else axis - 1
            other = np.moveaxis(values.copy(), own, 0)
            other[closed] = 0
            weight.assign(np.moveaxis(other, 0, own))
    try:
        yield
    finally:
        for weight, values in before:
            weight.assign(values)


def assert_outputs(got, expected, rtol=1e-5):
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape and np.ptp(b) > 1e-3
        np.testing.assert_allclose(a, b, atol=rtol * np.abs(b).max())


def closed_by_scores(model, name="mha/heads", closed=CLOSED):
    scores = {name: np.where(closed, 0.1, 1.0)}
    plan = kg.surgeon.plan(model, 0.5, scores=scores)
    return plan, plan.apply()


@pytest.mark.parametrize("name", MODELS)
def test_closed_heads_go_and_the_layer_comes_back(name):
    model = drawn(MODELS[name]())
    x, before = data(model), [helpers.numpy_of(w) for w in model.weights]
    prefix = {"nested": "tower/", "at each step": "td/"}.get(name, "")
    plan, small = closed_by_scores(model, f"{prefix}mha/heads")
    with zeros(attention(model), CLOSED):
        expected = helpers.run(model, x)
    half = name in ("float16", "mixed")
    # Half precision sums fewer terms in another order.
    rtol = 3e-2 if half else 1e-5
    assert_outputs(helpers.run(small, x), expected, rtol)
    assert max(plan.verify(small, x).values()) < rtol
    layer = attention(small)
    assert type(layer) is L.MultiHeadAttention and layer.num_heads == 2
    assert layer.key_dim == 3
    row = next(r for r in plan.rows if r.layer == f"{prefix}mha")
    assert "2 of 4 heads closed" in row.why
    assert row.params.after < row.params.before
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, helpers.numpy_of(new))


def numpy_attention(layer, q, k, v):
    """Attention in NumPy, keys and values repeated for groups of queries."""

    def weights(name):
        dense = getattr(layer, f"_{name}_dense")
        return [helpers.numpy_of(w).astype("float64") for w in dense.weights]

    def project(name, x):
        kernel, bias = weights(name)
        return np.einsum("btc,chd->bthd", x, kernel) + bias

    q, k, v = project("query", q), project("key", k), project("value", v)
    each = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, each, 2), np.repeat(v, each, 2)
    scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    kernel, bias = weights("output")
    return np.einsum("bhts,bshd,hdc->btc", scores, v, kernel) + bias


GROUPS = {  # queries, keys: what is closed, and what is left of both
    "one key for two": (4, 2, [False, True], (2, 1)),
    "as many keys": (3, 3, [True, False, False], (2, 2)),
    "one key for all": (3, 1, [False, True, True], (1, 1)),
}


@pytest.mark.parametrize("name", GROUPS)
def test_grouped_heads_go_with_all_that_they_serve(name):
    queries, keys, closed, left = GROUPS[name]
    inputs, (a, b) = streams(2)
    layer = GROUPED(3, queries, keys, name="mha")
    model = drawn(keras.Model(inputs, [L.Dense(3)(layer(a, b)), a, b]))
    plan, small = closed_by_scores(model, closed=np.array(closed))
    new = attention(small)
    assert (new.num_query_heads, new.num_key_value_heads) == left
    assert max(plan.verify(small).values()) < 1e-5
    y, a, b = helpers.run(small, data(model))
    front = numpy_attention(new, a, b, b)
    kernel, bias = map(helpers.numpy_of, small.layers[-1].weights)
    np.testing.assert_allclose(y, front @ kernel + bias, atol=1e-4)
    rows = np.repeat(closed, queries // len(closed))
    with zeros(layer, rows):
        assert_outputs([y], helpers.run(model, data(model))[:1])


DIMS = {  # the axis and the kernel that are 0, and the config key
    "key_dim": (2, "_query_dense", "key_dim"),
    "value_dim": (1, "_output_dense", "value_dim"),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", DIMS)
def test_dimensions_that_all_heads_have_go(name, masked):
    given = {"attention_mask": np.tri(STEPS, dtype=bool)[None]}
    # With dropout, the scores are written out: the scale is another one.
    model = drawn(
        around(
            lambda f, a, b, c: f(a, b, **given if masked else {}),
            lambda: multi(dropout=0.1 if masked else 0.0),
        )
    )
    axis, kernel, key = DIMS[name]
    closed, x = np.array([True, False, False]), data(model)
    jax = keras.backend.backend() == "jax"
    names = ["key_dim", "value_dim"] if jax else [name]
    plan, small = closed_by_scores(
        model, f"mha/{'key_dim' if jax else name}", closed
    )
    with contextlib.ExitStack() as stack:
        for each in names:
            axis, kernel, key = DIMS[each]
            bias = each == "key_dim"
            layer = attention(model)
            stack.enter_context(zeros(layer, closed, axis, kernel, bias))
        expected = helpers.run(model, x)
    assert_outputs(helpers.run(small, x), expected)
    assert max(plan.verify(small, x).values()) < 1e-5
    config = attention(small).get_config()
    assert [config[DIMS[n][2]] for n in names] == [2] * len(names)
    assert config["num_heads"] == 4


def test_the_dimension_of_grouped_heads_goes_from_all_projections():
    inputs, (a, b) = streams(2)
    layer = GROUPED(4, 4, 2, name="mha")
    model = drawn(keras.Model(inputs, L.Dense(3)(layer(a, b))))
    closed = np.array([False, True, True, False])
    plan, small = closed_by_scores(model, "mha/head_dim", closed)
    x = data(model)
    with (
        zeros(layer, closed, 2, "_query_dense", bias=True),
        zeros(layer, closed, 1),
    ):
        assert_outputs(helpers.run(small, x), helpers.run(model, x))
    assert max(plan.verify(small, x).values()) < 1e-5
    assert attention(small).head_dim == 2


def test_heads_dimensions_and_the_stream_go_together():
    inputs = keras.Input((STEPS, 4))
    x = L.Dense(WIDTH, name="stream")(inputs)
    x = x + multi()(x, x)
    model = drawn(keras.Model(inputs, L.Dense(3)(x)))
    scores = kg.surgeon.score(model, "l2")
    assert {*scores} == {"stream", "mha/heads"}
    dims = kg.surgeon.score(model, "l2", of="dims")
    both = {"mha/key_dim", "mha/value_dim"}
    if keras.backend.backend() == "jax":
        both = {"mha/key_dim"}
    assert {*dims} == both
    rule = kg.Quantile(0.5, scope="gate")
    plan = kg.surgeon.plan(model, rule, scores={**scores, **dims})
    small = plan.apply()
    assert max(plan.verify(small).values()) < 1e-5
    layer = attention(small)
    sizes = layer.num_heads, layer.key_dim, small.get_layer("stream").units
    assert sizes == (2, 2, 4)
    # A kind says which of them.
    plan = kg.surgeon.plan(model, {"head": rule}, scores=scores)
    assert {n for n, mask in plan.closed.items() if any(mask)} == {"mha/heads"}


def test_a_plan_of_heads_as_json(tmp_path):
    model = drawn(MODELS["self"]())
    plan, small = closed_by_scores(model)
    again = kg.surgeon.Plan.from_json(plan.to_json(), model).apply()
    assert attention(again).num_heads == 2
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    x = data(model)
    for a, b in zip(helpers.run(small, x), helpers.run(loaded, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_head_that_is_zero_already_goes():
    model = drawn(MODELS["cross"]())
    x, layer = data(model), attention(model)
    with zeros(layer, [2]), zeros(layer, [0], 1, "_value_dense", bias=True):
        small = kg.surgeon.prune(model, {}, scores={"front_0": np.ones(8)})
        assert attention(small).num_heads == 2
        assert_outputs(helpers.run(small, x), helpers.run(model, x))


def residual(bias=True):
    inputs, (x,) = streams(1)
    y = multi(use_bias=bias)(x, x)
    return keras.Model(inputs, L.Dense(3, name="end")(L.Add()([x, y])))


@pytest.mark.parametrize("bias", [True, False])
def test_all_heads_go_with_the_branch(bias):
    model = drawn(residual(bias))
    plan, small = closed_by_scores(model, closed=np.ones(4, bool))
    assert not any(x.name == "mha" for x in small.layers)
    assert max(plan.verify(small).values()) < 1e-5


def test_all_heads_where_nothing_leads_round():
    model = drawn(MODELS["self"]())
    before = [helpers.numpy_of(w) for w in model.weights]
    with pytest.raises(ValueError, match="'mha/heads'.*keep_at_least"):
        closed_by_scores(model, closed=np.ones(4, bool))
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, helpers.numpy_of(new))
    scores = {"mha/heads": np.ones(4)}
    small = kg.surgeon.prune(model, 2.0, scores=scores, keep_at_least=1)
    assert attention(small).num_heads == 1


WHOLE = {
    "scores": lambda f, a, b, c: [
        t := f(a, b, return_attention_scores=True),
        t[0] + ops.mean(t[1], axis=(1, 3))[..., None],
    ][1],
    "mask of heads": lambda f, a, b, c: f(
        a, b, attention_mask=np.tri(STEPS, dtype=bool)[None, None].repeat(4, 1)
    ),
}
REASONS = {
    "scores": "its attention scores are read",
    "mask of heads": "its mask has an axis of heads",
}


@pytest.mark.parametrize("name", WHOLE)
def test_heads_that_show_outside_stay(name):
    model = drawn(around(WHOLE[name]))
    assert not any("heads" in key for key in kg.surgeon.score(model, "l2"))
    with pytest.raises(ValueError, match=REASONS[name]):
        closed_by_scores(model)


def test_scores_that_are_an_output_keep_the_heads():
    inputs, (a, b) = streams(2)
    y, scores = multi()(a, b, return_attention_scores=True)
    model = drawn(keras.Model(inputs, [L.Dense(3)(y), scores]))
    with pytest.raises(ValueError, match="output of the model"):
        closed_by_scores(model)


def test_an_output_of_two_axes_with_a_bias_keeps_the_heads():
    model = drawn(
        around(lambda f, a, b, c: f(a, b), lambda: multi(output_shape=(2, 3)))
    )
    with pytest.raises(ValueError, match="several channel axes"):
        closed_by_scores(model)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (np.ones(3), "in an array of the shape"),
        (np.ones((4, 1)), "in an array of the shape"),
        (np.full(4, np.nan), "finite"),
    ],
)
def test_scores_that_are_not_one_for_each_head(wrong, words):
    with pytest.raises(ValueError, match=f"'mha/heads' must be {words}"):
        kg.surgeon.plan(MODELS["self"](), 0.5, scores={"mha/heads": wrong})


@keras.saving.register_keras_serializable("attention_heads")
class Block(L.Layer):
    """A transformer block of your own."""

    def __init__(self, width, heads, hidden, **kwargs):
        super().__init__(**kwargs)
        self.width, self.heads, self.hidden = width, heads, hidden
        self.norm = L.LayerNormalization()
        self.attend = L.MultiHeadAttention(heads, width // 4, name="attend")
        self.first = L.Dense(hidden, activation="relu")
        self.second = L.Dense(width)

    def build(self, shape):
        self.norm.build(shape)
        self.attend.build(shape, shape)
        self.first.build(shape)
        self.second.build((*shape[:-1], self.hidden))

    def call(self, x):
        y = self.norm(x)
        x = x + self.attend(y, y)
        return x + self.second(self.first(x))

    def get_config(self):
        own = {k: getattr(self, k) for k in ("width", "heads", "hidden")}
        return {**super().get_config(), **own}


def test_a_class_of_ones_own_comes_back_with_fewer_heads():
    inputs = keras.Input((STEPS, WIDTH))
    x = Block(WIDTH, 4, 12, name="block")(inputs)
    model = drawn(keras.Model(inputs, L.Dense(3)(x)))
    plan, small = closed_by_scores(model, "block/attend/heads")
    block = small.get_layer("block")
    assert type(block) is Block and block.heads == 2
    assert max(plan.verify(small).values()) < 1e-5


CRITERIA = ("l1", "l2", "fpgm", "taylor", "apoz", "mean", "obs", "random")


@pytest.mark.parametrize("of", ["groups", "dims"])
@pytest.mark.parametrize("make", ["multi", "grouped"])
def test_every_criterion_ranks_heads(make, of):
    layer = multi if make == "multi" else lambda: GROUPED(3, 4, 2, name="mha")
    inputs, (a, b) = streams(2)
    model = drawn(keras.Model(inputs, L.Dense(3)(layer()(a, b))))
    model.compile(loss="mse")
    rng = np.random.default_rng(0)
    x = data(model), rng.normal(size=(3, STEPS, 3)).astype("float32")
    names = "mha/heads" if of == "groups" else "mha/"
    for criterion in CRITERIA:
        if of == "dims" and make == "grouped" and criterion == "obs":
            with pytest.raises(ValueError, match="linear reader.*head_dim"):
                kg.surgeon.score(model, criterion, x, of=of)
            continue
        with helpers.told():
            scores = kg.surgeon.score(model, criterion, x, of=of)
        found = [v for n, v in scores.items() if n.startswith(names)]
        assert found
        if criterion != "apoz":  # nothing is ever 0 there
            assert all(np.ptp(values) > 0 for values in found)


def test_what_scores_of_heads_are():
    inputs, (a, b) = streams(2)
    layer = multi(use_bias=False)
    model = drawn(keras.Model(inputs, layer(a, b)))
    model.compile(loss=lambda y, out: ops.sum(out, axis=(1, 2)))
    x = data(model)
    heads = []
    for head in range(4):
        others = np.arange(4) != head
        with zeros(layer, others):
            heads.append(helpers.run(model, x)[0])
    # The loss is the sum of what each head adds: so is its gradient.
    y = np.zeros((3, STEPS, WIDTH))
    scores = kg.surgeon.score(model, "taylor", (x, y), normalize=None)
    each = [abs(head.sum(axis=(1, 2)).mean()) for head in heads]
    np.testing.assert_allclose(scores["mha/heads"], each, rtol=1e-4)
    # By its weights, the mean over the four kernels.
    scores = kg.surgeon.score(model, "l2", normalize=None)
    squares = [helpers.numpy_of(w) ** 2 for w in layer.weights]
    sums = [squares[n].sum(axis=(0, 2)) for n in range(3)]
    sums.append(squares[3].sum(axis=(1, 2)))
    expected = np.mean(np.sqrt(sums), axis=0)
    np.testing.assert_allclose(scores["mha/heads"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="gamma"):
        kg.surgeon.score(model, "batch_norm")


def test_ignored_layers_keep_their_heads():
    model = drawn(MODELS["cross"]())
    scores = kg.surgeon.score(model, ignore="mha")
    assert "front_0" in scores and "mha/heads" not in scores


def test_dimensions_of_no_attention():
    model = keras.Sequential([keras.Input((2,)), L.Dense(3), L.Dense(2)])
    with pytest.raises(ValueError, match='no attention.*of="groups"'):
        kg.surgeon.score(model, of="dims")
