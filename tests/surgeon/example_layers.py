"""Examples of layers that hold weights: at least one for each rule."""

import functools

import keras
import numpy as np
from keras import layers as L

import keras_gates as kg
from keras_gates.layers import loop_gate
from tests.surgeon.examples import AID
from tests.surgeon.examples import COUNTS
from tests.surgeon.examples import FEEDS_BACK
from tests.surgeon.examples import FIRST
from tests.surgeon.examples import HAS_CHANNELS_FIRST
from tests.surgeon.examples import IMAGE
from tests.surgeon.examples import IN
from tests.surgeon.examples import OUT
from tests.surgeon.examples import SIGNAL
from tests.surgeon.examples import SPACE
from tests.surgeon.examples import STAYS
from tests.surgeon.examples import TOGETHER
from tests.surgeon.examples import Example
from tests.surgeon.examples import aid
from tests.surgeon.examples import around
from tests.surgeon.examples import behind
from tests.surgeon.examples import find
from tests.surgeon.examples import front
from tests.surgeon.examples import layer

SPACES = (1, 2, 3)
NORM = {"why": COUNTS}


def convolutions():
    for n in SPACES:
        shape = {"shape": SPACE[n]}
        yield layer(f"Conv{n}D", 8, 3, **shape)
        yield layer(f"Conv{n}D", 8, 3, padding="same", **shape)
        yield layer(f"Conv{n}D", 8, 2, strides=2, **shape)
        yield layer(f"Conv{n}D", 8, 1, use_bias=False, **shape)
        yield layer(f"Conv{n}D", 8, 3, groups=2, **shape)
        yield layer(f"Conv{n}D", 16, 3, groups=8, padding="same", **shape)
        yield layer(f"Conv{n}DTranspose", 8, 3, **shape)
        yield layer(f"Conv{n}DTranspose", 8, 3, padding="same", **shape)
        yield layer(f"Conv{n}DTranspose", 8, 2, strides=2, **shape)
        if HAS_CHANNELS_FIRST:
            yield layer(f"Conv{n}D", 8, 3, padding="same", **FIRST, **shape)
            yield layer(f"Conv{n}DTranspose", 8, 2, **FIRST, **shape)
    yield layer("Conv1D", 8, 3, padding="causal")
    yield layer("Conv1D", 8, 3, dilation_rate=2)
    yield layer("Conv2D", 8, 3, padding="same", dilation_rate=2, shape=IMAGE)
    yield layer("Conv2D", 8, 3, groups=2, padding="same", shape=IMAGE)
    yield layer("Conv2D", 8, 3, groups=8, use_bias=False, shape=IMAGE)
    yield layer("Conv2D", 8, 3, activation="relu", shape=IMAGE)
    yield layer("StripConv", 8, 3, shape=IMAGE)
    yield layer("StripConv", 8, 3, padding="same", shape=IMAGE)
    yield layer("StripConv", 8, 2, strides=2, use_bias=False, shape=IMAGE)
    yield layer("Conv2D", 8, 3, activation="softmax", shape=IMAGE, shrinks=IN)


def channelwise():
    for n in (1, 2):
        shape = {"shape": SPACE[n]}
        for name, sizes in (("Depthwise", (3,)), ("Separable", (8, 3))):
            name = f"{name}Conv{n}D"
            yield layer(name, *sizes, **shape)
            yield layer(name, *sizes, padding="same", **shape)
            yield layer(name, *sizes, depth_multiplier=2, **shape)
            yield layer(name, *sizes, use_bias=False, strides=2, **shape)
            if HAS_CHANNELS_FIRST:
                yield layer(name, *sizes, padding="same", **FIRST, **shape)
    yield layer("DepthwiseConv2D", 3, activation="sigmoid", shape=IMAGE)


