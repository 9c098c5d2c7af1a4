"""The arrays of each layer at its final size."""

import keras
import numpy as np

from keras_gates.surgeon import graph as gr
from keras_gates.surgeon.decide import merge_target


class Weights:
    """Cuts, absorbs and scales the weights of one decision.

    Constants that go are absorbed in terms of the original kernel; factors
    of gates come after, and the cut comes last.
    """

    def __init__(self, decision, folds):
        self.decision = decision
        self.folds = folds
        self.shifts = {}
        self._steps = {}
        for step in decision.labelling.steps:
            if step.position is None:
                self._steps.setdefault(id(step.call.op), []).append(step)

    def index(self, step):
        """The kept positions along each role of a step."""
        return {
            role: np.flatnonzero(self.decision.mask(ids))
            for role, ids in step.flow.roles.items()
        }

    def of(self, step):
        """`(arrays by name, changes to the config)` of a layer.

        Empty where the layer creates its weights in layers of its own.
        """
        layer = step.call.op
        if not isinstance(layer, keras.Layer) or gr.has_sublayers(layer):
            return {}, {}
        arrays = {
            w.name: keras.ops.convert_to_numpy(w) for w in layer.weights
        }
        if len(arrays) != len(layer.weights):
            return {}, {}
        extra = self._absorb(step, arrays)
        axes = step.rule.axes_of(step.call)
        index = self.index(step)
        for name in arrays:
            roles = axes.get(name, ())
            array = self._scaled(step, name, roles, arrays[name])
            arrays[name] = _cut(array, roles, index, step.flow.roles)
        return arrays, extra

    def _scaled(self, step, name, roles, array):
        for role, factor in self.folds.factors.get(
            (id(step.call.op), name), ()
        ):
            axis = array.ndim - len(roles) + roles.index(role)
            shape = [1] * array.ndim
            shape[axis] = -1
            array = array * factor.reshape(shape).astype(array.dtype)
        return array

    # Constants -----------------------------------------------------------

    def _absorb(self, step, arrays):
        """Fold known inputs that go into the weights; config changes."""
        layer = step.call.op
        shift = self.shifts.pop(id(layer), None)
        if shift is not None:
            mean = arrays["moving_mean"]
            arrays["moving_mean"] = (mean - shift).astype(mean.dtype)
        reads = self.decision.absorbing.get(id(layer))
        if reads is None or "in" not in step.flow.roles:
            return {}
        kept = self.decision.mask(step.flow.roles["in"])
        gone = np.where(kept | np.isnan(reads.values), 0.0, reads.values)
        if not gone.any():
            return {}
        if reads.mode == "merge":
            self._merge(step, arrays, gone)
            return {}
        return self._add_bias(step, arrays, gone)

    def _merge(self, step, arrays, gone):
        """Give one constant input the kernel slices of all others."""
        _, position = merge_target(self.decision, step)
        reads = self.decision.absorbing[id(step.call.op)]
        share = gone / reads.values[position]
        share[position] = 1.0
        for name, roles in step.rule.axes_of(step.call).items():
            if "in" in roles and name in arrays:
                array = arrays[name]
                axis = array.ndim - len(roles) + roles.index("in")
                moved = np.moveaxis(array, axis, 0).astype("float64")
                moved[position] = np.tensordot(share, moved, 1)
                moved = moved.astype(array.dtype)
                arrays[name] = np.moveaxis(moved, 0, axis)

    def _add_bias(self, step, arrays, gone):
        call = step.call
        added = step.rule.contribution(call, gone)
        if "bias" in arrays:
            bias = arrays["bias"]
            arrays["bias"] = (bias + added).astype(bias.dtype)
            return {}
        norm = self._norm_behind(step)
        if norm is not None:
            for role, factor in self.folds.factors.get(
                (id(call.op), step.rule.kernel), ()
            ):
                if role == "out":
                    added = added * factor
            self.shifts[id(norm)] = added
            return {}
        kernel = arrays[step.rule.kernel]
        arrays["bias"] = added.astype(kernel.dtype)
        return {"use_bias": True}

    def _norm_behind(self, step):
        """The BatchNormalization that alone reads a layer's output."""
        readers = [
            s
            for s in step.outputs[0].consumers
        ]
        if len(readers) != 1 or len(self._steps[id(step.call.op)]) != 1:
            return None
        call = readers[0]
        norm = call.op
        alone = len(self._steps.get(id(norm), ())) == 1
        training = call.kwargs.get("training") is True
        if (
            type(norm) is keras.layers.BatchNormalization
            and alone
            and not training
            and step.outputs[0] not in self.decision.labelling.graph.outputs
        ):
            return norm
        return None

    # The rest ------------------------------------------------------------

    def finish(self, old, new):
        """Set the weights that creation left, and the random states."""
        if gr.has_sublayers(old) or len(
            {w.name for w in old.weights}
        ) != len(old.weights):
            _copy(old, new)
        for before, after in zip(gr.seed_states(old), gr.seed_states(new)):
            after.assign(before)


def _copy(old, new):
    if [w.shape for w in old.weights] != [w.shape for w in new.weights]:
        raise ValueError(
            f"Layer '{old.name}' (of type {type(old).__name__}) has other "
            "weights when it is recreated from its config: "
            f"{[tuple(w.shape) for w in new.weights]} instead of "
            f"{[tuple(w.shape) for w in old.weights]}. Its `get_config()` "
            "must return every argument of its constructor."
        )
    for before, after in zip(old.weights, new.weights):
        after.assign(before)


def _cut(array, roles, index, units):
    """Keep the positions of each role along its axis; a copy in any case."""
    whole = True
    for offset, role in enumerate(roles):
        if role is None or role not in index:
            continue
        if len(index[role]) < len(units[role]):
            axis = array.ndim - len(roles) + offset
            array = np.take(array, index[role], axis)
            whole = False
    # Arrays that JAX or torch hand out share memory with the old model.
    return np.array(array) if whole else array
