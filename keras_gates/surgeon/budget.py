"""Which gates to close so that the pruned model keeps to a budget."""

import bisect
import dataclasses
import warnings

import numpy as np

# How far under the budget is near enough, as a share of it. Times are noisy.
_NEAR = {"macs": 0.02, "params": 0.02, "latency": 0.1}
# How often a step that goes too far is left out, to come nearer.
_ROUNDS = 8
# What is measured and not counted is tried in this many steps.
_STEPS = 64

UNITS = {"macs": "MACs", "params": "parameters", "latency": "ms"}


@dataclasses.dataclass
class Ranking:
    """All factors of some gates in one row, and the order to close them in.

    Attributes:
        gates: the `Factors`.
        sizes: what they are ranked by.
        order: the indices of those that may close, smallest first.
    """

    gates: list
    sizes: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, gates, held, normalize=False):
        """Rank gates, without the factors that are `held` open."""
        sizes = np.concatenate([np.zeros(0), *_sizes(gates, normalize)])
        order = np.argsort(sizes, kind="stable")
        fixed = [held.get(g.name, np.zeros(g.values.shape)) for g in gates]
        fixed = np.concatenate([np.zeros(0), *map(np.ravel, fixed)])
        return cls(gates, sizes, order[fixed[order] == 0])

    def closing(self, indices):
        """`{gate name: mask}` that closes the factors at `indices`."""
        flat = np.zeros(self.sizes.size, bool)
        flat[indices] = True
        return self._split(flat)

    def reached(self, indices):
        """The same without floors: all as small as the largest of them."""
        limit = self.sizes[indices].max(initial=-1)
        return self._split(self.sizes <= limit)

    def _split(self, flat):
        masks, start = {}, 0
        for gate in self.gates:
            part = flat[start : start + gate.values.size]
            masks[gate.name] = part.reshape(gate.values.shape)
            start += gate.values.size
        return masks


def _sizes(gates, normalize):
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


def meet(budget, ranking, whole, cost):
    """Close factors in their order until `cost` is within the budget.

    Args:
        budget: a `Budget`.
        ranking: a `Ranking`.
        whole: what the model costs as it is.
        cost: a function from `{gate name: mask}` to what is left of it.

    Returns:
        The indices of the factors to close.

    Raises:
        ValueError: the budget can't be reached.

    Warns:
        UserWarning: the budget is met, but not nearly.
    """
    limit, known = budget.limit(whole), {}
    near = (1 - _NEAR[budget.of]) * limit

    def left(indices):
        key = np.sort(indices).tobytes()
        if key not in known:
            known[key] = cost(ranking.closing(indices))
        return known[key]

    order, counted = ranking.order, budget.of != "latency"
    if left(order[:0]) <= limit:
        return order[:0]
    if left(order) > limit:
        raise ValueError(_out_of_reach(budget, limit, left(order), whole))
    step = 1 if counted else max(1, -(-order.size // _STEPS))
    rounds = _ROUNDS if counted else 1
    found = _nearest(order, left, (near, limit), rounds, step)
    if left(found) < near:
        warnings.warn(_far(budget, limit, left(found), whole), stacklevel=2)
    return found


def _nearest(order, left, bounds, rounds, step):
    """The choice that leaves most, of those that leave no more than asked."""
    (near, limit), taken, best = bounds, order[:0], order
    for _ in range(rounds):
        counts = range(0, order.size + step, step)

        def first(count, taken=taken, order=order):
            return np.concatenate([taken, order[:count]])

        if left(first(order.size)) > limit:
            break
        number = bisect.bisect_left(
            counts, True, key=lambda n, first=first: left(first(n)) <= limit
        )
        found = first(counts[number])
        best = max(best, found, key=left)
        if left(best) >= near or number == 0:
            break
        # The last one went too far: do without it, and go on behind it.
        taken, order = first(counts[number - 1]), order[counts[number] :]
    return best


def _out_of_reach(budget, limit, least, whole):
    return (
        f"{_called(budget)} can't be reached: it allows "
        f"{_amount(limit, whole, budget)}, and the least that these gates "
        f"can reach is {_amount(least, whole, budget)}. Allow more, close "
        "more kinds of gates, put gates into more layers, or lower "
        f"keep_at_least (now {budget.keep_at_least!r}). "
        "`print(keras_gates.surgeon.plan(model, ...))` with a high threshold "
        "tells what keeps the rest."
    )


def _far(budget, limit, left, whole):
    return (
        f"{_called(budget)} allows {_amount(limit, whole, budget)}. The "
        "nearest choice found that keeps to it leaves "
        f"{_amount(left, whole, budget)}: these gates close in larger steps."
    )


def _called(budget):
    return f"Budget({budget.of}={budget.amount!r})"


def _amount(number, whole, budget):
    digits = 3 if budget.of == "latency" else 0
    return f"{number:,.{digits}f} {UNITS[budget.of]} ({number / whole:.1%})"
