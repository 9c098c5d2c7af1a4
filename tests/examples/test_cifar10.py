"""Runs `examples/cifar10.py` as a user does, but small."""

import json

import pytest

from tests.examples.scripts import run

pytestmark = pytest.mark.trains


def test_the_rows_are_trained_and_one_keeps_to_the_budget(tmp_path):
    printed = run("cifar10.py", tmp_path)
    assert "baseline" in printed and "reach" in printed
    row = json.loads((tmp_path / "seed0" / "reach-0.7.json").read_text())
    assert 0.6 < row["left"] <= 0.7
    assert "epoch 1/" not in run("cifar10.py", tmp_path)
