"""Messages name the layer, the problem, and the remedy."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates import surgeon
from keras_gates import thresholds as th
from keras_gates.surgeon import rules
from keras_gates.transforms import insert_gates
from tests import helpers
from tests.surgeon import small_models as sm

T = helpers.THRESHOLD
PACKAGE = "keras_gates.tests.messages"
# What NumPy and the backends say, and no message of ours.
LEAKS = (
    "broadcast",
    "operands",
    "Traceback",
    "out of bounds",
    "TensorShape",
    "torch.Size",
    "mat1 and mat2",
    "KeyError",
    "unpack",
)


class Strange(helpers.Opaque):
    """Has no rule."""

    def function(self, x):
        return ops.flip(x, -1) * x


class OwnGate(kg.FilterGate):
    """Computes something else than the gate that it derives from."""

    def call(self, x):
        return super().call(x) + 0.1


class Composed(L.Layer):
    """A dense layer with a scale; `how` says what its rule does wrong."""

    def __init__(self, how="well", **kwargs):
        super().__init__(**kwargs)
        self.how = how

    def build(self, shape):
        self.scale = self.add_weight(shape=(), name="scale", initializer="ones")

    def call(self, x, shift=0.0):
        return x * self.scale + shift


def written_out(layer, x):
    if layer.how == "fails":
        return {}["nothing"]
    if layer.how == "wide":
        return L.Dense(3)(x)
    if layer.how == "nothing":
        return None
    if layer.how == "kind":
        return kg.BranchGate(name=layer.name)(x)
    if layer.how == "vector":
        return kg.FilterGate(name=layer.name)(x)
    name = "another" if layer.how == "name" else layer.name
    return kg.LayerGate(name=name)(x)


surgeon.register(
    Composed,
    rules.Composite(
        expand=written_out, gate=lambda layer: ("layer", layer.scale)
    ),
)


class Faulty(L.Layer):
    """Its rule fails in the method `where`."""

    def __init__(self, where, **kwargs):
        super().__init__(**kwargs)
        self.where = where

    def call(self, x):
        return x

    def get_config(self):
        return {**super().get_config(), "where": self.where}


class FaultyRule(rules.Elementwise):
    def _fail(self, call, method):
        if call.op.where == method:
            np.add(np.zeros(3), np.zeros(4))

    def flow(self, call, inputs, units):
        self._fail(call, "flow")
        return super().flow(call, inputs, units)

    def value(self, call, flow, values):
        self._fail(call, "value")
        return super().value(call, flow, values)

    def revise(self, call, flow, view):
        self._fail(call, "revise")
        return super().revise(call, flow, view)


surgeon.register(Faulty, FaultyRule("faulty"))


@keras.saving.register_keras_serializable(PACKAGE)
class Fussy(L.Layer):
    """Takes one width, which its rule does not know."""

    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        np.broadcast_shapes(shape[-1:], (self.width,))

    def call(self, x):
        return x * 1.5

    def get_config(self):
        return {**super().get_config(), "width": self.width}


surgeon.register(Fussy, rules.Elementwise("fussy"))


class OwnCell(L.SimpleRNNCell):
    """Might do anything with its state."""


class Subclassed(keras.Model):
    def call(self, x):
        return x


def of(*layers, shape=(4,), name="net"):
    """A chain of `a`, the layers and `o`, with the gate `g` behind `a`."""
    gate = kg.FilterGate(name="g")
    first, last = L.Dense(8, name="a"), L.Dense(2, name="o")
    model = keras.Sequential(
        [keras.Input(shape), first, gate, *layers, last], name=name
    )
    return sm.set_gates(model, g=[0.0] * 4 + [1.0] * 4)


def plain(*layers, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *layers], name="net")


def composed(how, **call):
    i = keras.Input((8,))
    x = Composed(how, name="c")(L.Dense(8, name="a")(i), **call)
    return keras.Model(i, L.Dense(2)(x), name="net")


def with_nan():
    return sm.set_gates(of(), g=[np.nan] + [1.0] * 7)


def quantized():
    model = of()
    model.get_layer("o").quantize("int8")
    return model


def with_lora():
    model = of()
    model.get_layer("o").enable_lora(2)
    return model


class Holder(helpers.Opaque):
    """Holds a model with a gate, and calls it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        gate = kg.FilterGate(name="deep")
        self.tower = keras.Sequential([keras.Input((4,)), gate])

    def function(self, x):
        return self.tower(x)


def inside():
    return plain(Holder(name="holder"))


def own_gate():
    return plain(L.Dense(8), OwnGate(name="mine"), L.Dense(2))


def decoder():
    j, *state = keras.Input((5, 3)), keras.Input((8,)), keras.Input((8,))
    y = L.LSTM(8, name="decoder")(j, initial_state=state)
    return keras.Model([j, *state], L.Dense(2, name="o")(y), name="net")


def many():
    """Twenty hidden layers, more than a message lists."""
    return plain(*(L.Dense(4, name=f"h{n}") for n in range(20)), L.Dense(2))


def prune(make, thresholds=T, **options):
    return lambda: surgeon.prune(make(), thresholds, **options)