def dense():
    yield layer("Dense", 8)
    yield layer("Dense", 8, use_bias=False)
    yield layer("Dense", 8, activation="softmax", shrinks=IN, why="softmax")
    for equation, shape, bias in (
        ("abc,cd->abd", (None, 8), "d"),
        ("abc,dc->abd", (None, 8), None),
        ("abc,cd->abd", (8, 8), "bd"),
        ("abc,cd->adb", (12, 8), "d"),
        ("abc,cd->adb", (12, 8), None),
        ("...x,xy->...y", 8, "y"),
        ("ab...,bc->ac...", 6, None),
        ("abc,bcd->abd", (8, 8), "bd"),
        ("abc,bdc->abd", (8, 8), None),
    ):
        name = f"{equation} {bias}"
        made = {"output_shape": shape, "bias_axes": bias}
        yield Example("EinsumDense", einsum(equation, **made), note=name)
    for equation, shape, bias in (
        ("abc,cde->abde", (8, 4, 2), "de"),
        ("abc,cde->abde", (8, 4, 2), None),
        ("abc,cde->adbe", (4, 8, 2), "de"),
    ):
        made = {"output_shape": shape, "bias_axes": bias}
        yield Example(
            "EinsumDense", heads(equation, **made), note=f"{equation} {bias}"
        )
    for equation, shape, bias, why in (
        ("abc,bcd->abd", (8, 8), "d", "does not have one value per"),
        ("abc,cb->abc", (8, 8), None, "letters of the"),
        ("abc,cde->abde", (8, 2, 4), "e", "does not have one value per"),
        ("abc,cd->abd", (8, 8), "b", "does not have one value per"),
    ):
        yield layer(
            "EinsumDense",
            equation,
            output_shape=shape,
            bias_axes=bias,
            shrinks=STAYS,
            why=why,
            note=f"{equation} {bias}",
        )


def bare():
    """EinsumDense as a layer's own weights are written out."""
    for equation, bias in (
        ("abc,c->abc", None),
        ("abc,c->abc", "c"),
        ("abc,b->abc", None),
    ):
        yield layer(
            "EinsumDense",
            equation,
            output_shape=(8, 8),
            bias_axes=bias,
            note=f"{equation} {bias}",
        )
    for rest in ((1, 8), (8, 8)):
        yield Example("EinsumDense", source(rest), OUT, note=f"source {rest}")


def source(rest):
    """A weight for each sample, by a one for each."""

    def build():
        inputs = keras.Input(SIGNAL)
        ones = aid("OnesLike", inputs)
        ones = aid("GetItem", ones, (slice(None), slice(0, 1), 0))
        w = L.EinsumDense("ab,bcd->acd", rest)(ones)
        return keras.Model(inputs, behind(aid("Add", front(inputs), w)))

    return build


def einsum(equation, **options):
    """EinsumDense with its channels wherever the equation has them."""
    left, y = equation.split("->")
    axis = y.index(y.strip("ab.")) if y[1:3] != ".." else -1

    def build():
        inputs = keras.Input(SIGNAL)
        x = front(inputs)
        if left.startswith("ab..."):
            x = aid("Swapaxes", x, axis1=1, axis2=2)
        y = L.EinsumDense(equation, **options)(x)
        return keras.Model(inputs, behind(y, axis))

    return build


def heads(equation, **options):
    """EinsumDense that makes heads, and one that reads them."""
    axis = equation.index("d", equation.index(">")) - equation.index(">") - 1

    def build():
        inputs = keras.Input(SIGNAL)
        y = L.EinsumDense(equation, **options)(front(inputs))
        y = kg.HeadGate(axis)(y)
        back = equation.partition(">")[2]
        y = L.EinsumDense(f"{back},dez->abz", (8, 8), bias_axes="z", name=AID)(
            y
        )
        return keras.Model(inputs, behind(y))

    return build


def embedding():
    def build():
        inputs = keras.Input((5,), dtype="int32")
        return keras.Model(inputs, behind(L.Embedding(10, 8)(inputs)))

    yield Example("Embedding", build, ("out",))
    if hasattr(L, "ReversibleEmbedding"):
        yield from reversible()


