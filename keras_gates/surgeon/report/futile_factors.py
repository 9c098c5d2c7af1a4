"""What is closed and removes nothing, with the reason: plain data."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Futile:
    """Closed factors of one gate that remove nothing, for one reason.

    Attributes:
        gate: the name of the gate, or of the group of channels.
        count: how many of its factors these are.
        closed: how many of its factors are closed.
        scalar: whether it is one factor for a whole tensor.
        why: what keeps the channels.
        remedy: what to do about it.
        parameters: how many would go with the channels.
    """

    gate: str
    count: int
    closed: int
    scalar: bool
    why: str
    remedy: str
    parameters: int

    @property
    def what(self) -> str:
        """What is closed, to start a sentence with."""
        if self.scalar:
            return f"'{self.gate}'"
        if self.count == self.closed:
            every = f"all {self.count} channels"
            many = "the channel" if self.count == 1 else every
            return f"{many} closed by '{self.gate}'"
        counted = f"{self.count:,} of {self.closed:,}"
        return f"{counted} channels closed by '{self.gate}'"
