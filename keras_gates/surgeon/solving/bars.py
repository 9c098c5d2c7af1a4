"""The layers that keep channels, each with its reason."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.gates import loops
from keras_gates.surgeon.passes.label import OUTPUT
from keras_gates.surgeon.passes.label import picks
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import named_weights
from keras_gates.surgeon.rules.rule import unknown

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.labels import Pinned
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step


class Cause(enum.Enum):
    """The kinds of reasons, each with a remedy of its own."""

    OUTPUT = "output"  # an output of the model holds them
    UNKNOWN = "unknown"  # no rule is registered for the class
    PINNED = "pinned"  # a rule keeps them whole
    FIXED = "fixed"  # they are tied to what has no channels to remove
    FEEDBACK = "feedback"  # a recurrent layer reads its own state
    TOGETHER = "together"  # statistics or a softmax over all channels
    CONSTANT = "constant"  # a constant that the reader can't take over
    OPEN = "open"  # they are not closed everywhere that they are read


@dataclasses.dataclass(frozen=True)
class Bar:
    """A layer, or an output, that keeps channels.

    Attributes:
        layer: the path of the layer; that of the one that makes the output.
        kind: the name of its class.
        reason: why it keeps them, to follow the layer in a sentence.
        cause: which kind of reason it is.
    """

    layer: str
    kind: str
    reason: str
    cause: Cause

    def __str__(self) -> str:
        return f"'{self.layer}' ({self.kind}) {self.reason}"


class Holders:
    """Tells which of many arrays hold a number, without looking at each."""

    def __init__(self, arrays: Sequence[NDArray[np.intp]]) -> None:
        flat = [array.ravel() for array in arrays]
        numbers = np.concatenate([np.zeros(0, np.intp), *flat])
        holders = np.repeat(np.arange(len(arrays)), [a.size for a in arrays])
        order = np.argsort(numbers, kind="stable")
        self.numbers, self.holders = numbers[order], holders[order]

    def holding(self, wanted: NDArray[np.intp]) -> NDArray[np.intp]:
        """The indices of the arrays that hold any of `wanted`, in order."""
        first = np.searchsorted(self.numbers, wanted)
        last = np.searchsorted(self.numbers, wanted, "right")
        spans = zip(first, last, strict=True)
        found = [self.holders[start:stop] for start, stop in spans]
        return np.unique(np.concatenate([np.zeros(0, np.intp), *found]))


class Bars:
    """Finds the `Bar`s of classes of units in a `Decision`."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.labelling = decision.labelling
        classes = self.labelling.classes
        pinned = self.labelling.pinned
        self._pinned = Holders([classes[pin.ids] for pin in pinned])
        self._read = Holders([classes[ids] for _, ids in decision.reads])
        self._recalled = Holders([classes[ids] for _, ids in decision.recalls])

    def on(self, wanted: NDArray[np.intp]) -> list[Bar]:
        """What keeps these classes; what is certain before what is open.

        Args:
            wanted: the numbers of the classes, each once.

        Returns:
            A list of `Bar`s, each once. Empty where nothing needs them, and
            one stays so that no tensor is empty.
        """
        found = [
            *self._of_pins(wanted),
            *self._of_fixed(wanted),
            *self._of_recalls(wanted),
            *self._of_reads(wanted),
        ]
        soft = (Cause.OPEN, Cause.CONSTANT)
        hard = [bar for bar in found if bar.cause not in soft]
        return list(dict.fromkeys(hard or found))

    def certain(self) -> NDArray[np.bool_]:
        """Marks the classes that stay whatever is closed besides."""
        classes = self.labelling.classes
        found = np.zeros(len(classes), bool)
        found[classes[lb.FIXED]] = True
        whole = [ids for s, ids in self.decision.reads if self._whole(s)]
        pinned = [pin.ids for pin in self.labelling.pinned]
        # A gate inside a loop may close more.
        gated = loops.gated(self.labelling.graph)
        recalls = [
            ids
            for step, ids in self.decision.recalls
            if step.rule.feeds_back and step.call.op not in gated
        ]
        for ids in whole + pinned + recalls:
            found[classes[ids]] = True
        return found

    def of_step(self, step: Step) -> Bar | None:
        """The `Bar` that a step is, if it keeps its inputs whole."""
        reason = step.flow.reason
        return None if reason is None else _whole(step.call, reason)

    def pins(self, wanted: NDArray[np.intp]) -> list[Pinned]:
        """What pins any of these classes."""
        numbers = self._pinned.holding(wanted)
        return [self.labelling.pinned[number] for number in numbers]

    def readers(self, wanted: NDArray[np.intp]) -> list[Step]:
        """The steps that read any of these classes."""
        numbers = self._read.holding(wanted)
        return [self.decision.reads[number][0] for number in numbers]

    def _of_pins(self, wanted: NDArray[np.intp]) -> Iterator[Bar]:
        for ids, reason, call in self.pins(wanted):
            if reason == OUTPUT:
                yield from self._of_output(ids)
            elif call is None:
                yield from self._of_makers(ids, reason)
            else:
                yield _whole(call, reason)

    def _of_fixed(self, wanted: NDArray[np.intp]) -> Iterator[Bar]:
        """Ties to what has no units: inputs, outputs of what is kept whole."""
        labelling = self.labelling
        if labelling.classes[lb.FIXED] not in wanted:
            return
        for step in labelling.steps:
            tensors = {} if step.flow.mixes else dict.fromkeys(step.inputs)
            fixed = [t for t in tensors if self._is_fixed(t)]
            if fixed and len(fixed) < len(tensors):
                maker = fixed[0].producer
                what = "an input" if maker is None else f"'{maker.path}'"
                text = f"ties them to {what}, which can't be cut"
                yield _bar(step, text, Cause.FIXED)

    def _is_fixed(self, tensor: Tensor) -> bool:
        return bool((self.labelling.labels[tensor] == lb.FIXED).all())

    def _of_output(self, ids: NDArray[np.intp]) -> Iterator[Bar]:
        steps = self.labelling.steps
        producer = {t: step for step in steps for t in step.outputs}
        for tensor in self.labelling.graph.outputs:
            labels = self.labelling.labels[tensor]
            maker = producer.get(tensor)
            while maker is not None and (maker.is_gate or maker.is_selection):
                maker = producer.get(maker.inputs[0])
            if maker is not None and np.isin(labels, ids).any():
                yield _bar(maker, "produces an output", Cause.OUTPUT)

    def _of_makers(self, ids: NDArray[np.intp], reason: str) -> Iterator[Bar]:
        """Pins that the whole model makes, such as calls that differ."""
        for step in self.labelling.steps:
            made = step.flow.roles.get("out")
            if made is not None and np.isin(made, ids).any():
                yield _whole(step.call, reason)

    def _of_recalls(self, wanted: NDArray[np.intp]) -> Iterator[Bar]:
        gated = loops.gated(self.labelling.graph)
        for number in self._recalled.holding(wanted):
            step = self.decision.recalls[number][0]
            if step.call.op in gated:
                continue  # what is open there is read elsewhere, too
            back = step.rule.feeds_back
            cause = Cause.FEEDBACK if back else Cause.OPEN
            yield _bar(step, recalling(step), cause)

    def _of_reads(self, wanted: NDArray[np.intp]) -> Iterator[Bar]:
        for step in self.readers(wanted):
            if step.flow.reason is not None:
                continue  # said of its pins
            if step.is_selection:
                yield from self._after(step, wanted)
                continue
            if self._whole(step):
                text = step.rule.reads_all(step.call)
                yield _bar(step, text, Cause.TOGETHER)
            elif self._constant(step, wanted):
                text = "can't absorb the constants there"
                yield _bar(step, text, Cause.CONSTANT)
            else:
                yield _bar(step, "reads them where they are open", Cause.OPEN)

    def _after(
        self, selection: Step, wanted: NDArray[np.intp]
    ) -> Iterator[Bar]:
        """What keeps the channels that a gather passes on."""
        classes = self.labelling.classes
        before = classes[self.labelling.labels[selection.inputs[0]]].ravel()
        before = before[picks(selection.flow)].ravel()
        own = classes[selection.flow.labels[0]].ravel()
        passed = np.unique(own[np.isin(before, wanted)])
        passed = passed[self.decision.kept[passed]]
        if passed.size:
            yield from self.on(passed)

    def _whole(self, step: Step) -> bool:
        rule, call = step.rule, step.call
        if not step.flow.mixes or rule.reading(call) != ALL:
            return False
        return self.decision.exact or not rule.approximates(call)

    def _constant(self, step: Step, wanted: NDArray[np.intp]) -> bool:
        """Whether the values that a step reads there are all known."""
        tensor = step.inputs[0]
        labels = self.labelling.labels[tensor]
        here = np.isin(self.labelling.classes[labels], wanted)
        known = self.decision.known(tensor)[here]
        return bool(known.size and known.all())


