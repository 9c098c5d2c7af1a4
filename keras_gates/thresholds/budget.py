"""What the pruned model may cost."""

import dataclasses
import numbers

from keras_gates.thresholds.floor import check_floor
from keras_gates.thresholds.rule import Rule
from keras_gates.thresholds.rule import check_number

COSTS = ("macs", "params", "latency")


@dataclasses.dataclass(frozen=True)
class Budget(Rule):
    """Closes the smallest factors until the pruned model costs no more.

    All factors that the rule is given are ranked together by size, and the
    first of them closed, just as many as `cost(pruned) <= budget` takes. The
    cost is that of the *pruned* model: channels that a shortcut ties to open
    ones, or that a layer without a rule keeps, count as the layers that they
    stay in. A budget that the model keeps to as it is closes nothing.

    The result is under the budget by 2 % at most. Where closing one factor
    removes more than that (a branch, say), it is left open and the next ones
    are tried; if no choice comes as near, a warning tells how near the best
    one is.

    A search must not starve a layer: where nothing leads round a gate,
    `keep_at_least` of its channels stay open, and a gate of one factor stays
    open. The plan's notes tell which. Where a shortcut does lead round a
    filter gate, all of its channels may close, and the branch goes.

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
            `predict_on_batch`, on this machine and backend; the choice
            varies with the noise, so keep the plan. Steps of 1/64 of the
            factors are tried.
        keep_at_least: Channels that stay open where nothing leads round: a
            whole number, or a share below 1 of each gate's own. At least
            one does.
        normalize: Whether to rank factors by their size relative to the
            mean of their gate (for gates of one factor, of their kind), for
            models whose layers' factors are on different scales.
        batch_size: Samples a batch, for `latency`.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If not exactly one of `macs`, `params` and `latency` is
            given, or an argument is not in its range. `plan` and `prune`
            raise it for a budget that these gates can't reach, and say what
            they can.

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
    (1000, 500)
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    keep_at_least: float = 0.05
    normalize: bool = False
    batch_size: int = 1

    def __post_init__(self):
        given = [c for c in COSTS if getattr(self, c) is not None]
        if len(given) != 1:
            raise ValueError(
                "A Budget is one of macs, params or latency. Received: "
                f"{', '.join(given) or 'none of them'}. Write, for example, "
                "Budget(macs=0.5)."
            )
        check_number(self.amount, f"the {self.of} of a Budget")
        if self.amount <= 0:
            raise ValueError(
                f"The {self.of} of a Budget must be more than 0. Received: "
                f"{self.amount!r}."
            )
        check_floor(self.keep_at_least, "keep_at_least")
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

    @property
    def of(self):
        """What is counted: `"macs"`, `"params"` or `"latency"`."""
        return next(c for c in COSTS if getattr(self, c) is not None)

    @property
    def amount(self):
        """How much of it may be left, as it was given."""
        return getattr(self, self.of)

    def limit(self, whole):
        """How much may be left of a model that costs `whole`."""
        return self.amount * whole if self.amount <= 1 else self.amount

    def close(self, gates):
        raise TypeError(
            "A Budget is counted on a pruned model, so that factors alone "
            "do not tell what it closes. Pass it to keras_gates.surgeon.plan "
            "or prune."
        )
