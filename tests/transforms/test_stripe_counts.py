"""The counts of a published network: a table of the paper's supplement.

Meng et al., supplement of Pruning Filter in Filter, table 2: what is left of
ResNet-18 for ImageNet.
"""

import keras
import numpy as np
import pytest

import keras_gates as kg

pytestmark = pytest.mark.slow

# The stripes of each layer. The widths are those of the normalizations in the
# blocks, where filters without stripes are gone.
STEM = 324
BLOCKS = [
    (1, 1, 102, 57, 164),
    (1, 2, 175, 62, 300),
    (2, 1, 475, 119, 636),
    (2, 2, 662, 128, 648),
    (3, 1, 995, 252, 1502),
    (3, 2, 1148, 256, 944),
    (4, 1, 1304, 498, 2448),
    (4, 2, 3111, 512, 2927),
]


def skeleton(layer, count, width):
    """So many stripes, in the first filters: one each, then the others."""
    positions = np.prod(layer.kernel_size)
    rng = np.random.default_rng(0)
    factors = np.zeros((positions, layer.filters))
    at = rng.integers(0, positions, width)
    factors[at, np.arange(width)] = 1
    free = np.argwhere(factors[:, :width] == 0)
    more = free[rng.permutation(len(free))[: count - width]]
    factors[tuple(more.T)] = 1
    layer.skeleton.assign(factors.reshape(*layer.kernel_size, -1))


@pytest.fixture(scope="module")
def models():
    """ResNet-18, and what is left of it."""
    dense = kg.zoo.resnet18()
    model = kg.to_stripconv(dense)
    stem = model.get_layer("conv1")
    skeleton(stem, STEM, min(STEM, stem.filters))
    for stage, block, first, width, second in BLOCKS:
        name = f"stage{stage}_block{block}_conv"
        for number, count in ((1, first), (2, second)):
            layer = model.get_layer(f"{name}{number}")
            filters = width if number == 1 else min(count, layer.filters)
            skeleton(layer, count, filters)
        # The authors' code zeroes what normalizes an empty filter.
        norm = model.get_layer(f"{name}1_bn")
        open_ = np.arange(norm.gamma.shape[0]) < width
        norm.gamma.assign(1.0 * open_)
    return dense, kg.surgeon.prune(model, {"stripe": 0.5})


def test_each_layer_is_that_of_the_table(models):
    _, small = models
    assert small.get_layer("conv1").stripe_kernel.shape == (324, 3)
    inside = 64
    for stage, block, first, width, second in BLOCKS:
        name = f"stage{stage}_block{block}_conv"
        kernel = small.get_layer(f"{name}1").stripe_kernel
        assert tuple(kernel.shape) == (first, inside)
        kernel = small.get_layer(f"{name}2").stripe_kernel
        assert tuple(kernel.shape) == (second, width)
        inside = 32 * 2**stage


def test_multiply_adds_of_convolutions(models):
    before, after = (convolutions(model) for model in models)
    assert before == pytest.approx(1.8136e9, rel=1e-4)
    # By hand: the table's stripes, and dense 1x1 projections.
    by_hand = 324 * 3 * 112**2
    inside = 64
    for stage, _, first, width, second in BLOCKS:
        size = (112 // 2**stage) ** 2
        by_hand += (first * inside + second * width) * size
        if inside != 32 * 2**stage:
            by_hand += inside * 32 * 2**stage * size
        inside = 32 * 2**stage
    assert after == by_hand
    # The classifier included, as the paper counts.
    total = [kg.stats.count(model).macs for model in models]
    assert total[0] == 1_814_073_344
    assert total[1] == pytest.approx(0.8215e9, abs=5e4)
    assert 1 - total[1] / total[0] == pytest.approx(0.5471, abs=5e-5)


def convolutions(model):
    rows = kg.stats.count(model).layers
    return sum(row.macs for row in rows if "Conv" in row.type)


def test_parameters(models):
    # Kernels alone: neither normalizations nor the biases of the classifier.
    sizes = []
    for model in models:
        rows = kg.stats.count(model).layers
        weighty = [x for x in rows if "Normalization" not in x.type]
        sizes.append(sum(row.params for row in weighty) - 1000)
    assert sizes == [11_678_912, 6_690_244]


def test_the_example_in_the_text(models):
    layer = models[1].get_layer("stage1_block2_conv2")
    kept = layer.stripe_kernel.shape[0] / (9 * 64)
    assert 1 - kept == 1 - 300 / 576
    shares = kg.stats.stripe_shares(models[1])["stage1_block2_conv2"]
    assert shares.mean() == pytest.approx(300 / 576)


def test_the_dense_form_has_all_multiply_adds_again(models):
    # But for those of channels that are gone: zeros are multiplied, too.
    dense = kg.to_dense(models[1])
    assert all(type(x) is not kg.StripConv for x in dense.layers)
    assert kg.stats.count(dense).macs > 1.7e9
    assert isinstance(dense.get_layer("conv1"), keras.layers.Conv2D)
