"""Networks of keras.applications: pruned and compared, in four ways.

All of them, on each backend: benchmarks/coverage.py and docs/coverage-log.md.
"""

import functools
import zlib

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.build.rebuild import rebuild
from keras_gates.surgeon.solving.solve import solve
from tests import helpers
from tests.surgeon import gated_copies

pytestmark = pytest.mark.once

THRESHOLD = 0.5
# Network, and the layer up to which it is taken: its first blocks hold what
# the others repeat, and JAX compiles each operation for each shape.
CUT = {
    "ConvNeXtTiny": "convnext_tiny_downsampling_block_0",
    "DenseNet121": "pool2_conv",
    "EfficientNetB0": "block3b_add",
    "EfficientNetV2B0": "block4b_add",
    "InceptionV3": "mixed1",
    "MobileNet": "conv_pw_5_relu",
    "MobileNetV2": "block_5_add",
    "MobileNetV3Small": "expanded_conv_4_add",
    "ResNet50": "conv3_block2_out",
    "ResNet50V2": "conv3_block2_out",
    "VGG16": "block3_pool",
    "Xception": "block4_pool",
}
# Those of which no other repeats the kind of block; the rest is slow.
QUICK = ("ConvNeXtTiny", "DenseNet121", "MobileNetV2", "ResNet50V2")
FIRST_BLOCKS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
    for name in CUT
]
# Those of which all is taken, too.
WHOLE = [name for name in CUT if name not in ("InceptionV3", "VGG16")]


@functools.cache
def network(name, until=None):
    """A network with disturbed weights, and ten outputs."""
    size = 75 if name in ("InceptionV3", "Xception") else 32
    options = {"weights": None, "include_top": False}
    keras.utils.set_random_seed(0)
    function = getattr(keras.applications, name)
    model = function(input_shape=(size, size, 3), **options)
    x = model.get_layer(until).output if until else model.output
    x = L.Dense(10, name="logits")(L.GlobalAveragePooling2D()(x))
    model = keras.Model(model.input, x)
    gated_copies.disturb(model, rng_for(name))
    return model


def rng_for(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def gated(model, case, rng):
    """The network with gates, some of them closed at exactly 0."""
    if case == "branches":
        found = gated_copies.with_branch_gates(model)
        gated_copies.close_branches(found, rng)
        gated_copies.settle(found, rng)
        return found
    types = {"after": gated_copies.AFTER, "before": gated_copies.BEFORE}
    found = gated_copies.with_filter_gates(model, types[case])
    gated_copies.close_groups(found, rng)
    gated_copies.settle(found, rng)
    return found


def check(name, case, until=None):
    rng = rng_for(name + case)
    model = gated(network(name, until), case, rng)
    if not helpers.gates_of(model):
        pytest.skip(f"{name} has nothing to close here")
    x = gated_copies.inputs(model, gated_copies.BATCH, rng)
    plan = kg.surgeon.plan(model, THRESHOLD)
    pruned = plan.apply()
    helpers.assert_same(model, pruned, x)
    assert plan.params == (model.count_params(), pruned.count_params())
    assert pruned.count_params() < model.count_params()


@pytest.mark.parametrize("case", ["after", "before", "branches"])
@pytest.mark.parametrize("name", FIRST_BLOCKS)
def test_first_blocks_are_pruned_exactly(name, case):
    check(name, case, CUT[name])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["after", "before", "branches"])
@pytest.mark.parametrize("name", WHOLE)
def test_networks_are_pruned_exactly(name, case):
    check(name, case)


@pytest.mark.parametrize("name", FIRST_BLOCKS)
def test_nothing_closed_gives_the_same_network(name):
    model = network(name, CUT[name])
    graph = gr.read(model)
    solution = solve(graph, {})
    same = rebuild(graph, solution.decision, solution.folds)
    assert same.get_config() == model.get_config()
    for new, old in zip(same.weights, model.weights, strict=True):
        np.testing.assert_array_equal(*map(helpers.numpy_of, (new, old)))


# "before" leaves constants before zero borders. What `exact=False` would
# leave is smaller by the channels into which they merge, one for each tensor.
@pytest.mark.parametrize("name", ["ResNet50", "DenseNet121", "MobileNetV2"])
def test_exactness_costs_a_channel_a_tensor(name):
    model = gated(network(name, CUT[name]), "before", rng_for(name))
    exact = kg.surgeon.plan(model, THRESHOLD)
    other = kg.surgeon.plan(model, THRESHOLD, exact=False)
    for a, b in zip(exact.rows, other.rows, strict=True):
        assert (a.after or 0) - (b.after or 0) <= 3, a.layer
