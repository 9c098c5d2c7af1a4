"""Pruning in steps, with training in between."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates import _checks
from keras_gates import thresholds as th
from keras_gates._checks import renamed
from keras_gates.surgeon.closing import latency
from keras_gates.surgeon.closing.ranking import check_noise
from keras_gates.surgeon.plan import cut_and_pair
from keras_gates.surgeon.plan import plan
from keras_gates.surgeon.plan import prune
from keras_gates.surgeon.repair.mend import Request as RepairRequest
from keras_gates.surgeon.repair.mend import mend
from keras_gates.surgeon.scores.score import score
from keras_gates.thresholds.floor import channels
from keras_gates.thresholds.floor import check_floor
from keras_gates.thresholds.resolve import key_of

if TYPE_CHECKING:
    from keras_gates.surgeon.closing.options import Floors
    from keras_gates.surgeon.closing.options import Scores
    from keras_gates.surgeon.closing.options import Thresholds
    from keras_gates.surgeon.repair.pairs import Pairs

# Criteria that need inputs.
_ON_INPUTS = ("apoz", "mean", "obs")


@renamed(scores="criterion")
def prune_iteratively(
    model: keras.Model,
    thresholds: Thresholds,
    *,
    criterion: str | Callable[[keras.Model], Scores] = "l2",
    steps: int = 5,
    on_step: Callable[[keras.Model, int], keras.Model | None] | None = None,
    keep_at_least: Floors = 0,
    repair: Any = None,
    **options: Any,
) -> keras.Model:
    """Prune channels without gates in steps, with training in between.

    Each step scores the remaining channels again and closes an equal part of
    the total: after step `k` of `n`, a `Quantile(q)` has closed the share `q *
    k / n` of the original channels, and a `Budget` has removed `k / n` of what
    it removes in total. Plain numbers apply in each step. For a `Budget` of
    latency, the model of each step is measured in turn with the original one; a
    step whose change would be hidden by noise is left to the next one.

    Args:
        model: A built Functional or Sequential model.
        thresholds: As in `prune`, for the last step.
        criterion: One of `surgeon.score`, or a function of the model that
            returns scores, such as `functools.partial(score,
            criterion="taylor", data=(x, y), loss="mse")`.
        steps: The number of steps.
        on_step: Called as `on_step(model, step)` after each step, starting at
            1, with the pruned model, to train it. If it returns a model, the
            next step prunes that model.
        keep_at_least: As in `prune`; a share refers to the channels before the
            first step.
        repair: Inputs of the model, as in `prune`: after each step, the model
            is fitted to the original one, so no training is needed. A criterion
            that needs inputs but no labels, such as "obs", gets these. They are
            read in each step, so they can't be a generator. A model that
            `on_step` returns becomes the original.
        **options: `round_to`, `exact` and `keep_optimizer`, as in `prune`.

    Returns:
        The model after the last step.

    Raises:
        TypeError: `criterion` is neither a name nor a function, `steps` is not
            an int, or as in `prune`.
        ValueError: `steps` is below 1, or as in `prune`.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(100, activation="relu", name="hidden"),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> small = kg.surgeon.prune_iteratively(
    ...     model,
    ...     kg.Quantile(0.6),
    ...     steps=3,
    ...     on_step=lambda model, step: print(model.layers[0].units),
    ... )
    80
    60
    40
    """
    _check(criterion, steps)
    if on_step is not None and not callable(on_step):
        raise TypeError(
            "`on_step` must be a function of the model and the step's number. "
            f"Received: {on_step!r} (of type {type(on_step).__name__})."
        )
    _check_read_again(repair)
    start = None
    repairs = None if repair is None else _Repairs(repair)
    for step in range(1, steps + 1):
        if callable(criterion):
            found = criterion(model)
        else:
            data = repair if criterion in _ON_INPUTS else None
            found = score(model, criterion, data)
        if start is None:
            start = _Start(
                {name: np.size(values) for name, values in found.items()},
                _costs(model, thresholds, found),
                _clock(model, thresholds),
            )
        part = start.part(thresholds, step / steps, found, model)
        floors = start.floors(keep_at_least, found)
        arguments = {"scores": found, "keep_at_least": floors, **options}
        if repairs is None:
            model = prune(model, part, **arguments)
        else:
            model = repairs.prune(model, part, **arguments)
        if on_step is not None:
            model = on_step(model, step) or model
    return model


class _Repairs:
    """Prunes and repairs repeatedly, relative to the same first model."""

    def __init__(self, x: Any) -> None:
        self.x = x
        self.request = RepairRequest()
        self.pairs: Pairs | None = None

    def prune(
        self, model: keras.Model, thresholds: Thresholds, **arguments: Any
    ) -> keras.Model:
        """Like `prune`, fitted to the first model."""
        pairs = cut_and_pair(model, thresholds, **arguments)
        before = self.pairs
        if before is not None and before.new.model is model:
            pairs = pairs.after(before)
        self.pairs = pairs
        mend(pairs, self.request.batches(model, self.x), self.request)
        return pairs.new.model


def _check_read_again(x: Any) -> None:
    if hasattr(x, "__next__"):
        raise TypeError(
            "`repair` is read in each step, but an iterator can be read only "
            f"once. Received: {x!r} (of type {type(x).__name__}). Pass "
            "arrays, a dataset, or a list of batches."
        )


def _check(criterion: object, steps: object) -> None:
    if not callable(criterion) and not isinstance(criterion, str):
        raise TypeError(
            "`criterion` must be the name of a criterion or a function of the "
            "model: it is scored again in each step. Received: "
            f"{criterion!r} (of type {type(criterion).__name__})."
        )
    _checks.integer(steps, "steps", least=1)


def _budgets(thresholds: Thresholds) -> list[th.Budget]:
    rules = (
        thresholds.values() if isinstance(thresholds, dict) else [thresholds]
    )
    return [rule for rule in rules if isinstance(rule, th.Budget)]


def _costs(
    model: keras.Model, thresholds: Thresholds, scores: Scores
) -> dict[str, int]:
    """The cost of the model, if a budget needs it."""
    budgets = _budgets(thresholds)
    if not budgets:
        return {}
    # That of a budget that everything meets, at its sizes.
    counted = th.Budget(params=1.0, sizes=budgets[0].sizes)
    whole = plan(model, counted, scores=scores)
    return {"macs": whole.macs[0], "params": whole.params[0]}


def _clock(model: keras.Model, thresholds: Thresholds) -> latency.Clock | None:
    """A `Clock` of the model, if a budget of latency needs it."""
    for budget in _budgets(thresholds):
        if budget.resource == "latency":
            clock = latency.clock(
                model, budget.batch_size, budget.measure, budget.sizes
            )
            check_noise(budget, clock)
            return clock
    return None


@dataclasses.dataclass(frozen=True)
class _Start:
    """The state before the first step.

    Attributes:
        sizes: `{name: how many channels have scores}`.
        costs: the model's MACs and parameters.
        clock: a `Clock` of the model, or None.
    """

    sizes: dict[str, int]
    costs: dict[str, int]
    clock: latency.Clock | None

    def part(
        self,
        thresholds: Thresholds,
        after: float,
        scores: Scores,
        model: keras.Model,
    ) -> Thresholds:
        """The thresholds of a step, for a share of the total."""
        if not isinstance(thresholds, dict):
            return self._rule(thresholds, after, model)
        return {
            key: self._rule(rule, after, model)
            for key, rule in thresholds.items()
            if not self._is_gone(key, scores)
        }

    def floors(self, keep_at_least: Floors, scores: Scores) -> Floors:
        """`keep_at_least` of a step: shares of the original channels."""
        if not isinstance(keep_at_least, dict):
            check_floor(keep_at_least, "keep_at_least")
            if isinstance(keep_at_least, numbers.Integral):
                return keep_at_least
            keep_at_least = {"*": keep_at_least}
        found = {
            key: floor
            for key, floor in keep_at_least.items()
            if not self._is_gone(key, scores)
        }
        for name, values in scores.items():
            key = key_of(keep_at_least, name)
            # Gates of one factor have no channels to keep.
            if key is not None and np.ndim(values) == 1 and name in self.sizes:
                check_floor(keep_at_least[key], f"keep_at_least[{key!r}]")
                found[name] = channels(keep_at_least[key], self.sizes[name])
        return found

    def _is_gone(self, key: str, scores: Scores) -> bool:
        """Whether all groups of a key were removed with their layers."""
        spoken = [name for name in self.sizes if key_of([key], name)]
        return bool(spoken) and not any(name in scores for name in spoken)

    def _rule(
        self, rule: float | th.ThresholdRule, after: float, model: keras.Model
    ) -> float | th.ThresholdRule:
        if isinstance(rule, th.Quantile):
            return _Further(rule.q * after, rule.scope, self.sizes)
        if not isinstance(rule, th.Budget):
            return rule
        if rule.resource == "latency" and self.clock is not None:
            share = self._share(rule, after, self.clock, model)
            return dataclasses.replace(rule, latency=share)
        whole = self.costs[rule.resource]
        limit = whole - after * (whole - rule.limit(whole))
        amount: dict[str, Any] = {rule.resource: limit}
        return dataclasses.replace(rule, **amount)

    def _share(
        self,
        budget: th.Budget,
        after: float,
        clock: latency.Clock,
        model: keras.Model,
    ) -> float:
        """The share of its time that a step's model may take."""
        limit = min(1.0, budget.limit(clock.whole) / clock.whole)
        now = clock.ratio(model)
        share = (1 - after * (1 - limit)) / now
        return share if 1 - share > clock.noise else 1.0


@dataclasses.dataclass(frozen=True)
class _Further(th.ThresholdRule):
    """Closes factors until a share of the original ones is removed."""

    share: float
    scope: str
    sizes: dict[str, int]

    def close(self, gates: list[th.Factors]) -> list[NDArray[np.bool_]]:
        if self.scope == "gate":
            return [self._smallest([gate])[0] for gate in gates]
        return self._smallest(gates)

    def _smallest(self, gates: list[th.Factors]) -> list[NDArray[np.bool_]]:
        start = sum(self.sizes.get(g.name, g.values.size) for g in gates)
        now = sum(g.values.size for g in gates)
        count = max(0, int(self.share * start) - (start - now))
        # A half more, so that the quotient is not rounded to one less.
        share = min(1.0, (count + 0.5) / now) if now else 0.0
        return th.Quantile(share).close(gates)
