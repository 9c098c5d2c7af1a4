"""Helpers of the surgeon's tests: models that look trained, and a truth.

The truth is plain Keras: the original model, run with the factors of its
closed gates assigned to exactly 0. Nothing here uses the surgeon.
"""

import contextlib
import hashlib
import json
import warnings

import keras
import numpy as np
import pytest

THRESHOLD = 0.5
# A single float32 operation is off by 6e-8; a few dozen in a row, summing
# over a few dozen channels, have been seen to add up to some 2e-6.
RTOL = 1e-5
# The probe moves the inputs by this share of their size. In a chain that
# magnifies rounding, what it does to the outputs is what rounding does.
PROBE = 1e-7
PROBE_FACTOR = 20


def numpy_of(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor))


def layers_of(model):
    """All layers of a model, those of nested models included, each once."""
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if not isinstance(layer, keras.Model)
    ]


def gates_of(model):
    """All gate layers of a model."""
    return [layer for layer in layers_of(model) if hasattr(layer, "kind")]


def factors_of(model):
    """The factors of all gates, and of all stripes."""
    layers = layers_of(model)
    stripes = [x.skeleton for x in layers if hasattr(x, "effective_kernel")]
    factors = [gate.factor for gate in gates_of(model)]
    return factors + [x for x in stripes if x is not None]


def inputs_for(model, seed=0, batch=4):
    """Random normal inputs in the structure that `model` takes."""
    rng = np.random.default_rng(seed)

    def sample(kt):
        return rng.normal(size=(batch, *kt.shape[1:])).astype("float32")

    return keras.tree.map_structure(sample, functional(model)._inputs_struct)


def functional(model):
    """The functional model inside a Sequential, or the model itself."""
    return getattr(model, "_functional", model)


def called(model, x, training=False):
    """`model(x)`, compiled as a whole on JAX.

    There, each operation of an eager call is compiled for its shapes alone,
    which takes several times as long as compiling the model. The compiler
    rounds in its own way: to compare bit by bit, call the model.
    """
    if keras.backend.backend() != "jax" or not model.built:
        return model(x, training=training)
    import jax

    def call(trainable, others, x):
        return model.stateless_call(trainable, others, x, training=training)

    variables = model.trainable_variables, model.non_trainable_variables
    values = [[variable.value for variable in each] for each in variables]
    try:
        outputs, updated = jax.jit(call)(*values, x)
    except jax.errors.JAXTypeError:
        # A layer that looks at values, as is allowed in an eager call.
        return model(x, training=training)
    for variable, value in zip(variables[1], updated, strict=True):
        variable.assign(value)
    return outputs


def run(model, x, call=None):
    """The outputs in inference, flat, as float64 arrays.

    Args:
        model: a model.
        x: its inputs.
        call: `called` for what is compared to within rounding.
    """
    outputs = call(model, x) if call else model(x, training=False)
    return [numpy_of(y).astype("float64") for y in keras.tree.flatten(outputs)]


def predicted(model, x):
    """What `predict` returns; a graph for so few samples would take longer."""
    return keras.tree.map_structure(numpy_of, model(x, training=False))


@contextlib.contextmanager
def told():
    """Gathers the messages of the `UserWarning`s within."""
    messages = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    own = [w for w in caught if issubclass(w.category, UserWarning)]
    messages += [str(w.message) for w in own]


# Weights -----------------------------------------------------------------


def randomize(model, seed=0, x=None, closed="half"):
    """Give a model weights as training could have left them.

    Kernels keep the scale of what goes through them, no bias and no BN
    shift is zero, and the moving statistics are those of real activations
    (else a deep model's outputs hardly vary), then perturbed. Gate factors
    are drawn so that none is near `THRESHOLD`.

    Args:
        model: a built model.
        seed: seed of all that is drawn.
        x: inputs for the moving statistics; random ones by default.
        closed: what to close: see `close`.
    """
    rng = np.random.default_rng(seed)
    for layer in layers_of(model):
        for weight in layer.weights:
            weight.assign(_drawn(weight, rng))
    x = inputs_for(model, seed) if x is None else x
    for _ in range(2):
        _set_moving_statistics(model, x)
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            _perturb(layer, rng)
    close(model, closed, rng)
    return model


