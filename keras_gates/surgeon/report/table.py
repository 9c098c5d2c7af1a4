"""Rows of a plan: sizes before and after, and reasons."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple
from typing import Protocol

import keras

from keras_gates import _tables
from keras_gates._checks import listed
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.shapes import shapes_of
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.build.weights import Weights
from keras_gates.surgeon.build.weights import kept_positions
from keras_gates.surgeon.passes.fold import Folds
from keras_gates.surgeon.report import futile
from keras_gates.surgeon.report import opened_layers
from keras_gates.surgeon.report import reasons
from keras_gates.surgeon.report import slow_widths
from keras_gates.surgeon.report.parts import Parts
from keras_gates.surgeon.rules import costs

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.report.reasons import Reasons
    from keras_gates.surgeon.report.row_memo import RowMemo
    from keras_gates.surgeon.solving.solve import Solution

    # The name and shape of each weight of a layer.
    Shapes = list[tuple[str, tuple[int, ...]]]


class Pair(NamedTuple):
    """A number before the cut and after it."""

    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of a plan.

    Attributes:
        layer: path of the layer.
        kind: the kind of its rule.
        before: channels of its output, `None` if it has no channel axis.
        after: channels that stay; 0 if the layer is removed.
        params: `(before, after)`.
        macs: `(before, after)`, None if they are not known; at the sizes of a
            `Budget`, if any.
        exact: whether the change is exact.
        why: what happens, and why something stays.
    """

    layer: str
    kind: str
    before: int | None
    after: int | None
    params: Pair
    macs: Pair | None
    exact: bool = True
    why: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The row that `dataclasses.asdict`, and JSON, made `data` of."""
        pairs = {
            key: None if data[key] is None else Pair(*data[key])
            for key in ("params", "macs")
        }
        return cls(**{**data, **pairs})


class PlanLike(Protocol):
    """What `text` reads of a `Plan`."""

    model: keras.Model

    @property
    def rows(self) -> list[Row]: ...

    @property
    def notes(self) -> list[str]: ...

    @property
    def options(self) -> Any: ...

    @property
    def params(self) -> tuple[int, int]: ...

    @property
    def macs(self) -> tuple[int, int]: ...


def describe(
    solution: Solution, sizes: Any = None
) -> tuple[list[Row], list[str]]:
    """`(rows, notes)` of a solution; `sizes` are those of a `Budget`."""
    told = reasons.Reasons(solution)
    rows = _rows(solution, shapes_of(solution.graph, sizes), told)
    ops = {s.path: s.call.op for s in solution.labelling.steps}
    vain = futile.notes(solution)
    slow = slow_widths.notes(rows, ops)
    opened = opened_layers.notes(solution)
    return rows, [*told.notes(), *opened, *vain, *slow]


def widths(solution: Solution, sizes: Any = None) -> list[int | None]:
    """`after` of each of the rows that `describe` makes, without its notes."""
    shapes = shapes_of(solution.graph, sizes)
    rows = _rows(solution, shapes, reasons.Reasons(solution))
    return [row.after for row in rows]


def totals(
    solution: Solution,
    shapes: dict[Tensor, tuple[int | None, ...]] | None = None,
    memo: RowMemo | None = None,
) -> dict[str, tuple[int, int]]:
    """The `(before, after)` of all rows together, by what they count.

    Without reasons, which take longer to find than the rest of the rows.

    Args:
        solution: the `Solution`.
        shapes: those of the tensors; by default, as the graph has them.
        memo: what remembers other solutions of the graph, for a search.
    """
    rows = _rows(solution, shapes or shapes_of(solution.graph), memo=memo)
    return {what: total(rows, what) for what in ("params", "macs")}


def uncounted(
    solution: Solution, shapes: dict[Tensor, tuple[int | None, ...]]
) -> list[str]:
    """Names of what has multiply-adds that no rule or no size tells."""
    return [r.layer for r in _rows(solution, shapes) if r.macs is None]


def _rows(
    solution: Solution,
    shapes: dict[Tensor, tuple[int | None, ...]],
    told: Reasons | None = None,
    memo: RowMemo | None = None,
) -> list[Row]:
    decision, parts = solution.decision, Parts(solution)
    # Where the factors of gates go does not matter to sizes.
    weights = Weights(decision, Folds(IdentityDict(), {}))
    rows: list[Row] = []
    found: IdentityDict[keras.Operation, _Entry] = IdentityDict()
    for step in decision.labelling.steps:
        if step.position is not None:
            continue
        made = functools.partial(_row, step, decision, weights, shapes, parts)
        row = made() if memo is None else memo.row(step, weights, made)
        if told is not None:
            exact = not told.approximate(step)
            row = dataclasses.replace(row, why=told.lines(step), exact=exact)
        op, here = step.call.op, step in decision.present
        if op in found:
            found[op] = entry = _with_call(found[op], row, here)
            if entry.number is not None:
                rows[entry.number] = entry.row
            continue
        shown = isinstance(op, keras.Layer) or row.why or _costly(row)
        found[op] = _Entry(row, here, len(rows) if shown else None)
        if shown:
            rows.append(row)
    none = Pair(0, 0)
    unused = [
        Row(path, "unused", None, None, Pair(before, after), none)
        for path, before, after in parts.unused()
    ]
    return [*rows, *unused]


class _Entry(NamedTuple):
    """What is known of an operation by some of its calls.

    Attributes:
        row: its row.
        present: whether any of the calls is still there.
        number: that of the row among those of the plan; None if it has none.
    """

    row: Row
    present: bool
    number: int | None


def _with_call(entry: _Entry, row: Row, here: bool) -> _Entry:
    """The same with a further call, whose weights are there already.

    What is left of a layer is told by the first call that is still there.
    """
    first, macs = entry.row, entry.row.macs
    if macs is not None and row.macs is not None:
        before, after = row.macs
        macs = Pair(macs.before + before, macs.after + after)
    first = dataclasses.replace(first, macs=macs)
    if here and not entry.present:
        first = dataclasses.replace(
            first, after=row.after, params=row.params, why=row.why
        )
    return entry._replace(row=first, present=entry.present or here)


def _costly(row: Row) -> bool:
    """Whether a bare operation multiplies, or may."""
    return row.macs is None or row.macs[0] > 0


def _row(
    step: Step,
    decision: Decision,
    weights: Weights,
    shapes: dict[Tensor, tuple[int | None, ...]],
    parts: Parts,
) -> Row:
    call, rule = step.call, step.rule
    present = step in decision.present
    shape = call.outputs[0].shape
    labels = step.flow.labels[0]
    axes = lb.varying(labels)
    axis = axes[-1] if axes else len(shape) - 1
    before = after = shape[axis]
    if not present:
        after = 0
    elif axes:
        others = tuple(a for a in range(labels.ndim) if a != axis)
        after = int(decision.mask(labels).any(axis=others).sum())
    own = costs.weight_shapes(call.op)
    gone = step.is_gate or not present
    cut = own if gone else _cut_shapes(step, weights)
    left = 0 if gone else parts.after(call, cut) + weights.added_bias(step)
    return Row(
        call.path,
        rule.kind,
        before,
        after,
        Pair(parts.before(call, own), left),
        _macs(step, own, None if gone else cut, shapes, decision),
    )


def _cut_shapes(step: Step, weights: Weights) -> Shapes:
    """The shapes of the weights of a layer at its final size."""
    index = kept_positions(weights.decision, step)
    packing = step.rule.packing
    if packing is not None:
        shut = weights.decision.closed.get(step.call.op)
        return packing.packed_shapes(step.call, index, shut)
    kept = {role: len(at) for role, at in index.items()}
    return costs.cut_weight_shapes(step.call, step.rule, kept)


def _macs(
    step: Step,
    own: Shapes,
    cut: Shapes | None,
    shapes: dict[Tensor, tuple[int | None, ...]],
    decision: Decision,
) -> Pair | None:
    """MACs before and after; None where a rule or a size is unknown."""
    call, rule = step.call, step.rule
    try:
        before = costs.call_macs(call, rule, own, shapes)
        after: int | None = 0
        if before is not None and cut is not None:
            left: Mapping[Tensor, tuple[int | None, ...]] = shapes
            # What mixes nothing may leave out places of what it reads.
            if rule.counts is not None or not step.flow.mixes:
                left = _cut_tensors(step, shapes, decision)
            after = costs.call_macs(call, rule, cut, left)
            if decision.written_out(step):
                cut_down = _cut_tensors(step, shapes, decision)
                sizes = cut_down[call.inputs[0]]
                after = (after or 0) + rule.written_macs(call, sizes)
    except ValueError:
        return None
    return None if before is None or after is None else Pair(before, after)


def _cut_tensors(
    step: Step, shapes: dict[Tensor, tuple[int | None, ...]], decision: Decision
) -> Mapping[Tensor, tuple[int | None, ...]]:
    """The shapes of a call's tensors after the cut."""
    labels = decision.labelling.labels
    found: dict[Tensor, tuple[int | None, ...]] = {}
    pairs = [*zip(step.call.inputs, step.inputs, strict=True)]
    pairs += [*zip(step.call.outputs, step.outputs, strict=True)]
    for tensor, labelled in pairs:
        masks = decision.masks(labels[labelled])
        found[tensor] = lb.cut_shape(tuple(shapes[tensor]), masks)
    return collections.ChainMap(found, shapes)


