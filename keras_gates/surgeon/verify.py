"""Compare a pruned model with its original, by running both."""

import contextlib

import keras
import numpy as np

from keras_gates.surgeon import graph as gr
from keras_gates.surgeon.gated import gated_model
from keras_gates.surgeon.gates import gates_of
from keras_gates.surgeon.plan import Plan
from keras_gates.surgeon.plan import plan as make_plan
from keras_gates.surgeon.solution import read
from keras_gates.surgeon.solution import without_shortcuts
from keras_gates.surgeon.stored import fingerprint


def verify(model, pruned, thresholds, x=None, *, samples=8, seed=0, **options):
    """The largest difference of each output, relative to its scale.

    The original is run with its closed gates set to exactly 0 (and put back
    afterwards); what the surgeon knows of constants and labels plays no
    part in it.

    Args:
        model: The model with gates.
        pruned: What `prune` returned for it.
        thresholds: The thresholds that it was pruned with, or the `Plan`.
        x: Inputs to compare on, as for `model.predict`. Random normal ones
            by default (whole numbers below 2 for integer inputs).
        samples: How many random samples.
        seed: Seed of the random inputs.
        **options: `keep_at_least`, `round_to`, `exact`, `drop_shortcuts`
            as given to `prune`. Shortcuts that were dropped are left out of
            the original, too.

    Returns:
        A dict from output name to `max|original - pruned| / max|original|`;
        infinite where either holds a NaN.

    Raises:
        TypeError: `thresholds` is a `Plan`, and options are given.
        ValueError: `x` is empty; an input has an unknown size and `x` is
            not given; the plan is one for another model; or the outputs of
            `pruned` are not shaped like those of `model`.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(16, activation="relu"),
    ...         kg.FilterGate(),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> small = kg.surgeon.prune(model, kg.Quantile(0.5))
    >>> max(kg.surgeon.verify(model, small, kg.Quantile(0.5)).values()) < 1e-5
    True
    """
    decided = _decided(model, thresholds, options)
    if x is None:
        x = _random_inputs(model, samples, seed)
    if any(len(array) == 0 for array in keras.tree.flatten(x)):
        raise ValueError(
            "`verify` needs at least one sample to compare on. Received an "
            "empty `x`."
        )
    expected = _expected(model, decided, x)
    got = keras.tree.flatten(pruned(x, training=False))
    got = [keras.ops.convert_to_numpy(y) for y in got]
    if [y.shape for y in expected] != [y.shape for y in got]:
        raise ValueError(
            f"The outputs of '{pruned.name}' have the shapes "
            f"{[y.shape for y in got]}, and those of '{model.name}' "
            f"{[y.shape for y in expected]}. `verify` compares a model with "
            "what `prune` returned for it."
        )
    names = _output_names(model)
    return dict(zip(names, map(_difference, expected, got), strict=True))


def _decided(model, thresholds, options):
    """The plan to check, made here unless it is given."""
    if not isinstance(thresholds, Plan):
        return make_plan(model, thresholds, **options)
    if options:
        raise TypeError(
            "A `Plan` has its options already. Received as well: "
            f"{', '.join(sorted(options))}."
        )
    own = thresholds.model
    if own is not model and fingerprint(own) != fingerprint(model):
        raise ValueError(
            f"This plan was made for another model than '{model.name}'. Pass "
            "the model that it was made for, or make a new plan."
        )
    return thresholds


def _expected(model, decided, x):
    """The outputs with all that is closed at exactly 0."""
    masks, exact = decided.masks(), decided.options["exact"]
    if decided.options["drop_shortcuts"]:
        model = without_shortcuts(model, masks)
    graph = read(model, masks, exact)
    if graph.groups:
        model = gated_model(graph, masks)
    own = {name: masks[name] for name in masks if name not in graph.groups}
    with closed_gates(model, own):
        outputs = keras.tree.flatten(model(x, training=False))
        return [keras.ops.convert_to_numpy(y) for y in outputs]


@contextlib.contextmanager
def closed_gates(model, masks):
    """Within, the closed factors of `model` are exactly 0.

    Args:
        model: The model with gates.
        masks: `{gate name: boolean array}`.
    """
    gates = gates_of(gr.read(model))
    before = {name: gates[name].values() for name in masks}
    try:
        for name, mask in masks.items():
            values = np.where(mask, 0, before[name])
            gates[name].variable.assign(values)
        yield model
    finally:
        for name, values in before.items():
            gates[name].variable.assign(values)


def _difference(expected, got):
    expected = expected.astype("float64")
    got = got.astype("float64")
    if np.isnan(expected).any() or np.isnan(got).any():
        return float("inf")
    scale = np.abs(expected).max()
    worst = np.abs(expected - got).max()
    return float(worst / scale) if scale else float(worst)


def _output_names(model):
    names, seen = [], {}
    for name in gr.functional_of(model).output_names:
        seen[name] = seen.get(name, -1) + 1
        names.append(f"{name}_{seen[name]}" if seen[name] else name)
    return names


def _random_inputs(model, samples, seed):
    """Random inputs in the structure that the model takes."""
    rng = np.random.default_rng(seed)
    structure, _ = gr.structures(model)

    def sample(kt):
        shape = tuple(kt.shape)
        if any(size is None for size in shape[1:]):
            raise ValueError(
                f"Input '{kt.name}' has the shape {shape}: pass `x`, since "
                "its unknown sizes can't be guessed."
            )
        batch = samples if shape[0] is None else shape[0]
        size = (batch, *shape[1:])
        if keras.backend.is_float_dtype(kt.dtype):
            return rng.normal(size=size).astype(kt.dtype)
        return rng.integers(0, 2, size).astype(kt.dtype)

    return keras.tree.map_structure(sample, structure)
