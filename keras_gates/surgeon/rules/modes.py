"""The words in which a rule answers: how it reads, scales, and reaches.

Each is a string (a number for `Reach`), so that rules may be written with
either: `Elementwise(passes="zero")` is `Elementwise(passes=PRESERVES_ZERO)`.
"""

from __future__ import annotations

import enum


class Reading(str, enum.Enum):
    """How an input coordinate with a known value may be removed."""

    ALL = "all"
    """Never: every coordinate is read, as by a softmax over the channels."""
    ZERO = "zero"
    """Where the value is zero, as by a convolution with a zero border."""
    BIAS = "bias"
    """Whatever the value is: it becomes a bias, as in a `Dense`."""
    STATISTICS = "statistics"
    """Whatever the value is, if it is the same in all calls: what is left of
    the operation counts it, as in a `LayerNormalization`."""

    @property
    def drops_zeros(self) -> bool:
        """Whether a zero may go without any change to what reads it."""
        return self in (Reading.ZERO, Reading.BIAS)


class Scaling(str, enum.Enum):
    """How a factor g on the input comes out: f(g x) against g f(x)."""

    LINEAR = "linear"
    """Equal for every g."""
    POSITIVE = "positive"
    """Equal for g >= 0, as in a ReLU."""
    PRESERVES_ZERO = "zero"
    """Equal for g in {0, 1}: f(0) = 0, as in a tanh."""


class Identity(str, enum.Enum):
    """The only value of a source that is no array; see `Flow.sources`."""

    IDENTITY = "identity"
    """Each output coordinate stems from the input one at its place."""


class Reach(enum.IntEnum):
    """How an output depends on an input; a higher one includes a lower."""

    NOTHING = 0
    """Not at all."""
    CHOICE = 1
    """By what the input chooses: a mask, a condition, indices."""
    VALUES = 2
    """By its values, which is what a network is for."""
