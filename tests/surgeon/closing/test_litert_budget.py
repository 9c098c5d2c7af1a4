"""The example of docs/concepts/thresholds.md: a budget of time in LiteRT."""

import functools
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers

DOCS = pathlib.Path(__file__).resolve().parents[3] / "docs"
PAGE = DOCS / "concepts" / "thresholds.md"


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="LiteRT needs TensorFlow"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_function_of_the_page_times_a_model():
    pytest.importorskip("ai_edge_litert.interpreter")
    blocks = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M
    )
    code = next(block for block in blocks if "def litert(" in block)
    names = {}
    exec(code.split("small =")[0], names)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    x = kg.FilterGate(name="gate")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    before = helpers.fingerprint(model)
    assert 0 < names["litert"](model) < 1e4
    # How far one can get on a busy machine is not known; that it is tried is.
    budget = kg.Budget(latency=1e9, measure=functools.cache(names["litert"]))
    assert kg.surgeon.plan(model, budget).closed == {"gate": []}
    assert helpers.fingerprint(model) == before
    assert np.isfinite(helpers.run(model, helpers.inputs_for(model))[0]).all()
