"""Channels along an axis that a Dense does not mix, as in token mixers.

The truth is the user's own model with what is closed at zero.
"""

import keras
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon.passes import worth
from tests.surgeon.rules.test_through_norms import WIDTH
from tests.surgeon.rules.test_through_norms import check
from tests.surgeon.rules.test_through_norms import closed
from tests.surgeon.rules.test_through_norms import drawn
from tests.surgeon.rules.test_through_norms import half
from tests.surgeon.rules.test_through_norms import samples


@pytest.fixture(autouse=True)
def free(monkeypatch):
    """The models here are so small that writing out would not pay."""
    monkeypatch.setattr(worth, "WRITING_OUT", 0)


def swapped(x, by):
    if by == "permute":
        return L.Permute((2, 1))(x)
    return ops.transpose(x, (0, 2, 1))


def mixer(gate=lambda x: x, by="permute", norm=L.LayerNormalization, **mixing):
    inputs = keras.Input((5, 6))
    x = gate(L.Dense(WIDTH, name="made")(inputs))
    for _ in range(2):
        y = swapped(norm()(x), by)
        y = L.Dense(5, **mixing)(L.Dense(10, **mixing)(y))
        x = gate(L.Add()([x, swapped(y, by)]))
        y = L.Dense(24, activation="gelu")(norm()(x))
        x = gate(L.Add()([x, L.Dense(WIDTH)(y)]))
    head = L.Dense(3)(L.GlobalAveragePooling1D()(norm()(x)))
    return drawn(keras.Model(inputs, head))


def gmlp():
    """A gate over space: half of the channels are mixed along tokens."""
    inputs = keras.Input((5, 6))
    x = L.Dense(WIDTH, name="made")(inputs)
    for _ in range(2):
        y = L.Dense(16, activation="gelu")(L.LayerNormalization()(x))
        u, v = ops.split(y, 2, axis=-1)
        v = L.Permute((2, 1))(L.LayerNormalization()(v))
        v = L.Permute((2, 1))(L.Dense(5)(v))
        x = L.Add()([x, L.Dense(WIDTH)(L.Multiply()([u, v]))])
    head = L.Dense(3)(L.GlobalAveragePooling1D()(x))
    return drawn(keras.Model(inputs, head))


MIXERS = {
    "permute": lambda: mixer(activation="gelu"),
    "transpose": lambda: mixer(by="transpose", activation="relu"),
    "no bias": lambda: mixer(activation="gelu", use_bias=False),
    "groups": lambda: mixer(norm=lambda: L.GroupNormalization(3)),
    "root mean square": lambda: mixer(norm=L.RMSNormalization),
    "gMLP": gmlp,
}


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_loses_channels_by_scores(name):
    model = MIXERS[name]()
    for width in (6, 3):
        model = check(
            kg.surgeon.plan(model, 0.5, scores=half(model)), samples()
        )
        assert model.get_layer("made").units == width


def test_a_mixer_loses_channels_by_gates():
    gate = kg.FilterGate(name="gate")
    model = closed(mixer(gate, activation="gelu"))
    small = check(kg.surgeon.plan(model, 0.5), samples())
    # One of six carries the others.
    assert small.get_layer("made").units == WIDTH - 5


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_bias_over_tokens_makes_constants_of_closed_channels(use_bias):
    """They are as many as there are tokens: such channels stay."""
    inputs = keras.Input((5, 6))
    x = kg.FilterGate(name="gate")(L.Dense(WIDTH, name="made")(inputs))
    x = L.Dense(5, use_bias=use_bias, activation="relu")(L.Permute((2, 1))(x))
    outputs = [L.Dense(3)(L.Permute((2, 1))(x)), L.Dense(2)(L.Flatten()(x))]
    model = closed(drawn(keras.Model(inputs, outputs)))
    small = check(kg.surgeon.plan(model, 0.5), samples())
    assert small.get_layer("made").units == (WIDTH if use_bias else 6)


def shared(alike):
    dense = L.Dense(WIDTH, activation="relu", name="shared")
    inputs = keras.Input((WIDTH, 6))
    x = L.Dense(WIDTH, name="made")(inputs)
    x = dense(L.Permute((2, 1))(x))
    x = dense(x) if alike else dense(L.Permute((2, 1))(x))
    return drawn(keras.Model(inputs, L.Dense(3)(L.Permute((2, 1))(x))))


def test_a_layer_that_mixes_at_two_places():
    model = shared(alike=True)
    plan = kg.surgeon.plan(model, 0.5, scores=half(model))
    small = check(plan, samples((WIDTH, 6)))
    assert small.get_layer("made").units == WIDTH // 2
    assert small.get_layer("shared").units == WIDTH


def test_a_layer_that_mixes_and_reads_is_kept_whole():
    with pytest.raises(ValueError, match="at some of its calls only"):
        half(shared(alike=False))
