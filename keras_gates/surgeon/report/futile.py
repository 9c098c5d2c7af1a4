"""Notes on channels closed for nothing: how many, why, and what to do."""

from __future__ import annotations

import collections
import warnings
from typing import TYPE_CHECKING

from keras_gates.surgeon.report.futile_branches import kept_branches
from keras_gates.surgeon.report.futile_channels import Finder
from keras_gates.surgeon.report.futile_channels import not_followed
from keras_gates.surgeon.solving import removable
from keras_gates.surgeon.solving.bars import few

if TYPE_CHECKING:
    from keras_gates.surgeon.report.futile_factors import Futile
    from keras_gates.surgeon.solving.solve import Solution

# How many notes a plan has on this.
_MOST = 5


def notes(solution: Solution) -> list[str]:
    """A line for each reason for which closed channels remove nothing."""
    by_reason: dict[tuple[str, str], list[Futile]]
    by_reason = collections.defaultdict(list)
    for one in find(solution):
        by_reason[one.why, one.remedy].append(one)
    # Those with the most parameters come first.
    said = sorted(
        by_reason.values(), key=lambda same: -sum(x.parameters for x in same)
    )
    lines = [_line(same) for same in said]
    rest = said[_MOST:]
    if rest:
        names = few([f"'{one.gate}'" for same in rest for one in same])
        lines[_MOST:] = [f"{len(rest)} more notes like these, about {names}"]
    return lines


def is_note(note: str) -> bool:
    """Whether a note of a plan is one of these."""
    return " remove nothing: " in note or " removes nothing: " in note


def _line(same: list[Futile]) -> str:
    """The note on everything that is closed for nothing for one reason."""
    what = few([one.what for one in same])
    verb = "removes" if len(same) == same[0].count == 1 else "remove"
    return f"{what} {verb} nothing: {same[0].why}. {same[0].remedy}".rstrip()


def warn(solution: Solution, name: str) -> None:
    """Warn if channels are closed but no parameter is removed.

    Warns:
        UserWarning: all parameters except those of gates remain.
    """
    shut = sum(int(mask.sum()) for mask in solution.closed.values())
    if not shut or removable.is_smaller(solution.decision):
        return
    said = " ".join(notes(solution))
    if said:
        warnings.warn(
            f"Nothing was removed from '{name}', although {shut} factors are "
            f"closed: {said}",
            stacklevel=3,
        )


def find(solution: Solution) -> list[Futile]:
    """All that is closed for nothing, as `Futile`s."""
    vain = {
        name: mask
        for name, mask in removable.in_vain(solution).items()
        if mask.any()
    }
    found: list[Futile] = []
    if vain:
        # By the channels alone, gathers that no longer pay are not seen.
        vain = removable.spared(
            solution.graph,
            solution.closed,
            list(vain),
            once=True,
            trials=solution.trials,
            solution=solution,
            exact=solution.decision.exact,
        )
    if vain:
        finder = Finder(solution, vain)
        for name in vain:
            found += finder.futile(name)
    return [*found, *not_followed(solution), *kept_branches(solution)]
