"""What thresholds speak of, and the base class of their rules."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

import numpy as np

KINDS = ("filter", "layer", "branch", "block", "batch_norm", "stripe", "group")
# Their factors are a vector, one for each channel.
VECTORS = ("filter", "batch_norm", "group")
# They are gates only where a dict of thresholds says so.
NAMED = ("batch_norm",)


@dataclasses.dataclass(frozen=True)
class Factors:
    """The factors of one gate, under the name that thresholds use."""

    name: str
    kind: str
    values: np.ndarray


class Rule:
    """Base class of rules that choose which gates to close.

    A rule sees all the gates it is given at once, so that it may compare
    them.
    """

    def close(self, gates: Any) -> None:
        """Return a boolean array for each of the `Factors`."""
        raise NotImplementedError

    def get_config(self) -> Any:
        """The arguments of the rule, as JSON can hold them."""
        return dataclasses.asdict(self)


def check_number(value: float, what: str) -> None:
    """Refuse what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{what.capitalize()} must be a number. Received: {value!r} (of "
            f"type {type(value).__name__})."
        )
    if not math.isfinite(value):
        raise ValueError(
            f"{what.capitalize()} must be finite. Received: {value!r}."
        )
