"""Inserted gates: the function before and after pruning."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import zoo
from keras_gates.transforms import insert_gates
from keras_gates.transforms import separate_shortcuts
from tests import helpers

T = helpers.THRESHOLD
KINDS = ("filters", "layers", "branches", "blocks")


def application(name, size):
    def build():
        made = getattr(keras.applications, name)
        return made(weights=None, input_shape=(size, size, 3), classes=10)

    return pytest.param(build, id=name, marks=pytest.mark.slow)


SMALL_IMAGE = (16, 16, 3)
NETWORKS = [
    pytest.param(lambda: zoo.mlp((12, 12), (20,)), id="mlp"),
    pytest.param(zoo.lenet5, id="lenet5"),
    pytest.param(lambda: zoo.resnet(8), id="pad"),
    pytest.param(lambda: zoo.resnet(8, "projection"), id="projection"),
    pytest.param(lambda: zoo.plain_resnet(8), id="plain"),
    pytest.param(lambda: zoo.preact_resnet(11), id="preact"),
    pytest.param(lambda: zoo.densenet(10, 4), id="densenet"),
    pytest.param(lambda: zoo.inception(((6, 4), 5, (4, 6))), id="inception"),
    *(
        application(name, size)
        for name, size in (
            ("VGG16", 32),
            ("ResNet50", 32),
            ("InceptionV3", 75),
            ("DenseNet121", 32),
            ("MobileNetV2", 64),
        )
    ),
]


def inserted(model, kind, **options):
    """The model with gates of a kind, or None where it has none to gate."""
    try:
        return insert_gates(model, **{kind: True}, **options)
    except ValueError as error:
        assert "can get gates: " in str(error)
        return None


def factors(model):
    return [helpers.numpy_of(gate.factor) for gate in helpers.gates_of(model)]


@pytest.mark.parametrize("build", NETWORKS)
def test_the_function_stays(build):
    model = helpers.randomize(build())
    before = helpers.fingerprint(model)
    x = helpers.inputs_for(model)
    expected = helpers.run(model, x)
    tried = 0
    for kind in KINDS:
        gated = inserted(model, kind)
        if gated is None:
            continue
        tried += 1
        assert helpers.gates_of(gated)
        assert all((values == 1).all() for values in factors(gated))
        far = helpers.differences(expected, helpers.run(gated, x))
        if kind in ("filters", "branches"):
            assert max(far) == 0
        else:
            # f - s + s rounds once at each of some dozens of layers.
            limit = helpers.probe(model, x, expected)
            assert max(far) <= max(
                helpers.RTOL, helpers.PROBE_FACTOR * max(limit)
            )
    assert tried >= 2
    assert helpers.fingerprint(model) == before


def small(name):
    if name == "resnet":
        return zoo.resnet(8, "projection", SMALL_IMAGE)
    return zoo.inception(((6, 4), 5, (4, 6)), SMALL_IMAGE)


COMBINATIONS = [
    kinds
    for count in range(1, 5)
    for kinds in itertools.combinations(KINDS, count)
]


def close_some(gated, rng):
    """Close half of everything, but no whole join of an Inception block."""
    helpers.randomize(gated, closed="half")
    for gate in helpers.gates_of(gated):
        if gate.kind != "filter":
            keep = "3x3_branch" in gate.name or rng.random() < 0.5
            gate.factor.assign(1.2 if keep else 0.1)


@pytest.mark.parametrize("kinds", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("name", ["resnet", "inception"])
def test_the_fifteen_combinations(name, kinds):
    model = small(name)
    start = "same" if len(kinds) % 2 else "residual"
    gated = insert_gates(model, start=start, **dict.fromkeys(kinds, True))
    have = {gate.kind for gate in helpers.gates_of(gated)}
    names = zip(("filter", "layer", "branch", "block"), KINDS, strict=True)
    assert have == {one for one, many in names if many in kinds}
    close_some(gated, np.random.default_rng(len(kinds)))
    pruned = kg.surgeon.prune(gated, T)
    x = helpers.inputs_for(gated)
    helpers.assert_same(gated, pruned, x, vary=False)
    # Ten times what they may differ by: equality does prove something.
    assert min(helpers.variation(helpers.run(pruned, x))) > 10 * helpers.RTOL
    assert pruned.count_params() < model.count_params()
    assert not helpers.gates_of(pruned)


# All of a kind at once; an Inception block without branches has no shortcut.
@pytest.mark.parametrize(
    "name, kind",
    [
        *itertools.product(["resnet", "inception"], ["layers", "blocks"]),
        ("resnet", "branches"),
    ],
)
def test_all_of_a_kind_closed(name, kind):
    gated = insert_gates(small(name), **{kind: True})
    for gate in helpers.gates_of(gated):
        gate.factor.assign(0.0)
    x = helpers.inputs_for(gated)
    helpers.randomize(gated, x=x)
    for gate in helpers.gates_of(gated):
        gate.factor.assign(0.1)
    pruned = kg.surgeon.prune(gated, T)
    # The statistics of what is left are those of open gates.
    helpers.assert_same(gated, pruned, x)
    assert max(kg.surgeon.verify(gated, pruned, T, x).values()) < helpers.RTOL


@pytest.mark.parametrize("build", NETWORKS[8:])
def test_applications_pruned(build):
    model = build()
    gated = insert_gates(model, filters=True, start="same")
    helpers.randomize(gated, closed="half")
    pruned = kg.surgeon.prune(gated, T)
    helpers.assert_same(gated, pruned, vary=False)
    assert pruned.count_params() < 0.5 * model.count_params()


# What an added shortcut computes ----------------------------------------


def one_layer(strides, filters, position="activation"):
    """A strided convolution with a shortcut; its parts, to be run alone."""
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(filters, 3, strides, "same", name="conv")(inputs)
    norm = L.BatchNormalization(name="norm")(x)
    last = L.ReLU(name="relu")(norm)
    outputs = L.Conv2D(3, 1, name="last")(last)
    model = helpers.randomize(keras.Model(inputs, outputs))
    end = last if position == "activation" else norm
    return model, keras.Model(inputs, end)


def expected_shortcut(x, strides, filters):
    """Means over windows; channels kept, and zeros for new ones."""
    side = 8 // strides
    x = x.reshape(len(x), side, strides, side, strides, 4).mean((2, 4))
    return np.pad(x, [(0, 0)] * 3 + [(0, filters - 4)])


@pytest.mark.parametrize("position", ["activation", "norm"])
@pytest.mark.parametrize("strides, filters", [(1, 4), (1, 6), (2, 4), (2, 6)])
def test_equation_4(strides, filters, position):
    model, f = one_layer(strides, filters, position)
    x = helpers.inputs_for(model)
    (inner,), s = helpers.run(f, x), expected_shortcut(x, strides, filters)
    for start, expected in (
        ("residual", 0.25 * inner + s),
        ("same", 0.25 * (inner - s) + s),
    ):
        spec = {"include": "conv", "position": position}
        gated = insert_gates(model, layers=spec, start=start)
        gated.get_layer("conv_layer_gate").factor.assign(0.25)
        add = gated.get_layer("conv_layer_gate_shortcut_add")
        (got,) = helpers.run(keras.Model(gated.inputs[0], add.output), x)
        # A few float32 operations on values of about 1.
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


# Sizes that a convolution gives, whatever its padding, a pooling gives too.
@pytest.mark.parametrize(
    "size, options",
    [
        (9, {"strides": 2, "padding": "same"}),
        (9, {"strides": 2, "padding": "valid"}),
        (8, {"strides": 3, "padding": "valid"}),
        (8, {"strides": 1, "padding": "valid"}),
        (7, {"strides": (1, 2), "padding": "same"}),
    ],
)
def test_shortcut_sizes(size, options):
    inputs = keras.Input((size, size, 2))
    x = L.Conv2D(2, 3, name="conv", **options)(inputs)
    model = keras.Model(inputs, L.Conv2D(1, 1)(x))
    gated = insert_gates(model, layers={"include": "conv"})
    add = gated.get_layer("conv_layer_gate_shortcut_add")
    assert add.output.shape == x.shape


# Where gates go -----------------------------------------------------------


@pytest.mark.parametrize("build", NETWORKS[:8])
@pytest.mark.parametrize("position", ["activation", "norm"])
def test_no_gate_is_divided_out_again(build, position):
    """In training, a normalization after a gate would undo its factor."""
    gated = insert_gates(build(), filters={"position": position})
    x = helpers.inputs_for(gated)
    helpers.randomize(gated, x=x)

    def trained():
        return helpers.numpy_of(gated(x, training=True))

    for gate in helpers.gates_of(gated):
        before = trained()
        factor = helpers.numpy_of(gate.factor)
        gate.factor.assign(np.linspace(0.5, 4, len(factor)) * factor)
        # A factor that was divided out would leave rounding, some 1e-6.
        assert np.abs(trained() - before).max() > 1e-3 * np.abs(before).max()
        gate.factor.assign(factor)


def gate_names(model):
    return {gate.name for gate in helpers.gates_of(model)}


def test_a_stream_has_one_gate_and_can_go():
    model = zoo.resnet(14, "projection", SMALL_IMAGE)
    gated = insert_gates(model, filters=True)
    stem = gated.get_layer("conv1_filter_gate")
    assert len(stem._inbound_nodes) == 3
    stem.factor.assign(np.arange(16) >= 6)
    pruned = kg.surgeon.prune(gated, T)
    for name in ("conv1", "stage1_block1_conv2", "stage1_block2_conv2"):
        assert pruned.get_layer(name).filters == 10


def test_tied_streams_left_out():
    model = zoo.resnet(8, "projection", SMALL_IMAGE)
    names = gate_names(insert_gates(model, filters=True, tied="skip"))
    assert names == {f"stage{n}_block1_conv1_filter_gate" for n in (1, 2, 3)}
    untied = gate_names(
        insert_gates(separate_shortcuts(model), filters=True, tied="skip")
    )
    # What the stem makes is added nowhere but through a convolution now.
    assert untied == names | {"conv1_filter_gate"}


@pytest.mark.parametrize("flat", [False, True])
def test_input_gates(flat):
    shape = (4, 4, 3) if flat else (20,)
    model = zoo.mlp((12,), shape)
    gated = insert_gates(model, filters={"inputs": True})
    size = 48 if flat else 20
    (gate,) = [g for g in helpers.gates_of(gated) if g.factor.shape == (size,)]
    gate.factor.assign(np.arange(size) % 2)
    pruned = kg.surgeon.prune(gated, T)
    assert pruned.get_layer("fc1").kernel.shape == (size // 2, 12)
    helpers.assert_same(gated, pruned, vary=False)


def test_include_and_exclude():
    model = zoo.resnet(8, "projection", SMALL_IMAGE)
    some = insert_gates(
        model,
        filters={"include": "stage?_block1_conv1", "exclude": "stage2*"},
        branches=["stage3_*"],
        layers={"include": L.Conv2D, "exclude": "stage*"},
    )
    assert gate_names(some) == {
        "stage1_block1_conv1_filter_gate",
        "stage3_block1_conv1_filter_gate",
        "stage3_block1_conv1_branch_gate",
        "conv1_layer_gate",
    }


NAMED = {
    "to its join": (
        lambda: zoo.resnet(8, shortcut="projection"),
        ("stage2_block1_conv1_pad", "stage2_block1_add"),
        0,
    ),
    "in a chain, with a shortcut": (
        lambda: zoo.plain_resnet(8),
        ("stage2_block1_conv1_pad", "stage2_block1_relu"),
        2,
    ),
}


@pytest.mark.parametrize("kind", ["branches", "blocks"])
@pytest.mark.parametrize("case", NAMED)
def test_named_pieces(case, kind):
    build, pair, added = NAMED[case]
    model = build()
    gated = insert_gates(model, **{kind: [pair]}, start="same")
    helpers.randomize(gated, closed="ones")
    (gate,) = helpers.gates_of(gated)
    names = [x.name for x in gated.layers if "_shortcut_" in x.name]
    assert len([n for n in names if n.startswith(gate.name)]) == 2 * added
    gate.factor.assign(0.1)
    pruned = kg.surgeon.prune(gated, T)
    helpers.assert_same(gated, pruned)
    assert pruned.count_params() < 0.9 * model.count_params()


# Models of other kinds ------------------------------------------------------


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(6, 3, padding="same", name="a"),
            L.BatchNormalization(),
            L.ReLU(),
            L.Conv2D(6, 3, padding="same", activation="relu", name="b"),
            L.GlobalAveragePooling2D(),
            L.Dense(3, name="head"),
        ]
    )


def nested():
    block = sequential().layers[:-2]
    part = keras.Sequential([keras.Input((8, 8, 3)), *block], name="part")
    first, second = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    both = L.Concatenate()([part(first), part(second)])
    x = L.GlobalAveragePooling2D()(both)
    return keras.Model([first, second], L.Dense(3)(x))


def rows():
    inputs = keras.Input((12, 5))
    x = L.Conv1D(8, 3, padding="causal", name="a")(inputs)
    x = L.Conv1D(8, 3, 2, padding="same", name="b", activation="relu")(x)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


@pytest.mark.parametrize("build", [sequential, nested, rows])
def test_other_models(build, tmp_path):
    gated = insert_gates(build(), filters=1e-3, layers=1e-3)
    helpers.randomize(gated, closed="half")
    x = helpers.inputs_for(gated)
    helpers.assert_same(gated, kg.surgeon.prune(gated, T), x)
    gated.save(tmp_path / "gated.keras")
    again = keras.saving.load_model(tmp_path / "gated.keras")
    assert (
        helpers.run(again, x)[0].tolist() == helpers.run(gated, x)[0].tolist()
    )


def test_a_sequential_stays_one():
    gated = insert_gates(sequential(), filters=True)
    assert type(gated) is keras.Sequential


def test_a_shared_model_stays_shared():
    gated = insert_gates(nested(), filters=True, layers=True)
    assert sum(layer.name == "part" for layer in gated.layers) == 1
    # The shortcut round b ties its channels to those of a.
    names = {"a_filter_gate", "a_layer_gate", "b_layer_gate"}
    assert gate_names(gated) == names


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="TensorFlow on a CPU has no channels-first convolutions",
)
def test_channels_first():
    model = zoo.resnet(
        8, "projection", (3, 16, 16), data_format="channels_first"
    )
    gated = insert_gates(model, **dict.fromkeys(KINDS, True))
    helpers.randomize(gated, seed=1, closed="half")
    pruned = kg.surgeon.prune(gated, T)
    helpers.assert_same(gated, pruned)


def test_half_precision_goes_on():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = zoo.resnet(8, "projection", SMALL_IMAGE)
    finally:
        keras.config.set_dtype_policy("float32")
    gated = insert_gates(model, layers=True)
    added = [x for x in gated.layers if "_gate" in x.name]
    assert {x.compute_dtype for x in added} == {"bfloat16"}
    assert {str(g.factor.dtype) for g in helpers.gates_of(gated)} == {"float32"}


def test_twice():
    """What has a gate gets no other of its kind."""
    model = zoo.resnet(8, "projection", SMALL_IMAGE)
    gated = insert_gates(model, branches=True, layers=True)
    for kind in ("branches", "layers"):
        with pytest.raises(ValueError, match="has a gate already"):
            insert_gates(gated, **{kind: True})
    both = insert_gates(gated, filters=True)
    assert len(helpers.gates_of(both)) > len(helpers.gates_of(gated))
