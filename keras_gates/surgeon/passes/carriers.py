"""Channels that carry others that are known up to a signal.

Behind a normalization a channel that was a constant varies, but only with the
statistics: all such channels are combinations of two signals, `mu / sigma` and
`1 / sigma`, and of one where the constants were the same. So one or two of them
carry all others: a kernel that reads them gets the rows of all in the rows of
these. Here is found which are combinations of which, as far as that can be
followed from the normalization on.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.passes.decision import Absorption
from keras_gates.surgeon.passes.decision import Carried
from keras_gates.surgeon.passes.label import blends
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.rule import LINEAR

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Tensor
    from keras_gates.graphs.identity import IdentityDict
    from keras_gates.surgeon.passes.decision import AbsorbableInputs
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step

# What carries others must not be tiny beside them.
_SMALL = 1e-2
# Two combinations of signals are one if they are parallel to rounding.
_PARALLEL = 1e-9


class _Affine(NamedTuple):
    """What becomes of each coordinate: `slope * x + shift`; NaN: unknown."""

    slope: NDArray[np.float64]
    shift: NDArray[np.float64]


def find(
    labelling: Labelling,
    counted: IdentityDict[keras.Operation, dict[int, AbsorbableInputs]],
    closed: IdentityDict[keras.Operation, NDArray[np.bool_]],
) -> dict[Tensor, Carried]:
    """What is carried by what, of each tensor where anything is.

    Args:
        labelling: the `Labelling`.
        counted: layer -> input -> the constants that a normalization counts.
        closed: as in `label.constants`.
    """
    found: dict[Tensor, Carried] = {}
    # Those of one stream should have their carriers in common.
    favorites: set[int] = set()
    for step in labelling.steps:
        own = None if step.is_selection else counted.get(step.call.op)
        counts = own and own[0].how is Absorption.STATISTICS
        if own and counts:
            made = _born(labelling, step, own[0].values, favorites)
            if made is not None:
                found[step.outputs[0]] = made
        elif any(tensor in found for tensor in step.inputs):
            shut = closed.get(step.call.op)
            for tensor, passed in _passed(labelling, step, found, shut):
                found[tensor] = passed
    return found


def _born(
    labelling: Labelling,
    step: Step,
    constants: NDArray[np.float64],
    favorites: set[int],
) -> Carried | None:
    """What comes out of a normalization for the constants that it counts."""
    signals = step.rule.signals(step.call, constants)
    ids = step.flow.read(0)
    if signals is None or ids is None:
        return None
    classes = labelling.classes[ids]
    count = len(constants)
    places = np.full((2, count), -1)
    factors = np.zeros((2, count))
    offset = np.zeros(count)
    there = ~np.isnan(constants)
    for part in np.unique(signals.parts[there]):
        members = np.flatnonzero(there & (signals.parts == part))
        liked = np.isin(classes[members], list(favorites))
        carriers = _chosen(signals.shares[:, members], liked)
        favorites.update(classes[members[carriers]].tolist())
        at = members[carriers]
        weights = _weights(signals.shares, members, at)
        if weights is None:
            continue
        for number, place in enumerate(at):
            places[number, members] = place
            factors[number, members] = weights[number]
            offset[members] -= weights[number] * signals.offset[place]
        offset[members] += signals.offset[members]
        places[:, at] = -1
    if (places < 0).all():
        return None
    shape = step.flow.labels[0].shape
    # Places are along the channels, which are all that varies.
    if int(np.prod(shape)) != count:
        return None
    return Carried(
        places.reshape(2, *shape),
        factors.reshape(2, *shape),
        offset.reshape(shape),
    )


def _chosen(
    shares: NDArray[np.float64], liked: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Which of some channels carry the others: one, or two.

    Args:
        shares: of two signals in each, `(2, channels)`.
        liked: which carry others elsewhere, `(channels,)`.
    """
    first = _largest(np.hypot(*shares), liked)
    across = shares[0, first] * shares[1] - shares[1, first] * shares[0]
    sizes = np.hypot(*shares) * np.hypot(*shares[:, first])
    if (np.abs(across) <= _PARALLEL * sizes).all():
        return np.array([first])
    return np.array([first, _largest(np.abs(across), liked)])


def _largest(sizes: NDArray[np.float64], liked: NDArray[np.bool_]) -> int:
    fit = liked & (sizes >= _SMALL * sizes.max())
    return int(
        np.where(fit, sizes, 0.0).argmax() if fit.any() else sizes.argmax()
    )


