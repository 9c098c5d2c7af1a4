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
from keras_gates.layers import hard_concrete
from keras_gates.reaching.held import Held
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.gates.find import unknown_gates
from keras_gates.thresholds import Factors
from keras_gates.thresholds.rule import NAMED

if TYPE_CHECKING:
    from keras_gates.surgeon.rules.source import Source


# Open factors end at no less than this share of their start (stochastic ones,
# which start at 1, at this value).
LEAST = 1e-3


class LiveFactors:
    """All factors that a budget may close.

    These are the factors of gates and skeletons, and gammas that `slim` has
    prepared, which their constraint shows.

    Attributes:
        names: the gates.
        kinds: the kind of each.
        shapes: the shape of the factors of each.
        count: how many factors there are.
        owner: the index of each factor's gate; int, `(factors,)`.
        random: which factors belong to stochastic gates; bool, `(factors,)`.
    """

    def __init__(self, model: keras.Model) -> None:
        """Find the factors of a model.

        Raises:
            ValueError: it has none, or a gate is closed by a value of its
                variable other than 0.
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
        odd = [
            name
            for name, source in sources.items()
            if source.closed not in (0.0, None) and source.factors is None
        ]
        if odd:
            raise ValueError(
                "ReachBudget closes gates by factors of 0. Received: "
                f"{', '.join(map(repr, odd))}, closed by another value of the "
                "variable. Exclude these gates, or close them with "
                "thresholds."
            )
        found = list(sources.values())
        self.names = list(sources)
        self.kinds = [source.kind for source in found]
        self.shapes = [source.shape for source in found]
        self._variables = [source.variable for source in found]
        sizes = [math.prod(shape) for shape in self.shapes]
        self._ends = np.cumsum(sizes)
        self.count = int(sum(sizes))
        self.owner = np.repeat(np.arange(len(sizes)), sizes)
        self._held: Held | None = None
        self._fixed = False
        self._closed = np.zeros(self.count, bool)
        self._moved = np.zeros(self.count)
        # The variable of a stochastic gate is `log_alpha`.
        self.random = np.repeat([s.factors is not None for s in found], sizes)
        self._zeros = np.where(self.random, hard_concrete.CLOSED, 0.0)

    def read(self) -> NDArray[np.float64]:
        """The current values of all factors.

        For a stochastic one, the distance of `log_alpha` above the closed
        value.
        """
        synchronize(self._model)
        each = [ops.convert_to_numpy(v).ravel() for v in self._variables]
        return np.concatenate(each).astype("float64") - self._zeros

    def sizes(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sizes of factors from `read`; 0 is closed."""
        return np.where(self.random, np.maximum(values, 0.0), np.abs(values))

    def pulls(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far one pull moves each of the values from `read`.

        For a stochastic factor, proportional to the slope of the probability
        that it is open, whose sum is the expected L0; at the steepest point, as
        far as for another factor.
        """
        chance = hard_concrete.chance(values + self._zeros)
        return np.where(self.random, 4 * chance * (1 - chance), 1.0)

    def least(self, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """The least size of an open factor once the set is fixed."""
        random = hard_concrete.weight_of(LEAST) - hard_concrete.CLOSED
        return np.where(self.random, random, LEAST * scale)

    def thresholds(self, scale: NDArray[np.float64]) -> dict[str, float]:
        """The threshold between these and closed factors, by kind of gate."""
        least = np.where(self.random, LEAST, LEAST * scale) / 2
        kinds = np.array(self.kinds)[self.owner]
        return {
            kind: float(least[kinds == kind].min())
            for kind in dict.fromkeys(self.kinds)
        }

    @property
    def shut(self) -> NDArray[np.float64]:
        """The values of closed factors once the set is fixed.

        These hold in training, too: stochastic ones are always drawn as 0.
        """
        return np.where(self.random, hard_concrete.NEVER - self._zeros, 0.0)

    def write(
        self, values: NDArray[np.float64], changed: NDArray[np.bool_]
    ) -> None:
        """Assign values to the factors.

        Args:
            values: of all factors.
            changed: which of them differ from the current ones.
        """
        values = values + self._zeros
        parts = zip(self.split(values), self.split(changed), strict=True)
        for variable, (part, differs) in zip(
            self._variables, parts, strict=True
        ):
            if differs.any():
                variable.assign(part.astype(variable.dtype))

    def hold(self, closed: NDArray[np.bool_], fixed: bool) -> None:
        """Reset closed factors to their resting values; reads nothing.

        Args:
            closed: which they are.
            fixed: whether they stay closed: stochastic ones are 0 in training,
                too.
        """
        held = self._held
        if (
            held is None
            or self._fixed != fixed
            or not np.array_equal(self._closed, closed)
        ):
            rests = self._zeros + (self.shut if fixed else 0.0)
            self._moved = self.moved()
            parts = self.split(closed), self.split(rests)
            held = Held(self._variables, *parts)
            self._held, self._fixed, self._closed = held, fixed, closed
        if held.any:
            synchronize(self._model)
            held.hold()

    def moved(self) -> NDArray[np.float64]:
        """The movement of held factors since the last call."""
        found = self._moved
        if self._held is not None:
            found = found + self.flat(self._held.moved())
        self._moved = np.zeros(self.count)
        return found

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
    """Whether a source is a gate rather than an ordinary normalization."""
    return source.kind not in NAMED or isinstance(
        source.variable.constraint, KeepSign
    )