def reversible():
    """Looked up in, read back, and both."""
    name = "ReversibleEmbedding"

    def forward():
        inputs = keras.Input((5,), dtype="int32")
        return keras.Model(inputs, behind(L.ReversibleEmbedding(10, 8)(inputs)))

    def back(**options):
        def build():
            inputs = keras.Input(SIGNAL)
            made = L.ReversibleEmbedding(10, 8, **options)
            return keras.Model(inputs, made(front(inputs), reverse=True))

        return build

    def both():
        inputs = keras.Input((5,), dtype="int32")
        made = L.ReversibleEmbedding(10, 8)
        x = kg.FilterGate(name="front")(made(inputs))
        return keras.Model(inputs, made(x, reverse=True))

    yield Example(name, forward, OUT, note="forward")
    yield Example(name, back(), IN, note="reverse")
    yield Example(name, back(tie_weights=False), IN, note="reverse untied")
    yield Example(name, back(logit_soft_cap=3.0), IN, note="reverse capped")
    yield Example(name, both, note="both ways")


def normalizations():
    yield layer("BatchNormalization")
    yield layer("BatchNormalization", scale=False, center=False)
    yield layer("BatchNormalization", axis=-1, shape=IMAGE)
    yield Example(
        "BatchNormalization",
        around(lambda x: L.BatchNormalization(axis=1)(x), IMAGE, axis=1),
        note="axis=1",
    )
    yield layer("LayerNormalization", **NORM)
    yield layer("LayerNormalization", axis=[1, 2], **NORM)
    yield layer("LayerNormalization", axis=1, shrinks=STAYS, why="axis 1")
    yield layer("RMSNormalization", **NORM)
    yield layer("GroupNormalization", groups=-1)
    yield layer("GroupNormalization", groups=8, shape=IMAGE)
    yield layer("GroupNormalization", groups=2, **NORM)
    yield layer("GroupNormalization", groups=1, center=False, **NORM)
    yield layer("UnitNormalization")
    yield layer(
        "Normalization",
        mean=np.arange(8.0),
        variance=np.arange(1.0, 9.0),
        shrinks=STAYS,
        why="statistics describe",
        note="vectors",
    )
    yield layer("Rescaling", 0.5)
    yield layer("Rescaling", 0.5, offset=0.3)
    yield layer(
        "Rescaling", np.arange(1.0, 9.0).tolist(), offset=0.3, note="vector"
    )


def recurrent():
    for name in ("SimpleRNN", "GRU", "LSTM"):
        yield layer(name, 8, shrinks=IN, why=FEEDS_BACK)
        yield layer(name, 8, shrinks=IN, return_sequences=True)
        yield layer(name, 8, shrinks=IN, use_bias=False, go_backwards=True)
        yield layer(name, 8, shrinks=IN, return_state=True)
        yield layer(name, 8, shrinks=IN, activation="softmax", why="softmax")
        yield Example(name, masked(name), IN, note="masked")
        yield Example(name, with_state(name), IN, FEEDS_BACK, "with state")
        yield Example(
            name, given_state(name), IN, "comes from outside", "given state"
        )
        yield Example(name, unread(name), note="zero rows")
    yield layer("GRU", 8, shrinks=IN, reset_after=False)
    yield layer("LSTM", 8, shrinks=IN, dropout=0.2, recurrent_dropout=0.2)
    yield layer("LSTM", 8, shrinks=IN, unroll=True)
    yield layer("GRU", 8, shrinks=IN, reset_after=True, use_bias=False)
    yield Example(
        "LSTM", stateful, IN, "keeps its state between", note="stateful"
    )
    for cell in (L.SimpleRNNCell, L.GRUCell, L.LSTMCell):
        yield of_cell(lambda cell=cell: cell(8), cell.__name__)
    yield of_cell(lambda: L.GRUCell(8, reset_after=False), "reset before")
    yield of_cell(lambda: L.LSTMCell(8, use_bias=False), "no bias")
    yield Example("LoopGate", unread("LSTM", loop_gate.LoopGate), note="gate")
    for n in SPACES:
        shape = (3, *SPACE[n])
        name, more = f"ConvLSTM{n}D", {"shape": shape, "shrinks": IN}
        yield layer(name, 8, 3, why=FEEDS_BACK, **more)
        yield layer(name, 8, 3, padding="same", return_sequences=True, **more)
        yield layer(name, 8, 3, strides=2, use_bias=False, **more)


