"""Deletes channels of a model, with all of their weights.

The labels are those of pruning, the decision is the caller's: nothing is
known to be constant, so nothing is absorbed.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.build.rebuild import rebuild
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.passes import fold
from keras_gates.surgeon.passes.decision import Decision
from keras_gates.surgeon.passes.label import OUTPUT
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.rules.activations import why_not
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import STATISTICS

if TYPE_CHECKING:
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step

# What keeps a function as it is, but not a deletion: outputs may get
# narrower, and a softmax can do with fewer channels.
_NO_MATTER = {
    OUTPUT,
    *map(why_not, (keras.activations.softmax, keras.activations.log_softmax)),
}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Channels to delete from one layer.

    Attributes:
        channels: their positions; negative ones count from the end.
        tied: whether those of other layers that are tied to them go too.
    """

    channels: Sequence[int] | NDArray[np.integer[Any]]
    tied: bool = False


def delete(model: keras.Model, wanted: dict[str, Wanted]) -> keras.Model:
    """A copy of a model without some channels.

    Args:
        model: a built model.
        wanted: `{path of a layer: Wanted}`.

    Raises:
        TypeError, ValueError: the channels are none of the layer's, all of
            them, tied to others that are not wanted, or read by what can't
            do with fewer.
    """
    graph = expand.read(model)
    labelling = label(graph, selections=False)
    wanted = {_maker(labelling, p): w for p, w in wanted.items()}
    asked = {p: _positions(labelling, p, w) for p, w in wanted.items()}
    gone, along = np.zeros((2, len(labelling.classes)), bool)
    for path, positions in asked.items():
        own = labelling.classes[_ids(labelling, path)[positions]]
        gone[own] = True
        along[own] |= wanted[path].tied
    _check_readers(labelling, gone, asked)
    _check_ties(labelling, gone, asked, along)
    decision = _decision(labelling, ~gone)
    _check_left(decision)
    return rebuild(graph, decision, fold.fold(decision))


def _decision(labelling: Labelling, kept: NDArray[np.bool_]) -> Decision:
    """Every step is there, and nothing is known, read or left out."""
    scopes = {scope for step in labelling.steps for scope in step.call.scopes}
    return Decision(
        labelling=labelling,
        values={},
        exact=True,
        closed=IdentityDict(),
        uncut=frozenset(),
        absorbable_by_layer=IdentityDict(),
        kept=kept,
        present=frozenset(labelling.steps),
        called=frozenset(scopes),
        dropped={},
        demand={},
        reads=(),
        recalls=(),
    )


def _maker(labelling: Labelling, path: str) -> str:
    """The path itself, or that of the part which makes a layer's channels."""
    if any(step.path == path for step in labelling.steps):
        return path
    classes, labels = labelling.classes, labelling.labels
    for call in labelling.graph.calls:
        for depth, scope in enumerate(call.scopes, 1):
            names = [s.site.name for s in call.scopes[:depth]]
            if "/".join(names) != path:
                continue
            _, own = lb.sole_axis(classes[labels[scope.outputs[0]]])
            for step in labelling.steps:
                made = step.flow.roles.get("out")
                if made is None or own is None:
                    continue
                inside = scope in step.call.scopes
                if inside and np.array_equal(classes[made], own):
                    return step.path
    raise ValueError(
        f"Layer '{path}' has no channels of its own: it passes on those of "
        "other layers. Pass the layer that produces them."
    )


def _step(labelling: Labelling, path: str) -> Step:
    return next(step for step in labelling.steps if step.path == path)


def _ids(labelling: Labelling, path: str) -> NDArray[np.intp]:
    """The units of the channels that a layer puts out."""
    step = _step(labelling, path)
    ids = _channels(step)
    if ids is None:
        why = step.flow.reason or "it passes on those of others"
        raise ValueError(f"Layer '{path}' has no channels of its own: {why}.")
    return ids


