"""Multiply-adds by hand: attention, products of tensors, steps of time."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon import plan
from keras_gates.surgeon import prune
from keras_gates.surgeon import score
from tests import helpers
from tests.surgeon import small_models as sm

# Keras hands torch tensors to np.array, and `pytest.warns` sees it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)


def of(function, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, function(*inputs))


def macs(model):
    count = kg.stats.count(model)
    assert not count.unknown
    return count.macs


def projections(steps, others, width, heads, key, value, out):
    by_query = steps * (width * heads * key + heads * value * out)
    by_key = others * width * heads * (key + value)
    return by_query + by_key + heads * steps * others * (key + value)


def gated_heads(x):
    if (
        "use_gate"
        not in keras.layers.MultiHeadAttention.__init__.__code__.co_varnames
    ):
        pytest.skip("this Keras has no gated attention")
    return L.MultiHeadAttention(4, 8, use_gate=True)(x, x)


class OwnCell(L.Layer):
    """A cell that no rule knows."""

    state_size = output_size = 4

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, x, states):
        y = ops.matmul(x, self.kernel) + states[0]
        return y, [y]


def inner():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), L.Conv2D(5, 3), L.Flatten(), L.Dense(2)]
    )


GRU = 3 * 6 * (5 + 6)
COUNTS = [
    (
        "self-attention",
        lambda: of(lambda x: L.MultiHeadAttention(4, 8)(x, x), (10, 32)),
        projections(10, 10, 32, 4, 8, 8, 32),
    ),
    (
        "cross-attention, by keywords",
        lambda: of(
            lambda x, y: L.MultiHeadAttention(2, 3, 5, output_shape=7)(
                query=x, value=y, key=y
            ),
            (10, 8),
            (6, 8),
        ),
        projections(10, 6, 8, 2, 3, 5, 7),
    ),
    (
        "keys of another width",
        lambda: of(
            lambda x, y, z: L.MultiHeadAttention(2, 3)(x, y, z),
            (4, 5),
            (6, 7),
            (6, 9),
        ),
        4 * 5 * 6 + 6 * 9 * 6 + 6 * 7 * 6 + 4 * 6 * 5 + 2 * 4 * 6 * (3 + 3),
    ),
    (
        "attention along one of two axes",
        lambda: of(
            lambda x: L.MultiHeadAttention(2, 4, attention_axes=2)(x, x),
            (3, 6, 8),
        ),
        4 * 3 * 6 * 8 * 8 + 2 * 3 * 6 * 6 * (4 + 4),
    ),
    (
        "attention with a gate",
        lambda: of(gated_heads, (10, 32)),
        projections(10, 10, 32, 4, 8, 8, 32) + 10 * 32 * 32,
    ),
    (
        "grouped queries",
        lambda: of(lambda x: L.GroupQueryAttention(8, 6, 2)(x, x), (10, 32)),
        10 * 32 * 48 * 2 + 10 * 32 * 16 * 2 + 6 * 10 * 10 * 16,
    ),
    (
        "Attention",
        lambda: of(lambda q, v: L.Attention()([q, v]), (4, 6), (5, 6)),
        4 * 5 * (6 + 6),
    ),
    (
        "Attention with keys",
        lambda: of(
            lambda q, v, k: L.Attention()([q, v, k]), (4, 6), (5, 9), (5, 6)
        ),
        4 * 5 * (6 + 9),
    ),
    (
        "AdditiveAttention",
        lambda: of(lambda q, v: L.AdditiveAttention()([q, v]), (4, 6), (5, 6)),
        4 * 5 * 6,  # the scores are sums
    ),
    (
        "dot_product_attention",
        lambda: of(
            lambda q, k: ops.dot_product_attention(q, k, k),
            (4, 2, 6),
            (5, 2, 6),
        ),
        2 * 4 * 5 * (6 + 6),
    ),
    ("matmul", lambda: of(ops.matmul, (4, 5), (5, 6)), 4 * 5 * 6),
    (
        "matmul with a constant",
        lambda: of(lambda x: x @ np.ones((5, 7), "float32"), (4, 5)),
        4 * 5 * 7,
    ),
    (
        "matmul of a constant",
        lambda: of(lambda x: ops.matmul(np.ones((7, 4), "float32"), x), (4, 5)),
        7 * 4 * 5,
    ),
    (
        "einsum",
        lambda: of(
            lambda a, b: ops.einsum("bihd,bjhd->bhij", a, b),
            (4, 2, 6),
            (5, 2, 6),
        ),
        2 * 4 * 5 * 6,
    ),
    (
        "einsum with a constant and an ellipsis",
        lambda: of(
            lambda x: ops.einsum(
                "...d,de->...e", x, np.ones((6, 7), "float32")
            ),
            (4, 6),
        ),
        4 * 6 * 7,
    ),
    (
        "einsum that sums nothing",
        lambda: of(lambda a, b: ops.einsum("bi,bi->bi", a, b), (4,), (4,)),
        0,
    ),
    (
        "einsum of three, from the left",
        lambda: of(
            lambda x: ops.einsum(
                "bij,jk,kl->bil", x, np.ones((5, 6)), np.ones((6, 7))
            ),
            (4, 5),
        ),
        4 * 5 * 6 + 4 * 6 * 7,
    ),
    (
        "einsum of three, from the right",
        lambda: of(
            lambda x: ops.einsum(
                "bij,jk,kl->bil", x, np.ones((5, 6)), np.ones((6, 2))
            ),
            (9, 5),
        ),
        5 * 6 * 2 + 9 * 5 * 2,
    ),
    (
        "einsum of three, two of them data",
        lambda: of(
            lambda x, y: ops.einsum("bi,ijk,bj->bk", x, np.ones((4, 3, 8)), y),
            (4,),
            (3,),
        ),
        # What they make with each other is not summed.
        4 * 3 * 8,
    ),
    (
        "einsum of four, with an ellipsis",
        lambda: of(
            lambda x: ops.einsum(
                "...a,ab,bc,cd->...d",
                x,
                np.ones((7, 2)),
                np.ones((2, 9)),
                np.ones((9, 5)),
            ),
            (6, 7),
        ),
        2 * 9 * 5 + 6 * 7 * 2 + 6 * 2 * 5,
    ),
    (
        "einsum of six, from the right",
        lambda: of(
            lambda x: ops.einsum(
                "bi,ij,jk,kl,lm,mn->bn",
                x,
                *(np.ones((4, 4)) for _ in range(4)),
                np.ones((4, 1)),
            ),
            (4,),
        ),
        5 * 16 - 12,
    ),
    (
        "einsum without an arrow",
        lambda: of(lambda x: ops.einsum("bij,jk", x, np.ones((5, 6))), (4, 5)),
        4 * 5 * 6,
    ),
    (
        "einsum of one that sums",
        lambda: of(lambda a: ops.einsum("bij->bi", a), (4, 3)),
        0,
    ),
    (
        "einsum of three that sums nothing",
        lambda: of(
            lambda a, b: ops.einsum("bi,bi,i->bi", a, b, np.ones(4)), (4,), (4,)
        ),
        0,
    ),
    (
        "einsum of one",
        lambda: of(lambda a: ops.einsum("bij->bji", a), (4, 3)),
        0,
    ),
    (
        "tensordot",
        lambda: of(
            lambda x: ops.tensordot(x, np.ones((4, 5, 3), "float32"), 2),
            (2, 4, 5),
        ),
        2 * 4 * 5 * 3,
    ),
    (
        "dot",
        lambda: of(lambda x: ops.dot(x, np.ones((5, 2), "float32")), (4, 5)),
        40,
    ),
    (
        "Dot",
        lambda: of(lambda a, b: L.Dot(2)([a, b]), (4, 6), (5, 6)),
        4 * 5 * 6,
    ),
    (
        "Dot, axes",
        lambda: of(lambda a, b: L.Dot((1, 2))([a, b]), (6, 4), (5, 6)),
        4 * 5 * 6,
    ),
    (
        "EinsumDense of two axes",
        lambda: of(L.EinsumDense("abc,cde->abde", (4, 2, 3)), (4, 6)),
        4 * 6 * 2 * 3,
    ),
    ("RNN", lambda: of(L.RNN(L.GRUCell(6)), (7, 5)), 7 * GRU),
    (
        "RNN of cells in a stack",
        lambda: of(L.RNN([L.GRUCell(6), L.LSTMCell(2)]), (7, 5)),
        7 * (GRU + 4 * 2 * (6 + 2)),
    ),
    (
        "Bidirectional round RNN",
        lambda: of(L.Bidirectional(L.RNN(L.GRUCell(6))), (7, 5)),
        2 * 7 * GRU,
    ),
    (
        "ConvLSTM2D",
        lambda: of(L.ConvLSTM2D(4, 3, padding="same"), (5, 8, 8, 3)),
        5 * 8 * 8 * 9 * (3 + 4) * 16,
    ),
    (
        "ConvLSTM1D, sequences",
        lambda: of(L.ConvLSTM1D(4, 3, return_sequences=True), (5, 8, 3)),
        5 * 6 * 3 * (3 + 4) * 16,
    ),
    (
        "TimeDistributed model",
        lambda: of(L.TimeDistributed(inner()), (4, 8, 8, 3)),
        4 * (36 * 27 * 5 + 180 * 2),
    ),
    (
        "TimeDistributed layer that is kept whole",
        lambda: of(
            L.TimeDistributed(L.EinsumDense("abc,cde->abde", (4, 2, 3))),
            (2, 4, 6),
        ),
        2 * 4 * 6 * 2 * 3,
    ),
    (
        "a comparison",
        lambda: of(lambda x: ops.cast(ops.not_equal(x, 0), "float32"), (4,)),
        0,
    ),
]


@pytest.mark.parametrize(
    "make, expected", [x[1:] for x in COUNTS], ids=[x[0] for x in COUNTS]
)
def test_counts(make, expected):
    assert macs(make()) == expected


def test_a_cell_that_no_rule_knows_is_named():
    count = kg.stats.count(of(L.RNN(OwnCell(), name="own"), (5, 3)))
    assert count.unknown == ("own",)


def test_a_plan_counts_as_stats_do():
    """Bare operations, too; and what is left counts at its final size."""
    inputs = keras.Input((10, 8))
    x = L.Dense(16, activation="relu", name="up")(inputs)
    x = kg.FilterGate(name="gate")(x)
    x = L.Dense(8)(x)
    x = x + L.MultiHeadAttention(2, 4)(x, x)
    x = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
    model = keras.Model(inputs, L.Dense(2)(x))
    sm.set_gates(model, gate=np.linspace(0.05, 0.95, 16))
    found = plan(model, 0.5)
    small = found.apply()
    assert found.macs == (macs(model), macs(small))
    assert macs(model) - macs(small) == 8 * 10 * (8 + 8)


# Sizes that are open ------------------------------------------------------


def text_model():
    ids = keras.Input((None,), dtype="int32", name="ids")
    h = L.Embedding(100, 16)(ids)
    for name in ("c1", "c2"):
        h = L.Conv1D(32, 7, padding="same", activation="relu", name=name)(h)
    h = L.GlobalMaxPooling1D()(h)
    model = keras.Model(ids, L.Dense(2)(L.Dense(64, activation="relu")(h)))
    rng = np.random.default_rng(0)
    for w in model.weights:
        w.assign(rng.normal(size=tuple(w.shape)) * 0.3)
    return model


def image_model():
    inputs = keras.Input((None, None, 3), name="image")
    x = kg.FilterGate(name="gate")(L.Conv2D(40, 3, name="c1")(inputs))
    model = keras.Model(inputs, L.Conv2D(4, 3, name="c2")(x))
    return sm.set_gates(model, gate=np.linspace(0.05, 0.95, 40))


def test_layers_that_are_not_counted_are_named():
    model = text_model()
    scores = score(model, "l2")
    with pytest.warns(UserWarning, match="'c1', 'c2'.*sizes="):
        plan(model, kg.Budget(macs=0.5), scores=scores)


@pytest.mark.parametrize("sizes", [(50,), [(50,)], {"ids": (50,)}])
def test_a_share_at_a_nominal_size(sizes):
    model = text_model()
    scores = score(model, "l2")
    budget = kg.Budget(macs=0.5, sizes=sizes)
    found = plan(model, budget, scores=scores)
    small = found.apply()
    whole = kg.stats.count(model, (50,)).macs
    left = kg.stats.count(small, (50,)).macs
    assert found.macs == (whole, left)
    assert 0.49 * whole <= left <= 0.5 * whole
    assert "with inputs of" in str(found)
    assert "unknown" not in str(found)
    again = kg.surgeon.Plan.from_json(found.to_json(), model)
    assert again.options == found.options
    assert again.macs == found.macs
    assert str(again) == str(found)


@pytest.mark.parametrize("sizes", [(64, 64, 3), {"image": (48, 80, 3)}])
def test_images_of_a_nominal_size(sizes):
    model = image_model()
    small = prune(model, kg.Budget(macs=0.5, sizes=sizes))
    assert small.get_layer("c1").filters == 20


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'image'"):
        plan(image_model(), kg.Budget(macs=0.5, sizes=(64, 64, 4)))


def test_nothing_to_count_is_an_error_with_its_remedy():
    with pytest.raises(ValueError, match="'c1', 'c2'.*sizes="):
        plan(image_model(), kg.Budget(macs=0.5))


def test_steps_count_at_a_nominal_size():
    model = text_model()
    budget = kg.Budget(macs=0.4, sizes=(50,))
    small = kg.surgeon.prune_iteratively(model, budget, steps=2)
    whole = kg.stats.count(model, (50,)).macs
    left = kg.stats.count(small, (50,)).macs
    assert 0.39 * whole <= left <= 0.4 * whole


# Gates weighed by what goes with them ------------------------------------


@keras.saving.register_keras_serializable("tests")
class NoRule(helpers.Opaque):
    """As wide as its input; it multiplies by itself, which nobody counts."""

    def function(self, x):
        return x * ops.flip(x, -1)


def test_a_branch_that_costs_nothing_is_named():
    inputs = keras.Input((6, 4))
    x = L.Dense(8, name="first")(inputs)
    y = L.BatchNormalization(name="norm")(x)
    y = NoRule(name="strange")(y)
    x = L.Add(name="join")([x, y])
    model = keras.Model(inputs, L.Dense(3)(x))
    spec = kg.transforms.GateSpec(
        strength=0.1, weigh="macs", pieces=[("norm", "join")]
    )
    with pytest.warns(UserWarning, match="no penalty to 'norm'.*'strange'"):
        kg.insert_gates(model, branches=spec)


def test_gates_are_weighed_at_sizes_that_are_given():
    inputs = keras.Input((None, None, 3))
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="a")(inputs)
    x = L.GlobalAveragePooling2D()(x)
    x = L.Dense(50, activation="relu", name="b")(x)
    model = keras.Model(inputs, L.Dense(4)(x))
    spec = kg.transforms.GateSpec(strength=1.0, weigh="macs")
    found = []
    for size in (8, 64):
        gated = kg.insert_gates(model, filters=spec, sizes=(size, size, 3))
        gate = gated.get_layer("a_filter_gate")
        penalty = float(helpers.numpy_of(gate.regularizer(gate.factor)))
        own = size * size * 27 * 8
        expected = (own + 400) / (own + 400 + 200)
        assert penalty == pytest.approx(expected, rel=1e-5)
        found.append(penalty)
    assert found[0] < found[1]
