"""The shape of every tensor of a graph, for inputs of a given size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import private
from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.calls import Tensor
from keras_gates.graphs.reading import read
from keras_gates.graphs.trace import at_shapes

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Call
    from keras_gates.graphs.calls import Graph
    from keras_gates.graphs.calls import Scope
    from keras_gates.graphs.calls import Shape
    from keras_gates.graphs.opened import Opened
    from keras_gates.graphs.private import Node

    Shapes = dict[Tensor, Shape]

_MOVES: tuple[type[Any], ...] = tuple(
    filter(None, [private.operation("numpy.Reshape")])
)


def shapes_of(graph: Graph, input_shape: Any = None) -> Shapes:
    """`{Tensor: shape}`, batch axis included.

    Where a tensor has several rows for each sample, as windows of an image
    have, their number is in place of the batch's size, if it is known.

    Args:
        graph: the `Graph` of a model.
        input_shape: sizes that the inputs leave open, without the batch
            axis: a tuple, or for several inputs a list of tuples or a dict
            of them by name. None for the shapes as they were recorded.

    Raises:
        ValueError: `input_shape` does not fit the model.
    """
    if input_shape is not None:
        return _inferred(graph, _by_input(graph, input_shape))
    shapes = _recorded(graph)
    if not any(_is_open(shapes[tensor]) for tensor in graph.inputs):
        _tell_rows(graph, shapes)
    return shapes


def _recorded(graph: Graph) -> Shapes:
    """The shapes as the model has them.

    A layer may have been looked into at sizes of its own; what is in it has
    no sizes then.
    """
    found: Shapes = {tensor: tensor.shape for tensor in graph.inputs}
    for call in graph.calls:
        sized = _sized(call.scopes)
        for tensor in (*call.inputs, *call.outputs):
            shape = tensor.shape
            if sized and call is tensor.producer:
                shape = (None,) * len(shape)
            found.setdefault(tensor, shape)
    for call in graph.calls:
        for scope in call.scopes:
            outputs = zip(scope.site.node.outputs, scope.outputs, strict=False)
            for kt, tensor in outputs if _sized([scope]) else ():
                found[tensor] = tuple(kt.shape)
    return found


def _sized(scopes: Iterable[Scope]) -> bool:
    """Whether calls are known for other sizes than those of the model."""
    return any(
        scope.site.opened is not None
        and scope.site.opened.sized
        and any(_is_open(x.shape) for x in scope.site.node.input_tensors)
        for scope in scopes
    )


def _is_open(shape: Shape) -> bool:
    return None in tuple(shape)[1:]


def _inferred(graph: Graph, given: list[Shape]) -> Shapes:
    """The shapes for inputs of these.

    Where the number of samples is open, they are told for one.
    """
    specs = {
        tensor: keras.KerasTensor(_some(shape, 1), tensor.dtype)
        for tensor, shape in zip(graph.inputs, given, strict=True)
    }
    for scope, calls in itertools.groupby(graph.calls, _opened):
        group = list(calls)
        if scope is not None and _sized(s for c in group for s in c.scopes):
            _look_in_again(scope, group, specs)
            continue
        try:
            for call in group:
                _infer(call, specs)
        except ValueError:
            if scope is None:
                raise
            _look_in_again(scope, group, specs)
    samples = given[0][0] or 1 if given else 1
    return {
        tensor: _of_each_sample(tuple(spec.shape), samples)
        for tensor, spec in specs.items()
    }


def _some(shape: Shape, samples: int) -> Shape:
    """A shape with a known number of samples."""
    open_ = shape[:1] == (None,)
    return (samples, *shape[1:]) if open_ else tuple(shape)


def _opened(call: Call) -> Scope | None:
    """The outermost layer that is seen through and has the call in it."""
    within = (s for s in call.scopes if s.site.opened is not None)
    return next(within, None)


def _infer(call: Call, specs: dict[Tensor, keras.KerasTensor]) -> None:
    """Put what a call gives among the specs, which have what it gets."""
    outputs = keras.tree.flatten(_outputs(call, specs))
    specs.update(zip(call.outputs, outputs, strict=True))


def _outputs(call: Call, specs: dict[Tensor, keras.KerasTensor]) -> Any:
    """What a call gives for inputs of these shapes; nothing is recorded."""
    args, kwargs = mapped(
        lambda x: specs[x] if isinstance(x, Tensor) else x,
        call.args,
        call.kwargs,
    )
    try:
        found = call.op.compute_output_spec(*args, **kwargs)
        flat = keras.tree.flatten(found)
        known = not any(_is_open(specs[t].shape) for t in call.inputs)
        if known and any(_is_open(x.shape) for x in flat):
            # An EinsumDense tells what it was built with.
            compute = keras.Operation.compute_output_spec
            found = compute(call.op, *args, **kwargs)
        return found
    except Exception as error:
        shapes = [tuple(specs[t].shape) for t in call.inputs]
        raise ValueError(
            f"`input_shape` does not fit layer '{call.path}' (of type "
            f"{type(call.op).__name__}), which gets {shapes}: {error}"
        ) from error


def _look_in_again(
    scope: Scope, calls: list[Call], specs: dict[Tensor, keras.KerasTensor]
) -> None:
    """Look into a layer at the sizes that it gets, for those of its parts.

    Args:
        scope: the call of the layer, which was looked into at other sizes.
        calls: what it is made of.
        specs: what goes in; gets what its calls put out.
    """
    opened = scope.site.opened
    assert opened is not None
    shapes = [tuple(specs[tensor].shape) for tensor in scope.inputs]
    within = {id(s.site.op) for c in calls for s in c.scopes if s.site.opened}
    kinds = [type(call.op) for call in calls]

    def see(node: Node, owned: bool) -> Opened | None:
        if id(node.operation) not in within:
            return None
        given = [tuple(x.shape) for x in node.input_tensors]
        return next(at_shapes(node, node.operation, given), None)

    for found in at_shapes(scope.site.node, opened.twin, shapes):
        again = read(found.model, see)
        if [type(call.op) for call in again.calls] != kinds:
            continue
        samples = _samples(scope.site.node, again)
        inside = _inferred_or_recorded(again, samples)
        for call, other in zip(calls, again.calls, strict=True):
            for tensor, told in zip(call.outputs, other.outputs, strict=True):
                shape = _of_each_sample(inside[told], samples)
                specs[tensor] = keras.KerasTensor(_some(shape, 1), told.dtype)
        return
    raise ValueError(
        f"The output of layer '{calls[0].path}' for inputs of the shapes "
        f"{shapes} is unknown: '{scope.site.name}' (of type "
        f"{type(scope.site.op).__name__}) can't be seen through for these. "
        "Pass other sizes."
    )


def _samples(node: Node, graph: Graph) -> int:
    """For how many samples a layer was looked into; 1 if that is open."""
    pairs = zip(node.input_tensors, graph.inputs, strict=True)
    found = (b.shape[0] for a, b in pairs if a.shape[0] is None)
    return next(found, 1) or 1


def _inferred_or_recorded(graph: Graph, samples: int) -> Shapes:
    """The shapes for so many samples; those recorded where a call tells none.

    That was at the same sizes.
    """

    def told(tensor: Tensor) -> keras.KerasTensor:
        return keras.KerasTensor(_some(tensor.shape, samples), tensor.dtype)

    specs = {tensor: told(tensor) for tensor in graph.inputs}
    for call in graph.calls:
        try:
            _infer(call, specs)
        except ValueError:
            specs.update((tensor, told(tensor)) for tensor in call.outputs)
    return {tensor: tuple(spec.shape) for tensor, spec in specs.items()}


def _of_each_sample(shape: Shape, samples: int) -> Shape:
    """A shape with the rows for one sample, from that for some of them."""
    if not shape or shape[0] is None or shape[0] % samples:
        return shape
    rows = shape[0] // samples
    return (None if rows == 1 else rows, *shape[1:])


def _tell_rows(graph: Graph, shapes: Shapes) -> None:
    """Put the number of rows for each sample in place of a batch's size.

    No size is open but that of the batch. A tensor has it on one axis, and as
    often as what it is made of, unless values go from that axis to others.
    """
    rows = dict.fromkeys(graph.inputs, 1)
    for call in graph.calls:
        most = max((rows.get(x, 1) for x in call.inputs), default=1)
        for tensor in call.outputs:
            shape, count = shapes[tensor], most
            if isinstance(call.op, _MOVES) and shape.count(None) == 1:
                before = shapes[call.inputs[0]]
                count = most * _known(before) // max(1, _known(shape))
            rows[tensor] = count
    batch = graph.inputs[0].shape[0] if graph.inputs else None
    for tensor, count in rows.items():
        shape = shapes[tensor]
        if batch is not None:
            shapes[tensor] = _of_each_sample(shape, batch)
        elif count != 1 or (shape.count(None) == 1 and shape[:1] != (None,)):
            shapes[tensor] = tuple(count if s is None else s for s in shape)


def _known(shape: Shape) -> int:
    return math.prod(size for size in shape if size is not None)


def _by_input(graph: Graph, input_shape: Any) -> list[Shape]:
    """The full shape of each input, in the model's order."""
    names = [kt.name for kt in graph.functional.inputs]
    if isinstance(input_shape, dict):
        given = [input_shape.get(name) for name in names]
        strangers = [n for n in input_shape if n not in names]
    else:
        if not isinstance(input_shape, (tuple, list)):
            input_shape = (input_shape,)
        nested = any(isinstance(s, (tuple, list)) for s in input_shape)
        given = list(input_shape) if nested else [input_shape]
        strangers = given[len(names) :]
    if strangers or len(given) != len(names):
        raise ValueError(
            "`input_shape` does not match the inputs of model "
            f"'{graph.model.name}'. Received: {input_shape!r}. Expected: a "
            f"shape for each of {names}, as a list in this order or a dict."
        )
    return [
        _filled(tensor.shape, shape, name)
        for tensor, shape, name in zip(graph.inputs, given, names, strict=True)
    ]


def _filled(shape: Shape, sizes: Shape | None, name: str) -> Shape:
    """A recorded shape with its open sizes filled in."""
    if sizes is None:
        return shape
    fits = len(sizes) == len(shape) - 1 and all(
        own in (None, size) for own, size in zip(shape[1:], sizes, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`input_shape` does not fit input '{name}'. Received: "
            f"{tuple(sizes)}. Expected: {shape[1:]}, without the batch axis, "
            "with sizes for None."
        )
    return (shape[0], *sizes)
