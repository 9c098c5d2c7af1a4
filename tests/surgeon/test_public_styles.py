"""Models in the styles of public code are pruned as far as possible, exactly.

The truth is the user's own model, with the closed channels at 0; for gates,
what the gated model itself computes.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers
from tests.surgeon import public_styles as styles

HALF = kg.Quantile(0.5, scope="gate")
# What holds for single sizes gets no gates inside.
NO_GATES = {"steps_of_any_number", "fourier_of_any_length"}


def made(name):
    """A model, with weights unlike each other, and inputs."""
    keras.utils.set_random_seed(0)
    model = styles.MODELS[name]()
    rng = np.random.default_rng(0)
    (given,) = model.inputs
    shape = (3, *(5 if size is None else size for size in given.shape[1:]))
    x = rng.normal(size=shape).astype("float32")
    if given.dtype == "int32":
        x = rng.integers(1, 9, shape).astype("int32")
    helpers.predicted(model, x)
    helpers.randomize(model, x=x, closed="none")
    return model, x


def largest(found):
    return max(float(value) for value in found.values())


@pytest.mark.parametrize("name", styles.MODELS)
def test_half_of_each_group_by_scores(name):
    model, x = made(name)
    before = helpers.weights_digest(model)
    plan = kg.surgeon.plan(model, HALF, scores=kg.surgeon.score(model, "l2"))
    small = plan.apply()
    assert largest(plan.verify(small, x)) < 1e-5
    assert small.count_params() < 0.8 * model.count_params()
    assert plan.params == (model.count_params(), small.count_params())
    assert helpers.weights_digest(model) == before


@pytest.mark.parametrize(
    "name", [n for n in styles.MODELS if n not in NO_GATES]
)
def test_half_of_each_gate(name):
    model, x = made(name)
    gated = kg.insert_gates(model, filters=1e-4)
    rng = np.random.default_rng(0)
    for gate in helpers.gates_of(gated):
        size = gate.factor.shape[0]
        open_ = rng.permutation(size) >= size // 2
        gate.factor.assign(np.where(open_, rng.uniform(0.7, 1.3, size), 0.0))
    small = kg.surgeon.prune(gated, 0.5)
    expected, got = (helpers.run(m, x) for m in (gated, small))
    assert max(helpers.differences(expected, got)) < 1e-5
    assert largest(kg.surgeon.verify(gated, small, 0.5, x)) < 1e-5
    assert small.count_params() < 0.8 * model.count_params()


def weighed(x, parts):
    shares = L.Dense(3, activation="softmax")(x)
    return ops.sum(ops.stack(parts, -1) * shares[..., None, :], -1)


def in_places(x, parts):
    return ops.reshape(ops.concatenate(parts, -1), (-1, 5, 3, 4))


STACKED = {
    "sum": lambda x, parts: ops.sum(ops.stack(parts, -1), -1),
    "shares": weighed,
    "mean": lambda x, parts: ops.mean(ops.stack(parts, 1), 1),
    "max": lambda x, parts: ops.max(ops.stack(parts, 1), 1),
    "variance": lambda x, parts: ops.var(ops.stack(parts, 1), (1, 2)),
    "argmax": lambda x, parts: 1.0 * ops.argmax(ops.stack(parts, 1), 1),
    "sorted": lambda x, parts: ops.sort(ops.stack(parts, 1), 1)[:, 0],
    "reshaped": lambda x, parts: ops.sum(in_places(x, parts), 2),
    "pooled": lambda x, parts: L.AveragePooling2D((3, 1))(ops.stack(parts, 1)),
    "pooled in all": lambda x, parts: L.GlobalMaxPooling2D()(
        ops.stack(parts, 1)
    ),
}


@pytest.mark.parametrize("name", STACKED)
def test_what_is_stacked_and_reduced_needs_all_its_parts(name):
    """One coordinate of a unit stands for all that a sum is made of."""
    x = keras.Input((5, 4))
    parts = [
        L.Dense(4, name=f"part_{n}")(
            L.Dense(6, activation="relu", name=f"hidden_{n}")(x)
        )
        for n in range(3)
    ]
    model = keras.Model(x, L.Dense(3)(STACKED[name](x, parts)))
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    scores = kg.surgeon.score(model, "l2")
    assert {*scores} == {"hidden_0", "hidden_1", "hidden_2", "part_0"}
    plan = kg.surgeon.plan(model, HALF, scores=scores)
    small = plan.apply()
    assert largest(plan.verify(small, x)) < 1e-5
    widths = [small.get_layer(f"hidden_{n}").units for n in range(3)]
    assert widths == [3, 3, 3]


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("steps", styles.FeedForward),
        ("steps_of_any_number", styles.FeedForward),
        ("steps_of_a_forgetful_layer", keras.Model),
        ("steps_of_steps", L.TimeDistributed),
    ],
)
def test_what_is_called_step_by_step_comes_back_so(name, inside):
    """So that a batch normalization sees the same batches in training."""
    model, x = made(name)
    scores = kg.surgeon.score(model, "l2")
    small = kg.surgeon.plan(model, HALF, scores=scores).apply()
    (layer,) = [y for y in small.layers if type(y) is L.TimeDistributed]
    assert isinstance(layer.layer, inside)
    if name == "steps_of_a_forgetful_layer":
        again = kg.surgeon.score(small, "l2")
        plan = kg.surgeon.plan(small, HALF, scores=again)
        smaller = plan.apply()
        assert largest(plan.verify(smaller, x)) < 1e-5
        assert smaller.count_params() < small.count_params()
        small.compile("sgd", "mse")
        small.fit(x, helpers.predicted(small, x), verbose=0)


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called:UserWarning")
def test_a_layer_without_its_weights_is_no_secret():
    """TimeDistributed calls its layer past Keras, which then builds it late."""

    class Late(L.Layer):
        def __init__(self):
            super().__init__(name="late")
            self.wide, self.narrow = L.Dense(8), L.Dense(4)

        def call(self, x):
            return self.narrow(self.wide(x))

        def compute_output_shape(self, shape):
            return (*shape[:-1], 4)

    model = styles.sequence(L.TimeDistributed(Late()))
    with pytest.raises(ValueError, match="call the model on a batch first"):
        kg.surgeon.score(model, "l2")
    model(np.ones((1, 5, 4), "float32"))
    assert any("late/dense" in name for name in kg.surgeon.score(model, "l2"))
