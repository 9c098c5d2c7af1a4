"""A model with real layers where a graph has virtual gates."""

import keras
import numpy as np

from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers.filter_gate import FilterGate
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.rules import rule_of


def gated_model(graph, closed):
    """A copy of a graph's model in which closed units are multiplied by 0.

    Those of a recurrent layer are zero for the layer itself, too.

    Args:
        graph: the `Graph` with its virtual gates.
        closed: `{name of a group: mask}`.
    """
    masks = groups.masks(graph, closed)
    loops = {id(c.op): c for c in graph.calls if id(c.op) in graph.loops}

    def gated(virtual, x):
        gate = FilterGate(axis=virtual.axis)
        y = gate(x)
        gate.factor.assign(np.where(masks[id(virtual)], 0.0, 1.0))
        return y

    def silenced(recall):
        call = loops.pop(id(recall.op), None)
        if call is None:
            return None
        outputs = recall()
        for part in rule_of(call).parts(recall.copy()):
            rows = ~masks[id(recall.op)].reshape(-1, 1)
            part.recurrent_kernel.assign(part.recurrent_kernel * rows)
        return outputs

    return with_gates(graph, gated, silenced)


def with_gates(graph, gated, edit=None):
    """A copy of a graph's model with something at each virtual gate.

    Args:
        graph: the `Graph` with its virtual gates.
        gated: `(virtual gate, tensor) -> tensor`.
        edit: as in `rewrite`, for the calls themselves.
    """

    def both(recall):
        outputs = None if edit is None else edit(recall)
        behind = recall.site.behind
        if not behind:
            return outputs
        outputs = recall() if outputs is None else outputs
        flat = keras.tree.flatten(outputs)
        for number, site in behind.items():
            flat[number] = gated(site.op, flat[number])
        return keras.tree.pack_sequence_as(outputs, flat)

    return rewrite(graph, both, stock=True)