def score(make, **options):
    return lambda: surgeon.score(make(), "l2", **options)


def other_plan():
    text = surgeon.plan(of(), T).to_json()
    return surgeon.Plan.from_json(text, of(L.ReLU()))


def plan_of_scores():
    model = plain(L.Dense(8, name="hidden"), L.Dense(2))
    surgeon.prune(model, T, scores={"hidden": np.ones(9)})


MESSAGES = {
    # What bars.
    "custom layer": (
        score(lambda: plain(L.Dense(8), Strange(name="odd"), L.Dense(2))),
        ["No channel of 'net'", "'odd' (Strange)", "no rule", "register"],
    ),
    "custom layer alone": (
        score(lambda: plain(Strange(name="odd"))),
        ["No channel", "'odd' (Strange)", "register"],
    ),
    "lambda": (
        score(
            lambda: plain(
                L.Dense(8),
                L.Lambda(helpers.noisy, lambda s: s, name="odd"),
                L.Dense(2),
            )
        ),
        ["'odd' (Lambda)", "keras.ops", "custom layer class"],
    ),
    "only an output": (
        score(lambda: plain(L.Dense(3, name="o"))),
        ["'o' (Dense)", "outputs of the model", "layer before it"],
    ),
    "no channels": (
        score(lambda: plain(L.ReLU())),
        ["No channel of 'net'", "none of its layers"],
    ),
    "softmax": (
        score(lambda: plain(L.Dense(8), L.Softmax(name="s"), L.Dense(2))),
        ["'s' (Softmax)", "all channels together"],
    ),
    "gates on an RNN of a custom cell": (
        lambda: insert_gates(
            plain(
                L.RNN(OwnCell(8), name="r"),
                L.Dense(2, name="o"),
                shape=(5, 4),
            ),
            filters=True,
        ),
        [
            "'r' (RNN)",
            "a custom cell may use its state",
            "'o': it is an output",
        ],
    ),
    "gates on a custom layer": (
        lambda: insert_gates(
            plain(Strange(name="odd"), L.Dense(2, name="o")), filters=True
        ),
        ["'odd' (Strange)", "no rule", "'o': it is an output"],
    ),
    "RNN of a custom cell": (
        score(
            lambda: plain(L.RNN(OwnCell(8), name="r"), L.Dense(2), shape=(5, 4))
        ),
        [
            "'r' (RNN)",
            "a custom cell may use its state in any way",
            "neither produces",
        ],
    ),
    "states of an encoder": (
        score(decoder),
        ["'decoder' (LSTM)", "initial state", "encoder"],
    ),
    "tied to an input": (
        score(lambda: _tied()),
        ["'sum' (Add)", "an input", "Project"],
    ),
    "most parameters first": (
        score(lambda: _two_barriers()),
        ["'large' (Strange) keeps them whole: no rule for Strange", "'small'"],
    ),
    # What is not a gate.
    "no gates": (
        prune(lambda: plain(L.Dense(2))),
        ["'net' has no gates", "FilterGate", "score"],
    ),
    "own gate": (
        prune(own_gate),
        ["no gates", "'mine' (of type OwnGate)", "register", "Composite"],
    ),
    "gate inside": (
        prune(inside),
        ["'deep'", "'holder'", "Holder", "functional model"],
    ),
    # Composites.
    "expand fails": (
        prune(lambda: composed("fails")),
        ["'c' (of type Composed)", "`expand`", "KeyError", "expand(layer, x)"],
    ),
    "expand takes no argument": (
        prune(lambda: composed("well", shift=1.0)),
        ["'c' (of type Composed)", "`expand`", "other arguments"],
    ),
    "expand of another shape": (
        prune(lambda: composed("wide")),
        ["'c' (of type Composed)", "(None, 8)", "(None, 3)", "same shapes"],
    ),
    "expand of nothing": (
        prune(lambda: composed("nothing")),
        ["'c' (of type Composed)", "returned None"],
    ),
    "gate of another name": (
        prune(lambda: composed("name")),
        ["'c' (of type Composed)", "another", "name=layer.name"],
    ),
    "gate of another kind": (
        prune(lambda: composed("kind")),
        ["'c' (of type Composed)", "'layer'", "'branch'"],
    ),
    "gate for channels": (
        prune(lambda: composed("vector")),
        ["'c' (of type Composed)", "'filter'", "'layer'"],
    ),
    # Rules and layers that fail.
    "rule fails in flow": (
        prune(lambda: of(Faulty("flow", name="bad"))),
        ["'bad' (of type Faulty)", "'faulty'", "ValueError", "report"],
    ),
    "rule fails in value": (
        prune(lambda: of(Faulty("value", name="bad"))),
        ["'bad' (of type Faulty)", "'faulty'", "(None, 8)"],
    ),
    "rule fails in revise": (
        prune(lambda: of(Faulty("revise", name="bad"))),
        ["'bad' (of type Faulty)", "'faulty'"],
    ),
    "rule fails in a score": (
        score(
            lambda: plain(L.Dense(8), Faulty("flow", name="bad"), L.Dense(2))
        ),
        ["'bad' (of type Faulty)", "'faulty'"],
    ),
    "rule fails in insert_gates": (
        lambda: insert_gates(
            plain(L.Dense(8), Faulty("flow", name="bad"), L.Dense(2)), True
        ),
        ["'bad' (of type Faulty)", "'faulty'"],
    ),
    # Weights.
    "quantized": (
        prune(quantized),
        ["'o' is quantized (int8)", "Prune the model first"],
    ),
    "LoRA": (prune(with_lora), ["'o' has LoRA", "Merge it"]),
    "NaN": (prune(with_nan), ["'g'", "not finite", "checkpoint"]),
    # Names.
    "near miss of a gate": (
        prune(lambda: of(), {"gg": T}),
        ["'gg'", "Did you mean 'g'?"],
    ),
    "near miss of a kind": (
        prune(lambda: of(), {"filters": T}),
        ["'filters'", "Did you mean 'filter'?"],
    ),
    "near miss of a floor": (
        prune(sm.convnet, keep_at_least={"gat1": 1}),
        ["'gat1'", "Did you mean 'gate1'?"],
    ),
    "near miss of a score": (
        prune(many, scores={"h0": np.ones(4), "h_11": np.ones(4)}),
        ["'h_11'", "Did you mean 'h11'?", "and 12 more"],
    ),
    "scores of another model": (
        prune(many, scores={"conv1": np.ones(4)}),
        ["'conv1'", "another model", "and 12 more"],
    ),
    "scores of another width": (
        plan_of_scores,
        ["'hidden'", "(8,)", "(9,)", "widths"],
    ),
    "plan of another model": (other_plan, ["'net'", "make a new plan"]),
    "no plan": (
        lambda: surgeon.Plan.from_json("{}", of()),
        ["not the JSON of a keras_gates plan", "to_json", "'format'"],
    ),
    # Models.
    "subclassed": (
        prune(lambda: Subclassed(name="sub")),
        ["'sub'", "Subclassed", "keras_gates.functional(model, x)"],
    ),
    "not built": (
        prune(lambda: keras.Sequential([L.Dense(2)], name="open")),
        ["'open' is not built", "keras.Input"],
    ),
    "no model": (prune(lambda: 3), ["built Keras model", "3", "int"]),
    # Other calls.
    "insert into nothing": (
        lambda: insert_gates(
            plain(L.Dense(8, name="a"), Strange(name="odd"), L.Dense(2)), True
        ),
        ["'a'", "'odd' (Strange)", "no rule"],
    ),
    "insert by name": (
        lambda: insert_gates(
            plain(L.Dense(8, name="a"), Strange(name="odd"), L.Dense(2)), ["a"]
        ),
        ["'a'", "'odd' (Strange)", "no rule"],
    ),
    "verify of another model": (
        lambda: surgeon.verify(of(), plain(L.Dense(3)), T),
        ["'net'", "(8, 2)", "(8, 3)", "result of `prune`"],
    ),
    "delete too many": (
        lambda: surgeon.delete_channels(
            plain(L.Dense(4, name="a"), L.Dense(2)), "a", [9]
        ),
        ["'a'", "9"],
    ),
}


