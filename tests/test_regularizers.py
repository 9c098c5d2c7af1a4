"""The penalties against numpy, and the arguments they refuse."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_gates.layers import FilterGate
from keras_gates.layers import LayerGate
from keras_gates.regularizers import L1
from keras_gates.regularizers import CostL1
from keras_gates.regularizers import MeanL1
from keras_gates.regularizers import Polarization

# Keras hands tensors and variables to np.array, which NumPy 2 deprecates for
# objects whose __array__ takes no `copy` (torch tensors, Keras variables).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

FACTOR = np.array([0.5, -2.0, 0.0, 0.25], "float32")
COST = np.array([1.0, 0.0, 3.0, 2.0])

# Each value and sub-gradient is exact in float32.
CASES = [
    (L1(0.5), 0.5 * 2.75, 0.5 * np.sign(FACTOR)),
    (L1(0), 0.0, 0 * FACTOR),
    (MeanL1(0.5), 0.5 * 2.75 / 4, 0.125 * np.sign(FACTOR)),
    (CostL1(0.5, 3.0), 1.5 * 2.75, 1.5 * np.sign(FACTOR)),
    (CostL1(0.5, [1, 0, 3, 2]), 0.5, 0.5 * COST * np.sign(FACTOR)),
    (CostL1(0.5, COST), 0.5, 0.5 * COST * np.sign(FACTOR)),
    (
        Polarization(0.5, t=1.5),
        0.5 * (1.5 * 2.75 - 3.375),
        0.5 * (1.5 * np.sign(FACTOR) - ([1, -1, 1, 1] - np.mean([1, 1]) / 2)),
    ),
]


@pytest.mark.parametrize("regularizer, value, gradient", CASES)
def test_penalty(regularizer, value, gradient):
    assert isinstance(regularizer, keras.regularizers.Regularizer)
    penalty = regularizer(ops.convert_to_tensor(FACTOR))
    assert keras.backend.standardize_dtype(penalty.dtype) == "float32"
    assert float(penalty) == value


@pytest.mark.parametrize("regularizer, value, gradient", CASES)
def test_subgradient(regularizer, value, gradient):
    # The data loss is 0 at factors that meet inputs of 0, so what a step of
    # rate 1 takes off is the penalty's own gradient: 0 where the factor is 0.
    gate = FilterGate(regularizer=regularizer)
    model = keras.Sequential([keras.Input((4,)), gate])
    gate.factor.assign(FACTOR)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    nothing = np.zeros((2, 4), "float32")
    model.train_on_batch(nothing, nothing)
    stepped = ops.convert_to_numpy(gate.factor)
    np.testing.assert_array_equal(stepped, FACTOR - gradient)


@pytest.mark.parametrize("regularizer", [c[0] for c in CASES])
def test_serialization(regularizer):
    config = keras.regularizers.serialize(regularizer)
    assert config["registered_name"].startswith("keras_gates>")
    copy = keras.regularizers.deserialize(config)
    assert type(copy) is type(regularizer)
    assert copy.get_config() == regularizer.get_config()
    penalties = [float(r(ops.array(FACTOR))) for r in (copy, regularizer)]
    assert penalties[0] == penalties[1]


@pytest.mark.parametrize("regularizer", [L1(0.5), MeanL1(0.5), CostL1(0.5, 1)])
def test_scalar_gate(regularizer):
    gate = LayerGate(regularizer=regularizer)
    gate.build((2, 3))
    gate.factor.assign(-3.0)
    assert float(ops.stop_gradient(gate.losses[0])) == 1.5


def test_saved_model_keeps_a_vector_of_costs(tmp_path):
    gate = FilterGate(regularizer=CostL1(0.5, COST))
    model = keras.Sequential([keras.Input((4,)), gate])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].regularizer.cost == list(COST)


@pytest.mark.parametrize(
    "strength", [-1e-4, float("nan"), float("inf"), None, "1", True, [1.0]]
)
@pytest.mark.parametrize("make", [L1, MeanL1, lambda l1: CostL1(l1, 1.0)])
def test_bad_strength_is_refused(make, strength):
    with pytest.raises(ValueError, match="cannot use this `l1`"):
        make(strength)


@pytest.mark.parametrize(
    "cost, message",
    [
        (-1.0, "cost=-1.0"),
        ([1.0, float("nan")], "cost=.*nan"),
        ([1.0, -2.0], "cost=-2.0"),
        ([], r"shape \(0,\)"),
        ([[1.0]], r"shape \(1, 1\)"),
        (None, "cost=None"),
    ],
)
def test_bad_cost_is_refused(cost, message):
    with pytest.raises(ValueError, match=message):
        CostL1(1.0, cost)


@pytest.mark.parametrize("cost", [[1.0], [1.0, 2.0]])
def test_cost_of_another_length_is_refused(cost):
    gate = FilterGate(regularizer=CostL1(1.0, cost), name="my_gate")
    gate.build((2, 4))
    with pytest.raises(ValueError, match="my_gate/factor.*shape"):
        _ = gate.losses
