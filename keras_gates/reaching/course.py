"""When in a training what is closed: the numbers that nobody has to tune."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Course:
    """Shares of a training, and what happens in them.

    Attributes:
        warm_up: until then nothing is closed.
        arrival: by then, what is left keeps to the budget.
        fixed: from then on the set of closed gates is fixed.
        descent: how long before it closes a factor begins to sink.
        pull: how far factors that nothing holds sink on the way, in standard
            deviations of the open ones: what the optimizer moves them apart
            is what it can hold up.
    """

    warm_up: float = 0.1
    arrival: float = 0.5
    fixed: float = 0.9
    descent: float = 0.1
    pull: float = 1.0

    def goal(self, progress: float, start: float, end: float) -> float:
        """What may be left by then.

        Args:
            progress: from 0 to 1.
            start: the cost at the start.
            end: the cost that is allowed.
        """
        way = (progress - self.warm_up) / (self.arrival - self.warm_up)
        return start + (end - start) * min(max(way, 0.0), 1.0)

    def pulled(self, before: float, now: float) -> float:
        """How far factors sink between two moments, in those units."""
        low, high = (
            min(max(moment, self.warm_up), self.arrival)
            for moment in (before, now)
        )
        return self.pull * (high - low) / (self.arrival - self.warm_up)
