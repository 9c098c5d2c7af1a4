"""The places of gates on channels, and which of them share a gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.inlined import why_not
from keras_gates.graphs.readers import sole_successor
from keras_gates.layers import FilterGate
from keras_gates.layers import recurrence
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates import loops
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.solving import removable
from keras_gates.transforms.finding import chains
from keras_gates.transforms.finding.regions import has_kernel
from keras_gates.transforms.finding.tables import joined
from keras_gates.transforms.finding.tables import tables

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Scope
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling

_HEADS = "it makes the heads of an attention, which `heads` gates"


@dataclasses.dataclass(eq=False)
class Channels:
    """Tensors whose channels stay or go together, for one gate.

    Attributes:
        places: for each tensor, the calls from the layer that produces it (or
            the normalization that reads it) to the place of the gate.
        axis: that of the channels.
        classes: for each channel, its class in the labelling: integers of
            shape `(channels,)`; empty where there is no `axis` for them.
        tied: whether other gates have some of the same channels, or the places
            belong to more than one layer.
        reason: why they get no gate; "" if they get one.
        approximate: why they get a gate only if requested by name: how closing
            them changes the function with `exact=False`.
        looped: whether they are the units of a recurrent layer, with a gate
            inside its loop.
        states: its other outputs that the gate multiplies, too.
    """

    places: list[list[Call]]
    axis: int = -1
    classes: NDArray[np.integer] = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.int64)
    )
    tied: bool = False
    reason: str = ""
    approximate: str = ""
    looped: bool = False
    states: tuple[int, ...] = ()

    kind = "filter"

    @property
    def name(self) -> str:
        return self.places[0][0].path

    @property
    def calls(self) -> list[Call]:
        return [call for place in self.places for call in place]

    @property
    def gated(self) -> list[Call]:
        """The calls that the gate follows."""
        return [call for place in self.places for call in place[-1].site.calls]

    @property
    def gate_name(self) -> str:
        return f"{self.places[0][0].op.name}_{self.kind}_gate"

    @property
    def sites(self) -> list[Site]:
        """The call after which the gate is called, or that it wraps."""
        at = [call.site if self.looped else behind(call) for call in self.gated]
        return list(dict.fromkeys(at))

    @property
    def inside(self) -> str:
        """Why it gets no gate if layers must keep their class, or ""."""
        for call in self.gated if self.looped else ():
            for scope in call.scopes:
                if scope.site.opened is not None:
                    return _inside(scope)
        return "" if self.looped else keeps_class(self.gated)


def behind(call: Call) -> Site:
    """The place of a gate on the output of a call.

    After a layer that is seen through, if the layer returns the tensor and does
    not read it: then the layer need not change.
    """
    site, tensor = call.site, call.outputs[0]
    for scope in reversed(call.scopes):
        inside = any(scope in reader.scopes for reader in tensor.consumers)
        handed_on = tensor is scope.outputs[0] and not inside
        if scope.site.opened is None or not handed_on:
            break
        site = scope.site
    return site


def keeps_class(calls: Iterable[Call], in_front: bool = False) -> str:
    """Why some calls get no gate if layers must keep their class.

    A clause; "" if none of them is inside a layer.

    Args:
        calls: the calls.
        in_front: whether the gates would precede them.
    """
    for call in calls:
        site = call.site if in_front else behind(call)
        for scope in call.scopes:
            if scope.site is site:
                break
            if scope.site.opened is not None:
                return _inside(scope)
    return ""


def _inside(scope: Scope) -> str:
    return (
        f"the gate would be inside '{scope.site.name}', which keeps its class "
        "(written_out=False)"
    )


def find_channels(
    graph: Graph,
    labelling: Labelling | None = None,
    position: str = "activation",
) -> list[Channels]:
    """The `Channels` of a graph, in order.

    A gate is never before a batch normalization that would divide its
    factors out again, be it past an addition, a concatenation or a
    depthwise convolution. There, gates go after the normalization. Nor is
    one where closing it could remove nothing.

    Each call of a shared layer is a place for the same gate, since channels
    that are open after one call stay for all.

    The gate of a recurrent layer is inside its loop, not after it.

    Args:
        graph: the `Graph` of a model.
        labelling: its `Labelling`, if available.
        position: the place in the chain, as in `chains.chain`.
    """
    labelling = labelling or label(graph)
    places: dict[Site, list[Call]] = {}
    # The units of all tensors so far, and the ids of their producers.
    seen, makers = {lb.FIXED}, set[int]()
    for step in labelling.steps:
        made = {
            u for labels in step.flow.labels for u in labels.ravel().tolist()
        } - seen
        seen |= made
        if step.position is not None or not has_kernel(step.call):
            continue
        if made or id(step.call.op) in makers:
            makers.add(id(step.call.op))
            if loops.takes_gate(step.call):
                places.setdefault(step.site, [step.call])
                continue
            start = chains.chain(graph, step.call, position)
            for chain in _behind_norms(graph, start, position):
                places.setdefault(chain[-1].site, chain)
    pinned = pinned_classes(labelling)
    heads = classes_of_heads(labelling)
    found, fixed = [], tables(labelling)
    for chain in places.values():
        looped = loops.takes_gate(chain[-1])
        if not looped:
            while more := joined(graph, chain[-1], fixed):
                chain = chain + more
            chain = _behind_moves(graph, labelling, chain, position)
        one = _channels(labelling, chain, pinned)
        if looped:
            one = _looped(labelling, one)
        if heads & {*one.classes.tolist()}:
            one.reason = _HEADS
        found.append(one)
    result = shared(found)
    bar_apart(graph, result)
    mark_futile(graph, [one for one in result if not one.reason])
    return result


def bar_apart(graph: Graph, found: Iterable[Channels]) -> None:
    """Find gates that would be called in models that have to stay apart."""
    for one in found:
        sites = () if one.reason else one.sites
        if len(sites) > 1 and (why := why_not(graph, sites)):
            one.reason = (
                f"its gate would be called in more than one model, and {why}"
            )


def classes_of_heads(labelling: Labelling) -> set[int]:
    """The classes of units along the same axis of products of tensors."""
    found: set[int] = set()
    for step in labelling.steps:
        if step.rule.multiplies and step.rule.head_axis(step.call, step.flow):
            labels = step.flow.labels[0]
            found |= {*np.unique(labelling.classes[labels]).tolist()}
    return found - {int(labelling.classes[lb.FIXED])}


def mark_futile(graph: Graph, found: list[Channels]) -> None:
    """Find places whose closing removes nothing, by trial."""
    why = _futile(graph, found, exact=True)
    loose = _futile(graph, found, exact=False) if why else {}
    for number, reason in why.items():
        one = found[number]
        if number in loose:
            one.reason = f"closing it removes nothing: {reason}"
        else:
            how = "closing it removes something with exact=False only"
            one.approximate = f"{how}: {reason}"


def _futile(graph: Graph, found: list[Channels], exact: bool) -> dict[int, str]:
    """`{number: reason}` of places with no removable channel."""
    trial = see_through.read(graph.model, graph)
    twin = dict(zip(graph.calls, trial.calls, strict=True))
    # A gate in a model that is called twice occurs in both calls.
    gates = {
        str(number): [
            (twin[call].outputs[output], channels.axis)
            for call in channels.gated
            for output in (0, *channels.states)
        ]
        for number, channels in enumerate(found)
    }
    looped = {
        str(number): channels.gated[0].op
        for number, channels in enumerate(found)
        if channels.looped
    }
    groups.insert_gates(trial, gates, looped)
    vain = removable.never(trial, set(gates), exact=exact, wholly=True)
    names = [name for name, mask in vain.items() if mask.all()]
    return {
        int(name): why
        for name, why in removable.reasons(trial, names, exact).items()
    }


def _behind_norms(
    graph: Graph, chain: list[Call], position: str
) -> list[list[Call]]:
    """The chain itself, or the chains of the following normalizations."""
    norms = _norms_ahead(chain[-1].outputs[0])
    if not norms:
        return [chain]
    chains_of_norms = [chains.chain(graph, norm, position) for norm in norms]
    return [
        end
        for start in chains_of_norms
        for end in _behind_norms(graph, start, position)
    ]


def _norms_ahead(tensor: Tensor) -> list[Call]:
    """Normalizations that a factor on this tensor would reach unchanged."""
    found: dict[Call, None] = {}
    seen: set[Call] = set()
    todo = [tensor]
    while todo:
        for call in todo.pop().consumers:
            if call in seen:
                continue
            seen.add(call)
            if isinstance(call.op, keras.layers.BatchNormalization):
                found[call] = None
            elif _passes_factors(call):
                todo.extend(call.outputs)
    return list(found)


def _passes_factors(call: Call) -> bool:
    # A bias shifts the channel, and the normalization undoes the shift.
    return rule_of(call).scaling_but_bias(call) in (LINEAR, POSITIVE)


def pinned_classes(labelling: Labelling) -> dict[int, str]:
    """Class -> why its units must stay."""
    classes = labelling.classes
    found: dict[int, str] = {}
    for ids, reason, call in labelling.pinned:
        if call is not None:
            name = type(call.op).__name__
            reason = f"'{call.path}' ({name}) keeps it whole: {reason}"
        found |= dict.fromkeys(map(int, np.unique(classes[ids])), reason)
    return found


def _behind_moves(
    graph: Graph, labelling: Labelling, chain: list[Call], position: str
) -> list[Call]:
    """The chain, extended to where each factor has one channel.

    The units of a layer that is reshaped to a map are gated by the channel of
    the map, and so are those before a pixel shuffle: before the move, several
    factors would have to close to remove one channel.
    """
    if _has_factor_each(labelling, chain[-1]):
        return chain
    found, longer = None, list(chain)
    while (after := _moved_or_treated(graph, longer[-1])) is not None:
        longer.append(after)
        activation = chains.is_activation(after)
        if activation and position == "norm" and found is not None:
            break
        treated = activation or isinstance(after.op, chains.NORMS)
        if _has_factor_each(labelling, after) and (treated or found is None):
            found = list(longer)
    return chain if found is None else found


def _moved_or_treated(graph: Graph, call: Call) -> Call | None:
    """The only reader of a call, if it moves or transforms channels."""
    after = sole_successor(graph, call)
    if after is None:
        return None
    once = len(after.site.calls) == 1 or after.scopes == call.scopes
    fits = isinstance(after.op, chains.NORMS) or chains.is_activation(after)
    fits = fits or rule_of(after).moves
    return after if once and fits else None


def _has_factor_each(labelling: Labelling, call: Call) -> bool:
    """Whether an axis of a call's output has each channel exactly once."""
    along = along_one_axis(labelling, call.outputs[0])
    return along is not None and len(np.unique(along[1])) == len(along[1])


