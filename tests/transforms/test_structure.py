"""What is found in graphs whose forks and joins are known by hand."""

import keras
import pytest
from keras import layers as L

from keras_gates import zoo
from keras_gates.transforms import find_structure


def conv(x, filters, name, **options):
    options = {"padding": "same", "use_bias": False, **options}
    x = L.Conv2D(filters, 3, name=name, **options)(x)
    x = L.BatchNormalization(name=f"{name}_bn")(x)
    return L.ReLU(name=f"{name}_relu")(x)


def image(size=16, channels=4):
    return keras.Input((size, size, channels), name="image")


def closed(inputs, x):
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, L.Dense(3, name="head")(x))


def plus():
    """A residual block without an Add layer."""
    # The operation's name counts on from those before it.
    keras.utils.clear_session(free_memory=False)
    inputs = image()
    stem = conv(inputs, 4, "stem")
    return closed(inputs, conv(conv(stem, 4, "a"), 4, "b") + stem)


def three_ways():
    """A sum of the identity and two branches."""
    inputs = image()
    stem = conv(inputs, 4, "stem")
    ways = [stem, conv(stem, 4, "a"), conv(stem, 4, "b")]
    return closed(inputs, L.Add(name="add")(ways))


def inner_fork():
    """An Inception branch that forks again, as in InceptionV3."""
    inputs = image()
    stem = conv(inputs, 4, "stem")
    trunk = conv(stem, 4, "trunk")
    inner = [conv(trunk, 2, "left"), conv(trunk, 2, "right")]
    inner = L.Concatenate(name="inner")(inner)
    outer = [conv(stem, 4, "straight"), inner]
    return closed(inputs, L.Concatenate(name="outer")(outer))


def unet():
    inputs = image()
    first = conv(inputs, 4, "down")
    x = conv(L.MaxPooling2D(name="half")(first), 6, "bottom")
    x = L.UpSampling2D(name="twice")(x)
    x = L.Concatenate(name="skip")([first, x])
    return closed(inputs, conv(x, 4, "up"))


def even_sides():
    """Two branches with a convolution each: which is the shortcut?"""
    inputs = image()
    stem = conv(inputs, 4, "stem")
    ways = [conv(stem, 4, "a"), conv(stem, 4, "b")]
    return closed(inputs, L.Add(name="add")(ways))


def inside_is_read():
    """The half of the branch that is an output, too, is not part of it."""
    inputs = image()
    stem = conv(inputs, 4, "stem")
    inside = conv(stem, 4, "a")
    x = L.Add(name="add")([stem, conv(inside, 4, "b")])
    return keras.Model(inputs, [x, inside])


def all_is_read():
    inputs = image()
    stem = conv(inputs, 4, "stem")
    branch = conv(stem, 4, "a")
    x = L.Add(name="add")([stem, branch])
    return keras.Model(inputs, [x, branch])


def no_fork():
    """Two inputs meet."""
    first, second = image(), keras.Input((16, 16, 4))
    ways = [conv(first, 4, "a"), conv(second, 4, "b")]
    x = L.GlobalAveragePooling2D()(L.Add(name="add")(ways))
    return keras.Model([first, second], L.Dense(3, name="head")(x))


def nested():
    """The branch is a model of its own."""
    part = keras.Sequential(
        [
            keras.Input((16, 16, 4)),
            L.Conv2D(4, 3, padding="same", name="a"),
            L.ReLU(name="a_relu"),
        ],
        name="part",
    )
    inputs = image()
    stem = conv(inputs, 4, "stem")
    return closed(inputs, L.Add(name="add")([stem, part(stem)]))


RESNET = ["stage1_block1", "stage2_block1", "stage3_block1"]
# Network, its branches by their first layers, its blocks by their joins.
FOUND = {
    "identity": (lambda: zoo.resnet(8, "identity"), RESNET[:1], RESNET[:1]),
    "pad": (lambda: zoo.resnet(8, "pad"), RESNET, RESNET),
    "projection": (lambda: zoo.resnet(8, "projection"), RESNET, RESNET),
    "preact": (lambda: zoo.preact_resnet(11), RESNET, RESNET),
    "plain": (lambda: zoo.plain_resnet(8), [], []),
    "densenet": (
        lambda: zoo.densenet(7, 4),
        ["stage1_layer1", "stage2_layer1", "stage3_layer1"],
        [f"stage{n}_layer1_concat" for n in (1, 2, 3)],
    ),
    "inception": (
        lambda: zoo.inception(((6, 4), 5)),
        ["block1_1x1", "block1_3x3", "block2_3x3"],
        ["block1_concat", "block2_concat"],
    ),
    "plus": (plus, ["a"], ["add"]),
    "three ways": (three_ways, ["a", "b"], ["add"]),
    "inner fork": (
        inner_fork,
        ["left", "right", "straight", "trunk"],
        ["outer"],
    ),
    "unet": (unet, ["bottom"], ["skip"]),
    "even sides": (even_sides, [], []),
    "inside is read": (inside_is_read, ["b"], ["add"]),
    "all is read": (all_is_read, [], []),
    "no fork": (no_fork, [], []),
    "nested": (nested, ["part/a"], ["add"]),
}


