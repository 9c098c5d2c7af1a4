"""Closes a share of the factors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.thresholds.rule import ThresholdRule
from keras_gates.thresholds.rule import check_number

if TYPE_CHECKING:
    from keras_gates.thresholds.rule import Factors


@dataclasses.dataclass(frozen=True)
class Quantile(ThresholdRule):
    """Closes the smallest share `q` of the factors.

    The `int(q * n)` of `n` factors with the smallest absolute values are
    closed. Ties are broken by order (Network Slimming's rule does not break
    them).

    Args:
        q: The share to close, in `[0, 1]`.
        scope: `"global"` ranks all factors that the rule applies to together,
            `"gate"` those of each gate.

    Raises:
        TypeError: If `q` is not a number.
        ValueError: If `q` is not in `[0, 1]`, or `scope` is unknown.

    Example:
    >>> import numpy as np
    >>> from keras_gates.thresholds import Factors, Quantile
    >>> gate = Factors("gate", "filter", np.array([0.5, 0.04, -0.05, 0.0]))
    >>> Quantile(0.5).close([gate])[0].tolist()
    [False, True, False, True]
    """

    q: float
    scope: str = "global"

    def __post_init__(self) -> None:
        check_number(self.q, "the share of a Quantile")
        if not 0 <= self.q <= 1:
            raise ValueError(
                "The share of a Quantile must be in [0, 1], such as 0.7 for "
                f"70 %. Received: q={self.q!r}."
            )
        if self.scope not in ("global", "gate"):
            raise ValueError(
                'The scope of a Quantile must be "global" or "gate". '
                f"Received: {self.scope!r}."
            )

    def close(self, gates: list[Factors]) -> list[NDArray[np.bool_]]:
        if self.scope == "gate":
            return [self._smallest([g])[0] for g in gates]
        return self._smallest(gates)

    def _smallest(self, gates: list[Factors]) -> list[NDArray[np.bool_]]:
        if not gates:
            return []
        sizes = [np.abs(g.values).reshape(-1) for g in gates]
        flat = np.concatenate(sizes)
        closed = np.zeros(flat.size, bool)
        order = np.argsort(flat, kind="stable")
        closed[order[: int(self.q * flat.size)]] = True
        parts = np.split(closed, np.cumsum([s.size for s in sizes])[:-1])
        return [
            p.reshape(g.values.shape) for p, g in zip(parts, gates, strict=True)
        ]
