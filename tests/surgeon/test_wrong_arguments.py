"""Arguments that users get wrong: the message names them, and the remedy."""

import pathlib

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import surgeon

pytestmark = pytest.mark.once

HALF = kg.Quantile(0.5)
X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.arange(16) % 3


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            L.Dense(32, activation="relu", name="a"),
            L.Dense(32, activation="relu", name="b"),
            L.Dense(3, activation="softmax", name="out"),
        ],
        name="net",
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.fixture(scope="module")
def scores(model):
    return surgeon.score(model, "l2")


@pytest.fixture(scope="module")
def plan(model, scores):
    return surgeon.plan(model, HALF, scores=scores)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (None, "`model` must be a built Keras model. Received: None"),
        ("model.keras", "Load the file: keras.saving.load_model"),
        (pathlib.Path("model.keras"), "Load the file"),
        (L.Dense(2), "`model` must be a built Keras model. Received: <Dense"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [surgeon.score, kg.fuse, kg.stats.count, lambda m: surgeon.plan(m, 0.1)],
)
def test_what_is_no_model(call, wrong, words):
    with pytest.raises(TypeError, match=words):
        call(wrong)


# What reads data -> how its argument is called.
READERS = {
    "score": (lambda m, s, x: surgeon.score(m, "apoz", x), "data"),
    "taylor": (lambda m, s, x: surgeon.score(m, "taylor", (x, Y)), "data"),
    "sensitivity": (lambda m, s, x: surgeon.sensitivity(m, s, (x, Y)), "data"),
    "get_apoz": (lambda m, s, x: surgeon.get_apoz(m, "a", x), "x_val"),
    "prune": (
        lambda m, s, x: surgeon.prune(m, HALF, scores=s, repair=x),
        "repair",
    ),
    "prune_iteratively": (
        lambda m, s, x: surgeon.prune_iteratively(m, HALF, steps=1, repair=x),
        "repair",
    ),
    "repair": (
        lambda m, s, x: surgeon.repair(surgeon.plan(m, HALF, scores=s), x),
        "x",
    ),
    "verify": (
        lambda m, s, x: surgeon.plan(m, HALF, scores=s).verify(m, x),
        "x",
    ),
}
WRONG = {
    "wrong size": (X[:, :4], "does not fit model 'net'.*(None, 6)"),
    "one sample": (X[0], "An axis of samples is missing.*batch"),
    "lists": (X.tolist(), "numpy.asarray|arrays with a first axis"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("wrong", WRONG)
def test_data_that_do_not_fit(model, scores, reader, wrong):
    call, argument = READERS[reader]
    x, words = WRONG[wrong]
    before = [np.array(w) for w in model.get_weights()]
    with pytest.raises((TypeError, ValueError), match=words) as error:
        call(model, scores, x)
    assert f"`{argument}`" in str(error.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("reader", ["score", "get_apoz", "repair", "verify"])
def test_text_is_no_data(model, scores, reader):
    call, argument = READERS[reader]
    with pytest.raises(TypeError, match=f"`{argument}` must be.*'train.npz'"):
        call(model, scores, "train.npz")


@pytest.mark.parametrize("reader", ["prune", "repair", "verify"])
def test_data_with_nan(model, scores, reader):
    call, argument = READERS[reader]
    with pytest.raises(ValueError, match=f"`{argument}` has NaN or infinity"):
        call(model, scores, X * np.nan)


def test_a_model_whose_outputs_are_nan(scores):
    model = keras.Sequential([keras.Input((2,)), L.Dense(2), L.Dense(1)])
    small = surgeon.prune(
        model, kg.Quantile(0.5), scores=surgeon.score(model, "l2")
    )
    model.layers[-1].set_weights([np.full((2, 1), np.nan), np.zeros(1)])
    plan = surgeon.plan(
        model, kg.Quantile(0.5), scores={model.layers[0].name: [1.0, 2.0]}
    )
    with pytest.raises(ValueError, match="have NaN or infinity on these"):
        plan.verify(small)


def test_data_are_missing(model, plan):
    with pytest.raises(ValueError, match="`repair` needs data. Pass x=x"):
        surgeon.repair(plan, None)
    with pytest.raises(ValueError, match="Pass x_val=x"):
        surgeon.get_apoz(model, "a", None)
    with pytest.raises(ValueError, match="'taylor' needs labels. Pass data=.x"):
        surgeon.score(model, "taylor", X)
    with pytest.raises(ValueError, match="`sensitivity` needs labels"):
        surgeon.sensitivity(model, {"a": np.ones(32)}, X)


@pytest.mark.parametrize("size", [0, -1, 2.5, "8"])
def test_batch_sizes(model, size):
    with pytest.raises((TypeError, ValueError), match="`batch_size` must be"):
        surgeon.score(model, "apoz", X, batch_size=size)


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="JAX takes them for no class at all, and the scores warn",
)
def test_labels_out_of_range_are_told_their_range(model):
    with pytest.raises(ValueError, match="of int64.* integers from 0 to 2"):
        surgeon.score(model, "taylor", (X, Y.astype("int64") + 90))


@pytest.mark.parametrize("pruned", [None, "small.keras"])
def test_verify_takes_a_model(model, plan, pruned):
    for call in (plan.verify, lambda p: surgeon.verify(model, p, plan)):
        with pytest.raises(TypeError, match="`pruned` must be the smaller"):
            call(pruned)


def test_seeds(model):
    with pytest.raises(TypeError, match="`seed` must be an int"):
        surgeon.score(model, "random", seed="a")


def test_scores_by_name(model):
    with pytest.raises(TypeError, match=r"surgeon.score\(model, 'taylor'\)"):
        surgeon.plan(model, HALF, scores="taylor")


def test_scores_with_nan_and_of_another_size(model):
    with pytest.raises(ValueError, match="2 of 32 that are NaN"):
        surgeon.plan(model, 0.1, scores={"a": [1.0] * 30 + [np.nan, np.inf]})
    with pytest.raises(ValueError, match=r"the shape \(32,\). Received: .*5"):
        surgeon.plan(model, 0.1, scores={"a": np.ones(5)})


def test_percentages(model, scores):
    with pytest.raises(ValueError, match="for 20 %, write macs=0.2"):
        surgeon.plan(model, kg.Budget(macs=20), scores=scores)
    with pytest.raises(ValueError, match=r"such as 0.7 for 70 %"):
        kg.Quantile(70)
    with pytest.raises(ValueError, match="can't be reached") as error:
        surgeon.plan(model, kg.Budget(macs=0.01), scores=scores)
    assert "%, write" not in str(error.value)


def test_a_budget_that_other_options_bar_names_them(model, scores):
    with pytest.raises(ValueError, match="keep_at_least and round_to"):
        surgeon.plan(model, kg.Budget(macs=0.5), scores=scores, round_to=64)


def test_the_name_of_a_layer_for_that_of_its_gate(model):
    gated = kg.insert_gates(model, filters=True)
    with pytest.raises(ValueError, match="Did you mean 'a_filter_gate'"):
        surgeon.plan(gated, {"a": 0.1})


def test_thresholds_for_a_kind_that_the_model_has_not(model):
    gated = kg.insert_gates(model, filters=True)
    notes = surgeon.plan(gated, {"filter": 0.1, "block": 0.1}).notes
    note = "thresholds['block'] closes nothing: the model has no gates of this"
    assert [n for n in notes if "closes nothing" in n] == [f"{note} kind"]


def test_options_of_steps_and_shares(model, scores):
    with pytest.raises(TypeError, match="`on_step` must be a function"):
        surgeon.prune_iteratively(model, HALF, on_step="fit")
    with pytest.raises(ValueError, match="`shares` must be a list"):
        surgeon.sensitivity(model, scores, (X, Y), shares=0.5)


@pytest.mark.parametrize("apoz", ["a", [], [[0.1]], None])
def test_high_apoz(apoz):
    with pytest.raises(ValueError, match="`apoz` must be"):
        surgeon.high_apoz(apoz)


def test_strings_for_gates(model):
    with pytest.raises(ValueError, match="`filters` is not valid. .*'all'"):
        kg.insert_gates(model, filters="all")
    assert kg.insert_gates(model, filters="l1")
    with pytest.raises(ValueError, match="`input_shape` does not fit"):
        kg.insert_gates(model, filters=True, sizes=8)


def test_nothing_to_search(model):
    with pytest.raises(ValueError, match="'net' has no gates whose"):
        kg.find_thresholds(model, lambda m: 1.0)


def test_inputs_of_functional(model):
    with pytest.raises(ValueError, match=r"`inputs` must hold.*keras.Input"):
        kg.functional(_Own(), (None, 8))


class _Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_thresholds_above_all_scores_name_the_groups(model, scores):
    match = "closed channels of 'a'. Lower .*around their layers"
    with pytest.raises(ValueError, match=match):
        surgeon.plan(model, 50, scores=scores)