def along_one_axis(
    labelling: Labelling, tensor: Tensor
) -> tuple[int, NDArray[np.int64]] | None:
    """`(axis, classes)` of a tensor's channels; None for several axes."""
    axis, own = lb.sole_axis(labelling.classes[labelling.labels[tensor]])
    if axis is None or own is None or own.size != tensor.shape[axis]:
        return None
    return axis, own


def _channels(
    labelling: Labelling, chain: list[Call], pinned: dict[int, str]
) -> Channels:
    """The `Channels` of one place, with the reason if it gets no gate."""
    tensor = chain[-1].outputs[0]
    found = Channels([chain])
    along = along_one_axis(labelling, tensor)
    if along is None:
        found.reason = _barred(labelling, chain)
        return found
    axis, found.classes = along
    last = axis == len(tensor.shape) - 1
    found.axis = -1 if last else axis
    reasons = [pinned.get(int(c)) for c in found.classes]
    if reasons and None not in reasons:
        found.reason = reasons[0] or ""
    elif any(isinstance(c.op, FilterGate) for c in tensor.consumers):
        found.reason = "it has a gate already"
    elif _only_scales(tensor):
        found.reason = "it scales channels that have a gate of their own"
    return found


def _looped(labelling: Labelling, channels: Channels) -> Channels:
    """The same for the units of a recurrent layer."""
    (call,) = channels.places[0]
    step = next(s for s in labelling.steps if s.call is call)
    units = labelling.classes[step.flow.roles["out"]]
    states = loops.states_read_elsewhere(call)
    axis = recurrence.channel_axis(call.op)
    return dataclasses.replace(
        channels, classes=units, axis=axis, looped=True, states=states
    )


