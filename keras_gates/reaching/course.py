"""The schedule of closing gates: numbers that need no tuning."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Course:
    """Phases of a training.

    Attributes:
        warm_up: until then nothing is closed.
        arrival: by then, the budget is met.
        descent: how long before closing a factor starts to shrink.
        pull: how far unsupported factors shrink in total, in standard
            deviations of the open ones, which are the scale of the optimizer's
            steps.
    """

    warm_up: float = 0.1
    arrival: float = 0.5
    descent: float = 0.1
    pull: float = 1.0

    @property
    def fixed(self) -> float:
        """From then on, the set of closed gates is fixed.

        That is as soon as closed ones no longer come back. The set that is
        chosen then uses all of the budget, of which a ranking alone leaves a
        part, and the network has time to use what it gets back.
        """
        return self.arrival + self.descent

    def goal(self, progress: float, start: float, ratio: float) -> float:
        """The allowed cost at that point, as a position (see `Goals`).

        The cost falls by equal ratios. In equal steps, the last ones before a
        small budget would close most of what is left.

        Args:
            progress: from 0 to 1.
            start: the position at the start.
            ratio: the budget, as a share of the whole; below 1.
        """
        way = (progress - self.warm_up) / (self.arrival - self.warm_up)
        left: float = ratio ** min(max(way, 0.0), 1.0)
        return start * (left - ratio) / (1 - ratio)

    def openness(self, progress: float) -> float:
        """How much the moves of a closed factor count towards opening it.

        Fully at first, and no longer soon after the budget is met, so that the
        network can settle. It never would on its own: a closed factor gets no
        feedback, and every step moves it further.
        """
        way = (self.fixed - progress) / (self.fixed - self.warm_up)
        return min(max(way, 0.0), 1.0)

    def pulled(self, before: float, now: float) -> float:
        """How far factors shrink between two points, in those units."""
        low, high = (
            min(max(moment, self.warm_up), self.arrival)
            for moment in (before, now)
        )
        return self.pull * (high - low) / (self.arrival - self.warm_up)
