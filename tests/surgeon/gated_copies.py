"""Ready-made networks, with gates and with weights worth comparing.

For the tests of keras.applications and for benchmarks/coverage.py.
"""

import keras
import numpy as np
from keras import layers as L
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.ops.numpy import Add

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.materialize import with_gates
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.rules import rule_of
from tests import helpers

# Behind these, a closed channel is a constant other than zero further on, ...
BEFORE = (
    *(L.Conv1D, L.Conv2D, L.Conv3D, L.Conv2DTranspose),
    *(L.DepthwiseConv2D, L.SeparableConv2D, L.Dense),
)
# ... and after these it is zero.
AFTER = (L.BatchNormalization, L.Activation, L.ReLU, L.LeakyReLU)
# One size for all runs: JAX compiles each operation for each shape.
BATCH = 4
# Statistics of fewer, on maps of 2x2, fit no other inputs: EfficientNetB7
# came to activations of 1,000, and made 0.3 of a nudge of 1e-7.
SETTLE = 32
ADDITIONS = (L.Add, Add, CustomScaleLayer)


def disturb(model, rng):
    """Draw all shifts and scales, as training could have left them."""
    for layer in helpers.layers_of(model):
        if isinstance(layer, L.Normalization):
            continue  # it takes over its statistics when adapted, not before
        for weight in layer.weights:
            # A LayerScale begins so near 0 that its branch would not count,
            # and its weight has no name.
            kind = weight.path.rpartition("/")[2]
            if len(weight.shape) == 1 and not kind.startswith("moving"):
                middle = 0.0 if kind in ("beta", "bias") else 1.0
                weight.assign(middle + rng.normal(0, 0.2, weight.shape))
    _calm(model)


def _norms(model):
    return [
        layer
        for layer in helpers.layers_of(model)
        if isinstance(layer, L.BatchNormalization | L.LayerNormalization)
    ]


def _calm(model):
    """Make residual branches small, as a trained network has them.

    Where each block changes its stream as much as it passes on, a deep
    network magnifies rounding until its outputs say nothing.
    """
    ops = gr.functional_of(model).operations
    additions = [op for op in ops if isinstance(op, ADDITIONS)]
    for op in additions:
        operands = op._inbound_nodes[0].input_tensors
        branch = operands[_branch(operands)]
        _calm_source(branch, min(0.25, 2 / len(additions)))


def _calm_source(tensor, factor):
    """Scale down the normalization that a summand comes from, if any."""
    op = tensor._keras_history.operation
    while isinstance(op, L.Dropout):
        op = op._inbound_nodes[0].input_tensors[0]._keras_history.operation
    if isinstance(op, L.BatchNormalization):
        for weight in (op.gamma, op.beta):
            if weight is not None:
                weight.assign(factor * helpers.numpy_of(weight))


