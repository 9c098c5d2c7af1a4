"""Operations on polynomials of one tensor and of the means of its channels.

Before taking a root, a normalization computes a polynomial in x, in the mean
`m` of x, and in the mean `q` of its square, whatever it is written
with: `square(x - mean(x))` and `x * x` are two such. So what was written by
hand is told by what comes out, and not by how it was put.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
# What each axis of a value is: an axis of x, None for one of a single
# position, GROUP for one along which there are the groups.
Dims = tuple[int | None, ...]
GROUP = -1
# The products of two terms that are followed.
_PRODUCTS = {
    **{("1", t): t for t in ("1", "x", "m", "xx", "xm", "mm", "q")},
    ("m", "x"): "xm",
    ("x", "x"): "xx",
    ("m", "m"): "mm",
}
# What the mean of a term over the channels of a group is.
_MEANS = {"x": "m", "xx": "q", "xm": "mm", "m": "m", "mm": "mm"}


class Level(enum.Enum):
    """How far x has been averaged in a value."""

    EACH = "each"  # not at all: x is that of the position
    SPACE = "space"  # over space, each channel alone
    GROUP = "group"  # over space and the channels of a group: there is no x


@dataclasses.dataclass(frozen=True, eq=False)
class Poly:
    """A sum of terms.

    Attributes:
        terms: by name, the factor of each; float64, `(1,)` or `(groups,)`.
        level: as far as it has been averaged.
        dims: what its axes are.
    """

    terms: Mapping[str, Vector]
    level: Level
    dims: Dims

    def term(self, name: str) -> Vector:
        return self.terms.get(name, np.zeros(1))

    @property
    def constant(self) -> bool:
        return set(self.terms) <= {"1"}


@dataclasses.dataclass(frozen=True, eq=False)
class Root:
    """A polynomial to the power of 1/2, or of -1/2."""

    of: Poly
    inverse: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Ratio:
    """A polynomial in x, divided by the root of one in its means."""

    over: Poly
    under: Poly


Value = Poly | Root | Ratio


def of_number(value: Any, groups: int) -> Poly | None:
    """A constant: a number, or one for each group along the last axis."""
    try:
        array = np.asarray(value, "float64")
    except (TypeError, ValueError):
        return None
    if array.size == 1:
        return Poly({"1": array.reshape(1)}, Level.GROUP, ())
    if groups > 1 and array.shape == (groups,):
        return Poly({"1": array}, Level.GROUP, (GROUP,))
    return None


def _joined(a: Dims, b: Dims) -> Dims | None:
    """The axes of what two values are broadcast to; None if these differ."""
    rank = max(len(a), len(b))
    left, right = ((None,) * (rank - len(x)) + x for x in (a, b))
    pairs = list(zip(left, right, strict=True))
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        return None
    return tuple(p if q is None else q for p, q in pairs)


def _level(a: Poly, b: Poly) -> Level | None:
    """How far what is made of two has been averaged; None if it differs."""
    levels = {x.level for x in (a, b) if not x.constant} or {Level.GROUP}
    if levels == {Level.EACH, Level.GROUP}:
        return Level.EACH
    return levels.pop() if len(levels) == 1 else None


def added(a: Poly, b: Poly, sign: float = 1.0) -> Poly | None:
    """`a + sign * b`."""
    dims, level = _joined(a.dims, b.dims), _level(a, b)
    if dims is None or level is None:
        return None
    names = {*a.terms, *b.terms}
    terms = {n: a.term(n) + sign * b.term(n) for n in names}
    return Poly(terms, level, dims)


def multiplied(a: Poly, b: Poly) -> Poly | None:
    """`a * b`, where no term is of a degree above 2."""
    dims, level = _joined(a.dims, b.dims), _level(a, b)
    linear = a.constant or b.constant
    # The product of two means is not the mean of a product.
    if dims is None or level is None or (level is Level.SPACE and not linear):
        return None
    terms: dict[str, Vector] = {}
    for p, left in a.terms.items():
        for q, right in b.terms.items():
            first, second = sorted((p, q))
            name = _PRODUCTS.get((first, second))
            if name is None:
                return None
            terms[name] = terms.get(name, np.zeros(1)) + left * right
    return Poly(terms, level, dims)


def scaled(a: Poly, number: float) -> Poly:
    return dataclasses.replace(
        a, terms={n: number * x for n, x in a.terms.items()}
    )


def averaged(a: Poly, level: Level, dims: Dims) -> Poly | None:
    """The mean over space, or over all that statistics are taken over."""
    if a.level is not Level.EACH:
        return None
    if level is Level.SPACE:
        return Poly(a.terms, level, dims)
    return over_channels(dataclasses.replace(a, dims=dims), np.ones(1))


def over_channels(a: Poly, times: Vector) -> Poly | None:
    """The mean over the channels of each group, multiplied by a number."""
    terms: dict[str, Vector] = {}
    for name, factor in a.terms.items():
        mean = _MEANS.get(name, name)
        terms[mean] = terms.get(mean, np.zeros(1)) + factor * times
    return Poly(terms, Level.GROUP, a.dims)


def reshaped(value: Value, change: Callable[[Dims], Dims | None]) -> Any:
    """The same value with its axes changed; None where they can't be."""
    if isinstance(value, Ratio):
        return None
    poly = value.of if isinstance(value, Root) else value
    dims = change(poly.dims)
    if dims is None:
        return None
    poly = dataclasses.replace(poly, dims=dims)
    return Root(poly, value.inverse) if isinstance(value, Root) else poly


def product(a: Value, b: Value) -> Value | None:
    """`a * b`."""
    if isinstance(a, Poly) and isinstance(b, Poly):
        return multiplied(a, b)
    if isinstance(a, (Root, Ratio)) and isinstance(b, Poly):
        a, b = b, a
    if not isinstance(a, Poly):
        return None
    if isinstance(b, Ratio):
        over = multiplied(a, b.over) if a.constant and not a.dims else None
        return None if over is None else Ratio(over, b.under)
    if isinstance(b, Root) and b.inverse:
        return _divided(a, b.of)
    return None


def quotient(a: Value, b: Value) -> Value | None:
    """`a / b`."""
    if isinstance(b, Poly):
        if not b.constant or b.dims or not b.term("1").all():
            return None
        one = dataclasses.replace(b, terms={"1": 1 / b.term("1")})
        return product(a, one)
    if isinstance(a, Poly) and isinstance(b, Root) and not b.inverse:
        if a.constant and not a.dims and (a.term("1") == 1).all():
            return Root(b.of, True)
        return _divided(a, b.of)
    return None


def _divided(over: Poly, under: Poly) -> Ratio | None:
    if over.level is not Level.EACH or _joined(over.dims, under.dims) is None:
        return None
    if set(over.terms) - {"x", "m", "1"} or None in over.dims:
        return None
    return Ratio(over, under)


def root(value: Value, inverse: bool) -> Root | None:
    """The root of a polynomial in means."""
    if not isinstance(value, Poly) or value.level is not Level.GROUP:
        return None
    return None if "x" in "".join(value.terms) else Root(value, inverse)
