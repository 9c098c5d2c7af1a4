"""A plan as a document to pass on: what it holds, in HTML or Markdown."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol
from typing import TypeAlias

from keras_gates import _documents
from keras_gates import _files
from keras_gates import _tables
from keras_gates import thresholds
from keras_gates._documents import Document
from keras_gates._documents import Section
from keras_gates.surgeon.report import futile
from keras_gates.surgeon.report import reasons
from keras_gates.surgeon.report import table

if TYPE_CHECKING:
    from keras_gates.surgeon.report.table import Row

# The name of a measure, and its values before and after.
Metrics: TypeAlias = Mapping[str, tuple[float, float]]
# How many layers a notebook shows.
_MOST = 40


class PlanLike(table.PlanLike, Protocol):
    """What is read of a `Plan`."""

    @property
    def request(self) -> Any: ...

    @property
    def exact(self) -> bool: ...


class RepairLike(Protocol):
    """What is read of a `Repair`."""

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]: ...

    def summary(self) -> list[str]: ...


def of_plan(
    plan: PlanLike,
    repair: RepairLike | None = None,
    metrics: Metrics | None = None,
    brief: bool = False,
) -> Document:
    """The `Document` on a plan.

    Args:
        plan: the plan.
        repair: the `Repair` of the model that was made by it.
        metrics: as in `Plan.report`.
        brief: whether to leave out all but the layers and the notes.
    """
    vain = [note for note in plan.notes if futile.is_note(note)]
    other = [note for note in plan.notes if note not in vain]
    if brief:
        sections = [_layers(plan, _MOST), Section("", items=plan.notes)]
    else:
        sections = [
            _metrics(metrics or {}),
            _layers(plan),
            _stays(plan),
            Section("Closed for nothing", items=vain),
            _repair(repair),
            Section("Notes", items=other),
            _news(plan),
        ]
    return Document(
        f"Plan for '{plan.model.name}'",
        [*table.sums(plan), *_told(plan, repair is not None)],
        [section for section in sections if section.rows or section.items],
    )


def write(document: Document, path: str | os.PathLike[str]) -> None:
    """Write a document, in the form that the suffix of the file tells.

    Raises:
        ValueError: there is no such form.
        OSError: the file can't be written.
    """
    forms = {
        ".html": _documents.page,
        ".htm": _documents.page,
        ".md": _documents.markdown,
    }
    form = forms.get(pathlib.Path(path).suffix.lower())
    if form is None:
        raise ValueError(
            "A report is an HTML or Markdown file. Received: "
            f"path={os.fspath(path)!r}. Expected: a name that ends in .html "
            "or .md."
        )
    _files.write_text(path, form(document))


def fragment(document: Document) -> str:
    """A document as HTML to stand in another page."""
    return _documents.fragment(document)


def _told(plan: PlanLike, repaired: bool) -> list[str]:
    """What was asked for, and what the result is to the model."""
    lines = []
    if plan.request is not None:
        lines.append(f"asked for: {_asked(plan.request.thresholds)}")
    if repaired:
        lines.append("repaired on data: approximate by design")
    elif plan.exact:
        lines.append(
            "exact: the pruned model computes what the model computes with "
            "its closed channels at zero"
        )
    else:
        lines.append("not exact: see what happens to each layer")
    return lines


def _asked(value: Any) -> str:
    """Thresholds as they were written."""
    if not isinstance(value, dict):
        return str(value)
    given = {k: v for k, v in value.items() if k != "rule"}
    if len(given) == len(value):
        return ", ".join(f"{k}: {_asked(v)}" for k, v in given.items())
    usual = _defaults(value["rule"])
    told = [f"{k}={v!r}" for k, v in given.items() if v != usual.get(k)]
    return f"{value['rule']}({', '.join(told)})"


def _defaults(rule: str) -> dict[str, Any]:
    """The arguments of a rule as they are if they are not passed."""
    if rule not in thresholds.__all__:
        return {}
    fields = dataclasses.fields(getattr(thresholds, rule))
    return {field.name: field.default for field in fields}


def _metrics(metrics: Metrics) -> Section:
    return Section(
        "Measured",
        head=("measure", "before", "after"),
        rows=[
            (name, f"{before:.4g}", f"{after:.4g}")
            for name, (before, after) in metrics.items()
        ],
    )


def _layers(plan: PlanLike, most: int | None = None) -> Section:
    """Widths, parameters and multiply-adds of each layer."""
    shown = [row for row in plan.rows if _counts(row)]
    wide = max((row.before or 0 for row in shown), default=0)
    large = max((row.params.before for row in shown), default=0)
    costly = max((row.macs.before for row in shown if row.macs), default=0)
    rows = [
        (
            row.layer,
            row.kind,
            _tables.Change(row.before, row.after, wide),
            _tables.Change(*row.params, large),
            None if row.macs is None else _tables.Change(*row.macs, costly),
            "exact" if row.exact else "approximate",
        )
        for row in shown[:most]
    ]
    more = len(shown) - len(rows)
    told = ["layers without weights are left out"]
    told += [f"{more} more layers: print the plan"] * bool(more)
    return Section(
        "Layer by layer",
        head=table.HEAD,
        rows=rows,
        items=told,
        legend="blue: what stays; gray: what is removed",
    )


def _counts(row: Row) -> bool:
    """Whether a row has weights or multiplies."""
    return row.params.before > 0 or row.macs is None or row.macs.before > 0


def _stays(plan: PlanLike) -> Section:
    """What stays although it is closed, or can't be cut, by reason."""
    counts: dict[str, int] = {}
    layers: dict[str, list[str]] = {}
    for row in plan.rows:
        for line in row.why:
            held = reasons.held(line)
            if held is not None:
                counts[held.why] = counts.get(held.why, 0) + held.closed
                layers.setdefault(held.why, []).append(row.layer)
    return Section(
        "What stays, and why",
        head=("reason", "closed channels that stay", "layers"),
        rows=[
            (why, counts[why], ", ".join(names))
            for why, names in sorted(
                layers.items(), key=lambda item: -counts[item[0]]
            )
        ],
    )


def _repair(repair: RepairLike | None) -> Section:
    if repair is None:
        return Section("Repair")
    head, rows = repair.table()
    return Section("Repair", head=head, rows=rows, items=repair.summary())


def _news(plan: PlanLike) -> Section:
    """What else the rows say."""
    lines = [
        (row.layer, line)
        for row in plan.rows
        for line in row.why
        if reasons.held(line) is None and line != reasons.GOES
    ]
    gone = [row.layer for row in plan.rows if reasons.GOES in row.why]
    if gone:
        lines.append((", ".join(gone), reasons.GOES))
    return Section("What happens to each layer", head=("layer", ""), rows=lines)
