"""Small gated models for the tests of plans, results and refusals.

Each function builds a new model and draws its weights and gate factors, as
training could have left them: see `helpers.randomize`.
"""

import keras
import numpy as np
from keras import layers as L

import keras_gates as kg
from tests import helpers


def chain(**options):
    """Two dense layers with a gate between, in a functional model."""
    inputs = keras.Input((5,), name="features")
    x = L.Dense(8, activation="relu", name="hidden")(inputs)
    x = kg.FilterGate(name="gate")(x)
    x = L.Dense(3, name="out")(x)
    return helpers.randomize(keras.Model(inputs, x, name="chain"), **options)


def sequential(**options):
    """The same as `keras.Sequential`, with a dropout."""
    model = keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(8, activation="relu", name="hidden"),
            kg.FilterGate(name="gate"),
            L.Dropout(0.3, seed=3, name="dropout"),
            L.Dense(3, name="out"),
        ],
        name="sequential",
    )
    return helpers.randomize(model, **options)


def scalar_chain(**options):
    """A gate on a whole tensor, without a shortcut around it."""
    inputs = keras.Input((5,))
    x = L.Dense(8, name="hidden")(inputs)
    x = kg.LayerGate(name="layer_gate")(x)
    x = L.Dense(3, name="out")(x)
    return helpers.randomize(keras.Model(inputs, x, name="scalar"), **options)


def convnet(data_format="channels_last", **options):
    """Gates before BN: closed channels are constants, not zeros."""
    last = data_format == "channels_last"
    axis = -1 if last else 1
    layout = {"data_format": data_format}
    inputs = keras.Input((8, 8, 3) if last else (3, 8, 8), name="image")
    x = L.Conv2D(8, 3, padding="same", name="conv1", **layout)(inputs)
    x = kg.FilterGate(axis, name="gate1")(x)
    x = L.BatchNormalization(axis, name="norm")(x)
    x = L.ReLU(name="relu")(x)
    x = L.Conv2D(6, 3, padding="same", name="conv2", **layout)(x)
    x = kg.FilterGate(axis, name="gate2")(x)
    x = L.GlobalAveragePooling2D(name="pool", **layout)(x)
    x = L.Dense(3, name="out")(x)
    return helpers.randomize(keras.Model(inputs, x, name="convnet"), **options)


def residual(**options):
    """Two residual blocks: one stream, gated branches."""
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(6, 3, padding="same", name="stem")(inputs)
    for number in (1, 2):
        y = L.Conv2D(8, 1, activation="relu", name=f"a{number}")(x)
        y = kg.FilterGate(name=f"inner{number}")(y)
        y = L.Conv2D(6, 3, padding="same", name=f"b{number}")(y)
        y = kg.FilterGate(name=f"stream{number}")(y)
        y = kg.BlockGate(name=f"block{number}")(y)
        x = L.Add(name=f"add{number}")([x, y])
    x = L.GlobalAveragePooling2D(name="pool")(x)
    x = L.Dense(3, name="out")(x)
    return helpers.randomize(keras.Model(inputs, x, name="residual"), **options)


def normalized(**options):
    """A layer normalization after a gate reads all channels together."""
    inputs = keras.Input((5,))
    x = L.Dense(8, name="hidden")(inputs)
    x = kg.FilterGate(name="gate")(x)
    x = L.LayerNormalization(name="norm")(x)
    x = L.Dense(3, name="out")(x)
    model = keras.Model(inputs, x, name="normalized")
    return helpers.randomize(model, **options)


def gated_input(**options):
    """A gate on the model's own input: the pruned model selects columns."""
    inputs = keras.Input((6,), name="features")
    x = kg.FilterGate(name="gate")(inputs)
    x = L.Dense(8, activation="tanh", name="hidden")(x)
    x = L.Dense(3, name="out")(x)
    return helpers.randomize(keras.Model(inputs, x, name="gather"), **options)


def rescaled(**options):
    """Two readers and no producer that could take the factors."""
    inputs = keras.Input((5,), name="features")
    x = L.Dense(8, activation="tanh", name="hidden")(inputs)
    x = kg.FilterGate(name="gate")(x)
    left = L.Activation("sigmoid", name="sigmoid")(x)
    x = L.Concatenate(name="concatenate")([left, x])
    x = L.Dense(3, name="out")(x)
    return helpers.randomize(keras.Model(inputs, x, name="rescaled"), **options)


