"""Graphs that need no trial, since all groups can be removed."""

import keras
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.solving import removable
from keras_gates.surgeon.solving.plain import reads_plainly
from tests.surgeon import random_graphs


def sequential(*layers, shape=(8,)):
    return keras.Sequential([keras.Input(shape), *layers])


def shared():
    layer = L.Dense(8)
    return sequential(layer, layer)


def trained():
    x = keras.Input((8,))
    y = L.BatchNormalization()(L.Dense(4)(x), training=True)
    return keras.Model(x, L.Dense(2)(y))


def nested():
    return sequential(L.Dense(4), sequential(L.Dense(3), shape=(4,)))


def attention():
    x = keras.Input((5, 8))
    y = L.Dense(4)(x)
    return keras.Model(x, L.MultiHeadAttention(2, 4)(y, y))


def convnet():
    return sequential(
        L.Conv2D(4, 3, padding="same"),
        L.BatchNormalization(),
        L.ReLU(),
        L.DepthwiseConv2D(3),
        L.MaxPooling2D(),
        L.Conv2D(6, 1, activation="relu"),
        L.Flatten(),
        L.Dense(5),
        L.Dense(2, activation="softmax"),
        shape=(8, 8, 3),
    )


def normalized():
    return sequential(L.Dense(4), L.LayerNormalization(), L.Dense(2))


SEEDS = range(16)
PLAIN = [
    convnet,
    kg.zoo.lenet5,
    lambda: kg.zoo.resnet(8),
    lambda: kg.zoo.densenet(7, 4),
]
OTHERS = {
    "reads its own state": lambda: sequential(
        L.LSTM(4), L.Dense(2), shape=(5, 3)
    ),
    "reads several tensors": attention,
    "is called twice": shared,
    "is in a model inside": nested,
    "is in training": trained,
    "has a gate": lambda: sequential(L.Dense(4), kg.FilterGate(), L.Dense(2)),
    "has no rule": lambda: sequential(
        L.Dense(4), L.Lambda(lambda x: x), L.Dense(2)
    ),
    "passes on a mask": lambda: sequential(
        L.Masking(), L.Dense(4), L.Dense(2), shape=(5, 3)
    ),
}


def told(model, exact=True):
    found = groups.find(expand.read(model), exact)
    return bool(found.groups) and reads_plainly(found.labelling, exact)


def never_go(model, exact):
    """The groups that a trial says remove nothing."""
    graph = expand.read(model)
    groups.insert(graph, groups.find(graph, exact))
    vain = removable.never(graph, graph.groups, exact=exact, wholly=True)
    return [name for name, mask in vain.items() if mask.all()]


@pytest.mark.parametrize("build", PLAIN)
def test_kernels_take_zeros_for_what_they_are(build):
    assert told(build())


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_no_telling_where_a_layer(build):
    assert not told(build())


def test_what_is_removed_approximately_is_tried():
    """A normalization over channels reads them loosely, or is written out."""
    assert not told(sequential(L.Dense(3), L.Dense(4), L.LayerNormalization()))
    assert not told(normalized(), exact=False)


@pytest.mark.parametrize("exact", [True, False])
def test_a_trial_would_say_the_same(exact):
    builds = [
        lambda s=s: random_graphs.build(s, gated=False).model for s in SEEDS
    ]
    plain = [
        model
        for model in (build() for build in [*PLAIN, *builds])
        if told(model, exact)
    ]
    # Else it would prove little.
    assert len(plain) >= len(PLAIN) + 4
    assert not any(never_go(model, exact) for model in plain)
