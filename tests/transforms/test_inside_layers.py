"""Transforms work inside layers that are seen through."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates import transforms as tr
from keras_gates.surgeon.verify import closed_gates
from tests import helpers
from tests import own_layers
from tests.own_layers import FeedForward


def ready(make, seed=0):
    model = make()
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(8, *model.inputs[0].shape[1:])).astype("float32")
    return helpers.randomize(model, x=x), x


def apart(model, other, x):
    return max(
        helpers.differences(helpers.run(model, x), helpers.run(other, x))
    )


def pruned_alike(model, thresholds, x, tolerance=1e-5, **options):
    """What is left, after `verify` has found it equal."""
    before = helpers.fingerprint(model)
    plan = kg.surgeon.plan(model, thresholds, **options)
    small = plan.apply()
    assert max(plan.verify(small, x).values()) < tolerance
    assert helpers.fingerprint(model) == before
    assert plan.params.after == small.count_params()
    return small, plan


# Gates ------------------------------------------------------------------------


def close(model, share=0.4, seed=0):
    """Set that many factors of each gate to 0, the others near 1."""
    rng = np.random.default_rng(seed)
    for gate in helpers.gates_of(model):
        values = rng.uniform(0.6, 0.9, gate.factor.shape)
        if values.ndim:
            values[rng.permutation(values.size)[: int(share * len(values))]] = 0
        gate.factor.assign(values)
    return model


def test_gates_go_inside_and_are_trained_and_dissolve():
    model, x = ready(own_layers.sequences)
    before = helpers.fingerprint(model)
    gated = kg.insert_gates(model, filters=1e-3)
    assert apart(model, gated, x) < 1e-6
    assert helpers.fingerprint(model) == before
    # What is written out is a functional model of the layer's name, unless
    # a gate in it is in the model around it as well.
    assert isinstance(gated.get_layer("tower"), keras.Model)
    inside = gated.get_layer("mix_wide_filter_gate")
    assert any(inside.factor is w for w in gated.trainable_weights)
    plan = kg.surgeon.plan(gated, 0.0)
    assert [*plan.closed] == [
        *("embed_filter_gate", "mix_wide_filter_gate"),
        *("tower/net/wide_filter_gate_1", "tower/net/out_filter_gate"),
    ]
    gated.compile("sgd", "mse")
    y = np.random.default_rng(1).normal(size=(8, 2)).astype("float32")
    start = helpers.numpy_of(inside.factor)
    helpers.fit(gated, x, y, verbose=0, epochs=2)
    assert np.abs(helpers.numpy_of(inside.factor) - start).max() > 1e-6
    close(gated)
    small, plan = pruned_alike(gated, 0.05, x)
    assert not helpers.gates_of(small)
    assert small.count_params() < 0.7 * gated.count_params()
    text = plan.to_json()
    assert kg.surgeon.Plan.from_json(text, gated).closed == plan.closed


def test_gated_models_are_saved_without_the_classes(tmp_path):
    model, x = ready(own_layers.sequences)
    spec = tr.GateSpec(include=["mix/wide", "tower"])
    gated = kg.insert_gates(model, filters=spec)
    gated.save(tmp_path / "gated.keras")
    again = keras.saving.load_model(tmp_path / "gated.keras")
    assert not any(isinstance(x, own_layers.Tower) for x in again.layers)
    assert isinstance(again.get_layer("mix"), keras.Model)
    assert apart(gated, again, x) < 1e-6


@pytest.mark.parametrize("kind", ["layers", "branches", "blocks"])
def test_gates_of_pieces_inside(kind):
    model, x = ready(own_layers.images)
    gated = kg.insert_gates(model, **{kind: True})
    assert apart(model, gated, x) < 1e-5
    gates = kg.surgeon.plan(gated, 0.0).closed
    inside = [name for name in gates if name.startswith(("block/", "twice/"))]
    assert inside
    closed = {name: 0.5 if name == inside[0] else 0.0 for name in gates}
    for gate in helpers.gates_of(gated):
        gate.factor.assign(0.1 * np.ones(gate.factor.shape))
    small, _ = pruned_alike(gated, closed, x)
    assert small.count_params() < gated.count_params()


@pytest.mark.parametrize(
    "spec, inside",
    [
        ({"include": "mix/wide"}, ["mix/wide"]),
        ({"include": "tower"}, ["tower/net/wide", "tower/net/out"]),
        ({"include": FeedForward}, ["embed", "mix_wide"]),
        ({"exclude": ["tower", "embed"]}, ["mix/wide"]),
        ({"exclude": "*/wide"}, ["embed", "tower/net/out"]),
    ],
)
def test_patterns_speak_of_paths_and_of_layers_round_them(spec, inside):
    gated = kg.insert_gates(own_layers.sequences(), filters=tr.GateSpec(**spec))
    names = kg.surgeon.plan(gated, 0.0).closed
    assert [n.partition("_filter_gate")[0] for n in names] == inside


def test_layers_inside_are_patterns_themselves():
    model = own_layers.sequences()
    spec = tr.GateSpec(include=model.get_layer("mix").parts[0])
    gated = kg.insert_gates(model, filters=spec)
    assert list(kg.surgeon.plan(gated, 0.0).closed) == ["mix/wide_filter_gate"]
    # Where no gate is, the class stays.
    assert type(gated.get_layer("tower")) is own_layers.Tower


def test_classes_are_kept_if_asked_for():
    model, x = ready(own_layers.images)
    gated = kg.insert_gates(model, filters=True, written_out=False)
    assert type(gated.get_layer("block")) is own_layers.Residual
    assert list(kg.surgeon.plan(gated, 0.0).closed) == ["w_filter_gate"]
    assert apart(model, gated, x) < 1e-6
    model, x = ready(own_layers.sequences)
    structure = tr.find_structure(model)
    assert any("/" in one.name for one in structure.filters)
    with pytest.raises(ValueError, match="inside 'mix', which keeps"):
        kg.insert_gates(
            model,
            filters=tr.GateSpec(include="mix/wide"),
            written_out=False,
        )


@keras.saving.register_keras_serializable("own")
class Own(L.Layer):
    """A layer with a gate, a gamma, or a ResConv of its own inside."""

    def __init__(self, what, **options):
        super().__init__(**options)
        self.what = what
        self.first = L.Conv2D(6, 3, padding="same", name="first")
        self.second = PARTS[what]()

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 6))
        self.built = True

    def call(self, x, training=None):
        y = ops.tanh(self.first(x))
        if self.what == "gate":
            return ops.relu(self.second(y))
        return ops.relu(self.second(y, training=training))

    def get_config(self):
        return {**super().get_config(), "what": self.what}


PARTS = {
    "gate": lambda: kg.FilterGate(name="gate"),
    "norm": lambda: L.BatchNormalization(name="norm"),
    "res": lambda: kg.ResConv(6, 3, name="res"),
}


def with_gate(kind, around=()):
    def make():
        x = keras.Input((8, 8, 3))
        y = Own(kind, name="own")(x)
        for layer in around:
            y = layer(y)
        y = L.Conv2D(4, 3, name="after")(y)
        return keras.Model(x, L.GlobalAveragePooling2D()(y))

    return make


@pytest.mark.parametrize("kind", ["gate", "norm", "res"])
def test_gates_in_the_users_own_layers(kind):
    model, x = ready(with_gate(kind))
    own = model.get_layer("own")
    thresholds, name = 0.05, f"own/{kind}"
    if kind == "gate":
        own.second.factor.assign([0.9, 0, 1.2, 0, 0.5, 0.7])
    elif kind == "norm":
        own.second.gamma.assign([0.9, 0, 1.2, 0, 0.5, 0.7])
        thresholds = {"batch_norm": 0.05}
    else:
        own.second.m.assign(0.01)
    plan = kg.surgeon.plan(model, thresholds)
    assert [n for n, at in plan.closed.items() if at] == [name]
    small, _ = pruned_alike(model, thresholds, x)
    assert small.count_params() < model.count_params()
    # The same by hand: with its factors at 0 the model is the small one.
    with closed_gates(model, plan.masks()):
        assert apart(model, small, x) < 1e-5


def test_scores_of_gates_inside_are_those_of_the_same_by_hand():
    model, x = ready(with_gate("gate"))
    own = model.get_layer("own")
    plain = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(6, 3, padding="same", activation="tanh"),
            kg.FilterGate(name="gate"),
            L.ReLU(),
            L.Conv2D(4, 3),
            L.GlobalAveragePooling2D(),
        ]
    )
    plain.set_weights(model.get_weights())
    y = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")
    options = {"of": "gates", "loss": "mse"}
    found = kg.surgeon.score(model, "taylor", (x, y), **options)
    by_hand = kg.surgeon.score(plain, "taylor", (x, y), **options)
    assert own.second.name == "gate"
    assert list(found) == ["own/gate"]
    np.testing.assert_allclose(found["own/gate"], by_hand["gate"], rtol=1e-4)


def test_thresholds_are_found_for_gates_inside():
    model, x = ready(with_gate("gate"))
    own = model.get_layer("own")
    own.second.factor.assign([0.9, 0.01, 1.2, 0.02, 0.5, 0.7])
    whole = helpers.run(model, x)
    before = helpers.fingerprint(model)

    def likeness(trial):
        far = helpers.differences(whole, helpers.run(trial, x))
        return 1.0 - max(far)

    found = kg.find_thresholds(model, likeness, max_drop=0.3)
    assert helpers.fingerprint(model) == before
    assert 0.01 < found.thresholds["filter"] <= 1.2
    small, plan = pruned_alike(model, found, x)
    assert 0 < len(plan.closed["own/gate"]) < 6


# What makes sense inside ------------------------------------------------------


def classes_of(model):
    """The names of layers that are still of a user's class."""
    return {
        x.name
        for x in model.layers
        if type(x).__module__ == own_layers.__name__
    }


