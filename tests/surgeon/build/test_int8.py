"""Keras' own quantization works on a pruned model."""

import numpy as np
import pytest

from keras_gates.surgeon import prune
from tests import helpers
from tests.surgeon import small_models as sm


# Keras says which layers, such as inputs, have nothing to quantise.
@pytest.mark.filterwarnings("ignore:Layer .* does not have a .quantize.")
@pytest.mark.parametrize("make", [sm.chain, sm.sequential, sm.gated_input])
def test_int8_after_pruning(make):
    small = prune(make(), helpers.THRESHOLD)
    x = helpers.inputs_for(small, batch=16)
    (expected,) = helpers.run(small, x)
    small.quantize("int8")
    (got,) = helpers.run(small, x)
    assert small.get_layer("out").kernel.dtype == "int8"
    # Two layers of products whose both factors have 127 steps.
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
