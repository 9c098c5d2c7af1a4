"""Heads of attention that is written out, compared with NumPy."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.rules import letters
from keras_gates.surgeon.rules.registry import rule_of
from tests import helpers
from tests.surgeon import written_attention as wa

NAMED = [pytest.param(way, id=way.__name__) for way in wa.WAYS]
GROUPED = [pytest.param(way, id=way.__name__) for way in wa.GROUPED]


def heads_of(scores):
    """The name of the group of heads, which are the only three of a kind."""
    (name,) = (n for n, s in scores.items() if s.size == wa.HEADS)
    return name


def closing(name, heads, count=wa.HEADS):
    """Scores of which some are below 0.5."""
    scores = np.ones(count)
    scores[heads] = 0
    return {name: scores}


@pytest.mark.parametrize("way", NAMED)
def test_heads_that_scores_close_go_everywhere(way):
    model = wa.model_of(way)
    name = heads_of(kg.surgeon.score(model, "l2"))
    scores = closing(name, [0, 2])
    small = kg.surgeon.prune(model, 0.5, scores=scores)
    assert max(kg.surgeon.verify(model, small, 0.5, scores=scores).values()) < (
        helpers.RTOL
    )
    last = "mixed" if way is wa.einsum_dense else "proj"
    whole = helpers.numpy_of(small.get_layer(last).kernel)
    assert whole.reshape(-1, whole.shape[-1]).shape[0] == wa.SIZE
    removed = model.count_params() - small.count_params()
    x = helpers.inputs_for(model)
    wa.shut_heads(model, [0, 2], wa.HEADS, last)
    (truth,), (got,) = helpers.run(model, x), helpers.run(small, x)
    np.testing.assert_allclose(got, truth, atol=helpers.RTOL)
    # Of queries, keys, values and outputs, 4 sizes of 2 of 3 heads each.
    assert removed >= 4 * 2 * wa.SIZE * wa.WIDTH


@pytest.mark.parametrize("way", NAMED)
def test_heads_that_a_gate_closes_go_everywhere(way):
    model = wa.model_of(way, wa.head_gate)
    model.get_layer("gate").factor.assign([1.5, 0.1, -0.7])
    small = kg.surgeon.prune(model, {"head": 0.5})
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert not helpers.gates_of(small)
    # The factors of those that stay are in the values or in what reads them.
    assert not any(isinstance(x, L.Rescaling) for x in small.layers)
    assert small.count_params() < model.count_params() * 0.85


@pytest.mark.parametrize("way", [wa.apart, wa.einsum_dense])
def test_sizes_of_a_value_go_in_all_heads_alike(way):
    model = wa.model_of(way, wa.size_gate)
    model.get_layer("gate").factor.assign([1.5, 0.1, -0.7, 1])
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert not helpers.gates_of(small)
    saved = wa.HEADS * (2 * wa.WIDTH + 1)
    assert model.count_params() - small.count_params() >= saved


def test_sizes_of_a_key_go_where_one_side_is_closed():
    def attention(x, behind):
        q, k, v = (wa.projected(x, name) for name in "qkv")
        q, k = kg.FilterGate(name="of_q")(q), kg.FilterGate(name="of_k")(k)
        weights = ops.einsum("bqhd,bkhd->bhqk", q, k) * 0.5
        y = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(weights), v)
        return ops.reshape(y, (-1, wa.STEPS, wa.HEADS * wa.SIZE))

    model = wa.model_of(attention)
    model.get_layer("of_q").factor.assign([1.5, 0.1, -0.7, 1])
    model.get_layer("of_k").factor.assign([0.8, 0.1, 1, 0.1])
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert small.get_layer("q").units == small.get_layer("k").units == 6


# Sizes of what one layer makes -----------------------------------------------


def _apart(kind, y):
    """Queries, keys and values `(batch, heads, steps, size)` of one tensor."""
    if kind == "indexed":
        y = ops.reshape(y, (-1, wa.STEPS, 3, wa.HEADS, wa.SIZE))
        y = ops.transpose(y, (2, 0, 3, 1, 4))
        return y[0], y[1], y[2]
    if kind == "by head":
        y = ops.reshape(y, (-1, wa.STEPS, wa.HEADS, 3 * wa.SIZE))
        return ops.split(ops.transpose(y, (0, 2, 1, 3)), 3, axis=-1)
    parts = ops.split(y, 3, axis=-1)
    shape = (-1, wa.STEPS, wa.HEADS, wa.SIZE)
    return [ops.swapaxes(ops.reshape(p, shape), 1, 2) for p in parts]


def of_one_tensor(kind, gated):
    """A model whose `qkv` makes all three, with a gate on some sizes."""

    def attention(x, behind):
        y = L.Dense(3 * wa.HEADS * wa.SIZE, name="qkv")(x)
        parts = dict(zip("qkv", _apart(kind, y), strict=True))
        if gated in parts:
            parts[gated] = kg.FilterGate(name="gate")(parts[gated])
        keys = ops.swapaxes(parts["k"], -1, -2)
        weights = ops.softmax(ops.matmul(parts["q"], keys) * 0.5)
        y = ops.matmul(weights, parts["v"])
        if gated == "mixed":
            y = kg.FilterGate(name="gate")(y)
        return wa.joined(y)

    model = wa.model_of(attention)
    model.get_layer("gate").factor.assign([1.5, 0, -0.7, 1])
    return model


@pytest.mark.parametrize(
    "kind, gated, left",
    [
        ("split", "q", 30),
        ("split", "k", 30),
        ("split", "v", 33),
        ("split", "mixed", 33),
        ("by head", "q", 30),
        ("by head", "k", 30),
    ],
)
def test_sizes_go_where_one_layer_makes_all(kind, gated, left):
    """A gate on the queries is for the keys as well."""
    model = of_one_tensor(kind, gated)
    plan = kg.surgeon.plan(model, 0.5)
    small = plan.apply()
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert small.get_layer("qkv").units == left
    assert not plan.notes


@pytest.mark.parametrize(
    "kind, gated",
    [("indexed", "mixed"), ("by head", "mixed"), ("by head", "v")],
)
def test_sizes_inside_of_heads_are_named(kind, gated):
    """One reshape makes heads of one size; a gate on the values is for none."""
    model = of_one_tensor(kind, gated)
    plan = kg.surgeon.plan(model, 0.5)
    helpers.assert_same(model, plan.apply(), helpers.inputs_for(model))
    (note,) = plan.notes
    assert "along axis 1 there are units, such as heads" in note
    assert "axis 3 is inside of them" in note
    assert "HeadGate(axis=1)" in note


@pytest.mark.parametrize("gated", ["q", "k"])
def test_sizes_that_others_share_are_named(gated):
    model = of_one_tensor("indexed", gated)
    plan = kg.surgeon.plan(model, 0.5)
    helpers.assert_same(model, plan.apply(), helpers.inputs_for(model))
    (note,) = plan.notes
    assert "reads them where they are open" in note
    assert "Put the gate before all that reads" in note


def test_sizes_of_all_three_go_by_a_gate_before_they_part():
    def attention(x, behind):
        y = L.Dense(3 * wa.HEADS * wa.SIZE, name="qkv")(x)
        y = ops.reshape(y, (-1, wa.STEPS, 3, wa.HEADS, wa.SIZE))
        y = kg.FilterGate(name="gate")(y)
        y = ops.transpose(y, (2, 0, 3, 1, 4))
        weights = ops.softmax(ops.matmul(y[0], ops.swapaxes(y[1], -1, -2)))
        return wa.joined(ops.matmul(weights, y[2]))

    model = wa.model_of(attention)
    model.get_layer("gate").factor.assign([1.5, 0.1, -0.7, 1])
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert small.get_layer("qkv").units == 27


@pytest.mark.parametrize("scale", [None, 0.3])
def test_sizes_go_together_where_an_operation_wants_them_alike(scale):
    def attention(x, behind):
        q, k, v = (
            kg.FilterGate(name=f"of_{name}")(wa.projected(x, name))
            for name in "qkv"
        )
        y = ops.dot_product_attention(q, k, v, scale=scale)
        return ops.reshape(y, (-1, wa.STEPS, wa.HEADS * wa.SIZE))

    model = wa.model_of(attention)
    model.get_layer("of_q").factor.assign([1.5, 0.1, -0.7, 1])
    model.get_layer("of_k").factor.assign([0.8, 0.1, 1, 0.1])
    model.get_layer("of_v").factor.assign([0.1, 0.1, 1, 0.8])
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert [small.get_layer(name).units for name in "qkv"] == [9] * 3


@pytest.mark.parametrize("way", GROUPED)
def test_query_heads_go_with_the_head_of_keys_that_they_share(way):
    model = wa.model_of(way)
    name = heads_of(kg.surgeon.score(model, "l2"))
    scores = closing(name, [1])
    small = kg.surgeon.prune(model, 0.5, scores=scores)
    assert small.get_layer("q").units == 4 * wa.SIZE
    assert small.get_layer("k").units == 2 * wa.SIZE
    x = helpers.inputs_for(model)
    wa.shut_heads(model, [1], wa.HEADS)
    (truth,), (got,) = helpers.run(model, x), helpers.run(small, x)
    np.testing.assert_allclose(got, truth, atol=helpers.RTOL)


def test_one_query_head_of_several_stays():
    model = wa.model_of(wa.repeated, wa.head_gate)
    factors = np.array([0.1, 1, 1, -0.8, 0.1, 0.1])
    model.get_layer("gate").factor.assign(factors)
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    # The last two share a head, and go with it.
    assert small.get_layer("q").units == 4 * wa.SIZE


@pytest.mark.parametrize("how", ["added", "where", "softmax", "operation"])
def test_masks_that_come_in_pass_heads_by(how):
    x = keras.Input((wa.STEPS, wa.WIDTH))
    mask = keras.Input((1, wa.STEPS, wa.STEPS), dtype="bool")
    q, k, v = (wa.projected(x, name) for name in "qkv")
    if how == "operation":
        y = ops.dot_product_attention(q, k, v, mask=mask)
    else:
        scores = ops.einsum("bqhd,bkhd->bhqk", q, k)
        if how == "added":
            scores = scores + (1 - ops.cast(mask, "float32")) * -1e9
        if how == "where":
            scores = ops.where(mask, scores, -1e9)
        given = [scores, mask] if how == "softmax" else [scores]
        y = ops.einsum("bhqk,bkhd->bqhd", L.Softmax()(*given), v)
    y = ops.reshape(kg.HeadGate(name="gate")(y), (-1, wa.STEPS, 12))
    model = keras.Model([x, mask], L.Dense(3, name="logits")(y))
    helpers.randomize(model)
    model.get_layer("gate").factor.assign([1.5, 0.1, -0.7])
    small = kg.surgeon.prune(model, 0.5)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(2, wa.STEPS, wa.WIDTH)).astype("float32")
    allowed = rng.random((2, 1, wa.STEPS, wa.STEPS)) < 0.6
    allowed |= np.eye(wa.STEPS, dtype=bool)
    helpers.assert_same(model, small, [data, allowed])
    assert small.get_layer("k").units == 2 * wa.SIZE


@pytest.mark.parametrize("way", [wa.fused, wa.einsum_dense, wa.operation])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_heads_go_in_half_precision(way, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = wa.model_of(way)
    finally:
        keras.config.set_dtype_policy(before)
    scores = closing(heads_of(kg.surgeon.score(model, "l2")), [1])
    small = kg.surgeon.prune(model, 0.5, scores=scores)
    found = kg.surgeon.verify(model, small, 0.5, scores=scores)
    assert max(found.values()) < 0.03


def single(x, behind):
    """Attention without heads: its channels are units."""
    sizes = {"q": 6, "k": 6, "v": 8}
    q, k, v = (L.Dense(n, name=name)(x) for name, n in sizes.items())
    return behind(ops.softmax(L.Dot(2)([q, k])) @ v, 2)


def test_without_heads_channels_go():
    model = wa.model_of(single)
    scores = {"q": np.array([0, 1, 1, 0, 1, 1]), "v": np.arange(8) / 4}
    small = kg.surgeon.prune(model, 0.5, scores=scores)
    found = kg.surgeon.verify(model, small, 0.5, scores=scores)
    assert max(found.values()) < helpers.RTOL
    assert [small.get_layer(n).units for n in "qkv"] == [4, 4, 6]


# What stays, and why ----------------------------------------------------------


def test_scores_that_are_an_output_keep_the_heads():
    x = keras.Input((wa.STEPS, wa.WIDTH))
    q, k, v = (wa.projected(x, name) for name in "qkv")
    weights = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
    y = ops.einsum("bhqk,bkhd->bqhd", weights, v)
    y = ops.reshape(kg.HeadGate(name="gate")(y), (-1, wa.STEPS, 12))
    model = keras.Model(x, [L.Dense(3)(y), weights])
    helpers.randomize(model)
    model.get_layer("gate").factor.assign([1.5, 0.1, -0.7])
    plan = kg.surgeon.plan(model, 0.5)
    assert "it is an output of the model" in str(plan)
    small = plan.apply()
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert small.get_layer("q").units == model.get_layer("q").units


def test_a_gate_on_keys_stays_as_a_scale_and_is_named():
    def gated(x, behind):
        q, k, v = (wa.projected(x, name) for name in "qkv")
        weights = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
        weights = kg.FilterGate(name="of_keys")(weights)
        y = ops.einsum("bhqk,bkhd->bqhd", weights, v)
        y = kg.HeadGate(name="gate")(y)
        return ops.reshape(y, (-1, wa.STEPS, 12))

    model = wa.model_of(gated)
    model.get_layer("of_keys").factor.assign([1.5, 0.1, -0.7, 1, 1])
    model.get_layer("gate").factor.assign([1.5, 0.1, -0.7])
    plan = kg.surgeon.plan(model, 0.5)
    assert "'of_keys' removes nothing" in str(plan)
    small = plan.apply()
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert small.get_layer("q").units == 2 * wa.SIZE
    assert not helpers.gates_of(small)


def test_closing_all_heads_takes_the_branch_or_is_refused():
    model = wa.model_of(wa.fused, wa.head_gate)
    model.get_layer("gate").factor.assign([0.1] * 3)
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert "qkv" not in [layer.name for layer in small.layers]
    x = keras.Input((wa.STEPS, wa.WIDTH))
    alone = keras.Model(x, L.Dense(3)(wa.fused(x, wa.head_gate)))
    alone.get_layer("gate").factor.assign([0.1] * 3)
    with pytest.raises(ValueError, match="a completely closed gate: 'gate'"):
        kg.surgeon.prune(alone, 0.5)


def test_heads_that_are_multiplied_with_what_has_none_stay():
    x = keras.Input((wa.STEPS, wa.WIDTH))
    weights = keras.Input((wa.HEADS, wa.STEPS, wa.STEPS))
    y = ops.einsum("bhqk,bkhd->bqhd", weights, wa.projected(x, "v"))
    y = ops.reshape(kg.HeadGate(name="gate")(y), (-1, wa.STEPS, 12))
    model = keras.Model([x, weights], L.Dense(3)(y))
    helpers.randomize(model)
    model.get_layer("gate").factor.assign([1.5, 0.1, -0.7])
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert small.get_layer("v").units == model.get_layer("v").units
    with pytest.raises(ValueError, match="has no matching channels"):
        kg.insert_gates(keras.Model([x, weights], y), heads=True)


# The letters ------------------------------------------------------------------


def dot(axes):
    return lambda a, b: L.Dot(axes)([a, b])


@pytest.mark.parametrize(
    "function, shapes, inputs, output",
    [
        (ops.matmul, [(3, 4), (4, 5)], ("aij", "ajk"), "aik"),
        (ops.matmul, [(2, 3, 4), (4, 5)], ("abij", "bjk"), "abik"),
        (dot(2), [(3, 4), (5, 4)], ("abc", "adc"), "abd"),
        (dot((1, 2)), [(4, 3), (5, 4)], ("acb", "adc"), "abd"),
        (dot(1), [(3,), (3,)], ("ab", "ab"), "ac"),
        (
            lambda a, b: ops.einsum("...qd,...kd->...qk", a, b),
            [(2, 3, 4), (2, 5, 4)],
            ("abqd", "abkd"),
            "abqk",
        ),
    ],
)
def test_the_letters_of_a_product(function, shapes, inputs, output):
    x = [*map(keras.Input, shapes)]
    (*_, call) = gr.read(keras.Model(x, function(*x))).calls
    terms = rule_of(call).terms(call)
    given, wanted = ("".join((*a, b)) for a, b in (terms, (inputs, output)))
    assert _numbered(given) == _numbered(wanted)


def _numbered(letters):
    numbers = {letter: n for n, letter in enumerate(dict.fromkeys(letters))}
    return [numbers[letter] for letter in letters]


def test_axes_by_letters():
    array = np.arange(24).reshape(1, 2, 3, 4)
    spread = letters.spread_out(array, "abcd", "dxb")
    assert spread.shape == (4, 1, 2)
    np.testing.assert_array_equal(spread[:, 0], array[0, :, 0].T)
    some = letters.gathered(array % 5 == 0, "abcd", "db")
    np.testing.assert_array_equal(some, (array % 5 == 0).any((0, 2)).T)
