"""The replacement of a call in the smaller model."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.constraints import KeepSign
from keras_gates.graphs import configs
from keras_gates.graphs import create
from keras_gates.graphs import graph as gr
from keras_gates.graphs import private
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.names import Names
from keras_gates.graphs.rewrite import new_copies
from keras_gates.graphs.variables import copy_state
from keras_gates.penalties import L1
from keras_gates.surgeon import faults
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.build.weights import Weights
from keras_gates.surgeon.build.weights import kept_positions
from keras_gates.surgeon.rules import masked

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds
    from keras_gates.surgeon.passes.label import Step


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """One operation to call.

    Attributes:
        op: a new layer or operation, or a function of a tensor.
        args: its arguments, with the flat tensors of the original; None
            for the output of the piece before.
        kwargs: the same by keyword.
        spec: the outcome of the call, where it is known.
        arrays: weight name -> the values that the layer is to be created
            with; creation takes out what it uses.
    """

    op: keras.Operation | Callable[[Any], Any]
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    spec: keras.KerasTensor | None = None
    arrays: dict[str, NDArray[Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """What a rule can ask when it revises a call.

    Attributes:
        decision: the `Decision`.
        step: the step of the call.
        index: role -> the positions that are kept along it, `(kept,)`.
    """

    decision: Decision
    step: Step
    index: dict[str, NDArray[np.intp]]

    @property
    def inputs(self) -> list[NDArray[np.int64]]:
        """The labels of what goes in."""
        return [self.decision.labelling.labels[t] for t in self.step.inputs]

    @property
    def exact(self) -> bool:
        return self.decision.exact

    def removed(self, index: int) -> NDArray[np.float64] | None:
        """The constants that go of an input; NaN for those that stay."""
        return self.decision.removed(self.step, index)

    def masks(self, labels: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
        """For each axis of a label array, which coordinates are kept."""
        return self.decision.masks(labels)

    def shape(
        self, tensor: Tensor, labels: NDArray[np.int64]
    ) -> tuple[int | None, ...]:
        """The shape of a tensor when only what is kept is left."""
        return lb.cut_shape(tensor.shape, self.masks(labels))


class Pieces:
    """Creates the pieces of each step of a decision.

    Args:
        decision: the `Decision`.
        folds: the `Folds`: factors by weight, and gates that stay.
    """

    def __init__(self, decision: Decision, folds: Folds) -> None:
        self.decision = decision
        self.labels = decision.labelling.labels
        self.folds = folds
        self.weights = Weights(decision, folds)
        self.copies = new_copies()
        # Each old operation -> the new one.
        self.operations: IdentityDict[keras.Operation, keras.Operation]
        self.operations = IdentityDict()
        steps = decision.labelling.steps
        sites = {s.site: id(s.call.op) for s in steps}
        # How many recorded calls each operation has, by its id.
        self._calls = collections.Counter(sites.values())
        self._names = Names(s.call.op.name for s in steps)
        # The ids of operations whose name something else has by now.
        self._replaced: set[int] = set()
        # What gets other weights can't share them with what stays: the ids of
        # layers and variables.
        self._cuttable = {
            id(x)
            for s in steps
            if not s.rule.keeps_whole
            for x in (s.call.op, *gr.own_weights(s.call.op))
        }

    def make(self, step: Step) -> list[Piece]:
        """The pieces of a step, in order; none if it is bypassed."""
        if step.is_gate:
            return self._scale(step)
        gone = self.decision.dropped.get(step.key, ())
        pieces = []
        if len(step.call.inputs) - len(gone) != 1 or not gone:
            main = self._main(step, gone)
            if step.rule.writes_out(step.call) and self._hides_mask(step, main):
                # It has no use for a mask, and Keras would warn of it.
                pieces.append(
                    dataclasses.replace(self._unmasked(step), args=main.args)
                )
                main = dataclasses.replace(main, args=None)
            pieces.append(main)
        if gone and step.rule.merging:
            pieces += self._without(step, gone, alone=not pieces)
        if gone and create.gains_mask(step.site.node, gone):
            pieces.append(self._unmasked(step))
        return pieces

    def carried(self, layer: keras.Layer) -> keras.Layer:
        """The copy of a layer in which nothing changes; always the same."""
        if layer not in self.operations:
            new, complete = self.copies.whole(layer)
            if not complete:
                new.build_from_config(layer.get_build_config())
                copy_state(layer, new)
            self.operations[layer] = new
        return self.operations[layer]

    def source(self, step: Step) -> Tensor:
        """The input that stands for the output where there is no piece."""
        gone = self.decision.dropped.get(step.key, ())
        return next(t for i, t in enumerate(step.call.inputs) if i not in gone)

    def finish(self, step: Step) -> None:
        """Copy what creation did not set, and check that all is there."""
        new = self.operations.get(step.call.op)
        if isinstance(step.call.op, keras.Layer) and new is not None:
            self.weights.finish(step.call.op, new)
            self.copies.finish(step.rule.base(step.call.op), new)

    def _main(self, step: Step, gone: tuple[int, ...]) -> Piece:
        """The operation itself, at its final size."""
        call, old = step.call, step.call.op
        config: dict[str, Any] = {}
        args, kwargs, other = call.args, call.kwargs, None
        if self._touched(step) or step.rule.dissolved:
            index = kept_positions(self.decision, step)
            view = View(self.decision, step, index)
            with faults.of_rule(call, step.rule):
                config, args, kwargs = step.rule.revise(call, step.flow, view)
                other = step.rule.replaced(call, step.flow, view)
        if gone:
            operands = [call.inputs[number] for number in gone]
            args, kwargs = _left_out(args, kwargs, operands)
        arrays: dict[str, NDArray[Any]] = {}
        if old not in self.operations:
            arrays, extra = self.weights.cut_layer(step)
            config = configs.merged(config, _settled(old))
            config = configs.merged(config, extra)
            new = self._copied(step, config) if other is None else other
            self.operations[old] = new
        op = self.operations[old]
        return Piece(op, args, kwargs, self._spec(step), arrays)

    def _copied(self, step: Step, config: dict[str, Any]) -> keras.Operation:
        """The new operation of a step: unchanged if nothing has to change."""
        old = step.rule.base(step.call.op)
        if config or self._resized(step):
            return self.copies.make(old, config)
        plain = self.copies.plain(old, {})
        if plain is not None:
            return plain
        held = [old, *private.sublayers(old), *gr.own_weights(old)]
        apart = any(id(x) in self._cuttable for x in held)
        new, complete = self.copies.whole(old, apart)
        if complete:
            self.weights.has_all(old)
        return new

    def _resized(self, step: Step) -> bool:
        """Whether anything that the layer reads, holds or puts out is cut."""
        roles = step.flow.roles.values()
        whole = all(self.decision.mask(ids).all() for ids in roles)
        return self._touched(step) or not whole

    def _touched(self, step: Step) -> bool:
        """Whether anything that the operation reads, holds or puts out is cut.

        What it holds besides weights along what it reads and puts out.
        """
        labels = [self.labels[t] for t in step.inputs] + step.flow.labels
        inner = step.rule.inner_units(step.call)
        labels += [step.flow.roles[each.role] for each in inner]
        return not all(self.decision.mask(x).all() for x in labels)

    def _spec(self, step: Step) -> keras.KerasTensor | None:
        """The output of a call with one output; None leaves it to Keras."""
        node = step.site.node
        if len(node.outputs) != 1 or private.has_sublayers(step.call.op):
            return None
        kt = node.outputs[0]
        masks = self.decision.masks(step.flow.labels[0])
        shape = lb.cut_shape(tuple(kt.shape), masks)
        return keras.KerasTensor(shape, kt.dtype, kt.sparse)

    # What gates and constant operands leave behind -----------------------

    def _scale(self, step: Step) -> list[Piece]:
        """The replacement of a gate: nothing, or a stock Rescaling."""
        factors = self.folds.scales.get(step.key)
        if factors is None:
            return []
        return self._affine(step, factors, 0.0, step.call.op.name)

    def _without(
        self, step: Step, gone: tuple[int, ...], alone: bool
    ) -> list[Piece]:
        """How removed constant operands affect the others."""
        constants = {}
        for index in gone:
            tensor = step.inputs[index]
            kept = self.decision.mask(self.labels[tensor])
            known = self.decision.values[tensor].plain()
            constants[index] = np.where(kept, known, 0.0)
        count = len(step.call.inputs)
        rest = step.rule.without(constants, count)
        if rest is None:
            raise RuntimeError(
                f"keras_gates: '{step.path}' lost operands that its rule "
                f"({step.rule.kind}) can't do without. Please report this "
                "model."
            )
        name = step.call.op.name
        return self._affine(step, *rest, name if alone else f"{name}_rest")

    def _hides_mask(self, step: Step, main: Piece) -> bool:
        """Whether what is written out would get a mask with its input."""
        made = isinstance(main.op, keras.Model) and main.op is not step.call.op
        again = step.rule.writes_again
        return made and not again and masked.is_near(step.call)

    def _unmasked(self, step: Step) -> Piece:
        """A copy of the values without their mask of time steps."""
        name = self._names.free(f"{step.call.op.name}_unmasked")
        return Piece(gr.named_operation("numpy.Copy", name))

    def _affine(
        self,
        step: Step,
        scale: NDArray[np.float64] | float,
        offset: NDArray[np.float64] | float,
        name: str,
    ) -> list[Piece]:
        """`scale * x + offset`, as a Rescaling wherever it has one axis."""
        masks = self.decision.masks(step.flow.labels[0])
        # Of the output's rank, with extent 1 where they do not vary.
        scales = _compressed(np.asarray(scale, "float64"), masks)
        offsets = _compressed(np.asarray(offset, "float64"), masks)
        if np.all(scales == 1) and np.all(offsets == 0):
            return []
        vectors = [a for a in (scales, offsets) if a.size > 1]
        last = all(a.size == a.shape[-1] for a in vectors)
        plain = keras.config.image_data_format() == "channels_last"
        if vectors and not (last and plain):
            return [Piece(_Affine(scales, offsets))]
        layer = keras.layers.Rescaling(
            _listed(scales),
            _listed(offsets),
            name=self._unique(step, name),
            dtype=getattr(step.call.op, "dtype_policy", None),
        )
        return [Piece(layer, spec=self._spec(step))]

    def _unique(self, step: Step, name: str) -> str:
        """`name`, unless it is taken.

        A shared operation may leave something behind at each of its calls.
        """
        op = step.call.op
        alone = step.is_gate or self._calls[id(op)] == 1
        if alone and name == op.name and id(op) not in self._replaced:
            self._replaced.add(id(op))
            return name
        return self._names.free(name)

    # Gathers -------------------------------------------------------------

    def gathers(self, selection: Step) -> bool:
        """Whether the reader wants fewer channels than there are."""
        source, wanted = self._sides(selection)
        return bool((source != wanted).any())

    def gather(self, selection: Step) -> Piece:
        """`keras.ops.take`, as a piece."""
        source, wanted = self._sides(selection)
        # (channels,): where each is among those that are there.
        position = np.cumsum(source) - 1
        indices = position[wanted].tolist()
        axis = lb.varying(selection.flow.labels[0])[0]
        # Two runs agree on this name; Keras would count on from any other.
        name = self._unique(selection, f"{selection.call.op.name}_channels")
        take = gr.named_operation("numpy.Take", name, axis=axis)
        return Piece(take, kwargs={"indices": indices})

    def _sides(
        self, selection: Step
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The kept channels before and after a selection."""
        wanted = self.decision.mask(selection.flow.labels[0])
        source = self.decision.mask(self.labels[selection.inputs[0]])
        source = np.broadcast_to(source, wanted.shape)
        return source.reshape(-1), wanted.reshape(-1)


