"""One trial of thresholds."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Trial:
    """The effect of one choice of thresholds on a model.

    Attributes:
        thresholds: the dict that was tried.
        score: the result of `evaluate` with these gates closed.
        params: parameters of the model pruned with them.
        macs: its multiply-adds for one sample.
    """

    thresholds: dict[str, float]
    score: float
    params: int
    macs: int
