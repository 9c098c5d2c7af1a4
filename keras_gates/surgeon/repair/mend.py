"""Repair a smaller model on data, and say what came of it."""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.surgeon.repair import samples
from keras_gates.surgeon.repair.engine import Engine
from keras_gates.surgeon.repair.engine import Method
from keras_gates.surgeon.repair.fit import Errors
from keras_gates.surgeon.repair.readers import values_of
from keras_gates.surgeon.repair.report import Repair

if TYPE_CHECKING:
    from keras_gates.surgeon.repair.pairs import Pairs
    from keras_gates.surgeon.repair.report import Row
    from keras_gates.surgeon.repair.samples import Batch

METHODS = tuple(method.value for method in Method)
_MOST = 5


@dataclasses.dataclass(frozen=True)
class Request:
    """How a repair is made: arguments of `repair`.

    Attributes:
        method: as in `repair`.
        max_samples: as in `repair`.
        batch_size: as in `repair`.
        seed: as in `repair`.
        verbose: as in `repair`.

    Raises:
        ValueError: `method` is unknown, or a number is too small.
    """

    method: str = "kernels"
    max_samples: int = 512
    batch_size: int = 32
    seed: int = 0
    verbose: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"`method` must be one of {', '.join(map(repr, METHODS))}. "
                f"Received: {self.method!r}."
            )
        for name in ("max_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: "
                    f"{getattr(self, name)!r}."
                )

    def batches(self, model: keras.Model, x: Any) -> list[Batch]:
        """The samples of `x` that are looked at.

        Raises:
            TypeError, ValueError: as `repair`.
        """
        return samples.read(
            model, x, self.batch_size, self.max_samples, self.seed
        )


def mend(pairs: Pairs, batches: list[Batch], request: Request) -> Repair:
    """Repair the smaller model of `pairs`; its weights change.

    It has the report as its attribute `repair_report` then.

    Raises:
        ValueError: as `repair`.

    Warns:
        UserWarning: as `repair`.
    """
    start = time.perf_counter()
    new = pairs.new.model
    judge = _Judge(pairs, batches)
    before = judge.error()
    weights = [(v, values_of(v)) for v in new.weights]
    engine = Engine(pairs, batches, Method(request.method), request.seed)
    jobs = engine.jobs()
    progress = keras.utils.Progbar(
        len(jobs), verbose=request.verbose, unit_name="layer"
    )
    rows = []
    for job in jobs:
        rows.append(job())
        progress.add(1)
    after = judge.error()
    if not after <= before:
        for variable, values in weights:
            variable.assign(values)
        rows = [_taken_back(row) for row in rows]
        after = before
    report = Repair(
        new,
        tuple(rows),
        Errors(before, after),
        sum(batch.size for batch in batches),
        sum(int(batch.held_out.sum()) for batch in batches),
        time.perf_counter() - start,
        request.method,
    )
    report.mark()
    _warn(report)
    return report


class _Judge:
    """Compares the outputs of two models on what is held out."""

    def __init__(self, pairs: Pairs, batches: list[Batch]) -> None:
        self.models = (pairs.old.model, pairs.new.model)
        self.inputs = [
            [None if a is None else a[batch.held_out] for a in batch.x]
            for batch in batches
            if batch.held_out.any()
        ]
        self.expected = self._outputs(self.models[0])

    def error(self) -> float:
        """The relative error of the smaller model's outputs."""
        squares = []
        got = self._outputs(self.models[1])
        for y, other in zip(self.expected, got, strict=True):
            whole = ((y - y.mean(axis=0)) ** 2).sum()
            wrong = ((y - other) ** 2).sum()
            squares.append(wrong / whole if whole > 0 else float(wrong > 0))
        return float(np.sqrt(np.mean(squares)))

    def _outputs(self, model: keras.Model) -> list[NDArray[Any]]:
        structure, _ = gr.structures(model)
        parts = []
        for flat in self.inputs:
            x = keras.tree.pack_sequence_as(structure, flat)
            with keras.StatelessScope():
                outputs = keras.tree.flatten(model(x, training=False))
            parts.append(
                [
                    np.asarray(
                        keras.ops.convert_to_numpy(keras.ops.stop_gradient(y)),
                        "float64",
                    )
                    for y in outputs
                ]
            )
        return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _taken_back(row: Row) -> Row:
    if not row.changed:
        return row
    why = "taken back: the outputs did not come nearer on held-out samples"
    return dataclasses.replace(row, changed=False, why=why)


def _warn(report: Repair) -> None:
    few = [
        row.layer
        for row in report.rows
        if row.changed and row.rows < row.inputs
    ]
    if few:
        names = ", ".join(map(repr, few[:_MOST]))
        more = f" and {len(few) - _MOST} more" if len(few) > _MOST else ""
        warnings.warn(
            f"{report.samples} samples are few for '{report.model.name}': "
            f"{names}{more} read more numbers than there were rows to fit "
            "them on, so that they were held near the cut weights. Pass more "
            "samples for a better repair.",
            UserWarning,
            stacklevel=4,
        )
