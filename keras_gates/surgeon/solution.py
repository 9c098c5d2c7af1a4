"""From a model and thresholds, or what they closed, to a `Solution`."""

import numbers

from keras_gates import thresholds as th
from keras_gates.surgeon import expand
from keras_gates.surgeon import groups
from keras_gates.surgeon import solve
from keras_gates.surgeon.closing import close
from keras_gates.surgeon.gates import factors_of
from keras_gates.surgeon.gates import gates_of


def from_thresholds(model, thresholds, scores, keep_at_least, round_to, exact):
    """Close what thresholds say; arguments and errors as those of `plan`.

    Returns:
        A `Solution`, and notes on the floors that held.
    """
    _check(round_to, exact)
    graph = expand.read(model)
    if scores is not None:
        groups.insert(graph, groups.find(graph, exact), scores)
    found = th.asked(thresholds, factors_of(graph))
    if not found:
        raise ValueError(
            f"Model '{model.name}' has no gates, so there is nothing to "
            "close. Put FilterGate, LayerGate, BranchGate or BlockGate "
            "layers into it before training; or take the gammas of its batch "
            'normalisations for gates: thresholds={"batch_norm": ...}; or '
            "pass scores=keras_gates.surgeon.score(model, ...)."
        )
    options = {"exact": exact, "round_to": int(round_to)}
    closed, notes = close(graph, found, thresholds, keep_at_least, **options)
    return solve.solve(graph, closed, **options), notes


def from_closed(model, closed, exact):
    """The `Solution` for `{name of a gate or group: mask}`."""
    return solve.solve(read(model, closed, exact), closed, exact=exact)


def shapes_of(model, names, exact):
    """`{name: shape of its factors}` of some gates and groups."""
    sources = gates_of(read(model, names, exact))
    return {n: sources[n].shape for n in names if n in sources}


def read(model, names, exact):
    """The graph of a model, with virtual gates if names speak of groups."""
    graph = expand.read(model)
    own = gates_of(graph)
    if not all(name in own for name in names):
        groups.insert(graph, groups.find(graph, exact))
    return graph


def _check(round_to, exact):
    if isinstance(round_to, bool) or not isinstance(round_to, numbers.Integral):
        raise TypeError(f"`round_to` must be an int. Received: {round_to!r}.")
    if round_to < 1:
        raise ValueError(
            f"`round_to` must be at least 1. Received: {round_to!r}."
        )
    if not isinstance(exact, bool):
        raise TypeError(
            f"`exact` must be True or False. Received: {exact!r} (of type "
            f"{type(exact).__name__})."
        )