def total(rows: list[Row], what: str) -> Pair:
    """The sums before and after over all rows that have the number."""
    pairs: list[Pair | None] = [getattr(row, what) for row in rows]
    known = [pair for pair in pairs if pair is not None]
    return Pair(sum(p.before for p in known), sum(p.after for p in known))


def text(plan: PlanLike) -> str:
    """The plan as a table of plain text."""
    shown = [row for row in plan.rows if interesting(row)]
    cells = [
        (
            row.layer,
            row.kind,
            str(_tables.Change(row.before, row.after)),
            str(_tables.Change(*row.params)),
            "-" if row.macs is None else str(_tables.Change(*row.macs)),
            "exact" if row.exact else "approximate",
        )
        for row in shown
    ]
    head, rule, *lines = _tables.lines(HEAD, cells)
    out = [f"Plan for '{plan.model.name}'", "", head, rule]
    for number, line in enumerate(lines):
        out += [line, *(f"    {why}" for why in _news(shown, number))]
    out += ["", *sums(plan)]
    out += [f"note: {note}" for note in plan.notes]
    return "\n".join(out)


def _news(rows: list[Row], number: int) -> list[str]:
    """What a row says of itself; that it goes is said once for a run."""
    why = rows[number].why
    follows = number > 0 and rows[number - 1].why == why
    return [] if follows and why == [reasons.GOES] else why


