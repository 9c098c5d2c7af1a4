"""Functional models of classes whose constructors make their layers."""

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers
from tests.surgeon.build import kept_layers as kl
from tests.surgeon.build.test_kept_class import CLOSE
from tests.surgeon.build.test_kept_class import plan_of
from tests.surgeon.build.test_kept_class import saved

X = np.random.default_rng(0).normal(size=(60, 12)).astype("float32")


def trained(model):
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(random.normal(0, 0.4, weight.shape))
    return model


def array(x):
    return np.array(keras.ops.convert_to_numpy(x))


def test_class_is_kept_with_all_that_it_can(tmp_path):
    model = trained(kl.Net(16, temperature=2.0, name="net"))
    model.note = ["kept", model.get_layer("first")]
    plan = plan_of(model)
    assert (
        "net (of type Net) keeps its class, with hidden 16 -> 8" in plan.notes
    )
    pruned = plan.apply()
    assert (type(pruned), pruned.hidden, pruned.name) == (kl.Net, 8, "net")
    assert pruned.temperature == 2.0
    assert pruned.head is pruned.get_layer("head")
    assert pruned.note == ["kept", pruned.get_layer("first")]
    assert pruned.get_layer("first").hidden == 8
    assert max(plan.verify(pruned).values()) < CLOSE
    loaded = saved(pruned, tmp_path, **kl.CLASSES)
    assert type(loaded) is kl.Net
    assert max(plan.verify(loaded).values()) < CLOSE
    assert (array(loaded.generate(X)) == array(pruned.generate(X))).all()
    # The user's own model is as it was.
    assert model.hidden == model.get_layer("first").hidden == 16


def test_model_round_a_model_goes_on_generating(tmp_path):
    words = kl.Vocabulary(name="words")
    words.words = ("yes", "no")
    model = trained(kl.Task(kl.Net(16, name="net"), words, name="task"))
    plan = plan_of(model)
    pruned = plan.apply()
    assert type(pruned) is kl.Task and type(pruned.backbone) is kl.Net
    assert pruned.backbone.hidden == 8
    assert pruned.backbone.get_layer("first").hidden == 8
    assert max(plan.verify(pruned).values()) < CLOSE
    # Its tokens are those of the user's model with these channels at zero.
    for layer in (model.get_layer("first"), model.get_layer("second")):
        (name,) = [n for n in plan.closed if n.startswith(f"{layer.name}/")]
        kernel = array(layer.down.kernel)
        kernel[plan.closed[name]] = 0
        layer.down.kernel.assign(kernel)
    assert pruned.generate(X) == model.generate(X)
    assert set(pruned.generate(X)) == {"yes", "no"}


def test_what_compile_sets_is_in_no_config():
    model = trained(kl.Sampled(16, name="net"))
    model.compile("adam", "mse", sampler=min)
    pruned = plan_of(model).apply()
    assert (type(pruned), pruned.hidden) == (kl.Sampled, 8)
    assert model.sampler is min  # and the new model has what a fresh one has
    assert pruned.sampler is max


@pytest.mark.parametrize("case", ["written out", "forgetful", "set later"])
def test_what_no_config_leads_to_becomes_a_model_of_keras(case, tmp_path):
    cls = kl.Closed if case == "forgetful" else kl.Net
    model = trained(cls(16, name="net"))
    if case == "set later":
        model.limit = 5  # which its config does not tell
    plan = plan_of(model, written_out=True if case == "written out" else None)
    why = {
        "forgetful": "can't be made from its own config",
        "set later": "its config does not hold its limit",
    }
    told = [note for note in plan.notes if why.get(case, "no") in note]
    assert len(told) == len(why.keys() & {case})
    with helpers.told() as messages:
        pruned = plan.apply()
    assert any("is not of the class" in message for message in messages)
    assert not isinstance(pruned, kl.Net)
    assert max(plan.verify(pruned).values()) < CLOSE
    loaded = saved(pruned, tmp_path, Hidden=kl.Hidden)
    assert max(plan.verify(loaded).values()) < CLOSE


def test_model_of_a_class_inside_another():
    net = kl.Net(16, name="net")
    inputs = keras.Input((12,))
    model = trained(keras.Model(inputs, keras.layers.Dense(2)(net(inputs))))
    plan = plan_of(model)
    pruned = plan.apply()
    assert type(pruned.get_layer("net")) is kl.Net
    assert pruned.get_layer("net").hidden == 8
    assert max(plan.verify(pruned).values()) < CLOSE


def test_optimizer_of_such_a_model_goes_on():
    model = trained(kl.Net(16, name="net"))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    model.fit(X, np.ones((60, 3)), verbose=0)
    scores = kg.surgeon.score(model, "l2")
    scores = {n: x for n, x in scores.items() if x.size == 16}
    half = kg.Quantile(0.5, scope="gate")
    pruned = kg.surgeon.prune(model, half, scores=scores, keep_optimizer=True)
    assert type(pruned) is kl.Net
    for slot in pruned.optimizer.variables[2:]:
        assert np.abs(array(slot)).max() > 0
    pruned.fit(X, np.ones((60, 3)), verbose=0)
