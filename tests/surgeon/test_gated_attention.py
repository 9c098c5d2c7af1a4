"""Gates on the heads of stock attention: trained, closed, and dissolved."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon.expected.model_cost import ModelCost
from keras_gates.surgeon.gates import expand
from tests import helpers
from tests.surgeon.rules import test_attention_heads as heads
from tests.surgeon.rules.test_attention_heads import GROUPED
from tests.surgeon.rules.test_attention_heads import MODELS
from tests.surgeon.rules.test_attention_heads import STEPS
from tests.surgeon.rules.test_attention_heads import Block
from tests.surgeon.rules.test_attention_heads import attention
from tests.surgeon.rules.test_attention_heads import drawn
from tests.surgeon.rules.test_attention_heads import multi
from tests.surgeon.rules.test_attention_heads import streams

HEAD = {"head": 0.05}
FACTORS = np.array([0.7, 0.0, -1.3, 0.01], "float32")
# Open factors, as they are, and 0 where they are closed.
SHUT = np.array([0.7, 0.0, -1.3, 0.0], "float32")
SOME = ["cross", "keyed", "causal", "masked", "scores dropped", "output_shape"]
SOME += ["output of two axes", "float16", "nested", "twice", "embedded"]


def gate_of(model):
    return next(x for x in helpers.gates_of(model) if x.kind == "head")


@pytest.mark.parametrize("name", SOME)
def test_gates_are_put_in_and_dissolved(name):
    model = drawn(MODELS[name]())
    x = heads.data(model)
    rtol = 3e-2 if name == "float16" else 1e-5
    gated = kg.insert_gates(model, heads=True)
    heads.assert_outputs(helpers.run(gated, x), helpers.run(model, x), rtol)
    gate = gate_of(gated)
    assert gate.name == "mha" and tuple(gate.factor.shape) == (4,)
    gate.factor.assign(FACTORS)
    plan = kg.surgeon.plan(gated, HEAD)
    small = plan.apply()
    # By the user's model: the kernel's rows times the factors.
    kernel = attention(model)._output_dense.kernel
    before = helpers.numpy_of(kernel)
    shape = (4,) + (1,) * (before.ndim - 1)
    kernel.assign(before * SHUT.reshape(shape).astype(before.dtype))
    heads.assert_outputs(helpers.run(small, x), helpers.run(model, x), rtol)
    assert max(plan.verify(small, x).values()) < rtol
    layer = attention(small)
    assert type(layer) is L.MultiHeadAttention and layer.num_heads == 2
    assert not helpers.gates_of(small)
    row = next(r for r in plan.rows if r.layer.endswith("mha"))
    assert "2 of 4 heads closed" in row.why


@pytest.mark.parametrize("name", heads.GROUPS)
def test_gates_on_groups_of_heads(name):
    queries, keys, closed, left = heads.GROUPS[name]
    inputs, (a, b) = streams(2)
    layer = GROUPED(3, queries, keys, name="mha")
    model = drawn(keras.Model(inputs, L.Dense(3)(layer(a, b))))
    gated = kg.insert_gates(model, heads=["mha"])
    factor = np.where(closed, 0.0, np.arange(len(closed)) + 0.5)
    gate_of(gated).factor.assign(factor)
    plan = kg.surgeon.plan(gated, HEAD)
    small = plan.apply()
    new = attention(small)
    assert (new.num_query_heads, new.num_key_value_heads) == left
    assert max(plan.verify(small).values()) < 1e-5
    x = heads.data(model)
    rows = np.repeat(factor, queries // len(factor))[:, None, None]
    kernel = layer._output_dense.kernel
    kernel.assign(helpers.numpy_of(kernel) * rows)
    heads.assert_outputs(helpers.run(small, x), helpers.run(model, x))


def block_model():
    inputs = keras.Input((STEPS, 8))
    x = Block(8, 4, 12, name="block")(inputs)
    return drawn(keras.Model(inputs, L.Dense(3)(x)))


def test_gates_in_a_layer_of_ones_own():
    model = block_model()
    gated = kg.insert_gates(model, heads=1e-3, filters=1e-3)
    kinds = {x.kind for x in helpers.gates_of(gated)}
    assert kinds == {"head", "filter"}
    gate_of(gated).factor.assign(FACTORS)
    plan = kg.surgeon.plan(gated, {"block/attend": 0.05})
    small = plan.apply()
    assert max(plan.verify(small).values()) < 1e-5
    assert attention(small, "attend").num_heads == 2
    with pytest.raises(ValueError, match="keeps its class"):
        kg.insert_gates(model, heads=True, written_out=False)


def test_the_structure_tells_of_heads():
    text = str(kg.transforms.find_structure(MODELS["cross"]()))
    assert "round mha" in text
    model = heads.around(heads.WHOLE["mask of heads"])
    assert "its mask has an axis" in str(kg.transforms.find_structure(model))


def test_training_a_gate_and_going_on(tmp_path):
    inputs, (x,) = streams(1)
    penalty = kg.regularizers.L1(100.0)
    y = kg.GatedAttention(multi(), regularizer=penalty)(x, x)
    model = keras.Model(inputs, L.Dense(3, name="end")(L.Add()([x, y])))
    model.compile("adam", "mse")
    data = heads.data(model)
    target = np.zeros((3, STEPS, 3), "float32")
    closed = kg.callbacks.ClosedGates(HEAD)
    before = helpers.numpy_of(gate_of(model).factor)
    history = model.fit(data, target, verbose=0, callbacks=[closed]).history
    assert history["closed_head_gates"] == [0.0]
    assert (helpers.numpy_of(gate_of(model).factor) < before).all()
    model.save(tmp_path / "gated.keras")
    loaded = keras.saving.load_model(tmp_path / "gated.keras")
    heads.assert_outputs(helpers.run(loaded, data), helpers.run(model, data))
    gate_of(model).factor.assign(FACTORS)
    plan = kg.surgeon.plan(model, HEAD)
    small = plan.apply(keep_optimizer=True)
    slots = {v.path: tuple(v.shape) for v in small.optimizer.variables}
    assert any(shape == (8, 2, 3) for shape in slots.values())
    small.fit(data, target, verbose=0)


def test_stochastic_factors():
    model = drawn(MODELS["cross"]())
    gated = kg.insert_gates(model, heads={"stochastic": True, "strength": 0.1})
    gate = gate_of(gated)
    x = heads.data(model)
    gate.weight.assign(np.zeros(4))
    drawn_twice = [
        helpers.numpy_of(gated(x, training=True)[0]) for _ in range(2)
    ]
    assert np.ptp(drawn_twice[0] - drawn_twice[1]) > 0
    gate.weight.assign([3.0, -9.0, 0.5, -9.0])
    factors = helpers.numpy_of(gate.factor)
    assert (factors == 0).tolist() == [False, True, False, True]
    plan = kg.surgeon.plan(gated, HEAD)
    small = plan.apply()
    assert attention(small).num_heads == 2
    assert max(plan.verify(small, x).values()) < 1e-5
    heads.assert_outputs(helpers.run(small, x), helpers.run(gated, x))


def test_heads_fade_before_they_are_cut():
    model = drawn(MODELS["cross"]())
    layer = attention(model)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    scores = {"mha/heads": np.where(heads.CLOSED, 0.1, 1.0)}
    grow = kg.callbacks.GrowDecay(0.5, scores=scores)
    x = heads.data(model)
    y = [np.zeros(out.shape, "float32") for out in helpers.run(model, x)]
    model.fit(x, y, epochs=2, verbose=0, callbacks=[grow])
    rows = helpers.numpy_of(layer._output_dense.kernel)
    assert (
        np.abs(rows).max(axis=(1, 2)) == 0
    ).tolist() == heads.CLOSED.tolist()
    small = kg.surgeon.prune(model, grow.thresholds, scores=grow.scores)
    assert attention(small).num_heads == 2
    heads.assert_outputs(helpers.run(small, x), helpers.run(model, x))


def test_all_heads_closed():
    inputs, (x,) = streams(1)
    layer = kg.GatedAttention(multi())
    y = layer(x, x)
    ends = {"alone": y, "residual": L.Add()([x, y])}
    for name, end in ends.items():
        model = keras.Model(inputs, L.Dense(3)(end))
        layer.factor.assign(np.zeros(4))
        if name == "alone":
            with pytest.raises(ValueError, match="'mha'.*keep_at_least"):
                kg.surgeon.plan(model, HEAD)
            small = kg.surgeon.prune(model, HEAD, keep_at_least=1)
            assert attention(small).num_heads == 1
            continue
        plan = kg.surgeon.plan(model, HEAD)
        small = plan.apply()
        assert "mha" not in [x.name for x in small.layers]
        assert max(plan.verify(small).values()) < 1e-5


def test_dimensions_of_a_gated_layer():
    model = kg.insert_gates(drawn(MODELS["cross"]()), heads=True)
    gate_of(model).factor.assign(FACTORS)
    name, *_ = kg.surgeon.score(model, of="dims")
    scores = {name: np.array([1.0, 0.0, 1.0])}
    plan = kg.surgeon.plan(model, {**HEAD, name: 0.5}, scores=scores)
    small = plan.apply()
    assert max(plan.verify(small).values()) < 1e-5
    assert (attention(small).num_heads, attention(small).key_dim) == (2, 2)


def test_gates_are_scored_weighed_and_searched():
    model = drawn(MODELS["cross"]())
    for weigh in (None, "count", "macs", "params"):
        spec = {"strength": 0.1, "weigh": weigh}
        gated = kg.insert_gates(model, heads=spec)
        penalty = gate_of(gated).regularizer(gate_of(gated).factor)
        assert float(ops.convert_to_numpy(penalty)) > 0
    gated.compile("sgd", "mse")
    x = heads.data(gated)
    y = [np.ones(out.shape, "float32") for out in helpers.run(gated, x)]
    scores = kg.surgeon.score(gated, "taylor", (x, y), of="gates")
    assert np.ptp(scores["mha"]) > 0
    gate_of(gated).factor.assign(FACTORS)
    found = kg.find_thresholds(
        gated,
        lambda m: -float(np.square(helpers.run(m, x)[0]).sum()),
        max_drop=1e9,
    )
    assert set(found.thresholds) == {"head"}


def test_the_expected_cost_is_what_the_plan_counts():
    inputs, (x,) = streams(1)
    y = kg.GatedAttention(multi())(x, x)
    model = keras.Model(inputs, L.Dense(3)(L.Add()([x, y])))
    cost = ModelCost(expand.read(model), ["mha"])
    for mask in ([0, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]):
        mask = np.array(mask, bool)
        scores = {"mha": np.where(mask, 0.0, 1.0)}
        plan = kg.surgeon.plan(model, {"mha": 0.5}, scores=scores)
        assert round(cost.at({"mha": mask}, "macs")) == plan.macs.after
        assert round(cost.at({"mha": mask}, "params")) == plan.params.after


def test_a_budget_is_reached():
    inputs, (x,) = streams(1)
    y = kg.GatedAttention(multi())(x, x)
    model = drawn(keras.Model(inputs, L.Dense(3)(L.Add()([x, y]))))
    model.compile("sgd", "mse")
    reach = kg.callbacks.ReachBudget(params=0.7)
    data, target = heads.data(model), np.zeros((3, STEPS, 3), "float32")
    with helpers.told():  # that there are few steps
        model.fit(data, target, epochs=4, verbose=0, callbacks=[reach])
    small = kg.surgeon.prune(model, 0.05)
    before = kg.surgeon.plan(model, {"head": 0}).params.before
    assert small.count_params() <= 0.72 * before
    assert attention(small).num_heads < 4


class Other(L.MultiHeadAttention):
    pass


@pytest.mark.parametrize("layer", [L.Attention(), L.Dense(2), Other(2, 3)])
def test_what_is_no_stock_attention(layer):
    with pytest.raises(TypeError, match=type(layer).__name__):
        kg.GatedAttention(layer)


def test_models_without_heads_to_gate():
    with pytest.raises(ValueError, match="No heads of this model"):
        kg.insert_gates(kg.zoo.mlp(), heads=True)
    model = heads.around(heads.WHOLE["mask of heads"])
    with pytest.raises(ValueError, match="'mha': its mask has an axis"):
        kg.insert_gates(model, heads=1e-3)
    with pytest.raises(ValueError, match="nothing"):
        kg.insert_gates(MODELS["cross"](), heads=["nothing"])


def between(layer):
    """A gated layer between others, whose every channel could go."""
    x = keras.Input((5, 6))
    y = L.Dense(8, name="before")(x)
    y = kg.GatedAttention(layer)(y, y)
    return drawn(keras.Model(x, L.Dense(2)(y)))


BETWEEN = {
    "att": lambda: L.MultiHeadAttention(4, 3, name="att"),
    "grouped": lambda: GROUPED(3, 4, 2, name="att"),
}


@pytest.mark.parametrize("make", BETWEEN.values(), ids=BETWEEN)
def test_channels_behind_a_gate_have_a_name_of_their_own(make):
    model = between(make())
    scores = kg.surgeon.score(model)
    assert scores.pop("att/heads").shape == gate_of(model).factor.shape
    assert scores.keys() - {"att/channels"} == {"before"}
    assert all(v.ndim == 1 for v in scores.values())
    gate = gate_of(model)
    half = np.arange(gate.factor.shape[0]) % 2
    gate.factor.assign(half * 0.7 + 0.01)
    group = {"group": kg.Quantile(0.5)}
    for given, thresholds, closes in (
        ({**scores, "att/heads": half}, {**group, "head": 0.5}, "att/heads"),
        (scores, {**group, "att": 0.05}, "att"),
    ):
        plan = kg.surgeon.plan(model, thresholds, scores=given)
        assert set(plan.closed) == {*scores, closes}
        assert plan.closed[closes] == np.flatnonzero(half == 0).tolist()
        plan = kg.surgeon.Plan.from_json(plan.to_json(), model)
        small = plan.apply()
        assert max(plan.verify(small).values()) < 1e-5
        row = next(r for r in plan.rows if r.layer == "att")
        assert "heads closed" in "; ".join(row.why)
        if "att/channels" in scores:
            count = len(plan.closed["att/channels"])
            assert small.get_layer("att").output.shape[-1] == 8 - count
            assert 0 < count < 8 and f"{count} of 8 channels closed" in row.why
    again = {"att": np.arange(len(half)) + 0.0}
    plan = kg.surgeon.plan(model, {"att": 0.5}, scores={**scores, **again})
    assert plan.closed["att"] == [0]


def test_the_names_of_channels_without_such_a_gate():
    x = keras.Input((5, 6))
    y = L.Dense(8, name="before")(x)
    y = L.MultiHeadAttention(4, 3, name="att")(y, y)
    model = drawn(keras.Model(x, L.Dense(2)(y)))
    names = set(kg.surgeon.score(model))
    assert names == {"before", "att", "att/heads"}
