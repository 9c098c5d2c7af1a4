"""What budgets allow, and which factors they close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.shapes import shapes_of
from keras_gates.surgeon.closing.options import Options
from keras_gates.surgeon.closing.ranking import UNITS
from keras_gates.surgeon.closing.tries import from_thresholds
from keras_gates.surgeon.expected.model_cost import ModelCost
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.report import table
from keras_gates.surgeon.solving import essential
from keras_gates.surgeon.solving import removable
from keras_gates.surgeon.solving import solve
from keras_gates.thresholds.budget import percentage

if TYPE_CHECKING:
    from keras_gates.reaching.live_factors import LiveFactors
    from keras_gates.thresholds import Budget

# The number of points at which the cost along a ranking is evaluated at once.
_COARSE, _FINE = 17, 9
_ROUNDING = 1e-9
# At a corner, every number is 0 or 1, up to rounding.
_HALF = 0.5


class Goals:
    """Budgets as one number: the state of the tightest one.

    Attributes:
        budgets: the budgets.
        met: whether the model already meets them.
        corrections: the ratio of the exact count to the expected cost at the
            last check.
    """

    def __init__(
        self,
        model: keras.Model,
        live: LiveFactors,
        budgets: Sequence[Budget],
    ) -> None:
        self._model, self._live, self.budgets = model, live, list(budgets)
        graph = expand.read(model)
        sizes = next((b.sizes for b in budgets if b.sizes is not None), None)
        self._graph, self._shapes = graph, shapes_of(graph, sizes)
        self._cost = ModelCost(graph, live.names, sizes)
        none = np.zeros(live.count, bool)
        self._wholes = self._totals(none)
        self._limits = {
            b.resource: b.limit(self._wholes[b.resource]) for b in budgets
        }
        self.corrections = dict.fromkeys(self._wholes, 1.0)
        self._held, self._floors = self._find_held()
        self.met = all(
            self._wholes[r] <= limit for r, limit in self._limits.items()
        )
        self._check_reach()

    def _totals(self, closed: NDArray[np.bool_]) -> dict[str, float]:
        masks = self._live.by_name(closed)
        solution = solve.solve(self._graph, masks, check=False)
        totals = table.totals(solution, self._shapes)
        which = 1 if closed.any() else 0
        return {r: float(totals[r][which]) for r in ("macs", "params")}

    def _find_held(self) -> tuple[NDArray[np.bool_], dict[int, int]]:
        """What never closes, and the least number of open factors by gate."""
        live = self._live
        ones = live.factors(np.ones(live.count))
        vain = removable.never(self._graph, live.names)
        none = np.zeros(live.count, bool)
        masks = live.by_name(none) | vain
        held = live.flat([masks[name] for name in live.names])
        floor = max(b.keep_essential for b in self.budgets)
        severs = essential.Severing(self._graph)
        needed = essential.held_open(ones, {}, floor, severs)
        floors = {
            live.names.index(name): int(mask.sum())
            for name, mask in needed.items()
        }
        return held, floors

    def _check_reach(self) -> None:
        """Refuse an unreachable budget, and name the least that is reachable.

        Raises:
            ValueError: it can't.
        """
        live = self._live
        order = self.order(np.ones(live.count))
        closed = np.zeros(live.count, bool)
        closed[order] = True
        least = self._totals(closed)
        if self.met:
            return
        for budget in self.budgets:
            of = budget.resource
            if least[of] > self._limits[of]:
                raise ValueError(
                    f"ReachBudget can't bring '{self._model.name}' to "
                    f"{of}={budget.amount!r}. It allows "
                    f"{self._limits[of]:,.0f} {UNITS[of]}, and the least that "
                    f"these gates can reach is {least[of]:,.0f} "
                    f"({least[of] / self._wholes[of]:.1%}). Allow more, add "
                    "gates to more layers, or lower keep_essential: pass "
                    f"Budget({of}=..., keep_essential=...)."
                    f"{percentage(budget)}"
                )

    def inside(self) -> dict[int, NDArray[np.intp]]:
        """For each factor on a whole tensor, the factors that it closes.

        These are factors of channels without an effect while it is closed,
        since nothing else reads them.
        """
        live, circuit = self._live, self._cost.circuit
        wholes = [n for n, shape in enumerate(live.shapes) if not shape]
        if not wholes:
            return {}
        starts = np.searchsorted(live.owner, wholes)
        factors = np.ones((len(wholes), live.count))
        factors[np.arange(len(wholes)), starts] = 0.0
        steps = circuit.kept(np, factors).steps
        sources = gates_of(self._graph)
        found: dict[int, NDArray[np.intp]] = {}
        for number, (name, shape) in enumerate(
            zip(live.names, live.shapes, strict=True)
        ):
            layer = sources[name].layer
            each = [x for s, x in steps.items() if s.call.op is layer]
            if not shape or not each:
                continue
            own = np.flatnonzero(live.owner == number)
            for place in np.flatnonzero(np.max(each, axis=0) < _HALF):
                start = int(starts[place])
                known = found.get(start, own[:0])
                found[start] = np.concatenate([known, own])
        return found

    def order(self, sizes: NDArray[np.float64]) -> NDArray[np.intp]:
        """The factors that may close, smallest first."""
        ranked = np.where(self._held, np.inf, sizes)
        for owner, count in self._floors.items():
            own = np.flatnonzero(self._live.owner == owner)
            largest = np.argsort(-sizes[own], kind="stable")[:count]
            ranked[own[largest]] = np.inf
        order = np.argsort(ranked, kind="stable")
        return order[np.isfinite(ranked[order])]

    def counts(
        self, order: NDArray[np.intp], now: float, soon: float
    ) -> tuple[int, int]:
        """How many factors of a ranking meet two goals.

        Args:
            order: the ranking.
            now: a goal to meet exactly.
            soon: a lower one to meet approximately.
        """
        grid = np.unique(
            np.linspace(0, len(order), _COARSE).round().astype(np.intp)
        )
        costs = self._along(order, grid)
        first, later = (
            int(np.append(costs <= goal + _ROUNDING, True).argmax())
            for goal in (now, soon)
        )
        later = int(grid[min(later, len(grid) - 1)])
        if first in (0, len(grid)):
            return int(grid[min(first, len(grid) - 1)]), later
        low, high = int(grid[first - 1]) + 1, int(grid[first])
        while low < high:
            grid = np.linspace(low, high, _FINE).round().astype(np.intp)
            grid = np.unique(grid)
            enough = self._along(order, grid) <= now + _ROUNDING
            first = int(enough.argmax())
            if first == 0:
                return low, later
            low, high = int(grid[first - 1]) + 1, int(grid[first])
        return high, later

    def position(self, closed: NDArray[np.bool_]) -> float:
        """The position of the cost, from 0 (the budget) to 1 (the whole)."""
        return float(self._relative((~closed).astype("float64")))

    def _along(
        self, order: NDArray[np.intp], counts: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """The cost when that many of the first factors are closed."""
        rank = np.full(self._live.count, len(order))
        rank[order] = np.arange(len(order))
        factors = (rank >= counts[:, None]).astype("float64")
        return self._relative(factors)

    def _relative(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """The position of costs, from 0 (allowed) to 1 (the whole)."""
        each = []
        for of, limit in self._limits.items():
            left = self._cost.of(np, factors, of) * self.corrections[of]
            each.append((left - limit) / max(self._wholes[of] - limit, 1e-9))
        found: NDArray[np.float64] = np.max(each, axis=0)
        return found

    def share(self, closed: NDArray[np.bool_]) -> float:
        """The remaining first cost, as a share of the whole."""
        of = self.budgets[0].resource
        open_ones = (~closed).astype("float64")
        left = float(self._cost.of(np, open_ones, of)) * self.corrections[of]
        return left / self._wholes[of]

    @property
    def ratio(self) -> float:
        """The smallest budget, as a share of the whole; below 1."""
        each = (limit / self._wholes[r] for r, limit in self._limits.items())
        return min(*each, 1 - _ROUNDING)

    @property
    def allowed(self) -> float:
        """The first budget, as a share of the whole."""
        of = self.budgets[0].resource
        return self._limits[of] / self._wholes[of]

    def exact_share(self, closed: NDArray[np.bool_]) -> float:
        """The same as counted by the surgeon."""
        of = self.budgets[0].resource
        return self._totals(closed)[of] / self._wholes[of]

    def calibrate(self, closed: NDArray[np.bool_]) -> None:
        """Count the current cost exactly, and correct the expected one."""
        self._cost.settle(self._live.by_name(closed))
        true = self._totals(closed)
        open_ones = (~closed).astype("float64")
        for of in self._limits:
            guess = float(self._cost.of(np, open_ones, of))
            if guess > 0:
                self.corrections[of] = true[of] / guess

    def chosen(self, sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The factors that the budgets close, as in `plan`.

        With several budgets, the one that closes most may meet the others, too;
        otherwise everything is closed that any of them closes.
        """
        live = self._live
        sizes = np.where(self._held, sizes.max(initial=0.0) + 1, sizes)
        every = np.zeros(live.count, bool)
        for budget in self.budgets:
            outcome = from_thresholds(
                self._model,
                dict.fromkeys(live.names, budget),
                live.by_name(sizes),
                0,
                Options(),
            )
            masks = outcome.solution.closed
            closed = live.flat([masks[name] for name in live.names])
            left = self._totals(closed)
            if all(left[r] <= limit for r, limit in self._limits.items()):
                return closed
            every |= closed
        return every
