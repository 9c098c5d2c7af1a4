"""Finds by trial which channels can only be removed together.

Each channel that a layer makes is disturbed in a sample of its own, in one
run of the user's model; what layers with kernels put out is set back, so that
a disturbance ends where channels are read. A coordinate that two disturbances
reach is one that ties two channels. What a weight is shared by (the calls of
a layer, the places in a map, the groups of a convolution) ties channels, too.

A channel is all of its map. Where no disturbance gets to a place of it, since
what is there is a constant (the rim that a padding puts around it) or since all
of them ended in the dead half of a ReLU, the place is the channel's all the
same, unless the inputs get there: then it is disturbed with the channel.
"""

import keras
import numpy as np
from keras import layers as L
from keras import ops

from tests import helpers
from tests.surgeon import random_layers as rl
from tests.surgeon import walker

# Their weights are one for each channel, or none: channels go through them.
PASS = (
    L.BatchNormalization,
    L.DepthwiseConv1D,
    L.DepthwiseConv2D,
    L.PReLU,
    L.LayerNormalization,
    L.GroupNormalization,
    L.RMSNormalization,
    L.UnitNormalization,
    L.Normalization,
    rl.ByPosition,
)
# They read all channels together, and yet each stays in its place.
IN_PLACE = (
    L.LayerNormalization,
    L.GroupNormalization,
    L.RMSNormalization,
    L.UnitNormalization,
    L.Softmax,
)
# Without weights of their own, and yet they read and make channels.
READERS = (L.Attention, L.AdditiveAttention)
ROUNDS, AGAIN = 8, 3
SMALL = 1e-5
# The label of a place that is no channel's.
NOBODY = -1


def base(layer):
    """The layer that does the work inside `TimeDistributed`."""
    if isinstance(layer, L.TimeDistributed):
        return base(layer.layer)
    return layer


def makes_channels(op):
    op = base(op)
    if isinstance(op, READERS):
        return True
    if not isinstance(op, keras.Layer) or hasattr(op, "kind"):
        return False
    return (
        bool(op.weights) and not isinstance(op, PASS) and not _is_depthwise(op)
    )


def _is_depthwise(op):
    """Whether a convolution has one group for each channel that it reads."""
    groups = getattr(op, "groups", 1)
    if groups == 1 or isinstance(op, L.GroupNormalization):
        return False
    return op.kernel.shape[-2] == 1


def is_read(event):
    """Whether a call reads the channels of what goes in."""
    if isinstance(event.op, walker.Step):
        return True
    return makes_channels(event.op) or isinstance(base(event.op), IN_PLACE)


def _masks_of(event):
    """The tensors that a call takes as its mask."""
    given = keras.tree.flatten(event.node.arguments.kwargs.get("mask"))
    given = {id(kt) for kt in given}
    tensors = event.node.input_tensors
    if len(tensors) != len(event.reads):
        return []
    pairs = zip(tensors, event.reads, strict=True)
    return [name for kt, name in pairs if id(kt) in given]


def recurrent_cells(op):
    """The cells whose units a recurrent layer puts out, both ways of two."""
    if isinstance(op, L.Bidirectional):
        ways = [op.forward_layer, op.backward_layer]
        return [c for way in ways for c in recurrent_cells(way)]
    if not isinstance(op, L.RNN):
        return []
    # Of several cells, the last one's units come out.
    return [getattr(op.cell, "cells", [op.cell])[-1]]


def _channels(op, size):
    """The number of the channel at each place of the last axis."""
    own = np.arange(size)
    if isinstance(op, L.Bidirectional):
        return own % op.forward_layer.units
    return own


