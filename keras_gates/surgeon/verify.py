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
    """The largest difference of each output, relative to its scale.

    The truth is the original model itself: its own layers are called, in the
    recorded order, and what closed channels put out is multiplied by 0 on
    the way. No layer is copied and no variable assigned. Where closed
    factors are weights of a layer (gammas, a skeleton, the `m` of a
    `ResConv`), the layer runs as if they were 0 (`keras.StatelessScope`).
    Where scores closed the units of a recurrent layer, they are zero inside
    its loop.

    One thing is taken from what `prune` knows, too: which channels of which
    tensors are those that a score closed. `verify` sees to it that the model
    does not depend on what the scored layer puts out for them.

    Args:
        model: The model with gates.
        pruned: What `prune` returned for it.
        thresholds: The thresholds that it was pruned with, or the `Plan`.
        x: Inputs to compare on, as for `model.predict`: arrays, a list or a
            dict of them, or a dataset or generator of batches, of which it
            takes the first until there are `samples` samples. Random normal
            ones by default; whole numbers that the embeddings of the model
            know for inputs that they read, numbers below 2 for others, below
            256 for `uint8`; masks of random lengths for `bool` inputs.
        samples: How many random samples.
        seed: Seed of the random inputs.
        **options: `scores`, `keep_at_least`, `round_to`, `exact`,
            `drop_shortcuts`, `written_out` as given to `prune`. Shortcuts
            that were dropped are left out of the original, too. With
            `exact=False` it says how far off the approximation is.

    Returns:
        A dict from output name to `max|original - pruned| / max|original|`;
        infinite where either holds a NaN.

    Raises:
        TypeError: `thresholds` is a `Plan`, and options are given.
        ValueError: `x` is empty; an input can't be drawn and `x` is not
            given; the plan is one for another model; the outputs of
            `pruned` are not shaped like those of `model`; the model is not
            what its recorded graph computes; or a layer's rule does not say
            how its gate is closed.

    Warns:
        UserWarning: an output hardly varies over the samples, or there is
            one sample only, so that a small difference proves nothing.

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


@contextlib.contextmanager
def closed_gates(
    model: keras.Model,
    masks: Mapping[str, NDArray[np.bool_]],
    graph: Graph | None = None,
) -> Iterator[keras.Model]:
    """Within, the closed factors of `model` are exactly 0.

    For what runs the model by itself, `model.evaluate` say; the weights
    change for the while.

    Args:
        model: The model with gates.
        masks: `{gate name: boolean array}`.
        graph: Its `Graph` with composite layers written out, if there is one
            already.

    Raises:
        ValueError: a layer does not tell how its gate is closed.
    """
    whole = see_through.read(model, graph)
    own, variables = gates_of(whole), gr.own_variables(whole)
    factors = gates_of(graph or expand.read(model, like=whole))
    found = []
    for name, mask in masks.items():
        if name not in own:
            raise ValueError(
                f"'{name}' is inside a layer of '{model.name}' that the "
                "surgeon writes out, and can't be closed where it is. Leave "
                "it out of `kinds`."
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
