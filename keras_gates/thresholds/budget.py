"""A limit on the cost of the pruned model."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates import _checks
from keras_gates._checks import renamed_arguments
from keras_gates.thresholds.floor import check_floor
from keras_gates.thresholds.rule import ThresholdRule
from keras_gates.thresholds.rule import check_number

if TYPE_CHECKING:
    import keras

    from keras_gates.thresholds.rule import Factors

COSTS = ("macs", "params", "latency")


class OutOfReach(ValueError):
    """No choice of closed factors meets a budget."""


def percentage(budget: Budget) -> str:
    """What to write if a number of units was meant as a percentage, or ""."""
    amount, name = budget.amount, budget.resource
    if name == "latency" or not 1 < amount <= 100:
        return ""
    return (
        f" A number above 1 counts {name}: for {amount:g} %, write "
        f"{name}={amount / 100:g}."
    )


@renamed_arguments(keep_at_least="keep_essential")
@dataclasses.dataclass(frozen=True)
class Budget(ThresholdRule):
    """Closes the smallest factors until the pruned model meets a budget.

    All factors that the rule applies to are ranked together by size, and the
    smallest are closed, just as many as `cost(pruned) <= budget` requires. The
    cost is that of the *pruned* model: channels that stay because a shortcut
    ties them to open ones, or because a layer without a rule keeps them, are
    counted. If the model already meets the budget, nothing is closed.

    The result is at most 2 % below the budget. If closing one factor removes
    more than that (a branch, say), others are opened again, or it is left open
    and the next ones are tried; if no choice comes as close, a warning says how
    close the best one is. Factors whose closing would remove nothing stay open.

    A layer that everything passes through is never closed: if there is no
    path around a gate, `keep_essential` of its channels stay open, and a gate
    with one factor stays open. The plan's notes list these. If a shortcut
    leads around a filter gate, all of its channels may close, and the branch
    is removed. Each output still depends on the values of every input that it
    depended on; a mask, a condition or an index does not count as a path.

    A `Budget` is for `plan` and `prune`. In a dict of thresholds, it ranks the
    gates under its key, with fixed thresholds for the others; one `Budget`
    under several keys ranks all of their gates together.

    Args:
        macs: Multiply-adds that may remain: up to 1, a share of those of the
            model with gates; above 1, a number for one sample.
        params: Parameters that may remain: a share, or a number.
        latency: Time of one inference: up to 1, a share of the time of the
            model rebuilt with nothing removed; above 1, milliseconds. Each
            trial is rebuilt and measured with `predict_on_batch` on this
            machine and backend, in turn with the whole model. The choice varies
            with the noise, so keep the plan. Steps of 1/64 of the factors are
            tried.
        keep_essential: The channels that stay open in each gate without a path
            around it: an integer, or a share below 1. At least one stays open.
            (`keep_at_least` of `plan` applies to every gate.)
        normalize: Whether to rank factors by their size relative to the mean of
            their gate (of their kind, for gates with one factor), for models
            whose layers' factors have different scales.
        batch_size: Samples per batch, for `latency`.
        sizes: Values for unknown sizes of the model's inputs, to count MACs or
            measure time, without the batch axis: a tuple, or for several inputs
            a list of tuples or a dict of them by name. The plan counts MACs at
            these sizes.
        measure: For `latency`, a function from a model to milliseconds, to
            measure on another device or in another runtime.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If not exactly one of `macs`, `params` and `latency` is
            given, or an argument is out of range. `plan` and `prune` raise it
            for a budget that the gates can't reach, with the least that they
            can; and for a latency whose difference from the whole is below the
            noise of the measurement.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(100, activation="relu"),
    ...         kg.FilterGate(),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> kg.surgeon.plan(model, kg.Budget(macs=0.5)).macs
    Pair(before=1000, after=500)
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    keep_essential: float = 0.05
    normalize: bool = False
    batch_size: int = 1
    sizes: Any = dataclasses.field(default=None, hash=False)
    measure: Callable[[keras.Model], float] | None = None

    def __post_init__(self) -> None:
        given = [c for c in COSTS if getattr(self, c) is not None]
        if len(given) != 1:
            raise ValueError(
                "A Budget is one of macs, params or latency. Received: "
                f"{', '.join(given) or 'none of them'}. Write, for example, "
                "Budget(macs=0.5)."
            )
        check_number(self.amount, f"the {self.resource} of a Budget")
        if self.amount <= 0:
            raise ValueError(
                f"The {self.resource} of a Budget must be more than 0. "
                f"Received: {self.amount!r}."
            )
        check_floor(self.keep_essential, "keep_essential")
        if not isinstance(self.normalize, bool):
            raise TypeError(
                "`normalize` must be True or False. Received: "
                f"{self.normalize!r}."
            )
        _checks.integer(self.batch_size, "batch_size", least=1)
        if self.measure is not None:
            _check_measure(self.measure, self.resource)
        if self.sizes is not None:
            # Lists and integers, as in JSON.
            object.__setattr__(self, "sizes", _plain(self.sizes))

    @property
    def resource(self) -> str:
        """What is counted: `"macs"`, `"params"` or `"latency"`."""
        return next(c for c in COSTS if getattr(self, c) is not None)

    @property
    def amount(self) -> float:
        """The amount that may remain, as given."""
        found: float = getattr(self, self.resource)
        return found

    def limit(self, whole: float) -> float:
        """The amount that may remain of a model that costs `whole`."""
        return self.amount * whole if self.amount <= 1 else self.amount

    def close(self, gates: list[Factors]) -> list[NDArray[np.bool_]]:
        raise TypeError(
            "A Budget is counted on a pruned model, so it can't be resolved "
            "from factors alone. Pass it to keras_gates.surgeon.plan or "
            "prune."
        )


def _check_measure(measure: object, of: str) -> None:
    if not callable(measure):
        raise TypeError(
            "`measure` must be a function from a model to milliseconds. "
            f"Received: {measure!r} (of type {type(measure).__name__})."
        )
    if of != "latency":
        raise ValueError(
            f"`measure` is for a Budget of latency. Received: a Budget of {of}."
        )


def _plain(sizes: Any) -> list[Any] | dict[str, Any]:
    """Sizes as lists of ints, or a dict of these.

    Raises:
        TypeError: they have another type.
    """
    if isinstance(sizes, dict):
        return {name: s and _plain(s) for name, s in sizes.items()}
    found: list[Any] = []
    for size in sizes if isinstance(sizes, (tuple, list)) else [sizes]:
        whole = isinstance(size, numbers.Integral)
        inner = isinstance(size, (tuple, list)) or size is None
        if isinstance(size, bool) or not (whole or inner) or sizes is size:
            raise TypeError(
                "`sizes` must be a tuple of whole numbers, without the batch "
                "axis, or a list of these, or a dict by the inputs' names. "
                f"Received: {sizes!r} (of type {type(sizes).__name__})."
            )
        found.append(int(size) if whole else size and _plain(size))
    return found
