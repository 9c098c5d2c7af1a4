"""Random models with gates: one seed, one model, on every backend.

Each block is drawn by a generator of its own, so that leaving some out
(`skip`) leaves the others as they are: `shrink` makes a failing graph small.
"""

import dataclasses
import random

import keras
from keras import layers as L

import keras_gates as kg
from tests import helpers
from tests.surgeon import random_blocks as rb
from tests.surgeon import random_joins as rj

CLOSINGS = ["none", "half", "half", "most", "branches", "ones"]
SCALAR_GATES = [kg.LayerGate, kg.BranchGate, kg.BlockGate]
GATE_SHARE = 0.4


@dataclasses.dataclass
class Case:
    """A model and how it came about."""

    seed: int
    model: keras.Model
    closing: str
    features: set
    blocks: int


class Draw:
    """What the blocks ask: choices, widths, and where to put a gate."""

    def __init__(self, seed, gated=True):
        self.rng = random.Random(seed)
        self.gated = gated

    def pick(self, options):
        return self.rng.choice(options)

    def chance(self, share):
        return self.rng.random() < share

    def width(self):
        return self.pick([3, 4, 4, 6, 6, 8])

    def shuffled(self, items):
        items = list(items)
        self.rng.shuffle(items)
        return items

    def maybe_gate(self, x, share=GATE_SHARE):
        return self.gate(x) if self.chance(share) else x

    def gate(self, x):
        return kg.FilterGate()(x) if self.gated else x

    def shared_gate(self):
        return kg.FilterGate() if self.gated else (lambda x: x)

    def scalar_gate(self, x):
        kind = self.pick(SCALAR_GATES)
        return kind()(x) if self.gated else x


def build(seed, skip=frozenset(), gated=True):
    """The model of a seed.

    Args:
        seed: any integer.
        skip: the numbers of blocks that are left out.
        gated: whether there are gates; the rest is the same without.
    """
    keras.utils.clear_session(free_memory=False)
    # The moving statistics are those of a step in training, with dropout.
    keras.utils.set_random_seed(seed % 2**32)
    start = Draw(f"{seed}", gated)
    kind = start.pick(["image", "image", "image", "sequence", "vector"])
    shape = {"image": (8, 8, 3), "sequence": (10, 4), "vector": (7,)}[kind]
    count = start.pick([2, 3, 4, 5])
    closing = start.pick(CLOSINGS)
    features = {kind, closing}
    inputs = {"first": keras.Input(shape, name="first")}
    x = inputs["first"]
    if start.chance(0.15):
        x = start.gate(x)
        features.add("gated input")
    if start.chance(0.2):
        inputs["second"] = keras.Input(shape, name="second")
        x = _join(Draw(f"{seed} join", gated), x, inputs["second"])
        features.add("two inputs")
    seen = []
    for number in range(count):
        if number not in skip:
            draw = Draw(f"{seed} {number}", gated)
            x = _block(draw, x, features)
            seen.append(x)
    outputs = _heads(Draw(f"{seed} heads", gated), x, seen, features)
    taken = inputs if len(inputs) > 1 else inputs["first"]
    model = keras.Model(taken, outputs, name="random")
    return Case(seed, model, closing, features, count)


def _join(d, x, second):
    if d.chance(0.5):
        return L.Concatenate()([x, rb.activation(d, second)])
    y = rb.same_conv(d, second, x.shape[-1])
    return rj.merged(d, x, d.scalar_gate(y))


def _block(d, x, features):
    """One drawn block, plain, shared between two calls, or nested."""
    table = rj.IMAGE if rb.is_image(x) else rj.VECTOR
    chosen = d.rng.choices(list(table), list(table.values()))[0]
    way = d.rng.choices(["plain", "shared", "nested"], [80, 8, 12])[0]
    features.add(chosen.__name__)
    if way == "plain":
        return d.maybe_gate(chosen(d, x))
    features.add(way)
    if way == "shared":
        return _shared(d, x, features)
    return _nested(d, x, chosen, features)


def _shared(d, x, features):
    """One layer on two tensors of one shape."""
    layer = _shareable(d, x)
    twin = d.maybe_gate(d.pick([rb.activation, rb.scalar_operation])(d, x))
    a, b = d.maybe_gate(layer(x), 0.3), d.maybe_gate(layer(twin), 0.3)
    if d.chance(0.3):
        gate = d.shared_gate()
        a, b = gate(a), gate(b)
        features.add("shared gate")
    if d.chance(0.5):
        return L.Concatenate()([a, b])
    return rj.merged(d, a, b)


