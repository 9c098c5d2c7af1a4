"""What the pruned model may cost."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates._checks import renamed_arguments
from keras_gates.thresholds.floor import check_floor
from keras_gates.thresholds.rule import ThresholdRule
from keras_gates.thresholds.rule import check_number

if TYPE_CHECKING:
    import keras

    from keras_gates.thresholds.rule import Factors

COSTS = ("macs", "params", "latency")


class OutOfReach(ValueError):
    """No choice of what to close keeps to a budget."""


@renamed_arguments(keep_at_least="keep_essential")
@dataclasses.dataclass(frozen=True)
class Budget(ThresholdRule):
    """Closes the smallest factors until the pruned model costs no more.

    All factors that the rule is given are ranked together by size, and the
    first of them closed, just as many as `cost(pruned) <= budget` takes. The
    cost is that of the *pruned* model: channels that a shortcut ties to open
    ones, or that a layer without a rule keeps, count as the layers that they
    stay in. A budget that the model keeps to as it is closes nothing.

    The result is under the budget by 2 % at most. Where closing one factor
    removes more than that (a branch, say), others are opened again beside
    it, or it is left open and the next ones are tried; if no choice that was
    tried comes as near, a warning tells how near the best one is. What
    would close for nothing stays open.

    A search must not starve a layer: where nothing leads around a gate,
    `keep_essential` of its channels stay open, and a gate of one factor stays
    open. The plan's notes tell which. Where a shortcut does lead around a
    filter gate, all of its channels may close, and the branch goes. Each
    output goes on to depend on the values of every input that it depended on;
    a mask, a condition or an index is no way round for the data.

    A `Budget` is for `plan` and `prune`. In a dict of thresholds it ranks
    the gates under its key, beside fixed thresholds for the others; one
    `Budget` under several keys ranks all of their gates together.

    Args:
        macs: Multiply-adds that may be left: up to 1 a share of those of the
            model with gates, above 1 a number for one sample.
        params: Parameters that may be left: a share, or a number.
        latency: Time of one inference that may be left: up to 1 a share of
            that of the model rebuilt with nothing removed, above 1
            milliseconds. Each trial is rebuilt and measured with
            `predict_on_batch`, on this machine and backend, in turn with the
            whole model; the choice varies with the noise, so keep the plan.
            Steps of 1/64 of the factors are tried.
        keep_essential: Channels that stay open of each gate that nothing
            leads around: a whole number, or a share below 1 of the gate's own.
            At least one does. (`keep_at_least` of `plan` is for every gate.)
        normalize: Whether to rank factors by their size relative to the
            mean of their gate (for gates of one factor, of their kind), for
            models whose layers' factors are on different scales.
        batch_size: Samples a batch, for `latency`.
        sizes: Sizes that the model's inputs leave open, to count MACs or
            measure time at, without the batch axis: a tuple, or for several
            inputs a list of tuples or a dict of them by name. The plan's
            MACs are those at these sizes.
        measure: For `latency`, a function from a model to milliseconds, to
            measure elsewhere than here: on a device, or in another runtime.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If not exactly one of `macs`, `params` and `latency` is
            given, or an argument is not in its range. `plan` and `prune`
            raise it for a budget that these gates can't reach, and say what
            they can; and for a latency that differs from the whole by less
            than one measurement from the next.

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
        size = self.batch_size
        if isinstance(size, bool) or not isinstance(size, numbers.Integral):
            raise TypeError(f"`batch_size` must be an int. Received: {size!r}.")
        if size < 1:
            raise ValueError(
                f"`batch_size` must be at least 1. Received: {size!r}."
            )
        if self.measure is not None:
            _check_measure(self.measure, self.resource)
        if self.sizes is not None:
            # Lists and whole numbers are what JSON has.
            object.__setattr__(self, "sizes", _plain(self.sizes))

    @property
    def resource(self) -> str:
        """What is counted: `"macs"`, `"params"` or `"latency"`."""
        return next(c for c in COSTS if getattr(self, c) is not None)

    @property
    def amount(self) -> float:
        """How much of it may be left, as it was given."""
        found: float = getattr(self, self.resource)
        return found

    def limit(self, whole: float) -> float:
        """How much may be left of a model that costs `whole`."""
        return self.amount * whole if self.amount <= 1 else self.amount

    def close(self, gates: list[Factors]) -> list[NDArray[np.bool_]]:
        raise TypeError(
            "A Budget is counted on a pruned model, so that factors alone "
            "do not tell what it closes. Pass it to keras_gates.surgeon.plan "
            "or prune."
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
        TypeError: they are something else.
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