def _whole(call: Call, reason: str) -> Bar:
    name, cause = type(call.op).__name__, Cause.PINNED
    if reason == unknown(call):
        reason, cause = f"no rule for {name}", Cause.UNKNOWN
        if call.site.opaque:
            reason += f", and it can't be seen through: {call.site.opaque}"
    return Bar(call.path, name, f"keeps them whole: {reason}", cause)


def _bar(step: Step, reason: str, cause: Cause) -> Bar:
    return Bar(step.path, type(step.call.op).__name__, reason, cause)


def recalling(step: Step) -> str:
    """How a step holds units inside it, in words."""
    if step.rule.feeds_back:
        return "feeds them back into itself"
    return "keeps those that are open, and at least one"


def sizes(labelling: Labelling) -> NDArray[np.float64]:
    """For each class, the parameters that stand and fall with it.

    Those of each weight are shared out along each of its axes.
    """
    found = np.zeros(len(labelling.classes))
    seen: IdentityDict[keras.Operation, None] = IdentityDict()
    for step in labelling.steps:
        if step.is_selection or step.call.op in seen:
            continue
        seen[step.call.op] = None
        for shape, roles in weight_roles(step):
            for axis, role in enumerate(roles, len(shape) - len(roles)):
                ids = None if role is None else step.flow.roles.get(role)
                if ids is not None and len(ids) == shape[axis]:
                    share = math.prod(shape) / shape[axis]
                    np.add.at(found, labelling.classes[ids], share)
    return found


