"""How layers that were seen through are rebuilt: class, written out, whole."""

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers
from tests.surgeon.build import kept_layers as kl

HALF = kg.Quantile(0.5, scope="gate")
# Some classes leave it to their first call to build what they hold.
pytestmark = pytest.mark.filterwarnings("ignore:`build:UserWarning")
# Float32, and outputs whose scale the numbers are relative to.
CLOSE = 1e-5


def model_of(*layers, shape=(12,), dtype="float32"):
    """The layers one after another, with a head of stock layers."""
    inputs = keras.Input(shape, dtype=dtype)
    x = inputs
    for layer in layers:
        x = layer(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(random.normal(0, 0.4, weight.shape))
    return model


def scores_inside(model):
    """Scores for what is hidden inside layers that put out 3 or 12."""
    found = kg.surgeon.score(model, "l2")
    inside = {name: x for name, x in found.items() if "/" in name}
    return {name: x for name, x in inside.items() if x.size not in (3, 12)}


def plan_of(model, **options):
    scores = scores_inside(model)
    return kg.surgeon.plan(model, HALF, scores=scores, **options)


def saved(model, tmp_path, **custom):
    path = tmp_path / "model.keras"
    model.save(path)
    return keras.saving.load_model(path, custom_objects=custom)


def truth(model, gate, closed):
    """What the model itself puts out with factors of a gate at zero."""
    before = np.array(keras.ops.convert_to_numpy(gate.factor))
    gate.factor.assign(np.where(closed, 0, before))
    x = np.random.default_rng(1).normal(size=(5, 12))
    outputs = helpers.predicted(model, x)
    gate.factor.assign(before)
    return x, outputs


def kinds(model):
    return [type(x) for x in model.layers if not isinstance(x, keras.Model)]


KEPT = {
    "one key": (lambda: kl.Hidden(16, name="x"), {"hidden": 8}),
    "a list": (
        lambda: kl.Listed([16, 16, 12], name="x"),
        {"widths": [8, 8, 12]},
    ),
    "a ratio": (lambda: kl.Ratio(1.5, name="x"), {"ratio": 9 / 12}),
    "a product": (lambda: kl.Parts(4, 4, name="x"), {"parts": 2, "size": 4}),
    "two keys": (lambda: kl.Agreed(16, 16, name="x"), {"left": 8, "right": 8}),
    "another key": (
        lambda: kl.Unlike(16, 16, name="x"),
        {"hidden": 8, "scale": 16},
    ),
    "another order": (lambda: kl.Sorted(16, name="x"), {"hidden": 8}),
    "a layer": (
        lambda: kl.Holding(keras.layers.Dense(16, "relu"), name="x"),
        {},
    ),
    "layers inside": (lambda: kl.Outer(16, name="x"), {"hidden": 8}),
    "training": (lambda: kl.Trained(16, name="x"), {"hidden": 8}),
}


@pytest.mark.parametrize("case", KEPT)
def test_class_is_kept_with_a_smaller_config(case, tmp_path):
    make, expected = KEPT[case]
    model = model_of(make())
    before = model.get_layer("x").get_config()
    plan = plan_of(model)
    pruned = plan.apply()
    new = pruned.get_layer("x")
    assert type(new) is type(model.get_layer("x"))
    config = new.get_config()
    for key, value in expected.items():
        assert config[key] == pytest.approx(value)
    assert any("keeps its class" in note for note in plan.notes)
    assert max(plan.verify(pruned).values()) < CLOSE
    loaded = saved(pruned, tmp_path, **kl.CLASSES)
    assert max(plan.verify(loaded).values()) < CLOSE
    with keras.saving.custom_object_scope(kl.CLASSES):
        again = type(pruned).from_config(pruned.get_config())
    again.set_weights(pruned.get_weights())
    assert max(plan.verify(again).values()) < CLOSE
    # The user's own layer is as it was.
    assert model.get_layer("x").get_config() == before


WRITTEN_OUT = {
    "another function": (lambda: kl.Scaled(16), "computes something else"),
    "a forgetful config": (lambda: kl.Forgetful(), "no change of the sizes"),
    "no config": (lambda: kl.Secretive("relu"), "Secretive has no config"),
    "two sizes for one key": (
        lambda: kl.Outer(16),
        "no change of the sizes in its config makes",
    ),
}


@pytest.mark.parametrize("case", WRITTEN_OUT)
def test_what_no_config_tells_is_written_out(case, tmp_path):
    make, reason = WRITTEN_OUT[case]
    layer = make()
    model = model_of(layer)
    scores = scores_inside(model)
    options = {}
    if case == "two sizes for one key":
        first, second = scores
        options["keep_at_least"] = {first: 12, second: 4}
    plan = (
        kg.surgeon.plan(
            model, kg.Quantile(1.0, scope="gate"), scores=scores, **options
        )
        if options
        else plan_of(model)
    )
    pruned = plan.apply()
    new = pruned.get_layer(layer.name)
    assert isinstance(new, keras.Model)
    (note,) = [n for n in plan.notes if f"{layer.name} (of type" in n]
    assert "written out" in note and reason in note
    assert max(plan.verify(pruned).values()) < CLOSE
    inside = {
        name: cls for name, cls in kl.CLASSES.items() if cls is not type(layer)
    }
    loaded = saved(pruned, tmp_path, **inside)
    assert max(plan.verify(loaded).values()) < CLOSE


def test_written_out_loads_without_the_class(tmp_path):
    model = model_of(kl.Hidden(16, name="x"))
    plan = plan_of(model, written_out=True)
    pruned = plan.apply()
    assert isinstance(pruned.get_layer("x"), keras.Model)
    loaded = saved(pruned, tmp_path)  # nothing but stock layers
    assert max(plan.verify(loaded).values()) < CLOSE
    again = type(pruned).from_config(pruned.get_config())
    again.set_weights(pruned.get_weights())
    assert max(plan.verify(again).values()) < CLOSE
    assert (
        kg.surgeon.prune(
            model, HALF, scores=scores_inside(model), written_out=True
        ).count_params()
        == pruned.count_params()
    )


def test_weights_are_given_by_place_and_not_by_order():
    layer = kl.Sorted(16, name="x")
    model = model_of(layer)
    pruned = plan_of(model).apply()
    new = pruned.get_layer("x")
    assert [w.name for w in layer.weights] == ["up", "down"]
    assert [w.name for w in new.weights] == ["down", "up"]
    up = np.array(keras.ops.convert_to_numpy(layer.up))
    kept = np.array(keras.ops.convert_to_numpy(new.up))
    assert all(any((a == b).all() for b in up.T) for a in kept.T)


@pytest.mark.parametrize("layer", [kl.Secretive, kl.Forgetful])
def test_what_needs_no_cut_is_carried_over(layer):
    own = layer("relu") if layer is kl.Secretive else layer()
    model = model_of(
        keras.layers.Dense(16, "relu", name="wide"),
        keras.layers.Dense(12, name="narrow"),
        own,
    )
    scores = {"wide": kg.surgeon.score(model, "l2")["wide"]}
    plan = kg.surgeon.plan(model, HALF, scores=scores)
    pruned = plan.apply()
    new = pruned.get_layer(own.name)
    assert type(new) is layer and new is not own
    assert pruned.count_params() < model.count_params()
    assert max(plan.verify(pruned).values()) < CLOSE


def test_bare_weights_and_inputs_that_are_cut(tmp_path):
    model = model_of(
        keras.layers.Dense(16, name="wide"),
        kl.Position(name="position"),
        kl.Linear(14, name="linear"),
        shape=(6, 5),
    )
    scores = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, HALF, scores=scores)
    pruned = plan.apply()
    linear = pruned.get_layer("linear")
    assert type(pruned.get_layer("position")) is kl.Position
    assert type(linear) is kl.Linear and linear.units < 14
    assert linear.w.shape[0] < 16
    assert max(plan.verify(pruned).values()) < CLOSE
    loaded = saved(pruned, tmp_path, **kl.CLASSES)
    assert max(plan.verify(loaded).values()) < CLOSE


