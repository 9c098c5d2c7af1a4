"""Ignored layers, and warnings when scores rank nothing."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

pytestmark = pytest.mark.once

score = kg.surgeon.score


def network(activation="relu"):
    """Two layers, a normalized one, and a nested model."""
    inner = keras.Sequential(
        [
            keras.Input((7,)),
            L.Dense(6, activation=activation, name="deep"),
            L.Dense(5, activation=activation, name="deeper"),
        ],
        name="inner",
    )
    x = keras.Input((4,), name="image")
    y = L.Dense(8, activation=activation, name="mlp0")(x)
    y = L.Dense(7, name="mlp1")(y)
    y = L.BatchNormalization(name="norm")(y)
    y = L.Activation(activation, name="act")(y)
    return keras.Model(x, L.Dense(3, name="head")(inner(y)))


def trained(activation="relu"):
    return helpers.randomize(network(activation))


ALL = {"mlp0", "mlp1", "inner/deep", "inner/deeper"}
IGNORED = {
    "name": ("mlp0", {"mlp0"}),
    "list": (["mlp0", "mlp1"], {"mlp0", "mlp1"}),
    "tuple": (("mlp0",), {"mlp0"}),
    "set": ({"mlp0"}, {"mlp0"}),
    "nothing": ((), set()),
    "none": (None, set()),
    "pattern": ("mlp*", {"mlp0", "mlp1"}),
    "letter": ("mlp?", {"mlp0", "mlp1"}),
    "path": ("inner/deep", {"inner/deep"}),
    "name of one inside": ("deeper", {"inner/deeper"}),
    "nested model": ("inner", {"inner/deep", "inner/deeper"}),
    "without a group": ("head", set()),
    "an input": (["image", "mlp0"], {"mlp0"}),
    "what follows it": ("norm", {"mlp1"}),
    "its activation": (["act"], {"mlp1"}),
    "class": (L.BatchNormalization, {"mlp1"}),
    "class of models": (keras.Sequential, {"inner/deep", "inner/deeper"}),
    "mixed": (["deep", L.Activation, "head"], {"inner/deep", "mlp1"}),
}


@pytest.mark.parametrize("form", IGNORED)
def test_ignored_layers(form):
    ignore, out = IGNORED[form]
    model = trained()
    assert set(score(model, "l2", ignore=ignore)) == ALL - out


def test_layers_themselves_may_be_ignored():
    model = trained()
    inner = model.get_layer("inner")
    for layers, out in (
        (model.get_layer("mlp0"), {"mlp0"}),
        ([model.get_layer("mlp0"), "mlp1"], {"mlp0", "mlp1"}),
        ([inner.get_layer("deep")], {"inner/deep"}),
        (inner, {"inner/deep", "inner/deeper"}),
    ):
        assert set(score(model, "l2", ignore=layers)) == ALL - out
        chosen = kg.transforms.GateSpec(exclude=layers)
        gated = kg.insert_gates(model, filters=chosen, branches=None)
        assert len(helpers.gates_of(gated)) == len(ALL - out)


def test_what_an_addition_ties_is_ignored_together():
    x = keras.Input((4,))
    y = L.Dense(6, name="a")(x)
    z = L.Dense(6, name="c")(L.Dense(5, activation="relu", name="b")(y))
    y = L.Add(name="add")([y, z])
    model = helpers.randomize(keras.Model(x, L.Dense(2)(y)))
    for name in ("a", "c", "add"):
        assert set(score(model, "l2", ignore=name)) == {"b"}


@pytest.mark.parametrize(
    "ignore, error, words",
    [
        ("mpl0", ValueError, "'mpl0'.*matches no layer.*Near it: .*'mlp0'"),
        (["mlp0", "conv*"], ValueError, r"'conv\*'.*matches no layer"),
        (L.Conv2D, ValueError, "Conv2D.*matches no layer"),
        (L.Dense(2, name="other"), ValueError, "'other'.*not part of model"),
        (3, TypeError, "layer names, patterns, layer classes and layers"),
        (["mlp0", None], TypeError, "Received: None"),
        ("*", ValueError, "`ignore` excludes all groups.*'mlp0', 'mlp1'"),
        (L.Dense, ValueError, "`ignore` excludes all groups"),
    ],
)
def test_bad_ignore(ignore, error, words):
    with pytest.raises(error, match=words):
        score(trained(), "l2", ignore=ignore)


def gated():
    x = keras.Input((4,))
    y = L.Dense(6, activation="relu", name="first")(x)
    y = kg.FilterGate(name="gate1")(y)
    y = kg.FilterGate(name="gate2")(L.Dense(5, activation="relu")(y))
    return keras.Model(x, L.Dense(2, name="head")(y))


@pytest.mark.parametrize(
    "ignore, left",
    [
        ("gate1", {"gate2"}),
        ("gate?", None),
        ("first", {"gate2"}),  # the gate on its channels
        ("head", {"gate1", "gate2"}),
        (kg.FilterGate, None),
    ],
)
def test_gates_may_be_ignored(ignore, left):
    options = {"of": "gates", "ignore": ignore}
    if left is None:
        with pytest.raises(ValueError, match="excludes all gates"):
            score(gated(), "random", **options)
    else:
        assert set(score(gated(), "random", **options)) == left


def test_a_model_without_gates_has_none_to_score():
    x = np.zeros((4, 4), "float32")
    with pytest.raises(ValueError, match="no gates to score"):
        score(trained(), "taylor", (x, x), of="gates", loss="mse")


# What ranks nothing ----------------------------------------------------------


def data(model, count=64):
    x = helpers.inputs_for(model, batch=count)
    return x, helpers.run(model, x)[0].astype("float32")


@pytest.mark.parametrize("activation", ["gelu", "tanh", "sigmoid", "silu"])
def test_apoz_where_nothing_is_ever_zero(activation):
    model = trained(activation)
    x, _ = data(model)
    with helpers.told() as told:
        score(model, "apoz", x)
    (message,) = told
    # GELU of what is far below zero is 0 in float32.
    count = "of 4 groups" if activation == "gelu" else "4 of 4 groups"
    for word in ("'apoz'", count, "'mlp0'", '"mean"', "zero"):
        assert word in message


def test_apoz_where_something_is_zero_says_nothing():
    model = trained("relu")
    with helpers.told() as told:
        score(model, "apoz", data(model)[0])
    assert not told


def test_fresh_gammas_are_all_equal():
    with helpers.told() as told:
        found = score(network(), "batch_norm")
    assert set(found) == {"mlp1"}
    lost, equal = told
    assert "3 of 4 groups have no score" in lost
    assert "no gamma" in lost and "'inner/deep'" in lost
    assert "'batch_norm' scores are equal" in equal and "'mlp1'" in equal


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm"])
def test_equal_weights(criterion):
    model = trained()
    layer = model.get_layer("mlp0")
    layer.kernel.assign(np.ones(layer.kernel.shape))
    after = model.get_layer("mlp1")
    after.kernel.assign(np.full(after.kernel.shape, 0.5))
    with helpers.told() as told:
        found = score(model, criterion)
    assert np.isfinite(found["mlp0"]).all()
    assert len(told) == 1 and "'mlp0'" in told[0] and "equal" in told[0]


def test_without_any_gamma_there_is_no_score():
    x = keras.Input((4,))
    y = L.Dense(6, activation="relu", name="only")(x)
    model = keras.Model(x, L.Dense(2)(y))
    with pytest.raises(ValueError, match="No group has a gamma.*'only'"):
        score(model, "batch_norm")


@pytest.mark.parametrize("normalize", ["mean", "max", "sum", None])
def test_scores_of_zero_stay_zero(normalize):
    model = trained()
    model.get_layer("mlp0").set_weights(
        [np.zeros((4, 8), "float32"), -np.ones(8, "float32")]
    )
    with helpers.told() as told:
        found = score(model, "mean", data(model)[0], normalize=normalize)
    assert (found["mlp0"] == 0).all()
    assert "'mlp0'" in told[0]


@pytest.mark.parametrize("criterion", ["mean", "apoz", "taylor"])
def test_data_with_nan(criterion):
    model = trained()
    x, y = data(model)
    # A ReLU of TensorFlow on a CPU makes 0 of NaN; a loss does not.
    (y if criterion == "taylor" else x)[3, 2] = np.nan
    with pytest.raises(ValueError, match="not finite.*NaN"):
        score(model, criterion, (x, y), loss="mse")


# Labels at which the loss is at its least ------------------------------------

LOSSES = {
    "crossentropy": ("softmax", "categorical_crossentropy"),
    "binary": ("sigmoid", "binary_crossentropy"),
    "divergence": ("softmax", "kl_divergence"),
    "squares": ("linear", "mse"),
    "logits": (
        "linear",
        keras.losses.CategoricalCrossentropy(from_logits=True),
    ),
}


def classifier(head):
    x = keras.Input((4,))
    y = L.Dense(12, activation="relu", name="a")(x)
    y = L.Dense(12, activation="relu", name="b")(y)
    model = keras.Model(x, L.Dense(3, activation=head)(y))
    return helpers.randomize(model)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [32, 200])
def test_soft_predictions_as_labels(loss, size):
    head, function = LOSSES[loss]
    model = classifier(head)
    x = helpers.inputs_for(model, batch=200)
    # By predict: in other batches than those of the score.
    y = model.predict(x, batch_size=50, verbose=0)
    if loss == "logits":
        y = helpers.numpy_of(keras.ops.softmax(y))
    with helpers.told() as told:
        score(model, "taylor", (x, y), loss=function, batch_size=size)
    assert len(told) == 1, told
    assert "hard labels" in told[0]
    assert "rounding noise" in told[0] or "are equal" in told[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_hard_labels_say_nothing(loss):
    head, function = LOSSES[loss]
    model = classifier(head)
    x = helpers.inputs_for(model, batch=200)
    y = model.predict(x, verbose=0)
    y = np.eye(3, dtype="float32")[y.argmax(-1)]
    with helpers.told() as told:
        score(model, "taylor", (x, y), loss=function)
    assert not told


def test_a_well_trained_model_says_nothing():
    """Sure of all labels: gradients are small, and still say something."""
    keras.utils.set_random_seed(0)
    model = classifier("softmax")
    x = helpers.inputs_for(model, batch=256)
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    model.compile(
        keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy"
    )
    x, y = (a[np.abs(x[:, :2]).min(1) > 0.3] for a in (x, y))
    model.fit(x, y, epochs=150, batch_size=len(x), verbose=0)
    assert model.evaluate(x, y, verbose=0) < 1e-2
    with helpers.told() as told:
        score(model, "taylor", (x, y))
    assert not told


def test_labels_that_are_all_alike_say_nothing():
    model = classifier("softmax")
    x = helpers.inputs_for(model, batch=40)
    with helpers.told() as told:
        score(
            model,
            "taylor",
            (x, np.zeros(40, int)),
            loss="sparse_categorical_crossentropy",
        )
    assert not told


# Models that come from disk --------------------------------------------------


def test_scores_hold_for_a_model_that_was_saved(tmp_path):
    model = trained()
    scores = score(model, "l2")
    assert set(scores) == ALL
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    small = kg.surgeon.prune(again, kg.Quantile(0.5), scores=scores)
    expected = kg.surgeon.prune(model, kg.Quantile(0.5), scores=scores)
    x = helpers.inputs_for(model)
    np.testing.assert_allclose(
        helpers.run(small, x)[0], helpers.run(expected, x)[0], rtol=1e-6
    )
    assert small.count_params() == expected.count_params()
    np.testing.assert_allclose(score(again, "l2")["mlp0"], scores["mlp0"])
