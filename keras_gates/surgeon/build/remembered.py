"""What a plan remembers, so that `apply` need not find it once more.

To find the smaller config of a layer takes many trials. The result is plain
data and holds for the model as it was: for these weights, and for layers with
these settings. The layers themselves are not held: those inside others are
parts of copies, with all of their weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import private
from keras_gates.surgeon.build import config_sizes as cs
from keras_gates.surgeon.solving.returns import Return

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.solving.solve import Solution

_PLAIN = (int, float, str, bytes, type(None))


@dataclasses.dataclass(frozen=True)
class Remembered:
    """How the layers of a solution are rebuilt, for the same model later.

    Attributes:
        state: a hash of the weights, and of the settings of these layers.
        forms: the fields of each `Return`, but for its layer; with where that
            is among the layers that were seen through, and the models.
    """

    state: bytes
    forms: tuple[tuple[int, dict[str, Any]], ...]

    @classmethod
    def of(cls, model: keras.Model, solution: Solution) -> Remembered | None:
        """What to remember; None if there is nothing to find.

        Args:
            model: the model that the solution is for.
            solution: the `Solution`.
        """
        if not solution.returns:
            return None
        places = {id(x): n for n, x in enumerate(_layers(solution.graph))}
        forms = tuple(
            (places[id(each.layer)], _form(each)) for each in solution.returns
        )
        layers = [each.layer for each in solution.returns]
        return cls(_state(model, layers), forms)

    def recalled(
        self, model: keras.Model, solution: Solution
    ) -> tuple[Return, ...] | None:
        """The same for another solution; None if anything has changed.

        Args:
            model: the model that both are for.
            solution: one with the same closed channels.
        """
        layers = [*_layers(solution.graph)]
        if any(place >= len(layers) for place, _ in self.forms):
            return None
        found = tuple(
            Return(layers[place], **form) for place, form in self.forms
        )
        state = _state(model, [each.layer for each in found])
        return found if state == self.state else None


def _form(each: Return) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(each)]
    return {name: getattr(each, name) for name in names if name != "layer"}


def _layers(graph: Graph) -> Iterator[keras.Layer]:
    """The models in a graph, and the layers that were seen through."""
    yield graph.model
    for site in graph.sites:
        if site.opened is not None:
            yield site.opened.layer
        if site.child is not None:
            yield from _layers(site.child)


def _state(model: keras.Model, layers: Iterable[keras.Layer]) -> bytes:
    """A hash of all weights of a model, and of how some layers are set."""
    digest = hashlib.sha256()
    for variable in model.weights:
        values = np.asarray(keras.ops.convert_to_numpy(variable))
        flat = np.ascontiguousarray(values).reshape(-1)
        digest.update(flat.view("uint8").data)
    for layer in layers:
        config = cs.own_config(layer, recorded=True)
        digest.update(repr((type(layer), config)).encode())
        for each in private.sublayers(layer, own=True):
            digest.update(_plain_attributes(each).encode())
    return digest.digest()


def _plain_attributes(layer: keras.Layer) -> str:
    attributes = private.attributes_of(layer)
    return repr({k: x for k, x in attributes.items() if isinstance(x, _PLAIN)})
