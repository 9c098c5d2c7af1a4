"""Everything that works on a model works inside layers seen through.

The truth is the same function built by hand of stock layers.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon.gates import see_through
from tests import helpers
from tests import own_layers

PAIRS = {
    "images": (own_layers.images, own_layers.plain_images),
    "sequences": (own_layers.sequences, own_layers.plain_sequences),
}


@pytest.fixture(params=PAIRS)
def pair(request):
    """A model with layers of your own, the same by hand, and inputs."""
    model, plain = (make() for make in PAIRS[request.param])
    x = np.random.default_rng(0).normal(size=(16, *model.inputs[0].shape[1:]))
    helpers.randomize(model, x=x.astype("float32"))
    plain.set_weights(model.get_weights())
    x = x.astype("float32")
    far = helpers.differences(helpers.run(model, x), helpers.run(plain, x))
    assert max(far) < 1e-5
    return model, plain, x


# Counts -----------------------------------------------------------------------


def test_counts_are_those_of_the_same_by_hand(pair):
    model, plain, _ = pair
    count, by_hand = kg.stats.count(model), kg.stats.count(plain)
    assert count.params == model.count_params() == by_hand.params
    assert count.trainable == by_hand.trainable
    assert count.macs == by_hand.macs
    assert not count.unknown
    sizes = [(x.params, x.macs, x.calls) for x in count.layers]
    assert sizes == [(x.params, x.macs, x.calls) for x in by_hand.layers]


def test_counts_are_those_of_the_plan(pair):
    model, _, _ = pair
    scores = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    small = plan.apply()
    before, after = kg.stats.count(model), kg.stats.count(small)
    assert plan.params == (before.params, after.params)
    assert plan.macs == (before.macs, after.macs)
    assert after.params == small.count_params() < before.params
    compared = kg.stats.compare(model, small)
    assert compared.after.params == after.params


class Partly(L.Layer):
    """Adds a vector, and holds weights that it does not use."""

    def build(self, shape):
        self.shift = self.add_weight(shape=shape[-1:], name="shift")
        self.spare = self.add_weight(shape=(2, 5), name="spare")
        self.wide = L.Dense(7, activation="relu", name="wide")
        self.wide.build(shape)
        self.built = True

    def call(self, x):
        return self.wide(x + self.shift)


@pytest.mark.parametrize("closes", ["before", "own/wide", None])
def test_every_parameter_is_told_of_once(closes):
    x = keras.Input((4,))
    y = L.Dense(6, name="before")(x)
    y = L.Dense(3, name="after")(Partly(name="own")(y))
    model = helpers.randomize(keras.Model(x, y))
    assert kg.stats.count(model).params == model.count_params()
    scores = kg.surgeon.score(model, "l2")
    assert list(scores) == ["before", "own/wide"]
    scores = {n: s for n, s in scores.items() if n == (closes or "before")}
    share = kg.Quantile(0.5 if closes else 0.0)
    plan = kg.surgeon.plan(model, share, scores=scores)
    small = plan.apply()
    assert max(plan.verify(small).values()) < 1e-5
    assert plan.params == (model.count_params(), small.count_params())
    assert kg.stats.count(small).params == small.count_params()


def test_rows_are_called_by_paths():
    names = [x.name for x in kg.stats.count(own_layers.images()).layers]
    assert names == [
        *("stem/conv", "stem/norm", "block/first/conv", "block/first/norm"),
        *("block/second", "twice/first/conv", "twice/first/norm"),
        *("twice/second", "linear/w", "scale/w", "logits"),
    ]


# Scores -----------------------------------------------------------------------

CRITERIA = ["l1", "l2", "fpgm", "batch_norm", "apoz", "mean", "taylor"]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.filterwarnings("ignore:.*have no score by:UserWarning")
@pytest.mark.filterwarnings("ignore:All 'apoz' scores are equal:UserWarning")
def test_scores_are_those_of_the_same_by_hand(pair, criterion):
    model, plain, x = pair
    if criterion == "batch_norm" and len(model.inputs[0].shape) == 3:
        pytest.skip("no batch normalization")
    data, options = None, {}
    if criterion in ("apoz", "mean"):
        data = x
    if criterion == "taylor":
        y = np.random.default_rng(1).normal(
            size=(len(x), model.outputs[0].shape[1])
        )
        data, options = (x, y.astype("float32")), {"loss": "mse"}
    scores, by_hand = (
        kg.surgeon.score(m, criterion, data, **options) for m in (model, plain)
    )
    assert any("/" in name for name in scores)
    for own, other in zip(scores.values(), by_hand.values(), strict=True):
        np.testing.assert_allclose(own, other, rtol=2e-4, atol=1e-6)


def test_random_scores_have_paths(pair):
    model, plain, _ = pair
    scores = kg.surgeon.score(model, "random", seed=3)
    assert scores.keys() == kg.surgeon.score(model, "l2").keys()
    by_hand = kg.surgeon.score(plain, "random", seed=3)
    for own, other in zip(scores.values(), by_hand.values(), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize(
    "ignore, left",
    [
        ("mix/wide", ["embed", "tower/net/wide", "tower/net/out"]),
        ("mix/*", ["tower/net/wide", "tower/net/out"]),
        ("tower", ["embed", "mix/wide"]),
        ("wide", ["embed", "tower/net/out"]),
        (own_layers.FeedForward, ["tower/net/wide", "tower/net/out"]),
        (L.Layer, None),
    ],
)
def test_what_is_inside_can_be_ignored(ignore, left):
    model = own_layers.sequences()
    if left is None:
        with pytest.raises(ValueError, match="excludes all groups"):
            kg.surgeon.score(model, "l2", ignore=ignore)
        return
    assert list(kg.surgeon.score(model, "l2", ignore=ignore)) == left


def test_layers_inside_can_be_ignored_as_objects():
    model = own_layers.sequences()
    every = kg.surgeon.score(model, "l2")
    mix = model.get_layer("mix")
    inside = kg.surgeon.score(model, "l2", ignore=mix.parts[0])
    assert every.keys() - inside.keys() == {"mix/wide"}
    whole = kg.surgeon.score(model, "l2", ignore=[mix])
    assert every.keys() - whole.keys() == {"embed", "mix/wide"}
    with pytest.raises(ValueError, match="not part of model"):
        kg.surgeon.score(model, "l2", ignore=L.Dense(3))


# Surgery ----------------------------------------------------------------------


def masked(model, layer, positions, x):
    """What a model computes with channels of a kernel and bias at zero."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    found = layer(copy)
    for weight in (found.kernel, found.bias):
        values = helpers.numpy_of(weight)
        values[..., positions] = 0
        weight.assign(values)
    return helpers.run(copy, x)


