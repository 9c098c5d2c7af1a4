"""What the options of a plan do: exact, keep_at_least, round_to, thresholds."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon import plan
from keras_gates.surgeon import prune
from keras_gates.surgeon import verify
from tests import helpers
from tests.surgeon import small_models as sm

T = helpers.THRESHOLD

# exact=False -------------------------------------------------------------


@pytest.mark.parametrize(
    "make, places",
    [
        (sm.constants, ["conv2"]),
        (sm.normalized, ["norm"]),
        (sm.normalized_twice, ["norm"]),
        (sm.chain, []),
        (sm.residual, []),
        (sm.rescaled, []),
        (sm.gated_input, []),
        (sm.siamese, []),
    ],
)
def test_approximate_places_are_listed(make, places):
    model = make()
    exact, loose = plan(model, T), plan(model, T, exact=False)
    assert [row.layer for row in loose.rows if not row.exact] == places
    assert loose.exact is (not places)
    assert exact.exact
    notes = [note for note in loose.notes if "approximate" in note]
    assert bool(notes) is bool(places)
    if places:
        assert loose.params[1] < exact.params[1]
    else:
        assert str(loose) == str(exact)
        assert sm.same_weights(loose.apply(), exact.apply())


def test_what_is_called_approximate_is():
    model = sm.constants()
    assert verify(model, prune(model, T), T)["out"] < helpers.RTOL
    loose = prune(model, T, exact=False)
    assert verify(model, loose, T, exact=False)["out"] > 1e-3


# keep_at_least and round_to ----------------------------------------------


def width(model, name):
    return model.get_layer(name).output.shape[-1]


@pytest.mark.parametrize(
    "floor, widths",
    [
        (1, (1, 1)),
        (3, (3, 3)),
        (100, (8, 8)),
        ({"inner2": 5, "inner1": 2}, (2, 5)),
    ],
)
def test_keep_at_least(floor, widths):
    model = sm.set_gates(
        sm.residual(),
        **{f"inner{n}": np.linspace(0.1, 0.4, 8) for n in (1, 2)},
        **{f"stream{n}": sm.half(6) for n in (1, 2)},
        block1=1.0,
        block2=1.0,
    )
    small = prune(model, T, keep_at_least=floor)
    assert tuple(width(small, name) for name in ("a1", "a2")) == widths
    far = verify(model, small, T, keep_at_least=floor)
    assert far["out"] < helpers.RTOL


def test_keep_at_least_keeps_the_largest():
    model = sm.set_gates(sm.chain(), gate=[0.1, -0.3, 0.2, 0, 0, 0, -0.4, 0])
    assert plan(model, T, keep_at_least=3).closed == {"gate": [0, 3, 4, 5, 7]}


@pytest.mark.parametrize("multiple", [1, 2, 3, 4, 8, 64])
@pytest.mark.parametrize(
    "make", [sm.constants, sm.dropped_branch, sm.chain, sm.siamese, sm.sequence]
)
def test_round_to(make, multiple):
    model = make()
    found = plan(model, T, round_to=multiple)
    small = found.apply()
    kinds = ("dense", "convolution")
    for row in found.rows:
        if row.kind in kinds and row.after:
            assert row.after == row.before or row.after % multiple == 0, row
    # Reopened gates count as open: the plan's own closed set is the truth.
    assert max(verify(model, small, found).values()) < helpers.RTOL
    again = verify(model, small, T, round_to=multiple)
    assert max(again.values()) < helpers.RTOL
    plain = plan(model, T)
    assert found.params[1] >= plain.params[1]
    for name, closed in found.closed.items():
        assert set(closed) <= set(plain.closed[name])


def test_round_to_opens_the_largest_closed_gates():
    model = sm.set_gates(sm.chain(), gate=[0.1, 0.4, 1, 1, 1, 0.3, 0.2, 0.0])
    found = plan(model, T, round_to=4)
    assert found.closed == {"gate": [0, 5, 6, 7]}
    assert found.apply().get_layer("hidden").units == 4


def test_round_to_opens_tied_channels_together():
    """A stream has one set of channels: what is opened is open everywhere."""
    inputs = keras.Input((5,))
    gates = [kg.FilterGate(name=name) for name in ("left", "right")]
    left, right = (gate(L.Dense(8)(inputs)) for gate in gates)
    x = L.ReLU(name="relu")(L.Add(name="add")([left, right]))
    model = helpers.randomize(keras.Model(inputs, L.Dense(3)(x)))
    factors = [0.1, 0.2, 0.3, 0.4, 0.45, 1, 1, 1]
    sm.set_gates(model, left=factors, right=factors)
    found = plan(model, T, round_to=4)
    assert found.closed == {"left": [0, 1, 2, 3], "right": [0, 1, 2, 3]}
    small = found.apply()
    assert width(small, "add") == 4
    assert max(verify(model, small, found).values()) < helpers.RTOL


def test_round_to_reaches_through_gathers():
    """Two readers with gates of their own: what both close goes."""
    inputs = keras.Input((5,))
    x = L.Dense(10, name="both")(inputs)
    outputs = [L.Dense(3)(kg.FilterGate(name=name)(x)) for name in "ab"]
    model = helpers.randomize(keras.Model(inputs, outputs))
    sm.set_gates(model, a=[0.1, 0.2, 0.3] + [1] * 7)
    sm.set_gates(model, b=[0.1, 0.2, 0.4] + [1] * 6 + [0.1])
    assert prune(model, T).get_layer("both").units == 7
    found = plan(model, T, round_to=4)
    # The largest factor that closes one of the three is opened; no other.
    assert found.closed == {"a": [0, 1, 2], "b": [0, 1, 9]}
    small = found.apply()
    assert small.get_layer("both").units == 8
    assert max(verify(model, small, found).values()) < helpers.RTOL


# Thresholds, through the whole plan --------------------------------------


def test_thresholds_are_strict():
    model = sm.set_gates(sm.chain(), gate=[0.5, -0.5, 0.49, 0.51, 1, 1, 1, 1])
    assert plan(model, 0.5).closed == {"gate": [2]}


@pytest.mark.parametrize(
    "thresholds, closed",
    [
        ({"filter": 0.5}, {"inner1", "inner2", "stream1", "stream2"}),
        ({"block": 0.5}, {"block1"}),
        ({"filter": 0.5, "inner1": 0.0}, {"inner2", "stream1", "stream2"}),
        ({"inner1": 0.5}, {"inner1"}),
        ({"block": 0.5, "block1": 0, "layer": 9}, set()),
        ({"inner1": kg.Quantile(0.25), "block": 0.5}, {"inner1", "block1"}),
    ],
)
def test_kinds_and_names(thresholds, closed):
    filters = {f"inner{n}": sm.half(8) for n in (1, 2)}
    filters |= {f"stream{n}": sm.half(6) for n in (1, 2)}
    model = sm.set_gates(sm.residual(), block1=0.1, block2=1.0, **filters)
    found = plan(model, thresholds)
    assert {name for name, shut in found.closed.items() if shut} == closed
    assert verify(model, found.apply(), found)["out"] < helpers.RTOL


@pytest.mark.parametrize("scope", ["global", "gate"])
@pytest.mark.parametrize("q", [0.0, 0.3, 0.5, 0.8])
def test_quantiles(q, scope):
    model = sm.convnet(closed="none")
    rule = kg.Quantile(q, scope=scope)
    found = plan(model, rule)
    shut = {name: len(indices) for name, indices in found.closed.items()}
    if scope == "gate":
        assert shut == {"gate1": int(q * 8), "gate2": int(q * 6)}
    else:
        assert sum(shut.values()) == int(q * 14)
    small = found.apply()
    assert verify(model, small, found)["out"] < helpers.RTOL
    assert verify(model, small, rule)["out"] < helpers.RTOL


def test_gates_of_nested_models_are_named_by_path():
    def tower(name):
        return keras.Sequential(
            [
                keras.Input((5,)),
                L.Dense(5, name="hidden"),
                kg.FilterGate(name="gate"),
                L.Dense(5, name="code"),
            ],
            name=name,
        )

    inputs = keras.Input((5,))
    model = keras.Model(inputs, tower("second")(tower("first")(inputs)))
    helpers.randomize(model, closed="most")
    found = plan(model, {"second/gate": T})
    assert sorted(found.closed) == ["first/gate", "second/gate"]
    assert found.closed["first/gate"] == []
    assert len(found.closed["second/gate"]) > 0
    small = found.apply()
    assert small.get_layer("first").get_layer("hidden").units == 5
    assert small.get_layer("second").get_layer("hidden").units < 5
    assert max(verify(model, small, found).values()) < helpers.RTOL
