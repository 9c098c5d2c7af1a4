"""Runs a model's own layers, with some of their outputs multiplied by 0.

The model object itself is called, so that casts, masks, structures of inputs
and a `call` of the user's own are as they always are. Only the loop over its
recorded calls is another one for the while: it calls the very same layers in
the same order, and masks what some of them put out. Everything happens in a
`keras.StatelessScope`: no variable of the model is assigned, neither by this
file nor by layers that keep a state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.arguments import recorded
from keras_gates.graphs.variables import running_states
from keras_gates.graphs.without_gradients import without_gradients

if TYPE_CHECKING:
    from typing import TypeAlias

    # A recorded call of Keras.
    Node: TypeAlias = Any
    # Masks by the number of an output, for each recorded call.
    Masks: TypeAlias = dict[Node, dict[int, list["Mask"]]]
    # `(variable, its other values)` by the id of the variable.
    Values: TypeAlias = dict[int, tuple[keras.Variable, NDArray[Any]]]

# Two runs of the same layers in the same order differ by nothing, or by what
# threads make of a sum; a half precision is coarser.
_SAME = 1e-5
# Layers of another kind that compute the same, by their outputs' scale.
_ALIKE = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """What a tensor is multiplied by.

    Attributes:
        open: 1.0 where the tensor stays, 0.0 where it is closed: a vector
            along `axis`, or a scalar for the whole tensor.
        axis: the channel axis, or None.
    """

    open: NDArray[np.float64]
    axis: int | None = None

    def __call__(self, tensor: Any) -> Any:
        shape = [1] * len(tensor.shape)
        if self.axis is not None:
            shape[self.axis] = -1
        factors = keras.ops.convert_to_tensor(self.open.reshape(shape))
        factors = keras.ops.cast(factors, tensor.dtype)
        masked = keras.ops.multiply(tensor, factors)
        gr.carry_mask(tensor, masked)
        return masked


@dataclasses.dataclass(frozen=True, eq=False)
class StandIn:
    """What a layer is made of, for closing something inside it.

    It is run in the layer's place only where it computes what the layer does,
    which each run checks on its own inputs.

    Attributes:
        function: the parts as a `keras.Function` of the layer's inputs.
        values: variables of the parts with other values, as in `Closing`.
        gates: masks inside that the layer itself has closed as well.
        masks: masks inside, those of `gates` included.
        opened: what a layer without a rule is made of, if it is one.
    """

    function: keras.Function
    values: Values = dataclasses.field(default_factory=dict)
    gates: Masks = dataclasses.field(default_factory=dict)
    masks: Masks = dataclasses.field(default_factory=dict)
    opened: gr.Opened | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Closing:
    """What of a model is closed.

    Attributes:
        masks: `{recorded call: {number of an output: [Mask]}}`.
        values: `{id of a variable: (variable, array)}` to be used instead of
            the values that it has.
        handed_on: `{recorded call: number of an input}` for calls that pass on
            this input instead.
        inside: `{recorded call: StandIn}`.
    """

    masks: Masks = dataclasses.field(default_factory=dict)
    values: Values = dataclasses.field(default_factory=dict)
    handed_on: dict[Node, int] = dataclasses.field(default_factory=dict)
    inside: dict[Node, StandIn] = dataclasses.field(default_factory=dict)

    def copy(self) -> Closing:
        """One that can get more masks."""
        inside = {
            node: dataclasses.replace(each, masks=_copied(each.masks))
            for node, each in self.inside.items()
        }
        return dataclasses.replace(
            self, masks=_copied(self.masks), inside=inside
        )


def _copied(masks: Masks) -> Masks:
    return {
        node: {number: [*each] for number, each in outputs.items()}
        for node, outputs in masks.items()
    }


def add(masks: Masks, node: Node, number: int, mask: Mask) -> None:
    """Add a mask to what `Closing.masks` holds."""
    masks.setdefault(node, {}).setdefault(number, []).append(mask)


def outputs(
    model: keras.Model,
    batches: list[Any],
    closing: Closing | None = None,
) -> list[NDArray[Any]]:
    """What a model puts out in inference, flat, as NumPy arrays.

    Args:
        model: a Functional or Sequential model.
        batches: a list of its inputs; the outputs are strung together.
        closing: a `Closing`; nothing is closed by default.

    Raises:
        ValueError: the calls that the model has recorded are not what it
            computes.
    """
    parts = [_run(model, x, closing) for x in batches]
    joined = zip(*parts, strict=True)
    return [ys[0] if len(ys) == 1 else _joined(ys) for ys in joined]


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays[0].ndim else np.stack(arrays)


def _run(
    model: keras.Model, x: Any, closing: Closing | None
) -> list[NDArray[Any]]:
    closing_values = {} if closing is None else closing.values
    values = [*closing_values.values(), *_at_rest(model)]
    loop: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if closing is not None:
        loop = _Loop(closing).within(model)
    state = keras.StatelessScope(state_mapping=values)
    with without_gradients(), loop, state:
        found = keras.tree.flatten(model(x, training=False))
        return [keras.ops.convert_to_numpy(y) for y in found]


def _at_rest(model: keras.Model) -> Iterator[tuple[keras.Variable, Any]]:
    """Zeros for what stateful layers carry over.

    Models that have seen other batches since they were made would differ.
    """
    for state in running_states(model):
        yield state, np.zeros(state.shape, state.dtype)


def check_recorded(model: keras.Model, x: Any) -> None:
    """Refuse a model whose recorded calls are not what it computes.

    Raises:
        ValueError: a class overrides `call`, say.
    """
    expected, got = _run(model, x, None), _run(model, x, Closing())
    if not all(np.isfinite(y).all() for y in (*expected, *got)):
        raise ValueError(
            f"The outputs of model '{model.name}' have NaN or infinity on "
            "these inputs, so nothing can be compared with them. Check its "
            "weights, and pass inputs like those that it was trained on."
        )
    far = differences(expected, got)
    if max(far) > max(_SAME, *map(resolution, expected)):
        raise ValueError(
            f"Model '{model.name}' (of type {type(model).__name__}) does not "
            "compute what the layers of its recorded graph compute in "
            f"sequence: they differ by {max(far):.2g} of the outputs' scale. "
            "Pruning reads the recorded graph, so it can't support such a "
            "model. Move what its class does in `call` into the functional "
            "graph; if it draws random numbers in inference, draw them from "
            "a `keras.random.SeedGenerator`."
        )


class _Loop:
    """Keras' loop over the recorded calls of a model, with masks."""

    def __init__(self, closing: Closing) -> None:
        self.closing = closing
        self.seen: set[keras.Model] = set()

    @contextlib.contextmanager
    def within(self, model: keras.Model) -> Iterator[None]:
        """Within, `model` and the models in it use this loop."""
        graph = gr.read(model)
        own = [each.functional for each in (graph, *graph.nested())]
        with contextlib.ExitStack() as stack:
            for functional in own:
                loop = functools.partial(self.run, functional)
                stack.enter_context(gr.other_loop(functional, loop))
            yield
        parts = (self.closing.masks, self.closing.inside)
        closed = {node for part in parts for node in part}
        for each in (graph, *graph.nested()):
            nodes = {site.node for site in each.sites}
            if nodes & closed and each.functional not in self.seen:
                raise ValueError(
                    f"Model '{each.model.name}' (of type "
                    f"{type(each.model).__name__}) never calls the layers of "
                    "its recorded graph, in which channels are closed. Move "
                    "what its class does in `call` into the functional graph."
                )

    def run(
        self,
        functional: keras.Model,
        inputs: list[Any],
        operation_fn: Callable[..., Any],
        masks: Masks | None = None,
    ) -> Any:
        """The outputs of a functional model, or of a `keras.Function`."""
        self.seen.add(functional)
        tensors = dict(
            zip(
                map(id, functional.inputs),
                keras.tree.flatten(inputs),
                strict=True,
            )
        )
        masks = self.closing.masks if masks is None else masks
        for node in gr.nodes_of(functional):
            given = node.input_tensors
            if any(id(kt) not in tensors for kt in given):
                continue
            results = self._call(node, tensors, operation_fn)
            for number, mask in masks.get(node, {}).items():
                for each in mask:
                    results[number] = each(results[number])
            tensors.update(zip(map(id, node.outputs), results, strict=True))
        found = [tensors[id(kt)] for kt in functional.outputs]
        return keras.tree.pack_sequence_as(gr.struct_of(functional), found)

    def _call(
        self,
        node: Node,
        tensors: dict[int, Any],
        operation_fn: Callable[..., Any],
    ) -> list[Any]:
        """The flat outputs of one recorded call."""
        handed_on = self.closing.handed_on.get(node)
        if handed_on is not None:
            return [tensors[id(node.input_tensors[handed_on])]]
        args, kwargs = recorded(node, tensors)
        outputs = operation_fn(node.operation)(*args, **kwargs)
        # The record of a layer inside another one has no None.
        flat = keras.tree.flatten(outputs)
        results: list[Any] = [x for x in flat if x is not None]
        stand_in = self.closing.inside.get(node)
        if stand_in is None:
            return results
        inputs = [tensors[id(kt)] for kt in node.input_tensors]
        given = stand_in.function, inputs, operation_fn
        # As the layer is, with nothing closed in layers inside.
        plain = _Loop(dataclasses.replace(self.closing, inside={}))
        parts = keras.tree.flatten(plain.run(*given, masks=stand_in.gates))
        _check_parts(node.operation, results, parts)
        values = {**self.closing.values, **stand_in.values}
        with keras.StatelessScope(state_mapping=list(values.values())):
            results = keras.tree.flatten(self.run(*given, masks=stand_in.masks))
        return results