def _settled(op: keras.Operation) -> dict[str, None]:
    """Undo `slim`, so that no gamma needs this package to load."""
    if not isinstance(op, keras.layers.BatchNormalization):
        return {}
    pairs = (("gamma_regularizer", L1), ("gamma_constraint", KeepSign))
    return {k: None for k, own in pairs if isinstance(getattr(op, k), own)}


class _Affine:
    """A scale and an offset on an axis without support by Rescaling."""

    def __init__(
        self, scale: NDArray[np.float64], offset: NDArray[np.float64]
    ) -> None:
        self.scale = scale
        self.offset = offset

    def __call__(self, x: keras.KerasTensor) -> keras.KerasTensor:
        scale, offset = (
            np.asarray(a, x.dtype) for a in (self.scale, self.offset)
        )
        if np.any(scale != 1):
            x = keras.ops.multiply(x, scale)
        # On TensorFlow `keras.ops.add` takes a vector along any axis for a
        # bias of the last one if that is as long; `subtract` does not.
        return keras.ops.subtract(x, -offset) if np.any(offset != 0) else x


def _compressed(
    array: NDArray[np.float64], masks: list[NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """The kept part of an array, along the axes where it varies."""
    for axis in range(array.ndim):
        if array.shape[axis] == len(masks[axis]) > 1:
            array = array.compress(masks[axis], axis)
    return array


def _listed(array: NDArray[np.float64]) -> float | list[float]:
    values = [float(x) for x in array.ravel()]
    return values[0] if len(values) == 1 else values


def _left_out(
    args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments without some of their tensors."""
    ids = {id(tensor) for tensor in operands}

    def left(x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return type(x)(left(i) for i in x if id(i) not in ids)
        return x

    return left(tuple(args)), {k: left(v) for k, v in kwargs.items()}
