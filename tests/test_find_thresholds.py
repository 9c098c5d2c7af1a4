"""The search for thresholds, against trying all of them."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.search import FoundThresholds
from tests import helpers
from tests.surgeon import small_models as sm

# Keras hands torch tensors to np.array; pytest.raises and capsys see it.
pytestmark = [
    pytest.mark.trains,
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning"
    ),
]


def network():
    """Filter gates in a row, and a branch with a gate of each kind."""
    inputs = keras.Input((6,))
    x = L.Dense(20, activation="relu")(inputs)
    x = kg.FilterGate(name="first")(x)
    for number in (1, 2, 3):
        y = L.Dense(12, activation="relu")(x)
        y = kg.FilterGate(name=f"inner{number}")(y)
        y = kg.BranchGate(name=f"branch{number}")(L.Dense(20)(y))
        x = L.Add()([x, y])
    x = kg.FilterGate(name="last")(L.Dense(30, activation="relu")(x))
    model = keras.Model(inputs, L.Dense(3, activation="softmax")(x))
    helpers.randomize(model, closed="ones")
    rng = np.random.default_rng(1)
    for gate in helpers.gates_of(model):
        gate.factor.assign(rng.uniform(0.05, 1, tuple(gate.factor.shape)))
    return model


def factors(model, kind):
    """All factors of a kind in one row."""
    found = [
        helpers.numpy_of(gate.factor).ravel()
        for gate in helpers.gates_of(model)
        if gate.kind == kind
    ]
    return np.concatenate(found)


class Mass:
    """A score: the sum of all factors. It is told how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model):
        self.calls += 1
        return sum(factors(model, k).sum() for k in ("branch", "filter"))


def closable(sizes, allowed):
    """How many of the smallest may close for a sum of `allowed` at most."""
    return int((np.cumsum(np.sort(sizes)) <= allowed).sum())


@pytest.mark.parametrize("drop", [0.0, 0.5, 3.0, 8.0])
def test_all_that_the_drop_allows_closes(drop):
    model, mass = network(), Mass()
    found = kg.find_thresholds(model, mass, max_drop=drop, trials=20)
    branches, filters = factors(model, "branch"), factors(model, "filter")
    few = closable(branches, drop / 2)
    lost = np.sort(branches)[:few].sum()
    many = closable(filters, drop - lost)
    assert (branches < found["branch"]).sum() == few
    assert (filters < found["filter"]).sum() == many
    shut = kg.surgeon.plan(model, found).closed
    assert sum(map(len, shut.values())) == few + many
    assert found.chosen.score >= found.scores[0] - drop


@pytest.mark.parametrize("kind", ["filter", "branch"])
def test_one_kind_may_spend_the_whole_drop(kind):
    model = network()
    found = kg.find_thresholds(model, Mass(), max_drop=1.0, kinds=kind)
    sizes = factors(model, kind)
    assert list(found) == [kind]
    assert (sizes < found[kind]).sum() == closable(sizes, 1.0)


def test_a_drop_of_just_as_much_is_allowed():
    """In float32, 0.97 - 0.96 is more than 0.01."""
    model = sm.set_gates(sm.chain(), gate=np.linspace(0.1, 0.8, 8))
    best, next_best, third = np.float32(0.97), np.float32(0.96), 0.95
    assert best - next_best > 0.01

    def accuracy(model):
        closed = (factors(model, "filter") == 0).sum()
        return (best, next_best, third)[min(2, closed)]

    found = kg.find_thresholds(model, accuracy, max_drop=0.01)
    assert kg.surgeon.plan(model, found).closed == {"gate": [0]}


def test_kinds_are_searched_in_the_order_given():
    model = network()
    for kinds in (["filter", "branch"], ("branch", "filter")):
        found = kg.find_thresholds(model, Mass(), max_drop=4.0, kinds=kinds)
        assert list(found) == list(kinds)
        sizes = factors(model, kinds[0])
        assert (sizes < found[kinds[0]]).sum() == closable(sizes, 2.0)


