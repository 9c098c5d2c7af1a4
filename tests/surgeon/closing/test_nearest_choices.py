"""Budgets are met as closely as the best of all choices."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon import plan
from keras_gates.surgeon.closing import close
from keras_gates.surgeon.closing.options import Options
from keras_gates.surgeon.report import table
from tests import helpers
from tests.surgeon import small_models as sm

# Keras hands torch tensors to np.array, and `pytest.warns` sees it.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning"
    ),
    pytest.mark.filterwarnings("ignore:Budget.*larger steps:UserWarning"),
]
NEAR = 0.98


# Models -----------------------------------------------------------------------


def gated(x, name, kind=kg.FilterGate):
    return kind(name=name)(x)


def branches():
    """Three branches of different sizes, a gated stem, a gated head."""
    inputs = keras.Input((6, 6, 3))
    x = gated(L.Conv2D(6, 3, padding="same", name="stem")(inputs), "g0")
    x = L.Conv2D(6, 1)(x)
    for number, width in enumerate((5, 9, 14)):
        y = L.Conv2D(width, 3, padding="same", activation="relu")(x)
        y = L.Conv2D(6, 1)(y)
        x = L.Add()([x, gated(y, f"b{number}", kg.BranchGate)])
    x = gated(L.Dense(6, activation="relu")(L.Flatten()(x)), "g1")
    return keras.Model(inputs, L.Dense(3)(x))


def flattened():
    """A channel before Flatten takes many rows of a kernel with it."""
    inputs = keras.Input((6, 6, 2))
    x = gated(L.Conv2D(4, 3, activation="relu")(inputs), "g0")
    x = gated(L.Conv2D(5, 3, activation="relu")(x), "g1")
    x = gated(L.Dense(8, activation="relu")(L.Flatten()(x)), "g2")
    return keras.Model(inputs, L.Dense(3)(x))


def streams():
    """Channels that go when two gates have closed them."""
    inputs = keras.Input((5, 5, 2))
    x = gated(L.Conv2D(6, 3, padding="same")(inputs), "g0")
    y = gated(L.Conv2D(8, 1, activation="relu")(x), "g1")
    y = gated(L.Conv2D(6, 3, padding="same")(y), "g2")
    x = L.Add()([x, y])
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def blocks():
    """A block that goes as a whole, filters in it and after it."""
    inputs = keras.Input((8,))
    x = L.Dense(10, name="in")(inputs)
    y = gated(L.Dense(9, activation="relu")(x), "g0")
    z = gated(L.Dense(10)(y), "b0", kg.LayerGate)
    y = L.Add()([L.Dense(10)(y), z])
    x = L.Add()([x, gated(y, "b1", kg.BlockGate)])
    x = gated(L.Dense(7, activation="relu")(x), "g1")
    return keras.Model(inputs, L.Dense(3)(x))


MODELS = {f.__name__: f for f in (branches, flattened, streams, blocks)}


def choices(model, search, of, count=200):
    """What very many choices leave, of those that hold open what they must."""
    rng = np.random.default_rng(1)
    held = search.held
    costs = []
    for _ in range(count):
        share = rng.uniform(0, 1)
        masks = {}
        for gate in search.members:
            own = share if rng.random() < 0.5 else rng.uniform(0, 1)
            shut = rng.random(gate.values.shape) < own
            masks[gate.name] = shut & ~held[gate.name]
        costs.append(search.totals(masks)[of][1])
    return np.array(costs)


def searched(model, round_to=1, keep_essential=0.05):
    """A search, with what it holds open."""
    from keras_gates.surgeon.gates import expand
    from keras_gates.surgeon.gates.find import factors_of
    from keras_gates.surgeon.solving import essential

    graph = expand.read(model)
    gates = [g for g in factors_of(graph) if g.kind != "batch_norm"]
    budget = kg.Budget(macs=0.5, keep_essential=keep_essential)
    options = Options(round_to=round_to)
    search = close._Search(graph, budget, gates, {}, options)
    severs = essential.Severing(graph)
    found = essential.held_open(gates, {}, keep_essential, severs)
    none = {g.name: np.zeros(g.values.shape, bool) for g in gates}
    search.held = none | found
    return search


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("name", MODELS)
def test_many_choices_of_models(name, of):
    model = MODELS[name]()
    rng = np.random.default_rng(0)
    misses, tried = 0, 0
    for _ in range(2):
        for gate in helpers.gates_of(model):
            gate.factor.assign(rng.uniform(0.1, 0.9, tuple(gate.factor.shape)))
        search = searched(model)
        costs = choices(model, search, of)
        whole = search.totals({})[of][0]
        for share in (0.8, 0.5, 0.35):
            limit = share * whole
            some = costs[costs <= limit]
            if not some.size:
                continue
            left = getattr(plan(model, kg.Budget(**{of: share})), of)[1]
            assert left <= limit
            tried += 1
            misses += left < NEAR * limit <= some.max()
    assert tried >= 3
    assert not misses


@pytest.mark.parametrize(
    "round_to, keep_essential",
    [
        *((1, 0), (1, 2), (1, 0.4), (4, 0.4)),
        pytest.param(4, 0, marks=pytest.mark.slow),
        pytest.param(4, 2, marks=pytest.mark.slow),
    ],
)
def test_many_choices_with_floors_and_multiples(round_to, keep_essential):
    model = sm.set_gates(
        branches(),
        g0=np.linspace(0.2, 0.8, 6),
        g1=np.linspace(0.9, 0.1, 6),
        b0=0.3,
        b1=0.6,
        b2=0.5,
    )
    search = searched(model, round_to, keep_essential)
    costs = choices(model, search, "macs", 100)
    whole = search.totals({})["macs"][0]
    for share in (0.8, 0.6, 0.4):
        some = costs[costs <= share * whole]
        if not some.size:
            continue
        budget = kg.Budget(macs=share, keep_essential=keep_essential)
        left = plan(model, budget, round_to=round_to).macs[1]
        assert left <= share * whole
        assert left >= min(NEAR * share * whole, some.max())


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0.25, 0.95),
    name=st.sampled_from(sorted(MODELS)),
    of=st.sampled_from(["macs", "params"]),
)
def test_any_ranking(seed, share, name, of):
    """Where it is not near, no single step is left that would help."""
    model = MODELS[name]()
    rng = np.random.default_rng(seed)
    for gate in helpers.gates_of(model):
        gate.factor.assign(rng.uniform(0.1, 0.9, tuple(gate.factor.shape)))
    try:
        found = plan(model, kg.Budget(**{of: share}))
    except ValueError as error:
        assert "can't be reached" in str(error)
        return
    whole, left = getattr(found, of)
    assert left <= share * whole
    if left >= NEAR * share * whole:
        return
    search, masks = searched(model), found.masks()
    for name, mask in masks.items():
        for at in zip(*np.nonzero(mask), strict=True) if mask.ndim else [()]:
            other = mask.copy()
            other[at] = False
            more = search.totals({**masks, name: other})[of][1]
            assert more > share * whole or more == left


def test_the_branch_of_the_issue():
    """Alone it leaves 43 %; the smallest factors in their order, 0.5 %."""
    inputs = keras.Input((12, 12, 3))
    x = L.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    x = gated(x, "g1")
    x = L.Conv2D(24, 3, padding="same", activation="relu")(x)
    x = gated(x, "g2")
    y = gated(L.Conv2D(24, 3, padding="same")(x), "b", kg.BranchGate)
    x = L.GlobalAveragePooling2D()(L.Add()([y, x]))
    model = keras.Model(inputs, L.Dense(4)(x))
    rng = np.random.default_rng(0)
    for name, width in (("g1", 16), ("g2", 24)):
        sm.set_gates(model, **{name: rng.uniform(0.5, 0.8, width)})
    sm.set_gates(model, b=0.9)
    before, after = plan(model, kg.Budget(macs=0.5)).macs
    assert 0.4 <= after / before <= 0.5


def test_an_analysis_is_made_a_limited_number_of_times(monkeypatch):
    count = []
    totals = table.totals

    def counted(*args):
        count.append(args)
        return totals(*args)

    monkeypatch.setattr(table, "totals", counted)
    model = kg.insert_gates(kg.zoo.resnet(20), filters=True)
    rng = np.random.default_rng(0)
    for gate in helpers.gates_of(model):
        gate.factor.assign(rng.uniform(0.1, 0.9, tuple(gate.factor.shape)))
    found = plan(model, kg.Budget(macs=0.5), round_to=8)
    assert found.macs[1] <= 0.5 * found.macs[0]
    assert len(count) <= 70


def test_what_removes_nothing_stays_open():
    """Channels that an unknown layer reads stay, whatever is closed."""
    inputs = keras.Input((6,))
    x = gated(L.Dense(8, activation="relu")(inputs), "g0")
    x = gated(L.Dense(8, activation="softmax")(x), "idle")
    model = keras.Model(inputs, L.Softmax()(x))
    sm.set_gates(model, g0=np.linspace(0.5, 0.9, 8))
    sm.set_gates(model, idle=np.linspace(0.1, 0.4, 8))
    found = plan(model, kg.Budget(macs=0.5))
    assert found.closed["idle"] == []
    assert len(found.closed["g0"]) == 4
    note = "closing these removes nothing, so the budget leaves them open: "
    note += "'idle'"
    assert any(n.startswith(note) for n in found.notes)
