"""Enumerations for rules: how inputs are read, scaled and reached.

Each value is a string (a number for `Reach`), so rules may use either:
`Elementwise(passes="zero")` is `Elementwise(passes=PRESERVES_ZERO)`.
"""

from __future__ import annotations

import enum


class Reading(str, enum.Enum):
    """How an input coordinate with a known value may be removed."""

    ALL = "all"
    """Never: every coordinate is read, as in a softmax over the channels."""
    ZERO = "zero"
    """If the value is zero, as in a convolution with zero padding."""
    BIAS = "bias"
    """For any value: it becomes a bias, as in a `Dense`."""
    STATISTICS = "statistics"
    """For any value that is the same in all calls: the rebuilt operation
    accounts for it, as in a `LayerNormalization`."""

    @property
    def drops_zeros(self) -> bool:
        """Whether a zero may be removed without changing the reader."""
        return self in (Reading.ZERO, Reading.BIAS)


class Scaling(str, enum.Enum):
    """How a factor g on the input passes: f(g x) compared with g f(x)."""

    LINEAR = "linear"
    """Equal for every g."""
    POSITIVE = "positive"
    """Equal for g >= 0, as in a ReLU."""
    PRESERVES_ZERO = "zero"
    """Equal for g in {0, 1}: f(0) = 0, as in a tanh."""


class Identity(str, enum.Enum):
    """The only value of a source that is not an array; see `Flow.sources`."""

    IDENTITY = "identity"
    """Each output coordinate comes from the same input coordinate."""


class Reach(enum.IntEnum):
    """How an output depends on an input; higher values include lower ones."""

    NOTHING = 0
    """Not at all."""
    CHOICE = 1
    """Through a choice: a mask, a condition, or indices."""
    VALUES = 2
    """Through its values."""