ALL = {"stem", "block", "twice", "linear", "scale"}
# Transform, and which layers keep their class since nothing is done in them.
INSIDE = {
    "slim": (lambda m: kg.slim(m, 1e-4), {"linear", "scale"}),
    "slim one": (
        lambda m: kg.slim(m, 1e-4, include="block/first/norm"),
        ALL - {"block"},
    ),
    "to_stripconv": (kg.to_stripconv, {"linear", "scale"}),
    "to_stripconv one": (
        lambda m: kg.to_stripconv(m, exclude=["stem", "twice"]),
        ALL - {"block"},
    ),
    "to_resconv": (kg.to_resconv, {"linear", "scale"}),
    "to_resconv one": (
        lambda m: kg.to_resconv(m, include="stem"),
        ALL - {"stem"},
    ),
    "fuse": (kg.fuse, {"linear", "scale"}),
    "separate_shortcuts": (
        kg.separate_shortcuts,
        {"stem", "linear", "scale"},
    ),
    "drop_betas": (lambda m: tr.drop_betas(m, {"batch_norm": 0.0}), ALL),
    "simplify_selections": (tr.simplify_selections, ALL),
    "to_dense": (kg.to_dense, ALL),
}


@pytest.mark.parametrize("name", INSIDE)
def test_only_layers_with_something_to_do_are_written_out(name):
    model, x = ready(own_layers.images)
    before = helpers.fingerprint(model)
    transform, kept = INSIDE[name]
    other = transform(model)
    assert classes_of(other) == kept
    assert apart(model, other, x) < 1e-5
    assert helpers.fingerprint(model) == before