def _channels(step: Step) -> NDArray[np.intp] | None:
    return step.flow.roles.get("out", step.flow.roles.get("channel"))


def _positions(
    labelling: Labelling, path: str, wanted: Wanted
) -> NDArray[np.intp]:
    """Sorted positions, counted from 0."""
    count = len(_ids(labelling, path))
    channels = np.asarray(wanted.channels).reshape(-1).tolist()
    for channel in channels:
        if isinstance(channel, bool) or not isinstance(
            channel, numbers.Integral
        ):
            raise TypeError(
                f"The channels of '{path}' must be ints. Received: {channel!r}."
            )
    if not all(-count <= c < count for c in channels):
        raise ValueError(
            f"Channels of '{path}' are out of range: it has {count}. "
            f"Received: {channels}."
        )
    positions = sorted(c % count for c in channels)
    if len(set(positions)) < len(positions):
        raise ValueError(
            f"Channels of '{path}' are given twice. Received: {channels}."
        )
    if len(positions) == count:
        raise ValueError(
            f"These are all {count} channels of '{path}'. Keep one, or remove "
            "the layer with delete_layer."
        )
    return np.array(positions, np.intp)


def _check_readers(
    labelling: Labelling,
    gone: NDArray[np.bool_],
    asked: dict[str, NDArray[np.intp]],
) -> None:
    """Refuse what can't be read with fewer channels."""
    classes = labelling.classes
    names = ", ".join(map(repr, asked))
    reasons = [
        reason
        for ids, reason, _ in labelling.pinned
        if gone[classes[ids]].any() and reason not in _NO_MATTER
    ]
    if gone[classes[lb.FIXED]]:
        reasons.append("they are combined with what has all its channels")
    for step in labelling.steps:
        whole = step.rule.reading(step.call) in (ALL, STATISTICS)
        whole = whole and step.flow.mixes
        if not whole or step.rule.approximates(step.call):
            continue
        if any(gone[classes[labelling.labels[t]]].any() for t in step.inputs):
            what = f"'{step.path}' (of type {type(step.call.op).__name__})"
            reasons.append(f"{what} after them reads all channels together")
    if reasons:
        raise ValueError(f"Channels of {names} can't be deleted: {reasons[0]}.")


def _check_ties(
    labelling: Labelling,
    gone: NDArray[np.bool_],
    asked: dict[str, NDArray[np.intp]],
    along: NDArray[np.bool_],
) -> None:
    """Refuse to delete channels of a layer that nobody named."""
    others: dict[str, list[int]] = {}
    for step in labelling.steps:
        mints = step.flow.mixes and "out" in step.flow.roles
        if not mints and step.path not in asked:
            continue
        own = labelling.classes[_channels(step)]
        stray = gone[own] & ~along[own]
        if step.path in asked:
            stray[asked[step.path]] = False
        if stray.any():
            others[step.path] = np.flatnonzero(stray).tolist()
    if not others:
        return
    ties = [
        f"'{step.path}'"
        for step in labelling.steps
        if step.rule.merging
        and gone[labelling.classes[step.flow.labels[0]]].any()
    ]
    where = f" They meet in {', '.join(ties)}." if ties else ""
    given = (f"{p.tolist()} of '{name}'" for name, p in asked.items())
    group = (f"{positions} of '{name}'" for name, positions in others.items())
    raise ValueError(
        f"Channels {', '.join(given)} can only be deleted together with "
        f"channels {', '.join(group)}.{where} Pass tied=True to delete the "
        "whole group, or name these channels too."
    )


def _check_left(decision: Decision) -> None:
    """Refuse to leave a tensor without channels."""
    for step in decision.labelling.steps:
        for tensor in [*step.inputs, *step.outputs]:
            labels = decision.labelling.labels[tensor]
            if labels.size and not decision.mask(labels).any():
                raise ValueError(
                    f"Nothing would remain of the tensor at '{step.path}'. "
                    "Keep at least one of its channels."
                )
