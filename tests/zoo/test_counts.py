"""Parameters and MACs of the networks, against the papers'."""

import math

import pytest

from keras_gates import stats
from keras_gates import zoo

CONVS = ("Conv2D", "DepthwiseConv2D")


def conv_macs(found):
    return sum(x.macs for x in found.layers if x.type in CONVS)


def norm_outputs(model):
    """The numbers that come out of all batch normalizations."""
    return sum(
        math.prod(layer.output.shape[1:])
        for layer in model.layers
        if type(layer).__name__ == "BatchNormalization"
    )


# Input channels x filters of the 1x1 and 3x3 convolutions (9 taps), by size.
INCEPTION_MACS = (
    784 * (9 * 3 * 96 + 96 * (32 + 9 * 32) + 64 * (32 + 9 * 48))
    + 196 * 9 * 80 * 80
    + 196 * (160 * (112 + 9 * 48) + 160 * (96 + 9 * 64))
    + 196 * (160 * (80 + 9 * 80) + 160 * (48 + 9 * 96))
    + 49 * 9 * 144 * 96
    + 49 * (240 * (176 + 9 * 160) + 336 * (176 + 9 * 160))
    + 3360
)


# Network, trainable parameters, MACs; to the last digit.
EXACT = {
    "mlp": (zoo.mlp, 545_000 + 810, 545_000),
    "mlp, pruned": (lambda: zoo.mlp((100, 60)), 85_000 + 170, 85_000),
    "mlp, normalized": (
        lambda: zoo.mlp(norm=True),
        545_000 + 2 * 800 + 10,
        545_000,
    ),
    "lenet5": (zoo.lenet5, 430_500 + 580, 2_293_000),
    "vgg16": (zoo.vgg16, 14_986_698, 313_196_544 + 512 * 522),
    "vgg16, 512-10": (
        lambda: zoo.vgg16(hidden=()),
        14_724_042,
        313_196_544 + 5_120,
    ),
    "mobilenet": (zoo.mobilenet, 3_217_226, 46_354_432),
    # The paper's number, which knows no gamma; MACs by hand, at 28x28.
    "inception": (
        lambda: zoo.inception(
            input_shape=(28, 28, 3), batch_norm={"scale": False}
        ),
        1_649_402,
        INCEPTION_MACS,
    ),
    # torchvision's numbers.
    "resnet18": (zoo.resnet18, 11_689_512, 1_814_073_344),
    "resnet50": (zoo.resnet50, 25_557_032, 4_089_184_256),
    "vgg19": (zoo.vgg19, 20_035_018, 398_131_200 + 5_120),
    "densenet": (lambda: zoo.densenet(40, 12), 1_019_722, 264_812_928),
}


@pytest.mark.parametrize("case", EXACT)
def test_exact(case):
    build, params, macs = EXACT[case]
    model = build()
    found = stats.count(model)
    assert found.trainable == params
    assert found.macs == macs
    assert found.params == model.count_params()
    assert not found.unknown


# In millions, as He et al. and those who prune their networks state them.
RESNETS = {
    20: (40.551, 0.2697, 40.813, 0.2725),
    32: (68.863, 0.4642, 69.125, 0.4669),
    56: (125.486, 0.8530, 125.748, 0.8558),
    110: (252.888, 1.7280, 253.150, 1.7307),
}


@pytest.mark.parametrize(
    "depth", [20, 32, 56, pytest.param(110, marks=pytest.mark.slow)]
)
def test_resnet(depth):
    macs, params, projected_macs, projected_params = RESNETS[depth]
    for shortcut in ("identity", "pad"):
        found = stats.count(zoo.resnet(depth, shortcut))
        assert round(found.macs / 1e6, 3) == macs
        assert round(found.trainable / 1e6, 4) == params
    found = stats.count(zoo.resnet(depth, "projection"))
    assert round(found.macs / 1e6, 3) == projected_macs
    assert round(found.trainable / 1e6, 4) == projected_params
    plain = stats.count(zoo.plain_resnet(depth))
    assert round(plain.macs / 1e6, 3) == macs


def test_convolutions_of_vgg():
    assert conv_macs(stats.count(zoo.vgg16())) == 313_196_544
    found = conv_macs(stats.count(zoo.vgg19()))
    assert round(found / 1e6, 2) == 398.13
    # Network Slimming states 797M FLOPs, two a MAC.
    assert math.isclose(2 * found, 797e6, rel_tol=2e-3)


# The papers' totals, in FLOPs: two a MAC, and some more for what is not a
# kernel. Within a hundredth.
@pytest.mark.parametrize(
    "build, params, flops",
    [
        (lambda: zoo.preact_resnet(164), 1.70e6, 499e6),
        (lambda: zoo.densenet(40, 12), 1.02e6, 533e6),
    ],
)
def test_network_slimming(build, params, flops):
    found = stats.count(build())
    assert math.isclose(found.trainable, params, rel_tol=5e-3)
    assert math.isclose(2 * found.macs, flops, rel_tol=1e-2)


# ResConv-Prune counts two more for each output of a normalization.
@pytest.mark.parametrize(
    "build, macs, params",
    [(zoo.mobilenet, 47.18, 3.22), (lambda: zoo.resnet(56), 126.55, 0.85)],
)
def test_resconv_prune(build, macs, params):
    model = build()
    found = stats.count(model)
    total = found.macs + 2 * norm_outputs(model)
    assert round(total / 1e6, 2) == macs
    assert round(found.trainable / 1e6, 2) == params


def test_stripe_wise_pruning():
    """It counts no normalization: 11.679M parameters of ResNet-18."""
    found = stats.count(zoo.resnet18())
    kernels = sum(
        x.trainable for x in found.layers if x.type != "BatchNormalization"
    )
    assert kernels == 11_679_912
    assert round(found.macs / 1e9, 4) == 1.8141
