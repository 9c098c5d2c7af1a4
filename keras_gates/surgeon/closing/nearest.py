"""Chooses what to close so that the cost is just below a limit.

Factors close in the order of their size, as many as it takes. Where the last
of them goes too far (a branch, the last channel of many that are tied, eight
channels at once), there are two ways on: close it, and open others again; or
leave it open, and close what comes next. Each may meet a large step in turn,
so both are followed, nearest to the order first. If that comes to nothing, the
large steps are combined freely, by what each of them was seen to change; and
at last the order is changed, a little at first.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing import TypeAlias

    # Indices of factors, or places in the order to close them in.
    Places: TypeAlias = NDArray[np.intp]
    # What is fixed, what is free, and how many of these are enough.
    Way: TypeAlias = tuple[Places, Places, int | None]

# By so many trials, steps are taken family by family; then one by one; then
# they are combined, so many at most: 2 ** 12 ways.
_BY_FAMILY, _ONE_BY_ONE, _COMBINED = 32, 40, 60
_STEPS = 12
# How much the ranks of a family may change, as a factor: e ** 0.1 at first.
_SHAKEN = 0.1
# So often a guess may leave more than half.
_SLOW = 2


class _Spent(Exception):
    """No more trials."""


def nearest(
    order: Places,
    units: Places,
    families: Places,
    left: Callable[[Places], float],
    bounds: tuple[float, float],
    trials: int,
) -> Places:
    """Find what to close.

    Args:
        order: indices of factors, in the order to close them in. All of them
            together keep to the limit, and none of them does not.
        units: a number for each of them; those of one number go together.
        families: a number for each; units of one family are much alike.
        left: a function from indices to what is left when they are closed.
        bounds: `(near, limit)`: what is enough to be left, and what may be.
        trials: how often `left` may be asked, or a little more.

    Returns:
        The indices to close. The first so many in `order` that just keep to
        the limit, if that is near enough.
    """
    search = _Search(order, units, families, left, bounds)
    every = np.arange(len(order))
    search.fill(every[:0], every, np.inf, exactly=True)
    try:
        for until in (_BY_FAMILY, _ONE_BY_ONE):
            search.follow(every, until == _BY_FAMILY, min(until, trials))
        search.combine(min(_COMBINED, trials))
        search.exchange(every, trials)
        search.shake(every, trials)
    except _Spent:
        pass
    return order[search.best]


class _Search:
    """The choices tried, as places in the order; `best` leaves most."""

    def __init__(
        self,
        order: Places,
        units: Places,
        families: Places,
        left: Callable[[Places], float],
        bounds: tuple[float, float],
    ) -> None:
        self.order = order
        self.units = units
        self.families = families
        self.left = left
        self.near, self.limit = bounds
        self.known: dict[bytes, float] = {}
        self.best = np.arange(0)
        self.most = -1.0
        # The units of steps that went too far, in the order of their finding.
        self.large: dict[int, None] = {}

    @property
    def done(self) -> bool:
        return self.most >= self.near

    def cost(self, *parts: Places, until: float) -> float:
        """What is left when all of these places are closed."""
        closed = np.sort(np.concatenate(parts))
        key = closed.tobytes()
        if key not in self.known:
            if len(self.known) >= until:
                raise _Spent
            self.known[key] = self.left(self.order[closed])
        found = self.known[key]
        more = (found, -closed.size) > (self.most, -self.best.size)
        if found <= self.limit and more:
            self.best, self.most = closed, found
        return found

    def fill(
        self,
        fixed: Places,
        free: Places,
        until: float,
        within: int | None = None,
        exactly: bool = False,
    ) -> int | None:
        """Close `free` ones in order, as many as it takes beside `fixed`.

        Args:
            fixed: places that are closed.
            free: places that may close.
            until: how many trials there may have been by then.
            within: a number of free ones that is known to be enough.
            exactly: whether none too many may close; else what is near
                enough will do.

        Returns:
            Their number, or None where all of them are not enough.
        """
        low, high = 0, len(free) if within is None else within
        above = self.cost(fixed, until=until)
        if above <= self.limit:
            return 0
        below = self.cost(fixed, free[:high], until=until)
        if below > self.limit:
            return None
        if exactly:
            return self._fewest((fixed, free), (low, high), (above, below))
        halve = True
        while high - low > 1 and below < self.near:
            middle = (low + high) // 2
            halve = not halve
            if not halve and above > below:
                share = (above - (self.near + self.limit) / 2) / (above - below)
                middle = low + round(share * (high - low))
                middle = min(max(middle, low + 1), high - 1)
            found = self.cost(fixed, free[:middle], until=until)
            if found <= self.limit:
                high, below = middle, found
            else:
                low, above = middle, found
        return high

    def _fewest(
        self,
        places: tuple[Places, Places],
        counts: tuple[int, int],
        costs: tuple[float, float],
    ) -> int:
        """The fewest of the free ones that are enough, by the Illinois method.

        The line between two costs tells where to ask next. Where one end
        stays, its cost is taken for half as far from the limit, and where
        that is slow, the middle is asked: it takes half as many trials as
        halves alone.

        Args:
            places: `(fixed, free)` of `fill`.
            counts: one that is not enough, and one that is.
            costs: what is left with each of them.
        """
        fixed, free = places
        low, high = counts
        above, below = (each - self.limit for each in costs)
        before, slow = 0.0, 0
        while high - low > 1:
            width = high - low
            share = 0.5 if slow > _SLOW else above / ((above - below) or 1.0)
            middle = min(max(low + round(share * width), low + 1), high - 1)
            off = self.cost(fixed, free[:middle], until=np.inf) - self.limit
            if off <= 0:
                above /= 2 if before < 0 else 1
                high, below, before = middle, off, -1.0
            else:
                below /= 2 if before > 0 else 1
                low, above, before = middle, off, 1.0
            slow = 0 if 2 * (high - low) <= width else slow + 1
        return high

    def follow(
        self,
        every: Places,
        by_family: bool,
        until: int,
        most: float = np.inf,
    ) -> None:
        """Both ways on at each large step, until one comes near.

        Opening others again comes first; the fewer large steps are left
        open, the earlier a choice is tried.

        Args:
            every: all places, in the order to close them in.
            by_family: whether a step too large is taken for one of many like
                it, all of which then stay as they are on either side of it.
            until: how many trials there may have been by then.
            most: how many large steps may be left open.
        """
        numbers = itertools.count()
        todo: list[tuple[float, int, int, Way]]
        todo = [(0, 0, next(numbers), (every[:0], every, None))]
        try:
            while todo and not self.done:
                opened, depth, _, (fixed, free, within) = heapq.heappop(todo)
                count = self.fill(fixed, free, until, within)
                if not count or self.done:
                    continue
                self.large.setdefault(self.units[free[count - 1]], None)
                ways = self._ways(fixed, free, count, by_family)
                for more, way in enumerate(ways):
                    if opened + more <= most:
                        rank = opened + more, depth - 1, next(numbers)
                        heapq.heappush(todo, (*rank, way))
        except _Spent:
            pass

    def _ways(
        self,
        fixed: Places,
        free: Places,
        count: int,
        by_family: bool,
    ) -> tuple[Way, Way]:
        """What is `(fixed, free, within)` after a step that went too far."""
        step = free[count - 1]
        kinds = self.families if by_family else self.units
        alike = kinds[free] == kinds[step]
        rest, number = free[~alike], int((~alike[:count]).sum())
        closed = np.concatenate([fixed, free[:count][alike[:count]]])
        opened = closed[self.units[closed] != self.units[step]]
        return (closed, rest, number), (opened, rest, None)

    def combine(self, until: int) -> None:
        """Open and close large steps about the best choice, all ways.

        What each changes is measured there, once; the combinations that
        should come near by the sum of that are tried.
        """
        if self.done:
            return
        base, now = self.best, self.most
        steps = np.unique(self.units)
        if len(steps) > _STEPS:
            steps = np.array(list(self.large)[:_STEPS])

        def flipped(some: NDArray[np.bool_]) -> Places:
            """The places closed, with these steps the other way round."""
            mask = np.isin(np.arange(len(self.units)), base)
            return np.flatnonzero(mask ^ np.isin(self.units, steps[some]))

        singles = np.eye(len(steps), dtype=bool)
        try:
            changes = [
                self.cost(flipped(x), until=until) - now for x in singles
            ]
            every = itertools.product([False, True], repeat=len(steps))
            flips = np.array(list(every))
            sums = now + flips @ np.array(changes)
            # Those nearest to the middle of what will do come first.
            far = np.abs(sums - (self.near + self.limit) / 2)
            for index in np.argsort(far, kind="stable"):
                if self.done:
                    return
                self.cost(flipped(flips[index]), until=until)
        except _Spent:
            pass

    def exchange(self, every: Places, trials: int) -> None:
        """Open a step of one family and close another's, while it helps."""
        before = None
        while not self.done and before is not self.best:
            before = self.best
            for opened in np.unique(self.families[before]):
                self._trade(every, before, opened, trials)
                if self.done:
                    return

    def _trade(
        self,
        every: Places,
        closed: Places,
        opened: int,
        trials: int,
    ) -> None:
        """Open a step of a family, and close the fewest of each other."""
        own = closed[self.families[closed] == opened][::-1]
        counts = range(1, len(own) + 1)

        def without(count: int) -> Places:
            return np.setdiff1d(closed, own[:count])

        def above(count: int) -> bool:
            return self.cost(without(count), until=trials) > self.limit

        number = bisect.bisect_left(counts, True, key=above)
        if number == len(counts):
            return
        base = without(counts[number])
        for family in np.unique(self.families):
            free = np.setdiff1d(every[self.families == family], base)
            if family != opened and free.size and not self.done:
                self.fill(base, free, trials)

    def shake(self, every: Places, trials: int) -> None:
        """Try other orders: families earlier or later than they should be."""
        random = np.random.default_rng(0)
        count = self.families.max(initial=0) + 1
        for number in itertools.count(1):
            if self.done or number > trials:
                return
            moved = np.exp(_SHAKEN * number**0.5 * random.normal(size=count))
            ranks = (every + 0.5) * moved[self.families]
            other = np.argsort(ranks, kind="stable")
            self.follow(other, True, trials, most=0)
            if len(self.known) >= trials:
                return