def _barred(labelling: Labelling, chain: list[Call]) -> str:
    """Why a chain's output has no channels that a gate could close."""
    for step in labelling.steps:
        if step.call is chain[-1] and step.flow.reason is not None:
            name = type(step.call.op).__name__
            return f"'{step.path}' ({name}) keeps it whole: {step.flow.reason}"
    return "its channels are not along one axis"


def _only_scales(tensor: Tensor) -> bool:
    """Whether it is the smaller side of a product, as in a squeeze."""
    while len(tensor.consumers) == 1:
        (call,) = tensor.consumers
        if rule_of(call).multiplies:
            return False
        if rule_of(call).one_takes_all(call) and len(call.inputs) > 1:
            return tensor.shape[1:] != call.outputs[0].shape[1:]
        if len(call.inputs) > 1 or len(call.outputs) > 1 or has_kernel(call):
            return False
        tensor = call.outputs[0]
    return False


def shared(found: list[Channels]) -> list[Channels]:
    """Merge places with the same channels, and mark tied ones."""
    barred = {id(c.places[0][0].op): c.reason for c in found if c.reason}
    for one in found:
        # If one call of a layer gets no gate, closing the others has no effect.
        one.reason = barred.get(id(one.places[0][0].op), "")
    # Keyed by what all places of a gate have in common; otherwise by the id.
    alike: dict[object, Channels] = {}
    for one in found:
        key: object = id(one)
        if not one.reason:
            key = (one.axis, one.classes.tobytes())
        if not one.reason and one.looped:
            # It wraps the layer, for all of its calls and no others.
            key = id(one.places[0][0].op), "loop"
        if key in alike:
            alike[key].places += one.places
        else:
            alike[key] = one
    result = list(alike.values())
    gated = [g for g in result if not g.reason]
    counts: dict[int, int] = {}
    for group in gated:
        for c in np.unique(group.classes):
            counts[c] = counts.get(c, 0) + 1
    for group in gated:
        partly = any(counts[c] > 1 for c in group.classes)
        makers = {id(place[0].op) for place in group.places}
        group.tied = partly or len(makers) > 1
    return result
