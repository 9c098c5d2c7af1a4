"""`to_stripconv` against the model as it was."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers


def model_of(*stack, shape=(8, 8, 3)):
    return helpers.randomize(keras.Sequential([keras.Input(shape), *stack]))


def conv(filters, kernel_size, **options):
    # JAX compiles random initial weights for seconds, for each shape.
    options = {"kernel_initializer": "zeros", **options}
    return L.Conv2D(filters, kernel_size, **options)


def network():
    inputs = keras.Input((8, 8, 3))
    x = conv(4, 3, padding="same", name="first")(inputs)
    x = L.BatchNormalization()(x)
    shared = conv(4, (3, 2), padding="same", use_bias=False, name="shared")
    x = shared(L.ReLU()(shared(x)))
    y = conv(4, 1, name="point")(x)
    y = conv(4, 3, groups=2, padding="same", name="groups")(y)
    inner = keras.Input((8, 8, 4))
    block = keras.Model(inner, conv(2, 3, strides=2, name="in")(inner))
    return helpers.randomize(keras.Model(inputs, block(L.Add()([x, y]))))


def test_the_function_is_the_same():
    model = network()
    model.get_layer("first").trainable = False
    striped = kg.to_stripconv(model)
    x = helpers.inputs_for(model)
    # The kernel is multiplied by exactly 1.
    for got, expected in zip(
        helpers.run(striped, x), helpers.run(model, x), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    types = {x.name: type(x) for x in helpers.layers_of(striped)}
    turned = [name for name, cls in types.items() if cls is kg.StripConv]
    assert sorted(turned) == ["first", "in", "shared"]
    assert not striped.get_layer("first").trainable
    assert not any(
        isinstance(layer, kg.StripConv) for layer in helpers.layers_of(model)
    )


def test_options_and_names():
    model = network()
    striped = kg.to_stripconv(
        model,
        0.5,
        skeleton_constraint=kg.constraints.HardThreshold(0.1),
        include=["first", "point"],
    )
    for name in ("first", "point"):
        layer = striped.get_layer(name)
        assert layer.skeleton_regularizer.l1 == 0.5
        assert layer.skeleton_constraint.delta == 0.1
    assert type(striped.get_layer("shared")) is L.Conv2D
    # The penalty of 3 * 3 * 4 and of 4 factors of 1.
    assert float(helpers.numpy_of(sum(striped.losses))) == pytest.approx(
        0.5 * 40
    )


def test_a_sequential_stays_one():
    model = model_of(conv(4, 3), L.ReLU())
    assert isinstance(kg.to_stripconv(model), keras.Sequential)


@pytest.mark.parametrize(
    "options, turned",
    [
        ({"include": "p*"}, ["point"]),
        ({"exclude": "s*"}, ["first", "in"]),
        (
            {"include": L.Conv2D, "exclude": ["in"]},
            ["first", "point", "shared"],
        ),
        ({"exclude": L.Conv2D, "include": None}, None),
    ],
)
def test_names_choose(options, turned):
    model = network()
    if turned is None:
        with pytest.raises(ValueError, match="finds no layer with stripes"):
            kg.to_stripconv(model, **options)
        return
    striped = kg.to_stripconv(model, **options)
    layers = helpers.layers_of(striped)
    found = [x.name for x in layers if isinstance(x, kg.StripConv)]
    assert sorted(found) == turned


def test_layers_choose():
    model = network()
    striped = kg.to_stripconv(model, include=model.get_layer("first"))
    layers = helpers.layers_of(striped)
    found = [x.name for x in layers if isinstance(x, kg.StripConv)]
    assert found == ["first"]


BAD = {
    "groups": ("groups", "'groups', which fits only.*without groups"),
    "no convolution": (["first", L.Add], "Add'>, which fits only.*no keras"),
    "unknown": ("frist", "'frist', which fits nothing.*mean 'first'"),
}


@pytest.mark.parametrize("case", BAD)
def test_layers_without_stripes_are_refused(case):
    layers, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        kg.to_stripconv(network(), include=layers)


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"layers": "first"}, TypeError, "Pass `include`"),
        ({"strength": kg.regularizers.L1(0.1)}, TypeError, "`skeleton_reg"),
        ({"skeleton_regularizer": 0.1}, TypeError, "Pass strength=0.1"),
        ({"strength": -1}, ValueError, "`strength`"),
        ({"include": 3}, TypeError, "`include` takes layer names"),
    ],
)
def test_bad_arguments(options, error, match):
    with pytest.raises(error, match=match):
        kg.to_stripconv(network(), **options)


def test_a_model_without_stripes_is_refused():
    with pytest.raises(ValueError, match="no layer with stripes"):
        kg.to_stripconv(model_of(conv(4, 1)))