class Ties:
    """The classes of tied channels of a model.

    Attributes:
        events: all calls, in order.
        rows: `{(id of a layer, channel): number}`.
        reached: `{tensor: boolean array (rows, *shape of one sample)}`.
        given: `{tensor: boolean array}`: where the inputs get to, past all
            that makes channels.
    """

    def __init__(self, model, x, seed=0):
        self.events = walker.events_of(model, x)
        self.rows = {}
        sizes = self._sizes(model, x)
        for event in self.events:
            if makes_channels(event.op):
                for n in _channels(event.op, sizes[event.key]):
                    self.rows.setdefault((id(event.op), int(n)), len(self.rows))
        self.masks = {n for e in self.events for n in _masks_of(e)}
        self.reached, self.given = {}, {}
        self._parent = np.arange(len(self.rows))
        if self.rows:
            rng = np.random.default_rng(seed)
            walker.run(model, x, self._noting_inputs())
            self._disturb(model, x, rng, range(ROUNDS))
            self._tie_all()
            # Once more, from the places that nothing got to.
            self._disturb(model, x, rng, range(ROUNDS, ROUNDS + AGAIN))
            self._tie_all()

    def _sizes(self, model, x):
        found = {}

        def note(event, outputs):
            found[event.key] = outputs[0].shape[-1]
            return outputs

        walker.run(model, x, note)
        return found

    # Disturbances ----------------------------------------------------------

    def _noting_inputs(self):
        """A hook that holds what makes channels, and sees what varies."""

        def hook(event, outputs):
            held = []
            for name, y in zip(event.makes, outputs, strict=True):
                if makes_channels(event.op) and _is_float(y):
                    y = ops.repeat(y[:1], y.shape[0], axis=0)
                held.append(y)
                if _is_float(y):
                    array = helpers.numpy_of(ops.cast(y, "float32"))
                    self.given[name] = _moved(array).any(axis=0)
            return held

        return hook

    def _disturb(self, model, x, rng, numbers):
        for number in numbers:
            sample = number % len(keras.tree.flatten(x)[0])
            many = keras.tree.map_structure(
                lambda a, n=sample: np.repeat(
                    a[n : n + 1], len(self.rows) + 1, axis=0
                ),
                x,
            )
            walker.run(model, many, self._disturbing(rng, number))

    def _disturbing(self, rng, number):
        scale = [1.0, 4.0, 0.3][number % 3]
        # What is dead as it is may live from elsewhere.
        moves_all = number % 2 == 1
        differs = {}

        def hook(event, outputs):
            made = []
            for name, y in zip(event.makes, outputs, strict=True):
                if name in self.masks:
                    # What a mask is made of is read whole, and ties nothing.
                    y = ops.repeat(y[:1], y.shape[0], axis=0)
                if not _is_float(y):
                    made.append(y)
                    continue
                array = np.array(ops.convert_to_numpy(ops.cast(y, "float32")))
                if moves_all and makes_channels(event.op):
                    array[0] = _noise(array, array[0].shape, rng, scale)
                array = self._set_back(event, array, differs, rng, scale)
                moved = _moved(array)
                if number >= ROUNDS:
                    moved |= self._left_out(name)
                differs[name] = moved
                array = _set_off(array, moved, rng, scale)
                before = self.reached.get(name)
                self.reached[name] = moved if before is None else before | moved
                made.append(ops.cast(ops.convert_to_tensor(array), y.dtype))
            return made

        return hook

    def _set_back(self, event, array, differs, rng, scale):
        """The first sample's values wherever nothing but a reader leads."""
        if makes_channels(event.op):
            array = np.repeat(array[:1], len(array), axis=0)
            for place, n in enumerate(_channels(event.op, array.shape[-1])):
                row = self.rows[(id(event.op), int(n))] + 1
                shape = array[row, ..., place].shape
                noise = _noise(array[:1], shape, rng, scale)
                array[row, ..., place] = noise
        elif isinstance(base(event.op), IN_PLACE):
            there = differs.get(event.reads[0])
            if there is not None:
                there = np.concatenate([np.zeros_like(there[:1]), there])
                array = np.where(there, array, array[:1])
            else:
                array = np.repeat(array[:1], len(array), axis=0)
        return array

    # Places that nothing gets to ----------------------------------------

    def labels(self, name):
        """Whose each coordinate of a sample is: a row that it is tied to.

        Places along space are one channel's where all of its places are that
        something gets to. `NOBODY` where there is no such channel.
        """
        reached = self.reached[name]
        roots = np.array([self.find(row) for row in range(len(reached))])
        # Those that reach one coordinate are tied.
        found = np.where(
            reached.any(axis=0), roots[reached.argmax(axis=0)], NOBODY
        )
        free = (found == NOBODY) & ~self.given[name]
        for axis in range(found.ndim - 1):
            most = found.max(axis=axis, keepdims=True)
            others = (found != NOBODY) & (found != most)
            if not others.any():
                found = np.where(free & (found == NOBODY), most, found)
        return found

    def _left_out(self, name):
        """The places of each row's channel that no row got to before.

        A boolean array `(rows, *shape of one sample)`.
        """
        reached = self.reached[name]
        labels = np.where(reached.any(axis=0), NOBODY, self.labels(name))
        return np.stack(
            [labels == self.find(row) for row in range(len(reached))]
        )

    # Ties ----------------------------------------------------------------

    def find(self, row):
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def _union(self, rows):
        first, *rest = map(self.find, rows)
        for other in rest:
            self._parent[other] = first

    def _tie_columns(self, reached):
        """Ties the rows that reach one coordinate."""
        flat = reached.reshape(len(reached), -1)
        for column in np.unique(flat, axis=1).T:
            rows = np.flatnonzero(column)
            if len(rows) > 1:
                self._union(rows)

    def _tie_all(self):
        for reached in self.reached.values():
            self._tie_columns(reached)
        together = {}
        for event in self.events:
            tensors = [*event.reads, *event.makes]
            known = [self.reached.get(name) for name in tensors]
            keys = [event.node] if len(event.key) > 1 else []
            if isinstance(event.op, walker.Step):
                keys = []
            if isinstance(event.op, keras.Layer) and any(
                w.shape for w in event.op.weights
            ):
                keys.append(event.op)
                self._tie_places(event, known)
                self._tie_states(event)
            elif isinstance(event.op, L.Reshape):
                keys.append(event.op)
            for key in keys:
                for n, reached in enumerate(known):
                    if reached is not None:
                        together.setdefault((id(key), n), []).append(reached)
            if isinstance(base(event.op), L.GroupQueryAttention):
                # All of its tensors are equally wide.
                flat = [r.any(axis=1) for r in known if r is not None]
                if flat:
                    self._tie_columns(np.any(flat, axis=0))
            if isinstance(event.op, (L.Reshape, type(_RESHAPE))):
                self._tie_box(known[-1])
        for several in together.values():
            if len(several) > 1 and len({r.shape for r in several}) == 1:
                self._tie_columns(np.any(several, axis=0))

    def _tie_places(self, event, known):
        """Weights along the channels are the same at all places of a map."""
        op = base(event.op)
        if isinstance(op, L.PReLU) or known[0] is None:
            return
        grouped = getattr(op, "groups", 1) > 1 and not isinstance(
            op, L.GroupNormalization
        )
        grouped &= not _is_depthwise(op)
        both = [known[0]]
        if grouped:
            both.append(known[-1])
        for reached in both:
            if reached is None:
                continue
            places = tuple(range(1, reached.ndim - 1))
            flat = reached.any(axis=places)
            self._tie_columns(flat)
            if grouped:
                groups = flat.reshape(len(flat), op.groups, -1)
                self._tie_columns(groups.any(axis=1))

    def _tie_states(self, event):
        """Unit n of a recurrent layer starts with number n of its states."""
        arguments = event.node.arguments
        states = arguments.kwargs.get("initial_state")
        if not recurrent_cells(base(event.op)) or states is None:
            return
        given = {id(kt) for kt in keras.tree.flatten(states)}
        pairs = zip(event.node.input_tensors, event.reads, strict=True)
        for kt, name in pairs:
            reached = self.reached.get(name)
            if id(kt) not in given or reached is None:
                continue
            for n, column in enumerate(reached.T):
                unit = self.rows[(id(event.op), n)]
                self._union([unit, *np.flatnonzero(column)])

    def _tie_box(self, reached):
        """Only one axis of what was reshaped can be cut: the last."""
        if reached is None or not reached.any():
            return
        axes = [
            a
            for a in range(1, reached.ndim)
            if (reached != reached.take([0], a)).any()
        ]
        others = tuple(axes[:-1])
        if others:
            self._tie_columns(reached.any(axis=others))

    # Closing ---------------------------------------------------------------

    def closed_at(self, rows):
        """`{tensor: mask of one sample}` for all that readers read.

        Args:
            rows: the closed `(id of a layer, channel)`.
        """
        shut = [self.find(self.rows[row]) for row in rows]
        read = {n for e in self.events if is_read(e) for n in e.reads}
        found = {
            name: np.isin(self.labels(name), shut)
            for name in read
            if name in self.reached
        }
        return {name: mask for name, mask in found.items() if mask.any()}


