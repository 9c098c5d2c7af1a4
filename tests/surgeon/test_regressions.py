"""Graphs that the surgeon once got wrong, as small as possible.

Most were found by benchmarks/fuzz.py and made small by it.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import surgeon
from tests import helpers


def start():
    return keras.Input((6, 4))


def conv(x, filters=4, size=1, **options):
    return L.Conv1D(filters, size, padding="same", **options)(x)


def gated(inputs, x, read=True):
    """A model whose gates have every other channel closed.

    A gate whose name starts with "shut" is closed altogether.
    """
    x = L.Dense(3, name="last")(L.Flatten()(x)) if read else x
    model = helpers.randomize(keras.Model(inputs, x), closed="none")
    for gate in helpers.gates_of(model):
        factor = helpers.numpy_of(gate.factor)
        shut = np.arange(factor.size).reshape(factor.shape) % 2 == 1
        shut = shut | gate.name.startswith("shut")
        gate.factor.assign(np.where(shut, 0.1, factor))
    return model


def kept_constant_of_a_dropped_operand():
    # A kept coordinate has to hold its constant even if nothing varies with
    # it: LayerNormalization reads what Add leaves of its dropped operand.
    x = start()
    constant = L.BatchNormalization()(kg.LayerGate(name="shut")(conv(x)))
    total = L.Add()([kg.FilterGate()(conv(x)), constant])
    return gated(x, L.LayerNormalization()(total))


def concat_operand_that_comes_back():
    # All channels of one operand are closed, but it has a second reader.
    x = start()
    first = conv(x)
    joined = L.Concatenate()([kg.FilterGate(name="shut")(first), conv(x)])
    return gated(x, L.Concatenate()([conv(joined), L.Add()([first, x])]))


def convolution_behind_reshapes():
    # Labels along axes that do not vary have to collapse after a Reshape.
    x = start()
    y = kg.FilterGate()(conv(x, 8))
    y = L.Reshape((6, 8))(L.Reshape((2, 3, 8))(y))
    return gated(x, L.Conv1D(4, 3, name="reader")(y))


def prelu_on_vectors():
    # The axis of the slopes was shadowed by the default of the base class.
    x = keras.Input((7,))
    return gated(x, kg.FilterGate()(L.PReLU()(L.Dense(8)(x))))


def prelu_with_shared_axes():
    x = start()
    return gated(x, L.PReLU(shared_axes=[1])(kg.FilterGate()(conv(x))))


def prelu_with_slopes_in_space():
    x = start()
    return gated(x, conv(L.PReLU()(kg.FilterGate()(conv(x)))))


def nested_gate_on_input_and_on_cut_tensor():
    # Only one of the two calls had a place for a gather inside the model.
    x, within = start(), start()
    inner = keras.Model(within, kg.FilterGate()(within))
    return gated(x, L.Concatenate()([inner(x), inner(conv(x))]))


def nested_norm_on_shared_and_on_own_tensor():
    x, within = start(), start()
    inner = keras.Model(within, L.BatchNormalization()(within))
    y = conv(x)
    parts = L.Concatenate()([inner(y), inner(keras.ops.abs(y))])
    return gated(x, L.Concatenate()([kg.FilterGate()(parts), y]))


def shared_gate_that_stays():
    # What stays of a gate needs a name at each of its calls, ...
    x = start()
    gate = kg.FilterGate()
    y = conv(x)
    y = L.Concatenate()([gate(y), gate(keras.ops.tanh(y)), y])
    return gated(x, keras.ops.tanh(y))


def names_that_are_taken():
    # ... and that must not be the name of something else.
    x = start()
    gate = kg.FilterGate(name="gate")
    y = conv(x)
    y = L.Concatenate()([gate(y), gate(keras.ops.tanh(y)), y])
    return gated(x, keras.ops.tanh(kg.FilterGate(name="gate_1")(y)))


def gate_without_units_in_a_nested_model():
    # A gate on a tensor with fixed labels has more factors than labels.
    x, within = start(), start()
    y = L.Reshape((6, 4))(L.Reshape((6, 2, 2))(within))
    inner = keras.Model(within, kg.FilterGate()(y))
    return gated(x, L.Maximum()([inner(x), inner(kg.FilterGate()(conv(x)))]))


def gate_along_space():
    x = start()
    y = kg.FilterGate(axis=1)(kg.FilterGate()(conv(x)))
    return gated(x, conv(y))


def gate_along_space_behind_a_closed_gate():
    x = start()
    y = kg.FilterGate(axis=1)(kg.LayerGate(name="shut")(conv(x)))
    return gated(x, L.Add()([conv(x), conv(y)]))


def nested_input_that_nothing_reads():
    # A nested model keeps its inputs, so what feeds them has to be there.
    x, first, second = start(), start(), start()
    branch = kg.LayerGate(name="shut")(conv(second))
    inner = keras.Model([first, second], L.Add()([conv(first), branch]))
    return gated(x, inner([conv(x), conv(x)]))


def nested_output_that_nothing_reads():
    x, within = start(), start()
    inner = keras.Model(within, [conv(within), conv(within)])
    first, second = inner(conv(x))
    return gated(x, L.Add()([first, kg.LayerGate(name="shut")(second)]))


def nested_call_that_nothing_reads():
    # The other call is there, but what feeds this one may go.
    x, within = start(), start()
    inner = keras.Model(within, conv(within))
    gone = inner(L.BatchNormalization(name="gone")(x))
    return gated(x, L.Add()([inner(x), kg.LayerGate(name="shut")(gone)]))


def nested_model_of_unknown_size_without_layers():
    # Keras takes a call of what is left, on a known size, for a cycle.
    x, within = start(), keras.Input((None, 4))
    branch = kg.LayerGate(name="shut")(conv(within))
    inner = keras.Model(within, L.Add()([within, branch]))
    chain = keras.Sequential([keras.Input((None, 4)), kg.FilterGate()])
    return gated(x, chain(inner(conv(x))))


def shared_layer_without_its_first_call():
    # The plan counted it as gone.
    x = start()
    shared = L.Dense(4)
    gone = kg.LayerGate(name="shut")(shared(x))
    return gated(x, L.Add()([gone, shared(x)]))


CASES = [
    kept_constant_of_a_dropped_operand,
    concat_operand_that_comes_back,
    convolution_behind_reshapes,
    prelu_on_vectors,
    prelu_with_shared_axes,
    prelu_with_slopes_in_space,
    nested_gate_on_input_and_on_cut_tensor,
    nested_norm_on_shared_and_on_own_tensor,
    shared_gate_that_stays,
    names_that_are_taken,
    gate_without_units_in_a_nested_model,
    gate_along_space,
    gate_along_space_behind_a_closed_gate,
    nested_input_that_nothing_reads,
    nested_output_that_nothing_reads,
    nested_call_that_nothing_reads,
    nested_model_of_unknown_size_without_layers,
    shared_layer_without_its_first_call,
]


@pytest.mark.parametrize("build", CASES, ids=lambda f: f.__name__)
def test_is_exact(build):
    model = build()
    before = helpers.fingerprint(model)
    plan = surgeon.plan(model, helpers.THRESHOLD)
    pruned = plan.apply()
    helpers.assert_same(model, pruned)
    assert plan.params == (model.count_params(), pruned.count_params())
    assert helpers.fingerprint(model) == before


def pruned_layers(build):
    pruned = surgeon.prune(build(), helpers.THRESHOLD)
    return {layer.name: layer for layer in helpers.layers_of(pruned)}


def test_channels_are_cut_through_reshapes():
    layers = pruned_layers(convolution_behind_reshapes)
    assert layers["reader"].kernel.shape == (3, 4, 4)


def test_what_feeds_an_unread_call_goes():
    assert "gone" not in pruned_layers(nested_call_that_nothing_reads)


def test_gathers_have_the_same_names_in_each_run():
    # `keras.ops.take` numbers its operations over the whole process.
    model = nested_norm_on_shared_and_on_own_tensor()
    first, second = (
        surgeon.prune(model, helpers.THRESHOLD).get_config() for _ in "ab"
    )
    assert first == second


def test_a_closed_input_of_a_layer_leaves_only_its_bias():
    # Also where the closed tensor has no units of its own.
    x = start()
    y = conv(kg.LayerGate(name="shut")(x))
    model = gated(x, L.Add()([conv(x), y]))
    pruned = surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, pruned)
    assert len([k for k in helpers.layers_of(pruned) if k.weights]) == 2


def test_a_gate_behind_a_shared_gate_is_folded_through_it():
    # What `insert_gates` makes of a residual stream and its branches.
    x = start()
    stream = kg.FilterGate(name="stream")
    y = stream(conv(x))
    y = L.Add()([y, kg.BranchGate(name="branch")(stream(conv(y)))])
    model = gated(x, y)
    pruned = surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, pruned)
    kinds = {type(layer) for layer in helpers.layers_of(pruned)}
    assert L.Rescaling not in kinds


def test_a_shared_layer_does_not_take_the_factors_of_one_call():
    x = start()
    shared = L.Conv1D(4, 1, name="shared")
    y = L.Add()([shared(x), kg.BranchGate(name="branch")(shared(conv(x)))])
    model = gated(x, y)
    model.get_layer("branch").factor.assign(0.7)
    pruned = surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, pruned)
    kinds = [type(layer) for layer in helpers.layers_of(pruned)]
    assert kinds.count(L.Rescaling) == 1