def test_channels_are_deleted_by_path():
    model, x = own_layers.sequences(), np.ones((2, 7, 5), "float32")
    x += np.random.default_rng(0).normal(size=x.shape).astype("float32")
    helpers.randomize(model, x=x)
    before = helpers.fingerprint(model)
    small = kg.surgeon.delete_channels(model, "mix/wide", [0, 3])
    expected = masked(model, lambda m: m.get_layer("mix").parts[0], [0, 3], x)
    assert max(helpers.differences(expected, helpers.run(small, x))) < 1e-5
    # By the layer itself, and by that around it, whose channels they are.
    again = kg.surgeon.delete_channels(
        model, model.get_layer("mix").parts[0], [0, 3]
    )
    assert again.count_params() == small.count_params()
    assert max(helpers.differences(expected, helpers.run(again, x))) < 1e-5
    assert helpers.fingerprint(model) == before


def test_channels_of_a_whole_layer_are_those_it_puts_out():
    model = own_layers.images()
    small = kg.surgeon.delete_channels(model, "linear", [1, 2])
    inside = kg.surgeon.delete_channels(model, "linear/w", [1, 2])
    assert small.count_params() == inside.count_params()
    assert small.count_params() < model.count_params()
    with pytest.raises(ValueError, match="'scale' has no channels of its own"):
        kg.surgeon.delete_channels(model, "scale", [1])
    with pytest.raises(ValueError, match="can only be deleted together"):
        kg.surgeon.delete_channels(model, "block", [1])
    kg.surgeon.delete_channels(model, "block", [1], tied=True)


