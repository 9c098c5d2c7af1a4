"""Tables: layers that turn words and numbers into categories."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends lack words"
)


@pytest.fixture
def model():
    words = keras.Input((1,), dtype="string", name="words")
    ids = keras.Input((1,), dtype="int64", name="ids")
    sizes = keras.Input((1,), name="sizes")
    one_hot = {"output_mode": "one_hot"}
    text = L.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)
    x = L.Concatenate()(
        [
            L.StringLookup(vocabulary=["a", "b"], **one_hot)(words),
            L.IntegerLookup(vocabulary=[1, 2], **one_hot)(ids),
            L.Hashing(5, **one_hot)(ids),
            L.HashedCrossing(6, **one_hot)((words, ids)),
            L.CategoryEncoding(4, **one_hot)(ids),
            L.Discretization([0.0, 1.0], **one_hot)(sizes),
            L.Flatten()(L.Embedding(10, 4)(text(words))),
        ]
    )
    x = L.Dense(16, activation="relu")(x)
    return keras.Model([words, ids, sizes], L.Dense(2)(x))


def test_what_comes_after_is_pruned(model):
    scores = kg.surgeon.score(model, "l1")
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    small = plan.apply()
    x = {
        "words": np.array([["a"], ["b"], ["c"], ["a b"]], object),
        "ids": np.array([[1], [2], [3], [0]]),
        "sizes": np.array([[-1.0], [0.5], [2.0], [0.0]], "float32"),
    }
    inputs = [keras.ops.convert_to_tensor(each) for each in x.values()]
    found = kg.surgeon.verify(model, small, plan, x=inputs)
    assert max(found.values()) < 1e-5
    assert plan.params.after < 0.6 * plan.params.before


def test_the_plan_counts_them_and_has_one_reason(model):
    scores = kg.surgeon.score(model, "l1")
    text = str(kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores))
    assert "unknown" not in text and "KerasTensor" not in text
    assert text.count("it turns values into categories") == 7
