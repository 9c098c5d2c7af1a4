"""Why a channel stays although its gate is closed, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.passes import liveness
from keras_gates.surgeon.passes.decision import Absorption
from keras_gates.surgeon.passes.label import Selection
from keras_gates.surgeon.passes.label import StepKey
from keras_gates.surgeon.rules.merge import Merge
from keras_gates.surgeon.rules.packing import PackingConv
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.solving.bars import Holders

if TYPE_CHECKING:
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.solving.solve import Solution

GOES = "goes: nothing that is left depends on it"
_MOST = 3


class Reasons:
    """Collects what a solution has to say of each step."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.decision = solution.decision
        self.labelling = solution.labelling
        self._approximate = self._find_approximate()
        # A plan asks of each gate who reads it: to look through all steps
        # each time would take the square of the depth.
        classes = self.labelling.classes
        self._makers = [
            step
            for step in self.labelling.steps
            if step.flow.roles.get("out") is not None
            and step in self.decision.present
        ]
        made = [classes[step.flow.roles["out"]] for step in self._makers]
        self._made = Holders(made)
        pinned = self.labelling.pinned
        self._pinned = Holders([classes[pin.ids] for pin in pinned])
        self._read = Holders([classes[ids] for _, ids in self.decision.reads])
        self._selections = {}
        for step in self.decision.present:
            if step.position is not None:
                self._selections.setdefault(id(step.site), []).append(step)

    def approximate(self, step: Step) -> bool:
        return id(step.call.op) in self._approximate

    def of(self, step: Step) -> list[str]:
        """What happens to a step beyond its sizes, one line each."""
        if step not in self.decision.present:
            return [GOES]
        lines = []
        if isinstance(step.rule, PackingConv):
            lines += self._packed(step)
        elif self._holds_factors(step):
            lines += self._gate(step)
        if step.flow.reason is not None:
            lines.append(f"kept whole: {step.flow.reason}")
        if self.decision.dropped.get(step.key) and isinstance(step.rule, Merge):
            gone = self.decision.dropped[step.key]
            left = len(step.inputs) - len(gone)
            lines.append(
                f"{len(gone)} of {len(step.inputs)} operands are constant "
                + ("and go" if left > 1 else "and go; it is passed over")
            )
        lines += self._absorbs(step)
        if self.approximate(step):
            lines.append(self._approximate[id(step.call.op)])
        lines += self._selects(step)
        return lines

    # Gates ---------------------------------------------------------------

    def _holds_factors(self, step: Step) -> bool:
        named = step.path in self.solution.closed
        return step.is_gate or (named and step.position is None)

    def _gate(self, step: Step) -> list[str]:
        lines = []
        if step.key in self.solution.folds.scales:
            lines.append("a Rescaling stays: no neighbour can take its factors")
        shut = self.solution.closed.get(step.path)
        ids = step.flow.roles.get("channel")
        group = self.solution.graph.groups.get(step.path)
        if group is not None:
            ids = step.flow.roles["out"][group.channels]
        if shut is None or not shut.any():
            return lines
        if ids is None:
            return lines + ["closed"]
        stays = shut & self.decision.mask(ids)
        lines.append(f"{int(shut.sum())} of {shut.size} channels closed")
        if stays.any():
            why = self._why(ids[stays])
            lines.append(f"{int(stays.sum())} of them stay: {why}")
        return lines

    def _packed(self, step: Step) -> list[str]:
        """What a layer that is packed says of itself."""
        index = {
            role: np.flatnonzero(self.decision.mask(ids))
            for role, ids in step.flow.roles.items()
        }
        shut = self.decision.closed.get(step.call.op)
        return step.rule.told(step.call, index, shut)

    def _why(self, units: NDArray[np.int64]) -> str:
        """Why these units are kept: pins first, then who reads them."""
        classes = self.labelling.classes
        wanted = np.unique(classes[units])
        pinned = self._pinned.of(wanted)
        if pinned.size:
            return self.labelling.pinned[pinned[0]].reason
        readers = {}
        for number in self._read.of(wanted):
            step, _ = self.decision.reads[number]
            readers.setdefault(step.path, self._reading(step))
        for step, read in self.decision.recalls:
            if np.isin(classes[read], wanted).any():
                readers[step.path] = "feeds them back into itself"
        if not readers:
            return "one channel has to stay, as the constant of the others"
        told = [f"'{p}' {how}" for p, how in readers.items()]
        more = len(told) - _MOST
        tail = f" and {more} more" if more > 0 else ""
        return self._tied(wanted) + "; ".join(told[:_MOST]) + tail

    def _tied(self, wanted: NDArray[np.int64]) -> str:
        """Whose channels these are, where several layers make them."""
        makers = {}
        for number in self._made.of(wanted):
            makers[self._makers[number].path] = None
        if len(makers) < 2:
            return ""
        more = len(makers) - _MOST
        tail = f" and {more} more" if more > 0 else ""
        names = ", ".join(f"'{path}'" for path in list(makers)[:_MOST])
        return f"{names}{tail} share them; "

    def _reading(self, step: Step) -> str:
        if isinstance(step.rule, Selection):
            return "selects them"
        if step.flow.mixes and step.rule.reading(step.call) == ALL:
            return f"({step.rule.kind}) reads all channels together"
        return "reads them where they are open or not constant"

    # Constants -----------------------------------------------------------

    def _absorbs(self, step: Step) -> list[str]:
        lines = {}
        for index, gone in self.decision.absorbed(step).items():
            how = "into its bias"
            absorbable = self.decision.absorbable(step, index)
            if absorbable.how is Absorption.MERGE:
                how = "into one that stays, for the zero border"
            lines[f"{np.count_nonzero(gone)} constant inputs go {how}"] = None
        return list(lines)

    def _find_approximate(self) -> dict[Any, Any]:
        """Operations at which `exact=False` made a difference, and how."""
        found = {}
        if self.decision.exact:
            return found
        for step in self.labelling.steps:
            how = self._approximated(step)
            if how:
                found[id(step.call.op)] = how
        return found

    def _approximated(self, step: Step) -> None:
        """What `exact=False` did to a step, or None."""
        if step not in self.decision.present:
            value = self.decision.values.get(step.outputs[0])
            guessed = value is not None and value.guess
            return "not exact: it counts as constant" if guessed else None
        if any(
            self.decision.absorbable(step, i).how is Absorption.APPROXIMATE
            for i in self.decision.absorbed(step)
        ):
            return "not exact at the zero border"
        demand, closed = self.decision.demand, self.decision.closed
        units = liveness.recalled(step, demand, closed)
        if units is not None and not self.decision.mask(units).all():
            return "not exact: units go that it fed back into itself"
        whole = step.flow.mixes and step.rule.reading(step.call) == ALL
        mixes = whole and step.rule.approximates(step.call)
        if mixes and not self.decision.mask(step.flow.labels[0]).all():
            return "not exact: channels go that it read together with others"
        return None

    def _selects(self, step: Step) -> list[str]:
        selection = StepKey(step.site, 0)
        if step.position is None and selection in self.decision.uncut:
            size = int(self.decision.mask(step.flow.labels[0]).sum())
            return [
                f"reads all {size} channels: a gather of those that are open "
                "would cost more than it saves"
            ]
        for other in self._selections.get(id(step.site), []):
            before = self.labelling.labels[other.inputs[0]]
            source = int(self.decision.mask(before).sum())
            after = int(self.decision.mask(other.flow.labels[0]).sum())
            if before.size == 1:
                source = other.flow.labels[0].size
            if after < source:
                return [f"a gather picks {after} of {source} channels"]
        return []

    def notes(self) -> list[str]:
        """Lines about the whole plan."""
        return [*self._not_zero(), *self._cut_approximately()]

    def _not_zero(self) -> list[str]:
        """A closed gate that is not at 0 yet still does something."""
        left = [np.zeros(0)]
        for name, source in gates_of(self.solution.graph).items():
            shut = self.solution.closed.get(name)
            if shut is not None and source.kind != "group":
                left.append(np.abs(source.values()[shut]))
        sizes = np.concatenate(left)
        count = int((sizes > 0).sum())
        if not count:
            return []
        return [
            f"{count} of {sizes.size} closed factors are not 0 yet, up to "
            f"{sizes.max():.2g}: the pruned model computes what this one "
            "does with them at 0"
        ]

    def _cut_approximately(self) -> list[Any]:
        if not self._approximate:
            return []
        paths = {
            step.path: None
            for step in self.labelling.steps
            if id(step.call.op) in self._approximate
        }
        names = ", ".join(f"'{path}'" for path in paths)
        return [f"cut approximately (exact=False): {names}"]