def test_gate_inside_goes_with_its_switch():
    model = model_of(kl.Gated(16, name="x"))
    gate = model.get_layer("x").gate
    gate.factor.assign(np.linspace(0.1, 1, 16).reshape(gate.factor.shape))
    plan = kg.surgeon.plan(model, HALF)
    pruned = plan.apply()
    new = pruned.get_layer("x")
    assert (type(new), new.gated, new.hidden) == (kl.Gated, False, 8)
    x, expected = truth(model, gate, np.arange(16) < 8)
    assert np.allclose(helpers.predicted(pruned, x), expected, atol=CLOSE)


def test_gate_that_no_switch_leaves_out_is_written_out():
    model = model_of(kl.AlwaysGated(16, name="x"))
    gate = model.get_layer("x").gate
    gate.factor.assign(np.linspace(0.1, 1, 16).reshape(gate.factor.shape))
    plan = kg.surgeon.plan(model, HALF)
    pruned = plan.apply()
    assert isinstance(pruned.get_layer("x"), keras.Model)
    (note,) = [n for n in plan.notes if n.startswith("x ")]
    assert "leaves out `gate/" in note
    x, expected = truth(model, gate, np.arange(16) < 8)
    assert np.allclose(helpers.predicted(pruned, x), expected, atol=CLOSE)


