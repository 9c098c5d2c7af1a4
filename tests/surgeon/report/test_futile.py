"""Channels closed for nothing are reported: notes, scores, budgets, gates."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates import thresholds as th
from keras_gates.surgeon import Plan
from keras_gates.surgeon import plan
from keras_gates.surgeon import prune
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.solving import removable
from keras_gates.surgeon.solving import solve
from keras_gates.transforms import GateSpec
from keras_gates.transforms import insert_gates
from tests import helpers
from tests.surgeon import example_layers
from tests.surgeon import small_models as sm
from tests.surgeon.refusals import warned
from tests.surgeon.rules.test_rules import prepared

T = helpers.THRESHOLD
# The examples of all rules, each fifth of them in turn.
PARTS = [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 5))]


class Strange(helpers.Opaque):
    """Has no rule."""

    def function(self, x):
        return ops.flip(x, -1) * x


class Exactly(th.ThresholdRule):
    """Closes what it is told to."""

    def __init__(self, masks):
        self.masks = masks

    def close(self, gates):
        return [
            self.masks.get(gate.name, np.zeros(gate.values.shape)).astype(bool)
            for gate in gates
        ]


def gate(name, x):
    return kg.FilterGate(name=name)(x)


def dense(name, x, units=8):
    return L.Dense(units, name=name)(x)


def half_closed(model):
    """Closes the first half of each gate's channels; scalar gates, too."""
    for layer in helpers.gates_of(model):
        if layer.name.startswith("open"):
            continue
        size = int(np.prod(layer.factor.shape))
        shut = np.arange(size) < max(1, size // 2)
        layer.factor.assign(
            np.where(shut, 0.0, 1.0).reshape(layer.factor.shape)
        )
    return model


# The notes -----------------------------------------------------------------


def before(middle, shape=(6, 4)):
    """A gate, something that bars, and a head."""

    def build():
        i = keras.Input(shape)
        return keras.Model(i, dense("o", middle(gate("g", dense("a", i))), 2))

    return build


def attention(x):
    return L.MultiHeadAttention(2, 4, name="mha")(x, x)


def behind_recurrent():
    i = keras.Input((6, 4))
    return keras.Model(i, dense("o", gate("g", L.GRU(8, name="l")(i)), 2))


def tied(other):
    def build():
        i = keras.Input((4,))
        x = gate("g", dense("a", i))
        return keras.Model(
            i, dense("o", L.Add(name="sum")([x, other(dense("b", i))]), 2)
        )

    return build


def tied_to_the_input():
    i = keras.Input((8,))
    x = L.Add(name="sum")([i, gate("g", dense("a", i))])
    return keras.Model(i, dense("o", x, 2))


def one_call_of_a_shared_layer():
    i, j = keras.Input((4,)), keras.Input((4,))
    shared = L.Dense(8, name="shared")
    parts = [dense("p", gate("g", shared(i)), 3), dense("q", shared(j), 3)]
    return keras.Model([i, j], L.Concatenate()(parts))


def one_path_of_two():
    i = keras.Input((4,))
    x = dense("a", i)
    return keras.Model(i, [dense("p", gate("g", x), 1), dense("q", x, 3)])


def on_the_output():
    i = keras.Input((4,))
    return keras.Model(i, L.ReLU()(gate("g", dense("a", i))))


def scalar(kind):
    def build():
        i = keras.Input((4,))
        x = dense("a", i, 4)
        y = L.Add()([dense("b", i, 4), kind(name="g")(x)])
        return keras.Model(i, [dense("o", y, 2), dense("p", x, 2)])

    return build


def part_of_coupled_channels():
    """Each channel of the map is made of 16 units, of which half are closed."""
    i = keras.Input((4,))
    x = L.Reshape((4, 4, 8))(gate("g", dense("a", i, 128)))
    return keras.Model(i, L.Conv2D(2, 3)(x))


NOTES = {
    "attention": (
        before(attention),
        ["4 channels", "'g'", "'mha' (MultiHeadAttention)"],
    ),
    "softmax": (
        before(L.Softmax(name="s")),
        ["all 4 channels", "'s' (Softmax)", "reads all channels together"],
    ),
    "normalization": (
        before(L.LayerNormalization(name="ln")),
        ["'ln' (LayerNormalization)", "can't absorb", "exact=False"],
    ),
    "custom": (
        before(Strange(name="odd")),
        ["'odd' (Strange)", "no rule for Strange", "surgeon.register"],
    ),
    "lambda": (
        before(L.Lambda(helpers.noisy, lambda s: s, name="odd")),
        ["'odd' (Lambda)", "keras.ops"],
    ),
    "RNN": (
        before(L.RNN(L.LSTMCell(3), name="r")),
        ["'r' (RNN)", "keras.layers.LSTM in its place", "what it reads can go"],
    ),
    "feedback": (behind_recurrent, ["'l' (GRU)", "feeds them back"]),
    "open gate": (
        tied(lambda x: kg.FilterGate(name="open")(x)),
        ["'sum' ties", "'open' leaves open", "one gate after 'sum'"],
    ),
    "no gate": (
        tied(lambda x: x),
        ["'sum' ties", "'b'", "no gate closes", "one gate after 'sum'"],
    ),
    "input": (tied_to_the_input, ["'sum' (Add)", "an input", "Project"]),
    "one call": (
        one_call_of_a_shared_layer,
        ["'shared'", "other calls", "each of its calls"],
    ),
    "one path": (one_path_of_two, ["'q' (Dense)", "gather"]),
    "output": (
        on_the_output,
        ["(ReLU) produces an output", "before the output"],
    ),
    "coupled": (part_of_coupled_channels, ["coupled", "leaves open"]),
    **{
        f"scalar {kind.__name__}": (
            scalar(kind),
            ["'g' removes nothing", "'a' is also read by 'p'"],
        )
        for kind in (kg.LayerGate, kg.BranchGate, kg.BlockGate)
    },
}


def futile(found):
    return [note for note in found.notes if "nothing:" in note]


@pytest.mark.parametrize("case", NOTES)
def test_a_note_names_count_barrier_and_remedy(case):
    build, words = NOTES[case]
    model = half_closed(build())
    found = plan(model, T)
    if case in _MAY_GO and found.params[1] < found.params[0] - 8:
        return
    (note,) = futile(found)
    assert all(word in note for word in words), note
    assert "\n" not in note
    again = Plan.from_json(found.to_json(), model)
    assert again.notes == found.notes
    assert f"note: {note}" in str(found)
    # What a whole prune does nothing of, it says as well.
    _, texts = warned(lambda: prune(model, T))
    assert len(texts) == 1 and note in texts[0]


# They stay for want of a rule, and are right to go once there is one.
_MAY_GO = {"attention", "coupled", "one call", "RNN"}


def test_partly_for_nothing():
    """Four of the closed channels are open in the other operand."""
    model = sm.set_gates(
        tied(lambda x: gate("h", x))(),
        g=[0, 0, 0, 0, 1, 1, 1, 1],
        h=[0, 0, 1, 1, 1, 1, 1, 1],
    )
    found = plan(model, T)
    (note,) = futile(found)
    assert note.startswith("2 of 4 channels closed by 'g' remove nothing")
    small, texts = warned(lambda: prune(model, T))
    assert small.get_layer("a").units == 6 and not texts


def test_gammas_are_told_of_like_gates():
    i = keras.Input((4,))
    x = L.BatchNormalization(name="bn")(dense("a", i))
    model = keras.Model(i, dense("o", Strange(name="odd")(x), 2))
    model.get_layer("bn").gamma.assign([0.0] * 4 + [1.0] * 4)
    (note,) = futile(plan(model, {"batch_norm": T}))
    assert "all 4 channels closed by 'bn'" in note and "'odd'" in note


def test_groups_are_told_of_like_gates():
    i = keras.Input((6, 4))
    model = keras.Model(i, dense("o", L.LSTM(8, name="l")(i), 2))
    found = plan(model, th.Quantile(0.5), scores={"l": np.arange(8.0)})
    if found.params[1] == found.params[0]:
        (note,) = futile(found)
        assert "all 4 channels closed by 'l'" in note
        assert "feeds them back" in note


@pytest.mark.parametrize("make", sm.MODELS)
def test_nothing_is_said_where_all_that_is_closed_goes(make):
    if make in (sm.normalized, sm.gated_output, sm.residual):
        return  # they do close what stays
    assert not futile(plan(make(closed="half"), T))
    _, texts = warned(lambda: prune(make(closed="half"), T))
    assert not texts


def test_the_channel_that_others_merge_into_is_no_loss():
    found = plan(sm.constants(), T)
    assert "one channel has to stay" in str(found) and not futile(found)


def test_notes_are_few():
    i = keras.Input((4,))
    heads = []
    for n in range(9):
        x = gate(f"g{n}", dense(f"a{n}", i, 4 + n))
        heads.append(dense(f"o{n}", Strange(name=f"odd{n}")(x), 2))
    model = half_closed(keras.Model(i, L.Concatenate()(heads)))
    notes = futile(plan(model, T))
    assert len(notes) == 5
    # Those of the most parameters come first.
    assert "'g8'" in notes[0] and "'g4'" in notes[-1]
    (rest,) = [n for n in plan(model, T).notes if "more notes like these" in n]
    assert rest.startswith("4 more") and "'g3'" in rest


@pytest.mark.parametrize("part", PARTS)
def test_what_notes_say_is_true_of_the_models(part):
    """Opening again what removes nothing leaves as many parameters."""
    checked = 0
    for example in example_layers.EXAMPLES[part :: len(PARTS)]:
        if example.cls is None:
            continue
        model = prepared(example)
        graph = expand.read(model)
        closed = {
            name: mask
            for name, mask in plan(model, T).masks().items()
            if mask.any()
        }
        solution = solve.solve(graph, closed)
        vain = removable.in_vain(solution)
        opened = {n: m & ~vain.get(n, False) for n, m in closed.items()}
        left = [
            plan(model, Exactly(masks)).params[1] for masks in (closed, opened)
        ]
        assert left[0] == left[1], (str(example), vain)
        # And all else that is closed does remove something.
        if any(mask.any() for mask in opened.values()):
            assert plan(model, Exactly({})).params[1] > left[1], str(example)
            checked += 1
    assert checked > 20


# What is offered -----------------------------------------------------------


def cheapest(model, name, size):
    """The parameters before and after with one unit of a group left."""
    mask = np.arange(size) > 0
    scores = {name: np.where(mask, 0.0, 1.0)}
    return plan(model, 0.5, scores=scores).params


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("exact", [True, False])
def test_every_group_that_is_offered_removes_something(exact, part):
    """And none that is not offered does, closed but for one unit."""
    checked = 0
    models = list(sm.MODELS)
    models += [e.build for e in example_layers.EXAMPLES if e.cls is not None]
    for make in models[part :: len(PARTS)]:
        model = make()
        every = groups.find(expand.read(model), exact).groups
        try:
            offered = kg.surgeon.score(model, "random", exact=exact)
        except ValueError as error:
            assert "No channel" in str(error)
            offered = {}
        for name, group in every.items():
            if group.units.size < 2:
                continue
            scores = {name: np.r_[1.0, np.zeros(group.units.size - 1)]}
            found = plan(model, 0.5, scores=scores, exact=exact)
            fewer = (
                found.params[1]
                < plan(model, 0.0, scores=scores, exact=exact).params[1]
            )
            # Dimensions of heads are offered where they are asked for.
            assert fewer == (name in offered or not group.main), (name, make)
            checked += 1
    assert checked > 20


def test_a_budget_leaves_open_what_can_not_go():
    i = keras.Input((6, 16))
    x = gate("g", dense("a", i, 16))
    x = gate("h", dense("b", Strange(name="odd")(x), 64))
    model = keras.Model(i, dense("o", x, 2))
    rng = np.random.default_rng(0)
    sm.set_gates(model, g=rng.uniform(0, 0.1, 16), h=rng.uniform(0.5, 1, 64))
    found = plan(model, kg.Budget(params=0.8))
    assert not found.closed["g"] and found.closed["h"]
    assert any("leaves them open: 'g' (16 of 16)" in n for n in found.notes)
    assert not any("keep_at_least" in note for note in found.notes)
    assert not futile(found)


def test_a_budget_closes_no_channel_that_another_gate_holds_open():
    model = insert_gates(kg.zoo.resnet(8, shortcut="pad"), filters=True)
    rng = np.random.default_rng(0)
    for layer in helpers.gates_of(model):
        layer.factor.assign(rng.uniform(0, 1, layer.factor.shape))
    found = plan(model, kg.Budget(params=0.6))
    assert not futile(found)
    assert found.params[1] <= 0.6 * found.params[0]


def barred(i, layer):
    return dense("o", dense("b", layer(dense("a", i))), 2)


@pytest.mark.parametrize(
    "layer, gated",
    [(Strange(name="odd"), {"b"}), (L.Softmax(name="odd"), {"b"})],
)
def test_no_gate_is_put_where_it_would_remove_nothing(layer, gated):
    i = keras.Input((4,))
    model = keras.Model(i, barred(i, layer))
    names = {x.name for x in helpers.gates_of(insert_gates(model, True))}
    assert names == {f"{name}_filter_gate" for name in gated}
    structure = kg.transforms.find_structure(model)
    (a,) = [x for x in structure.filters if x.name == "a"]
    assert "'odd'" in (a.reason or a.approximate)


def test_a_gate_that_only_exact_false_uses_can_be_asked_for():
    """Of a recurrent layer: exactly, it feeds its units back into itself."""
    i = keras.Input((6, 4))
    model = keras.Model(i, dense("o", dense("b", L.GRU(8, name="l")(i)), 2))
    gated = half_closed(insert_gates(model, GateSpec(include=["l"])))
    assert prune(gated, T, exact=False).get_layer("l").units == 4
    names = {x.name for x in helpers.gates_of(insert_gates(model, True))}
    assert "b_filter_gate" in names


def test_a_layer_that_is_named_and_can_not_be_cut_is_refused():
    i = keras.Input((4,))
    model = keras.Model(i, barred(i, Strange(name="odd")))
    with pytest.raises(ValueError, match="'a'.*'odd' .Strange.*no rule"):
        insert_gates(model, ["a"])


def test_gates_that_are_put_in_all_remove_something():
    """On networks of all kinds, closed all but one."""
    for make in (
        lambda: kg.zoo.resnet(8),
        lambda: kg.zoo.densenet(10, 4),
        kg.zoo.lenet5,
    ):
        gated = insert_gates(make(), filters=True)
        graph = expand.read(gated)
        names = [layer.name for layer in helpers.gates_of(gated)]
        vain = removable.never(graph, names)
        assert not any(mask.all() for mask in vain.values())


def shared(*gated):
    """Two layers that a sum ties, some of them with the same channels closed.

    A quotient is never known to be zero.
    """
    inputs = keras.Input((4,))
    made = [dense(name, inputs, 6) for name in ("one", "two")]
    made = [
        gate(f"gate_{n}", x) if n in gated else x for n, x in enumerate(made)
    ]
    by = ops.exp(L.Dense(1)(inputs))
    x = ops.divide(L.Add(name="sum")(made), by)
    model = keras.Model(inputs, dense("reader", x, 3))
    for each in helpers.gates_of(model):
        each.factor.assign([1, 0, 1, 0, 0, 1])
    return model


def test_a_layer_is_ungated_only_where_no_gate_closes_it():
    (note,) = plan(shared(0), T).notes
    assert "'sum' ties them to channels of 'two', which no gate closes" in note
    (note,) = plan(shared(0, 1), T).notes
    assert "'gate_0'" in note and "'gate_1'" in note
    assert "'reader' (Dense) reads them" in note and "no gate" not in note
