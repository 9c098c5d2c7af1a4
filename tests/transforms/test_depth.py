"""Whole blocks of a transformer go, and what stays is what it was.

The truth is a model made with the blocks that are left, and their weights.
"""

import warnings

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import depth_models as dm

# What is lost with the class comes back with it; `backbone` asks for this.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The new model .* is not of the class Backbone:UserWarning"
)


def batch(model, seed=1):
    random = np.random.default_rng(seed)
    found = [random.normal(size=(4, dm.LENGTH, 5)).astype("float32")]
    if len(model.inputs) > 1:
        mask = random.random((4, dm.LENGTH)) < 0.7
        mask[:, 0] = True
        found.append(mask.astype("int32"))
    return found[0] if len(found) == 1 else found


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def gates_of(gated):
    layers = gated._flatten_layers(include_self=False)
    return {x.name: x for x in layers if hasattr(x, "kind")}


def close(gated, *parts):
    """Close the gates whose path has one of these in it."""
    plan = kg.surgeon.plan(gated, 0.5)
    rows = [row.layer for row in plan.rows]
    gates, found = gates_of(gated), []
    for path in rows:
        gate = gates.get(path.rpartition("/")[2])
        if gate is not None and any(part in path for part in parts):
            gate.factor.assign(0.0)
            found.append(path)
    return found


def names(pieces):
    return [piece.name for piece in pieces if not piece.reason]


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("post", [False, True], ids=["pre", "post"])
def test_what_is_found(post, masked):
    found = kg.transforms.find_structure(dm.stack(2, post, masked))
    blocks = ("block_0", "block_1")
    both = [f"{b}/{part}" for b in blocks for part in ("attention", "wide")]
    assert names(found.branches) == both
    joins = [f"{b}/{part}" for b in blocks for part in ("add", "add_1")]
    assert names(found.blocks) == joins