def test_outer_written_out_keeps_the_classes_inside(tmp_path):
    inner = [kl.Hidden(16, name="a"), kl.Forgetful(name="b")]
    model = model_of(kl.Block(inner, name="x"))
    plan = plan_of(model)
    pruned = plan.apply()
    block = pruned.get_layer("x")
    assert type(block.get_layer("a")) is kl.Hidden
    assert block.get_layer("a").hidden == 8
    assert isinstance(block.get_layer("b"), keras.Model)
    assert max(plan.verify(pruned).values()) < CLOSE
    loaded = saved(pruned, tmp_path, Hidden=kl.Hidden)
    assert max(plan.verify(loaded).values()) < CLOSE


# Layers that neither way is open to ----------------------------------------


def test_what_cannot_come_back_is_kept_whole():
    secret = kl.TrainedInSecret(name="secret")
    model = model_of(secret, kl.Hidden(16, name="x"))
    scores = scores_inside(model)
    assert {name.split("/")[0] for name in scores} == {"secret", "x"}
    plan = kg.surgeon.plan(model, HALF, scores=scores)
    assert not any(name.startswith("secret/") for name in plan.closed)
    (row,) = [row for row in plan.rows if row.layer == "secret"]
    assert row.params.before == row.params.after
    assert "computes something else in training" in row.why[0]
    pruned = plan.apply()
    assert type(pruned.get_layer("secret")) is kl.TrainedInSecret
    assert pruned.get_layer("x").hidden == 8
    assert max(plan.verify(pruned).values()) < CLOSE
    # It computes something else in training, as it did.
    x = keras.ops.ones((2, 12))
    new = pruned.get_layer("secret")
    assert np.allclose(
        keras.ops.convert_to_numpy(new(x, training=True)),
        keras.ops.convert_to_numpy(secret(x, training=True)),
        rtol=1e-5,
    )
    again = kg.surgeon.Plan.from_json(plan.to_json(), model)
    assert again.options == plan.options and "secret" in again.options.whole
    assert again.apply().count_params() == pruned.count_params()
    assert max(again.verify(pruned).values()) < CLOSE
    same = kg.surgeon.verify(model, pruned, HALF, scores=scores)
    assert max(same.values()) < CLOSE


