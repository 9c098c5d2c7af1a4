"""A small model for each rule: gates, the subject, gates.

Before the subject, closed channels are a known constant: zero for the
even ones, something else for the odd ones. Behind it, other channels are
closed. `SHRINKS` and the like say what the cut must do to the subject.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.graphs.graph import layer_class
from keras_gates.graphs.graph import operation
from keras_gates.layers import loop_gate

WIDTH = 8
# In the names of what is no subject.
AID = "aid"
# What the closed channels hold where the subject reads them.
CONSTANT = np.tile([0.0, 0.4], WIDTH // 2).astype("float32")

# What must get smaller: what the subject reads, what it returns, or both.
IN, OUT, BOTH, STAYS = ("in",), ("out",), ("in", "out"), ()

# What the plan says of layers that `exact=False` would cut.
TOGETHER = "reads all channels together"
COUNTS = "its statistics account for"
FEEDS_BACK = "feeds them back into itself"

SIGNAL, IMAGE, VOLUME = (8, 2), (6, 6, 2), (4, 4, 4, 2)
SPACE = {1: SIGNAL, 2: IMAGE, 3: VOLUME}


@dataclasses.dataclass(frozen=True)
class Example:
    """One model.

    Attributes:
        subject: the class that it is an example of: a layer's name, or the
            module and the name of an operation.
        build: makes the model.
        shrinks: which of "in" and "out" must get smaller.
        why: where something stays, a part of what the plan says of it.
        note: tells apart the examples of one subject.
    """

    subject: str
    build: Callable
    shrinks: tuple = BOTH
    why: str = ""
    note: str = ""

    def __str__(self):
        return f"{self.subject} {self.note}".strip().replace(" ", "-")

    @property
    def cls(self):
        return find(self.subject)


def find(name):
    """The class of a layer or an operation, None if Keras lacks it."""
    if name.startswith("applications."):
        return layer_class(name)
    if "." in name:
        return operation(name)
    ours = getattr(kg, name, None) or getattr(loop_gate, name, None)
    return getattr(L, name, None) or ours


def aid(name, x, *args, **config):
    """An operation that is there for the subject's sake, and not counted."""
    made = operation(f"numpy.{name}")(**config, name=f"{AID}_{x.name}")
    return made(x, *args)


def to_last(x, axis):
    """Channels from an axis to the last one."""
    if axis in (-1, len(x.shape) - 1):
        return x
    return aid("Moveaxis", x, source=axis, destination=-1)


def front(x, name="front"):
    """Channels that gates close, to be a constant of either kind."""
    x = L.Dense(WIDTH, name=f"{AID}_{name}")(x)
    x = kg.FilterGate(name=name)(x)
    return aid("Add", x, CONSTANT)


def reader(y):
    return L.Dense(3, name=f"{AID}_{y.name}")(y)


def behind(y, axis=-1):
    """A gate that closes other channels, and something that reads on."""
    return reader(to_last(kg.FilterGate(axis=axis)(y), axis))


def around(middle, shape=SIGNAL, axis=-1, out=None, prepare=None):
    """`() -> model`: `middle` between gates.

    Args:
        middle: tensor in, tensor or list of tensors out.
        shape: of the model's input.
        axis: 1 for channels first in `middle`.
        out: the channel axis behind `middle`, if it is another.
        prepare: what is done to the tensor first, as to make it positive.
    """

    def build():
        inputs = keras.Input(shape)
        x = front(inputs)
        x = x if prepare is None else prepare(x)
        if axis == 1:
            x = aid("Moveaxis", x, source=-1, destination=1)
        found = middle(x)
        found = found if isinstance(found, (list, tuple)) else [found]
        outputs = [behind(y, axis if out is None else out) for y in found]
        return keras.Model(inputs, outputs)

    return build


def two(middle, shape=SIGNAL, out=-1):
    """As `around`, for a `middle` of two tensors alike."""

    def build():
        inputs = keras.Input(shape)
        a, b = front(inputs), front(inputs, "front_b")
        return keras.Model(inputs, behind(middle(a, b), out))

    return build


def layer(name, *args, shape=SIGNAL, note="", shrinks=BOTH, why="", **kwargs):
    """An example of a layer: its name, its arguments."""
    axis = 1 if kwargs.get("data_format") == "channels_first" else -1

    def middle(x):
        return find(name)(*args, **kwargs)(x)

    told = ",".join(f"{k}={v}" for k, v in kwargs.items())
    return Example(
        name, around(middle, shape, axis), shrinks, why, note or told
    )


def positive(x):
    """Between 0.2 and 0.8, where every operation is defined."""
    return ops.hard_sigmoid(x) * 0.6 + 0.2


def op(name, function=None, note="", shrinks=BOTH, why="", **options):
    """An example of an operation; by default, of one tensor."""
    if function is None:

        def function(x):
            return operation(name)()(x)

    return Example(name, around(function, **options), shrinks, why, note)


def op2(name, function, note="", shrinks=BOTH, why="", **options):
    """An example of an operation on two tensors."""
    return Example(name, two(function, **options), shrinks, why, note)


FIRST = {"data_format": "channels_first"}
# TensorFlow on a CPU has no convolution or pooling with channels first.
HAS_CHANNELS_FIRST = keras.backend.backend() != "tensorflow"
