"""The sensitivity of a model to each group of channels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates import _documents
from keras_gates import _pictures
from keras_gates import _tables
from keras_gates._checks import suggestion
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.scores.accuracy import accuracy
from keras_gates.surgeon.scores.batches import Batch
from keras_gates.surgeon.scores.batches import batches_of
from keras_gates.surgeon.verifying import closed_places
from keras_gates.surgeon.verifying import masked_run
from keras_gates.surgeon.verifying import other_sizes
from keras_gates.surgeon.verifying import sample_inputs

# A function from labels and outputs to a number.
Metric: TypeAlias = Callable[[Any, Any], Any]
# The colors of a plot, the lines that tell more groups apart, and the names in
# one column of its legend.
_COLORS, _DASHES, _IN_COLUMN = 10, ("-", "--", ":", "-."), 30
_SHARES = (0.25, 0.5, 0.75)


class Point(NamedTuple):
    """The effect of closing a part of one group.

    Attributes:
        closed: the number of closed channels.
        value: the metric with these closed.
    """

    closed: int
    value: float


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The result of `sensitivity`; `print` shows it as a table.

    Attributes:
        model: name of the model.
        metric: name of the metric.
        whole: the metric with nothing closed.
        shares: the shares that were closed, one group at a time.
        sizes: the number of channels of each group, by name.
        points: for each group, a `Point` per share.
    """

    model: str
    metric: str
    whole: float
    shares: tuple[float, ...]
    sizes: dict[str, int]
    points: dict[str, tuple[Point, ...]]

    def to_json(self) -> str:
        """The result as JSON text."""
        data = dataclasses.asdict(self)
        data["points"] = {
            name: [point._asdict() for point in points]
            for name, points in self.points.items()
        }
        return json.dumps(data, indent=1)

    def plot(self, ax: Any = None) -> Any:
        """Draw a line for each group: the metric against the closed share.

        Args:
            ax: Axes of matplotlib to draw on; new ones by default.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        ax = _pictures.axes(ax, (8.0, 4.8))
        many = len(self.points) > _COLORS
        for number, (name, points) in enumerate(self.points.items()):
            x = [0.0, *(p.closed / self.sizes[name] for p in points)]
            y = [self.whole, *(p.value for p in points)]
            dashes = _DASHES[number // _COLORS % len(_DASHES)]
            ax.plot(x, y, dashes, marker="o", markersize=3, label=name)
        ax.axhline(
            self.whole,
            color=_pictures.GOES,
            linestyle="--",
            label="nothing closed",
        )
        ax.set_title(f"Sensitivity of '{self.model}'")
        ax.set_xlabel("closed share of a group, one group at a time")
        ax.set_ylabel(self.metric)
        ax.legend(
            fontsize="xx-small" if many else "x-small",
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            ncol=1 + len(self.points) // _IN_COLUMN,
        )
        return ax

    def table(self) -> tuple[tuple[str, ...], list[tuple[_tables.Cell, ...]]]:
        """The column titles of the table, and its rows."""
        head = ("group", "channels", *(f"{s:.0%} closed" for s in self.shares))
        return head, [
            (name, self.sizes[name], *(f"{p.value:.4g}" for p in points))
            for name, points in self.points.items()
        ]

    def __str__(self) -> str:
        return "\n".join(
            [
                f"Sensitivity of '{self.model}': {self.metric} with a part "
                "of one group closed",
                "",
                _tables.text(*self.table()),
                "",
                f"with nothing closed: {self.whole:.4g}",
            ]
        )

    def _repr_html_(self) -> str:
        head, rows = self.table()
        lead = [f"{self.metric} with nothing closed: {self.whole:.4g}"]
        section = _documents.Section("", head, rows)
        title = f"Sensitivity of '{self.model}'"
        return _documents.fragment(_documents.Document(title, lead, [section]))


def sensitivity(
    model: keras.Model,
    scores: Mapping[str, NDArray[Any]],
    data: Any,
    *,
    metric: str | Metric = "accuracy",
    loss: Any = None,
    shares: Sequence[float] = _SHARES,
    batch_size: int = 32,
    exact: bool = True,
    verbose: int = 0,
) -> Sensitivity:
    """Measure a model with part of one group of channels closed at a time.

    It shows which layers need their width. No model is built and no weight
    changes: the model itself runs, with closed channels multiplied by zero, as
    in `verify`. It takes one pass over the data for each group and share.

    Args:
        model: A built Functional or Sequential model.
        scores: The result of `surgeon.score`: the smallest scores of a group
            close first.
        data: Labelled data as `fit` takes them: `(x, y)`, or an iterable of
            batches of these.
        metric: `"accuracy"`, `"loss"`, or a function of the labels and outputs,
            as NumPy arrays, that returns a number.
        loss: For `"loss"`: a loss by name, or a function; that of a compiled
            model by default.
        shares: The shares of each group to close.
        batch_size: Samples per batch, if `data` is arrays.
        exact: As in `score`.
        verbose: 0 for silence, 1 for a progress bar.

    Returns:
        A `Sensitivity`: it prints as a table, and `plot` draws it.

    Raises:
        TypeError: `data` or `metric` has an unknown form.
        ValueError: A share is not between 0 and 1; `scores` are not those of
            this model, or empty; the metric does not fit the labels; or there
            is no loss.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(16, activation="relu", name="hidden"),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> x = np.random.default_rng(0).normal(size=(64, 8))
    >>> y = np.zeros(64, int)
    >>> scores = kg.surgeon.score(model)
    >>> found = kg.surgeon.sensitivity(model, scores, (x, y))
    >>> [point.closed for point in found.points["hidden"]]
    [4, 8, 12]
    """
    _check(model, scores, shares, exact)
    batches = list(batches_of(model, data, "sensitivity", batch_size))
    run = _Run(model, batches, _measure(model, metric, loss), exact)
    whole = run.value({})
    progress = keras.utils.Progbar(
        len(scores), verbose=verbose, unit_name="group"
    )
    sizes, points = {}, {}
    for name, values in scores.items():
        order = np.argsort(np.abs(values).reshape(-1), kind="stable")
        sizes[name] = order.size
        points[name] = tuple(
            run.closing(name, values, order[: round(share * order.size)])
            for share in shares
        )
        progress.add(1)
    called = metric if isinstance(metric, str) else _name_of(metric)
    return Sensitivity(model.name, called, whole, tuple(shares), sizes, points)


class _Run:
    """Measures a model with something closed."""

    def __init__(
        self,
        model: keras.Model,
        batches: list[Batch],
        measure: Metric,
        exact: bool,
    ) -> None:
        self.model = model
        self.x = [batch.x for batch in batches]
        parts = [keras.tree.flatten(batch.y) for batch in batches]
        y = [
            np.concatenate([keras.ops.convert_to_numpy(part) for part in each])
            for each in zip(*parts, strict=True)
        ]
        self.y = y[0] if len(y) == 1 else y
        self.measure = measure
        self.exact = exact
        self.few = sample_inputs.few(model, self.x[0])
        masked_run.check_recorded(model, self.few)

    def closing(
        self, name: str, values: NDArray[Any], closed: NDArray[np.intp]
    ) -> Point:
        """The metric with some channels of one group closed."""
        mask = np.zeros(np.shape(values), bool)
        mask.reshape(-1)[closed] = True
        return Point(
            closed.size, self.value({name: mask} if mask.any() else {})
        )

    def value(self, masks: dict[str, NDArray[np.bool_]]) -> float:
        """The metric with parts of the model closed."""
        closing = None
        if masks:
            found = closed_places.find(self.model, masks, self.exact)
            closing = other_sizes.fitted(self.model, found[0], self.few)
        outputs = masked_run.outputs(self.model, self.x, closing)
        told = outputs[0] if len(outputs) == 1 else outputs
        return float(self.measure(self.y, told))


def _check(
    model: keras.Model,
    scores: Mapping[str, Any],
    shares: Sequence[float],
    exact: bool,
) -> None:
    """Refuse scores of another model, and invalid shares."""
    if not isinstance(scores, Mapping) or not scores:
        raise ValueError(
            "`scores` must be the result of keras_gates.surgeon.score: a "
            f"dict from names of groups to arrays. Received: {scores!r}."
        )
    graph = expand.read(model)
    found = groups.find(graph, exact).groups
    known = {name: source.shape for name, source in gates_of(graph).items()}
    known |= {name: group.shape for name, group in found.items()}
    for name, values in scores.items():
        if known.get(name) != np.shape(values):
            raise ValueError(
                f"`scores` are not those of '{model.name}': it has "
                f"{known.get(name, 'nothing')} for {name!r}. Received: an "
                f"array of shape {np.shape(values)}. Score the model again."
                f"{suggestion(name, {*known})}"
            )
    several = isinstance(shares, (list, tuple, np.ndarray)) and len(shares)
    if not several or not all(0 <= share <= 1 for share in shares):
        raise ValueError(
            "`shares` must be a list of numbers from 0 to 1, at least one. "
            f"Received: {shares!r}."
        )


def _measure(model: keras.Model, metric: str | Metric, loss: Any) -> Metric:
    """The requested function of labels and outputs."""
    if metric == "accuracy":
        return _accuracy
    if metric == "loss":
        if loss is None and getattr(model, "compiled", False):
            loss = model.loss
        if not isinstance(loss, (str, keras.losses.Loss)) and not callable(
            loss
        ):
            raise ValueError(
                f"The loss of '{model.name}' is not known. Received: "
                f"loss={loss!r}. Pass one loss by name, such as "
                'loss="sparse_categorical_crossentropy", or metric=... as a '
                "function."
            )
        found = keras.losses.get(loss)
        return lambda y, told: np.mean(
            keras.ops.convert_to_numpy(found(y, told))
        )
    if not callable(metric):
        raise TypeError(
            '`metric` must be "accuracy", "loss" or a function of labels and '
            f"outputs. Received: {metric!r}."
        )
    return metric


def _accuracy(y: Any, told: Any) -> float:
    found = None if isinstance(told, list) else accuracy(y, told)
    if found is None:
        shapes = [np.shape(part) for part in keras.tree.flatten([y, told])]
        raise ValueError(
            "The accuracy needs whole numbers of classes, or one-hot labels, "
            "for one output of shape (samples, classes). Received shapes of "
            f'labels and outputs: {shapes}. Pass metric="loss", or a function.'
        )
    return found


def _name_of(metric: Metric) -> str:
    name: str = getattr(metric, "__name__", type(metric).__name__)
    return name
