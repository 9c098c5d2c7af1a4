"""The parts of a layer without a rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.graphs.identity import IdentityDict

if TYPE_CHECKING:
    from keras_gates.graphs.holders import Holders
    from keras_gates.graphs.private import Node


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A layer that is not seen through.

    Attributes:
        reason: why; a clause that follows the name of the layer.
    """

    reason: str


class Whole:
    """A nested model that is taken as one operation."""


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where a weight of a layer is in what the layer is made of.

    Attributes:
        layer: the layer in `Opened.model` that holds it.
        name: the attribute of that layer.
        derived: whether other numbers are there, `1 + w` say, or some of them
            only; else they are those of the weight, in another shape.
        part: if they are some of the weight's own, where in it each of them
            is, counted flat; `(numbers,)`.
    """

    layer: keras.Layer
    name: str
    derived: bool
    part: NDArray[np.intp] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A layer as a functional model of its parts.

    Attributes:
        layer: the layer itself.
        twin: a copy of the layer, with weights of its own; the layers in
            `model` are its, but for those that hold `bare` weights.
        model: a functional model that computes what the layer does where it
            was called, of the tensors in its recorded call, in order.
        bare: variables of `twin` that it uses in operations, each with the
            `Place` that has its values in `model`.
        holders: the layers that hold them, for another way of calling it.
        fixed: why the model can't stand in the layer's place, or "" if it
            can: it holds for certain sizes only, say, or in inference only.
        sized: whether it holds for the sizes only that it was made at.
    """

    layer: keras.Layer
    twin: keras.Layer
    model: keras.Model
    bare: tuple[tuple[keras.Variable, Place], ...]
    holders: Holders
    fixed: str = ""
    sized: bool = False

    def originals(self) -> IdentityDict[keras.Layer, keras.Layer]:
        """For the twin and each layer in it, what it is a copy of."""
        copies = private.sublayers(self.twin, own=True)
        layers = private.sublayers(self.layer, own=True)
        return IdentityDict(zip(copies, layers, strict=True))

    def variables(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Pairs of a variable in `model` and the one of the layer it is for.

        A variable of the layer may have several; what is in `model` and in
        no pair holds constants.
        """
        pairs = zip(self.twin.variables, self.layer.variables, strict=True)
        own = {id(copy): variable for copy, variable in pairs}
        placed = [
            (getattr(place.layer, place.name), own[id(variable)])
            for variable, place in self.bare
        ]
        used = {id(variable) for variable, _ in self.bare}
        kept = [v for v in self.twin.variables if id(v) not in used]
        return [*((v, own[id(v)]) for v in kept), *placed]


# Asked of a recorded call: what its layer is made of, or why that can't be
# said; None if the layer is not to be looked into. Of a functional model:
# whether it is one operation.
SeeThrough: TypeAlias = "Callable[[Node, bool], Opened | Opaque | Whole | None]"


def flat_tensors(structure: Any) -> list[keras.KerasTensor]:
    """The symbolic tensors in a structure, in order."""
    flat = keras.tree.flatten(structure)
    return [x for x in flat if isinstance(x, keras.KerasTensor)]


def unpacked(tensors: list[keras.KerasTensor]) -> Any:
    """What `Opened.model` takes, or puts out: a list, or the only tensor."""
    return tensors[0] if len(tensors) == 1 else tensors
