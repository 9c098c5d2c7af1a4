"""Heads of attention within windows, as in Swin."""

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers
from tests.surgeon import window_attention as wa

CASES = {
    "plain": {},
    "unstacked": {"parts": "unstacked"},
    "split": {"parts": "split", "shift": 2},
    "shifted": {"shift": 2},
    "shifted by a constant mask": {"shift": 1, "mask": "constant"},
    "unstacked and shifted": {"parts": "unstacked", "shift": 2},
}


QUICK = "plain", "split"


@pytest.mark.parametrize(
    "case",
    [
        case if case in QUICK else pytest.param(case, marks=pytest.mark.slow)
        for case in CASES
    ],
)
def test_heads_go_exactly(case, tmp_path):
    """Truth: the rows of the output kernel of a closed head are zero."""
    model = wa.model_of(**CASES[case])
    name, plan = wa.closing(model)
    closed = plan.closed[name]
    assert 0 < len(closed) < wa.HEADS
    small = plan.apply()
    x = np.random.default_rng(1).normal(size=(3, *model.input_shape[1:]))
    assert max(plan.verify(small, x).values()) < helpers.RTOL
    wa.shut_heads(model, closed)
    want = helpers.numpy_of(model(x.astype("float32")))
    got = helpers.numpy_of(small(x.astype("float32")))
    np.testing.assert_allclose(got, want, atol=1e-5)
    # The heads go from the table, from all four kernels, and the biases.
    left, rows = wa.HEADS - len(closed), (2 * wa.WINDOW - 1) ** 2
    block = small.get_layer("block")
    assert type(block) is wa.SwinBlock
    # A size that followed from the number is told from now on.
    assert (block.heads, block.size) == (left, wa.SIZE)
    fewer = model.count_params() - small.count_params()
    assert fewer == len(closed) * (rows + wa.SIZE * (4 * wa.WIDTH + 3))
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(
        helpers.numpy_of(again(x.astype("float32"))), got, atol=1e-6
    )


@pytest.mark.parametrize("shift", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_what_no_config_makes_is_written_out(shift, tmp_path):
    model = wa.model_of(shift=shift, told=False)
    name, plan = wa.closing(model)
    small = plan.apply()
    assert type(small.get_layer("block")) is not wa.SwinBlock
    assert any("written out" in note for note in plan.notes)
    assert max(plan.verify(small).values()) < helpers.RTOL
    small.save(tmp_path / "small.keras")
    with keras.saving.custom_object_scope({}):
        again = keras.saving.load_model(tmp_path / "small.keras")
    x = helpers.inputs_for(small)
    np.testing.assert_allclose(
        helpers.numpy_of(again(x)), helpers.numpy_of(small(x)), atol=1e-6
    )


def test_heads_get_gates():
    model = wa.model_of(shift=2)
    gated = kg.insert_gates(model, heads=1e-3)
    (gate,) = helpers.gates_of(gated)
    assert gate.factor.shape == (wa.HEADS,)
    gate.factor.assign([1.0, 0.0, 0.7])
    small = kg.surgeon.prune(gated, 0.1)
    assert max(kg.surgeon.verify(gated, small, 0.1).values()) < helpers.RTOL
    wa.shut_heads(model, [1])
    proj = model.get_layer("block").attention.proj
    scaled = helpers.numpy_of(proj.kernel).copy()
    scaled[2 * wa.SIZE :] *= 0.7
    proj.kernel.assign(scaled)
    x = np.random.default_rng(1).normal(size=(3, *model.input_shape[1:]))
    x = x.astype("float32")
    np.testing.assert_allclose(
        helpers.numpy_of(small(x)), helpers.numpy_of(model(x)), atol=1e-5
    )
