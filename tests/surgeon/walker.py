"""Runs a user's own model, call by call, without the surgeon.

`run` walks the nodes that Keras recorded, nested models included, and hands
what each call puts out to a hook, which may change it. That is enough to
close channels (multiply them by 0 where they are read), and to find out by
trying which channels of which tensor come from which layer.
"""

import dataclasses

import keras
from keras.src.backend.common import masking

from tests import helpers


@dataclasses.dataclass(frozen=True)
class Event:
    """One call of one operation.

    Attributes:
        key: names the recorded node, and the calls of models that it is in.
        path: the names of these models and of the operation, joined by "/".
        op: the layer or operation.
        node: the recorded node.
        reads: the name of each tensor that goes in.
        makes: the name of each tensor that comes out.
    """

    key: tuple
    path: str
    op: object
    node: object
    reads: tuple
    makes: tuple


def nodes_of(functional):
    """The recorded nodes in the order in which they can run."""
    by_depth = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield node


def run(model, x, hook=lambda event, outputs: outputs):
    """The outputs of `model` on `x`, in its own structure.

    Args:
        model: a functional or Sequential model; its own layers are called.
        x: inputs.
        hook: `(Event, [value]) -> [value]`, after each call.
    """
    names = [("input", n) for n in range(len(helpers.functional(model).inputs))]
    return _walk(model, x, names, hook, (), "")[0]


def _walk(model, x, given, hook, scope, prefix):
    functional = helpers.functional(model)
    values, names = {}, {}
    flat = functional._standardize_inputs(x)
    for kt, value, name in zip(functional.inputs, flat, given, strict=True):
        values[id(kt)], names[id(kt)] = value, name
    for node in nodes_of(functional):
        op = node.operation
        key, path = (*scope, id(node)), prefix + op.name
        args, kwargs = node.arguments.fill_in(values)
        reads = tuple(names[id(kt)] for kt in node.input_tensors)
        if steps_through(op):
            whole = keras.tree.flatten(_called(op, args, kwargs))
            mask = kwargs.get("mask")
            mask = masking.get_keras_mask(args[0]) if mask is None else mask
            flat, makes = _each_step(
                node, args[0], mask, reads[0], hook, key, f"{path}/"
            )
            # The mask that the user's own call puts out stays with it.
            flat = _with_masks(whole, flat)
        elif is_graph(op):
            (inner,) = [*args, *(v for k, v in kwargs.items() if k == "inputs")]
            _set_masks(inner, kwargs.get("mask"))
            own = reads[: len(helpers.functional(op).inputs)]
            outputs, makes = _walk(op, inner, own, hook, key, f"{path}/")
            flat = keras.tree.flatten(outputs)
        else:
            flat = keras.tree.flatten(_called(op, args, kwargs))
            makes = tuple((key, n) for n in range(len(flat)))
            event = Event(key, path, op, node, reads, makes)
            flat = _with_masks(flat, hook(event, flat))
        for kt, value, name in zip(node.outputs, flat, makes, strict=True):
            values[id(kt)], names[id(kt)] = value, name
    outputs = [values[id(kt)] for kt in functional.outputs]
    struct = functional._outputs_struct
    made = [names[id(kt)] for kt in functional.outputs]
    return keras.tree.pack_sequence_as(struct, outputs), made


class Step:
    """Stands for the slice of a sequence that goes to a model in it."""

    name = "step"


def _each_step(node, x, mask, name, hook, key, prefix):
    """A model at each step of a sequence: each is a call of its own.

    Each has its step of the mask, as `TimeDistributed.call` hands it on.
    """
    model, made, names = node.operation.layer, [], []
    for step in range(x.shape[1]):
        here = (*key, step)
        part = Event(here, f"{prefix}step", Step(), node, (name,), ((here, 0),))
        (sliced,) = hook(part, [x[:, step]])
        _set_masks(sliced, None if mask is None else mask[:, step])
        y, name_of = _walk(model, sliced, [(here, 0)], hook, here, prefix)
        made.append(y)
        names += name_of
    y = keras.ops.stack(made, axis=1)
    whole = Event(key, prefix[:-1], Step(), node, tuple(names), ((key, 0),))
    return hook(whole, [y]), ((key, 0),)


def steps_through(op):
    """Whether a call runs a functional model at each step."""
    return isinstance(op, keras.layers.TimeDistributed) and is_graph(op.layer)


def is_graph(op):
    """Whether a call is one of a model whose own calls are recorded."""
    return isinstance(op, keras.Model) and hasattr(
        helpers.functional(op), "_nodes_by_depth"
    )


def _called(op, args, kwargs):
    """The call in inference, as a functional model makes it."""
    if getattr(op, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    return op(*args, **kwargs)


def _set_masks(inputs, masks):
    """What `Functional.call` does with the masks that it is given."""
    if masks is None:
        return
    pairs = zip(
        keras.tree.flatten(inputs), keras.tree.flatten(masks), strict=True
    )
    for x, mask in pairs:
        if mask is not None:
            masking.set_keras_mask(x, mask)


def _with_masks(before, after):
    """What was changed keeps the mask of time steps that it had."""
    for old, new in zip(before, after, strict=True):
        mask = masking.get_keras_mask(old)
        if new is not old and mask is not None:
            masking.set_keras_mask(new, mask)
    return after


def events_of(model, x):
    """All calls of a model, in order."""
    found = []

    def note(event, outputs):
        found.append(event)
        return outputs

    run(model, x, note)
    return found
