"""Three backbones of KerasHub; the others: benchmarks/hub.py."""

import importlib.util

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None,
    reason="KerasHub is no dependency",
)
_BLOCKS = {"num_layers": 2, "num_heads": 4, "hidden_dim": 24}
BACKBONES = {
    "BertBackbone": {
        **_BLOCKS,
        "vocabulary_size": 50,
        "intermediate_dim": 40,
        "max_sequence_length": 14,
    },
    "ViTBackbone": {
        **_BLOCKS,
        "image_shape": (32, 32, 3),
        "patch_size": 8,
        "mlp_dim": 40,
    },
    "VGGBackbone": {
        "image_shape": (32, 32, 3),
        "stackwise_num_repeats": [2, 1],
        "stackwise_num_filters": [16, 32],
    },
}


@pytest.mark.parametrize("name", BACKBONES)
def test_half_of_a_backbone_goes(name):
    import keras_hub

    backbone = getattr(keras_hub.models, name)(**BACKBONES[name])
    outputs = keras.tree.flatten(backbone.output)
    read = [keras.layers.Dense(3)(y) for y in outputs if len(y.shape) > 2]
    model = keras.Model(backbone.input, read)
    scores = kg.surgeon.score(model, "l2")
    half = kg.Quantile(0.5, scope="gate")
    plan = kg.surgeon.plan(model, half, scores=scores)
    small = plan.apply()
    # A half in each direction of most kernels.
    assert small.count_params() < 0.4 * model.count_params()
    x = keras.tree.map_structure(
        _draw, helpers.functional(model)._inputs_struct
    )
    assert max(plan.verify(small, x).values()) < helpers.RTOL


def _draw(kt):
    rng = np.random.default_rng(0)
    shape = (2, *[10 if size is None else size for size in kt.shape[1:]])
    if keras.backend.is_float_dtype(kt.dtype):
        return rng.normal(size=shape).astype(kt.dtype)
    return np.ones(shape, kt.dtype)
