"""Runs `examples/distill.py` as a user does, but small."""

import importlib

import keras
import numpy as np
import pytest

from tests.examples import scripts

pytestmark = pytest.mark.trains


@pytest.mark.skipif(
    not hasattr(keras, "distillation"), reason="came with Keras 3.12"
)
def test_both_ways_have_a_column(tmp_path):
    done = scripts.start("distill.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plain" in done.stdout and "distilled" in done.stdout


@pytest.mark.skipif(
    not hasattr(keras, "distillation"), reason="came with Keras 3.12"
)
def test_the_loss_compares_probabilities(monkeypatch):
    monkeypatch.syspath_prepend(str(scripts.EXAMPLES))
    loss = importlib.import_module("distill").distance(2.0)
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 4, 10)).astype("float32") * 3

    def softmax(logits):
        powers = np.exp(logits / 2)
        return powers / powers.sum(-1, keepdims=True)

    p, q = softmax(teacher), softmax(student)
    expected = 4 * (p * np.log(p / q)).sum(-1).mean()
    found = keras.ops.convert_to_numpy(loss.compute_loss(teacher, student))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.skipif(
    hasattr(keras, "distillation"), reason="Keras has what it needs"
)
def test_an_older_keras_is_told(tmp_path):
    done = scripts.start("distill.py", tmp_path)
    assert done.returncode and "3.12" in done.stderr
