"""Scores from data and losses in every form that `fit` and `compile` take."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

score = kg.surgeon.score


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def two_inputs(structure):
    """A model of the inputs p and q, in a structure of them."""
    p, q = keras.Input((4,), name="p"), keras.Input((3,), name="q")
    y = L.Dense(6, activation="relu", name="h")(L.Concatenate()([p, q]))
    model = keras.Model(structure(p, q), L.Dense(2, name="out")(y))
    return helpers.randomize(model)


STRUCTURES = {
    "list": lambda p, q: [p, q],
    "tuple": lambda p, q: (p, q),
    "dict": lambda p, q: {"p": p, "q": q},
    "dict out of order": lambda p, q: {"q": q, "p": p},
    "other keys": lambda p, q: {"a": p, "b": q},
    "nested": lambda p, q: [p, {"more": q}],
}
P, Q, Y = noise(16, 4), noise(16, 3, seed=1), noise(16, 2, seed=2)


class Batches(keras.utils.PyDataset):
    """It raises no IndexError at its end: to iterate would never end."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index % len(self.batches)]


def cut(array):
    return [array[i : i + 8] for i in (0, 8)]


def expected_mean():
    model = two_inputs(STRUCTURES["list"])
    hidden = keras.Model(model.inputs, model.get_layer("h").output)
    return np.abs(helpers.numpy_of(hidden([P, Q]))).mean(0)


X = {
    "list": [P, Q],
    "dict": {"p": P, "q": Q},
    "dict with more": {"id": np.arange(16), "q": Q, "p": P},
    "alone in a tuple": ([P, Q],),
    "tuple in a tuple": ((P, Q),),
    "with labels": ([P, Q], Y),
    "dict with labels": ({"p": P, "q": Q}, Y, np.ones(16)),
    "batches": [([p, q], y) for p, q, y in zip(*map(cut, (P, Q, Y)), strict=1)],
    "batches of x": [
        {"p": p, "q": q} for p, q in zip(cut(P), cut(Q), strict=1)
    ],
}


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize("form", X)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_inputs_come_in_any_structure(structure, form):
    model = two_inputs(STRUCTURES[structure])
    names = "dict" in form or form == "batches of x"
    if structure == "nested" and names:
        pytest.skip("Keras takes no names where inputs are nested")
    if structure == "dict out of order" and not names:
        with pytest.raises(ValueError, match="as a dict by name"):
            score(model, "mean", X[form])
        return
    if structure == "other keys" and form == "dict":
        other = {"a": P, "b": Q}
        found = score(model, "mean", other, normalize=None)["h"]
        np.testing.assert_allclose(found, expected_mean(), rtol=1e-5)
    found = score(model, "mean", X[form], normalize=None)["h"]
    np.testing.assert_allclose(found, expected_mean(), rtol=1e-5)


def iterables():
    pairs = list(zip(cut(P), cut(Y), strict=True))
    return {
        "list": lambda: pairs,
        "lists": lambda: [list(pair) for pair in pairs],
        "generator": lambda: (pair for pair in pairs),
        "iterator": lambda: iter(pairs),
        "weighted": lambda: [(*pair, np.ones(8)) for pair in pairs],
        "PyDataset": lambda: Batches(pairs),
        "arrays": lambda: (P, Y),
    }


def one_input():
    model = keras.Sequential(
        [
            keras.Input((4,), name="image"),
            L.Dense(6, activation="relu", name="h"),
            L.Dense(2, name="out"),
        ]
    )
    return helpers.randomize(model)