def _tied():
    i = keras.Input((4,))
    x = L.Add(name="sum")([i, L.Dense(4, name="a")(i)])
    return keras.Model(i, L.Dense(2)(x))


def _two_barriers():
    i = keras.Input((4,))
    small = Strange(name="small")(L.Dense(4)(i))
    large = Strange(name="large")(L.Dense(64)(i))
    return keras.Model(i, L.Dense(2)(L.Concatenate()([small, large])))


@pytest.mark.parametrize("situation", MESSAGES)
def test_messages(situation):
    action, words = MESSAGES[situation]
    with pytest.raises((TypeError, ValueError)) as caught:
        action()
    text = str(caught.value)
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} are missing in: {text}"
    leaked = [leak for leak in LEAKS if leak in text and leak not in words]
    assert not leaked, text
    assert len(text) < 900 and "\n" not in text


def test_the_error_of_a_rule_is_its_cause():
    with pytest.raises(ValueError) as caught:
        surgeon.plan(of(Faulty("value", name="bad")), T)
    assert "broadcast" in str(caught.value.__cause__)


def test_a_layer_that_can_not_be_called_at_its_new_size_is_named():
    i = keras.Input((4,))
    x = kg.FilterGate(name="g")(L.Dense(8, name="a")(i))
    x = Fussy(name="fussy")(x)
    model = keras.Model(i, L.Dense(2)(x))
    sm.set_gates(model, g=[0.0] * 3 + [1.0] * 5)
    with pytest.raises(ValueError) as caught:
        surgeon.prune(model, T)
    text = str(caught.value)
    assert "'fussy' (of type Fussy)" in text and "`config`" in text
    assert not any(leak in text for leak in LEAKS), text


def test_a_budget_is_no_rule_of_its_own():
    with pytest.raises(TypeError, match="surgeon.plan"):
        th.Budget(macs=0.5).close([])
