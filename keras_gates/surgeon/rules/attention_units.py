"""The units inside attention: heads, and dimensions of all heads."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.surgeon.rules.inner_units import InnerUnits
from keras_gates.surgeon.rules.known import as_float64

if TYPE_CHECKING:
    from keras_gates.surgeon.labels import Units

# Each projection, and the argument that it reads.
READERS = {"query": "query", "gate": "query", "key": "key", "value": "value"}
_OUTPUT = "output_kernel"


class Projections:
    """The weights of an attention layer, under unique names.

    Each projection is a separate layer with weights "kernel" and "bias". Here
    they are `query_kernel`, `output_bias`, and so on.

    Attributes:
        weights: all weights of the layer.
    """

    output_kernel: keras.Variable

    def __init__(self, op: keras.Layer) -> None:
        self.weights = list(op.weights)
        for name in (*READERS, "output"):
            dense = private.attention_projection(op, name)
            for kind in ("kernel", "bias"):
                found = getattr(dense, kind, None)
                if found is not None:
                    setattr(self, f"{name}_{kind}", found)

    @property
    def flat(self) -> bool:
        """Whether the output has one axis of channels."""
        return len(self.output_kernel.shape) == 3

    def size(self, name: str, axis: int) -> int:
        """The size of an axis of the kernel of a projection."""
        return int(getattr(self, f"{name}_kernel").shape[axis])

    def output_bias_values(self) -> NDArray[np.float64]:
        """The bias of the output; zeros where there is none."""
        bias = getattr(self, "output_bias", None)
        if bias is None:
            return np.zeros(self.output_kernel.shape[2:])
        return as_float64(bias)

    def is_zero(self, projection: str, axis: int) -> NDArray[np.bool_]:
        """Where a projection is 0, its bias included.

        Args:
            projection: "query", "key", "value", or "output": what that reads.
            axis: that of the kernel: of its heads, or of their dimensions.
        """
        kernel = as_float64(getattr(self, f"{projection}_kernel")) == 0
        rest = tuple(a for a in range(kernel.ndim) if a != axis)
        found: NDArray[np.bool_] = kernel.all(axis=rest)
        bias = getattr(self, f"{projection}_bias", None)
        if bias is None or projection == "output":
            return found
        # (heads, dimensions)
        own: NDArray[np.bool_] = (as_float64(bias) == 0).all(axis=2 - axis)
        return found & own


@dataclasses.dataclass(frozen=True)
class Layout:
    """The roles of what is inside: which axis of a weight holds which units.

    The queries' heads may be several for each of the keys' and values': then
    the unit is one of these, with all queries that it serves. Where all are
    served by one, each of the queries' is a unit.

    Attributes:
        query: the role of the heads of queries, and of what is put out.
        key: that of the heads of keys and values; None where the only one
            stays.
        key_dim: the role of the dimensions of queries and keys.
        value_dim: that of the dimensions of values, and of what is put out.
    """

    query: str = "head"
    key: str | None = "head"
    key_dim: str = "key_dim"
    value_dim: str = "value_dim"

    def axes(self) -> dict[str, tuple[str | None, ...]]:
        """Projection -> the roles of its axes of heads and dimensions."""
        return {
            "query": (self.query, self.key_dim),
            "gate": (self.query, self.value_dim),
            "key": (self.key, self.key_dim),
            "value": (self.key, self.value_dim),
            "output": (self.query, self.value_dim),
        }

    def units(self, part: Projections) -> tuple[InnerUnits, ...]:
        """What can be closed inside."""
        heads = InnerUnits("head", ((_OUTPUT, self.query),), "heads", "head")
        names = [n for n in ("query_kernel", "query_bias") if hasattr(part, n)]
        by_query = tuple((name, self.key_dim) for name in names)
        by_output = ((_OUTPUT, self.value_dim),)
        if self.key_dim == self.value_dim:
            pairs = {self.key_dim: by_query + by_output}
        else:
            pairs = {self.key_dim: by_query, self.value_dim: by_output}
        dims = (InnerUnits(r, z, r, main=False) for r, z in pairs.items())
        return heads, *dims

    def minted(
        self, key: int, part: Projections, units: Units, tied: bool
    ) -> dict[str, NDArray[np.intp]]:
        """The units along each role, the same in all calls of a layer.

        Args:
            key: what tells the layer from others.
            part: its weights.
            units: the `Units`, to mint.
            tied: whether values go with the keys of their number.
        """
        queries, keys = part.size("query", 1), part.size("key", 1)
        count = keys if self.key == "head" else queries
        heads = units.mint((key, "head"), count)
        found = {"head": heads, self.query: np.repeat(heads, queries // count)}
        for role, name in ((self.key_dim, "key"), (self.value_dim, "value")):
            found[role] = units.mint((key, role), part.size(name, 2))
        if tied and len(found[self.key_dim]) == len(found[self.value_dim]):
            found[self.value_dim] = found[self.key_dim]
        return found

    def idle(
        self, part: Projections, roles: dict[str, NDArray[np.intp]]
    ) -> dict[str, NDArray[np.bool_]]:
        """Which units have no effect, because their weights are 0."""
        count = len(roles["head"])
        rows = part.is_zero("output", 0).reshape(count, -1)
        heads: NDArray[np.bool_] = np.asarray(rows.all(axis=1))
        if self.key is not None:
            heads = heads | part.is_zero("value", 1)
        keys = part.is_zero("query", 2) | part.is_zero("key", 2)
        values = part.is_zero("output", 1) | part.is_zero("value", 2)
        if roles[self.key_dim] is roles[self.value_dim]:
            keys = values = keys & values
        return {"head": heads, self.key_dim: keys, self.value_dim: values}


MULTI_HEAD = Layout()


def grouped(part: Projections) -> Layout:
    """The `Layout` where a head of keys serves several of the queries."""
    queries, keys = part.size("query", 1), part.size("key", 1)
    dims = {"key_dim": "head_dim", "value_dim": "head_dim"}
    if keys == 1 < queries:
        return Layout(key=None, **dims)
    return Layout("head" if keys == queries else "query head", **dims)