@pytest.mark.parametrize("trials", [1, 3, 6, 10])
def test_evaluations_are_few(trials):
    mass = Mass()
    found = kg.find_thresholds(network(), mass, max_drop=5.0, trials=trials)
    # Three branches and 86 filters: two and seven halvings at most.
    assert mass.calls == len(found.trials) <= 1 + min(trials, 2) + trials
    assert mass.calls <= 1 + 2 + 7


def test_equal_factors_close_together():
    model = sm.set_gates(sm.chain(), gate=[0.1, 0.3, 0.3, 0.3, 1, 1, 1, 1])

    def mass(model):
        return factors(model, "filter").sum()

    for drop, closed in [(0.5, 1), (0.9, 1), (1.05, 4)]:
        found = kg.find_thresholds(model, mass, max_drop=drop)
        shut = kg.surgeon.plan(model, found).closed["gate"]
        assert shut == list(range(closed))


def test_thresholds_lie_between_factors():
    sizes = [0.1, 0.2, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]
    model = sm.set_gates(sm.chain(), gate=sizes)
    found = kg.find_thresholds(
        model, lambda model: factors(model, "filter").sum(), max_drop=0.35
    )
    # In float32, as the factors are.
    assert found == pytest.approx({"filter": 0.4}, abs=1e-7)


def test_the_search_is_deterministic():
    model = network()
    first, again = (
        kg.find_thresholds(model, Mass(), max_drop=2.0) for _ in range(2)
    )
    assert first == again
    assert first.trials == again.trials


# What is not closed -------------------------------------------------------


@pytest.mark.parametrize("floor, left", [(0.05, (1, 2)), (0.5, (10, 15))])
def test_gates_that_nothing_leads_round_keep_a_floor(floor, left):
    model = network()
    found = kg.find_thresholds(
        model, lambda model: 1.0, keep_essential=floor, trials=20
    )
    shut = kg.surgeon.plan(model, found).closed
    assert 20 - len(shut["first"]) == left[0]
    assert 30 - len(shut["last"]) == left[1]
    assert all(len(shut[f"branch{n}"]) == 1 for n in (1, 2, 3))
    # A name of its own for what is held, beside its kind.
    assert (
        {"branch", "filter"}
        < set(found)
        <= {*("branch", "filter", "first", "last")}
    )


def test_kinds_that_are_not_searched_stay_open():
    model = network()
    found = kg.find_thresholds(model, lambda model: 1.0, kinds=["branch"])
    shut = kg.surgeon.plan(model, found).closed
    assert not any(shut[name] for name in ("first", "inner1", "last"))


# What is returned ---------------------------------------------------------


def test_the_curve_is_that_of_pruned_models():
    model = network()
    found = kg.find_thresholds(model, Mass(), max_drop=6.0, trials=4)
    for trial in found.trials:
        small = kg.surgeon.prune(model, trial.thresholds)
        count = kg.stats.count(small)
        assert (trial.params, trial.macs) == (count.params, count.macs)
    whole = kg.stats.count(model)
    assert found.whole == (whole.params, whole.macs)
    for name in ("params", "macs"):
        curve = [getattr(trial, name) for trial in found.trials]
        assert getattr(found, name).tolist() == curve
    assert found.scores.tolist() == [trial.score for trial in found.trials]
    assert found.trials[0].thresholds == {}


def test_what_is_found_is_used_as_thresholds():
    model = network()
    found = kg.find_thresholds(model, Mass(), max_drop=6.0)
    assert type(found.thresholds) is dict
    assert found.thresholds == found
    small = kg.surgeon.prune(model, found)
    assert sm.same_weights(small, kg.surgeon.prune(model, found.thresholds))
    assert kg.stats.count(small).macs == found.chosen.macs
    assert max(kg.surgeon.verify(model, small, found).values()) < helpers.RTOL