def test_never_written_out():
    model = model_of(kl.Hidden(16, name="x"), kl.Forgetful(name="y"))
    scores = scores_inside(model)
    plan = kg.surgeon.plan(model, HALF, scores=scores, written_out=False)
    pruned = plan.apply()
    assert kinds(pruned)[1:3] == [kl.Hidden, kl.Forgetful]
    assert pruned.get_layer("x").hidden == 8
    assert pruned.get_layer("y").hidden == 16
    assert "written_out=False" in plan.options.whole["y"]
    assert max(plan.verify(pruned).values()) < CLOSE
    same = kg.surgeon.verify(
        model, pruned, HALF, scores=scores, written_out=False
    )
    assert max(same.values()) < CLOSE


def test_budget_is_met_by_what_can_come_back():
    model = model_of(
        kl.TrainedInSecret(name="secret"),
        *(kl.Hidden(32, name=f"x{n}") for n in range(2)),
    )
    plan = kg.surgeon.plan(
        model, kg.Budget(params=0.8), scores=scores_inside(model)
    )
    before, after = plan.params
    assert 0.7 * before < after <= 0.8 * before
    assert plan.options.whole.keys() == {"secret"}
    assert max(plan.verify(plan.apply()).values()) < CLOSE


def test_names_inside_what_stays_whole_are_left_out():
    model = model_of(
        kl.TrainedGated(16, name="secret"), kg.FilterGate(name="gate")
    )
    plan = kg.surgeon.plan(
        model,
        {"secret/gate": 0.5, "gate": kg.Quantile(0.5)},
        keep_at_least={"secret/*": 2, "gate": 2},
    )
    assert plan.closed.keys() == {"gate"}
    pruned = plan.apply()
    assert type(pruned.get_layer("secret")) is kl.TrainedGated
    closed = np.isin(np.arange(12), plan.closed["gate"])
    x, expected = truth(model, model.get_layer("gate"), closed)
    assert np.allclose(helpers.predicted(pruned, x), expected, atol=CLOSE)


def test_error_names_what_stays_whole():
    model = model_of(kl.TrainedGated(16, name="secret"))
    with pytest.raises(ValueError, match="'secret' is kept whole: .*training"):
        kg.surgeon.plan(model, HALF)


def test_option_is_checked():
    model = model_of(kl.Gated(16))
    with pytest.raises(TypeError, match="`written_out` must be True, False"):
        kg.surgeon.plan(model, 0.5, written_out="no")


# What lives on with the class ----------------------------------------------


def test_equal_layers_are_searched_for_once():
    model = model_of(*(kl.Hidden(16, name=f"x{n}") for n in range(8)))
    scores = scores_inside(model)
    kl.Hidden.made = 0
    kg.surgeon.prune(model, HALF, scores=scores)
    few = kl.Hidden.made
    assert few <= 8 * 8
    for name, array in scores.items():
        scores[name] = array + np.arange(16) * (1 + int(name[1]))
    plan = kg.surgeon.plan(model, HALF, scores=scores)
    assert max(plan.verify(plan.apply()).values()) < CLOSE
    (note,) = [n for n in plan.notes if "keeps its class" in n]
    assert note.startswith("x0, x1, ") and "hidden 16 -> 8" in note


def test_widths_may_differ_by_layer():
    model = model_of(*(kl.Hidden(16, name=f"x{n}") for n in range(3)))
    scores = scores_inside(model)
    floors = dict(zip(scores, (12, 8, 4), strict=True))
    pruned = kg.surgeon.prune(
        model,
        kg.Quantile(1.0, scope="gate"),
        scores=scores,
        keep_at_least=floors,
    )
    assert [pruned.get_layer(f"x{n}").hidden for n in range(3)] == [12, 8, 4]