def _drawn(weight, rng):
    shape, name = tuple(weight.shape), weight.name
    if name in ("factor", "skeleton"):
        return rng.uniform(0.6, 1.5, shape)
    if name in ("bias", "beta", "moving_mean"):
        return rng.normal(0.1, 0.3, shape)
    if name in ("gamma", "scale", "moving_variance"):
        return rng.uniform(0.5, 1.5, shape)
    if name == "alpha":
        return rng.uniform(0.05, 0.4, shape)
    inputs = max(1, int(np.prod(shape[:-1])))
    if name == "depthwise_kernel":
        inputs = max(1, int(np.prod(shape[:-2])))
    return rng.normal(0, 1.2 / np.sqrt(inputs), shape)


def _set_moving_statistics(model, x):
    """One step in training with momentum 0: the batch's own statistics."""
    norms = [
        layer
        for layer in layers_of(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        called(model, x, training=True)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def _perturb(norm, rng):
    mean, variance = numpy_of(norm.moving_mean), numpy_of(norm.moving_variance)
    # A channel that was constant has no variance to divide by.
    variance = np.maximum(variance, 0.1) * rng.uniform(0.6, 1.5, mean.shape)
    mean = mean + 0.3 * np.sqrt(variance) * rng.normal(size=mean.shape)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)


def close(model, how, rng):
    """Draw gate factors: each clearly closed, or clearly open.

    Mostly some channel of a gate stays open, since a gate that is closed
    altogether may leave an output constant, which pruning refuses.

    Args:
        model: a model with gates.
        how: "none", "half" or "most" of the channels; "branches": half of
            the scalar gates, and some whole filter gates; "ones": all open
            at exactly 1.
        rng: a NumPy generator.
    """
    share = {"half": 0.5, "most": 0.85, "branches": 0.25}.get(how, 0.0)
    for gate in gates_of(model):
        shape = tuple(gate.factor.shape)
        size = rng.uniform(0.6, 1.5, shape)
        negative = rng.random(shape) < 0.15
        small = rng.uniform(0.0, 0.3, shape)
        shut = rng.random(shape) < (share if shape else share / 2)
        whole = rng.random() < (0.06 if shape else 0.5)
        if how == "branches" and whole:
            shut = np.ones(shape, bool)
        elif shape and shut.all() and rng.random() < 0.95:
            shut[rng.integers(len(shut))] = False
        factor = np.where(shut, small, size)
        factor = np.where(negative, -factor, factor)
        gate.factor.assign(np.ones(shape) if how == "ones" else factor)


# Truth -------------------------------------------------------------------


@contextlib.contextmanager
def closed_gates(model, threshold=THRESHOLD):
    """Within, factors below the threshold are exactly 0."""
    factors = factors_of(model)
    before = [numpy_of(factor) for factor in factors]
    try:
        for factor, values in zip(factors, before, strict=True):
            factor.assign(np.where(np.abs(values) < threshold, 0.0, values))
        yield model
    finally:
        for factor, values in zip(factors, before, strict=True):
            factor.assign(values)


def gated_outputs(model, x, threshold=THRESHOLD, call=None):
    """The truth: outputs of `model` with its closed gates at exactly 0."""
    with closed_gates(model, threshold):
        return run(model, x, call)


def variation(outputs):
    """For each output, its mean deviation over samples by its scale."""
    found = []
    for y in outputs:
        scale = np.abs(y).max()
        found.append(float(y.std(axis=0).mean() / scale) if scale else 0.0)
    return found


def differences(expected, got):
    """For each output, the largest difference by the output's scale."""
    found = []
    for a, b in zip(expected, got, strict=True):
        if a.shape != b.shape:
            raise AssertionError(f"shape {b.shape} instead of {a.shape}")
        scale = np.abs(a).max() or 1.0
        worst = np.abs(a - b).max() if a.size else 0.0
        found.append(float(worst / scale))
    return found


def probe(model, x, expected, threshold=THRESHOLD, seed=0, call=None):
    """How far outputs move when the inputs move by about `PROBE`."""
    rng = np.random.default_rng(seed)

    def moved(array):
        step = PROBE * np.abs(array).max()
        return array + rng.choice([-step, step], array.shape).astype("float32")

    there = keras.tree.map_structure(moved, x)
    return differences(expected, gated_outputs(model, there, threshold, call))


def assert_same(
    model, pruned, x=None, rtol=RTOL, threshold=THRESHOLD, vary=True
):
    """`pruned` computes what `model` does with its closed gates at 0.

    Args:
        model: the original, with gates.
        pruned: what the surgeon made of it.
        x: inputs; random ones by default.
        rtol: tolerance by each output's scale, where rounding is benign.
        threshold: below it a factor is closed.
        vary: whether each output must vary over the samples; where none
            does, equal outputs prove nothing.
    """
    x = inputs_for(model) if x is None else x
    expected = gated_outputs(model, x, threshold, called)
    got = run(pruned, x, called)
    assert keras.tree.map_structure(
        lambda kt: tuple(kt.shape), functional(model)._outputs_struct
    ) == keras.tree.map_structure(
        lambda kt: tuple(kt.shape), functional(pruned)._outputs_struct
    ), "the structure of the outputs has changed"
    moving = variation(expected)
    if vary:
        assert min(moving) > 1e-3, (
            f"an output hardly varies over the samples ({moving}), so that "
            "equality would prove nothing"
        )
    far = differences(expected, got)
    if max(far) <= rtol:
        return far
    rounding = probe(model, x, expected, threshold, call=called)
    for number, (one, other) in enumerate(zip(far, rounding, strict=True)):
        limit = max(rtol, PROBE_FACTOR * other)
        assert one <= limit, (
            f"output {number} differs by {one:.2g} of its scale; allowed: "
            f"{limit:.2g} (inputs moved by {PROBE:g} move it by {other:.2g})"
            f"; {model.count_params()} -> {pruned.count_params()} parameters"
        )
    return far


# Layers that can't be seen through ------------------------------------------


class Opaque(keras.Layer):
    """Has a state of its own, so that its `call` can't be traced."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls = 0

    def call(self, x):
        self.calls += 1
        return self.function(x)

    def function(self, x):
        """What it computes."""
        raise NotImplementedError


def noisy(x):
    """A function that can't be seen through: it draws random numbers."""
    return x + 0.0 * keras.random.normal((1,))


# What must not change -------------------------------------------------------


def weights_digest(model):
    """A hash of all weights, in order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(f"{weight.path}{tuple(weight.shape)}".encode())
        digest.update(numpy_of(weight).tobytes())
    return digest.hexdigest()


def fingerprint(model):
    """All of a model that pruning must leave alone, as comparable values."""
    parts = model._flatten_layers(include_self=True)
    nodes = {part.name: len(part._inbound_nodes) for part in parts}
    for operation in getattr(model, "operations", ()):
        nodes[operation.name] = (
            len(operation._inbound_nodes),
            len(operation._outbound_nodes),
        )
    return {
        "weights": weights_digest(model),
        "config": json.dumps(model.get_config(), default=str, sort_keys=True),
        "nodes": nodes,
        "trainable": [layer.trainable for layer in layers_of(model)],
        "compiled": model.compiled,
    }


def bump(model):
    """Change every weight in place: shared memory would show elsewhere."""
    for weight in model.weights:
        weight.assign(numpy_of(weight) + 1)


_UNFINISHED = []


def fit(model, *args, **options):
    """`model.fit`, or no test: old versions of Keras fail on JAX of today."""
    try:
        model.fit(*args, **options)
    except AttributeError as error:
        if "spmd_mode" not in str(error):
            raise
        # Held to the end, what it has started: that can't end by itself.
        _UNFINISHED.append(error)
        pytest.skip("this Keras can't train on this JAX")
