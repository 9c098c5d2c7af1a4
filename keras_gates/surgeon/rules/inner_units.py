"""Units inside a layer: attention heads and recurrent units."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    # Role -> the units along it; see `Flow.roles`.
    Roles = Mapping[str, NDArray[np.intp]]


@dataclasses.dataclass(frozen=True)
class InnerUnits:
    """Units that are closed inside their layer by zeros in its weights.

    The units of a recurrent layer are outputs and are also read inside;
    attention heads are never outputs.

    Attributes:
        role: the role of the units, as in `Rule.axes`.
        zeroed: pairs of a weight and the role of its axis: what is zero where
            a unit is closed. The role may be another one of the same units.
        name: what the name of their group has after the path of the layer;
            "" where they are channels that come out.
        kind: the kind in thresholds.
        main: whether scores offer them unasked.
    """

    role: str
    zeroed: tuple[tuple[str, str], ...]
    name: str = ""
    kind: str = "group"
    main: bool = True


def split(
    inner: Sequence[InnerUnits],
    roles: Roles,
    closed: NDArray[np.bool_] | None,
) -> dict[str, NDArray[np.bool_]]:
    """What is closed, by role.

    Args:
        inner: all units inside a layer.
        roles: the units along each role.
        closed: whether each is closed, one role after the other; what it is
            too short for is open.
    """
    found, start = {}, 0
    for each in inner:
        mask = np.zeros(len(roles[each.role]), bool)
        if closed is not None:
            given = closed.reshape(-1)[start : start + len(mask)]
            mask[: len(given)] = given
        found[each.role] = mask
        start += len(mask)
    return found


def along(
    roles: Roles, role: str, mask: NDArray[np.bool_], other: str
) -> NDArray[np.bool_]:
    """A mask of units, for the same units along another role."""
    if role == other:
        return mask
    return np.isin(roles[other], roles[role][mask])


def all_of(inner: Sequence[InnerUnits], roles: Roles) -> NDArray[np.intp]:
    """The units inside a layer, one role after the other."""
    each = [roles[one.role] for one in inner]
    return np.concatenate([np.zeros(0, np.intp), *each])
