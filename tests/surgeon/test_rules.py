"""Each rule, on a small model of its own, against the gated original."""

import keras
import numpy as np
import pytest

import keras_gates as kg
from keras_gates.surgeon import graph as gr
from keras_gates.surgeon.rules import registered
from tests import helpers
from tests.surgeon import example_layers
from tests.surgeon import example_operations
from tests.surgeon.examples import AID

EXAMPLES = [*example_layers.EXAMPLES, *example_operations.EXAMPLES]
HERE = [example for example in EXAMPLES if example.cls is not None]


def closed(gate):
    """Some channels in front, others behind, so that all four cases occur."""
    shape = tuple(gate.factor.shape)
    if not shape:
        return np.array(gate.name == "closed")
    turn = np.arange(shape[0]) % 4
    return np.isin(turn, (1, 2) if gate.name.startswith("front") else (0, 1))


def prepared(example):
    """The model of an example with weights and factors drawn."""
    model = example.build()
    helpers.randomize(model, x=inputs_for(model))
    if hasattr(model, "keep_zero"):
        model.keep_zero()
    rng = np.random.default_rng(1)
    for gate in helpers.gates_of(model):
        shut = closed(gate)
        size = np.where(shut, 0.1, rng.uniform(0.6, 1.5, shut.shape))
        gate.factor.assign(size * rng.choice([-1, 1, 1], shut.shape))
    return model


def inputs_for(model):
    if keras.backend.is_float_dtype(model.inputs[0].dtype):
        return helpers.inputs_for(model)
    rng = np.random.default_rng(0)
    return rng.integers(0, 8, (4, *model.inputs[0].shape[1:])).astype("int32")


def sizes(model, cls):
    """How much all calls of a class read and return, by sample."""
    calls = [
        call
        for call in gr.read(model).calls
        if type(call.op) is cls and not call.op.name.startswith(AID)
    ]
    found = {}
    for side in ("in", "out"):
        tensors = [t for call in calls for t in getattr(call, f"{side}puts")]
        whole = [[size or 1 for size in tensor.shape] for tensor in tensors]
        found[side] = sum(int(np.prod(shape)) for shape in whole)
    return found


@pytest.mark.parametrize("example", HERE, ids=str)
def test_an_example_is_cut_and_computes_the_same(example):
    model = prepared(example)
    before = sizes(model, example.cls)
    assert before["in"], "the example does not hold its subject"
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small, inputs_for(model))
    if hasattr(example.cls, "kind"):
        assert not helpers.gates_of(small)
        return
    after = sizes(small, example.cls)
    shrunk = tuple(side for side in ("in", "out") if after[side] < before[side])
    assert shrunk == example.shrinks, (before, after)
    if example.why:
        assert example.why in str(kg.surgeon.plan(model, helpers.THRESHOLD))


def test_each_registered_class_has_an_example():
    subjects = {example.cls for example in EXAMPLES}
    lacking = [c.__name__ for c in registered() if c not in subjects]
    assert not lacking, "Add examples for " + ", ".join(lacking)


def test_each_example_is_of_a_registered_class():
    lost = [str(e) for e in HERE if e.cls not in registered()]
    assert not lost
