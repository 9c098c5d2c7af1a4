"""How a layer that was seen through is rebuilt."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import keras


class How(enum.Enum):
    """What stands in place of a layer in which something changes."""

    CLASS = enum.auto()
    WRITTEN_OUT = enum.auto()


@dataclasses.dataclass(frozen=True, eq=False)
class Return:
    """What becomes of one layer.

    Attributes:
        layer: the layer.
        path: its path in the model.
        how: what stands in its place.
        edits: where its class is kept, the changes to its config: path of a
            key -> `(old value, new value)`.
        reason: where it is written out, why its class could not be kept, a
            clause; "" if nobody asked for that.
        cls: the class that a model was of, before gates were put into it;
            None for any other.
    """

    layer: keras.Layer
    path: str
    how: How
    edits: Mapping[tuple[Any, ...], tuple[Any, Any]] = dataclasses.field(
        default_factory=dict
    )
    reason: str = ""
    cls: type[keras.Model] | None = None

    @property
    def of(self) -> type[keras.Layer]:
        """Its class, or that which it was of."""
        return type(self.layer) if self.cls is None else self.cls
