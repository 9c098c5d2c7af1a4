"""Compare a pruned model with its original, by running both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.variables import values_of
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.plan import Plan
from keras_gates.surgeon.plan import plan as make_plan
from keras_gates.surgeon.plan_json import fingerprint
from keras_gates.surgeon.repair.report import refuse
from keras_gates.surgeon.verifying import closed_places
from keras_gates.surgeon.verifying.compare import compare

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.closing.options import Thresholds


def verify(
    model: keras.Model,
    pruned: keras.Model,
    thresholds: Thresholds | Plan,
    x: Any = None,
    *,
    samples: int = 8,
    seed: int = 0,
    **options: Any,
) -> dict[str, float]:
    """Return the largest difference of each output, relative to its scale.

    The reference is the original model itself: its own layers are called, in
    the recorded order, and closed channels are multiplied by 0 on the way. No
    layer is copied and no variable is assigned. If closed factors are weights
    of a layer (gammas, a skeleton, the `m` of a `ResConv`), the layer runs as
    if they were 0 (`keras.StatelessScope`). Units of a recurrent layer that are
    closed by scores are zero inside its loop.

    Only one thing is taken from `prune`: which channels of which tensors a
    score has closed. `verify` checks that the model does not depend on the
    scored layer's output for them.

    Args:
        model: The model with gates.
        pruned: The result of `prune` for it.
        thresholds: The thresholds used to prune it, or the `Plan`.
        x: Inputs to compare on, as for `model.predict`: arrays, a list or a
            dict of them, or a dataset or generator of batches, of which the
            first `samples` samples are used. By default random: normal for
            float inputs; valid indices for inputs of embeddings, integers below
            2 for others, below 256 for `uint8`; masks of random lengths for
            `bool` inputs.
        samples: The number of random samples.
        seed: Seed of the random inputs.
        **options: `scores`, `keep_at_least`, `round_to`, `exact`,
            `drop_shortcuts`, `written_out` as given to `prune`. Dropped
            shortcuts are left out of the original, too. With `exact=False`, the
            result is the error of the approximation.

    Returns:
        A dict from output name to `max|original - pruned| / max|original|`;
        infinite if either has a NaN.

    Raises:
        TypeError: `pruned` is not a model, `x` is not what a model takes, or
            `thresholds` is a `Plan`, and options are given.
        ValueError: `x` is empty, not finite, or of a wrong shape; `x` is not
            given, and values for an input can't be drawn at random; the plan is
            for another model; `pruned` was repaired, and `exact=True`; the
            outputs of `pruned` have other shapes than those of `model`; the
            model does not compute its recorded graph, or outputs NaN; or a
            layer's rule does not say how its gate is closed.

    Warns:
        UserWarning: an output hardly varies over the samples, or there is only
            one sample, so a small difference proves nothing.

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
    found = _plan_of(model, thresholds, options)
    refuse(pruned, found.options.exact)
    return compare(
        model,
        pruned,
        x,
        samples,
        seed,
        found.masks(),
        found.options.exact,
        found.options.drop_shortcuts,
        found.options.groups,
        found.options.whole,
    )


def _plan_of(
    model: keras.Model,
    thresholds: Thresholds | Plan,
    options: dict[str, Any],
) -> Plan:
    """The plan to check, created here unless it is given."""
    if not isinstance(thresholds, Plan):
        return make_plan(model, thresholds, **options)
    if options:
        raise TypeError(
            "A `Plan` already has its options. Also received: "
            f"{', '.join(sorted(options))}."
        )
    own = thresholds.model
    if own is not model and fingerprint(own) != fingerprint(model):
        raise ValueError(
            f"This plan was made for another model than '{model.name}'. Pass "
            "the model that it was made for, or make a new plan."
        )
    return thresholds


@contextlib.contextmanager
def closed_gates(
    model: keras.Model,
    masks: Mapping[str, NDArray[np.bool_]],
    graph: Graph | None = None,
) -> Iterator[keras.Model]:
    """A context in which the closed factors of `model` are exactly 0.

    For functions that run the model themselves, such as `model.evaluate`; the
    weights change temporarily.

    Args:
        model: The model with gates.
        masks: `{gate name: boolean array}`.
        graph: Its `Graph` with composite layers written out, if there is one
            already.

    Raises:
        ValueError: the rule of a layer does not say how its gate is closed.
    """
    whole = see_through.read(model, graph)
    own, variables = gates_of(whole), gr.own_variables(whole)
    factors = gates_of(graph or expand.read(model, like=whole))
    found = []
    for name, mask in masks.items():
        if name not in own:
            raise ValueError(
                f"'{name}' is inside a layer of '{model.name}' that the "
                "surgeon writes out, and can't be closed in place. Leave it "
                "out of `kinds`."
            )
        closed = closed_places.closing_value(
            name, own[name], factors[name].values()
        )
        variable = own[name].variable
        variable = variables.get(id(variable), variable)
        found.append((variable, values_of(variable), mask, closed))
    try:
        for variable, before, mask, closed in found:
            variable.assign(np.where(mask, closed, before))
        yield model
    finally:
        for variable, before, _, _ in found:
            variable.assign(before)
