"""The parameters and multiply-adds of two models, side by side."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

from keras_gates import _documents
from keras_gates import _pictures
from keras_gates import _tables
from keras_gates.stats.counting import NOTE
from keras_gates.stats.counting import UNIT
from keras_gates.stats.counting import Count
from keras_gates.stats.counting import Layer
from keras_gates.stats.counting import count
from keras_gates.stats.counting import unknown_macs

if TYPE_CHECKING:
    import keras

    from keras_gates.stats.counting import InputShape


@dataclasses.dataclass(frozen=True)
class Change:
    """One layer of a `Comparison`: `(before, after)` of each number.

    A layer that is only in one of the models has 0 on the other side.
    """

    name: str
    params: tuple[int, int]
    macs: tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of `compare`; `print` shows it as a table.

    Attributes:
        before: the `Count` of the first model.
        after: the `Count` of the second.
        layers: a `Change` for each layer of either, matched by name.
        params_removed: the share of parameters removed, from 0 to 1.
        macs_removed: the share of MACs removed; `None` if some are unknown.
    """

    before: Count
    after: Count

    @property
    def layers(self) -> tuple[Change, ...]:
        left = {x.name: x for x in self.before.layers}
        right = {x.name: x for x in self.after.layers}
        none = Layer("", "", 0, 0, 0)
        pairs = [
            (name, left.get(name, none), right.get(name, none))
            for name in {**left, **right}
        ]
        return tuple(
            Change(name, (a.params, b.params), (a.macs, b.macs))
            for name, a, b in pairs
        )

    @property
    def params_removed(self) -> float:
        return _removed(self.before.params, self.after.params)

    @property
    def macs_removed(self) -> float | None:
        if self.before.unknown or self.after.unknown:
            return None
        return _removed(self.before.macs, self.after.macs)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        return {
            "unit": UNIT,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "params_removed": self.params_removed,
            "macs_removed": self.macs_removed,
        }

    def plot(self, ax: Any = None) -> Any:
        """Draw the multiply-adds of each layer, before and after.

        If none are known, the parameters.

        Args:
            ax: Axes of matplotlib to draw on; new ones by default.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        layers = [x for x in self.layers if any(x.macs)]
        what = "macs" if layers else "params"
        layers = layers or list(self.layers)
        pairs = [getattr(x, what) for x in layers]
        ax = _pictures.axes(ax, (7.5, 1.4 + 0.24 * len(layers)))
        _pictures.before_and_after(
            ax,
            [x.name for x in layers],
            [before or 0 for before, _ in pairs],
            [after or 0 for _, after in pairs],
        )
        ax.set_xlabel("MACs" if what == "macs" else "parameters")
        ax.set_title(f"'{self.before.model}' and '{self.after.model}'")
        return ax

    def _repr_html_(self) -> str:
        a, b = self.before, self.after
        most = max((x.params[0] for x in self.layers), default=0)
        costly = max((x.macs[0] or 0 for x in self.layers), default=0)
        rows = [
            (
                x.name,
                _tables.Change(*x.params, most),
                _tables.Change(*x.macs, costly),
            )
            for x in self.layers
        ]
        total = (
            "total",
            _tables.Change(a.params, b.params),
            _tables.Change(a.macs, b.macs),
        )
        share = _percent(self.params_removed), _percent(self.macs_removed)
        unknown = unknown_macs(dict.fromkeys((*a.unknown, *b.unknown)))
        section = _documents.Section(
            "",
            ("layer", "parameters", "MACs"),
            [*rows, total, ("removed", *share)],
            [NOTE, *unknown],
        )
        title = f"'{a.model}' and '{b.model}'"
        return _documents.fragment(_documents.Document(title, [], [section]))

    def __str__(self) -> str:
        rows: list[tuple[_tables.Cell, ...]] = [
            (x.name, *x.params, *x.macs) for x in self.layers
        ]
        a, b = self.before, self.after
        rows.append(("total", a.params, b.params, a.macs, b.macs))
        share = [_percent(self.params_removed), _percent(self.macs_removed)]
        rows.append(("removed", "", share[0], "", share[1]))
        head = ("layer", "parameters", "after", "MACs", "after")
        return "\n".join(
            [
                f"before: '{a.model}', after: '{b.model}'",
                "",
                _tables.text(head, rows),
                "",
                NOTE,
                *unknown_macs(dict.fromkeys((*a.unknown, *b.unknown))),
            ]
        )


def compare(
    before: keras.Model | Count,
    after: keras.Model | Count,
    input_shape: InputShape = None,
) -> Comparison:
    """Compare the parameters and multiply-adds of two models.

    Args:
        before: A model as `count` takes it, or a `Count`.
        after: The other model, for example the pruned one. Layers are matched
            by name.
        input_shape: Sizes for inputs with unknown sizes; see `count`.

    Returns:
        A `Comparison`.

    Raises:
        TypeError: If an argument is neither a Keras model nor a `Count`.
        ValueError: If a model can't be counted; see `count`.

    Example:
    >>> import keras_gates as kg
    >>> found = kg.stats.compare(kg.zoo.mlp(), kg.zoo.mlp((100, 60)))
    >>> print(f"{found.params_removed:.1%} of the parameters removed")
    84.4% of the parameters removed
    """
    first, second = (
        x if isinstance(x, Count) else count(x, input_shape)
        for x in (before, after)
    )
    return Comparison(first, second)


def _removed(before: int, after: int) -> float:
    return 1 - after / before if before else 0.0


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"
