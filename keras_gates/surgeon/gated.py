"""A model with real gates where a graph has virtual ones."""

import keras
import numpy as np

from keras_gates.layers.filter_gate import FilterGate
from keras_gates.surgeon import groups
from keras_gates.surgeon.rewrite import rewrite


def gated_model(graph, closed):
    """A copy of a graph's model in which closed units are multiplied by 0.

    Args:
        graph: the `Graph` with its virtual gates.
        closed: `{name of a group: mask}`.
    """
    masks = groups.masks(graph, closed)

    def edit(recall):
        behind = recall.site.behind
        if not behind:
            return None
        outputs = recall()
        flat = keras.tree.flatten(outputs)
        for number, site in behind.items():
            gate = FilterGate(axis=site.op.axis)
            flat[number] = gate(flat[number])
            gate.factor.assign(np.where(masks[id(site.op)], 0.0, 1.0))
        return keras.tree.pack_sequence_as(outputs, flat)

    return rewrite(graph, edit)