def test_layers_of_ones_own_are_still_layers_for_surgery():
    model = own_layers.images()
    without = kg.surgeon.delete_layer(model, "scale")
    assert "scale" not in [layer.name for layer in without.layers]
    longer = kg.surgeon.insert_layer(model, "block", L.ReLU(name="new"))
    assert longer.get_layer("new") and type(longer.get_layer("block")) is (
        own_layers.Residual
    )
    other = kg.surgeon.replace_layer(model, "linear", L.Dense(8, name="dense"))
    assert type(other.get_layer("dense")) is L.Dense
    inside = kg.surgeon.replace_layer(
        model, "linear/w", L.Dense(8, name="dense")
    )
    assert isinstance(inside.get_layer("linear"), keras.Model)


# Plans ------------------------------------------------------------------------


def closed_half(model, x=None, **options):
    scores = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores, **options)
    small = plan.apply()
    assert max(plan.verify(small, x).values()) < 1e-5
    return plan, small


@pytest.mark.parametrize("make", [own_layers.images, own_layers.nested])
def test_plans_are_stored_with_paths(make):
    model = helpers.randomize(make())
    before = helpers.fingerprint(model)
    plan, small = closed_half(model)
    assert any("/" in name for name in plan.closed)
    again = kg.surgeon.Plan.from_json(plan.to_json(), model)
    assert again.closed == plan.closed
    assert again.apply().count_params() == small.count_params()
    other = own_layers.sequences()
    with pytest.raises(ValueError, match="was made for a model"):
        kg.surgeon.Plan.from_json(plan.to_json(), other)
    assert helpers.fingerprint(model) == before


def test_thresholds_speak_of_paths():
    model = helpers.randomize(own_layers.sequences())
    scores = kg.surgeon.score(model, "l2", ignore=["tower", "embed"])
    plan = kg.surgeon.plan(model, {"mix/wide": kg.Quantile(0.4)}, scores=scores)
    assert {n: len(at) for n, at in plan.closed.items()} == {"mix/wide": 4}


@pytest.mark.filterwarnings("ignore:Budget.*in larger steps:UserWarning")
def test_budgets_and_steps_reach_inside():
    model = helpers.randomize(own_layers.images())
    scores = kg.surgeon.score(model, "l2")
    budget = kg.Budget(macs=0.5)
    small = kg.surgeon.prune(model, budget, scores=scores)
    share = kg.stats.count(small).macs / kg.stats.count(model).macs
    assert share <= 0.5

    def by_size(candidate):
        return float(candidate.count_params())

    most = kg.Budget(latency=0.6, measure=by_size)
    small = kg.surgeon.prune(model, most, scores=scores)
    assert small.count_params() <= 0.6 * model.count_params()
    seen = []
    kg.surgeon.prune_iteratively(
        model,
        kg.Quantile(0.5),
        steps=2,
        on_step=lambda m, *rest: seen.append(m.count_params()),
    )
    assert seen == sorted(seen, reverse=True)


def test_layers_are_traced_once_in_a_public_call(monkeypatch):
    model = helpers.randomize(own_layers.images())
    traced, trace = [], see_through.trace

    def counted(node, *rest):
        traced.append(node.operation.name)
        return trace(node, *rest)

    monkeypatch.setattr(see_through, "trace", counted)
    scores = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    assert len(traced) == 2 * 7
    small = plan.apply()
    plan.verify(small)
    assert len(traced) == 4 * 7


# Walls that stay --------------------------------------------------------------


