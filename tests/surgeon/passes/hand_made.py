"""Models of a few nodes, and their passes, for expectations written out.

Unit 0 is the one that nothing removes, so the first layer of width 3 has the
units 1, 2, 3, the next one of width 2 the units 4, 5, and so on. Where layers
are beside each other, Keras says which is the first: no test may rest on it.
"""

import keras
import numpy as np
from keras import layers as L

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon.passes import decide
from keras_gates.surgeon.passes import label


def chain(*after, activation=None, head=2):
    """x (4) -> hidden (3) -> gate -> `after` -> head (2), if there is one."""
    x = keras.Input((4,), name="x")
    h = L.Dense(3, activation=activation, name="hidden")(x)
    h = kg.FilterGate(name="gate")(h)
    for layer in after:
        h = layer(h)
    return keras.Model(x, L.Dense(head, name="head")(h) if head else h)


def sigmoid():
    """Makes 0.5 of the 0 of a closed gate."""
    return L.Activation("sigmoid", name="sigmoid")


def sum_of_two(gated=("a_gate", "b_gate")):
    """x -> a (2) and b (2), each with its gate if named, -> add -> head (1)."""
    x = keras.Input((4,), name="x")
    operands = []
    for name in ("a", "b"):
        h = L.Dense(2, name=name)(x)
        if f"{name}_gate" in gated:
            h = kg.FilterGate(name=f"{name}_gate")(h)
        operands.append(h)
    h = L.Add(name="add")(operands)
    return keras.Model(x, L.Dense(1, name="head")(h))


def two_readers():
    """x -> hidden (3) -> gate -> first (2) and second (2), both outputs."""
    x = keras.Input((4,), name="x")
    h = kg.FilterGate(name="gate")(L.Dense(3, "relu", name="hidden")(x))
    heads = [L.Dense(2, name=name)(h) for name in ("first", "second")]
    return keras.Model(x, heads)


def two_ways():
    """x -> hidden (3) -> gate -> head (2), and hidden -> other (2)."""
    x = keras.Input((4,), name="x")
    h = L.Dense(3, name="hidden")(x)
    other = L.Dense(2, name="other")(h)
    head = L.Dense(2, name="head")(kg.FilterGate(name="gate")(h))
    return keras.Model(x, [head, other])


def labelled(model, **options):
    return label.label(gr.read(model), **options)


def step_of(labelling, path, position=None):
    """The step of a path; that of a selection before it for a position."""
    (found,) = [
        step
        for step in labelling.steps
        if (step.path, step.position) == (path, position)
    ]
    return found


def output_of(labelling, path):
    return step_of(labelling, path).outputs[0]


def closing(labelling, **masks):
    """The masks of gates (or layers) by the layer, from those by name."""
    return IdentityDict(
        (step_of(labelling, path).call.op, np.array(mask, bool))
        for path, mask in masks.items()
    )


def decided(model, exact=True, **masks):
    """The `Decision` when the gates of these names have these masks."""
    labelling = labelled(model)
    closed = closing(labelling, **masks)
    values = label.constants(labelling, closed, exact)
    return decide.decide(labelling, values, exact, closed)


def paths(steps):
    return {step.path for step in steps}