def settle(model, rng):
    """Take the statistics of the model's own activations, moved a little.

    With those of another model, one whose gates are open, a deep network
    hardly passes on what distinguishes its inputs.
    """
    norms = [n for n in _norms(model) if isinstance(n, L.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(inputs(model, SETTLE, rng), training=True)
    elif not _norms(model):
        _center(model, rng)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        _move(norm, rng)


def _center(chain, rng):
    """Do for a chain of layers what normalizations would do.

    Without them, ReLU by ReLU, all inputs come to lead to the same outputs.
    """
    x = inputs(chain, BATCH, rng)
    for layer in chain.layers[1:]:
        if isinstance(layer, BEFORE):
            own, layer.activation = layer.activation, keras.activations.linear
            y = helpers.numpy_of(layer(x))
            layer.activation = own
            axes = tuple(range(y.ndim - 1))
            scale = 1 / np.sqrt(y.var(axes) + 0.1 * y.var())
            shift = rng.normal(0, 0.1, scale.shape) - scale * y.mean(axes)
            bias = scale * helpers.numpy_of(layer.bias) + shift
            layer.kernel.assign(scale * helpers.numpy_of(layer.kernel))
            layer.bias.assign(bias)
        x = layer(x)


def _move(norm, rng):
    mean = helpers.numpy_of(norm.moving_mean)
    variance = helpers.numpy_of(norm.moving_variance)
    # A channel that a gate has closed has no variance to divide by.
    variance = np.maximum(variance, 0.1 * variance.mean() + 1e-6)
    shift = 0.1 * np.sqrt(variance) * rng.normal(size=mean.shape)
    norm.moving_mean.assign(mean + shift)
    norm.moving_variance.assign(variance)


def inputs(model, count, rng):
    """Random inputs in the range that the network takes.

    One that scales its inputs itself wants pixels up to 255: it would make
    next to nothing of smaller numbers, and its output would not vary.
    """
    scaling = (L.Rescaling, L.Normalization)
    scaled = any(isinstance(layer, scaling) for layer in model.layers[:4])

    def sample(kt):
        x = rng.normal(size=(count, *kt.shape[1:]))
        x = np.clip(128 + 64 * x, 0, 255) if scaled else x
        return x.astype("float32")

    return keras.tree.map_structure(sample, gr.structures(model)[0])


def with_filter_gates(model, types):
    """The model with a gate after each layer of these types but the last."""
    last = {kt._keras_history.operation.name for kt in model.outputs}

    def call(op, *args, **kwargs):
        x = op(*args, **kwargs)
        if isinstance(op, types) and op.name not in last:
            x = kg.FilterGate(name=f"gate_{op.name}")(x)
        return x

    return _again(model, call)


def with_branch_gates(model):
    """The model with a gate on the branch of each residual addition.

    In a network that adds nothing, on the last operand of each Concatenate.
    """
    ops = gr.functional_of(model).operations
    adds = any(isinstance(op, ADDITIONS) for op in ops)
    kinds, pick = (ADDITIONS, _branch) if adds else (L.Concatenate, _last)

    def call(op, *args, **kwargs):
        operands = keras.tree.flatten(args)
        tensors = [isinstance(x, keras.KerasTensor) for x in operands]
        if isinstance(op, kinds) and all(tensors) and len(operands) > 1:
            side = pick(operands)
            gate = kg.BranchGate(name=f"gate_{op.name}")
            operands[side] = gate(operands[side])
            args = keras.tree.pack_sequence_as(args, operands)
        return op(*args, **kwargs)

    return _again(model, call)


def _again(model, call):
    """A model of the same layers, called in another way.

    They are shared, since not every layer can be made from its config.
    """
    return keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call
    )


def _last(operands):
    return len(operands) - 1


def _branch(operands):
    """The operand with most operations that the others don't come from."""
    behind = [_behind(x) for x in operands]
    own = []
    for number, ops in enumerate(behind):
        others = behind[:number] + behind[number + 1 :]
        own.append(len(ops.difference(*others)))
    return int(np.argmax(own))


def _behind(tensor):
    """The ids of all operations that a symbolic tensor comes from."""
    found, todo = set(), [tensor]
    while todo:
        history = todo.pop()._keras_history
        if id(history.operation) not in found:
            found.add(id(history.operation))
            node = history.operation._inbound_nodes[history.node_index]
            todo += node.input_tensors
    return found


def close_groups(model, rng, share=0.5):
    """Close this share of the coupled groups of channels; never a gate whole.

    The channels that an addition ties go together, as they have to if any
    of them is to go.
    """
    labelling = label(gr.read(model))
    shut = rng.random(len(labelling.classes)) < share
    for step in labelling.steps:
        if not step.is_gate:
            continue
        ids = step.flow.roles.get("channel")
        classes = labelling.classes[ids]
        # Unit 0 is never removed: its channels have no group.
        alone = rng.random(len(ids)) < share
        mask = np.where(ids == 0, alone, shut[classes])
        if mask.all():
            mask[0] = False
            shut[classes[0]] = False
        open_ = rng.uniform(0.7, 1.3, len(ids))
        step.call.op.factor.assign(np.where(mask, 0.0, open_))


def close_branches(model, rng, share=0.4):
    """Close this share of the branches altogether, one at least."""
    gates = helpers.gates_of(model)
    count = max(1, round(share * len(gates))) if gates else 0
    gone = rng.permutation(len(gates))[:count]
    for number, gate in enumerate(gates):
        gate.factor.assign(0.0 if number in gone else rng.uniform(0.7, 1.3))


def gated_model(graph, closed):
    """A copy of a graph's model in which closed units are multiplied by 0.

    Those of a recurrent layer are zero for the layer itself, too.

    Args:
        graph: the `Graph` with its virtual gates.
        closed: `{name of a group: mask}`.
    """
    masks = groups.masks(graph, closed)
    loops = {id(c.op): c for c in graph.calls if c.op in graph.loops}

    def gated(virtual, x):
        gate = kg.FilterGate(axis=virtual.axis)
        y = gate(x)
        gate.factor.assign(np.where(masks[virtual], 0.0, 1.0))
        return y

    def silenced(recall):
        call = loops.pop(id(recall.op), None)
        if call is None:
            return None
        outputs = recall()
        for part in rule_of(call).parts(recall.copy()):
            rows = ~masks[recall.op].reshape(-1, 1)
            part.recurrent_kernel.assign(part.recurrent_kernel * rows)
        return outputs

    return with_gates(graph, gated, silenced)