@keras.saving.register_keras_serializable("own")
class Cell(L.Layer):
    """A cell of a recurrent layer."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = self.state_size = self.output_size = units
        self.dense = L.Dense(units, activation="tanh")

    def build(self, shape):
        self.dense.build((shape[0], shape[-1] + self.units))
        self.built = True

    def call(self, x, states):
        y = self.dense(keras.ops.concatenate([x, states[0]], axis=-1))
        return y, [y]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


WALLS = {
    "RNN": lambda: L.RNN(Cell(6), return_sequences=True, name="wall"),
    "Bidirectional": lambda: L.Bidirectional(
        L.RNN(Cell(6), return_sequences=True), name="wall"
    ),
    "a loss": lambda: own_layers.Closed(6, name="wall"),
}


@pytest.mark.parametrize("name", WALLS)
def test_walls_that_stay_say_why(name):
    x = keras.Input((7, 5))
    y = L.Dense(8, activation="relu", name="before")(x)
    y = L.Dense(6, name="between")(y)
    y = WALLS[name]()(y)
    model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(y)))
    helpers.randomize(model)
    scores = kg.surgeon.score(model, "l2")
    assert list(scores) == ["before"]
    plan, _ = closed_half(model)
    (row,) = [row for row in plan.rows if row.layer == "wall"]
    assert row.before == row.after
    assert any("kept whole" in why for why in row.why), row.why


# Rules by hand ----------------------------------------------------------------


@keras.saving.register_keras_serializable("own")
class Shifted(L.Layer):
    """Adds a vector; it has a rule, which says no more than that."""

    def build(self, shape):
        self.shift = self.add_weight(shape=shape[-1:], name="shift")

    def call(self, x):
        return x + self.shift


kg.surgeon.register(
    Shifted,
    kg.surgeon.rules.PerChannel(kind="by hand", axes={"shift": ("channel",)}),
)


@keras.saving.register_keras_serializable("own")
class Round(L.Layer):
    """Holds a layer with a rule, and one with a Composite."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = L.Dense(6, activation="relu", name="dense")
        self.shifted = Shifted(name="shifted")
        self.mixed = Mixed(4, name="mixed")

    def build(self, shape):
        self.dense.build(shape)
        self.shifted.build((*shape[:-1], 6))
        self.mixed.build((*shape[:-1], 6))
        self.built = True

    def call(self, x, training=None):
        y = self.shifted(self.dense(x))
        return self.mixed(y, other=x, scale=2.0, training=training)


@keras.saving.register_keras_serializable("own")
class Mixed(L.Layer):
    """A call with tensors and settings by keyword."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.one = L.Dense(units, name="one")
        self.two = L.Dense(units, name="two")

    def build(self, shape):
        self.one.build(shape)
        self.two.build((*shape[:-1], 5))
        self.built = True

    def call(self, x, *, other, scale=1.0, training=None, mask=None):
        return keras.ops.tanh(self.one(x)) + scale * self.two(other)


def mixed_expanded(layer, x, other, scale):
    one = L.Dense(layer.units, activation="tanh", name="one_expanded")
    two = L.Dense(layer.units, name="two_expanded")
    y = one(x) + scale * two(other)
    one.set_weights(layer.one.get_weights())
    two.set_weights(layer.two.get_weights())
    return y


kg.surgeon.register(Mixed, kg.surgeon.rules.Composite(expand=mixed_expanded))


def test_rules_by_hand_win_inside_and_composites_take_any_signature():
    x = keras.Input((5,))
    y = Round(name="round")(x)
    direct = Mixed(4, name="direct")(y, other=x, scale=0.5)
    model = keras.Model(x, L.Dense(2, name="end")(L.ReLU()(direct)))
    helpers.randomize(model)
    before = helpers.fingerprint(model)
    plan, small = closed_half(model)
    assert "round/dense" in plan.closed
    kinds = {row.layer: row.kind for row in plan.rows}
    assert kinds["round/shifted"] == "by hand"
    assert small.count_params() < model.count_params()
    assert helpers.fingerprint(model) == before


@keras.saving.register_keras_serializable("own")
class TrainsOtherwise(L.Layer):
    """Can't be written out, and holds what would have to be."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = L.Dense(6, activation="relu", name="dense")
        self.mixed = Mixed(4, name="mixed")

    def build(self, shape):
        self.dense.build(shape)
        self.mixed.build((*shape[:-1], 6))
        self.built = True

    def call(self, x, training=False):
        y = self.dense(x)
        return self.mixed(y * 2.0 if training else y, other=x)


def test_composites_in_what_cannot_be_written_out_stay():
    x = keras.Input((8,))
    y = L.Dense(5, activation="relu", name="before")(x)
    y = TrainsOtherwise(name="own")(L.Dense(5, name="between")(y))
    model = keras.Model(x, L.Dense(2, name="end")(L.ReLU()(y)))
    helpers.randomize(model)
    plan, small = closed_half(model)
    assert list(plan.closed) == ["before"]
    assert type(small.get_layer("own")) is TrainsOtherwise
    (row,) = [row for row in plan.rows if row.layer == "own"]
    assert any("in training" in why for why in row.why)
    # What puts gates inside leaves it alone, too.
    gated = kg.insert_gates(model, filters=True)
    assert type(gated.get_layer("own")) is TrainsOtherwise
    inputs = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    for training in (False, True):
        expected, got = (
            helpers.numpy_of(m(inputs, training=training))
            for m in (model, gated)
        )
        np.testing.assert_allclose(got, expected, atol=1e-5)
