"""Rows of a plan: sizes before and after, and why something stays."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs.shapes import shapes_of
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.build.weights import Weights
from keras_gates.surgeon.report import futile
from keras_gates.surgeon.report import reasons
from keras_gates.surgeon.report import slow_widths
from keras_gates.surgeon.rules import costs
from keras_gates.surgeon.rules.packing import PackingConv

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.report.reasons import Reasons
    from keras_gates.surgeon.solving.solve import Solution


@dataclasses.dataclass
class Row:
    """One layer of a plan.

    Attributes:
        layer: path of the layer.
        kind: the kind of its rule.
        before: channels of its output, `None` where it has no such axis.
        after: channels that stay; 0 where the layer goes.
        params: `(before, after)`.
        macs: `(before, after)`, None where they are not known; at the sizes
            of a `Budget`, if it has any.
        exact: whether what happens to the layer is exact.
        why: what happens, and why something stays.
    """

    layer: str
    kind: str
    before: int | None
    after: int | None
    params: tuple
    macs: tuple | None
    exact: bool = True
    why: list = dataclasses.field(default_factory=list)

    @classmethod
    def from_dict(cls, data: dict[str, int | list[int | str] | str]) -> Row:
        pairs = {
            key: None if data[key] is None else tuple(data[key])
            for key in ("params", "macs")
        }
        return cls(**{**data, **pairs})


def describe(solution: Solution) -> tuple[list[Row], list[str]]:
    """`(rows, notes)` of a solution."""
    told = reasons.Reasons(solution)
    rows = _rows(solution, counted_shapes(solution), told)
    ops = {s.path: s.call.op for s in solution.labelling.steps}
    vain = futile.notes(solution)
    return rows, [*told.notes(), *vain, *slow_widths.notes(rows, ops)]


def counted_shapes(solution: Solution) -> dict[Tensor, tuple[int | None, ...]]:
    """`{Tensor: shape}` at which multiply-adds are counted."""
    return shapes_of(solution.graph, solution.options.get("sizes"))


def totals(
    solution: Solution,
    shapes: dict[Tensor, tuple[int | None, ...]] | None = None,
) -> dict[str, tuple[int, int]]:
    """The `(before, after)` of all rows together, by what they count.

    Without reasons, which take longer to find than the rest of the rows.
    """
    rows = _rows(solution, shapes or counted_shapes(solution))
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
) -> list[Row]:
    decision = solution.decision
    weights = Weights(decision, solution.folds)
    rows, seen = [], {}
    for step in decision.labelling.steps:
        if step.position is not None:
            continue
        row = _row(step, decision, weights, shapes)
        if told is not None:
            row.why = told.of(step)
            row.exact = not told.approximate(step)
        here = step in decision.present
        first, there = seen.setdefault(id(step.call.op), (row, here))
        if first is not row:
            _add_call(first, row)
            if here and not there:
                seen[id(step.call.op)] = first, True
                first.after, first.params = row.after, row.params
                first.why = row.why
        elif isinstance(step.call.op, keras.Layer) or row.why or _costly(row):
            rows.append(row)
    return rows


def _costly(row: Row) -> bool:
    """Whether a bare operation multiplies, or may."""
    return row.macs is None or row.macs[0] > 0


def _add_call(first: Row, row: Row) -> None:
    """A further call of a layer: its weights are there already."""
    if first.macs is not None and row.macs is not None:
        pairs = zip(first.macs, row.macs, strict=True)
        first.macs = tuple(a + b for a, b in pairs)


def _row(
    step: Step,
    decision: Decision,
    weights: Weights,
    shapes: dict[Tensor, tuple[int | None, ...]],
) -> Row:
    call, rule = step.call, step.rule
    present = step in decision.present
    labels = step.flow.labels[0]
    mask = decision.mask(labels)
    axes = lb.varying(labels)
    shape = call.outputs[0].shape
    axis = axes[-1] if axes else len(shape) - 1
    before = shape[axis]
    after = 0
    if present:
        after = (
            int(mask.any(axis=_but(axis, mask.ndim)).sum()) if axes else before
        )
    own = costs.weight_shapes(call.op)
    gone = step.is_gate or not present
    cut = own if gone else _cut_shapes(step, weights)
    left = 0 if gone else costs.parameters(cut) + weights.added_bias(step)
    return Row(
        call.path,
        rule.kind,
        before,
        after,
        (costs.parameters(own), left),
        _macs(step, own, None if gone else cut, shapes, decision),
    )


def _but(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(a for a in range(rank) if a != axis)


def _cut_shapes(step: Step, weights: Weights) -> list[Any]:
    if isinstance(step.rule, PackingConv):
        shut = weights.decision.closed.get(step.call.op)
        return step.rule.packed_shapes(step.call, weights.index(step), shut)
    kept = {role: len(at) for role, at in weights.index(step).items()}
    return costs.cut_weight_shapes(step.call, step.rule, kept)


def _macs(
    step: Step,
    own: list[Any],
    cut: list[Any] | None,
    shapes: dict[Tensor, tuple[int | None, ...]],
    decision: Decision,
) -> tuple[int, int] | None:
    """MACs before and after; None where a rule or a size is unknown."""
    call, rule = step.call, step.rule
    try:
        before = costs.call_macs(call, rule, own, shapes)
        if before is None:
            return None
        after = 0
        if cut is not None:
            left = shapes
            if rule.counts is not None and not own:
                left = _cut_tensors(step, shapes, decision)
            after = costs.call_macs(call, rule, cut, left)
    except ValueError:
        return None
    return before, after


def _cut_tensors(
    step: Step, shapes: dict[Tensor, tuple[int | None, ...]], decision: Decision
) -> dict[Tensor, tuple[int | None, ...]]:
    """The shapes of a call's tensors after the cut."""
    found, labels = dict(shapes), decision.labelling.labels
    pairs = [*zip(step.call.inputs, step.inputs, strict=True)]
    pairs += [*zip(step.call.outputs, step.outputs, strict=True)]
    for tensor, own in pairs:
        masks = decision.masks(labels[own])
        found[tensor] = lb.cut_shape(tuple(shapes[tensor]), masks)
    return found


