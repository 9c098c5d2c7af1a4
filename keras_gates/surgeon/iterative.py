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

from keras_gates import thresholds as th
from keras_gates.surgeon.closing import latency
from keras_gates.surgeon.closing.ranking import check_noise
from keras_gates.surgeon.plan import plan
from keras_gates.surgeon.plan import prune
from keras_gates.surgeon.scores.score import score

if TYPE_CHECKING:
    from keras_gates.surgeon.closing.options import Scores
    from keras_gates.surgeon.closing.options import Thresholds


def prune_iteratively(
    model: keras.Model,
    thresholds: Thresholds,
    *,
    scores: str | Callable[[keras.Model], Scores] = "l2",
    steps: int = 5,
    on_step: Callable[[keras.Model, int], keras.Model | None] | None = None,
    **options: Any,
) -> keras.Model:
    """Prune channels without gates step by step, training in between.

    Each step scores what is left anew and closes an equal part of all that
    is to go: after step `k` of `n` a `Quantile(q)` has closed the share
    `q * k / n` of the channels there were, and a `Budget` has taken `k / n`
    of what it takes altogether. Numbers as thresholds hold in each step.
    For a `Budget` of latency, each step's model is measured in turn with the
    model that there was to begin with; a step that would change less than
    noise hides is left to the next.

    Args:
        model: A built Functional or Sequential model.
        thresholds: As in `prune`, for the last step.
        scores: A criterion of `surgeon.score`, or a function of the model
            that returns scores, such as `functools.partial(score,
            criterion="taylor", data=(x, y), loss="mse")`.
        steps: How many steps.
        on_step: Called as `on_step(model, step)` after each step, from 1 on,
            with the pruned model, to train it. If it returns a model, the
            next step prunes that one.
        **options: `keep_at_least`, `round_to`, `exact` and `keep_optimizer`,
            as in `prune`. A number of channels to keep holds in each step, a
            share counts from what a step begins with.

    Returns:
        The model after the last step.

    Raises:
        TypeError: `scores` is neither a name nor a function, `steps` is no
            int, or as `prune`.
        ValueError: `steps` is below 1, or as `prune`.

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
    _check(scores, steps)
    start = None
    for step in range(1, steps + 1):
        found = scores(model) if callable(scores) else score(model, scores)
        if start is None:
            start = _Start(
                {name: np.size(values) for name, values in found.items()},
                _costs(model, thresholds, found),
                _clock(model, thresholds),
            )
        part = start.part(thresholds, step / steps, found, model)
        model = prune(model, part, scores=found, **options)
        if on_step is not None:
            model = on_step(model, step) or model
    return model


def _check(scores: object, steps: object) -> None:
    if not callable(scores) and not isinstance(scores, str):
        raise TypeError(
            "`scores` must be the name of a criterion or a function of the "
            "model: it is scored anew in each step. Received: "
            f"{scores!r} (of type {type(scores).__name__})."
        )
    if isinstance(steps, bool) or not isinstance(steps, numbers.Integral):
        raise TypeError(f"`steps` must be an int. Received: {steps!r}.")
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1. Received: {steps!r}.")


def _budgets(thresholds: Thresholds) -> list[th.Budget]:
    rules = (
        thresholds.values() if isinstance(thresholds, dict) else [thresholds]
    )
    return [rule for rule in rules if isinstance(rule, th.Budget)]


def _costs(
    model: keras.Model, thresholds: Thresholds, scores: Scores
) -> dict[str, int]:
    """What the model costs, where a budget asks for it."""
    budgets = _budgets(thresholds)
    if not budgets:
        return {}
    # That of a budget which all is within, at the sizes that it counts at.
    counted = th.Budget(params=1.0, sizes=budgets[0].sizes)
    whole = plan(model, counted, scores=scores)
    return {"macs": whole.macs[0], "params": whole.params[0]}


def _clock(model: keras.Model, thresholds: Thresholds) -> latency.Clock | None:
    """A `Clock` of the model, where a budget of latency asks for it."""
    for budget in _budgets(thresholds):
        if budget.of == "latency":
            clock = latency.clock(
                model, budget.batch_size, budget.measure, budget.sizes
            )
            check_noise(budget, clock)
            return clock
    return None


@dataclasses.dataclass(frozen=True)
class _Start:
    """What there was before the first step.

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
        """The thresholds of a step, up to a share of all that goes."""
        if not isinstance(thresholds, dict):
            return self._rule(thresholds, after, model)
        # A group may have gone with its layer.
        return {
            key: self._rule(rule, after, model)
            for key, rule in thresholds.items()
            if key in scores or key not in self.sizes
        }

    def _rule(
        self, rule: float | th.Rule, after: float, model: keras.Model
    ) -> float | th.Rule:
        if isinstance(rule, th.Quantile):
            return _Further(rule.q * after, rule.scope, self.sizes)
        if not isinstance(rule, th.Budget):
            return rule
        if rule.of == "latency" and self.clock is not None:
            share = self._share(rule, after, self.clock, model)
            return dataclasses.replace(rule, latency=share)
        whole = self.costs[rule.of]
        limit = whole - after * (whole - rule.limit(whole))
        amount: dict[str, Any] = {rule.of: limit}
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
class _Further(th.Rule):
    """Closes factors until a share of those at the start has gone."""

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
