"""Requests and options of plans, as plain data."""

from __future__ import annotations

import dataclasses
import numbers
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing import TypeAlias

    from keras_gates import thresholds as th

    # What users pass. The values of the dict are numbers and rules.
    Thresholds: TypeAlias = float | th.ThresholdRule | dict[str, Any]
    Scores: TypeAlias = dict[str, NDArray[Any]]
    Floors: TypeAlias = float | dict[str, int] | dict[str, float]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a plan removes closed channels.

    Attributes:
        exact: whether to make only exact removals.
        round_to: the multiple to which the channels of cut layers are rounded.
        drop_shortcuts: whether to remove the added shortcuts of open gates.
        sizes: those of the inputs, at which a `Budget` counts: lists, or a
            dict of them by name; None for the sizes that the model has.
        groups: the names that are those of groups of channels with scores,
            and of no gate. None, in plans that old versions have written,
            stands for all names that no gate has.
        written_out: whether layers of classes without a rule are written out
            where something in them changes; None: where their class can't be
            kept, False: never.
        whole: the paths of such layers that neither way is open to, and why;
            they are kept whole.

    Raises:
        TypeError: `exact`, `round_to`, `drop_shortcuts` or `written_out` is
            of another type.
        ValueError: `round_to` is below 1.
    """

    exact: bool = True
    round_to: int = 1
    drop_shortcuts: bool = False
    sizes: list[Any] | dict[str, Any] | None = None
    groups: tuple[str, ...] | None = ()
    written_out: bool | None = None
    whole: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        multiple, exact = self.round_to, self.exact
        whole = isinstance(multiple, numbers.Integral)
        if isinstance(multiple, bool) or not whole:
            raise TypeError(
                f"`round_to` must be an int. Received: {multiple!r}."
            )
        if multiple < 1:
            raise ValueError(
                f"`round_to` must be at least 1. Received: {multiple!r}."
            )
        object.__setattr__(self, "round_to", int(multiple))
        if not isinstance(exact, bool):
            raise TypeError(
                f"`exact` must be True or False. Received: {exact!r} (of type "
                f"{type(exact).__name__})."
            )
        if not isinstance(self.drop_shortcuts, bool):
            raise TypeError(
                "`drop_shortcuts` must be True or False. Received: "
                f"{self.drop_shortcuts!r} (of type "
                f"{type(self.drop_shortcuts).__name__})."
            )
        if not isinstance(self.written_out, (bool, type(None))):
            raise TypeError(
                "`written_out` must be True, False or None. Received: "
                f"{self.written_out!r} (of type "
                f"{type(self.written_out).__name__})."
            )


@dataclasses.dataclass(frozen=True)
class Request:
    """The request of a plan, as data for JSON.

    Attributes:
        thresholds: a number; a rule, as a dict of its arguments with the name
            of its class under "rule", or as its `repr` if it is no dataclass;
            or a dict of these by kind or gate name.
        keep_at_least: a number, or a dict of numbers by gate name.
        scores: the names of the groups and gates that had scores; None where
            the factors of gates were compared.
    """

    thresholds: Any
    keep_at_least: Any = 0
    scores: tuple[str, ...] | None = None

    @classmethod
    def from_arguments(
        cls,
        thresholds: Thresholds,
        keep_at_least: Floors,
        scores: Scores | None,
    ) -> Request:
        """The record of the user's arguments."""
        names = None if scores is None else tuple(map(str, scores))
        return cls(plain(thresholds), plain(keep_at_least), names)


def plain(value: object) -> Any:
    """A value as JSON data, or its `repr`."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, (numbers.Real, np.floating)):
        return float(value)
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        arguments = {name: plain(getattr(value, name)) for name in names}
        return {"rule": type(value).__name__, **arguments}
    return repr(value)
