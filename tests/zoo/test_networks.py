"""The networks run, save, follow their options, and refuse the rest."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_gates as kg
from keras_gates import zoo

IMAGE = (32, 32, 3)

SMALL = {
    "mlp": lambda **k: zoo.mlp((20, 10), **k),
    "lenet5": zoo.lenet5,
    "vgg16": zoo.vgg16,
    "vgg19": zoo.vgg19,
    "identity": lambda **k: zoo.resnet(8, "identity", **k),
    "pad": lambda **k: zoo.resnet(8, "pad", **k),
    "projection": lambda **k: zoo.resnet(8, "projection", **k),
    "plain_resnet": lambda **k: zoo.plain_resnet(8, **k),
    "preact_resnet": lambda **k: zoo.preact_resnet(11, **k),
    "densenet": lambda **k: zoo.densenet(10, 4, **k),
    "mobilenet": zoo.mobilenet,
    "inception": lambda **k: zoo.inception(((6, 4), 5, (4, 6)), **k),
    "resnet18": lambda **k: zoo.resnet18((64, 64, 3), 10, **k),
    "resnet50": lambda **k: zoo.resnet50((64, 64, 3), 10, **k),
}


def test_every_network_is_tried():
    shortcuts = {"identity", "pad", "projection"}
    assert {*SMALL} - shortcuts | {"resnet"} == {*zoo.__all__}


def inputs_for(model, batch=2):
    rng = np.random.default_rng(0)
    shape = (batch, *model.input_shape[1:])
    return rng.normal(size=shape).astype("float32")


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


@pytest.mark.parametrize("name", ["mlp", "pad", "densenet", "mobilenet"])
def test_runs_and_survives_saving(name, tmp_path):
    model = SMALL[name]()
    x = inputs_for(model)
    y = outputs(model, x)
    assert y.shape == (2, 10)
    # Softmax, in float32.
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(again, x), y)


@pytest.mark.parametrize("name", SMALL)
def test_stock_layers_and_arguments(name):
    model = SMALL[name](name="mine", classifier_activation=None)
    assert model.name == "mine"
    assert not any(isinstance(x, kg.layers.Gate) for x in model.layers)
    assert all(
        type(x).__module__.startswith("keras.") for x in model.operations
    )
    assert model.layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize(
    "name", sorted({*SMALL} - {"mlp", "vgg19", "resnet50"})
)
def test_channels_first_counts_the_same(name):
    last = SMALL[name]()
    if name == "lenet5":
        first = zoo.lenet5((1, 28, 28), data_format="channels_first")
    elif name == "resnet18":
        first = zoo.resnet18((3, 64, 64), 10, data_format="channels_first")
    else:
        first = SMALL[name](
            input_shape=(3, 32, 32), data_format="channels_first"
        )
    a, b = kg.stats.count(last), kg.stats.count(first)
    assert (a.params, a.macs) == (b.params, b.macs)


@pytest.mark.parametrize("shape", [(28, 28, 1), (784,)])
def test_mlp_takes_images(shape):
    assert zoo.mlp(input_shape=shape).count_params() == 545_810


@pytest.mark.parametrize("build", [zoo.resnet, zoo.mobilenet, zoo.densenet])
def test_open_sizes(build):
    model = build(input_shape=(None, None, 3))
    fixed = kg.stats.count(build())
    assert kg.stats.count(model, IMAGE).macs == fixed.macs


def test_batch_norm_and_l2():
    model = zoo.vgg16(
        l2=0.05,
        dropout=0.5,
        batch_norm={
            "gamma_initializer": keras.initializers.Constant(0.5),
            "gamma_regularizer": kg.regularizers.L1(1e-4),
            "momentum": 0.8,
        },
    )
    norms = [
        x for x in model.layers if isinstance(x, layers.BatchNormalization)
    ]
    assert len(norms) == 13
    assert {(x.epsilon, x.momentum) for x in norms} == {(1e-5, 0.8)}
    gammas = [keras.ops.convert_to_numpy(x.gamma) for x in norms]
    assert {float(gamma[0]) for gamma in gammas} == {0.5}
    # 13 gammas, 13 + 2 kernels.
    assert len(model.losses) == 28
    assert model.get_layer("dropout").rate == 0.5


def test_norms_as_in_the_papers():
    norm = zoo.resnet(8).get_layer("conv1_bn")
    assert (norm.epsilon, norm.momentum) == (1e-5, 0.9)


def test_initial_kernels():
    kernel = zoo.vgg16().get_layer("conv5_1").kernel
    # He: 2 over the fan-out; 2.4M draws, so that 1 % is ten deviations.
    spread = keras.ops.convert_to_numpy(kernel).std()
    np.testing.assert_allclose(spread, (2 / (9 * 512)) ** 0.5, rtol=1e-2)
    # No two layers start alike.
    twin = zoo.vgg16().get_layer("conv5_2").kernel
    assert not np.allclose(*map(keras.ops.convert_to_numpy, (kernel, twin)))


def test_pad_shortcut_is_the_papers():
    """Option A: every second pixel, and zeros for the new channels."""
    model = zoo.resnet(8, "pad")
    add = model.get_layer("stage2_block1_add")
    shortcut = keras.Model(model.inputs[0], add.input[0])
    trunk = keras.Model(
        model.inputs[0], model.get_layer("stage1_block1_relu").output
    )
    x = inputs_for(model)
    before, after = outputs(trunk, x), outputs(shortcut, x)
    np.testing.assert_array_equal(after[..., :16], before[:, ::2, ::2])
    assert not after[..., 16:].any()
    assert after.shape[-1] == 32


@pytest.mark.parametrize(
    "build, error, match",
    [
        (lambda: zoo.resnet(21), ValueError, r"6 n \+ 2"),
        (lambda: zoo.plain_resnet(2), ValueError, r"6 n \+ 2"),
        (lambda: zoo.preact_resnet(21), ValueError, r"9 n \+ 2"),
        (lambda: zoo.densenet(41), ValueError, r"3 n \+ 4"),
        (lambda: zoo.resnet(20, "zero"), ValueError, "Unknown shortcut"),
        (lambda: zoo.vgg16((28, 28, 1)), ValueError, "at least 32"),
        (lambda: zoo.vgg19(l1=1.0), TypeError, "l1"),
    ],
)
def test_refused(build, error, match):
    with pytest.raises(error, match=match):
        build()


@pytest.mark.slow
def test_very_deep():
    assert kg.stats.count(zoo.preact_resnet(1001)).trainable == 10_327_706