def of_cell(make, note):
    def middle(x):
        return L.RNN(make(), return_sequences=True)(x)

    return Example("RNN", around(middle), IN, FEEDS_BACK, note)


def in_loop():
    """Stock layers with a gate inside their loop, which then goes."""
    makes = {
        "LSTM": lambda: L.LSTM(8),
        "sequence": lambda: L.GRU(8, return_sequences=True, use_bias=False),
        "reset before": lambda: L.GRU(8, reset_after=False),
        "states": lambda: L.LSTM(8, return_state=True, go_backwards=True),
        "cell": lambda: L.RNN(L.SimpleRNNCell(8, activation="relu")),
        "concat": lambda: L.Bidirectional(L.GRU(8)),
        "sum": lambda: L.Bidirectional(L.LSTM(8), merge_mode="sum"),
        "mul": lambda: L.Bidirectional(L.GRU(8), merge_mode="mul"),
        "two": lambda: L.Bidirectional(L.SimpleRNN(8), merge_mode=None),
        "dropout": lambda: L.LSTM(8, dropout=0.2, recurrent_dropout=0.2),
        "unroll": lambda: L.LSTM(8, unroll=True),
    }
    for note, make in makes.items():
        yield gated(make, note)
    yield gated(makes["states"], "states gated", gate_states=True)
    for n in SPACES:
        name, shape = f"ConvLSTM{n}D", (3, *SPACE[n])
        for config in ({}, {"padding": "same", "return_sequences": True}):
            make = functools.partial(getattr(L, name), 8, 3, **config)
            yield gated(make, f"{name} {config}", shape)


def gated(make, note, shape=SIGNAL, **config):
    def middle(x):
        return kg.GatedRecurrent(make(), **config)(x)

    return Example("GatedRecurrent", around(middle, shape), note=note)


def masked(name):
    """The mask comes from an embedding, and reaches the layer by itself."""

    def build():
        inputs = keras.Input((5,), dtype="int32")
        x = L.Embedding(10, 8, mask_zero=True)(inputs)
        x = kg.FilterGate(name="front")(x)
        x = L.Dropout(0.5)(x)
        return keras.Model(inputs, behind(getattr(L, name)(8)(x)))

    return build


def with_state(name):
    def build():
        inputs = keras.Input(SIGNAL)
        first = getattr(L, name)(8, return_state=True)
        second = getattr(L, name)(8)
        _, *state = first(front(inputs))
        y = second(front(inputs, "front_b"), initial_state=state)
        return keras.Model(inputs, behind(y))

    return build


def given_state(name):
    """The initial state is an input of the model, which has no units."""

    def build():
        inputs = keras.Input(SIGNAL)
        count = 2 if name == "LSTM" else 1
        states = [keras.Input((8,)) for _ in range(count)]
        y = getattr(L, name)(8)(front(inputs), initial_state=states)
        return keras.Model([inputs, *states], behind(y))

    return build


def unread(name, gate=None):
    """Units that closed gates end, and that no other unit reads."""

    def build():
        inputs = keras.Input(SIGNAL)
        subject = getattr(L, name)(8)
        y = subject(front(inputs))
        y = y if gate is None else gate()(y)
        model = keras.Model(inputs, behind(y))
        model.keep_zero = lambda: zero_rows(subject.cell.recurrent_kernel)
        return model

    return build


def zero_rows(kernel, rows=(0, 1, 4, 5)):
    array = np.array(keras.ops.convert_to_numpy(kernel))
    array[list(rows)] = 0
    kernel.assign(array)


def stateful():
    inputs = keras.Input(batch_shape=(4, *SIGNAL))
    y = L.LSTM(8, stateful=True)(front(inputs))
    return keras.Model(inputs, behind(y))