def test_flags_dtype_and_training_live_on(tmp_path):
    layer = kl.Hidden(16, rate=0.9, name="x", dtype="bfloat16")
    model = model_of(layer, dtype="bfloat16")
    layer.up.trainable = False
    pruned = plan_of(model).apply()
    new = pruned.get_layer("x")
    assert new.dtype_policy.name == "bfloat16"
    assert new.up.dtype_policy.name == "bfloat16"
    assert not new.up.trainable and new.down.trainable and new.trainable
    assert len(new.trainable_variables) == len(layer.trainable_variables)
    x = keras.ops.ones((4, 12))
    trained = keras.ops.convert_to_numpy(
        keras.ops.cast(new(x, training=True), "float32")
    )
    tested = keras.ops.convert_to_numpy(keras.ops.cast(new(x), "float32"))
    assert not np.allclose(trained, tested)
    pruned.compile("sgd", "mse")
    pruned.fit(np.ones((4, 12)), np.ones((4, 3)), verbose=0)


def test_masks_reach_what_keeps_its_class():
    class Masked(kl.Hidden):
        def __init__(self, hidden, **kwargs):
            super().__init__(hidden, **kwargs)
            self.supports_masking = True

    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(9, 12, mask_zero=True)(inputs)
    x = Masked(16, name="x")(x)
    x = keras.layers.LSTM(5)(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    plan = plan_of(model)
    pruned = plan.apply()
    assert type(pruned.get_layer("x")) is Masked
    data = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 0]])
    assert max(plan.verify(pruned, data).values()) < CLOSE


def test_in_a_sequential():
    model = keras.Sequential(
        [
            keras.Input((12,)),
            kl.Hidden(16, name="x"),
            kl.Forgetful(name="y"),
            keras.layers.Dense(3),
        ]
    )
    plan = plan_of(model)
    pruned = plan.apply()
    assert type(pruned) is keras.Sequential
    assert type(pruned.get_layer("x")) is kl.Hidden
    assert isinstance(pruned.get_layer("y"), keras.Model)
    assert max(plan.verify(pruned).values()) < CLOSE


def test_layer_called_twice_stays_one_layer():
    layer = kl.Hidden(16, name="x")
    model = model_of(layer, keras.layers.Dense(12), layer)
    plan = plan_of(model)
    pruned = plan.apply()
    assert sum(type(x) is kl.Hidden for x in pruned.layers) == 1
    assert max(plan.verify(pruned).values()) < CLOSE


@pytest.mark.parametrize("written_out", [None, True])
def test_optimizer_goes_on_inside(written_out):
    model = model_of(
        kl.Hidden(16, name="x"),
        kl.Linear(14, name="linear"),
        kl.Outer(10, name="z"),
    )
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 12)), random.normal(size=(8, 3))
    model.fit(x, y, verbose=0)
    scores = scores_inside(model)
    pruned = kg.surgeon.prune(
        model,
        HALF,
        scores={name: scores[name] for name in scores if name[0] != "z"},
        written_out=written_out,
        keep_optimizer=True,
    )
    assert pruned.count_params() < model.count_params()
    # By the bytes of each number, the momenta of the weights that hold it.
    known = {}
    for weight, momentum in momenta(model):
        for number, step in zip(weight.ravel(), momentum.ravel(), strict=True):
            known.setdefault(number.tobytes(), set()).add(step)
    for weight, momentum in momenta(pruned):
        assert np.abs(momentum).max() > 0
        for number, step in zip(weight.ravel(), momentum.ravel(), strict=True):
            assert step in known[number.tobytes()]
    pruned.fit(x, y, verbose=0)


def momenta(model):
    """Pairs of a weight and its momentum, as arrays."""
    weights = model.trainable_variables
    slots = model.optimizer.variables[2:]
    for weight, slot in zip(weights, slots, strict=True):
        yield tuple(
            np.array(keras.ops.convert_to_numpy(v)) for v in (weight, slot)
        )