def _weights(
    shares: NDArray[np.float64],
    members: NDArray[np.intp],
    at: NDArray[np.intp],
) -> NDArray[np.float64] | None:
    """How much of each carrier is in each member, `(carriers, members)`."""
    carriers = shares[:, at]
    if not carriers.any():
        return np.zeros((len(at), len(members)))
    found = np.linalg.lstsq(carriers, shares[:, members], rcond=None)
    solved: NDArray[np.float64] = found[0].astype("float64")
    return solved if np.isfinite(solved).all() else None


def _passed(
    labelling: Labelling,
    step: Step,
    found: Mapping[Tensor, Carried],
    shut: NDArray[np.bool_] | None,
) -> Iterator[tuple[Tensor, Carried]]:
    """What is still carried after a step that treats each channel alone."""
    tensor, *others = step.inputs
    trained = step.call.kwargs.get("training") is True and step.rule.trains
    barred = others or trained or step.flow.mixes or step.flow.reason
    if barred or step.rule.scaling_but_bias(step.call) != LINEAR:
        return
    before = labelling.labels[tensor].shape
    affine = _affine(step, before, shut)
    for number, output in enumerate(step.outputs):
        if blends(step, number, 0, labelling):
            continue
        source = step.flow.sources[number][0]
        labels = step.flow.labels[number]
        if not isinstance(source, np.ndarray):  # IDENTITY
            source = np.arange(int(np.prod(before))).reshape(before)
        source = lb.stretched(source, labels.shape)
        moved, change = _moved(found[tensor], source), affine[number]
        if moved is None or change is None:
            continue
        carried = _rescaled(moved, change)
        if (carried.places >= 0).any():
            yield output, carried


def _affine(
    step: Step, before: tuple[int, ...], shut: NDArray[np.bool_] | None
) -> Sequence[_Affine | None]:
    """What a step does to each coordinate of its outputs."""
    ends = []
    for number in (0.0, 1.0):
        value = Known(np.full(before, number))
        outputs = step.rule.value(step.call, step.flow, [value])
        if shut is not None and shut.any():
            first = step.rule.shut(step.call, step.flow, outputs[0], shut)
            outputs = [first, *outputs[1:]]
        ends.append(outputs)
    found: list[_Affine | None] = []
    for zero, one, labels in zip(*ends, step.flow.labels, strict=True):
        if zero is None or one is None:
            found.append(None)
            continue
        shift = lb.stretched(zero.plain(), labels.shape)
        slope = lb.stretched(one.plain(), labels.shape) - shift
        found.append(_Affine(slope, shift))
    return found


def _moved(carried: Carried, source: NDArray[np.intp]) -> Carried | None:
    """The same where coordinates have moved; None if one is there twice.

    Which of them is at the place of its carrier would be open then.
    """
    taken = source[source >= 0]
    if np.unique(taken).size < taken.size:
        return None
    size = int(np.prod(carried.offset.shape))
    # The last entry is for what stems from nowhere.
    now = np.full(size + 1, -1)
    now[taken] = np.flatnonzero(source >= 0)
    flat = carried.places.reshape(2, -1)[:, source.clip(0)]
    places = np.where((source >= 0) & (flat >= 0), now[flat], -1)
    lost = ((flat >= 0) & (places < 0)).any(axis=0) | (source < 0)
    places = np.where(lost, -1, places)
    factors = carried.factors.reshape(2, -1)[:, source.clip(0)]
    offset = carried.offset.ravel()[source.clip(0)]
    return Carried(places, factors, offset)


def _rescaled(carried: Carried, affine: _Affine) -> Carried:
    """The same where each coordinate x has become `slope * x + shift`."""
    slope, shift = affine.slope.ravel(), affine.shift.ravel()
    there = carried.places >= 0
    own = np.where(there, slope[carried.places], 1.0)
    added = np.where(there, shift[carried.places], 0.0)
    factors = np.where(there, carried.factors, 0.0)
    with np.errstate(all="ignore"):
        factors = factors * affine.slope / own
        offset = affine.slope * carried.offset + affine.shift
        offset = offset - (factors * added).sum(axis=0)
    most = np.nanmax(np.abs(slope), initial=0.0)
    fit = np.isfinite(factors).all(axis=0) & np.isfinite(offset)
    fit &= (np.abs(own) >= _SMALL * most).all(axis=0) | (affine.slope == 0)
    fit &= np.isfinite(factors).all(axis=0)
    return Carried(np.where(fit, carried.places, -1), factors, offset)
