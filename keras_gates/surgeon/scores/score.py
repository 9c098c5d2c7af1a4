"""`score`: one function for all criteria."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates import _checks
from keras_gates.graphs import patterns
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.scores import activations
from keras_gates.surgeon.scores import ignored
from keras_gates.surgeon.scores import obs
from keras_gates.surgeon.scores import taylor
from keras_gates.surgeon.scores import weights
from keras_gates.surgeon.scores.batches import batches_of
from keras_gates.surgeon.scores.objective import Objective
from keras_gates.surgeon.solving import removable

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.patterns import Patterns
    from keras_gates.surgeon.scores.batches import Batch
    from keras_gates.surgeon.scores.weights import Criterion

_WEIGHTS: dict[str, Criterion] = {
    "l1": weights.l1,
    "l2": weights.l2,
    "fpgm": weights.geometric_median,
    "batch_norm": weights.batch_norm,
}
_DATA = {"apoz": activations.apoz, "mean": activations.mean_activation}
CRITERIA = (*_WEIGHTS, *_DATA, "taylor", "obs", "random")
_NORMALIZE: dict[str | None, Callable[[NDArray[np.float64]], Any]] = {
    None: lambda values: 1.0,
    "mean": np.mean,
    "max": np.max,
    "sum": np.sum,
}
# The tolerance for equal scores, in sums of float32.
_ROUNDING = 1e-6
_MOST = 5
_LOOKED_AT = {"batch_norm": "gamma", "obs": "linear reader"}
# Messages if nothing of the requested kind exists.
_NONE = {
    "groups": (
        "Of '{}' nothing but dimensions of attention heads can be removed. "
        'Pass of="dims" to score these.'
    ),
    "dims": (
        "'{}' has no attention whose heads can do with fewer dimensions. Pass "
        'of="groups" for channels and heads.'
    ),
}
# Remedies if all scores of a group are equal.
_REMEDIES = {
    "apoz": (
        "Nothing is ever zero there, or all is; activations such as GELU or "
        'tanh have no zeros to count. Score by "mean" or "taylor".'
    ),
    "taylor": (
        "If they are 0, the loss does not depend on these channels, or the "
        "labels minimize it, as the model's own outputs do. Pass hard labels "
        "(the true ones, or the argmax of the outputs), or another loss."
    ),
    None: (
        "Train the model first, pass more data, or score by another criterion."
    ),
}


def score(
    model: keras.Model,
    criterion: str = "l2",
    data: Any = None,
    *,
    of: str = "groups",
    normalize: str | None = "mean",
    ignore: Patterns = (),
    loss: Any = None,
    loss_weights: Any = None,
    batch_size: int = 32,
    exact: bool = True,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Score channels without gates, for `plan` and `prune`.

    Channels that can only be removed together are scored together: those of a
    layer, of the normalization after it, of all layers along a residual stream,
    and of their readers.

    Args:
        model: A built Functional or Sequential model.
        criterion: `"l1"`, `"l2"` (norms of the kernel slices, the mean over
            all members of a group), `"fpgm"` (distance to the other filters),
            `"batch_norm"` (`|gamma|`), `"apoz"` (one minus the average
            percentage of zeros), `"mean"` (mean absolute activation),
            `"taylor"` (`sum |a * dL/da|`, first order), `"obs"` (structural
            OBS, for `prune(..., repair=x)`: the error of all readers of a
            channel after they are fitted again to the remaining channels,
            relative to the variance of their outputs; with labels and a loss,
            weighted by how much the loss depends on them), or `"random"`, as a
            control.
        data: For `"apoz"`, `"mean"` and `"obs"` (x) and `"taylor"` (x and y,
            which `"obs"` also uses if present), as in `fit`: a tuple is `(x,
            y)` or `(x, y, sample_weight)`; an array, or a dict or list of
            arrays for several inputs, is x; anything else is an iterable of
            batches of these (a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            PyTorch `DataLoader`, a generator, a list), which is read once.
        of: `"groups"` of coupled channels, including attention heads; `"dims"`,
            the dimensions of all heads of a layer; or the model's `"gates"`
            (only `"taylor"` and `"random"`).
        normalize: The divisor of each group's scores, to make layers
            comparable: their `"mean"`, `"max"` or `"sum"`, or None.
        ignore: Layers to leave whole: one or a list of layer names (`*` stands
            for anything), layers and layer classes; a nested model stands for
            everything in it. Groups, or gates, of channels that these layers
            produce are left out.
        loss: The loss for `"taylor"` in any form that `compile` takes; that
            of a compiled model by default, with its weights. Losses added with
            `add_loss` and activity penalties count as in `fit`; a custom
            `compute_loss` or `train_step` is not called.
        loss_weights: The weights of `loss`, as in `compile`.
        batch_size: Samples per batch, if `data` is arrays.
        exact: As in `prune`, since the groups depend on it.
        seed: Seed of `"random"`, and of the positions that `"obs"` uses.

    Returns:
        A dict from the name of each group (the first layer that produces
        its channels, or `"name/channels"` if a gate has that name) or gate to
        an array with one score per channel.

    Raises:
        TypeError: `data` or `ignore` has an unknown form.
        ValueError: The criterion or another name is unknown, data or a loss is
            missing or does not fit the model, no channel can be removed, or
            `ignore` excludes everything.

    Warns:
        UserWarning: Scores rank nothing, since all scores of a group are equal
            or gradients are rounding noise; or groups have no score.

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
    _check(criterion, of, normalize, seed)
    patterns.check(ignore, "ignore")
    graph = expand.read(model)
    patterns.check_fit(ignore, "ignore", graph)
    batches = batches_of(model, data, criterion, batch_size)
    objective = None
    if criterion == "obs":
        batches = list(batches)
        labelled = all(batch.y is not None for batch in batches)
        compiled = getattr(model, "compiled", False) and model.loss is not None
        if labelled and (loss is not None or compiled):
            objective = Objective.of_model(model, loss, loss_weights)
    if criterion == "taylor":
        objective = Objective.of_model(model, loss, loss_weights)
    request = _Request(criterion, ignore, exact, batches, objective, seed)
    if of == "gates":
        scores = _gate_scores(graph, request)
    else:
        scores = _group_scores(graph, model, request, of)
    _check_scores(scores, criterion, of)
    return {
        name: values / (_NORMALIZE[normalize](values) or 1.0)
        for name, values in scores.items()
    }


@dataclasses.dataclass(frozen=True)
class _Request:
    """What `score` is asked for.

    Attributes:
        criterion: one of `CRITERIA`.
        ignore: as in `score`.
        exact: as in `score`.
        batches: the data; nothing where the criterion needs none.
        objective: what is differentiated, for "taylor"; else None.
        seed: as in `score`.
    """

    criterion: str
    ignore: Patterns
    exact: bool
    batches: Iterable[Batch]
    objective: Objective | None
    seed: int


def _check(criterion: str, of: str, normalize: str | None, seed: int) -> None:
    _checks.integer(seed, "seed")
    if criterion not in CRITERIA:
        raise ValueError(
            f"Unknown criterion {criterion!r}. Expected one of "
            f"{', '.join(map(repr, CRITERIA))}."
        )
    if of not in ("groups", "dims", "gates"):
        raise ValueError(
            f'`of` must be "groups", "dims" or "gates". Received: {of!r}.'
        )
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


def _group_scores(
    graph: Graph, model: keras.Model, request: _Request, of: str
) -> dict[str, NDArray[np.float64]]:
    offered = removable.offered(graph, request.exact)
    main = of == "groups"
    found = {n: g for n, g in offered.groups.items() if g.main == main}
    if not found:
        raise ValueError(_NONE[of].format(graph.model.name))
    offered = dataclasses.replace(offered, groups=found)
    out = ignored.group_names(request.ignore, offered)
    names = _left(found, out, "groups")
    if request.criterion in _WEIGHTS:
        each = _WEIGHTS[request.criterion](offered)
        scores = {n: each[found[n].units] for n in names}
        return _known(scores, request.criterion)
    if request.criterion == "random":
        rng = np.random.default_rng(request.seed)
        scores = {n: rng.random(group.shape) for n, group in found.items()}
        return {n: scores[n] for n in names}
    # Read again: `offered` may have put gates of groups that can't go into it.
    graph = expand.read(model, like=graph)
    every = groups.find(graph, request.exact)
    groups.insert(graph, groups.without(every, every.groups.keys() - found))
    if request.objective is not None:
        flat = taylor.unit_scores(
            graph, every.labelling, request.batches, request.objective
        )
    if request.criterion == "obs":
        shares = None
        if request.objective is not None:
            shares = np.zeros(len(every.labelling.classes))
            for name in found:
                group = every.groups[name]
                shares[group.units] = flat[group.start : group.stop]
        costs = _costs(model, names, request, shares)
        return _known(costs, request.criterion)
    if request.objective is None:
        measure = _DATA[request.criterion]
        flat = measure(graph, every.labelling, request.batches)
    return {n: flat[found[n].start :][: found[n].units.size] for n in names}


def _costs(
    model: keras.Model,
    names: list[str],
    request: _Request,
    shares: NDArray[np.float64] | None,
) -> dict[str, NDArray[np.float64]]:
    """What the units of each group cost where readers are fitted again."""
    graph = expand.read(model)
    plain = groups.find(graph, request.exact)
    own = {name: plain.groups[name] for name in names}
    return obs.unit_scores(
        graph, plain.labelling, own, request.batches, shares, request.seed
    )


def _gate_scores(
    graph: Graph, request: _Request
) -> dict[str, NDArray[np.float64]]:
    out: set[str] = set()
    if patterns.listed(request.ignore):
        labelling = label(graph, selections=False)
        out = ignored.gate_paths(request.ignore, labelling)
    if request.objective is not None:
        scores = taylor.gate_scores(graph, request.batches, request.objective)
    else:
        rng = np.random.default_rng(request.seed)
        gates = gates_of(graph).items()
        scores = {name: rng.random(gate.shape) for name, gate in gates}
    return {name: scores[name] for name in _left(scores, out, "gates")}


def _left(names: Iterable[str], out: set[str], of: str) -> list[str]:
    """The names of all that is not ignored."""
    names = list(names)
    left = [name for name in names if name not in out]
    if names and not left:
        raise ValueError(
            f"`ignore` excludes all {of} of this model, so there is nothing "
            f"to score: {', '.join(map(repr, names))}. Ignore fewer layers."
        )
    return left


def _known(
    scores: dict[str, NDArray[np.float64]], criterion: str
) -> dict[str, NDArray[np.float64]]:
    """The groups that have a score by their weights; the others stay whole."""
    lost = [name for name, values in scores.items() if np.isnan(values).all()]
    part = [n for n, values in scores.items() if np.isnan(values).any()]
    what = _LOOKED_AT.get(criterion, "kernel")
    if len(part) == len(scores):
        raise ValueError(
            f"No group has a {what} for each channel, which {criterion!r} "
            f"scores: {_first_names(part)}. Score by another criterion."
        )
    if part:
        also = " or only some" if part != lost else ""
        warnings.warn(
            f"{len(part)} of {len(scores)} groups have no score by "
            f"{criterion!r}, since their channels have no {what}{also}, and "
            f"stay whole: {_first_names(part)}.",
            UserWarning,
            stacklevel=4,
        )
    return {name: v for name, v in scores.items() if name not in part}


def _check_scores(
    scores: dict[str, NDArray[np.float64]], criterion: str, of: str
) -> None:
    """Refuse scores that are no numbers; warn of those that rank nothing."""
    bad = [n for n, values in scores.items() if not np.isfinite(values).all()]
    if bad:
        raise ValueError(
            f"The {criterion!r} scores of {_first_names(bad)} are not finite: "
            "the data, the loss or the weights have NaN or infinity, or "
            "overflow. Check these first."
        )
    alike = [n for n, v in scores.items() if v.size > 1 and _alike(v)]
    if alike:
        remedy = _REMEDIES.get(criterion, _REMEDIES[None])
        warnings.warn(
            f"All {criterion!r} scores are equal within {len(alike)} of "
            f"{len(scores)} {of}, so the choice of closed channels is "
            f"arbitrary: {_first_names(alike)}. {remedy}",
            UserWarning,
            stacklevel=3,
        )


def _alike(values: NDArray[np.float64]) -> bool:
    """Whether scores differ by rounding alone."""
    return bool(np.ptp(values) <= _ROUNDING * np.abs(values).max())


def _first_names(names: list[str]) -> str:
    more = len(names) - _MOST
    tail = f" and {more} more" if more > 0 else ""
    return ", ".join(map(repr, names[:_MOST])) + tail
