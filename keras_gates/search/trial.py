"""One choice of thresholds that was tried."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one choice of thresholds did to a model.

    Attributes:
        thresholds: the dict that was tried.
        score: what `evaluate` said with these gates closed.
        params: parameters of the model pruned with them.
        macs: its multiply-adds for one sample.
    """

    thresholds: dict[str, float]
    score: float
    params: int
    macs: int