@pytest.mark.parametrize("form", iterables())
@pytest.mark.parametrize("criterion", ["mean", "taylor"])
def test_batches_come_from_any_iterable(form, criterion):
    model, data = one_input(), iterables()[form]()
    options = {"loss": "mse", "batch_size": 8, "normalize": None}
    found = score(model, criterion, data, **options)["h"]
    expected = score(model, criterion, (P, Y), **options)["h"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_data_of_pytorch_and_tensorflow():
    torch = pytest.importorskip("torch")
    tf = pytest.importorskip("tensorflow")
    model = one_input()
    expected = score(model, "mean", P)["h"]
    tensors = torch.utils.data.TensorDataset(torch.tensor(P), torch.tensor(Y))
    forms = [
        torch.utils.data.DataLoader(tensors, batch_size=8),
        tf.data.Dataset.from_tensor_slices((P, Y)).batch(8),
        (torch.tensor(P), torch.tensor(Y)),
        tf.constant(P),
    ]
    for data in forms:
        np.testing.assert_allclose(score(model, "mean", data)["h"], expected)
    endless = forms[1].repeat()
    with pytest.raises(ValueError, match=r"infinite.*data\.take"):
        score(model, "mean", endless)


def test_whole_numbers_and_a_missing_last_axis():
    x = keras.Input((5,), dtype="int32", name="words")
    n = keras.Input((1,), name="n")
    y = L.GlobalAveragePooling1D()(L.Embedding(9, 4)(x))
    y = L.Dense(6, activation="relu", name="h")(L.Concatenate()([y, n]))
    model = helpers.randomize(keras.Model([x, n], L.Dense(2)(y)), x=WORDS)
    found = score(model, "mean", [WORDS[0], WORDS[1][:, 0]])
    np.testing.assert_allclose(found["h"], score(model, "mean", WORDS)["h"])


WORDS = [np.arange(40).reshape(8, 5) % 9, noise(8, 1)]


@pytest.mark.parametrize(
    "data, error, words",
    [
        (P, ValueError, "'p' .*'q' .*one array of shape"),
        ((P, Q), ValueError, "'p' .*tuple is read as"),
        ([P], ValueError, "'p'.*'q'"),
        ([P, P], ValueError, r"'q' takes the shape \(None, 3\).*\(16, 4\)"),
        ({"p": P}, ValueError, "no array for 'q'.*dict with 'p'"),
        ([P, Q[:4]], ValueError, "same number.*x: 16, 4"),
        (([P, Q], Y[:4]), ValueError, "same number.*x: 16, 16; y: 4"),
        (([P, Q], Y, np.ones(4)), ValueError, "sample_weight: 4"),
        ((P, Q, Y, Y), ValueError, "tuple of 4"),
        ([P[:0], Q[:0]], ValueError, "at least one"),
        ([], ValueError, "no batch"),
        ([None, Q], ValueError, "'p'"),
        ("p", TypeError, "must be arrays.*'p'"),
        (3, TypeError, "must be arrays"),
        ({"p": [1, 2], "q": Q}, TypeError, "'p'.*list"),
        (([P, Q], [1.0] * 16), TypeError, "first axis.*y"),
        (iter([]), ValueError, "read before"),
    ],
)
def test_data_that_do_not_fit(data, error, words):
    model = two_inputs(STRUCTURES["list"])
    with pytest.raises(error, match=words):
        score(model, "mean", data)


def test_a_model_for_a_number_of_samples():
    x = keras.Input(batch_shape=(4, 3))
    y = L.Dense(6, activation="relu", name="h")(x)
    model = helpers.randomize(keras.Model(x, L.Dense(2)(y)), x=noise(4, 3))
    assert score(model, "mean", noise(8, 3))["h"].shape == (6,)
    with pytest.raises(ValueError, match="batches of 4.*2 samples"):
        score(model, "mean", noise(6, 3))


# Losses --------------------------------------------------------------------


def two_outputs(structure=list):
    x = keras.Input((4,))
    y = L.Dense(8, activation="relu", name="h")(x)
    a = L.Dense(2, name="a")(y)
    b = L.Dense(3, activation="softmax", name="b")(y)
    outputs = {"a": a, "b": b} if structure is dict else structure([a, b])
    return helpers.randomize(keras.Model(x, outputs))


LABELS = noise(16, 2, seed=2), np.arange(16) % 3
SPARSE = "sparse_categorical_crossentropy"


def gradient(wa, wb, weight=None):
    """`|a * dL/da|` of the hidden units by hand, for mse and crossentropy."""
    model = two_outputs()
    hidden = keras.Model(model.inputs[0], model.get_layer("h").output)
    h = helpers.numpy_of(hidden(P)).astype("float64")
    a, b = (y.astype("float64") for y in helpers.run(model, P))
    weight = np.ones(16) if weight is None else weight
    da = wa * 2 * (a - LABELS[0]) / 2
    db = wb * (b - np.eye(3)[LABELS[1]])
    grad = sum(
        d @ helpers.numpy_of(model.get_layer(name).kernel).T
        for d, name in ((da, "a"), (db, "b"))
    )
    return np.abs((h * grad * weight[:, None]).sum(0) / 16)


FORMS = {
    "by name": {"loss": {"a": "mse", "b": SPARSE}},
    "in order": {"loss": ["mse", SPARSE]},
    "objects": {
        "loss": [
            keras.losses.MeanSquaredError(),
            keras.losses.SparseCategoricalCrossentropy(),
        ]
    },
    "functions": {
        "loss": [
            lambda y, p: keras.ops.mean((y - p) ** 2, axis=-1),
            keras.losses.sparse_categorical_crossentropy,
        ]
    },
}
WEIGHTS = {"none": (1, 1), "some": (0.5, 2.0), "one": (1.0, 0.0)}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compiled", [True, False])
def test_losses_and_their_weights(form, weights, compiled):
    model, pair = two_outputs(), WEIGHTS[weights]
    options = dict(FORMS[form])
    if weights != "none":
        named = isinstance(options["loss"], dict)
        options["loss_weights"] = (
            dict(zip("ab", pair, strict=True)) if named else list(pair)
        )
    if compiled:
        model.compile("sgd", **options)
        options = {}
    found = score(model, "taylor", (P, LABELS), normalize=None, **options)
    np.testing.assert_allclose(found["h"], gradient(*pair), rtol=2e-4)


@pytest.mark.parametrize(
    "y",
    [
        list(LABELS),
        tuple(LABELS),
        dict(zip("ab", LABELS, strict=True)),
    ],
    ids=["list", "tuple", "dict"],
)
@pytest.mark.parametrize("structure", [list, tuple, dict])
def test_labels_in_any_structure(structure, y):
    model = two_outputs(structure)
    model.compile("sgd", {"a": "mse", "b": SPARSE})
    if structure is dict and not isinstance(y, dict):
        return  # Keras takes labels by name only
    found = score(model, "taylor", (P, y), normalize=None)
    np.testing.assert_allclose(found["h"], gradient(1, 1), rtol=2e-4)


def test_an_output_without_a_loss():
    model = two_outputs()
    model.compile("sgd", ["mse", None])
    found = score(model, "taylor", (P, [LABELS[0], None]), normalize=None)
    np.testing.assert_allclose(found["h"], gradient(1, 0), rtol=2e-4)


def test_weights_of_samples_count():
    model = two_outputs()
    model.compile("sgd", ["mse", SPARSE])
    weight = np.linspace(0, 2, 16).astype("float32")
    expected = gradient(1, 1, weight)
    for data in (
        (P, LABELS, [weight, weight]),
        [(P, LABELS, [weight, weight])],
    ):
        found = score(model, "taylor", data, normalize=None)
        np.testing.assert_allclose(found["h"], expected, rtol=2e-4)


def test_a_sum_in_place_of_a_mean():
    model = one_input()
    loss = keras.losses.MeanSquaredError(reduction="sum")
    found = score(model, "taylor", (P, Y), loss=loss, normalize=None)["h"]
    mean = score(model, "taylor", (P, Y), loss="mse", normalize=None)["h"]
    np.testing.assert_allclose(found, 16 * mean, rtol=1e-4)


def test_a_gate_may_be_an_output():
    x = keras.Input((4,))
    y = L.Dense(6, activation="relu", name="h")(x)
    y = kg.FilterGate(name="gate")(y)
    a = kg.FilterGate(name="a")(L.Dense(2)(y))
    model = keras.Model(x, [a, L.Dense(3, name="b")(y)])
    model.compile(
        "sgd", {"a": "mse", "b": "mse"}, loss_weights={"a": 1, "b": 0}
    )
    found = score(model, "taylor", (P, [Y, noise(16, 3)]), of="gates")
    assert set(found) == {"gate", "a"}


def test_the_compiled_model_is_left_as_it_was():
    model = two_outputs()
    model.compile("adam", ["mse", SPARSE], metrics=["mae", "accuracy"])
    before = helpers.fingerprint(model), model.metrics_names
    score(model, "taylor", (P, LABELS))
    assert (helpers.fingerprint(model), model.metrics_names) == before
    model.fit(P, list(LABELS), verbose=0)


class Own(keras.Model):
    def compute_loss(self, *args, **kwargs):
        raise AssertionError("not to be called")


def test_a_loss_of_the_models_own_is_named():
    plain = one_input()
    model = Own(plain.inputs, plain.outputs)
    model.compile("sgd", "mse")
    with helpers.told() as told:
        found = score(model, "taylor", (P, Y))
    assert "(of type Own) has a custom compute_loss" in told[0]
    expected = score(plain, "taylor", (P, Y), loss="mse")
    np.testing.assert_allclose(found["h"], expected["h"], rtol=1e-5)
    score(model, "taylor", (P, Y), loss="mse")  # asked for: no warning
    model = Own(plain.inputs, plain.outputs)
    model.compile("sgd")
    with pytest.raises(ValueError, match="compiled without a loss"):
        score(model, "taylor", (P, Y))


def test_labels_that_do_not_fit_name_the_outputs():
    model = two_outputs()
    model.compile("sgd", ["mse", SPARSE])
    with pytest.raises(ValueError, match=r"'a' \(None, 2\).*y \(16, 2\)"):
        score(model, "taylor", (P, LABELS[0]))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    y = L.Dense(8, activation="relu", name="h", dtype=policy)(x)
    y = L.Dense(8, activation="relu", name="k", dtype=policy)(y)
    model = keras.Model(x, L.Dense(2, dtype="float32")(y))
    helpers.randomize(model)
    single = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config(
            {**layer.get_config(), "dtype": "float32"}
        ),
    )
    single.set_weights(model.get_weights())
    # So small that half precision would flush the gradients to zero.
    data = P, Y * 1e-3
    loss = lambda y, p: 1e-5 * keras.losses.mean_squared_error(y, p)  # noqa: E731
    found = score(model, "taylor", data, loss=loss)["h"]
    expected = score(single, "taylor", data, loss=loss)["h"]
    np.testing.assert_allclose(found, expected, rtol=0.15, atol=0.02)
    for criterion in ("mean", "apoz"):
        found = score(model, criterion, P)["h"]
        expected = score(single, criterion, P)["h"]
        np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.01)
