"""What `insert_gates` takes: penalties by equation or cost, and refusals."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import zoo
from keras_gates.transforms import GateSpec
from keras_gates.transforms import insert_gates
from tests import helpers
from tests.surgeon.refusals import refuse


def model():
    """Two convolutions of one shape in a block, and a head."""
    inputs = keras.Input((8, 8, 4), name="image")
    stem = x = L.Conv2D(4, 3, padding="same", name="stem")(inputs)
    for name in ("a", "b"):
        x = L.Conv2D(4, 3, padding="same", name=name, activation="relu")(x)
    x = L.Add(name="add")([stem, x])
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, L.Dense(3, name="head")(x))


def plain():
    """VALID convolutions: multiply-adds that can be told by hand."""
    inputs = keras.Input((6, 6, 2), name="image")
    x = L.Conv2D(3, 3, name="a", activation="relu")(inputs)
    x = L.Conv2D(5, 3, name="b", activation="relu")(x)
    return keras.Model(inputs, L.Dense(2, name="head")(L.Flatten()(x)))


def penalties(gated):
    return sum(float(helpers.numpy_of(loss)) for loss in gated.losses)


# Eq. 3 to 14 at gates of one: a mean for each filter gate (the stream's three
# tensors have one, a another), a mean over all gates of the other kinds.
@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"filters": 0.5}, 2 * 0.5),
        ({"layers": 0.5}, 0.5),
        ({"branches": 0.5}, 0.5),
        ({"blocks": 0.5}, 0.5),
        ({"filters": 0.5, "layers": 0.25, "branches": 0.125}, None),
    ],
)
def test_penalties_of_the_paper(arguments, expected):
    specs = {
        kind: GateSpec(strength=strength, weigh="count")
        for kind, strength in arguments.items()
    }
    gated = insert_gates(model(), **specs)
    if expected is None:
        # With shortcuts round all layers, all channels are one stream.
        expected = 0.5 + 0.25 + 0.125
    np.testing.assert_allclose(penalties(gated), expected, rtol=1e-6)


# 4 channels of the stream and 4 of a; 3 layers, 1 branch and 1 block.
@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"filters": 0.5}, 8 * 0.5),
        ({"filters": {"inputs": True, "strength": 0.5}}, 12 * 0.5),
        ({"layers": 0.5}, 3 * 0.5),
        ({"branches": 0.5}, 0.5),
        ({"blocks": {"strength": 0.5}}, 0.5),
        ({"filters": True, "branches": True}, 0.0),
        ({"filters": kg.regularizers.L1(0.5)}, 8 * 0.5),
        ({"filters": {"regularizer": kg.regularizers.L1(0.5)}}, 8 * 0.5),
        ({"filters": "l1"}, 8 * 0.01),
        ({"filters": {"strength": 0.5, "include": "a"}}, 4 * 0.5),
    ],
)
def test_a_number_is_the_strength_of_l1(arguments, expected):
    gated = insert_gates(model(), **arguments)
    np.testing.assert_allclose(penalties(gated), expected, rtol=1e-6)


def test_a_number_means_the_same_in_all_transforms():
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(3, 3, name="a")(inputs)
    x = L.Conv2D(5, 3, name="b")(L.BatchNormalization()(x))
    source = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    for gated in (
        insert_gates(source, filters=0.5),
        insert_gates(source, layers={"strength": 0.5, "include": "a"}),
        kg.slim(source, 0.5),
        kg.to_resconv(source, 0.5),
        kg.to_stripconv(source, 0.5),
    ):
        found = [
            w.regularizer
            for w in gated.weights
            if getattr(w, "regularizer", None)
        ]
        assert found
        for penalty in found:
            assert type(penalty) is kg.regularizers.L1
            assert penalty.l1 == np.float32(0.5)


def test_penalties_are_in_the_loss():
    gated = insert_gates(model(), filters={"strength": 0.5, "weigh": "count"})
    gated.compile("sgd", "mse")
    x = helpers.inputs_for(gated)
    y = helpers.predicted(gated, x)
    loss = gated.evaluate(x, y, verbose=0)
    # The error of predicting what is predicted is zero, up to rounding.
    np.testing.assert_allclose(loss, 1.0, rtol=1e-5)


A, B, HEAD = 16 * 9 * 2 * 3, 4 * 9 * 3 * 5, 20 * 2
A_PARAMS, B_PARAMS, HEAD_PARAMS = 9 * 2 * 3 + 3, 9 * 3 * 5 + 5, 20 * 2 + 2


# A channel of "a" takes a third of a with it, and a third of b's kernel.
@pytest.mark.parametrize(
    "weigh, a, b, total",
    [
        ("macs", (A + B) / 3, (B + HEAD) / 5, A + B + HEAD),
        (
            "params",
            (A_PARAMS + 9 * 3 * 5) / 3,
            (B_PARAMS + HEAD) / 5,
            A_PARAMS + B_PARAMS + HEAD_PARAMS,
        ),
    ],
)
def test_channels_weighed_by_cost(weigh, a, b, total):
    spec = GateSpec(strength=0.5, weigh=weigh)
    gated = insert_gates(plain(), filters=spec)
    for name, cost in (("a", a), ("b", b)):
        penalty = gated.get_layer(f"{name}_filter_gate").regularizer
        assert penalty.l1 == 0.5
        np.testing.assert_allclose(penalty.cost, cost / total)


def test_the_cost_of_a_channel_is_what_pruning_saves():
    source = zoo.resnet(8, "projection", (16, 16, 3))
    for weigh in ("macs", "params"):
        gated = insert_gates(
            source, filters=GateSpec(strength=1.0, weigh=weigh)
        )
        for name in ("conv1", "stage2_block1_conv1", "stage3_block1_conv2"):
            gate = gated.get_layer(f"{name}_filter_gate")
            gate.factor.assign(np.arange(gate.factor.shape[0]) > 0)
            plan = kg.surgeon.plan(gated, 0.5)
            before, after = getattr(plan, weigh)
            gate.factor.assign(np.ones(gate.factor.shape))
            # The gates themselves are parameters before, and so are
            # those of one channel that goes with them.
            own = sum(g.factor.shape[0] for g in helpers.gates_of(gated))
            saved = before - after - (own if weigh == "params" else 0)
            whole = getattr(kg.stats.count(source), weigh)
            np.testing.assert_allclose(
                gate.regularizer.cost[0] * whole, saved, rtol=1e-9
            )


@pytest.mark.parametrize("weigh", ["macs", "params"])
@pytest.mark.parametrize("kind", ["layers", "branches", "blocks"])
def test_pieces_weighed_by_cost(weigh, kind):
    source = model()
    gated = insert_gates(source, **{kind: GateSpec(strength=0.5, weigh=weigh)})
    gate = helpers.gates_of(gated)[-1]
    count = kg.stats.count(source)
    shares = {x.name: getattr(x, weigh) for x in count.layers}
    own = shares["b"] + (0 if kind == "layers" else shares["a"])
    share = own / getattr(count, weigh)
    np.testing.assert_allclose(gate.regularizer.l1, 0.5 * share)


def test_open_sizes_are_weighed():
    source = zoo.resnet(8, "projection", (None, None, 3))
    spec = GateSpec(strength=1.0, weigh="macs")
    assert penalties(insert_gates(source, filters=spec, branches=spec)) > 0


def test_arguments_of_the_gates():
    spec = {
        "initializer": "uniform",
        "constraint": None,
        "regularizer": kg.regularizers.L1(0.1),
    }
    first, second = helpers.gates_of(insert_gates(model(), filters=spec))
    assert first.constraint is None
    assert first.regularizer.l1 == 0.1
    assert first.regularizer is not second.regularizer
    values = helpers.numpy_of(first.factor)
    assert ((values > 0) & (values < 1)).all() and len(set(values)) == 4
    other = helpers.gates_of(insert_gates(model(), filters=True))[0]
    assert isinstance(other.constraint, kg.constraints.UnitInterval)
    assert other.regularizer is None


# Refusals -------------------------------------------------------------------

BAD = [
    ({}, ValueError, "nothing to do"),
    ({"filters": -1.0}, ValueError, "`filters`.*-1.0"),
    ({"filters": float("nan")}, ValueError, "`filters`.*nan"),
    ({"filters": object()}, TypeError, "`filters` is not valid"),
    ({"filters": {"strenght": 1}}, TypeError, "'strenght'.*'strength'"),
    ({"filters": []}, ValueError, "`filters` is empty"),
    ({"filters": ["conv9"]}, ValueError, "'conv9'.*fits nothing.*stem, a"),
    ({"filters": {"exclude": "z*"}}, ValueError, "`exclude`.*'z\\*'"),
    ({"filters": ["head"]}, ValueError, "'head': it is an output"),
    ({"filters": {"exclude": "*"}}, ValueError, "No filters of this model"),
    ({"filters": {"include": 3}}, TypeError, "`include`.*3.*int"),
    ({"filters": {"pieces": [("a", "b")]}}, ValueError, "no `pieces`"),
    ({"filters": {"weigh": "flops"}}, ValueError, "`weigh`.*'flops'"),
    ({"filters": {"position": "conv"}}, ValueError, "`position`.*'conv'"),
    ({"layers": {"inputs": True}}, ValueError, "`layers` takes no `inputs`"),
    ({"blocks": {"position": "norm"}}, ValueError, "no `position`"),
    (
        {"filters": {"strength": 1, "regularizer": "l1"}},
        ValueError,
        "`strength` or a `regularizer`",
    ),
    ({"filters": {"regularizer": 0.1}}, TypeError, "Pass strength=0.1"),
    ({"filters": {"strength": "l1"}}, TypeError, "regularizer as `reg"),
    ({"layers": True, "mismatch": "pad"}, ValueError, "`mismatch`.*'pad'"),
    ({"layers": True, "start": "zero"}, ValueError, "`start`.*'zero'"),
    ({"filters": True, "tied": None}, ValueError, "`tied`.*None"),
    ({"branches": [("a", "b", "c")]}, TypeError, "pairs.*'a', 'b', 'c'"),
    (
        {"branches": [("a", "zz")]},
        ValueError,
        "'zz': there is no such layer.*stem, a, b",
    ),
    ({"branches": [("b", "a")]}, ValueError, "no path leads from 'b'"),
    ({"branches": [("stem", "a")]}, ValueError, "'stem', inside.*elsewhere"),
    ({"branches": [("stem", "add")]}, ValueError, "more than one path leads"),
    ({"branches": [("add", "pool")]}, ValueError, "'add', which reads 2"),
    (
        {"branches": [("b", "pool")]},
        ValueError,
        r"one entry.*through 'stem'\.",
    ),
    ({"branches": [("pool", "head")]}, ValueError, "can't turn"),
    ({"branches": {"pieces": 3}}, TypeError, "list of pairs.* 3 "),
    ({"branches": [("a", "add")] * 2}, ValueError, "'add'.*twice"),
    ({"filters": "foo"}, ValueError, "`filters` is not valid.*'foo'"),
    ({"filters": {"initializer": "foo"}}, ValueError, "`initializer`.*'foo'"),
    ({"layers": {"constraint": 3}}, ValueError, "`constraint`.* 3"),
    ({"filters": {"inputs": "x"}}, ValueError, "`inputs`.*'x'"),
    (
        {"layers": ["conv*"], "mismatch": "skip"},
        ValueError,
        "'conv\\*'.*fits nothing",
    ),
    ({"blocks": [("head", "head")]}, ValueError, "an output of the model"),
]


@pytest.mark.parametrize("arguments, error, match", BAD)
def test_refused(arguments, error, match):
    source = model()
    refuse(source, lambda: insert_gates(source, **arguments), error, match)


def test_a_shortcut_that_cannot_be_shaped():
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2DTranspose(4, 2, 2, name="up")(inputs)
    source = keras.Model(inputs, L.Conv2D(2, 1, name="out")(x))

    def insert(**arguments):
        return lambda: insert_gates(source, **arguments)

    why = "output is larger than its input"
    refuse(source, insert(layers=["up"]), ValueError, f"'up': its {why}")
    named = insert(branches=[("up", "up")])
    refuse(source, named, ValueError, f"'up'.*{why}")


def test_no_functional_model():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="subclassed"):
        insert_gates(Subclassed(), filters=True)
    with pytest.raises(TypeError, match="Keras model"):
        insert_gates(3, filters=True)


def test_shortcuts_that_are_skipped_are_told():
    source = zoo.lenet5()
    with pytest.raises(ValueError, match='would need.*mismatch="project"'):
        insert_gates(source, layers=True, mismatch="skip")