def gated(found):
    return sorted(x.name for x in found if not x.reason)


@pytest.mark.parametrize("case", FOUND)
def test_branches_and_blocks(case):
    build, branches, blocks = FOUND[case]
    found = find_structure(build())
    if branches is RESNET or branches == RESNET[:1]:
        branches = [f"{name}_conv1" for name in branches]
        blocks = [f"{name}_add" for name in blocks]
    assert gated(found.branches) == sorted(branches)
    assert gated(found.blocks) == sorted(blocks)


# What is found and refused: the kind, the name, and why.
REFUSED = {
    "even sides": (even_sides, "branches", "a", "can't be told apart"),
    "read elsewhere": (
        all_is_read,
        "branches",
        "a",
        "'a_relu' is read elsewhere",
    ),
    "inner block": (inner_fork, "blocks", "inner", "inside another block"),
    "classifier": (plus, "layers", "head", "an output of the model"),
    "1x1": (
        lambda: zoo.resnet(8, "projection"),
        "layers",
        "stage2_block1_shortcut",
        "cost as much",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    build, kind, name, why = REFUSED[case]
    found = find_structure(build())
    (piece,) = [x for x in getattr(found, kind) if x.name == name]
    assert why in piece.reason


# Layer -> its shortcut.
SHORTCUTS = {
    "conv1": "1x1",
    "stage1_block1_conv1": "identity",
    "stage2_block1_conv1": "pooling, 1x1",
    "stage2_block1_conv2": "identity",
}


@pytest.mark.parametrize("shape", [(32, 32, 3), (None, None, 3), (33, 47, 3)])
def test_shortcuts_of_layers(shape):
    found = find_structure(zoo.resnet(8, "identity", shape)).layers
    have = {x.name: str(x.shortcut) for x in found}
    assert SHORTCUTS.items() <= have.items()
    skipped = find_structure(zoo.resnet(8, "identity", shape), "skip").layers
    assert {x.name for x in skipped if not x.reason} == {
        name for name, shortcut in have.items() if shortcut == "identity"
    }


def channels(model, position="activation"):
    """The tensors that each gate is for, by the layers they come from."""
    found = find_structure(model, position=position).filters
    return {
        x.name: [place[-1].path for place in x.places]
        for x in found
        if not x.reason
    }


def shuffled_norms():
    """A pooling and a depthwise convolution before the normalization."""
    inputs = image()
    x = L.Conv2D(6, 3, name="a")(inputs)
    x = L.BatchNormalization(name="a_bn")(L.AveragePooling2D(2)(x))
    x = L.Conv2D(8, 1, name="b", activation="relu")(L.ReLU(name="a_relu")(x))
    x = L.DepthwiseConv2D(3, name="c")(x)
    x = L.ReLU(6.0, name="c_relu")(L.BatchNormalization(name="c_bn")(x))
    return closed(inputs, x)


def squeeze():
    inputs = image()
    x = conv(inputs, 6, "a")
    s = L.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    s = L.Conv2D(2, 1, activation="relu", name="in")(s)
    s = L.Conv2D(6, 1, activation="sigmoid", name="out")(s)
    return closed(inputs, L.Multiply(name="scale")([x, s]))


GATES = {
    "after the normalization, wherever it is": (
        shuffled_norms,
        {"a_bn": ["a_relu"], "c_bn": ["c_relu"]},
    ),
    "one gate for a stream": (
        plus,
        {"stem": ["stem_relu", "b_relu"], "a": ["a_relu"]},
    ),
    "what only scales has none": (squeeze, {"a": ["a_relu"], "in": ["in"]}),
    "concatenation": (
        unet,
        {name: [f"{name}_relu"] for name in ("down", "bottom", "up")},
    ),
    "densenet: for each reader": (
        lambda: zoo.densenet(7, 4),
        {
            f"{name}_bn": [f"{name}_relu"]
            for name in (
                *("stage1_layer1", "transition1", "stage2_layer1"),
                *("transition2", "stage3_layer1", "last"),
            )
        },
    ),
}


@pytest.mark.parametrize("case", GATES)
def test_filters(case):
    build, expected = GATES[case]
    assert channels(build()) == expected


def test_position():
    model = zoo.resnet(8, "projection")
    behind = channels(model)["stage1_block1_conv1"]
    before = channels(model, "norm")["stage1_block1_conv1"]
    assert behind == ["stage1_block1_conv1_relu"]
    assert before == ["stage1_block1_conv1_bn"]
    layers = find_structure(model, position="norm").layers
    ends = {x.name: x.last.path for x in layers}
    assert ends["stage1_block1_conv1"] == "stage1_block1_conv1_bn"


def test_prints():
    text = str(find_structure(inner_fork()))
    assert "it is inside another block" in text
    assert "before outer" in text
    assert "with a shortcut: 1x1" in text


@pytest.mark.parametrize(
    "arguments", [{"mismatch": "pad"}, {"position": "before"}]
)
def test_bad_arguments(arguments):
    (value,) = arguments.values()
    with pytest.raises(ValueError, match=f"Received: '{value}'"):
        find_structure(plus(), **arguments)