class WeightRoles(NamedTuple):
    """A weight.

    Attributes:
        shape: its shape.
        roles: the role of each of its axes, from the last backwards.
    """

    shape: tuple[int, ...]
    roles: tuple[str | None, ...]


def weight_roles(step: Step) -> list[WeightRoles]:
    """The weights of a step's layer, if it is not a gate."""
    own = not step.is_selection and not step.is_gate
    if not own or not isinstance(step.call.op, keras.Layer):
        return []
    axes = step.rule.axes_of(step.call)
    return [
        WeightRoles(tuple(weight.shape), axes.get(name, ()))
        for part in step.rule.parts(step.call.op)
        for name, weight in named_weights(part, axes)
    ]


# How many names or reasons a sentence holds.
_MOST = 3


def few(items: Iterable[str], joint: str = ", ", most: int = _MOST) -> str:
    """The first few of some texts, and how many more there are."""
    items = list(items)
    more = len(items) - most
    tail = f"{joint}and {more} more" if more > 0 else ""
    return joint.join(items[:most]) + tail


_REMEDIES = {
    Cause.OUTPUT: "Close channels of a layer before the output",
    Cause.PINNED: "Close channels that it neither produces nor reads",
    Cause.FIXED: "Project the fixed tensor first (a Dense layer or a 1x1 "
    "convolution), so that its channels can be removed as well",
}
_LAMBDA = (
    "Write the Lambda with keras.ops, or as a custom layer class with a rule"
)


def remedies(bars: Iterable[Bar], loose: bool = False) -> list[str]:
    """What to do about some bars, a sentence for each of the kinds.

    Args:
        bars: the `Bar`s.
        loose: whether `exact=False` would help.
    """
    found: dict[str, None] = {}
    for bar in bars:
        if bar.cause == Cause.UNKNOWN:
            text = f"Give {bar.kind} a rule: keras_gates.surgeon.register"
            found[_LAMBDA if bar.kind == "Lambda" else text] = None
        elif bar.cause in _REMEDIES:
            found[_REMEDIES[bar.cause]] = None
    if loose:
        found["Pass exact=False to remove them approximately"] = None
    return [f"{text}." for text in found]