def _shareable(d, x):
    options = {
        "use_bias": d.chance(0.5),
        "activation": d.pick([None, "relu"]),
        **rb.START,
    }
    kinds = [
        lambda: L.Dense(d.width(), **options),
        lambda: L.BatchNormalization(),
    ]
    if rb.is_image(x):
        kinds += 2 * [
            lambda: rb.layer("Conv", x)(
                d.width(), d.pick([1, 3]), padding="same", **options
            )
        ]
    return d.pick(kinds)()


def _nested(d, x, chosen, features):
    """A model of its own, called once, or twice on different tensors."""
    if d.chance(0.3):
        return _nested_wide(d, x, features)
    inner = _sequential(d, x) if d.chance(0.3) else _inner(d, x, chosen)
    if d.chance(0.5):
        return d.maybe_gate(inner(x))
    features.add("nested twice")
    twin = d.maybe_gate(d.pick([rb.activation, rb.batch_norm])(d, x))
    a, b = inner(x), inner(twin)
    if d.chance(0.4):
        return L.Concatenate()([a, b])
    return d.maybe_gate(rj.merged(d, a, b))


def _nested_wide(d, x, features):
    """A model of its own with two inputs and two outputs."""
    first, second = keras.Input(x.shape[1:]), keras.Input(x.shape[1:])
    y = d.scalar_gate(rj.branch(d, first))
    z = d.scalar_gate(rj.branch(d, second))
    out = rj.merged(d, rj.shortcut(d, first, y), y)
    inner = keras.Model([first, second], [out, z])
    a = d.maybe_gate(rb.activation(d, x))
    b = d.maybe_gate(rb.batch_norm(d, x))
    parts = list(inner([a, b]))
    features.add("nested wide")
    if d.chance(0.4):
        parts += inner([b, a])
        features.add("nested twice")
    d.rng.shuffle(parts)
    return L.Concatenate()(parts[: d.pick([2, 2, 3])])


def _inner(d, x, chosen):
    start = keras.Input(x.shape[1:])
    y = chosen(d, start)
    y = d.maybe_gate(L.ReLU()(y) if y is start else y)
    if d.chance(0.5):
        y = d.maybe_gate(d.pick([rb.conv, rb.activation])(d, y))
    return keras.Model(start, y)


def _sequential(d, x):
    parts = [keras.Input(x.shape[1:])]
    for _ in range(2):
        options = {"activation": d.pick(rb.ACTIVATIONS), **rb.START}
        parts.append(L.Dense(d.width(), **options))
        if d.chance(0.5):
            parts.append(L.BatchNormalization())
        if d.chance(0.5) and d.gated:
            parts.append(kg.FilterGate())
    return keras.Sequential(parts)


def _heads(d, x, seen, features):
    """One or more outputs, as a tensor, a list or a dict."""
    outputs = [_head(d, x)]
    if seen and d.chance(0.25):
        outputs.append(d.pick(seen))
        features.add("inner output")
    if d.chance(0.2):
        outputs.append(_head(d, x))
    if len(outputs) == 1:
        return outputs[0]
    features.add("outputs")
    if d.chance(0.5):
        return {f"out_{i}": y for i, y in enumerate(outputs)}
    return outputs


def _head(d, x):
    if rb.is_image(x):
        kinds = [L.Flatten(), rb.layer("GlobalAveragePooling", x)()]
        kinds += [rb.layer("GlobalMaxPooling", x)()]
        x = d.pick(kinds)(x)
    if d.chance(0.7):
        options = {"activation": d.pick(["gelu", "tanh"]), **rb.START}
        x = d.maybe_gate(L.Dense(d.width(), **options)(x), 0.7)
    last = d.pick([None, None, "softmax"])
    return L.Dense(3, activation=last, **rb.START)(x)


def prepared(seed, skip=frozenset(), closing=None):
    """A case with weights, and inputs for it."""
    case = build(seed, skip)
    case.closing = closing or case.closing
    x = helpers.inputs_for(case.model, seed)
    helpers.randomize(case.model, seed, x, case.closing)
    return case, x


def shrink(fails, blocks):
    """The blocks that a graph can do without so that it still fails.

    Args:
        fails: `skip -> bool`.
        blocks: how many blocks the graph has.
    """
    skip = set()
    for number in range(blocks):
        if fails(frozenset(skip | {number})):
            skip.add(number)
    return frozenset(skip)
