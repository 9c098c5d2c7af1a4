"""The protocol of layers with other weights when pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call


class Packing:
    """A rule for a layer whose kernel is packed when factors are closed.

    List it before the base class of the rule: `class MyRule(Packing, Linear)`.
    In all methods `index` holds the kept positions by role, and `shut` the
    mask of the closed factors, or None.
    """

    @property
    def packing(self) -> Packing:
        return self

    def pack(
        self,
        call: Call,
        arrays: dict[str, NDArray[Any]],
        index: dict[str, NDArray[np.intp]],
        shut: NDArray[np.bool_] | None,
    ) -> dict[str, Any]:
        """Pack arrays that have their final widths, in place.

        Args:
            call: the `Call`.
            arrays: weight name -> array; gets the names of the new layer.
            index: see above.
            shut: see above.

        Returns:
            The changes to the config that go with it.
        """
        raise NotImplementedError

    def packed_shapes(
        self,
        call: Call,
        index: dict[str, NDArray[np.intp]],
        shut: NDArray[np.bool_] | None,
    ) -> list[tuple[str, tuple[int, ...]]]:
        """`[(weight name, shape)]` of the new layer."""
        raise NotImplementedError

    def told(
        self,
        call: Call,
        index: dict[str, NDArray[np.intp]],
        shut: NDArray[np.bool_] | None,
    ) -> list[str]:
        """What the plan says of it, one line each."""
        raise NotImplementedError
