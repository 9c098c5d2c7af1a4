"""Repairs a smaller model on data, and reports the result."""

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
from keras_gates.graphs import private
from keras_gates.graphs.without_gradients import without_gradients
from keras_gates.surgeon.repair import samples
from keras_gates.surgeon.repair.engine import Engine
from keras_gates.surgeon.repair.engine import Method
from keras_gates.surgeon.repair.fit import Errors
from keras_gates.surgeon.repair.readers import values_of
from keras_gates.surgeon.repair.report import Repair
from keras_gates.surgeon.repair.walk import Walk
from keras_gates.surgeon.verifying.masked_run import differences
from keras_gates.surgeon.verifying.masked_run import resolution_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.repair.pairs import Pairs
    from keras_gates.surgeon.repair.report import Row
    from keras_gates.surgeon.repair.samples import Batch

METHODS = tuple(method.value for method in Method)
_MOST = 5
# Two runs of the same layers one after the other differ by rounding.
_SAME = 1e-4
# By so much a layer has to be off for more samples to be asked for.
_OFF = 0.01


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

    def batches(
        self, model: keras.Model, x: Any, argument: str = "repair"
    ) -> list[Batch]:
        """The samples of `x` that are looked at.

        Args:
            model: the model that they are for.
            x: as in `repair`.
            argument: the argument that `x` came in, for messages.

        Raises:
            TypeError, ValueError: as `repair`.
        """
        return samples.read(
            model, x, self.batch_size, self.max_samples, self.seed, argument
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
    for graph in (pairs.old, pairs.new):
        _check_runs(graph, batches[0])
    judge = _Judge(pairs, batches)
    before = judge.error()
    floats = [v for v in new.weights if "float" in v.dtype]
    weights = [(v, values_of(v)) for v in floats]
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
        for layer in engine.given:
            private.drop_bias(layer)
        rows = [_taken_back(row) for row in rows]
        after = before
    report = Repair(
        new,
        tuple(rows),
        Errors(before, after),
        sum(batch.size for batch in batches),
        sum(int(batch.judging.sum()) for batch in batches),
        time.perf_counter() - start,
        request.method,
    )
    report.mark()
    _warn(report)
    return report


class _Judge:
    """Compares the outputs of two models on samples that no fit looks at."""

    def __init__(self, pairs: Pairs, batches: list[Batch]) -> None:
        self.models = (pairs.old.model, pairs.new.model)
        self.batches = [b for b in batches if b.judging.any()]
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
        """What a model puts out for the samples that it is judged by."""
        # Some models are made for batches of one size.
        fixed = model.inputs[0].shape[0] is not None
        parts = []
        for batch in self.batches:
            held = batch.judging
            rows = np.ones_like(held) if fixed else held
            flat = [None if a is None else a[rows] for a in batch.x]
            outputs = _run(model, flat)
            parts.append([y[held] if fixed else y for y in outputs])
        return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _run(model: keras.Model, flat: list[Any]) -> list[NDArray[Any]]:
    """The flat outputs of a model in inference, in float64."""
    structure, _ = gr.structures(model)
    x = keras.tree.pack_sequence_as(structure, flat)
    with without_gradients(), keras.StatelessScope():
        outputs = keras.tree.flatten(model(x, training=False))
    stopped = map(keras.ops.stop_gradient, outputs)
    return [
        np.asarray(keras.ops.convert_to_numpy(y), "float64") for y in stopped
    ]


def _check_runs(graph: Graph, batch: Batch) -> None:
    """Refuse a model whose recorded calls are not what it computes.

    Raises:
        ValueError: a class overrides `call`, say.
    """
    model = graph.model
    fixed = model.inputs[0].shape[0] is not None
    flat = [a if fixed or a is None else a[:2] for a in batch.x]
    walk = Walk(graph, flat)
    expected = _run(model, flat)
    got = [
        np.asarray(keras.ops.convert_to_numpy(walk.value(t)), "float64")
        for t in graph.outputs
    ]
    far = max(differences(expected, got), default=0.0)
    coarsest = max(map(resolution_of, _types(model)))
    if not far <= max(_SAME, coarsest):
        raise ValueError(
            f"Model '{model.name}' (of type {type(model).__name__}) does not "
            "compute what the layers of its recorded graph compute in "
            f"sequence: they differ by {far:.2g} of the outputs' scale. A "
            "repair runs them one by one, so it can't support such a model. "
            "Move what its class does in `call` into the functional graph."
        )


def _types(model: keras.Model) -> set[str]:
    return {layer.compute_dtype for layer in private.sublayers(model)}


def _taken_back(row: Row) -> Row:
    if not row.changed:
        return row
    why = "taken back: the outputs did not come nearer on held-out samples"
    return dataclasses.replace(row, changed=False, why=why)


def _warn(report: Repair) -> None:
    few = [
        row.layer
        for row in report.rows
        if row.rows < row.inputs and row.errors and row.errors.before > _OFF
    ]
    if few:
        names = ", ".join(map(repr, few[:_MOST]))
        more = f" and {len(few) - _MOST} more" if len(few) > _MOST else ""
        warnings.warn(
            f"{report.samples} samples are few for '{report.model.name}': "
            f"some layers have more inputs than there were rows to fit "
            f"({names}{more}), so they were kept close to the cut weights. "
            "Pass more samples for a better repair.",
            UserWarning,
            stacklevel=4,
        )
