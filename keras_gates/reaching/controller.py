"""Which factors shrink, close and open again during training.

Between two batches, factors are ranked (`Ranks`) by size and the weights around
them (`Surroundings`), and the smallest close, as many as the current budget
requires; the budget decreases along a `Course`. The next ones in the ranking
shrink towards 0, so that each is small by the time it closes. All factors are
pulled a little, which separates those that the data supports from the others.

A closed factor is put back to 0 after each step of the optimizer (`Held`). The
distance that the optimizer moved it, minus the pull, is its size in the
ranking: when it becomes larger than an open one, the two swap. Moves count less
and less, and not at all soon after the budget is met. None of this depends on
the loss or the optimizer, whose steps are only observed.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.reaching.course import Course
from keras_gates.reaching.goals import Goals
from keras_gates.reaching.live_factors import LiveFactors
from keras_gates.reaching.ranks import Ranks
from keras_gates.reaching.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keras_gates.thresholds import Budget

# How often during training the cost is counted exactly.
_COUNTED = 20


@dataclasses.dataclass
class State:
    """The controller's state, in addition to the model's weights.

    Attributes:
        scale: the scale of the factors; `(factors,)`.
        signs: 1 or -1: the sign of each factor before it closed.
        latent: the size of each closed factor in the ranking.
        closed: which factors are closed.
        start: the cost at the start, as `Goals` measures it.
        progress: the progress of the training.
        fixed: whether the set is fixed.
    """

    scale: NDArray[np.float64]
    signs: NDArray[np.float64]
    latent: NDArray[np.float64]
    closed: NDArray[np.bool_]
    start: float = 1.0
    progress: float = 0.0
    fixed: bool = False

    @classmethod
    def of(cls, live: LiveFactors, values: NDArray[np.float64]) -> State:
        """The initial state: factors that are 0 are closed."""
        sizes = live.sizes(values)
        totals = np.bincount(live.owner, sizes)
        counts = np.bincount(live.owner, sizes > 0)
        means = totals / np.maximum(counts, 1)
        means[means == 0] = 1.0
        return cls(
            means[live.owner],
            np.where((values < 0) & ~live.random, -1.0, 1.0),
            np.zeros(live.count),
            sizes == 0,
        )


class Controller:
    """Brings the factors of a model to a budget.

    Attributes:
        live: the `LiveFactors`.
        goals: the `Goals`.
        state: the `State`, or None before the first step.
        left: the remaining share of each cost.
    """

    def __init__(
        self,
        model: keras.Model,
        budgets: Sequence[Budget],
        course: Course,
    ) -> None:
        self.live = LiveFactors(model)
        self.goals = Goals(model, self.live, budgets)
        self.course = course
        self.state: State | None = None
        self.left = 1.0
        self._surroundings = Surroundings(model, self.live)
        self._importance = np.ones(self.live.count)
        self._ranks = Ranks.of(self.live, self.goals.inside())
        self._restored = False

    def advance(self, progress: float) -> None:
        """Advance to a point of the training, from 0 to 1."""
        values = self.live.read()
        if not np.isfinite(values).all():
            return
        state = self._watched(values)
        if state.fixed:
            self._write(values, self._held(values, state))
        elif progress >= self.course.fixed:
            self._fix(values, state)
        else:
            if int(progress * _COUNTED) > int(state.progress * _COUNTED):
                self.goals.calibrate(state.closed)
                self._weigh(values, state)
            self._write(values, self._stepped(values, state, progress))
        state.progress = progress

    def hold(self) -> None:
        """Reset closed factors to 0 after the optimizer has moved them."""
        if self.state is not None:
            self.live.hold(self.state.closed, self.state.fixed)

    def settle(self) -> None:
        """The same at any time, with the movement taken into account."""
        values = self.live.read()
        if self.state is not None and np.isfinite(values).all():
            state = self._watched(values)
            self._write(values, self._held(values, state))

    def watch(self) -> None:
        """Look at the weights: a resumed training begins with it."""
        state = self.state
        if state is None:
            self._surroundings.watch(np.ones(self.live.count))
        elif not state.fixed:
            values = self.live.read()
            self._surroundings.watch(self._open_sizes(values, state))

    @property
    def finite(self) -> bool:
        """Whether all factors are finite."""
        return bool(np.isfinite(self.live.read()).all())

    @property
    def share_closed(self) -> float:
        """The share of the factors that are closed."""
        return 0.0 if self.state is None else float(self.state.closed.mean())

    @property
    def thresholds(self) -> dict[str, float]:
        """The threshold between closed and open factors, by kind of gate."""
        if self.state is None:
            return {}
        return self.live.thresholds(self.state.scale)

    def _watched(self, values: NDArray[np.float64]) -> State:
        """The state, updated with the optimizer's moves of closed factors."""
        state = self.state
        if state is None:
            self.state = state = State.of(self.live, values)
            state.start = self.goals.position(state.closed)
            state.fixed = state.start <= 0
            self.left = self.goals.share(state.closed)
        moved = values + self.live.moved()
        moved = state.signs * moved / state.scale
        moved *= self.course.openness(state.progress)
        if self._restored:
            # The state may already be newer than the weights.
            moved[:] = 0.0
            self._restored = False
        state.latent = np.where(
            state.closed, np.maximum(state.latent + moved, 0.0), 0.0
        )
        return state

    def _stepped(
        self, values: NDArray[np.float64], state: State, progress: float
    ) -> NDArray[np.float64]:
        """The factors after a step; updates the state."""
        course, ratio = self.course, self.goals.ratio
        sizes = self._sizes(values, state)
        ranks = self._ranks(sizes * self._importance, state.closed)
        order = self.goals.order(ranks)
        count, later = self.goals.counts(
            order,
            course.goal(progress, state.start, ratio),
            course.goal(progress + course.descent, state.start, ratio),
        )
        way = course.pulled(state.progress, progress) * _spread(sizes, state)
        sizes = np.maximum(sizes - way * self.live.pulls(values), 0.0)
        # Factors that close next shrink fast enough to be 0 by then.
        sinking = order[count:later]
        wait = np.arange(1, len(sinking) + 1) / max(1, len(sinking))
        step = (progress - state.progress) / course.descent
        sizes[sinking] *= wait / (wait + step)
        as_it_was = state.closed | (values == 0) | self.live.random
        state.signs = np.where(as_it_was, state.signs, np.sign(values))
        closed = np.zeros(self.live.count, bool)
        closed[order[:count]] = True
        sizes = self._reopened(sizes, state.closed & ~closed, closed)
        state.closed = closed
        state.latent = np.where(state.closed, sizes, 0.0)
        self.left = self.goals.share(state.closed)
        return np.where(state.closed, 0.0, state.signs * sizes * state.scale)

    def _reopened(
        self,
        sizes: NDArray[np.float64],
        new: NDArray[np.bool_],
        closed: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        """Let factors that open again start no larger than any in their gate.

        One step with a large gradient moves a closed factor far, and a channel
        that comes back in full size makes the next gradients larger still.
        """
        owner, stay = self.live.owner, ~closed & ~new
        least = np.full(len(self.live.names), np.inf)
        np.minimum.at(least, owner[stay], sizes[stay])
        least[np.isinf(least)] = sizes[stay].min(initial=1.0)
        return np.where(new, np.minimum(sizes, least[owner]), sizes)

    def _fix(self, values: NDArray[np.float64], state: State) -> None:
        """Choose the final set of closed factors."""
        sizes = self._sizes(values, state)
        self._weigh(values, state)
        ranks = self._ranks(sizes * self._importance, state.closed)
        closed = self.goals.chosen(ranks)
        sizes = self._reopened(sizes, state.closed & ~closed, closed)
        state.closed, state.fixed = closed, True
        self.left = self.goals.exact_share(closed)
        new = self._held(state.signs * sizes * state.scale, state)
        state.latent = np.zeros(self.live.count)
        self._write(values, new)

    def _held(
        self, values: NDArray[np.float64], state: State
    ) -> NDArray[np.float64]:
        """Closed factors at 0; open ones away from 0 at the end."""
        least = self.live.least(state.scale)
        low = self.live.sizes(values) < least
        low &= state.fixed & ~state.closed
        values = np.where(low, state.signs * least, values)
        shut = self.live.shut if state.fixed else 0.0
        return np.where(state.closed, shut, values)

    def _sizes(
        self, values: NDArray[np.float64], state: State
    ) -> NDArray[np.float64]:
        """The size of factors relative to their start."""
        open_ones = self.live.sizes(values) / state.scale
        return np.where(state.closed, state.latent, open_ones)

    def _open_sizes(
        self, values: NDArray[np.float64], state: State
    ) -> NDArray[np.float64]:
        """The same, and 0 for closed ones."""
        return np.where(state.closed, 0.0, self._sizes(values, state))

    def _weigh(self, values: NDArray[np.float64], state: State) -> None:
        """See what the weights around the factors say now."""
        sizes = self._open_sizes(values, state)
        self._importance = self._surroundings.importance(sizes)

    def _write(
        self, values: NDArray[np.float64], new: NDArray[np.float64]
    ) -> None:
        self.live.write(new, new != values)

    def get_state(self) -> dict[str, Any]:
        """The state as data for JSON."""
        state = self.state
        if state is None:
            return {}
        self.watch()
        return {
            "names": self.live.names,
            "scale": state.scale.tolist(),
            "signs": state.signs.tolist(),
            "latent": state.latent.tolist(),
            "closed": np.flatnonzero(state.closed).tolist(),
            "start": state.start,
            "progress": state.progress,
            "fixed": state.fixed,
            "left": self.left,
            "importance": self._importance.tolist(),
            "moving": self._surroundings.moving.tolist(),
            "corrections": self.goals.corrections,
        }

    def set_state(self, data: dict[str, Any]) -> None:
        """Resume from a state of `get_state`."""
        if not data:
            return
        closed = np.zeros(self.live.count, bool)
        own = list(map(_unnumbered, self.live.names))
        same = own == list(map(_unnumbered, data["names"]))
        if not same or len(data["scale"]) != self.live.count:
            raise ValueError(
                "ReachBudget can't resume from this state: it belongs to a "
                f"model with the gates {data['names']}, and this model has "
                f"{self.live.names}. Start again without the state."
            )
        closed[data["closed"]] = True
        self.state = State(
            np.array(data["scale"]),
            np.array(data["signs"]),
            np.array(data["latent"]),
            closed,
            data["start"],
            data["progress"],
            data["fixed"],
        )
        self.left, self._restored = data["left"], True
        self._importance = np.array(data["importance"])
        self._surroundings.moving = np.array(data["moving"])
        self.goals.corrections = dict(data["corrections"])


def _unnumbered(name: str) -> str:
    """A name without the numbers that Keras gives to unnamed layers.

    They count the layers that the process made before, so they may differ
    when a training is resumed.
    """
    return re.sub(r"_\d+(?=_|$)", "", name)


def _spread(sizes: NDArray[np.float64], state: State) -> float:
    """The spread of open factors."""
    return float(sizes[~state.closed].std()) if not state.closed.all() else 0.0
