"""Pruning in steps ends where pruning at once does, and trains between."""

import functools

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

S = kg.surgeon


def network():
    inputs = keras.Input((12,))
    x = L.Dense(40, activation="relu", name="first")(inputs)
    x = L.Dense(30, activation="relu", name="second")(x)
    model = keras.Model(inputs, L.Dense(3, name="head")(x))
    return helpers.randomize(model)


def widths(model):
    return [model.get_layer(name).units for name in ("first", "second")]


@pytest.mark.parametrize("scope", ["global", "gate"])
@pytest.mark.parametrize("q", [0.29, 0.5, 0.77])
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_as_many_channels_go_as_at_once(q, scope, steps):
    model, rule = network(), kg.Quantile(q, scope)
    seen = []
    small = S.prune_iteratively(
        model, rule, steps=steps, on_step=lambda m, k: seen.append((k, m))
    )
    once = S.prune(model, rule, scores=S.score(model))
    assert sum(widths(small)) == sum(widths(once))
    if scope == "gate":
        assert widths(small) == widths(once)
    assert [k for k, _ in seen] == list(range(1, steps + 1))
    left = [sum(widths(m)) for _, m in seen]
    assert left == [70 - _gone(q * k / steps, scope) for k, _ in seen]


def _gone(q, scope):
    return int(40 * q) + int(30 * q) if scope == "gate" else int(70 * q)


@pytest.mark.filterwarnings("ignore:Budget.*larger steps:UserWarning")
def test_budgets_are_met_in_equal_parts():
    model = network()
    whole = kg.stats.count(model).macs
    left = []
    S.prune_iteratively(
        model,
        kg.Budget(macs=0.4),
        steps=3,
        on_step=lambda m, k: left.append(kg.stats.count(m).macs / whole),
    )
    # A unit of the first layer is 2.4 % of the MACs: so far below it may be.
    for share, allowed in zip(left, (0.8, 0.6, 0.4), strict=True):
        assert allowed - 0.024 <= share <= allowed


def test_layers_may_have_shares_of_their_own():
    shares = {"first": kg.Quantile(0.5), "second": kg.Quantile(0.2)}
    small = S.prune_iteratively(network(), shares, steps=2)
    assert widths(small) == [20, 24]


def test_scores_are_those_of_the_model_as_trained():
    """Training between makes one channel matter that did not before."""
    weakest = []

    def raise_weakest(model, step):
        layer = model.get_layer("first")
        kernel = helpers.numpy_of(layer.kernel)
        weakest.append(int(np.abs(kernel).sum(0).argmin()))
        kernel[:, weakest[-1]] = 50.0 + step
        layer.kernel.assign(kernel)

    score = functools.partial(S.score, criterion="l1", ignore=("second",))
    small = S.prune_iteratively(
        network(), kg.Quantile(0.9), criterion=score, steps=3,
        on_step=raise_weakest,
    )  # fmt: skip
    largest = helpers.numpy_of(small.get_layer("first").kernel).max(axis=0)
    assert widths(small) == [4, 30]
    assert sorted(largest[largest > 49]) == [51.0, 52.0, 53.0]


def test_the_optimizer_goes_on_from_step_to_step():
    model = network()
    model.compile(keras.optimizers.Adam(0.01), loss="mse", run_eagerly=True)
    x = helpers.inputs_for(model, batch=16)
    y = np.zeros((16, 3), "float32")
    model.fit(x, y, batch_size=8, verbose=0)
    small = S.prune_iteratively(
        model,
        kg.Quantile(0.5),
        steps=2,
        keep_optimizer=True,
        on_step=lambda m, k: m.fit(x, y, batch_size=8, verbose=0) and None,
    )
    assert int(small.optimizer.iterations) == 6


@pytest.mark.parametrize(
    "floor, left",
    [
        # Shares are of the 40 and 30 units there were at first, in all steps.
        (0.5, [20, 15]),
        ({"first": 0.5, "second": 3}, [20, 3]),
        ({"*": 4}, [4, 4]),
        (4, [4, 4]),
    ],
)
def test_floors_are_those_of_one_prune(floor, left):
    options = {"keep_at_least": floor}
    rule = kg.Quantile(1.0)
    small = S.prune_iteratively(network(), rule, steps=3, **options)
    model = network()
    once = S.prune(model, rule, scores=S.score(model), **options)
    assert widths(small) == widths(once) == left


def test_a_model_that_comes_back_is_pruned_next():
    copies = []

    def copy(model, step):
        copies.append(keras.models.clone_model(model))
        copies[-1].set_weights(model.get_weights())
        return copies[-1]

    small = S.prune_iteratively(
        network(), kg.Quantile(0.5), steps=2, on_step=copy
    )
    assert small is copies[-1]


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"steps": 0}, ValueError, "at least 1"),
        ({"steps": 1.5}, TypeError, "must be an int"),
        (
            {"criterion": {"first": np.ones(40)}},
            TypeError,
            "name of a criterion",
        ),
        ({"scores": "l2"}, TypeError, "Pass `criterion`"),
        ({"criterion": "l7"}, ValueError, "Unknown criterion"),
    ],
)
def test_bad_arguments(options, error, words):
    options = {"thresholds": kg.Quantile(0.5), **options}
    with pytest.raises(error, match=words):
        S.prune_iteratively(network(), **options)