def test_what_is_found_prints():
    found = kg.find_thresholds(network(), Mass(), max_drop=6.0)
    lines = str(found).splitlines()
    assert lines[0] == f"Thresholds found in {len(found.trials)} evaluations:"
    assert lines[1] == f"  branch: {found['branch']:.4g}"
    assert f"-> {found.chosen.macs:,}" in lines[-1]
    assert repr(found) == f"<FoundThresholds {found.thresholds}>"


def test_the_curve_is_drawn():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = kg.find_thresholds(network(), Mass(), max_drop=6.0)
    _, axes = pyplot.subplots()
    assert found.plot(axes) is axes
    best, macs, star, _, params, _, _, least = axes.lines
    np.testing.assert_allclose(macs.get_xdata(), found.macs / found.whole[1])
    np.testing.assert_allclose(macs.get_ydata(), found.scores)
    np.testing.assert_allclose(
        params.get_xdata(), found.params / found.whole[0]
    )
    for share, score in zip(*best.get_data(), strict=True):
        as_small = found.macs <= share * found.whole[1] + 0.5
        assert score == found.scores[as_small].max()
    chosen = found.chosen
    np.testing.assert_allclose(
        np.ravel(star.get_data()), [chosen.macs / found.whole[1], chosen.score]
    )
    assert set(least.get_ydata()) == {found.scores[0] - 6.0}
    assert isinstance(found.plot(), type(axes))
    pyplot.close("all")


# How it is scored ---------------------------------------------------------


def samples(model, count=64):
    x = helpers.inputs_for(model, batch=count)
    return x, helpers.run(model, x)[0].argmax(-1)


class Batches(keras.utils.PyDataset):
    """The samples in batches; at one of them it can be interrupted."""

    def __init__(self, x, y, size=16, last=None):
        super().__init__()
        self.data, self.size = (x, y), size
        self.last, self.read = last, 0

    def __len__(self):
        return len(self.data[0]) // self.size

    def __getitem__(self, number):
        self.read += 1
        if self.read == self.last:
            raise RuntimeError("no more data")
        part = slice(number * self.size, (number + 1) * self.size)
        return tuple(array[part] for array in self.data)


def compiled():
    model = network()
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


FORMS = {
    "x and y": lambda x, y: (x, y),
    "with weights": lambda x, y: (x, y, np.ones(len(y))),
    "a dataset": Batches,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_data_are_scored_by_a_compiled_metric(form):
    model = compiled()
    x, y = samples(model)
    found = kg.find_thresholds(model, form(x, y), max_drop=0.25)
    assert found.scores[0] == 1.0
    for trial in found.trials:
        small = kg.surgeon.prune(model, trial.thresholds)
        right = helpers.run(small, x)[0].argmax(-1) == y
        # A tie of two classes may fall either way once in 64.
        assert trial.score == pytest.approx(right.mean(), abs=1.5 / 64)
    assert 0.75 <= found.chosen.score < 1.0


def test_a_loss_is_turned_round():
    model = compiled()
    data = samples(model)
    found = kg.find_thresholds(model, data, metric="loss", max_drop=0.2)
    loss = model.evaluate(*data, verbose=0, return_dict=True)["loss"]
    # The same sum in the same order, up to float32.
    assert found.scores[0] == pytest.approx(-loss, rel=1e-5)
    assert -loss - 0.2 <= found.chosen.score


@pytest.mark.parametrize("verbose, bars", [(0, False), (1, True)])
def test_progress_is_shown_if_asked_for(capsys, verbose, bars):
    found = kg.find_thresholds(network(), Mass(), max_drop=2.0, verbose=verbose)
    out = capsys.readouterr().out
    assert bool(out) is bars
    assert (f"{len(found.trials)}/" in out) is bars


# What must not change -----------------------------------------------------


def test_the_model_stays_as_it_is():
    model = compiled()
    before = helpers.fingerprint(model)
    kg.find_thresholds(model, samples(model), max_drop=0.3)
    assert helpers.fingerprint(model) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_an_interruption_leaves_the_model(error, number):
    model, mass = network(), Mass()
    before = helpers.fingerprint(model)

    def evaluate(model):
        if mass.calls == number - 1:
            raise error
        return mass(model)

    with pytest.raises(error):
        kg.find_thresholds(model, evaluate, max_drop=5.0)
    assert helpers.fingerprint(model) == before


@pytest.mark.parametrize("last", [1, 3, 10])
def test_an_interrupted_evaluation_leaves_the_model(last):
    """On JAX, Keras has taken the weights out of the model by then."""
    model = compiled()
    x, y = samples(model)
    before = helpers.fingerprint(model)
    # TensorFlow has an exception of its own for those of Python's.
    with pytest.raises(Exception, match="no more data"):
        kg.find_thresholds(model, Batches(x, y, last=last), max_drop=0.3)
    assert helpers.fingerprint(model) == before
    assert model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] == 1


