"""One call for all criteria."""

import keras
import numpy as np

from keras_gates.surgeon import expand
from keras_gates.surgeon import groups
from keras_gates.surgeon import removable
from keras_gates.surgeon.gates import gates_of
from keras_gates.surgeon.scores import activations
from keras_gates.surgeon.scores import taylor
from keras_gates.surgeon.scores import weights
from keras_gates.surgeon.scores.batches import batches_of

_WEIGHTS = {
    "l1": weights.l1,
    "l2": weights.l2,
    "fpgm": weights.geometric_median,
    "batch_norm": weights.batch_norm,
}
_DATA = {"apoz": activations.apoz, "mean": activations.mean_activation}
CRITERIA = (*_WEIGHTS, *_DATA, "taylor", "random")
_NORMALIZE = {
    None: lambda values: 1.0,
    "mean": np.mean,
    "max": np.max,
    "sum": np.sum,
}


def score(
    model,
    criterion="l2",
    data=None,
    *,
    of="groups",
    normalize="mean",
    ignore=(),
    loss=None,
    batch_size=32,
    exact=True,
    seed=0,
):
    """Score channels that have no gates, for `plan` and `prune`.

    Channels that can only go together are scored together: those of a
    layer, of the normalisation behind it, of all layers along a residual
    stream, and of what reads them.

    Args:
        model: A built Functional or Sequential model.
        criterion: `"l1"`, `"l2"` (norms of the kernel slices, the mean over
            all members of a group), `"fpgm"` (distance to the other filters),
            `"batch_norm"` (`|gamma|`), `"apoz"` (one minus the average
            percentage of zeros), `"mean"` (mean absolute activation),
            `"taylor"` (`sum |a * dL/da|`, first order), or `"random"`, the
            control that any other should beat.
        data: `(x, y)`, `x` alone, or an iterable of batches of these, for
            `"apoz"`, `"mean"` (x) and `"taylor"` (x and y).
        of: `"groups"` of coupled channels, or the model's `"gates"`
            (`"taylor"` and `"random"` only).
        normalize: What the scores of each group are divided by, so that
            layers compare: their `"mean"`, `"max"`, `"sum"`, or None.
        ignore: Names of layers that stay whole: the groups that they have a
            part in are left out. Or names of gates.
        loss: The loss for `"taylor"`; that of a compiled model by default.
        batch_size: Samples a batch, where data are arrays.
        exact: As in `prune`: which groups there are depends on it.
        seed: Seed of `"random"`.

    Returns:
        A dict from the name of each group (the first layer that produces
        its channels) or gate to an array, one score a channel.

    Raises:
        ValueError: The criterion or another name is unknown, data or a loss
            are missing, or no channel can be removed.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(16, activation="relu", name="hidden"),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> scores = kg.surgeon.score(model, "l1")
    >>> scores["hidden"].shape
    (16,)
    >>> small = kg.surgeon.prune(model, kg.Quantile(0.5), scores=scores)
    >>> [layer.units for layer in small.layers]
    [8, 2]
    """
    _check(criterion, of, normalize)
    graph = expand.read(model)
    if of == "gates":
        found = _of_gates(graph, criterion, data, loss, batch_size, seed)
        members = {name: {name} for name in found}
    else:
        every = removable.offered(graph, model, exact)
        members = groups.members(every)
        found = _of_groups(
            graph, every, criterion, data, loss, batch_size, seed
        )
    left_out = _left_out(ignore, members, of)
    return {
        name: values / (_NORMALIZE[normalize](values) or 1.0)
        for name, values in found.items()
        if name not in left_out
    }


def _left_out(ignore, members, of):
    """The groups or gates that ignored layers have a part in."""
    for name in ignore:
        if name not in members:
            raise ValueError(
                f"`ignore` has {name!r}, which is no layer with {of} that "
                f"could be scored. There are: {', '.join(members)}."
            )
    return {group for name in ignore for group in members[name]}


def _check(criterion, of, normalize):
    if criterion not in CRITERIA:
        raise ValueError(
            f"Unknown criterion {criterion!r}. Expected one of "
            f"{', '.join(map(repr, CRITERIA))}."
        )
    if of not in ("groups", "gates"):
        raise ValueError(f'`of` must be "groups" or "gates". Received: {of!r}.')
    if of == "gates" and criterion not in ("taylor", "random"):
        raise ValueError(
            'Gates are scored by "taylor" or "random"; by their size they are '
            f"without scores. Received: criterion={criterion!r}."
        )
    if normalize not in _NORMALIZE:
        raise ValueError(
            f"`normalize` must be one of {', '.join(map(repr, _NORMALIZE))}. "
            f"Received: {normalize!r}."
        )


def _of_groups(graph, found, criterion, data, loss, batch_size, seed):
    if criterion in _WEIGHTS:
        each = _WEIGHTS[criterion](found)
        known = {n: each[g.units] for n, g in found.groups.items()}
        # A group without such a weight has no score, and stays whole.
        return {n: v for n, v in known.items() if not np.isnan(v).any()}
    if criterion == "random":
        rng = np.random.default_rng(seed)
        return {n: rng.random(g.shape) for n, g in found.groups.items()}
    groups.insert(graph, found)
    batches = batches_of(data, criterion, batch_size)
    if criterion == "taylor":
        flat = taylor.of_groups(graph, batches, _loss(graph.model, loss))
    else:
        flat = _DATA[criterion](graph, batches)
    return {
        name: flat[group.start : group.start + group.units.size]
        for name, group in found.groups.items()
    }


def _of_gates(graph, criterion, data, loss, batch_size, seed):
    batches = batches_of(data, criterion, batch_size)
    rng = np.random.default_rng(seed)
    if criterion == "random":
        sources = gates_of(graph)
        return {n: rng.random(s.shape) for n, s in sources.items()}
    return taylor.of_gates(graph, batches, _loss(graph.model, loss))


def _loss(model, loss):
    """The loss to differentiate."""
    if loss is None and not getattr(model, "compiled", False):
        raise ValueError(
            f"The criterion 'taylor' needs a loss, and '{model.name}' is not "
            "compiled. Compile it, or pass loss=..."
        )
    return model.loss if loss is None else keras.losses.get(loss)