def _check_parts(
    layer: keras.Layer, expected: list[Any], got: list[Any]
) -> None:
    """Refuse parts that do not compute what their layer does."""
    to_numpy = keras.ops.convert_to_numpy
    for a, b in zip(map(to_numpy, expected), map(to_numpy, got), strict=True):
        far = difference(a, b) if a.shape == b.shape else float("inf")
        if not far <= max(_ALIKE, resolution(a)):
            raise ValueError(
                f"Layer '{layer.name}' (of type {type(layer).__name__}) and "
                f"its parts do not compute the same: they differ by {far:.2g} "
                "of the output's scale. Expected: layers that compute the "
                "same, with copies of its weights. Correct the `expand` that "
                "it was registered with; if it has no rule, give it one "
                "(keras_gates.surgeon.register)."
            )


def differences(
    expected: list[NDArray[Any]], got: list[NDArray[Any]]
) -> list[float]:
    """The `difference` of each output."""
    return [difference(a, b) for a, b in zip(expected, got, strict=True)]


def difference(expected: NDArray[Any], got: NDArray[Any]) -> float:
    """`max|expected - got| / max|expected|`; infinite where one is NaN."""
    expected = expected.astype("float64")
    got = got.astype("float64")
    if np.isnan(expected).any() or np.isnan(got).any():
        return float("inf")
    scale = np.abs(expected).max(initial=0.0)
    with np.errstate(invalid="ignore"):  # both infinite is no difference
        apart = np.where(expected == got, 0.0, np.abs(expected - got))
    worst = apart.max(initial=0.0)
    return float(worst / scale) if 0 < scale < np.inf else float(worst)


def resolution(array: NDArray[Any]) -> float:
    """A few steps of the array's own precision, by its scale."""
    return resolution_of(array.dtype.name)


def resolution_of(dtype: str) -> float:
    """A few steps of a type's precision."""
    return 8 * {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 2.0**-23)
