"""Runs `examples/distill.py` as a user does, but small."""

import keras
import pytest

from tests.examples.scripts import start

pytestmark = pytest.mark.trains


@pytest.mark.skipif(
    not hasattr(keras, "distillation"), reason="came with Keras 3.12"
)
def test_both_ways_have_a_column(tmp_path):
    done = start("distill.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plain" in done.stdout and "distilled" in done.stdout


@pytest.mark.skipif(
    hasattr(keras, "distillation"), reason="Keras has what it needs"
)
def test_an_older_keras_is_told(tmp_path):
    done = start("distill.py", tmp_path)
    assert done.returncode and "3.12" in done.stderr
