"""The report of a repair, layer by layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_gates import _tables
from keras_gates.surgeon.repair.fit import Errors


@dataclasses.dataclass(frozen=True)
class Row:
    """The repair of one layer.

    Attributes:
        layer: path of the layer, and the kernel in it if it has several.
        errors: the relative errors of its output before and after, on the
            samples that choose the fit. None if it was not considered.
        rows: the number of output positions, over all samples, that it was
            fitted on; 0 if it was not fitted.
        inputs: the number of inputs at each of them.
        ridge: the ridge towards the weights of the cut, relative to the mean
            variance of an input; None if there was none.
        changed: whether its weights differ from those of the cut.
        why: why not, or further notes.
    """

    layer: str
    errors: Errors | None = None
    rows: int = 0
    inputs: int = 0
    ridge: float | None = None
    changed: bool = False
    why: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Repair:
    """A repaired model and its report. It prints as a table.

    A repair is approximate by design: the model is the best fit to its original
    on some samples.

    Attributes:
        model: the repaired model.
        rows: one `Row` per layer that could be fitted.
        total: the relative errors of the model's outputs, before and after,
            on samples that were never fitted.
        samples: the number of samples, including these.
        held_out: the number of samples that were never fitted.
        seconds: the time it took.
        method: as in `repair`.
    """

    model: keras.Model
    rows: tuple[Row, ...]
    total: Errors
    samples: int
    held_out: int
    seconds: float
    method: str

    @property
    def changed(self) -> list[str]:
        """The layers whose weights differ from those of the cut."""
        return [row.layer for row in self.rows if row.changed]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model, as plain data for JSON."""
        return {
            "model": self.model.name,
            "method": self.method,
            "approximate": bool(self.changed),
            "samples": self.samples,
            "held_out": self.held_out,
            "seconds": self.seconds,
            "total": self.total._asdict(),
            "layers": [
                {
                    **dataclasses.asdict(row),
                    "errors": row.errors and row.errors._asdict(),
                }
                for row in self.rows
            ],
        }

    def mark(self) -> None:
        """Note with the model that it was repaired."""
        setattr(self.model, _MARK, self)

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """The column titles of the table, and its rows."""
        cells = [
            (
                row.layer,
                *_errors(row.errors),
                row.rows,
                row.inputs,
                "" if row.ridge is None else f"{row.ridge:g}",
                row.why or ("fitted" if row.changed else "as it was cut"),
            )
            for row in self.rows
        ]
        return _HEAD, cells

    def summary(self) -> list[str]:
        """The lines under the table."""
        before, after = _errors(self.total)
        return [
            f"relative error of the outputs: {before} -> {after} on "
            f"{self.held_out} held-out samples",
            f"samples: {self.samples}; layers changed: "
            f"{len(self.changed)} of {len(self.rows)}; "
            f"{self.seconds:.1f} seconds",
        ]

    def __str__(self) -> str:
        return "\n".join(
            [
                f"Repair of '{self.model.name}', approximate by design",
                "",
                _tables.text(*self.table()),
                "",
                *self.summary(),
            ]
        )

    def __repr__(self) -> str:
        before, after = _errors(self.total)
        return (
            f"<Repair of '{self.model.name}': error of the outputs {before} "
            f"-> {after}>"
        )


_MARK = "repair_report"


def report_of(model: keras.Model) -> Repair | None:
    """What was done to a model, where it was repaired."""
    report = getattr(model, _MARK, None)
    return report if isinstance(report, Repair) else None


def notes_on(model: keras.Model) -> list[str]:
    """What a plan for a model that was repaired says of it."""
    report = report_of(model)
    if report is None or not report.changed:
        return []
    _, after = _errors(report.total)
    return [
        f"'{model.name}' was repaired on {report.samples} samples: it computes "
        f"about what its original did (relative error {after} on samples held "
        "out). This plan is for what it computes now."
    ]


def refuse(model: keras.Model, exact: bool) -> None:
    """Refuse to compare a repaired model as if it were to be exact.

    Raises:
        TypeError: it is no model.
        ValueError: it was repaired.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`pruned` must be the smaller model that `prune` returned. "
            f"Received: {model!r} (of type {type(model).__name__})."
        )
    report = report_of(model)
    if report is None or not exact or not report.changed:
        return
    before, after = _errors(report.total)
    raise ValueError(
        f"'{model.name}' was repaired: {len(report.changed)} of its layers "
        "were fitted to some samples, so by design it computes only "
        "approximately what its original did, and `verify` can't distinguish "
        f"a fault from that. Its outputs are off by {after} on held-out "
        f"samples ({before} as it was cut); print({_MARK}) has details. "
        "Verify the result of prune without repair=..., compare the metrics "
        "of both models, or pass exact=False to see the difference."
    )


_HEAD = ("layer", "before", "after", "rows", "inputs", "ridge", "what was done")


def _errors(errors: Errors | None) -> tuple[str, str]:
    if errors is None:
        return "-", "-"
    return f"{errors.before:.3g}", f"{errors.after:.3g}"
