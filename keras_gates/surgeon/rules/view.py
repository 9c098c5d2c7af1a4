"""What a rule can ask about the kept parts when its call is rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor


class View(Protocol):
    """The kept parts of the tensors and weights of one call."""

    @property
    def index(self) -> dict[str, NDArray[np.intp]]:
        """Role -> the kept positions along it, in order."""

    @property
    def inputs(self) -> list[NDArray[np.intp]]:
        """The labels of the inputs."""

    @property
    def exact(self) -> bool:
        """Whether only exact removals are made."""

    def removed(self, index: int) -> NDArray[np.float64] | None:
        """The removed constants of an input that a kernel reads.

        Returns:
            `(channels,)`, NaN for those that stay; None if nothing is removed.
        """

    def masks(self, labels: NDArray[np.intp]) -> list[NDArray[np.bool_]]:
        """The kept positions: one mask for each axis of `labels`.

        Each is as long as the labels along its axis: 1 where they do not
        vary, and nothing can be cut.
        """

    def shape(
        self, tensor: Tensor, labels: NDArray[np.intp]
    ) -> tuple[int | None, ...]:
        """The shape of a tensor with these labels after the cut."""
