"""Budgets: counted on what `prune` makes of the model, by `kg.stats`."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon import plan
from keras_gates.surgeon import prune
from keras_gates.surgeon import verify
from keras_gates.surgeon.solving import essential
from tests import helpers
from tests.surgeon import small_models as sm

# Keras hands torch tensors to np.array, and `pytest.warns` sees it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

# What "nearly" means in the docs: 2 % of the budget, never above it.
NEAR = 0.98


def gated(x, name, kind=kg.FilterGate):
    return kind(name=name)(x)


def draw(model, seed=0):
    """Weights as after training, factors anywhere between 0 and 1."""
    helpers.randomize(model, closed="ones")
    rng = np.random.default_rng(seed)
    for gate in helpers.gates_of(model):
        gate.factor.assign(rng.uniform(0.01, 1, tuple(gate.factor.shape)))
    return model


def wide_chain(width=200):
    inputs = keras.Input((5,))
    x = gated(L.Dense(width, activation="relu")(inputs), "gate")
    return draw(keras.Model(inputs, L.Dense(3, name="out")(x)))


def convnet():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(48, 3, padding="same", use_bias=False)(inputs)
    x = gated(L.ReLU()(L.BatchNormalization()(x)), "one")
    x = L.Conv2D(64, 3, padding="same", strides=2)(x)
    x = gated(L.Activation("sigmoid")(x), "two")
    x = L.Flatten()(x)
    x = gated(L.Dense(40, activation="relu")(x), "three")
    return draw(keras.Model(inputs, L.Dense(4, name="out")(x)))


def residual():
    """Streams that tie channels, branches that may go."""
    inputs = keras.Input((6, 6, 3))
    x = gated(L.Conv2D(40, 3, padding="same")(inputs), "stem")
    for number in (1, 2, 3):
        y = L.Conv2D(32, 1, activation="relu")(x)
        y = gated(y, f"inner{number}")
        y = L.Conv2D(40, 3, padding="same")(y)
        y = gated(y, f"stream{number}")
        y = gated(y, f"branch{number}", kg.BranchGate)
        x = L.Add()([x, y])
    x = L.GlobalAveragePooling2D()(x)
    model = draw(keras.Model(inputs, L.Dense(3, name="out")(x)))
    # Tied channels close with the largest of their factors, so late.
    sizes = {f"stream{n}": np.linspace(0.01, 0.9, 40) for n in (1, 2, 3)}
    return sm.set_gates(model, stem=np.linspace(0.01, 0.9, 40), **sizes)


def counts(model):
    count = kg.stats.count(model)
    return {"macs": count.macs, "params": count.params}


BUDGETS = [
    {"macs": 0.5},
    {"macs": 0.2},
    {"params": 0.7},
    {"params": 0.3},
    {"macs": 0.5, "normalize": True},
    {"params": 0.3, "keep_essential": 2},
]


@pytest.mark.parametrize("arguments", BUDGETS, ids=str)
@pytest.mark.parametrize("make", [wide_chain, convnet, residual])
def test_the_pruned_model_keeps_to_the_budget(make, arguments):
    model, budget = make(), kg.Budget(**arguments)
    before = helpers.fingerprint(model)
    small = prune(model, budget)
    of, share = next(iter(arguments.items()))
    limit = share * counts(model)[of]
    assert NEAR * limit <= counts(small)[of] <= limit
    found = plan(model, budget)
    assert found.macs == (counts(model)["macs"], counts(small)["macs"])
    assert helpers.fingerprint(model) == before
    far = verify(model, small, budget)
    assert max(far.values()) < helpers.RTOL


@pytest.mark.parametrize("of", ["macs", "params"])
def test_numbers_above_one_are_absolute(of):
    model = convnet()
    share = prune(model, kg.Budget(**{of: 0.5}))
    absolute = prune(model, kg.Budget(**{of: counts(model)[of] / 2}))
    assert sm.same_weights(share, absolute)


@pytest.mark.parametrize("macs", [0.9, 0.5, 0.1, 0.05])
def test_the_smallest_factors_close_and_no_more_than_needed(macs):
    model = wide_chain()
    factor = helpers.numpy_of(model.get_layer("gate").factor)
    # A unit costs 5 + 3 multiply-adds.
    left = int(macs * 200 * 8) // 8
    found = plan(model, kg.Budget(macs=macs, keep_essential=1))
    expected = np.sort(np.argsort(factor)[: 200 - left])
    assert found.closed == {"gate": expected.tolist()}
    assert found.macs == (1600, left * 8)


class First(kg.thresholds.ThresholdRule):
    """Closes a number of factors, smallest first."""

    def __init__(self, count):
        self.count = count

    def close(self, gates):
        sizes = np.concatenate([np.abs(g.values).ravel() for g in gates])
        closed = np.zeros(sizes.size, bool)
        closed[np.argsort(sizes, kind="stable")[: self.count]] = True
        ends = np.cumsum([g.values.size for g in gates])[:-1]
        return [
            part.reshape(g.values.shape)
            for g, part in zip(gates, np.split(closed, ends), strict=True)
        ]


@pytest.mark.parametrize("share", [0.8, 0.6, 0.45, 0.3])
@pytest.mark.filterwarnings("ignore:Budget:UserWarning")
def test_no_choice_of_the_smallest_comes_nearer(share):
    """Every first so many are pruned; a Budget is as near as the best."""
    model = draw(sm.residual(), seed=3)
    total = sum(
        helpers.numpy_of(gate.factor).size for gate in helpers.gates_of(model)
    )
    limit = share * counts(model)["macs"]
    each = [counts(prune(model, First(n)))["macs"] for n in range(total - 2)]
    best = max(macs for macs in each if macs <= limit)
    got = counts(prune(model, kg.Budget(macs=share)))["macs"]
    assert best <= got <= limit


def big_branch():
    """A branch that costs nearly all of the model, and closes first."""
    inputs = keras.Input((10,))
    x = L.Dense(20, activation="relu", name="stem")(inputs)
    y = L.Dense(300, activation="relu", name="large")(x)
    y = gated(y, "inner")
    y = gated(L.Dense(20, name="back")(y), "branch", kg.BranchGate)
    x = L.Add()([x, y])
    model = draw(keras.Model(inputs, L.Dense(3, name="out")(x)))
    return sm.set_gates(model, inner=np.linspace(0.4, 0.9, 300), branch=0.35)


def test_a_step_that_goes_too_far_is_left_out():
    model = big_branch()
    whole = counts(model)["macs"]
    found = plan(model, kg.Budget(macs=0.7))
    assert NEAR * 0.7 * whole <= found.macs[1] <= 0.7 * whole
    assert found.closed["branch"] == []
    inner = found.closed["inner"]
    assert inner == list(range(len(inner)))
    # 10 x 20 of the stem and 20 x 3 after it are left.
    assert plan(model, kg.Budget(macs=260)).closed["branch"] == [0]


def scalar_steps():
    """Two branches that go or stay."""
    inputs = keras.Input((6,))
    x = L.Dense(6, name="stem")(inputs)
    for number in (1, 2):
        y = L.Dense(20, activation="relu")(x)
        y = gated(L.Dense(6)(y), f"branch{number}", kg.BranchGate)
        x = L.Add()([x, y])
    return draw(keras.Model(inputs, L.Dense(3, name="out")(x)))


def test_a_budget_that_is_met_from_afar_warns():
    model = sm.set_gates(scalar_steps(), branch1=0.2, branch2=0.8)
    whole, step = 36 + 18 + 480, 240
    with pytest.warns(UserWarning, match=r"macs=0.9.*leaves 294 MACs \(55.1%"):
        found = plan(model, kg.Budget(macs=0.9))
    assert found.macs == (whole, whole - step)
    assert found.closed == {"branch1": [0], "branch2": []}


def test_a_budget_that_is_kept_to_closes_nothing():
    model = scalar_steps()
    found = plan(model, kg.Budget(macs=1.0))
    assert found.closed == {"branch1": [], "branch2": []}
    assert found.macs == (534, 534)


# What can't be reached ----------------------------------------------------


@pytest.mark.parametrize("of, amount", [("macs", 0.001), ("params", 20)])
@pytest.mark.parametrize("make", [wide_chain, convnet, scalar_steps])
def test_out_of_reach(make, of, amount):
    """The least that is named is that of a budget of just as much."""
    model = make()
    before = helpers.fingerprint(model)
    with pytest.raises(ValueError, match="least that these gates") as error:
        plan(model, kg.Budget(**{of: amount}))
    assert helpers.fingerprint(model) == before
    least = str(error.value).split("can reach is ")[1].split()[0]
    least = int(least.replace(",", ""))
    small = prune(model, kg.Budget(**{of: least}))
    assert counts(small)[of] == least
    with pytest.raises(ValueError, match="can't be reached"):
        prune(model, kg.Budget(**{of: least - 1}))


def test_a_model_without_known_macs_is_refused():
    inputs = keras.Input((None, None, 3))
    x = gated(L.Conv2D(8, 3)(inputs), "gate")
    x = L.Conv2D(2, 1, name="out")(x)
    model = draw_unknown(keras.Model(inputs, x))
    with pytest.raises(ValueError, match="no MACs that can be counted"):
        plan(model, kg.Budget(macs=0.5))
    # A filter of 28 parameters, and two that read it, are left four times.
    assert plan(model, kg.Budget(params=122)).params == (250, 122)
    with pytest.raises(ValueError, match="latency.*'input_layer.*params"):
        plan(model, kg.Budget(latency=0.5))


def draw_unknown(model):
    """Distinct factors, for a model whose inputs have no size to draw."""
    return sm.set_gates(model, gate=np.linspace(0.1, 0.8, 8))


# Floors --------------------------------------------------------------------


@pytest.mark.parametrize(
    "floor, left",
    [(0.05, 10), (0.1, 20), (1, 1), (0, 1), (37, 37), (0.99, 198)],
)
def test_a_gate_that_nothing_leads_round_keeps_a_floor(floor, left):
    least = 8 * left
    model = wide_chain()
    budget = kg.Budget(macs=max(least, 2), keep_essential=floor)
    found = plan(model, budget)
    assert found.macs[1] == least
    with pytest.raises(ValueError, match=f"can reach is {least:,} MACs"):
        plan(model, kg.Budget(macs=max(least - 1, 2), keep_essential=floor))


def test_a_branch_needs_no_floor():
    model = residual()
    branches = [f"inner{n}" for n in (1, 2, 3)]
    sm.set_gates(model, **{name: np.full(32, 1e-3) for name in branches})
    share = (
        1
        - sum(
            row.macs[0] for row in plan(model, 0).rows if "conv2d" in row.layer
        )
        / counts(model)["macs"]
    )
    assert share < 0.01
    stem = 36 * 9 * 3 * 40 + 40 * 3
    small = prune(model, kg.Budget(macs=stem))
    assert counts(small)["macs"] == stem
    found = plan(model, kg.Budget(macs=stem))
    assert all(len(found.closed[name]) == 32 for name in branches)


def test_a_scalar_gate_that_nothing_leads_round_stays_open():
    inputs = keras.Input((5,))
    x = gated(L.Dense(200, activation="relu")(inputs), "gate")
    x = gated(L.Dense(50)(x), "whole", kg.LayerGate)
    model = draw(keras.Model(inputs, L.Dense(3, name="out")(x)))
    sm.set_gates(model, whole=0.001)
    found = plan(model, kg.Budget(macs=0.5))
    assert found.closed["whole"] == []
    note = "held open by keep_essential: 'whole' (1 of 1)"
    assert note in found.notes
    assert note in str(found)


def test_gates_in_a_row_leave_a_way_through():
    """Both close the channels that the other one leaves open."""
    inputs = keras.Input((5,))
    x = gated(L.Dense(40, activation="relu")(inputs), "up")
    x = gated(x, "down")
    model = draw(keras.Model(inputs, L.Dense(3, name="out")(x)))
    sizes = np.linspace(0.1, 0.9, 40)
    sm.set_gates(model, up=sizes, down=sizes[::-1])
    small = prune(model, kg.Budget(macs=0.5))
    assert counts(small)["macs"] == 160
    with pytest.raises(ValueError, match="can reach is"):
        prune(model, kg.Budget(macs=0.01))


@pytest.mark.parametrize(
    "thresholds, floor, notes",
    [
        (2, 3, ["'gate' (3 of 200)"]),
        (2, 0.1, ["'gate' (20 of 200)"]),
        (0.0, 3, []),
        (kg.Budget(macs=800), 3, []),
    ],
)
def test_floors_that_hold_are_told(thresholds, floor, notes):
    model = wide_chain()
    found = plan(model, thresholds, keep_at_least=floor)
    told = [n for n in found.notes if n.startswith("held open")]
    assert told == [f"held open by keep_at_least: {note}" for note in notes]


def two_layers(ratio):
    """The factors of the first are those of the second, by `ratio`."""
    inputs = keras.Input((5,))
    x = inputs
    for name in ("first", "second"):
        x = gated(L.Dense(100, activation="relu")(x), name)
    model = draw(keras.Model(inputs, L.Dense(3, name="out")(x)))
    sizes = np.linspace(0.1, 1, 100)
    return sm.set_gates(model, first=sizes * ratio, second=sizes)


def test_the_floor_of_a_budget_is_told():
    found = plan(two_layers(1 / 50), kg.Budget(macs=0.03))
    assert len(found.closed["first"]) == 95
    told = "held open by keep_essential: 'first' (5 of 100)"
    assert told in found.notes


def test_the_floor_of_a_plan_holds_in_a_budget_too():
    model = residual()
    budget = kg.Budget(macs=0.3)
    found = plan(model, budget, keep_at_least={"inner1": 30, "stem": 0.5})
    assert len(found.closed["inner1"]) <= 2
    assert len(found.closed["stem"]) <= 20
    assert found.macs[1] <= 0.3 * found.macs[0]


@pytest.mark.parametrize("make", [wide_chain, convnet, residual, scalar_steps])
def test_all_but_what_is_held_can_close(make):
    """One factor more, and an output is constant."""
    from keras_gates.surgeon.gates import expand
    from keras_gates.surgeon.gates.find import factors_of

    model = make()
    graph = expand.read(model)
    gates = factors_of(graph)
    gates = [g for g in gates if g.kind != "batch_norm"]
    severs = essential.Severing(graph)
    held = essential.held_open(gates, {}, 0, severs)
    shut = {g.name: np.ones(g.values.shape, bool) for g in gates}
    for name, mask in held.items():
        shut[name] = ~mask
    x = helpers.inputs_for(model, batch=8)
    factors = [(g, helpers.numpy_of(g.factor)) for g in helpers.gates_of(model)]

    def varies(closed):
        for gate, factor in factors:
            gate.factor.assign(np.where(closed[gate.name], 0, factor))
        return max(np.ptp(y, axis=0).max() for y in helpers.run(model, x)) > 0

    assert varies(shut)
    for name in held:
        assert not varies({**shut, name: np.ones_like(shut[name])})


# Beside other thresholds ------------------------------------------------------


def test_a_budget_for_one_kind_and_a_number_for_another():
    model = sm.set_gates(residual(), branch1=0.02, branch2=0.9, branch3=0.9)
    found = plan(model, {"filter": kg.Budget(macs=0.4), "branch": 0.5})
    assert found.closed["branch1"] == [0]
    assert found.closed["branch2"] == found.closed["branch3"] == []
    assert NEAR * 0.4 <= found.macs[1] / found.macs[0] <= 0.4
    whole = found.macs[0]
    none = plan(model, {"branch": kg.Budget(macs=whole - 460_800)})
    assert none.closed["branch1"] == [0]
    assert not any(none.closed[n] for n in ("stem", "inner1", "stream1"))


def test_one_budget_under_two_keys_ranks_both_together():
    model, budget = residual(), kg.Budget(params=0.4)
    both = plan(model, {"filter": budget, "branch": budget})
    assert both.closed == plan(model, budget).closed


def test_a_name_goes_before_the_kind_of_a_budget():
    model = residual()
    found = plan(model, {"filter": kg.Budget(macs=0.5), "inner1": 0.0})
    assert found.closed["inner1"] == []
    one = plan(model, {"filter": 0.3, "inner1": kg.Budget(macs=1.0)})
    assert one.closed["inner1"] == []
    assert len(one.closed["inner2"]) > 0


def test_two_budgets_are_refused():
    thresholds = {"filter": kg.Budget(macs=0.5), "branch": kg.Budget(params=3)}
    with pytest.raises(ValueError, match="one Budget.*macs=0.5.*params=3"):
        plan(residual(), thresholds)


def test_a_budget_without_gates_can_be_kept_to_but_not_reached():
    model = wide_chain()
    found = plan(model, {"gate": 0.5, "layer": kg.Budget(macs=1.0)})
    assert found.closed == plan(model, 0.5).closed
    with pytest.raises(ValueError, match="can reach is 1,600 MACs"):
        plan(model, {"gate": 0.0, "layer": kg.Budget(macs=0.5)})


def test_fixed_thresholds_that_cut_an_output_off_are_refused():
    with pytest.raises(ValueError, match="no longer depends.*'stem'"):
        plan(residual(), {"stem": 2.0, "inner1": kg.Budget(macs=0.5)})


@pytest.mark.filterwarnings("ignore:Budget:UserWarning")  # steps of eight
def test_round_to():
    model = convnet()
    found = plan(model, kg.Budget(macs=0.5), round_to=8)
    assert found.macs[1] <= 0.5 * found.macs[0]
    widths = [r.after for r in found.rows if r.kind in ("convolution", "dense")]
    assert [width % 8 for width in widths] == [0, 0, 0, 4]


# Ranking ------------------------------------------------------------------


def test_normalized_factors_are_compared_with_their_own_gate():
    model = two_layers(1 / 50)
    plain = plan(model, kg.Budget(macs=0.5)).closed
    assert plain["second"] == [] != plain["first"]
    own = plan(model, kg.Budget(macs=0.5, normalize=True)).closed
    assert abs(len(own["second"]) - len(own["first"])) <= 1


def test_gates_of_one_factor_are_normalized_by_kind():
    model = sm.set_gates(scalar_steps(), branch1=0.8, branch2=0.2)
    budget = kg.Budget(macs=294, normalize=True)
    assert plan(model, budget).closed == {"branch1": [], "branch2": [0]}
