"""Make the smaller model: each layer once, at its final size."""

import collections
import contextlib
import dataclasses

import keras
import numpy as np

from keras_gates.surgeon import graph as gr
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon import weights as wt
from keras_gates.surgeon.analysis import Selection
from keras_gates.surgeon.rules.merge import Merge
from keras_gates.surgeon.rules.rule import IDENTITY


@dataclasses.dataclass
class View:
    """What a rule may ask when it revises a call."""

    decision: object
    step: object
    index: dict

    @property
    def inputs(self):
        return [self.decision.labelling.labels[t] for t in self.step.inputs]

    def masks(self, labels):
        return self.decision.masks(labels)

    def shape(self, tensor, labels):
        """The shape of a tensor when only what is kept is left."""
        return cut_shape(tensor.shape, self.masks(labels))


def cut_shape(shape, masks):
    return tuple(
        int(mask.sum()) if len(mask) > 1 else size
        for size, mask in zip(shape, masks)
    )


class Builder:
    """Builds new models from a decision and its folded factors.

    Args:
        decision: the `Decision` for the flat graph.
        folds: the `Folds`: factors by weight, and gates that stay as a
            scale.
    """

    def __init__(self, decision, folds):
        self.decision = decision
        self.labelling = decision.labelling
        self.folds = folds
        self.weights = wt.Weights(decision, folds)
        self.operations = {}
        self.models = {}
        self.steps = {}
        sites = {id(s.site): id(s.call.op) for s in self.labelling.steps}
        self._sites = collections.Counter(sites.values())
        self._names = {s.call.op.name for s in self.labelling.steps}
        self._replaced = set()
        self._called = {scope.site for scope in decision.called}
        for step in self.labelling.steps:
            if step in decision.present:
                self.steps.setdefault(step.key, step)

    def model(self, graph, inputs=None):
        """The new model of a graph; nested ones are asked for by `inputs`,
        the flat tensors that their inputs are in the first scope."""
        if id(graph.model) in self.models:
            return self.models[id(graph.model)]
        tensors = {}
        for kt, tensor in zip(graph.functional.inputs, inputs):
            tensors[id(kt)] = self._input(kt, tensor)
        if isinstance(graph.model, keras.Sequential):
            new = self._sequential(graph, tensors)
        else:
            new = None
        if new is None:
            new = self._functional(graph, tensors)
        gr.copy_trainable(graph.model, new)
        gr.mark_called(new)
        self.models[id(graph.model)] = new
        return new

    def _input(self, kt, tensor):
        """A new input of a model, narrower if what feeds it is."""
        layer = gr.input_layer(kt)
        config = layer.get_config()
        masks = self.decision.masks(self.labelling.labels[tensor])
        shape = cut_shape(tuple(kt.shape), masks)
        key = "batch_shape" if "batch_shape" in config else "batch_input_shape"
        return type(layer).from_config({**config, key: shape}).output

    def _functional(self, graph, tensors):
        for site in graph.sites:
            self._site(site, tensors)
        inputs, outputs = gr.structures(graph.model)
        pick = lambda kt: tensors[id(kt)]  # noqa: E731
        return keras.Model(
            keras.tree.map_structure(pick, inputs),
            keras.tree.map_structure(pick, outputs),
            name=graph.model.name,
        )

    def _sequential(self, graph, tensors):
        """A Sequential again, if what is left is a chain of layers."""
        pieces = []
        for site in graph.sites:
            if site.child is not None:
                inner = self._nested(site)
                pieces.append((inner, None, {}))
                continue
            step = self.steps.get((id(site), None))
            selection = self.steps.get((id(site), 0))
            if selection is not None and self._gathers(selection):
                return None
            if step is None:
                return None
            pieces += self._pieces(step)
        if not all(isinstance(p[0], keras.Layer) for p in pieces):
            return None
        start = [gr.input_layer(t) for t in tensors.values()]
        with contextlib.ExitStack() as stack:
            for op, outputs, arrays in pieces:
                if not isinstance(op, keras.Model):
                    stack.enter_context(gr.prepared(op, outputs, arrays))
            layers = start + [p[0] for p in pieces]
            new = keras.Sequential(layers, name=graph.model.name)
        for site in graph.sites:
            if site.child is None:
                self._finish(site.op)
        return new

    def _nested(self, site):
        return self.model(site.child, site.child.bounds[0])

    def _site(self, site, tensors):
        """Carry one recorded call over to the new graph."""
        node = site.node
        if site.child is not None:
            if site not in self._called:
                return
            inner = self._nested(site)
            args, kwargs = node.arguments.convert(
                lambda x: tensors[id(x)]
                if isinstance(x, keras.KerasTensor)
                else x
            )
            outputs = keras.tree.flatten(inner(*args, **kwargs))
            for kt, new in zip(node.outputs, outputs):
                tensors[id(kt)] = new
            return
        step = self.steps.get((id(site), None))
        if step is None:
            return
        own = {
            id(t): tensors.get(id(kt))
            for t, kt in zip(step.call.inputs, node.input_tensors)
        }
        selection = self.steps.get((id(site), 0))
        if selection is not None:
            first = id(step.call.inputs[0])
            own[first] = self._gather(selection, own[first])
        outputs = self._step(step, own)
        for kt, new in zip(node.outputs, outputs):
            tensors[id(kt)] = new

    # One call ------------------------------------------------------------

    def _step(self, step, own):
        if isinstance(step.rule, Merge) or step.key in self.decision.dropped:
            return self._merge(step, own)
        x = None
        pieces = self._pieces(step)
        for number, (op, outputs, arrays) in enumerate(pieces):
            if number == 0 and not step.is_gate:
                _, args, kwargs = self._revised(step)
                x = self._call(op, args, kwargs, own, outputs, arrays)
            else:
                before = own[id(step.call.inputs[0])] if x is None else x[0]
                x = self._call(op, (before,), {}, {}, outputs, arrays)
        if x is None:
            x = [own[id(step.call.inputs[0])]]
        self._finish(step.call.op)
        return x

    def _call(self, op, args, kwargs, own, outputs, arrays):
        args, kwargs = keras.tree.map_structure(
            lambda a: own.get(id(a), a), (args, kwargs)
        )
        with gr.prepared(op, outputs, arrays):
            return keras.tree.flatten(op(*args, **kwargs))

    def _pieces(self, step):
        """`(operation, output spec, arrays)` that a call turns into."""
        if step.is_gate:
            return self._scale(step)
        config, _, _ = self._revised(step)
        op, arrays = self._operation(step, config)
        return [(op, self._spec(step), arrays)]

    def _revised(self, step):
        index = self.weights.index(step)
        view = View(self.decision, step, index)
        if not self._touched(step):
            return {}, step.call.args, step.call.kwargs
        return step.rule.revise(step.call, step.flow, view)

    def _touched(self, step):
        labels = [self.labelling.labels[t] for t in step.inputs]
        return not all(
            self.decision.mask(x).all() for x in labels + step.flow.labels
        )

    def _spec(self, step):
        """The output of a call with one output; None leaves it to Keras."""
        node = step.site.node
        if len(node.outputs) != 1 or gr.has_sublayers(step.call.op):
            return None
        kt = node.outputs[0]
        masks = self.decision.masks(step.flow.labels[0])
        return keras.KerasTensor(
            cut_shape(tuple(kt.shape), masks), kt.dtype, kt.sparse
        )

    def _operation(self, step, config):
        """The new operation, and the weights it is to be created with."""
        old = step.call.op
        if id(old) in self.operations:
            return self.operations[id(old)], {}
        arrays, extra = self.weights.of(step)
        new = gr.recreate(old, gr.merged(config, extra))
        self.operations[id(old)] = new
        return new, arrays

    def _finish(self, old):
        """Copy what creation did not set, and check that all is there."""
        new = self.operations.get(id(old))
        if not isinstance(old, keras.Layer) or new is None:
            return
        self.weights.finish(old, new)

    # Gates, merges, gathers ----------------------------------------------

    def _scale(self, step):
        """What is left of a gate: nothing, or a stock Rescaling."""
        vector = self.folds.scales.get(step.key)
        if vector is None:
            return []
        labels = step.flow.labels[0]
        return [self._affine(step, labels, vector, 0.0, step.call.op.name)]

    def _affine(self, step, labels, scale, offset, name):
        """`scale * x + offset`, as a Rescaling wherever it has one axis."""
        name = self._unique(step, name)
        masks = self.decision.masks(labels)
        scale, offset = (
            self._cut(np.asarray(a, "float64"), masks) for a in (scale, offset)
        )
        rank = labels.ndim
        vectors = [a for a in (scale, offset) if a.size > 1]
        last = all(a.size == a.shape[-1] for a in vectors)
        plain = keras.config.image_data_format() == "channels_last"
        dtype = getattr(step.call.op, "dtype_policy", None)
        if not vectors or (last and plain):
            layer = keras.layers.Rescaling(
                _listed(scale), _listed(offset), name=name, dtype=dtype
            )
            return layer, self._spec(step), {}
        _ = rank
        return _Affine(scale, offset), None, {}

    def _unique(self, step, name):
        """`name`, unless something else has it: a shared operation may leave
        something behind at each of its calls."""
        op = step.call.op
        alone = step.is_gate or self._sites[id(op)] == 1
        if alone and name == op.name and id(op) not in self._replaced:
            self._replaced.add(id(op))
            return name
        unique, count = name, 1
        while unique in self._names:
            unique, count = f"{name}_{count}", count + 1
        self._names.add(unique)
        return unique

    def _cut(self, array, masks):
        for axis in range(array.ndim):
            if array.shape[axis] == len(masks[axis]) > 1:
                array = array.compress(masks[axis], axis)
        return array

    def _merge(self, step, own):
        """A merge or a concatenation, without the operands that went."""
        call = step.call
        gone = self.decision.dropped.get(step.key, ())
        left = [t for i, t in enumerate(call.inputs) if i not in gone]
        name = call.op.name
        if len(left) > 1 or not gone:
            config, args, kwargs = self._revised(step)
            op, arrays = self._operation(step, config)
            if gone:
                args, kwargs = _without(args, kwargs, call.inputs, gone)
            x = self._call(op, args, kwargs, own, self._spec(step), arrays)
            name = f"{name}_rest"
        else:
            x = [own[id(left[0])]]
        if not gone or not isinstance(step.rule, Merge):
            return x
        constants = {
            i: self.decision.values[step.inputs[i]].plain() for i in gone
        }
        labels = step.flow.labels[0]
        for i, array in constants.items():
            kept = self.decision.mask(self.labelling.labels[step.inputs[i]])
            constants[i] = np.where(kept, array, 0.0)
        scale, offset = step.rule.without(constants, len(call.inputs))
        if np.all(scale == 1) and np.all(offset == 0):
            return x
        op, spec, _ = self._affine(step, labels, scale, offset, name)
        return self._call(op, (x[0],), {}, {}, spec, {})

    def _gathers(self, selection):
        tensor = selection.inputs[0]
        labels = self.labelling.labels[tensor]
        source = self.decision.mask(labels)
        wanted = self.decision.mask(selection.flow.labels[0])
        if source.size == wanted.size:
            return bool((source != wanted).any())
        return not wanted.all()

    def _gather(self, selection, x):
        """`keras.ops.take`, where a reader wants fewer channels."""
        if not self._gathers(selection):
            return x
        wanted = self.decision.mask(selection.flow.labels[0])
        axis = lb.varying(selection.flow.labels[0])[0]
        labels = self.labelling.labels[selection.inputs[0]]
        source = np.broadcast_to(self.decision.mask(labels), wanted.shape)
        position = np.cumsum(source.reshape(-1)) - 1
        indices = position[wanted.reshape(-1)]
        # `keras.ops.take`, with a name that two runs agree on.
        take = gr.operation("numpy.Take")(axis=axis)
        name = f"{selection.call.op.name}_channels"
        take.name = self._unique(selection, name)
        return take(x, indices.tolist())


class _Affine:
    """A scale and an offset on an axis that Rescaling does not speak of."""

    def __init__(self, scale, offset):
        self.scale = scale
        self.offset = offset

    def __call__(self, x):
        scale, offset = (
            np.asarray(a, x.dtype) for a in (self.scale, self.offset)
        )
        if np.any(scale != 1):
            x = keras.ops.multiply(x, scale)
        # On TensorFlow `keras.ops.add` takes a vector along any axis for a
        # bias of the last one if that is as long; `subtract` does not.
        return keras.ops.subtract(x, -offset) if np.any(offset != 0) else x


def _listed(array):
    return float(array.reshape(-1)[0]) if array.size == 1 else array.reshape(
        -1
    ).tolist()


def _without(args, kwargs, inputs, gone):
    """Arguments with the operands at positions `gone` left out."""
    drop = {id(inputs[i]) for i in gone}

    def prune(x):
        if isinstance(x, (list, tuple)):
            return type(x)(prune(i) for i in x if id(i) not in drop)
        return x

    return prune(tuple(args)), {k: prune(v) for k, v in kwargs.items()}


_ = (Selection, IDENTITY)
