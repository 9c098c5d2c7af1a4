"""Fits a smaller model to its original, layer by layer, front to back."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.surgeon.repair import inside
from keras_gates.surgeon.repair.fit import Errors
from keras_gates.surgeon.repair.fit import Sums
from keras_gates.surgeon.repair.fit import fit
from keras_gates.surgeon.repair.norms import Affine
from keras_gates.surgeon.repair.norms import Readings
from keras_gates.surgeon.repair.norms import Shift
from keras_gates.surgeon.repair.norms import is_norm
from keras_gates.surgeon.repair.norms import measure_again
from keras_gates.surgeon.repair.norms import shift_behind
from keras_gates.surgeon.repair.readers import Reader
from keras_gates.surgeon.repair.readers import readers_of
from keras_gates.surgeon.repair.report import Row
from keras_gates.surgeon.repair.rooms import Match
from keras_gates.surgeon.repair.rooms import Rooms
from keras_gates.surgeon.repair.streams import Stream
from keras_gates.surgeon.repair.streams import stream_of
from keras_gates.surgeon.repair.walk import Walk
from keras_gates.surgeon.repair.walk import run
from keras_gates.surgeon.repair.windows import Places
from keras_gates.surgeon.verifying.masked_run import resolution_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.build.weight_map import Cut
    from keras_gates.surgeon.repair.forms import Array
    from keras_gates.surgeon.repair.pairs import Pairs
    from keras_gates.surgeon.repair.samples import Batch

# Rows for each input of a layer, and at least for any layer.
_ROWS_PER_INPUT = 6
_ROWS = 8192
# How many of them are made at a time.
_BLOCK = 2048
# A kernel is read rightly where its product is what its layer computes.
_ALIKE = 1e-3


_NOT_FINITE = "what it reads, or should compute, is not finite"
_NOT_BETTER = "as it was cut: nothing else is better on other samples"


class Method(enum.Enum):
    """What is fitted."""

    KERNELS = "kernels"
    BIAS = "bias"
    STATISTICS = "statistics"


class Sample(NamedTuple):
    """A batch, and both models on it."""

    batch: Batch
    old: Walk
    new: Walk


class Engine:
    """Refits the kernels of a model in their order.

    Args:
        pairs: the `Pairs` of the original and the smaller model.
        batches: what to fit on.
        method: what is fitted.
        seed: of the places that are looked at.

    Attributes:
        given: the layers that were given a bias.
    """

    def __init__(
        self, pairs: Pairs, batches: list[Batch], method: Method, seed: int
    ) -> None:
        self.pairs = pairs
        self.method = method
        self.kernels = method is Method.KERNELS
        self.rng = np.random.default_rng(seed)
        self.samples = [
            Sample(b, Walk(pairs.old, b.x), Walk(pairs.new, b.x))
            for b in batches
        ]
        self.rooms = Rooms(pairs, batches[0])
        self.given: list[keras.Layer] = []

    def jobs(self) -> list[Callable[[], Row]]:
        """What there is to fit, in the order of the calls."""
        found: dict[int, Callable[[], Row]] = {}
        kernels: dict[int, list[Reader]] = {}
        for call in self.pairs.new.calls:
            if self.method is Method.STATISTICS:
                if is_norm(call):
                    job = functools.partial(self.measure, call)
                    found.setdefault(id(call.op), job)
                continue
            for reader in readers_of(call):
                key = id(self.pairs.holds[1].original(reader.kernel))
                kernels.setdefault(key, []).append(reader)
                job = functools.partial(self.fit, kernels[key])
                found.setdefault(key, job)
        return list(found.values())

    def measure(self, call: Call) -> Row:
        """Measure the statistics of one normalization again."""
        path, norm = call.path, call.op
        before = self.pairs.calls.get(call)
        calls = [c for c in self.pairs.new.calls if c.op is norm]
        cut = None
        if before is not None and is_norm(before):
            cut = self.pairs.cut(norm.moving_mean, before.op.moving_mean)
        if before is None or cut is None:
            return Row(path, why="it has no counterpart in the original")
        if len(calls) > 1:
            return Row(path, why="it is called at several places")
        readings = self._readings(call, before, cut)
        row = Row(path, rows=len(readings.x), inputs=1)
        if not np.isfinite(readings.x.sum() + readings.y.sum()):
            return dataclasses.replace(row, why=_NOT_FINITE)
        errors = measure_again(norm, readings)
        self.pairs.holds[1].spread(norm.weights)
        if errors is None:
            now = readings.error(Affine.of(norm))
            row = dataclasses.replace(row, errors=Errors(now, now))
            return dataclasses.replace(row, why=_NOT_BETTER)
        return dataclasses.replace(row, errors=errors, changed=True)

    def _readings(self, call: Call, before: Call, cut: Cut) -> Readings:
        """What a normalization reads in both models, at some places."""
        norm, old = call.op, Affine.of(before.op)
        kept = cut.positions.get(0, slice(None))
        factor: Any = 1.0
        if norm.scale:
            gamma = self.pairs.cut(norm.gamma, before.op.gamma)
            factor = 1.0 if gamma is None else gamma.factors.get(0, 1.0)
        parts = []
        most = math.ceil(_ROWS / len(self.samples))
        for batch, walk, own in self.samples:
            x, y = (
                np.moveaxis(_numpy(w.value(c.inputs[0])), norm.axis, -1)
                for w, c in ((own, call), (walk, before))
            )
            places = Places.drawn(len(x), x.shape[1:-1], most, self.rng)
            places = places.where(~batch.judging[places.sample])
            at = (places.sample, *places.at)
            wanted = old(y[at])[:, kept] * factor
            parts.append((x[at], wanted, batch.choosing[places.sample]))
        return Readings(*map(np.concatenate, zip(*parts, strict=True)))

    def fit(self, readers: list[Reader]) -> Row:
        """Fit one kernel, over all calls of it."""
        path = readers[0].path
        matches = [self._match(reader) for reader in readers]
        known = [match for match in matches if match is not None]
        cut = None
        if len(known) == len(readers):
            cut = self.pairs.cut(known[0].new.kernel, known[0].old.kernel)
        if cut is None:
            return Row(path, why="it has no counterpart in the original")
        if len({(type(r.form), r.matrix().shape) for r in readers}) > 1:
            return Row(path, why="it is used in several ways")
        if len(known) > 1 and known[0].new.inner:
            return Row(path, why="it is called at several places")
        why = self._why_not(known)
        if why:
            return Row(path, why=why)
        shift = shift_behind(self.pairs.new, readers)
        lacks = shift is None and self._may_have_bias(known)
        centred = readers[0].bias is not None or shift is not None or lacks
        if not self.kernels and not centred:
            return Row(path, why="it has no bias, and nothing stands for one")
        sums = self._sums(known, cut)
        return self._refit(readers[0], sums, shift, centred, lacks)

    def _may_have_bias(self, matches: list[Match]) -> bool:
        """Whether to add a bias to a layer that has lost inputs."""
        new, old = matches[0]
        model = self.pairs.new.model
        trained = getattr(model, "optimizer", None)
        if not new.may_have_bias or (trained is not None and trained.built):
            return False
        return bool(new.matrix().shape[1] < old.matrix().shape[1])

    def _match(self, reader: Reader) -> Match | None:
        call = self.pairs.calls.get(reader.call)
        for old in [] if call is None else readers_of(call):
            if old.name == reader.name and self.pairs.cut(
                reader.kernel, old.kernel
            ):
                return Match(reader, old)
        return None

    def _why_not(self, matches: list[Match]) -> str:
        """Why kernels can't be fitted, by a look at one batch; or ""."""
        _, old, new = self.samples[0]
        for match in matches:
            for reader, walk in ((match.new, new), (match.old, old)):
                if not _agrees(reader, walk):
                    return "its output is something else than its product"
        return ""

    def _refit(
        self,
        reader: Reader,
        sums: Sums,
        shift: Shift | None,
        centred: bool,
        lacks: bool,
    ) -> Row:
        matrix, offset = reader.matrix(), reader.offset()
        groups = len(matrix)
        start = np.concatenate([matrix, offset.reshape(groups, 1, -1)], 1)
        inputs = matrix.shape[1]
        row = Row(reader.path, None, sums.count, inputs)
        if not sums.finite():
            return dataclasses.replace(row, why=_NOT_FINITE)
        exact = 10 * resolution_of(reader.layer.compute_dtype)
        if sums.rounding(start) <= exact:
            errors = fit(sums, start, centred, False).errors
            return dataclasses.replace(
                row, errors=errors, why="nothing to mend"
            )
        found = fit(sums, start, centred, self.kernels)
        row = dataclasses.replace(
            row, errors=found.errors, ridge=found.ridge, changed=found.better
        )
        if not found.better:
            return dataclasses.replace(row, why=_NOT_BETTER)
        added = found.weights[:, -1].reshape(-1)
        if lacks:
            private.give_bias(reader.layer, reader.outputs)
            self.given.append(reader.layer)
            reader = dataclasses.replace(reader, bias=reader.layer.bias)
            row = dataclasses.replace(row, why="fitted, with a bias added")
        reader.assign(found.weights[:, :-1], added)
        held = self.pairs.holds[1]
        held.spread([reader.kernel, reader.bias])
        if shift is not None:
            shift.move(added - offset)
            held.spread([shift.norm.moving_mean])
        return row

    # What is fitted -------------------------------------------------------

    def _sums(self, matches: list[Match], cut: Cut) -> Sums:
        """The moments of a kernel's inputs, and of what it should compute."""
        first = matches[0].new
        groups, inputs, outputs = first.matrix().shape
        sums = Sums.empty(groups, inputs, outputs)
        wanted = max(_ROWS, _ROWS_PER_INPUT * inputs)
        samples = self._enough(matches, wanted)
        most = math.ceil(wanted / len(samples) / len(matches))
        kept = kept_outputs(cut, matches[0].old)
        stream = None
        if len(matches) == 1 and not cut.factors:
            graphs = self.pairs.old, self.pairs.new
            stream = stream_of(*matches[0], graphs)
        for sample in samples:
            for match, x, before in self._inputs(sample, matches):
                target = _Target(match.old, before, kept, stream, sample)
                self._add(sums, match.new, x, target, most)
        return sums

    def _add(
        self,
        sums: Sums,
        new: Reader,
        raw: NDArray[Any],
        target: _Target,
        most: int,
    ) -> None:
        batch = target.sample.batch
        x = new.form.laid_out(raw, new.form.axis_in)
        sizes = new.sizes(raw.shape)
        choosing, judging = (
            np.repeat(mask, len(x) // batch.size)
            for mask in (batch.choosing, batch.judging)
        )
        every = Places.drawn(len(x), sizes, most, self.rng)
        every = every.where(~judging[every.sample])
        # A window's rows are many times as large as the tensor they are of.
        for places in every.blocks(_BLOCK):
            rows = new.form.rows(x, places, sizes)
            wanted = target.at(places)
            shaped = wanted.reshape(len(wanted), len(rows), -1)
            sums.add(rows, shaped.transpose(1, 0, 2), choosing[places.sample])

    def _inputs(
        self, sample: Sample, matches: list[Match]
    ) -> Iterator[tuple[Match, NDArray[Any], NDArray[Any]]]:
        """What each call reads, in both models."""
        news = [match.new.source for match in matches]
        if len(set(news)) > 1:
            # Some calls may come after others, which are still to change.
            values = sample.new.ahead(news)
        else:
            values = [_source(matches[0].new, sample.new)] * len(news)
        for match, value in zip(matches, values, strict=True):
            before = _source(match.old, sample.old)
            yield match, _numpy(value), _numpy(before)

    def _enough(self, matches: list[Match], wanted: int) -> list[Sample]:
        """As many batches as memory allows, and the fit needs.

        Those that are left out let go of what they hold, and begin again from
        their inputs if a later layer has room for them.
        """
        most = self.rooms.of(matches, wanted)
        found: list[Sample] = []
        for sample in self.samples:
            count = sum(s.batch.size for s in found)
            if count >= most and any(s.batch.choosing.any() for s in found):
                sample.old.forget()
                sample.new.forget()
            else:
                found.append(sample)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Target:
    """What a kernel should compute on a batch.

    Attributes:
        old: the kernel in the original.
        raw: what it reads there.
        kept: the outputs that stayed.
        stream: the sum that it ends a branch of, or None.
        sample: the batch.
    """

    old: Reader
    raw: NDArray[Any]
    kept: Kept
    stream: Stream | None
    sample: Sample

    def at(self, places: Places) -> Array:
        """At some places, `(places, outputs)`."""
        plain = self.kept.of(_product(self.old, self.raw, places))
        if self.stream is None:
            return plain
        wanted = self._read(self.sample.old, self.stream.total, places)
        wanted = wanted[:, self.kept.positions]
        for other in self.stream.others:
            wanted = wanted - self._read(self.sample.new, other, places)
        return self.stream.before_norm(wanted, plain)

    def _read(self, walk: Walk, tensor: Tensor, places: Places) -> Array:
        form = self.old.form
        value = _numpy(walk.value(tensor))
        laid = form.laid_out(value, form.axis_out)
        return np.asarray(laid[(places.sample, *places.at)], "float64")


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """The outputs of a kernel that stayed, and what they were multiplied by.

    Attributes:
        positions: those of the outputs, in one order; int, `(kept,)`.
        factors: float, `(kept,)`.
    """

    positions: NDArray[np.intp]
    factors: Array

    def of(self, targets: Array) -> Array:
        """What is left of the outputs of the original, `(rows, outputs)`."""
        return np.asarray(targets[:, self.positions] * self.factors)


def kept_outputs(cut: Cut, reader: Reader) -> Kept:
    """What stayed of the outputs of a kernel of the original."""
    shape = reader.kernel.shape
    axes = reader.form.out_axes(len(shape))
    sizes = [shape[axis] for axis in axes]
    every = [np.arange(size) for size in sizes]
    kept = [
        cut.positions.get(axis, all_)
        for axis, all_ in zip(axes, every, strict=True)
    ]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    factors = np.ones([len(at) for at in kept])
    for number, axis in enumerate(axes):
        if axis in cut.factors:
            along = [1] * len(axes)
            along[number] = -1
            factors = factors * cut.factors[axis].reshape(along)
    return Kept(numbers[np.ix_(*kept)].reshape(-1), factors.reshape(-1))


def _product(reader: Reader, raw: NDArray[Any], places: Places) -> Array:
    """What a kernel and its bias make of an input, `(places, outputs)`."""
    x = reader.form.laid_out(raw, reader.form.axis_in)
    rows = reader.form.rows(x, places, reader.sizes(raw.shape))
    found = rows @ reader.matrix()
    flat = found.transpose(1, 0, 2).reshape(len(places.sample), -1)
    return flat + reader.offset()


def _source(reader: Reader, walk: Walk) -> Any:
    """What a kernel reads."""
    if not reader.inner:
        return walk.value(reader.source)
    inputs = {tensor: walk.value(tensor) for tensor in reader.call.inputs}
    return inside.read(reader, inputs)


def _numpy(tensor: Any) -> NDArray[Any]:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def _agrees(reader: Reader, walk: Walk) -> bool:
    """Whether a layer puts out what its kernel makes of its input."""
    if reader.activation is None:
        return True
    call = reader.call
    # A further call of the same layer may read what this one still changes.
    values = dict(zip(call.inputs, walk.ahead(call.inputs), strict=True))
    raw = _numpy(values[reader.source])
    (output,) = run(call, values.__getitem__)
    y = _numpy(output)
    laid = reader.form.laid_out(y, reader.form.axis_out)
    sizes = reader.sizes(raw.shape)
    if laid.shape[1:-1] != sizes:
        return False
    places = Places.drawn(len(laid), sizes, 256, np.random.default_rng(0))
    expected = laid[(places.sample, *places.at)].astype("float64")
    product = _product(reader, raw, places).astype("float32")
    got = reader.activation(keras.ops.convert_to_tensor(product))
    far = np.abs(_numpy(got) - expected).max(initial=0.0)
    scale = np.abs(expected).max(initial=0.0)
    coarse = 10 * resolution_of(reader.layer.compute_dtype)
    return bool(far <= max(_ALIKE, coarse) * scale)