@pytest.mark.parametrize("kind", ["branches", "blocks"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_closed_branches_take_their_block_along(kind, masked):
    model = dm.randomized(dm.stack(3, masked=masked))
    gated = kg.insert_gates(model, **{kind: True})
    x = batch(model)
    np.testing.assert_allclose(outputs(gated, x), outputs(model, x), atol=1e-5)
    assert len(close(gated, "block_1")) == 2
    small = kg.surgeon.prune(gated, 0.5)
    assert "block_1" not in [layer.name for layer in small.layers]
    other = dm.stack(2, masked=masked)
    other.set_weights(dm.left(model, 3, (0, 2)))
    np.testing.assert_allclose(outputs(small, x), outputs(other, x), atol=1e-5)
    assert max(kg.surgeon.verify(gated, small, 0.5, x=x).values()) < 1e-5
    assert kg.stats.count(small).macs == kg.stats.count(other).macs
    assert small.count_params() == other.count_params()


def test_one_branch_goes():
    model = dm.randomized(dm.stack(3))
    gated = kg.insert_gates(model, branches=True)
    assert len(close(gated, "block_1/attention")) == 1
    small = kg.surgeon.prune(gated, 0.5)
    assert max(kg.surgeon.verify(gated, small, 0.5).values()) < 1e-5
    attention = kg.stats.count(model).macs - kg.stats.count(small).macs
    width, length = dm.WIDTH, dm.LENGTH
    assert attention == 4 * length * width**2 + 2 * length**2 * width
    assert any(layer.name == "block_1" for layer in small.layers)


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("post", [False, True], ids=["pre", "post"])
def test_gates_beside_whole_blocks(post, masked):
    model = dm.randomized(dm.stack(3, post, masked))
    gated = kg.insert_gates(model, blocks=True, written_out=False)
    assert list(gates_of(gated)) == [f"block_{n}_block_gate" for n in range(3)]
    kept = [x for x in gated.layers if isinstance(x, dm.Block)]
    assert [x.name for x in kept] == ["block_0", "block_1", "block_2"]
    x = batch(model)
    np.testing.assert_allclose(outputs(gated, x), outputs(model, x), atol=1e-5)
    close(gated, "block_0", "block_2")
    gate = gated.get_layer("block_1_block_gate")
    for factor in (1.0, 0.7):
        gate.factor.assign(factor)
        small = kg.surgeon.prune(gated, 0.5)
        far = kg.surgeon.verify(gated, small, 0.5, x=x)
        assert max(far.values()) < 1e-5
        blocks = [each.name for each in small.layers if "block" in each.name]
        assert blocks[0] == "block_1"
        assert "block_0" not in blocks
        assert "block_2" not in blocks
    small = kg.surgeon.prune(gated, 0.5, drop_shortcuts=True)
    other = dm.stack(1, post, masked)
    other.set_weights(dm.left(model, 3, (1,)))
    gate.factor.assign(1.0)
    small = kg.surgeon.prune(gated, 0.5, drop_shortcuts=True)
    np.testing.assert_allclose(outputs(small, x), outputs(other, x), atol=1e-5)
    assert isinstance(small.get_layer("block_1"), dm.Block)


def test_a_block_by_name():
    model = dm.randomized(dm.stack(3, post=True))
    gated = kg.insert_gates(model, blocks=[("block_1", "block_1")])
    assert list(gates_of(gated)) == ["block_1_block_gate"]
    close(gated, "block_1")
    small = kg.surgeon.prune(gated, 0.5)
    other = dm.stack(2, post=True)
    other.set_weights(dm.left(model, 3, (0, 2)))
    x = batch(model)
    np.testing.assert_allclose(outputs(small, x), outputs(other, x), atol=1e-5)
    with pytest.raises(ValueError, match="twice"):
        kg.insert_gates(model, blocks=[("block_1", "block_1")] * 2)
    again = {"blocks": [("block_1", "block_1")]}
    with pytest.raises(ValueError, match="has a gate already"):
        kg.insert_gates(gated, **again)


def test_one_block_that_is_called_twice():
    model = dm.randomized(dm.stack(3, shared=True))
    gated = kg.insert_gates(model, blocks=True, written_out=False)
    first, *rest = gates_of(gated).values()
    assert len(rest) == 2
    first.factor.assign(0.0)
    small = kg.surgeon.prune(gated, 0.5)
    assert max(kg.surgeon.verify(gated, small, 0.5).values()) < 1e-5
    one = kg.stats.count(dm.stack(1)).macs - kg.stats.count(dm.stack(0)).macs
    assert kg.stats.count(model).macs - kg.stats.count(small).macs == one
    assert small.count_params() == model.count_params()


def test_blocks_that_make_an_output_are_told():
    x = keras.Input((dm.LENGTH, dm.WIDTH))
    model = keras.Model(x, dm.Block(4, name="only")(x))
    with pytest.raises(ValueError, match="it produces an output of the model"):
        kg.insert_gates(model, blocks=[("only", "only")])


def test_all_blocks_gone():
    model = dm.randomized(dm.stack(2))
    gated = kg.insert_gates(model, branches=True)
    close(gated, "block")
    small = kg.surgeon.prune(gated, 0.5)
    assert max(kg.surgeon.verify(gated, small, 0.5).values()) < 1e-5
    other = dm.stack(0)
    assert small.count_params() == other.count_params()


# The class of a model whose constructor makes the blocks ---------------------


def backbone(count=3, post=False):
    model = dm.randomized(dm.Backbone(count, post=post))
    beside = {"blocks": True, "written_out": False}
    kinds = beside if post else {"branches": True}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gated = kg.insert_gates(model, **kinds)
    texts = [str(each.message) for each in told]
    assert any("is not of the class Backbone" in text for text in texts)
    return model, gated


@pytest.mark.parametrize(
    "post, gone", [(False, (1,)), (False, ()), (True, (0, 2))]
)
def test_the_class_comes_back_with_fewer_blocks(post, gone, tmp_path):
    model, gated = backbone(post=post)
    close(gated, *(f"block_{n}" for n in gone))
    plan = kg.surgeon.plan(gated, 0.5)
    small = plan.apply()
    stays = tuple(n for n in range(3) if n not in gone)
    assert type(small) is dm.Backbone
    assert small.num_layers == len(stays)
    assert any(
        "is an instance of its class Backbone again" in note
        for note in plan.notes
    )
    other = dm.Backbone(len(stays), post=post)
    other.set_weights(dm.left(model, 3, stays))
    x = batch(model)
    np.testing.assert_allclose(outputs(small, x), outputs(other, x), atol=1e-5)
    assert max(plan.verify(small).values()) < 1e-5
    assert plan.macs.after == kg.stats.count(other).macs
    assert plan.params.after == small.count_params()
    path = tmp_path / "small.keras"
    small.save(path)
    again = keras.saving.load_model(path)
    np.testing.assert_allclose(outputs(again, x), outputs(small, x), atol=1e-6)
    assert model.num_layers == 3


def test_fewer_and_narrower_blocks():
    model = dm.randomized(dm.Backbone(3))
    gated = kg.insert_gates(model, branches=True, filters=["*/wide"])
    close(gated, "block_0/attention", "block_0/wide_branch")
    for name, gate in gates_of(gated).items():
        if "wide_filter" in name:
            gate.factor.assign([0.0, 1.0] * (dm.HIDDEN // 2))
    small = kg.surgeon.prune(gated, 0.5)
    assert type(small) is dm.Backbone
    assert (small.num_layers, small.hidden) == (2, dm.HIDDEN // 2)
    assert max(kg.surgeon.verify(gated, small, 0.5).values()) < 1e-5


@pytest.mark.parametrize("case", ["a branch", "an open gate", "nearly one"])
def test_what_the_config_can_not_follow(case):
    model, gated = backbone(post=case != "a branch")
    close(gated, "block_1/att" if case == "a branch" else "block_1")
    if case != "a branch":
        gate = gated.get_layer("block_0_block_gate")
        gate.factor.assign(0.7 if case == "an open gate" else 0.999)
    plan = kg.surgeon.plan(gated, 0.5)
    small = plan.apply()
    assert type(small) is not dm.Backbone
    assert any("its class can't be kept, since" in note for note in plan.notes)
    assert max(plan.verify(small).values()) < 1e-5


def test_written_out_it_needs_no_class():
    _, gated = backbone()
    close(gated, "block_1")
    small = kg.surgeon.prune(gated, 0.5, written_out=True)
    assert type(small) is not dm.Backbone
    assert max(kg.surgeon.verify(gated, small, 0.5).values()) < 1e-5


def test_a_backbone_in_a_model():
    inner = dm.Backbone(3, name="backbone")
    inputs = keras.Input((dm.LENGTH, 5))
    x = L.GlobalAveragePooling1D()(inner(inputs))
    model = dm.randomized(keras.Model(inputs, L.Dense(3, name="logits")(x)))
    gated = kg.insert_gates(model, branches=True)
    close(gated, "block_2")
    small = kg.surgeon.prune(gated, 0.5)
    assert type(small.get_layer("backbone")) is dm.Backbone
    assert small.get_layer("backbone").num_layers == 2
    assert max(kg.surgeon.verify(gated, small, 0.5).values()) < 1e-5


def test_gates_of_depth_reach_a_budget():
    model = dm.randomized(dm.stack(4))
    gated = kg.insert_gates(model, branches=True, filters=["*/wide"])
    random = np.random.default_rng(0)
    for gate in gates_of(gated).values():
        gate.factor.assign(random.uniform(0.1, 1, gate.factor.shape))
    whole = kg.stats.count(model).macs
    for share in (0.7, 0.5):
        plan = kg.surgeon.plan(gated, kg.Budget(macs=share))
        small = plan.apply()
        got = kg.stats.count(small).macs
        assert plan.macs.after == got
        assert share - 0.08 < got / whole <= share
