"""The reasons why a channel stays although its gate is closed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon.build.weights import kept_positions
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.passes import liveness
from keras_gates.surgeon.passes.decision import Absorption
from keras_gates.surgeon.passes.label import StepKey
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import STATISTICS
from keras_gates.surgeon.solving import bars
from keras_gates.surgeon.solving.bars import Holders

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Site
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.rules.packing import Packing
    from keras_gates.surgeon.solving.solve import Solution

GOES = "removed: nothing in the pruned model depends on it"
_MOST = 3
_HELD = re.compile(r"(?:(\d+) of them stay|kept whole): (.*)", re.DOTALL)


class Held(NamedTuple):
    """Channels that stay, by what a line says.

    Attributes:
        closed: how many of them are closed.
        why: the reason.
    """

    closed: int
    why: str


def held(line: str) -> Held | None:
    """What stays, if that is what a line of a row says."""
    found = _HELD.fullmatch(line)
    return found and Held(int(found[1] or 0), found[2])


class Reasons:
    """Collects the lines on each step of a solution.

    Args:
        solution: the `Solution`.
    """

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.decision = solution.decision
        self.labelling = solution.labelling
        self._approximate = self._find_approximate()
        # A plan asks for the readers of each gate: searching all steps each
        # time would take quadratic time.
        classes = self.labelling.classes
        self._makers = [
            step
            for step in self.labelling.steps
            if step.flow.roles.get("out") is not None
            and step in self.decision.present
        ]
        made = [classes[step.flow.roles["out"]] for step in self._makers]
        self._made = Holders(made)
        self._bars = bars.Bars(self.decision)
        self._selections: dict[Site, list[Step]] = {}
        for step in self.decision.present:
            if step.position is not None:
                self._selections.setdefault(step.site, []).append(step)

    def approximate(self, step: Step) -> bool:
        """Whether anything that is not exact happens to a step."""
        return step.call.op in self._approximate

    def lines(self, step: Step) -> list[str]:
        """What happens to a step beyond its sizes, one line each."""
        if step not in self.decision.present:
            return [GOES]
        lines = []
        if step.rule.packing is not None:
            lines += self._packed(step, step.rule.packing)
        elif self._holds_factors(step):
            lines += self._gate(step)
        if step.position is None:
            lines += self._channels(step)
        if step.rule.packing is None:
            lines += self._inside(step)
        if step.flow.reason is not None:
            lines.append(f"kept whole: {step.flow.reason}")
        if self.decision.dropped.get(step.key) and step.rule.merging:
            gone = self.decision.dropped[step.key]
            left = len(step.inputs) - len(gone)
            lines.append(
                f"{len(gone)} of {len(step.inputs)} operands are constant "
                + (
                    "and are removed"
                    if left > 1
                    else "and are removed; the operation is bypassed"
                )
            )
        lines += self._absorbs(step)
        lines += self._counts(step)
        if self.approximate(step):
            lines.append(self._approximate[step.call.op])
        lines += self._selects(step)
        return lines

    # Gates ---------------------------------------------------------------

    def _holds_factors(self, step: Step) -> bool:
        named = step.path in self.solution.closed
        return step.is_gate or (named and step.position is None)

    def _gate(self, step: Step) -> list[str]:
        """What is closed of a gate, and what of that stays."""
        lines = []
        if step.key in self.solution.folds.scales:
            lines.append(
                "a Rescaling remains: no neighboring layer can absorb its "
                "factors"
            )
        shut = self.solution.closed.get(step.path)
        scored = step.path in self.solution.graph.groups
        if scored or shut is None or not shut.any():
            return lines
        ids = step.flow.roles.get("channel")
        inner = [e for e in step.rule.inner_units(step.call) if e.name]
        what = "channels"
        if inner:
            what, ids = inner[0].name, step.flow.roles[inner[0].role]
        if ids is None:
            return lines + ["closed"]
        return lines + self._closed(shut, ids, what)

    def _channels(self, step: Step) -> list[str]:
        """What is closed of the group that a layer puts out."""
        found = self.solution.graph.groups
        name = groups.channels_of(step.path, found)
        if name in self.solution.graph.never:
            return self._never(step)
        shut, ids = self.solution.closed.get(name), step.flow.roles.get("out")
        if name not in found or shut is None or ids is None or not shut.any():
            return []
        return self._closed(shut, ids[found[name].channels], "channels")

    def _never(self, step: Step) -> list[str]:
        """Why no score closes the channels that a layer puts out."""
        ids = step.flow.roles.get("out")
        if ids is None:
            return []
        found = self._bars.on(np.unique(self.labelling.classes[ids]))
        causes = {bar.cause for bar in found}
        if not found or causes & {bars.Cause.OUTPUT, bars.Cause.OPEN}:
            return []
        # Scores close units inside the loop, too.
        back = [bar for bar in found if bar.cause != bars.Cause.FEEDBACK]
        why = bars.few(map(str, back or found), "; ")
        return [f"no score closes its channels: {why}"]

    def _closed(
        self, shut: NDArray[np.bool_], ids: NDArray[np.intp], what: str
    ) -> list[str]:
        """How many of some units are closed, and why some of them stay."""
        stays = shut & self.decision.mask(ids)
        lines = [f"{int(shut.sum()):,} of {shut.size:,} {what} closed"]
        if stays.any():
            why = self._why(ids[stays])
            lines.append(f"{int(stays.sum())} of them stay: {why}")
        return lines

    def _inside(self, step: Step) -> list[str]:
        """What is closed of groups inside a layer, as of its heads."""
        lines = []
        for each in step.rule.inner_units(step.call):
            name = f"{step.path}/{each.name}"
            group = self.solution.graph.groups.get(name)
            shut = self.solution.closed.get(name)
            if each.name and group is not None and shut is not None:
                ids = step.flow.roles[each.role][group.channels]
                if shut.any():
                    head = each.kind == "head"
                    what = each.name if head else f"places of {each.name}"
                    lines += self._closed(shut, ids, what)
        return lines

    def _packed(self, step: Step, packing: Packing) -> list[str]:
        """What a layer that is packed says of itself."""
        index = kept_positions(self.decision, step)
        shut = self.decision.closed.get(step.call.op)
        return packing.told(step.call, index, shut)

    def _why(self, units: NDArray[np.intp]) -> str:
        """Why these units are kept: pins first, then who reads them."""
        classes = self.labelling.classes
        wanted = np.unique(classes[units])
        pins = self._bars.pins(wanted)
        if pins:
            return pins[0].reason
        if self.decision.carriers[wanted].all():
            return "they stand for the others after a normalization"
        readers: dict[str, Step] = {}
        for step in self._bars.readers(wanted):
            readers.setdefault(step.path, step)
        recalling = {
            step.path: step
            for step, read in self.decision.recalls
            if np.isin(classes[read], wanted).any()
        }
        paths = list(readers | recalling)
        if not paths:
            return "one channel has to stay to hold the constant of the others"
        told = [
            f"'{p}' {bars.recalling(recalling[p])}"
            if p in recalling
            else f"'{p}' {self._reading(readers[p])}"
            for p in paths[:_MOST]
        ]
        more = len(paths) - _MOST
        tail = f" and {more} more" if more > 0 else ""
        return self._tied(wanted) + "; ".join(told) + tail

    def _tied(self, wanted: NDArray[np.intp]) -> str:
        """Whose channels these are, where several layers make them."""
        paths = [
            self._makers[number].path for number in self._made.holding(wanted)
        ]
        makers = list(dict.fromkeys(paths))
        if len(makers) < 2:
            return ""
        more = len(makers) - _MOST
        tail = f" and {more} more" if more > 0 else ""
        names = ", ".join(f"'{path}'" for path in makers[:_MOST])
        return f"{names}{tail} share them; "

    def _reading(self, step: Step) -> str:
        """How a step reads channels that stay for it."""
        if step.position is not None:
            return "selects them"
        if step.flow.mixes and step.rule.reading(step.call) == ALL:
            return f"({step.rule.kind}) {step.rule.reads_all(step.call)}"
        counts = step.rule.reading(step.call) == STATISTICS
        if step.flow.mixes and counts:
            return f"({step.rule.kind}) computes its statistics over them"
        return "reads them where they are open or not constant"

    # Constants -----------------------------------------------------------

    def _absorbs(self, step: Step) -> list[str]:
        """What becomes of the constants that a layer loses."""
        lines = []
        for index, gone in self.decision.absorbed(step).items():
            if step.rule.reading(step.call) == STATISTICS:
                continue
            carried = self.decision.carried(step, index)
            if carried is not None:
                lines.append(_carried(carried.places))
                known = np.isnan(self._constants(step, index))
                gone = np.where(known, 0.0, gone)
                if not gone.any():
                    continue
            how = "folded into its bias"
            if self._absorption(step, index) is Absorption.MERGE:
                how = "merged into one that stays, because of the zero padding"
            lines.append(f"{np.count_nonzero(gone)} constant inputs are {how}")
        return list(dict.fromkeys(lines))

    def _counts(self, step: Step) -> list[str]:
        """What becomes of statistics over channels that go."""
        if step.key in self.decision.uncut:
            return [
                "reads all channels: to account for removed ones it would "
                "have to be written out, which costs more than it saves"
            ]
        gone = self.decision.removed(step, 0)
        exactly = self._absorption(step, 0) is Absorption.STATISTICS
        if gone is None or not exactly:
            return []
        count = int((~np.isnan(gone)).sum())
        how = "its statistics account for"
        if self.decision.written_out(step):
            how = "written out: its statistics account for"
        return [f"{how} the {count} removed channels"]

    def _constants(self, step: Step, index: int) -> NDArray[np.float64]:
        absorbable = self.decision.absorbable(step, index)
        return np.zeros(1) if absorbable is None else absorbable.values

    def _absorption(self, step: Step, index: int) -> Absorption | None:
        """What becomes of the constants of an input, if any may go."""
        absorbable = self.decision.absorbable(step, index)
        return None if absorbable is None else absorbable.how

    def _find_approximate(self) -> IdentityDict[keras.Operation, str]:
        """Operations at which `exact=False` made a difference, and how."""
        found: IdentityDict[keras.Operation, str] = IdentityDict()
        if self.decision.exact:
            return found
        for step in self.labelling.steps:
            how = self._approximated(step)
            if how:
                found[step.call.op] = how
        return found

    def _approximated(self, step: Step) -> str | None:
        """What `exact=False` did to a step, or None."""
        if step not in self.decision.present:
            value = self.decision.values.get(step.outputs[0])
            guessed = value is not None and value.guess
            return "not exact: it is treated as constant" if guessed else None
        counts = step.rule.reading(step.call) == STATISTICS
        if not counts and any(
            self._absorption(step, index) is Absorption.APPROXIMATE
            for index in self.decision.absorbed(step)
        ):
            return "not exact at the zero padding"
        demand, closed = self.decision.demand, self.decision.closed
        units = liveness.recalled(step, demand, closed)
        if units is not None and not self.decision.mask(units).all():
            return "not exact: units are removed that it feeds back into itself"
        whole = step.flow.mixes and step.rule.reading(step.call) == ALL
        loose = self._absorption(step, 0) is Absorption.APPROXIMATE
        mixes = (whole or loose) and step.rule.approximates(step.call)
        if mixes and not self.decision.mask(step.flow.labels[0]).all():
            return (
                "not exact: channels are removed that it reads together with "
                "others"
            )
        return None

    def _selects(self, step: Step) -> list[str]:
        """What a gather before a step picks, or would have picked."""
        selection = StepKey(step.site, 0)
        if step.position is None and selection in self.decision.uncut:
            size = int(self.decision.mask(step.flow.labels[0]).sum())
            return [
                f"reads all {size} channels: a gather of the open ones would "
                "cost more than it saves"
            ]
        for other in self._selections.get(step.site, []):
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
        return [
            *self._not_zero(),
            *self._cut_approximately(),
            *self._written_out(),
        ]

    def _not_zero(self) -> list[str]:
        """A closed gate that is not at 0 yet still does something."""
        left = [np.zeros(0)]
        for name, source in self.solution.gates.items():
            shut = self.solution.closed.get(name)
            scored = name in self.solution.graph.groups
            if shut is not None and not scored:
                left.append(np.abs(source.values()[shut]))
        sizes = np.concatenate(left)
        count = int((sizes > 0).sum())
        if not count:
            return []
        return [
            f"{count:,} of {sizes.size:,} closed factors are not 0 yet "
            f"(largest: {sizes.max():.2g}): the pruned model computes what "
            "this model computes with them at 0"
        ]

    def _cut_approximately(self) -> list[str]:
        """The layers that were cut approximately, if any."""
        if not self._approximate:
            return []
        steps = filter(self.approximate, self.labelling.steps)
        paths = dict.fromkeys(step.path for step in steps)
        names = ", ".join(f"'{path}'" for path in paths)
        return [f"cut approximately (exact=False): {names}"]

    def _written_out(self) -> list[str]:
        """The layers that become stock operations to count what goes."""
        steps = filter(self.decision.written_out, self.decision.steps())
        paths = list(dict.fromkeys(step.path for step in steps))
        if not paths:
            return []
        more = len(paths) - _MOST
        tail = f" and {more} more" if more > 0 else ""
        names = ", ".join(f"'{path}'" for path in paths[:_MOST])
        return [
            f"{names}{tail}: written out under the same name as a model of "
            "stock operations, whose statistics account for the removed "
            "channels. It is slower than the layer unless it is compiled"
        ]


def _carried(places: NDArray[np.intp]) -> str:
    """What becomes of inputs that others stand for."""
    count = int((places >= 0).any(axis=0).sum())
    carriers = np.unique(places[places >= 0]).size
    return (
        f"{count} inputs are merged into {carriers} that "
        f"{'stays' if carriers == 1 else 'stay'}, since they are multiples of "
        f"{'it' if carriers == 1 else 'them'}"
    )
