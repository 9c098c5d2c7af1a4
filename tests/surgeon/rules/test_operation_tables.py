"""Every operation that Keras shows has a rule, or a reason why not."""

import importlib
import inspect

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.rules import registered
from keras_gates.surgeon.rules.not_followed import NOT_FOLLOWED
from tests import helpers
from tests.surgeon.examples import behind
from tests.surgeon.examples import front
from tests.surgeon.rules.test_rules import draw

MODULES = ("", ".nn", ".image", ".linalg", ".numpy")


def shown():
    """`{name: function}` of all that `keras.ops` shows."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(f"keras.ops{name}")
        for function in dir(module):
            value = getattr(module, function)
            if not function.startswith("_") and not inspect.ismodule(value):
                found[function] = value
    return found


def test_each_operation_has_a_rule_or_a_reason():
    lacking = [
        name
        for name, function in shown().items()
        if name not in NOT_FOLLOWED
        and gr.operation_of(function) not in registered()
    ]
    assert not lacking, (
        f"Keras has operations that the surgeon knows nothing of: {lacking}. "
        "Add a row for each to OPERATIONS in rules/operation_table.py, with an "
        "example; or its reason to rules/not_followed.py."
    )


def test_no_operation_has_both():
    both = [
        name
        for name, function in shown().items()
        if name in NOT_FOLLOWED and gr.operation_of(function) in registered()
    ]
    assert not both


@pytest.mark.parametrize(
    "call, why",
    [
        (lambda x: ops.glu(x), "splits an axis"),
        (lambda x: ops.cast(ops.signbit(x), "float32") + x, "sign of zero"),
        (
            lambda x: ops.matmul(
                ops.inv(
                    ops.matmul(ops.swapaxes(x, 1, 2), x)
                    + 9 * np.eye(8, dtype="float32")
                ),
                ops.swapaxes(x, 1, 2),
            ),
            "whole matrices",
        ),
    ],
)
def test_the_plan_says_why_an_operation_is_not_followed(call, why):
    inputs = keras.Input((8, 2))
    model = keras.Model(inputs, L.Dense(2)(call(front(inputs))))
    draw(model)
    plan = kg.surgeon.plan(model, helpers.THRESHOLD)
    assert why in str(plan)
    helpers.assert_same(model, plan.apply())


# However an axis is written --------------------------------------------------

AXES = {
    "int": lambda axis: axis,
    "negative": lambda axis: axis - 3,
    "numpy": lambda axis: np.int64(axis),
    "list": lambda axis: [axis],
    "tuple": lambda axis: (axis - 3,),
}
# With an axis of time (1) or of channels (2).
CALLS = {
    "mean": lambda x, axis: ops.mean(x, axis, keepdims=True) + x,
    "max": lambda x, axis: ops.max(x, axis, keepdims=True) + x,
    "std": lambda x, axis: ops.std(x, axis, keepdims=True) + x,
    "softmax": lambda x, axis: ops.softmax(x, axis),
    "log_softmax": lambda x, axis: ops.log_softmax(x, axis) + x,
    "normalize": lambda x, axis: ops.normalize(x, axis),
    "cumsum": lambda x, axis: ops.cumsum(x, axis),
    "sort": lambda x, axis: ops.sort(x, axis),
    "flip": lambda x, axis: ops.flip(x, axis),
    "roll": lambda x, axis: ops.roll(x, 3, axis),
    "split": lambda x, axis: ops.concatenate(ops.split(x, [4], axis), axis),
    "take": lambda x, axis: ops.take(x, [0, 1, 2, 3, 5, 5, 6, 7], axis),
    "repeat": lambda x, axis: ops.repeat(x, 1, axis),
    "expand": lambda x, axis: ops.squeeze(ops.expand_dims(x, axis), axis),
    "argmax": lambda x, axis: (
        ops.cast(ops.argmax(x, axis, keepdims=True), "float32") + x
    ),
    "layer softmax": lambda x, axis: L.Softmax(axis)(x),
    "layer normalization": lambda x, axis: L.UnitNormalization(axis)(x),
    "layer batch norm": lambda x, axis: L.BatchNormalization(axis)(x),
    "layer concatenate": lambda x, axis: L.Concatenate(axis)([x, x]),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_axis_may_be_written_in_many_ways(name):
    inputs = keras.Input((8, 2))
    tensors = []
    for axis in (1, 2):
        for number, form in enumerate(AXES.values()):
            x = front(inputs, f"front_{axis}_{number}")
            try:
                y = CALLS[name](x, form(axis))
                keras.Model(inputs, y)(np.zeros((2, 8, 2), "float32"))
            except Exception:  # Keras itself does not take this form
                continue
            tensors.append(behind(y))
    assert len(tensors) >= 4
    model = draw(keras.Model(inputs, tensors))
    plan = kg.surgeon.plan(model, helpers.THRESHOLD)
    helpers.assert_same(model, plan.apply())
