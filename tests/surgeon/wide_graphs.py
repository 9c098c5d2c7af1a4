"""Random models of many kinds, and a request to prune each.

A seed gives a model, and what is asked of the surgeon: a transform first or
none, gates or scores, thresholds, options. As in `random_graphs`, each block
is drawn by a generator of its own, so that blocks can be left out.
"""

import contextlib
import dataclasses

import keras
import numpy as np
from keras import layers as L

import keras_gates as kg
from tests import helpers
from tests.surgeon import random_blocks as rb
from tests.surgeon import random_graphs as rg
from tests.surgeon import random_joins as rj
from tests.surgeon import random_layers as rl
from tests.surgeon import random_sequences as rs

BLOCKS = 5
KINDS = {"image": 5, "sequence": 5, "vector": 2, "tokens": 3, "masked": 2}
SHAPES = {
    "image": (8, 8, 3),
    "sequence": (6, 4),
    "vector": (7,),
    "tokens": (6,),
    "masked": (6, 4),
}
VOCABULARY = 11
CUSTOM = {
    rl.custom_elementwise: 3,
    rl.custom_mixing: 3,
    rl.changed_afterwards: 2,
}
WEIGHT_CRITERIA = ["l1", "l2", "fpgm", "batch_norm"]
DATA_CRITERIA = ["mean", "apoz"]


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of the surgeon for one model.

    Attributes:
        transform: `(name, model -> model, whether it keeps the function)`,
            or None.
        criterion: how channels are scored; None to go by gates.
        thresholds: as in `surgeon.plan`.
        options: the other arguments of `surgeon.plan`.
        verify: whether `surgeon.verify` is asked as well.
    """

    transform: tuple | None
    criterion: str | None
    thresholds: object
    options: dict
    verify: bool


@dataclasses.dataclass
class Case:
    """A model, inputs for it, and a request.

    Attributes:
        seed: what it was drawn by.
        model: the user's model, with weights.
        x: inputs, in the structure that the model takes.
        request: the `Request`.
        closing: how gates are closed: see `helpers.close`.
        features: the ingredients that were drawn, by name.
        low: whether it computes in half precision.
    """

    seed: int
    model: keras.Model
    x: object
    request: Request
    closing: str
    features: set
    low: bool = False


class WideDraw(rg.Draw):
    """A draw that notes what it drew, and knows odd activations."""

    def __init__(self, seed, features, gated=True):
        super().__init__(seed, gated)
        self.features = features

    def note(self, name):
        self.features.add(name)

    def pick(self, options):
        if options is rb.ACTIVATIONS and self.chance(0.12):
            return self._odd_activation()
        return super().pick(options)

    def _odd_activation(self):
        kinds = {**rl.ACTIVATIONS, **rl.INSTANCES}
        name = super().pick(sorted(kinds))
        self.note(name)
        found = super().pick(kinds[name])
        return found() if name in rl.INSTANCES else found

    def gate(self, x):
        if self.gated:
            self.note("filter gate")
        return super().gate(x)

    def scalar_gate(self, x):
        y = super().scalar_gate(x)
        if self.gated:
            self.note("scalar gate")
        return y


def build(seed, skip=frozenset()):
    """The `Case` of a seed, less the blocks in `skip`."""
    keras.utils.clear_session(free_memory=False)
    # The moving statistics are those of a step in training, with dropout.
    keras.utils.set_random_seed(seed % 2**32)
    features = set()
    start = WideDraw(f"wide {seed}", features)
    kind = start.rng.choices(list(KINDS), list(KINDS.values()))[0]
    count = start.pick([1, 2, 3, 4, 5])
    scored = start.chance(0.4)
    closing = start.pick(["half", "half", "most", "branches", "none"])
    low = start.chance(0.06)
    features |= {kind, "scores" if scored else f"gates: {closing}"}
    if low:
        features.add("mixed_bfloat16")
    with _policy("mixed_bfloat16" if low else "float32"):
        gated = not scored or start.chance(0.25)
        model = _model(seed, kind, count, skip, features, gated)
    x = _inputs(model, seed)
    helpers.randomize(model, seed, x, closing)
    _wake(model, seed)
    request = _request(WideDraw(f"wide {seed} request", features), model)
    return Case(seed, model, x, request, closing, features, low)


@contextlib.contextmanager
def _policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


# The model ------------------------------------------------------------------


def _model(seed, kind, count, skip, features, gated):
    start = WideDraw(f"wide {seed} start", features, gated)
    inputs, x = _start(start, kind)
    seen = []
    for number in range(count):
        if number not in skip:
            draw = WideDraw(f"wide {seed} {number}", features, gated)
            x = _small(_block(draw, x, features))
            seen.append(x)
    heads = WideDraw(f"wide {seed} heads", features, gated)
    outputs = _heads(heads, x, seen, features)
    taken = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    if heads.chance(0.12):
        features.add("user's Model class")
        return rl.Model(taken, outputs, name="random")
    return keras.Model(taken, outputs, name="random")


def _start(d, kind):
    """The inputs by name, and the tensor that the blocks begin with."""
    if kind == "tokens":
        first = keras.Input(SHAPES[kind], name="first", dtype="int32")
        masked = d.chance(0.5)
        x = L.Embedding(VOCABULARY, d.width(), mask_zero=masked)(first)
        if masked:
            d.note("mask_zero")
        if d.chance(0.3):
            places = np.arange(SHAPES[kind][0])[None]
            x = x + L.Embedding(SHAPES[kind][0], x.shape[-1])(places)
            d.note("positions")
        return {"first": first}, d.maybe_gate(x)
    first = keras.Input(SHAPES[kind], name="first")
    inputs = {"first": first}
    if kind == "masked":
        mask = keras.Input(SHAPES[kind][:1], name="mask", dtype="bool")
        inputs["mask"] = mask
        layer = d.pick([L.LSTM, L.GRU, L.SimpleRNN])
        x = layer(d.width(), return_sequences=True)(
            d.maybe_gate(rb.dense(d, first)), mask=mask
        )
        d.note("mask input")
        return inputs, x
    x = first
    if d.chance(0.15):
        x = d.gate(x)
        d.note("gated input")
    if d.chance(0.2):
        inputs["second"] = keras.Input(SHAPES[kind], name="second")
        d.note("two inputs")
        x = rg._join(d, x, inputs["second"])
    return inputs, x


def _block(d, x, features):
    """One drawn block, plain, shared between two calls, or nested."""
    table = _table(x)
    chosen = d.rng.choices(list(table), list(table.values()))[0]
    way = d.rng.choices(["plain", "shared", "nested"], [80, 9, 11])[0]
    if way == "shared":
        features.add("shared")
        return rg._shared(d, x, features)
    features.add(chosen.__name__)
    if way == "nested":
        features.add("nested")
        return rg._nested(d, x, chosen, features)
    return d.maybe_gate(chosen(d, x))


def _table(x):
    rank = rb.rank_of(x)
    table = dict(rj.VECTOR if rank == 0 else rj.IMAGE)
    table = {piece: weight / 2 for piece, weight in table.items()}
    table |= CUSTOM | rs.ANY
    if rank == 0:
        return table | rs.VECTOR
    table |= rs.MAPS
    return table | (rs.SEQUENCE if rank == 1 else rs.IMAGE)


def _small(x):
    """Keeps a tensor from growing block by block."""
    if x.shape[-1] > 24:
        return L.Dense(6, activation="relu", **rb.START)(x)
    if rb.is_image(x) and None not in x.shape[1:] and rb.smallest(x) > 12:
        return rb.layer("MaxPooling", x)(2)(x)
    return x


def _heads(d, x, seen, features):
    if len(x.shape) == 3 and d.chance(0.4):
        x = rs.recurrent_end(d, x)
    return rg._heads(d, x, seen, features)


# Inputs and weights ----------------------------------------------------------


def _inputs(model, seed, batch=4):
    rng = np.random.default_rng(seed)

    def sample(kt):
        shape = (batch, *kt.shape[1:])
        dtype = keras.backend.standardize_dtype(kt.dtype)
        if dtype == "bool":
            length = rng.integers(2, shape[1] + 1, (batch, 1))
            return np.arange(shape[1])[None] < length
        if dtype.startswith("int"):
            length = rng.integers(2, shape[1] + 1, (batch, 1))
            tokens = rng.integers(1, VOCABULARY, shape)
            padded = np.where(np.arange(shape[1]) < length, tokens, 0)
            return padded.astype(dtype)
        return rng.normal(size=shape).astype("float32")

    struct = helpers.functional(model)._inputs_struct
    return keras.tree.map_structure(sample, struct)


def _wake(model, seed):
    """Embeddings of a size that matters: their fan-in is no sum."""
    rng = np.random.default_rng(seed)
    for layer in helpers.layers_of(model):
        if isinstance(layer, L.Embedding):
            layer.embeddings.assign(rng.normal(size=layer.embeddings.shape))


# The request ----------------------------------------------------------------


def _request(d, model):
    scored = "scores" in d.features
    criterion = None
    if scored:
        criterion = d.pick(
            [*WEIGHT_CRITERIA, "l2", "random", "random", *DATA_CRITERIA]
        )
        d.note(f"score: {criterion}")
    transform = None if not d.chance(0.25) else _transform(d)
    if transform is not None:
        d.note(f"transform: {transform[0]}")
    thresholds = _thresholds(d, scored)
    options = {}
    if d.chance(0.15):
        options["keep_at_least"] = d.pick([1, 2, 0.3])
        d.note("floor")
    if d.chance(0.15):
        options["round_to"] = d.pick([2, 3, 4])
        d.note("round_to")
    if d.chance(0.06):
        options["exact"] = False
        d.note("exact=False")
    return Request(transform, criterion, thresholds, options, d.chance(0.3))


def _thresholds(d, scored):
    name, made = d.pick(_RULES[1:] if scored else _RULES + _RULES[:1] * 3)
    d.note(f"thresholds: {name}")
    return made(d)


_RULES = [
    ("number", lambda d: helpers.THRESHOLD),
    ("Quantile", lambda d: kg.Quantile(d.pick([0.2, 0.4, 0.6]))),
    (
        "Quantile by gate",
        lambda d: kg.Quantile(d.pick([0.3, 0.5, 0.7]), scope="gate"),
    ),
    ("Budget of macs", lambda d: kg.Budget(macs=d.pick([0.5, 0.8]))),
    ("Budget of params", lambda d: kg.Budget(params=d.pick([0.5, 0.8]))),
]


def _transform(d):
    gates = {
        "filters": {"filters": True},
        "layers": {"layers": True},
        "branches": {"branches": True},
        "blocks": {"blocks": True},
        "filters and layers": {"filters": True, "layers": True},
    }
    name = d.pick([*gates, "filters", "slim", "stripconv", "resconv"])
    if name in gates:
        asked, start = gates[name], d.pick(["residual", "same"])
        keeps = name == "filters" or start == "same"
        return (
            f"insert_gates {name}",
            lambda model: kg.insert_gates(model, **asked, start=start),
            keeps,
        )
    return {
        "slim": ("slim", lambda model: kg.slim(model, 1e-3), True),
        "stripconv": ("to_stripconv", kg.to_stripconv, True),
        "resconv": ("to_resconv", kg.to_resconv, False),
    }[name]