def total(rows: list[Row], what: str) -> tuple[int, int]:
    """The sums before and after over all rows that have the number."""
    pairs = [getattr(row, what) for row in rows]
    pairs = [pair for pair in pairs if pair is not None]
    return tuple(sum(pair[i] for pair in pairs) for i in (0, 1))


def text(plan: Any) -> str:
    """The plan as a table of plain text."""
    shown = [r for r in plan.rows if _interesting(r)]
    lines = [_HEAD]
    for row in shown:
        lines.append(
            (
                row.layer,
                row.kind,
                _change(row.before, row.after),
                _change(*row.params),
                "-" if row.macs is None else _change(*row.macs),
                "exact" if row.exact else "approximate",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    out = [f"Plan for '{plan.model.name}'", ""]
    for number, line in enumerate(lines):
        cells = [c.ljust(w) for c, w in zip(line, widths, strict=True)]
        out.append("  ".join(cells).rstrip())
        if number == 0:
            out.append("  ".join("-" * w for w in widths))
        else:
            out += [f"    {why}" for why in _news(shown, number - 1)]
    out += ["", *_sums(plan)]
    out += [f"note: {note}" for note in plan.notes]
    return "\n".join(out)


def _news(rows: list[Row], number: int) -> list[str]:
    """What a row says of itself; that it goes is said once for a run."""
    why = rows[number].why
    follows = number and rows[number - 1].why == why
    return [] if follows and why == [reasons.GOES] else why


_HEAD = ("layer", "rule", "channels", "parameters", "MACs", "removal")


def _interesting(row: Row) -> int | list[str]:
    changed = row.before != row.after or row.params[0] != row.params[1]
    return changed or row.why or row.params[0]


def _change(before: int, after: int) -> str:
    if before == after:
        return "-" if before is None else f"{before:,}"
    return f"{before:,} -> {after:,}"


def _sums(plan: Any) -> list[str]:
    lines, at = [], _at(plan.options.get("sizes"))
    for name, pair in (("parameters", plan.params), ("MACs", plan.macs)):
        before, after = pair
        share = f" ({after / before:.1%} of before)" if before else ""
        unit = f" for one sample{at}, 1 MAC = one multiply-add"
        unit *= name == "MACs"
        lines.append(f"{name}: {before:,} -> {after:,}{share}{unit}")
    unknown = ", ".join(f"'{r.layer}'" for r in plan.rows if r.macs is None)
    if unknown:
        lines.append(f"MACs unknown, and not in the total: {unknown}")
    return lines


def _at(given: Any) -> str:
    """At which sizes MACs were counted, if they were given."""
    return "" if given is None else f" with inputs of {given}"