def _is_float(y):
    return keras.backend.is_float_dtype(y.dtype)


def _set_off(array, moved, rng, scale):
    """What differs has noise of its own: two ways must not cancel out."""
    noise = _noise(array[:1], moved.shape, rng, scale)
    array[1:] += np.where(moved, noise, 0.0)
    return array


def _noise(array, shape, rng, scale):
    """Random numbers of the size of those in an array."""
    return rng.normal(0, (np.abs(array).max() + 0.1) * scale, shape)


def _moved(array):
    first = array[:1]
    return np.abs(array[1:] - first) > SMALL * (np.abs(first).max() + 1e-3)


_RESHAPE = ops.reshape(
    keras.KerasTensor((1, 2)), (2, 1)
)._keras_history.operation


def closing(masks):
    """A hook for `walker.run` that multiplies closed coordinates by 0."""

    def hook(event, outputs):
        made = []
        for name, y in zip(event.makes, outputs, strict=True):
            mask = masks.get(name)
            if mask is not None:
                factor = np.where(mask, 0.0, 1.0).astype("float32")
                y = y * ops.cast(ops.convert_to_tensor(factor), y.dtype)
            made.append(y)
        return made

    return hook


def truth(model, x, masks):
    """Flat outputs with `masks` at work, as float64 arrays."""
    outputs = walker.run(model, x, closing(masks))
    return [
        helpers.numpy_of(ops.cast(y, "float32")).astype("float64")
        for y in keras.tree.flatten(outputs)
    ]