HEAD = ("layer", "rule", "channels", "parameters", "MACs", "removal")


def interesting(row: Row) -> bool:
    """Whether a row has weights, or says that anything happens."""
    changed = row.before != row.after or row.params.before != row.params.after
    return changed or bool(row.why) or row.params.before > 0


def sums(plan: PlanLike) -> list[str]:
    """How much is left in all, a line each."""
    lines, at = [], _at(plan.options.sizes)
    for name, pair in (("parameters", plan.params), ("MACs", plan.macs)):
        before, after = pair
        share = f" ({after / before:.1%} of before)" if before else ""
        unit = f" for one sample{at}, 1 MAC = one multiply-add"
        unit *= name == "MACs"
        lines.append(f"{name}: {before:,} -> {after:,}{share}{unit}")
    return lines + _uncounted(plan)


def _uncounted(plan: PlanLike) -> list[str]:
    """The line on layers whose multiply-adds no total has, if any."""
    names = [f"'{row.layer}'" for row in plan.rows if row.macs is None]
    if not names:
        return []
    return [
        f"MACs unknown, and not in the total: {listed(names)}. If an input "
        "leaves sizes open, give them: stats.compare(..., input_shape=...) or "
        "Budget(..., sizes=...)"
    ]


def _at(given: Any) -> str:
    """At which sizes MACs were counted, if they were given."""
    return "" if given is None else f" with inputs of {given}"
