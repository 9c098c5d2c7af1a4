"""Every public transform copies every layer as the function that it is.

The truth is the user's own model object: the transforms leave functions as
they are, and what is closed or deleted here is multiplied by 0.
"""

import functools

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import surgeon
from tests.transforms import odd_layers

# A dozen float32 operations in another order, each off by 6e-8, and sums over
# dozens of products.
RTOL = 1e-5
SIZE = 6
# Side by side in one network, so that each transform runs on few.
AT_ONCE = 5
GROUPS = [
    tuple(odd_layers.ODD)[i : i + AT_ONCE]
    for i in range(0, len(odd_layers.ODD), AT_ONCE)
]
QUICK = GROUPS[2:3]


def network(names):
    """A small network for all transforms, with odd layers inside."""
    keras.utils.set_random_seed(0)
    x = keras.Input((SIZE, SIZE, 3))
    act = odd_layers.gelu
    h = L.Conv2D(8, 3, padding="same", name="first", activation=act)(x)
    h = kg.FilterGate(name="gate")(h)
    y = L.Conv2D(8, 3, padding="same", name="second")(h)
    y = L.ReLU()(L.BatchNormalization(name="norm")(y))
    h = L.Add(name="join")([L.Conv2D(8, 1, name="third")(y), h])
    h = kg.ResConv(8, 3, activation=odd_layers.relu, name="fusible")(h)
    h = kg.StripConv(8, 3, activation=act, name="striped")(h)
    h = L.Dense(odd_layers.WIDTH, name="front")(L.GlobalMaxPooling2D()(h))
    h = L.Activation("linear", name="noop")(h)
    odd = [odd_layers.odd(name, h) for name in names]
    h = L.Concatenate()([L.Activation("tanh")(y) for y in odd])
    h = L.Dense(12, "tanh", name="behind")(h)
    model = keras.Model(x, L.Dense(3, name="out")(h))
    rng = np.random.default_rng(1)
    for layer in model._flatten_layers(include_self=False):
        if not layer._layers and not isinstance(layer, kg.FilterGate):
            layer.set_weights([drawn(w, rng) for w in layer.get_weights()])
    gate = model.get_layer("gate")
    gate.factor.assign([0.0, 1.0, 0.0, 1.0, 1.0, 0.9, 1.1, 1.0])
    # What nothing reads may be deleted.
    kernel, bias = model.get_layer("out").get_weights()
    kernel[:2] = 0.0
    model.get_layer("out").set_weights([kernel, bias])
    return model


def drawn(weight, rng):
    values = rng.uniform(0.2, 0.6, weight.shape) * rng.choice(
        [-1, 1], weight.shape
    )
    return values if weight.ndim > 1 else np.abs(values)


def binarized(model):
    """With gates at 1, where `binarize` leaves them; it takes gates alone."""
    model.get_layer("gate").factor.assign(np.ones(8))
    return kg.binarize(kg.to_dense(kg.fuse(model)), 0.5)


def scored(model, quantile=0.0):
    scores = surgeon.score(model, "l2")
    return surgeon.prune(model, kg.Quantile(quantile), scores=scores)


def surgery(job, layer, **given):
    def operate(model):
        work = surgeon.Surgeon(model)
        work.add_job(job, layer, **given)
        return work.operate()

    return operate


TRANSFORMS = {
    "insert_gates, filters": lambda m: kg.insert_gates(
        m, filters=kg.transforms.GateSpec(exclude=["first"])
    ),
    **{
        f"insert_gates, {kind}": functools.partial(
            kg.insert_gates, start="same", **{kind: True}
        )
        for kind in ("layers", "branches", "blocks")
    },
    "slim": lambda m: kg.slim(m, 1e-4),
    "to_resconv": kg.to_resconv,
    "to_stripconv": kg.to_stripconv,
    "to_dense": kg.to_dense,
    "separate_shortcuts": kg.separate_shortcuts,
    "simplify_selections": kg.transforms.simplify_selections,
    "fuse": kg.fuse,
    "binarize": binarized,
    "drop_betas": lambda m: kg.transforms.drop_betas(m, {"batch_norm": 0.0}),
    "normalize_gammas": kg.transforms.normalize_gammas,
    "delete_channels": lambda m: surgeon.delete_channels(m, "behind", [0, 1]),
    "delete_layer": lambda m: surgeon.delete_layer(m, "noop"),
    "insert_layer": lambda m: surgeon.insert_layer(
        m, "noop", L.Activation("linear")
    ),
    "replace_layer": lambda m: surgeon.replace_layer(
        m, "noop", L.Activation("linear")
    ),
    "prune, nothing closed": lambda m: surgeon.prune(m, {"filter": 0.0}),
    "prune, channels closed": lambda m: surgeon.prune(m, {"filter": 0.5}),
    "prune by scores": scored,
}


def state(model):
    layers = list(model._flatten_layers())
    weights = [w.copy() for w in model.get_weights()]
    nodes = [len(x._inbound_nodes) + len(x._outbound_nodes) for x in layers]
    return nodes, weights, [sorted(vars(x)) for x in layers]


def unchanged(before, after):
    alike = zip(before[1], after[1], strict=True)
    return (
        before[0] == after[0]
        and before[2] == after[2]
        and all(np.array_equal(a, b) for a, b in alike)
    )


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(
            group,
            marks=() if group in QUICK else pytest.mark.slow,
            id=", ".join(group),
        )
        for group in GROUPS
    ],
)
def test_each_transform_copies_them_as_they_are(names):
    model = network(names)
    x = np.random.default_rng(2).normal(size=(16, SIZE, SIZE, 3))
    model(x, training=False)  # some layers keep what they compute
    failed = []
    for transform, make in TRANSFORMS.items():
        before = state(model)
        try:
            new = make(model)
        except (TypeError, ValueError) as error:
            failed.append((transform, str(error)[:300]))
            continue
        truth = keras.ops.convert_to_numpy(model(x, training=False))
        got = keras.ops.convert_to_numpy(new(x, training=False))
        scale = np.abs(truth).max()
        worst = np.abs(truth - got).max() / scale
        if not (worst < tolerance(model) and truth.std(0).min() > 1e-3 * scale):
            failed.append((transform, float(worst)))
        if transform != "binarize" and not unchanged(before, state(model)):
            failed.append((transform, "the old model changed"))
        olds, news = ({id(w) for w in m.variables} for m in (model, new))
        if olds & news:
            failed.append((transform, "weights are shared"))
    assert not failed


def tolerance(model):
    half = any("bfloat16" in x.compute_dtype for x in model._flatten_layers())
    # Eight bits of mantissa: a rounding that goes the other way is 4e-3.
    return 1e-2 if half else RTOL
