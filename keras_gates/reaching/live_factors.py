"""The factors of a model as one vector, read and written between batches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_gates.constraints import KeepSign
from keras_gates.graphs import graph as gr
from keras_gates.graphs.variables import synchronize
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.gates.find import unknown_gates
from keras_gates.thresholds import Factors
from keras_gates.thresholds.rule import NAMED

if TYPE_CHECKING:
    from keras_gates.surgeon.rules.source import Source


class LiveFactors:
    """All factors that a budget may close.

    Those of gates and skeletons are, and gammas that `slim` has made ready
    for it, which their constraint tells.

    Attributes:
        names: the gates.
        kinds: the kind of each.
        shapes: the shape of the factors of each.
        count: how many factors there are.
    """

    def __init__(self, model: keras.Model) -> None:
        """Find the factors of a model.

        Raises:
            ValueError: it has none, or a gate is closed by another value of
                its variable than 0.
        """
        self._model = model
        graph = gr.read(model)
        sources = {
            name: source
            for name, source in gates_of(graph).items()
            if _is_asked(source)
        }
        if not sources:
            raise ValueError(
                f"ReachBudget found nothing to close in '{model.name}'. "
                "Received: a model without gates. Expected: gates "
                "(keras_gates.insert_gates(model, filters=True)), gammas that "
                "keras_gates.slim has made ready, or skeletons "
                f"(keras_gates.to_stripconv).{unknown_gates(graph)}"
            )
        odd = [n for n, s in sources.items() if s.closed not in (0.0, None)]
        if odd:
            raise ValueError(
                "ReachBudget closes gates by factors of 0. Received: "
                f"{', '.join(map(repr, odd))}, closed by another value of "
                "the variable. Leave such gates out, or close them with "
                "thresholds."
            )
        self.names = list(sources)
        self.kinds = [source.kind for source in sources.values()]
        self.shapes = [source.shape for source in sources.values()]
        self._variables = [source.variable for source in sources.values()]
        sizes = [math.prod(shape) for shape in self.shapes]
        self._ends = np.cumsum(sizes)
        self.count = int(sum(sizes))
        self.owner = np.repeat(np.arange(len(sizes)), sizes)
        self._masks: list[Any] = []

    def read(self) -> NDArray[np.float64]:
        """All factors, as they are."""
        synchronize(self._model)
        each = [ops.convert_to_numpy(v).ravel() for v in self._variables]
        return np.concatenate(each).astype("float64")

    def write(
        self, values: NDArray[np.float64], changed: NDArray[np.bool_]
    ) -> None:
        """Give factors these values.

        Args:
            values: of all factors.
            changed: which of them differ from what is there.
        """
        parts = zip(self.split(values), self.split(changed), strict=True)
        for variable, (part, differs) in zip(
            self._variables, parts, strict=True
        ):
            if differs.any():
                variable.assign(part.astype(variable.dtype))

    def hold(self, closed: NDArray[np.bool_]) -> None:
        """Set factors to 0 without reading them: nothing waits for it."""
        synchronize(self._model)
        if not self._masks:
            self._masks = [
                ops.convert_to_tensor(~mask, variable.dtype)
                if mask.any()
                else None
                for variable, mask in zip(
                    self._variables, self.split(closed), strict=True
                )
            ]
        for variable, mask in zip(self._variables, self._masks, strict=True):
            if mask is not None:
                variable.assign(ops.multiply(variable, mask))

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """A vector as one array for each gate, shaped like its factors."""
        parts = np.split(values, self._ends[:-1])
        return [
            part.reshape(shape)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def by_name(self, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The same by the names of the gates."""
        return dict(zip(self.names, self.split(values), strict=True))

    def factors(self, values: NDArray[np.float64]) -> list[Factors]:
        """The same as `Factors`."""
        return [
            Factors(name, kind, part)
            for name, kind, part in zip(
                self.names, self.kinds, self.split(values), strict=True
            )
        ]

    def flat(self, arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
        """One vector of an array for each gate."""
        return np.concatenate([np.ravel(array) for array in arrays])


def _is_asked(source: Source) -> bool:
    """Whether a source is a gate, and not just any normalization."""
    return source.kind not in NAMED or isinstance(
        source.variable.constraint, KeepSign
    )
