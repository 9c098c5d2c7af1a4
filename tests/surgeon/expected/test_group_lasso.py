"""Group lasso over coupled channels, against sums by hand."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_gates as kg


def numpy_of(x):
    return np.asarray(keras.ops.convert_to_numpy(x), "float64")


def value(penalty):
    return float(numpy_of(penalty()))


def expected(*units):
    """The penalty of some units, each a list of arrays."""
    total = 0.0
    for arrays in units:
        flat = np.concatenate([np.ravel(a) for a in arrays])
        total += np.sqrt(flat.size) * np.linalg.norm(flat)
    return total


def residual():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="stem")(x)
    y = layers.Conv2D(5, 3, padding="same", name="first")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Conv2D(4, 1, name="second")(layers.ReLU()(y))
    x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def weights(model, name):
    return [numpy_of(w) for w in model.get_layer(name).trainable_weights]


def test_coupled_channels_are_taken_together():
    model = residual()
    penalty = kg.regularizers.GroupLasso(1.0).bind(model)
    (stem, b0), (first, b1), (gamma, beta), (second, b2), (head, _) = (
        weights(model, n) for n in ("stem", "first", "norm", "second", "head")
    )
    moving = [
        numpy_of(w) for w in model.get_layer("norm").non_trainable_weights
    ]
    assert len(moving) == 2  # they are not weights that a penalty may pull
    stream = [
        [
            *(stem[..., c], b0[c], first[:, :, c]),
            *(second[..., c], b2[c], head[c]),
        ]
        for c in range(4)
    ]
    inside = [
        [first[..., c], b1[c], gamma[c], beta[c], second[:, :, c]]
        for c in range(5)
    ]
    assert value(penalty) == pytest.approx(expected(*stream, *inside), rel=1e-5)


def test_recurrent_units_have_a_column_in_each_gate():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5, 3)), layers.LSTM(4, name="lstm"), layers.Dense(2)]
    )
    penalty = kg.regularizers.GroupLasso(1.0).bind(model)
    kernel, recurrent, bias = weights(model, "lstm")
    head, _ = weights(model, model.layers[-1].name)
    units = []
    for c in range(4):
        columns = [
            kernel.reshape(3, 4, 4)[..., c],
            recurrent.reshape(4, 4, 4)[..., c],
            recurrent[c],
            bias.reshape(4, 4)[:, c],
        ]
        units.append([*columns, head[c]])
    assert value(penalty) == pytest.approx(expected(*units), rel=1e-5)


def test_training_puts_whole_channels_to_nothing():
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(16, activation="relu")
    model = keras.Sequential([keras.Input((4,)), hidden, layers.Dense(1)])
    kg.regularizers.GroupLasso(3e-3).bind(model)
    x = np.random.default_rng(0).normal(size=(256, 4)).astype("float32")
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, np.abs(x[:, 0]), epochs=30, batch_size=32, verbose=0)
    columns = numpy_of(hidden.kernel)
    rows = numpy_of(model.layers[-1].kernel)[:, 0]
    norms = np.sqrt((columns**2).sum(axis=0) + rows**2)
    small = norms < 0.02 * norms.max()
    assert 4 <= small.sum() <= 14


def test_a_channel_of_zeros_has_a_gradient():
    hidden = layers.Dense(3, kernel_initializer="zeros")
    model = keras.Sequential(
        [keras.Input((2,)), hidden, layers.Dense(1, name="head")]
    )
    model.get_layer("head").kernel.assign(np.zeros((3, 1)))
    kg.regularizers.GroupLasso(1.0).bind(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(np.ones((2, 2)), np.ones((2, 1)))
    assert all(np.isfinite(numpy_of(w)).all() for w in model.weights)


def test_config_and_copies():
    penalty = kg.regularizers.GroupLasso(0.5)
    again = keras.regularizers.deserialize(
        keras.regularizers.serialize(penalty)
    )
    assert again.strength == 0.5
    with pytest.raises(RuntimeError, match="bind"):
        again()


def test_nothing_to_penalize():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="no channel"):
        kg.regularizers.GroupLasso(1.0).bind(model)


def test_all_weights_are_taken():
    l2 = keras.regularizers.L2(1e-3)
    options = {"kernel_regularizer": l2, "use_bias": False}
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, **options)]
        + [layers.Dense(2, **options)]
    )
    with pytest.raises(ValueError, match="regularizer already"):
        kg.regularizers.GroupLasso(1.0).bind(model)