def test_what_the_transforms_did_inside():
    model, _ = ready(own_layers.images)
    slim = kg.slim(model, 1e-4)
    norm = slim.get_layer("block").get_layer("first").get_layer("norm")
    assert isinstance(norm.gamma_regularizer, kg.regularizers.L1)
    striped = kg.to_stripconv(model)
    conv = striped.get_layer("stem").get_layer("conv")
    assert type(conv) is kg.StripConv
    assert list(kg.stats.stripe_shares(striped))[0] == "stem/conv"
    res = kg.to_resconv(model)
    assert type(res.get_layer("stem").get_layer("conv")) is kg.ResConv
    fused = kg.fuse(model)
    names = [x.name for x in fused.get_layer("stem").layers]
    assert "norm" not in names and "conv" in names
    found = tr.find_convolutions(model)
    names = {x.name for x in found.converted}
    assert {"stem/conv", "block/first/conv", "block/second"} < names


def test_values_change_in_a_copy_that_keeps_its_class():
    model, x = ready(with_gate("norm"))
    own = model.get_layer("own")
    own.second.gamma.assign([0.9, 0, 1.2, 0, 0.5, 0.7])
    closed = {"batch_norm": 0.05}
    copy = tr.drop_betas(model, closed)
    beta = helpers.numpy_of(copy.get_layer("own").second.beta)
    assert beta[1] == beta[3] == 0 and np.count_nonzero(beta) == 4
    assert np.count_nonzero(helpers.numpy_of(own.second.beta)) == 6
    assert type(copy.get_layer("own")) is Own
    gated, _ = ready(with_gate("gate"))
    gated.get_layer("own").second.factor.assign([0.9, 0.01, 1.2, 0, 0.5, 0.7])
    binary = kg.binarize(gated, 0.05).get_layer("own")
    values = helpers.numpy_of(binary.second.factor).tolist()
    assert values == [1, 0, 1, 0, 1, 1]
    assert (
        not binary.second.trainable and gated.get_layer("own").second.trainable
    )
    res, x = ready(with_gate("res"))
    ranked = tr.normalize_gammas(res)
    assert type(ranked.get_layer("own")) is Own
    gamma = helpers.numpy_of(ranked.get_layer("own").second.norm.gamma)
    assert np.sqrt(np.mean(gamma**2)) == pytest.approx(1.0, rel=1e-5)
    assert apart(res, ranked, x) < 1e-5
