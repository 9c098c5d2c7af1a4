"""Budgets of time, with artificial clocks and noise."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon import plan
from keras_gates.surgeon import prune
from keras_gates.surgeon.closing import latency
from tests import helpers
from tests.surgeon.closing.test_budget import convnet
from tests.surgeon.closing.test_budget import gated
from tests.surgeon.closing.test_budget import wide_chain

# Keras hands torch tensors to np.array, and `pytest.warns` sees it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)


def by_parameters(model):
    """A millisecond for a thousand parameters."""
    return model.count_params() / 1000


class Noisy:
    """The same, more or less, on a machine that gets slower and faster."""

    def __init__(self, noise=0.0, drift=0.0, seed=0):
        self.random = np.random.default_rng(seed)
        self.noise = noise
        self.drift = drift
        self.calls = 0

    def __call__(self, model):
        self.calls += 1
        load = 1 + self.drift * np.sin(self.calls / 40)
        spread = np.exp(self.noise * self.random.normal())
        return float(by_parameters(model) * load * spread)


@pytest.mark.parametrize("amount", [0.5, 5.0])
def test_latency_is_that_of_rebuilt_models(amount):
    model = convnet()
    whole = by_parameters(prune(model, 0.0))
    limit = amount * whole if amount < 1 else amount
    small = prune(model, kg.Budget(latency=amount, measure=by_parameters))
    # A 64th of the factors is a step; here at most 5 % of the parameters.
    assert 0.9 * limit <= by_parameters(small) <= limit


def test_latency_out_of_reach():
    budget = kg.Budget(latency=0.001, measure=by_parameters)
    with pytest.raises(ValueError, match=r"least .* can reach is 0.\d+ ms"):
        plan(wide_chain(), budget)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise, drift", [(0.02, 0.0), (0.03, 0.5)])
def test_noise_and_drift_move_the_choice_little(noise, drift, seed):
    """A load that comes and goes is in both models of a pair."""
    model = convnet()
    measure = Noisy(noise, drift, seed)
    small = prune(model, kg.Budget(latency=0.5, measure=measure))
    share = by_parameters(small) / by_parameters(prune(model, 0.0))
    assert 0.42 <= share <= 0.53


def test_what_noise_hides_is_refused():
    measure = Noisy(noise=0.3)
    with pytest.raises(ValueError, match=r"0.97.*varies by \d+\.\d% between"):
        plan(wide_chain(), kg.Budget(latency=0.97, measure=measure))
    # Without noise, the same is told.
    budget = kg.Budget(latency=0.97, measure=by_parameters)
    assert plan(wide_chain(), budget).params[1] < 1803


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_noise_is_that_of_medians(noise):
    """About two spreads of the median of five ratios."""
    model = wide_chain()
    found = [
        latency.clock(model, measure=Noisy(noise, seed=seed)).noise
        for seed in range(40)
    ]
    spread = noise * 2**0.5 * 1.25 / 5**0.5
    assert spread < np.median(found) < 4 * spread


def test_what_never_varies_is_measured_once():
    model, calls = wide_chain(), []

    def counted(model):
        calls.append(model.count_params())
        return by_parameters(model)

    plan(model, kg.Budget(latency=0.5, measure=counted))
    # The whole model to begin with, then each trial and the whole model.
    assert len(calls) < 10 + 2 * 10


def test_a_budget_that_is_kept_to_measures_nothing_more():
    measure = Noisy(noise=0.2)
    found = plan(convnet(), kg.Budget(latency=1e9, measure=measure))
    assert not any(found.closed.values())
    assert measure.calls <= 10


def test_time_that_hardly_follows_macs_warns():
    def overhead(model):
        return 1.0 + by_parameters(model)

    # From 2.8 ms to 1.2, of which 1.0 were not the channels'.
    with pytest.warns(
        UserWarning, match=r"latency=0.43.*of the MACs.*hardly depends"
    ):
        plan(wide_chain(), kg.Budget(latency=0.43, measure=overhead))
    # To 1.8, with 44 % of the MACs: less than 0.8 of what is left of the time.
    found = plan(wide_chain(), kg.Budget(latency=0.65, measure=overhead))
    share = found.macs[1] / found.macs[0]
    assert any("65" in note and f"{share:.1%}" in note for note in found.notes)
    found = plan(wide_chain(), kg.Budget(latency=0.65, measure=by_parameters))
    assert not any("MACs" in note for note in found.notes)


def disturbed(seed, share, tells=True):
    """A function from a time to runs that others make longer, as they come.

    Args:
        seed: of what comes.
        share: of the runs that are disturbed, by up to eight times.
        tells: whether the time of the processor is known.
    """
    random = np.random.default_rng(seed)

    def runner(whole):
        def run():
            beside = random.random() < share and 8 * random.random()
            own = whole * (1 + 0.03 * random.random())
            return latency.Times(own * (1 + beside), own if tells else None)

        return run

    return runner


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share, tells", [(0, 0), (0.5, 0), (0.5, 1), (1, 1)])
def test_what_runs_beside_moves_a_ratio_little(share, tells, seed):
    runner = disturbed(seed, share, tells)
    clock = latency.Clock(
        runner, runner(2.0), 2.0, 0.1, latency._PAIRS, latency._RUNS
    )
    found = [clock.ratio(1.0) for _ in range(20)]
    # The goal is 5 % of what a quiet machine says.
    assert np.quantile(np.abs(np.array(found) / 0.5 - 1), 0.9) < 0.05


@pytest.mark.parametrize(
    "answer, error, match",
    [
        ("3 ms", TypeError, "`measure`.*'3 ms'"),
        (None, TypeError, "`measure`.*None"),
        (True, TypeError, "`measure`.*True"),
        (0.0, ValueError, "`measure`.*positive.*0.0"),
        (float("nan"), ValueError, "`measure`.*positive.*nan"),
    ],
)
def test_what_is_no_time_is_refused(answer, error, match):
    budget = kg.Budget(latency=0.5, measure=lambda model: answer)
    with pytest.raises(error, match=match):
        plan(wide_chain(), budget)


def test_numbers_of_numpy_are_times():
    budget = kg.Budget(
        latency=0.5, measure=lambda model: np.float32(by_parameters(model))
    )
    assert plan(wide_chain(), budget).params[1] < 1000


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({"latency": 0.5, "measure": 3}, TypeError, "`measure`.*function.*3"),
        ({"macs": 0.5, "measure": len}, ValueError, "`measure`.*latency.*macs"),
        ({"macs": 0.5, "sizes": "long"}, TypeError, "`sizes`.*long"),
        ({"macs": 0.5, "sizes": 32}, TypeError, "`sizes`.*32"),
        ({"macs": 0.5, "sizes": (32.5, 3)}, TypeError, "`sizes`.*32.5"),
        ({"macs": 0.5, "sizes": (True,)}, TypeError, "`sizes`.*True"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        kg.Budget(**arguments)


@pytest.mark.parametrize("sizes", [(32, 32, 3), [(9,), (3, 3)], {"x": (4,)}])
def test_sizes_are_what_json_can_hold(sizes):
    budget = kg.Budget(macs=0.5, sizes=sizes)
    config = json.loads(json.dumps(dataclasses.asdict(budget)))
    assert kg.Budget(**config) == budget
    assert hash(budget) == hash(kg.Budget(**config))


def test_latency_is_measured_here():
    model = wide_chain()
    before = helpers.fingerprint(model)
    clock = latency.clock(prune(model, 0.0), 2)
    assert 0 < clock.whole < 1e4
    assert clock.noise > 0
    assert clock.ratio(prune(model, 0.0)) > 0
    found = plan(model, kg.Budget(latency=1e9))
    assert helpers.fingerprint(model) == before
    assert found.closed == {"gate": []}


def test_open_sizes_are_given():
    inputs = keras.Input((None, 3), name="x")
    x = gated(L.Conv1D(8, 3)(inputs), "gate")
    model = keras.Model(inputs, L.Conv1D(2, 1)(x))
    with pytest.raises(ValueError, match="latency.*'x'.*sizes="):
        plan(model, kg.Budget(latency=1e9))
    found = plan(model, kg.Budget(latency=1e9, sizes=(16, 3)))
    assert found.macs[0] == 14 * 9 * 8 + 14 * 8 * 2


# In steps -------------------------------------------------------------------


def plain_chain():
    inputs = keras.Input((5,))
    x = L.Dense(200, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, L.Dense(3, name="out")(x))
    helpers.randomize(model)
    return model


@pytest.mark.parametrize("amount", [0.4, 1.2])
def test_steps_come_out_where_one_would(amount):
    """Each is measured against the model that there was to begin with."""
    model, widths = plain_chain(), []
    whole = by_parameters(model)
    limit = amount if amount > 1 else amount * whole
    small = kg.surgeon.prune_iteratively(
        model,
        kg.Budget(latency=amount, measure=lambda m: by_parameters(m)),
        steps=3,
        on_step=lambda m, step: widths.append(by_parameters(m)),
    )
    assert 0.9 * limit <= by_parameters(small) <= limit
    for step, left in enumerate(widths, 1):
        part = whole - step / 3 * (whole - limit)
        assert 0.85 * part <= left <= part * 1.001
