"""Which gates to close so that the pruned model meets a budget."""

from __future__ import annotations

import bisect
import dataclasses
import warnings
from collections.abc import Callable
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.closing.nearest import nearest
from keras_gates.thresholds.budget import OutOfReach
from keras_gates.thresholds.budget import percentage

if TYPE_CHECKING:
    from keras_gates.surgeon.closing.latency import Clock
    from keras_gates.thresholds.budget import Budget
    from keras_gates.thresholds.rule import Factors

# How far under the budget is near enough, as a share of it. Times are noisy.
_NEAR, _NEAR_TIME = 0.02, 0.1
# What is measured and not counted is tried in this many steps.
_STEPS = 64
# MACs that are this much further down than time are worth a note, or a warning.
BELOW, FAR_BELOW = 0.8, 0.5

UNITS = {"macs": "MACs", "params": "parameters", "latency": "ms"}


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """All factors of some gates in one row, and the order to close them in.

    Attributes:
        gates: the `Factors`.
        sizes: what they are ranked by, one for each factor.
        order: the indices of those that may close, smallest first.
        units: a number for each factor; those of one number go together.
        families: a number for each factor; units of one family are alike.
    """

    gates: list[Factors]
    sizes: NDArray[np.float64]
    order: NDArray[np.intp]
    units: NDArray[np.intp]
    families: NDArray[np.intp]

    @classmethod
    def from_gates(
        cls,
        gates: list[Factors],
        held: Mapping[str, NDArray[np.bool_]],
        normalize: bool = False,
        ties: Mapping[str, NDArray[np.intp]] | None = None,
    ) -> Ranking:
        """Rank gates, without the factors that are `held` open.

        `ties` has an array like its factors for each gate with channels: the
        number of what each of them goes with.
        """
        sizes = np.concatenate([np.zeros(0), *_sizes(gates, normalize)])
        order = np.argsort(sizes, kind="stable")
        open_ones = [
            held.get(g.name, np.zeros(g.values.shape, bool)) for g in gates
        ]
        fixed = np.concatenate([np.zeros(0, bool), *map(np.ravel, open_ones)])
        together = _together(gates, ties or {})
        return cls(gates, sizes, order[~fixed[order]], *together)

    def closing(
        self, indices: NDArray[np.intp]
    ) -> dict[str, NDArray[np.bool_]]:
        """`{gate name: mask}` that closes the factors at `indices`."""
        flat = np.zeros(self.sizes.size, bool)
        flat[indices] = True
        return self._split(flat)

    def reached(
        self, indices: NDArray[np.intp]
    ) -> dict[str, NDArray[np.bool_]]:
        """The same without floors: all as small as the largest of them."""
        limit = self.sizes[indices].max(initial=-1)
        return self._split(self.sizes <= limit)

    def _split(self, flat: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
        masks, start = {}, 0
        for gate in self.gates:
            part = flat[start : start + gate.values.size]
            masks[gate.name] = part.reshape(gate.values.shape)
            start += gate.values.size
        return masks


def _together(
    gates: list[Factors], ties: Mapping[str, NDArray[np.intp]]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """`(units, families)`: a family is what the same gates are tied to."""
    parts = [np.zeros(0, np.intp)]
    owners: list[int] = []
    for number, gate in enumerate(gates):
        own = ties.get(gate.name)
        if own is None:
            # Below 0, so that they are none of the ties.
            own = -1 - len(owners) - np.arange(gate.values.size)
        parts.append(np.ravel(own))
        owners += [number] * gate.values.size
    _, units = np.unique(np.concatenate(parts), return_inverse=True)
    members: dict[int, dict[int, None]] = {}
    for unit, owner in zip(units.tolist(), owners, strict=True):
        members.setdefault(unit, {})[owner] = None
    numbers: dict[tuple[int, ...], int] = {}
    families = [
        numbers.setdefault(tuple(members[unit]), len(numbers))
        for unit in units.tolist()
    ]
    return units, np.array(families, np.intp)


def _sizes(gates: list[Factors], normalize: bool) -> list[NDArray[np.float64]]:
    """The sizes to rank by, an array for each gate."""
    sizes = [np.abs(g.values).reshape(-1).astype("float64") for g in gates]
    if not normalize:
        return sizes
    groups = [g.kind if g.values.ndim == 0 else g.name for g in gates]
    means = {
        name: np.concatenate(
            [s for s, group in zip(sizes, groups, strict=True) if group == name]
        ).mean()
        for name in set(groups)
    }
    return [
        size / (means[group] or 1.0)
        for size, group in zip(sizes, groups, strict=True)
    ]


def meet(
    budget: Budget,
    ranking: Ranking,
    whole: float,
    cost: Callable[[dict[str, NDArray[np.bool_]]], float],
    trials: int,
) -> NDArray[np.intp]:
    """Close factors in their order until `cost` is within the budget.

    Args:
        budget: a `Budget` of what is counted.
        ranking: a `Ranking`.
        whole: what the model costs as it is.
        cost: a function from `{gate name: mask}` to what is left of it.
        trials: how often `cost` may be asked, nearly.

    Returns:
        The indices of the factors to close.

    Raises:
        OutOfReach: the budget can't be reached.

    Warns:
        UserWarning: the budget is met, but not nearly.
    """
    limit, left = budget.limit(whole), _remembered(cost, ranking)
    order, near = ranking.order, (1 - _NEAR) * limit
    if left(order[:0]) <= limit:
        return order[:0]
    if left(order) > limit:
        raise OutOfReach(_out_of_reach(budget, limit, left(order), whole))
    together = ranking.units[order], ranking.families[order]
    found = nearest(order, *together, left, (near, limit), trials)
    if left(found) < near:
        warnings.warn(_far(budget, limit, left(found), whole), stacklevel=2)
    return found


def meet_time(
    budget: Budget,
    ranking: Ranking,
    clock: Clock,
    ratio: Callable[[dict[str, NDArray[np.bool_]]], float],
) -> NDArray[np.intp]:
    """The same for a latency: so many of the first as it takes.

    Args:
        budget: a `Budget` of latency.
        ranking: a `Ranking`.
        clock: the `Clock` of the model rebuilt as it is.
        ratio: a function from `{gate name: mask}` to the share of its time
            that is left, measured at each call.

    Returns:
        The indices of the factors to close.

    Raises:
        ValueError: the budget can't be reached, or noise hides it.

    Warns:
        UserWarning: the budget is met, but not nearly.
    """
    whole, order = clock.whole, ranking.order
    limit = budget.limit(whole)
    if limit >= whole:
        return order[:0]
    check_noise(budget, clock)

    def measured(indices: NDArray[np.intp]) -> float:
        return whole * ratio(ranking.closing(indices))

    left = _remembered(lambda masks: whole * ratio(masks), ranking)
    if left(order) > limit:
        raise OutOfReach(_out_of_reach(budget, limit, left(order), whole))
    step = max(1, -(-order.size // _STEPS))
    counts = [*range(step, order.size, step), order.size]
    number = bisect.bisect_left(
        counts, True, key=lambda count: left(order[:count]) <= limit
    )
    # The first that seems to do may owe it to chance: it has to do so twice.
    while True:
        chosen = order[: counts[number]]
        amount = left(chosen)
        if clock.noise:
            amount = (amount + measured(chosen)) / 2
        if amount <= limit or number + 1 == len(counts):
            break
        number += 1
    if amount < (1 - _NEAR_TIME) * limit:
        warnings.warn(_far(budget, limit, amount, whole), stacklevel=2)
    return chosen


def check_noise(budget: Budget, clock: Clock) -> None:
    """Refuse a budget that differs from the whole by less than noise.

    Raises:
        ValueError: it does.
    """
    limit = budget.limit(clock.whole)
    if limit < clock.whole and 1 - limit / clock.whole <= clock.noise:
        raise ValueError(_too_fine(budget, limit, clock))


def _remembered(
    cost: Callable[[dict[str, NDArray[np.bool_]]], float], ranking: Ranking
) -> Callable[[NDArray[np.intp]], float]:
    """`cost` as a function of indices, which is asked once for each."""
    known: dict[bytes, float] = {}

    def left(indices: NDArray[np.intp]) -> float:
        key = np.sort(indices).tobytes()
        if key not in known:
            known[key] = cost(ranking.closing(indices))
        return known[key]

    return left


def _out_of_reach(
    budget: Budget, limit: float, least: float, whole: float
) -> str:
    return (
        f"{_called(budget)} can't be reached: it allows "
        f"{_amount(limit, whole, budget)}, and the least that these gates can "
        f"reach is {_amount(least, whole, budget)}. Allow more, close more "
        "kinds of gates, add gates to more layers, or lower keep_essential "
        f"(now {budget.keep_essential!r}), keep_at_least and round_to. "
        "`print(keras_gates.surgeon.plan(model, ...))` with a high threshold "
        f"shows what keeps the rest.{percentage(budget)}"
    )


def _too_fine(budget: Budget, limit: float, clock: Clock) -> str:
    return (
        f"{_called(budget)} asks for {_amount(limit, clock.whole, budget)}, "
        f"but the time of the unchanged model varies by {clock.noise:.1%} "
        "between measurements, so smaller differences can't be measured. "
        "Allow less, stop other processes on the machine, take a larger "
        "batch_size, pass a `measure` that repeats its runs more often, or "
        "set a budget of macs."
    )


def _far(budget: Budget, limit: float, left: float, whole: float) -> str:
    return (
        f"{_called(budget)} allows {_amount(limit, whole, budget)}. The "
        f"closest choice that meets it leaves {_amount(left, whole, budget)}: "
        "these gates close in larger steps."
    )


def _called(budget: Budget) -> str:
    return f"Budget({budget.resource}={budget.amount!r})"


def _amount(number: float, whole: float, budget: Budget) -> str:
    digits = ",.3g" if budget.resource == "latency" else ",.0f"
    return f"{number:{digits}} {UNITS[budget.resource]} ({number / whole:.1%})"
