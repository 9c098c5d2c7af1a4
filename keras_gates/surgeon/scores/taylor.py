"""The first-order Taylor criterion: what the loss does without a channel.

For a gate of factor `a` on a tensor, the loss changes by about
`-a * dL/da` when the gate closes (Molchanov et al. 2017,
https://arxiv.org/abs/1611.06440).
"""

import keras
import numpy as np
from keras import ops

from keras_gates.surgeon import groups
from keras_gates.surgeon.gated import with_gates
from keras_gates.surgeon.rewrite import rewrite
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.gates import GateRule
from keras_gates.surgeon.scores.probes import Nudge

_L = keras.layers
_RANDOM = (
    *(_L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D),
    *(_L.SpatialDropout3D, _L.AlphaDropout),
    *(_L.GaussianDropout, _L.GaussianNoise),
)


def of_groups(graph, batches, loss):
    """`sum |a * dL/da|` over batches of each unit, and over its places."""
    nudges = []

    def nudged(gate, x):
        nudge = Nudge(gate.axis)
        nudges.append((gate, nudge))
        return nudge(x)

    model = with_gates(graph, nudged, _without_noise)
    found = _gradients(model, [nudge for _, nudge in nudges], batches, loss)
    sums = np.zeros(groups.size(graph))
    for (gate, _), values in zip(nudges, found, strict=True):
        inside = gate.units >= 0
        np.add.at(sums, gate.units[inside], values[inside])
    return sums


def of_gates(graph, batches, loss):
    """`{path: sum |a * dL/da|}` over batches, of the factors of each gate."""
    sites, nudges = {}, {}
    for call in graph.calls:
        if isinstance(rule_of(call), GateRule):
            sites.setdefault(id(call.op), call)

    def nudged(recall):
        call = sites.get(id(recall.op))
        if call is None:
            return _without_noise(recall)
        if call.path not in nudges:
            nudges[call.path] = Nudge(getattr(recall.op, "axis", None))
        return nudges[call.path](recall())

    model = rewrite(graph, nudged)
    found = _gradients(model, list(nudges.values()), batches, loss)
    return dict(zip(nudges, found, strict=True))


def _without_noise(recall):
    """Dropout passed over: scores are for the network in inference."""
    return recall.args[0] if isinstance(recall.op, _RANDOM) else None


def _gradients(model, nudges, batches, loss):
    """`sum |dL/dnudge|` over batches, an array for each.

    A step of plain SGD at rate 1 from zero is the gradient, on any backend.
    Frozen normalisations use their moving statistics.
    """
    own = {id(nudge) for nudge in nudges}
    for layer in model._flatten_layers(include_self=False):
        if id(layer) not in own and not layer._layers:
            layer.trainable = False
    sgd = keras.optimizers.SGD(1.0)
    model.compile(optimizer=sgd, loss=loss, auto_scale_loss=False)
    sums = [np.zeros(nudge.nudge.shape) for nudge in nudges]
    for x, y in batches:
        for nudge in nudges:
            nudge.nudge.assign(np.zeros(nudge.nudge.shape))
        model.train_on_batch(x, y)
        for total, nudge in zip(sums, nudges, strict=True):
            total += np.abs(ops.convert_to_numpy(nudge.nudge))
    return sums