def bidirectional():
    for mode in ("concat", "sum", "ave", "mul", None):
        yield wrapper("Bidirectional", lambda: L.LSTM(8), merge_mode=mode)
    for make in (
        lambda: L.SimpleRNN(8, return_sequences=True),
        lambda: L.GRU(8, return_state=True, use_bias=False),
    ):
        yield wrapper("Bidirectional", make, note=make().__class__.__name__)
    yield Example(
        "Bidirectional",
        around(
            lambda x: L.Bidirectional(
                L.GRU(8), backward_layer=L.LSTM(8, go_backwards=True)
            )(x)
        ),
        STAYS,
        "two SimpleRNN, two GRU or two LSTM",
        "unlike",
    )


def wrapper(name, make, note="", shrinks=IN, why="", shape=SIGNAL, **kwargs):
    told = note or ",".join(f"{k}={v}" for k, v in kwargs.items())
    return Example(
        name,
        around(lambda x: getattr(L, name)(make(), **kwargs)(x), shape),
        shrinks,
        why,
        told,
    )


def distributed():
    both = {"shrinks": ("in", "out")}
    image = {"shape": (3, *IMAGE)}
    for make, more in (
        (lambda: L.Dense(8), both),
        (lambda: L.Dense(8, use_bias=False), both),
        (lambda: L.BatchNormalization(), both),
        (lambda: L.Activation("gelu"), both),
        (lambda: L.Conv2D(8, 3), {**both, **image}),
        (lambda: L.Conv2D(8, 3, padding="same"), {**both, **image}),
        (lambda: L.DepthwiseConv2D(3), {**both, **image}),
        (lambda: L.MaxPooling2D(), {**both, **image}),
        (lambda: L.Flatten(), {**both, **image}),
        (lambda: L.LSTM(8), {"shape": (3, *SIGNAL)}),
        (
            lambda: L.LayerNormalization(),
            {"shrinks": STAYS, "why": TOGETHER},
        ),
    ):
        note = make().__class__.__name__
        yield wrapper("TimeDistributed", make, note=note, **more)


def attention():
    yield Example(
        "MultiHeadAttention",
        around(lambda x: L.MultiHeadAttention(2, 4)(x, x)),
    )
    yield Example(
        "GroupQueryAttention",
        around(lambda x: find("GroupQueryAttention")(4, 4, 2)(x, x)),
    )
    yield Example(
        "GatedAttention",
        around(lambda x: kg.GatedAttention(L.MultiHeadAttention(8, 2))(x, x)),
    )
    yield Example(
        "GatedAttention",
        around(
            lambda x: kg.GatedAttention(find("GroupQueryAttention")(2, 8, 4))(
                x, x
            )
        ),
        note="grouped",
    )
    yield Example("Attention", around(lambda x: L.Attention()([x, x])))
    yield Example(
        "Attention",
        around(lambda x: L.Attention(use_scale=True)([x, x, x])),
        note="scaled",
    )
    yield Example(
        "Attention",
        around(lambda x: L.Attention(score_mode="concat")([x, x])),
        note="concat",
    )
    yield Example(
        "AdditiveAttention",
        around(lambda x: L.AdditiveAttention()([x, x])),
    )


def hidden():
    """Layers of keras.applications that it does not export."""
    scale = "applications.convnext.LayerScale"
    yield Example(scale, around(lambda x: find(scale)(0.5, 8)(x)))
    custom = "applications.inception_resnet_v2.CustomScaleLayer"

    def build():
        inputs = keras.Input(SIGNAL)
        a, b = front(inputs), front(inputs, "front_b")
        y = find(custom)(0.3)([a, b])
        return keras.Model(inputs, behind(y))

    yield Example(custom, build)


EXAMPLES = [
    example
    for group in (
        convolutions,
        channelwise,
        dense,
        bare,
        embedding,
        normalizations,
        recurrent,
        in_loop,
        bidirectional,
        distributed,
        attention,
        hidden,
    )
    for example in group()
]
