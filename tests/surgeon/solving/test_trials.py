"""What a search remembers is what solving again would find."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.solving import essential
from keras_gates.surgeon.solving import solve
from keras_gates.surgeon.solving.trials import Trials
from tests import helpers


def network(form):
    """Gates in a row, and round shortcuts; what they close goes on."""
    inputs = x = keras.Input((6, 6, 2))
    for number, width in enumerate((4, 4, 3)):
        y = L.Conv2D(width, 3, padding="same", name=f"conv_{number}")(x)
        y = L.BatchNormalization(name=f"norm_{number}")(y)
        y = kg.FilterGate(name=f"gate_{number}")(y)
        y = L.Activation("sigmoid", name=f"act_{number}")(y)
        x = L.Add()([x, y]) if form == "added" and number == 1 else y
    if form == "joined":
        x = L.Concatenate()([x, inputs])
    x = L.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, L.Dense(2, name="out")(x))
    helpers.randomize(model)
    return model


def choices(seed, count=12):
    """Closed factors, some of them as before."""
    random = np.random.default_rng(seed)
    widths = {"gate_0": 4, "gate_1": 4, "gate_2": 3}
    masks = {name: np.zeros(width, bool) for name, width in widths.items()}
    for _ in range(count):
        name = random.choice(list(widths))
        masks = {**masks, name: random.random(widths[name]) < 0.6}
        yield masks


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("form", ["row", "added", "joined"])
def test_what_is_remembered_is_what_would_be_found(form, exact):
    graph = expand.read(network(form))
    trials = Trials(graph)
    for seed in range(3):
        for closed in choices(seed):
            found, fresh = (
                solve.solve(graph, closed, exact, check=False, trials=each)
                for each in (trials, None)
            )
            np.testing.assert_array_equal(
                found.decision.kept, fresh.decision.kept
            )
            values = [
                [solution.decision.values.get(t) for t in step.outputs]
                for solution in (found, fresh)
                for step in solution.labelling.steps
            ]
            half = len(values) // 2
            for ours, theirs in zip(values[:half], values[half:], strict=True):
                for a, b in zip(ours, theirs, strict=True):
                    assert (a is None) == (b is None)
                    if a is not None:
                        assert (a.border, a.guess) == (b.border, b.guess)
                        np.testing.assert_array_equal(a.values, b.values)


def test_labels_are_made_once(monkeypatch):
    graph, calls = expand.read(network("row")), []
    trials = Trials(graph)
    first = trials.labelling(frozenset())
    monkeypatch.setattr(
        "keras_gates.surgeon.solving.trials.label",
        lambda *args: calls.append(args) or first,
    )
    for closed in choices(0, 5):
        solve.solve(graph, closed, check=False, trials=trials)
    assert len(calls) <= 4  # one for each set of gathers that do not pay


class Held:
    """What falls apart once all of these gates are closed altogether."""

    def __init__(self, sets):
        self.sets = sets
        self.calls = 0

    def __call__(self, closed):
        self.calls += 1
        shut = {name for name, mask in closed.items() if mask.all()}
        return any(each <= shut for each in self.sets)

    def alone(self):
        return []


def factors(count):
    return [
        kg.thresholds.Factors(f"g{n}", "filter", np.full(5, 1.0 + n))
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("seed", range(4))
def test_as_many_are_held_as_must(count, seed):
    """The largest of each set that must not be closed as a whole."""
    random = np.random.default_rng(seed)
    sets = [
        {f"g{n}" for n in random.choice(count, random.integers(1, 3))}
        for _ in range(1 + count // 4)
    ]
    severs = Held(sets)
    held = essential.held_open(factors(count), {}, 2, severs)
    left = {name: ~mask for name, mask in held.items()}
    every = {f"g{n}": np.ones(5, bool) for n in range(count)}
    assert not severs({**every, **left})
    assert all(mask.sum() == 2 for mask in held.values())
    for name in held:
        # Those of smaller factors are closed; with this one, it falls apart.
        smaller = {
            f"g{n}": left.get(f"g{n}", every[f"g{n}"])
            for n in range(int(name[1:]))
        }
        assert not severs(smaller)
        assert severs({**smaller, name: every[name]})


@pytest.mark.parametrize("step", [1, 5])
def test_few_are_asked(step):
    """Of a row, each must be held: it takes some three questions for each."""
    severs = Held([{f"g{n}"} for n in range(0, 40, step)])
    held = essential.held_open(factors(40), {}, 1, severs)
    assert len(held) == 40 // step
    assert severs.calls <= (4 if step == 1 else 8) * len(held)