def siamese(**options):
    """A nested model with gates inside, called on two inputs."""
    tower = keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(8, activation="relu", name="hidden"),
            kg.FilterGate(name="gate"),
            L.Dense(4, name="code"),
        ],
        name="tower",
    )
    inputs = {n: keras.Input((5,), name=n) for n in ("left", "right")}
    left, right = tower(inputs["left"]), tower(inputs["right"])
    outputs = {
        "distance": L.Subtract(name="distance")([left, right]),
        "left_code": left,
    }
    model = keras.Model(inputs, outputs, name="siamese")
    return helpers.randomize(model, **options)


def shared(**options):
    """One layer and its gate at two call sites, and an inner output."""
    inputs = [keras.Input((5,), name=n) for n in ("first", "second")]
    hidden = L.Dense(8, activation="relu", name="hidden")
    gate = kg.FilterGate(name="gate")
    first, second = (gate(hidden(x)) for x in inputs)
    total = L.Add(name="total")([first, second])
    total = L.Dense(4, name="head")(total)
    outputs = [total, L.Dense(2, name="out")(total)]
    model = keras.Model(inputs, outputs, name="shared")
    return helpers.randomize(model, **options)


def gated_output(**options):
    """A gate right before the output."""
    inputs = keras.Input((5,))
    x = L.Dense(4, activation="tanh", name="hidden")(inputs)
    x = kg.FilterGate(name="gate")(x)
    return helpers.randomize(keras.Model(inputs, x, name="output"), **options)


def sequence(**options):
    """A recurrent layer, and a product of two branches of what it says."""
    inputs = keras.Input((7, 4))
    x = L.Conv1D(8, 3, padding="same", activation="relu", name="conv")(inputs)
    x = kg.FilterGate(name="gate")(x)
    x = L.LSTM(5, name="lstm")(x)
    squeeze = L.Dense(5, activation="sigmoid", name="squeeze")(x)
    x = L.Multiply(name="multiply")([x, kg.LayerGate(name="whole")(squeeze)])
    x = L.Dense(3, name="out")(x)
    return helpers.randomize(keras.Model(inputs, x, name="sequence"), **options)


@keras.saving.register_keras_serializable(package="keras_gates_tests")
class Unknown(helpers.Opaque):
    """A layer without a rule."""

    def function(self, x):
        return keras.ops.flip(x, axis=-1)

    def compute_output_shape(self, shape):
        return shape


def set_gates(model, **factors):
    """Assign the factors of gates, by the names of the layers."""
    gates = {gate.name: gate for gate in helpers.gates_of(model)}
    for name, values in factors.items():
        gates[name].factor.assign(values)
    return model


def half(count, closed=None):
    """Factors of which the first are closed, half of them by default."""
    closed = count // 2 if closed is None else closed
    return [0.1] * closed + [1.0] * (count - closed)


def barred():
    """A layer without a rule after the gate."""
    inputs = keras.Input((5,))
    x = L.Dense(8, name="hidden")(inputs)
    x = kg.FilterGate(name="gate")(x)
    x = Unknown(name="strange")(x)
    model = keras.Model(inputs, L.Dense(3, name="out")(x))
    return set_gates(helpers.randomize(model), gate=half(8))


def normalized_twice():
    """Gates before a layer normalization and after it."""
    inputs = keras.Input((5,))
    x = L.Dense(8, name="hidden")(inputs)
    x = kg.FilterGate(name="before")(x)
    x = L.LayerNormalization(name="norm")(x)
    x = kg.FilterGate(name="behind")(x)
    model = keras.Model(inputs, L.Dense(3, name="out")(x))
    factors = half(8)
    helpers.randomize(model)
    return set_gates(model, before=factors, behind=factors)


def constants():
    """`convnet` with half closed, and no constant zero after the ReLU."""
    model = set_gates(convnet(), gate1=half(8), gate2=half(6))
    norm = model.get_layer("norm")
    norm.moving_mean.assign([0.0] * 8)
    norm.beta.assign([0.5, 0.7, 0.4, 0.9] * 2)
    return model


def dropped_branch():
    """The first branch is closed, the second is open."""
    model = set_gates(residual(), block1=0.0, block2=1.0)
    return set_gates(model, inner2=half(8), stream2=half(6))


MODELS = [
    chain,
    sequential,
    convnet,
    residual,
    normalized,
    gated_input,
    rescaled,
    siamese,
    shared,
    gated_output,
    sequence,
]


def same_weights(model, other):
    pairs = zip(model.weights, other.weights, strict=True)
    return all(
        a.name == b.name
        and np.array_equal(helpers.numpy_of(a), helpers.numpy_of(b))
        for a, b in pairs
    )
