"""Tests that a plan pauses Python's collector, and leaves it as it was."""

import gc

import keras
import pytest

import keras_gates as kg
from keras_gates.surgeon.solving import solve


def gated():
    x = inputs = keras.Input((4,))
    x = kg.FilterGate()(keras.layers.Dense(8)(x))
    return keras.Model(inputs, keras.layers.Dense(2)(x))


@pytest.fixture
def seen(monkeypatch):
    """Whether the collector was on, each time that something was solved."""
    found, settle = [], solve._settle

    def looking(*args, **kwargs):
        found.append(gc.isenabled())
        return settle(*args, **kwargs)

    monkeypatch.setattr(solve, "_settle", looking)
    return found


def test_the_collector_is_off_while_a_plan_is_made_and_on_after_it(seen):
    model = gated()
    assert gc.isenabled()
    kg.surgeon.plan(model, kg.Quantile(0.5))
    kg.surgeon.prune(model, kg.Quantile(0.5))
    assert seen and not any(seen)
    assert gc.isenabled()


def test_it_is_on_again_after_an_error():
    with pytest.raises(ValueError, match="threshold"):
        kg.surgeon.plan(gated(), -1.0)
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off():
    model = gated()
    gc.disable()
    try:
        kg.surgeon.plan(model, kg.Quantile(0.5))
        assert not gc.isenabled()
    finally:
        gc.enable()
