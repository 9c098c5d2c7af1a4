"""Rules for layers that hold their weights in another form once pruned."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

from keras_gates.surgeon.rules.convolution import Conv

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call


@dataclasses.dataclass(frozen=True)
class PackingConv(Conv):
    """A convolution whose kernel is packed when its factors are closed.

    In all methods `index` holds the kept positions by role, and `shut` the
    mask of the closed factors, or None.
    """

    def pack(self, call: Call, arrays: Any, index: Any, shut: Any) -> None:
        """Pack arrays that have their final widths, in place.

        Returns:
            The changes to the config that go with it.
        """
        raise NotImplementedError

    def packed_shapes(self, call: Call, index: Any, shut: Any) -> None:
        """`[(weight name, shape)]` of the new layer."""
        raise NotImplementedError

    def told(self, call: Call, index: Any, shut: Any) -> None:
        """What the plan says of it, one line each."""
        raise NotImplementedError