# What is refused ----------------------------------------------------------

NAN = float("nan")
BAD = [
    ({"max_drop": -0.1}, ValueError, "find_thresholds.*`max_drop`.*-0.1"),
    ({"max_drop": NAN}, ValueError, "`max_drop`.*nan"),
    ({"trials": 0}, ValueError, "`trials` must be at least 1.*0"),
    ({"trials": 2.5}, TypeError, "`trials` must be an int.*2.5"),
    ({"trials": True}, TypeError, "`trials` must be an int.*True"),
    ({"keep_essential": -1}, ValueError, "`keep_essential`.*at least 0"),
    ({"keep_essential": "1"}, TypeError, "`keep_essential`.*str"),
    ({"kinds": ["layer"]}, ValueError, r"\['layer'\].*has: branch, filter"),
    ({"kinds": []}, ValueError, r"Received: \[\]"),
    ({"kinds": 3}, TypeError, "`kinds` must be.* 3 .*int"),
    ({"kinds": ["filter", "filter"]}, ValueError, "once"),
    ({"evaluate": lambda m: None}, TypeError, "one number.*NoneType"),
    ({"evaluate": lambda m: "good"}, TypeError, "one number.*'good'"),
    ({"evaluate": lambda m: [0.5, 0.4]}, TypeError, r"one number.*\[0.5"),
    ({"evaluate": lambda m: NAN}, ValueError, "must be finite.*nan"),
    ({"evaluate": None}, TypeError, "`evaluate` must be.*None"),
    ({"evaluate": 0.5}, TypeError, "`evaluate` must be.*0.5.*float"),
    ({"evaluate": (1, 2)}, ValueError, "not compiled"),
    ({"evaluate": iter([])}, TypeError, "iterator.*PyDataset"),
]


@pytest.mark.parametrize("arguments, error, match", BAD)
def test_bad_arguments_are_refused(arguments, error, match):
    model = network()
    before = helpers.fingerprint(model)
    with pytest.raises(error, match=match):
        kg.find_thresholds(model, **{"evaluate": Mass(), **arguments})
    assert helpers.fingerprint(model) == before


def test_a_metric_that_is_not_there_is_refused():
    model = compiled()
    with pytest.raises(ValueError, match="'auc'.*accuracy, loss"):
        kg.find_thresholds(model, samples(model), metric="auc")


def test_a_model_without_gates_is_refused():
    model = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    with pytest.raises(ValueError, match="has no gates whose thresholds"):
        kg.find_thresholds(model, Mass())


def test_a_trial_that_is_not_a_number_counts_as_a_failure():
    """Closing gates may make a loss infinite; the search goes on."""
    model, mass = network(), Mass()

    def evaluate(model):
        score = mass(model)
        return score if mass.calls == 1 else NAN

    found = kg.find_thresholds(model, evaluate, max_drop=1.0)
    assert isinstance(found, FoundThresholds)
    assert found == {"branch": 0.0, "filter": 0.0}
    assert found.chosen.score == found.scores[0]
