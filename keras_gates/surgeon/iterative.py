"""Pruning in steps, with training in between."""

import dataclasses
import numbers

import numpy as np

from keras_gates import thresholds as th
from keras_gates.surgeon.plan import plan
from keras_gates.surgeon.plan import prune
from keras_gates.surgeon.scores.score import score


def prune_iteratively(
    model, thresholds, *, scores="l2", steps=5, on_step=None, **options
):
    """Prune channels without gates step by step, training in between.

    Each step scores what is left anew and closes an equal part of all that
    is to go: after step `k` of `n` a `Quantile(q)` has closed the share
    `q * k / n` of the channels there were, and a `Budget` has taken `k / n`
    of what it takes altogether. Numbers as thresholds hold in each step.

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
        ValueError: `steps` is below 1, a `Budget` of latency is given in
            milliseconds, or as `prune`.

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
            )
        part = start.part(thresholds, (step - 1) / steps, step / steps, found)
        model = prune(model, part, scores=found, **options)
        if on_step is not None:
            model = on_step(model, step) or model
    return model


def _check(scores, steps):
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


def _costs(model, thresholds, scores):
    """What the model costs, where a budget asks for it."""
    rules = (
        thresholds.values() if isinstance(thresholds, dict) else [thresholds]
    )
    budgets = [rule for rule in rules if isinstance(rule, th.Budget)]
    if any(b.of == "latency" and b.amount > 1 for b in budgets):
        raise ValueError(
            "In steps, a Budget of latency must be a share: how long the "
            "model takes as it is differs from one measurement to the next."
        )
    if not budgets:
        return {}
    whole = plan(model, 0.0, scores=scores)
    return {"macs": whole.macs[0], "params": whole.params[0]}


@dataclasses.dataclass(frozen=True)
class _Start:
    """What there was before the first step.

    Attributes:
        sizes: `{name: how many channels have scores}`.
        costs: the model's MACs and parameters.
    """

    sizes: dict
    costs: dict

    def part(self, thresholds, before, after, scores):
        """The thresholds of a step, between two shares of all that goes."""
        if not isinstance(thresholds, dict):
            return self._rule(thresholds, before, after)
        # A group may have gone with its layer.
        return {
            key: self._rule(rule, before, after)
            for key, rule in thresholds.items()
            if key in scores or key not in self.sizes
        }

    def _rule(self, rule, before, after):
        if isinstance(rule, th.Quantile):
            return _Further(rule.q * after, rule.scope, self.sizes)
        if not isinstance(rule, th.Budget):
            return rule
        left = [1 - share * (1 - rule.amount) for share in (before, after)]
        if rule.of == "latency":
            return dataclasses.replace(rule, latency=left[1] / left[0])
        whole = self.costs[rule.of]
        limit = whole - after * (whole - rule.limit(whole))
        return dataclasses.replace(rule, **{rule.of: limit})


@dataclasses.dataclass(frozen=True)
class _Further(th.Rule):
    """Closes factors until a share of those at the start has gone."""

    share: float
    scope: str
    sizes: dict

    def close(self, gates):
        if self.scope == "gate":
            return [self._smallest([gate])[0] for gate in gates]
        return self._smallest(gates)

    def _smallest(self, gates):
        start = sum(self.sizes.get(g.name, g.values.size) for g in gates)
        now = sum(g.values.size for g in gates)
        count = max(0, int(self.share * start) - (start - now))
        # A half more, so that the quotient is not rounded to one less.
        share = min(1.0, (count + 0.5) / now) if now else 0.0
        return th.Quantile(share).close(gates)
