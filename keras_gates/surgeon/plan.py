"""What would go, what stays, and why: `plan`, and `prune` that does it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import plan_json
from keras_gates.surgeon.build import optimizer
from keras_gates.surgeon.build.rebuild import rebuild
from keras_gates.surgeon.closing.options import Options
from keras_gates.surgeon.closing.options import Request
from keras_gates.surgeon.closing.request import from_closed
from keras_gates.surgeon.closing.request import from_thresholds
from keras_gates.surgeon.repair.mend import Request as RepairRequest
from keras_gates.surgeon.repair.mend import mend
from keras_gates.surgeon.repair.pairs import Pairs
from keras_gates.surgeon.repair.report import notes_on
from keras_gates.surgeon.repair.report import refuse
from keras_gates.surgeon.report import document
from keras_gates.surgeon.report import futile
from keras_gates.surgeon.report import kept as kept_of
from keras_gates.surgeon.report import table
from keras_gates.surgeon.report.picture import draw_widths
from keras_gates.surgeon.verifying.compare import compare

if TYPE_CHECKING:
    import os

    from keras_gates.surgeon.closing.options import Floors
    from keras_gates.surgeon.closing.options import Scores
    from keras_gates.surgeon.closing.options import Thresholds
    from keras_gates.surgeon.repair.report import Repair
    from keras_gates.surgeon.report.document import Metrics
    from keras_gates.surgeon.report.kept import Kept
    from keras_gates.surgeon.report.table import Row
    from keras_gates.surgeon.solving.solve import Solution

    # Rows, notes, and what is kept, made when they are first read.
    Described = tuple[list[Row], list[str], Kept | None]


class Plan:
    """What pruning a model would do; `apply()` does it.

    A plan is data: which gates are closed, and for each layer what is kept.
    It holds the model, changes nothing, prints as a table, and goes through
    JSON.

    Attributes:
        closed: dict from gate name to the indices of its closed factors.
        rows: one `Row` a layer: channels, parameters and MACs before and
            after, whether that is exact, and why something stays.
        notes: what else there is to say, a line each.
        kept: which of the original channels stay, by position: `{layer:
            {"output" or the name of a weight: {axis: positions}}}`. Axes
            without channels are left out. A layer that goes has no position
            left.
        params: `(before, after)`.
        macs: `(before, after)`, in multiply-adds for one sample.
        exact: whether nothing in it is approximate.
        request: the thresholds, floors, and names of the scores that it was
            made for, as data. None for a plan in JSON of version 0.1.
        options: `exact`, `round_to`, `drop_shortcuts` and `written_out` as
            they were given; the `sizes` of a `Budget`; `groups`, the names in
            `closed` that scores have closed; and `whole`, the layers that are
            kept whole since they can't come back smaller, with the reason.
    """

    def __init__(
        self,
        model: keras.Model,
        closed: dict[str, list[int]],
        options: Options,
        request: Request | None,
        shapes: Mapping[str, tuple[int, ...]],
        describe: Callable[[], Described],
    ) -> None:
        """A plan; users get theirs from `plan`.

        Args:
            model: the model.
            closed: as the attribute.
            options: as the attribute.
            request: as the attribute.
            shapes: those of the factors of the gates in `closed`.
            describe: makes the rows, the notes, and what is kept, when they
                are first read.
        """
        self.model = model
        self.closed = closed
        self.options = options
        self.request = request
        self._shapes = dict(shapes)
        self._describe = describe

    @functools.cached_property
    def _described(self) -> Described:
        found = self._describe()
        del self._describe  # it holds all that was solved
        return found

    @property
    def rows(self) -> list[Row]:
        """One `Row` a layer."""
        return self._described[0]

    @property
    def notes(self) -> list[str]:
        """What else there is to say, a line each."""
        return self._described[1]

    @functools.cached_property
    def kept(self) -> Kept:
        """Which channels stay: `{layer: {array: {axis: positions}}}`."""
        found = self._described[2]
        return kept_of.find(self.solved()) if found is None else found

    @property
    def params(self) -> tuple[int, int]:
        """Parameters before and after."""
        return table.total(self.rows, "params")

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-adds of one sample before and after."""
        return table.total(self.rows, "macs")

    @property
    def exact(self) -> bool:
        """Whether nothing in it is approximate."""
        return all(row.exact for row in self.rows)

    def __str__(self) -> str:
        return table.text(self)

    def __repr__(self) -> str:
        before, after = self.params
        return (
            f"<Plan for '{self.model.name}': {before:,} -> {after:,} "
            "parameters>"
        )

    def apply(self, keep_optimizer: bool = False) -> keras.Model:
        """The pruned model; the plan's own model stays as it is.

        Constants and kept factors are taken from the weights as they are
        now.

        Args:
            keep_optimizer: As in `prune`.

        Returns:
            A new `keras.Sequential` for a Sequential that is still a chain
            of layers, else a functional `keras.Model`.

        Raises:
            ValueError: the weights have changed so that other channels
                would go than the plan says.
        """
        return self.built_from(self.solved(), keep_optimizer)

    def solved(self) -> Solution:
        """The solution for the weights as they are now.

        Raises:
            ValueError: as `apply`.
        """
        # Which channels are known to be constant depends on weights, and so
        # does what is left: to solve again takes less time than to find out
        # whether one of them has changed.
        solution = from_closed(self.model, self.masks(), self.options)
        widths = table.widths(solution, self.options.sizes)
        if widths != [row.after for row in self.rows]:
            raise ValueError(
                f"The weights of '{self.model.name}' have changed since this "
                "plan was made, so that it no longer removes what it says. "
                "Make a new plan."
            )
        return solution

    def built_from(
        self, solution: Solution, keep_optimizer: bool
    ) -> keras.Model:
        """The pruned model, from a solution for the weights as they are."""
        if keep_optimizer:
            if self.options.drop_shortcuts:
                raise ValueError(
                    "`keep_optimizer` goes on with a training, and "
                    "`drop_shortcuts` changes what was trained. Pass one of "
                    "them; compile the result anew for the other."
                )
            optimizer.check(self.model, solution.graph)
        decision, folds = solution.decision, solution.folds
        pruned = rebuild(solution.graph, decision, folds, solution.returns)
        if keep_optimizer:
            optimizer.carry(self.model, pruned, decision, folds)
        return pruned

    def verify(
        self,
        pruned: keras.Model,
        x: Any = None,
        *,
        samples: int = 8,
        seed: int = 0,
    ) -> dict[str, float]:
        """How far a pruned model is off, as `surgeon.verify` says.

        Args:
            pruned: What `apply` returned, or `prune` with the same arguments.
            x: As in `surgeon.verify`: inputs to compare on; random normal
                ones by default.
            samples: How many random samples.
            seed: Seed of the random inputs.

        Returns:
            A dict from output name to `max|original - pruned| /
            max|original|`.

        Raises:
            ValueError: As `surgeon.verify`.
        """
        refuse(pruned, self.options.exact)
        return compare(
            self.model,
            pruned,
            x,
            samples,
            seed,
            self.masks(),
            self.options.exact,
            self.options.drop_shortcuts,
            self.options.groups,
            self.options.whole,
        )

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        repair: Repair | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Write all that the plan says to one file, to be passed on.

        The widths, parameters and multiply-adds of each layer before and
        after, what stays although it was closed, by reason, and the notes.
        An HTML file holds all that it shows, and fits light and dark screens.

        Args:
            path: Where to write. The suffix tells the form: `.html` or `.md`.
            repair: What `surgeon.repair` returned, or the `repair_report` of
                what `prune(..., repair=x)` did: its table is in the file, too.
            metrics: Names and numbers, before and after, that the file is to
                tell: `{"accuracy": (0.91, 0.9)}`.

        Raises:
            ValueError: The suffix is another.
            OSError: The file can't be written.
        """
        document.write(document.of_plan(self, repair, metrics), path)

    def plot(self, ax: Any = None) -> Any:
        """Draw the width of each layer with a kernel, before and after.

        Args:
            ax: Axes of matplotlib to draw on; new ones by default.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return draw_widths(self, ax)

    def _repr_html_(self) -> str:
        return document.fragment(document.of_plan(self, brief=True))

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """The closed factors as boolean arrays, by gate name."""
        masks = {}
        for name, shape in self._shapes.items():
            masks[name] = np.zeros(shape, bool)
            masks[name].reshape(-1)[self.closed[name]] = True
        return masks

    def to_json(self) -> str:
        """The plan as JSON text, what it was asked for included."""
        content = plan_json.Content(
            self.closed,
            self.options,
            self.request,
            self.rows,
            self.notes,
            self.kept,
        )
        return plan_json.dump(self.model, content)

    @classmethod
    def from_json(cls, text: str, model: keras.Model) -> Plan:
        """A plan from JSON text, for the model that it was made for.

        Args:
            text: what `to_json` returned.
            model: a model of the same architecture.

        Raises:
            ValueError: the text is no plan, or a plan for another model.
        """
        content, shapes = plan_json.load(text, model)
        found = cls(
            model,
            content.closed,
            content.options,
            content.request,
            shapes,
            lambda: (content.rows, content.notes, content.kept),
        )
        _ = found.rows
        return found


def plan(
    model: keras.Model,
    thresholds: Thresholds,
    *,
    scores: Scores | None = None,
    keep_at_least: Floors = 0,
    round_to: int = 1,
    exact: bool = True,
    drop_shortcuts: bool = False,
    written_out: bool | None = None,
) -> Plan:
    """Say what pruning would do, without doing it.

    Args:
        model: A built Functional or Sequential model with gates.
        thresholds: A number, a dict by kind or gate name, or a rule such as
            `Quantile(0.5)`. A gate is closed when `|factor| < threshold`.
        scores: What `surgeon.score` returns, for channels without gates:
            `{name of a group of coupled channels: array}`. Thresholds speak
            of the scores then, and of gates where a dict names them. A
            channel that they close is zero where it is read, at all places
            of its map.
        keep_at_least: How many channels of each filter gate stay open at
            least: a number, a share below 1 of the gate's own, or a dict of
            these by gate name. The plan's notes tell where it applied.
        round_to: Keep the channels of cut layers at a multiple of this, by
            opening the largest closed gates again. Heads are not rounded.
        exact: Whether to make only removals that leave the function as it
            is, to float rounding. With `False`, constants are absorbed
            across zero padding and channels are removed under layer
            normalization and softmax, and units that gates close behind
            recurrent layers, too; the plan lists each place.
        drop_shortcuts: Whether to take out the shortcuts that
            `insert_gates` added for gates that stay open, as the authors of
            Comprehensive Pruning finish. Closed gates keep theirs. This
            changes the function, and the plan says so.
        written_out: What stands in the place of a layer of a class without a
            rule, in which something is removed. By default, a layer of the
            same class with a smaller config, where a config is found that
            makes just that layer; else a functional model of what the layer
            is made of. With `True` always the latter, which loads where the
            class is not installed; with `False` never: where the class can't
            be kept, the layer is kept whole. The plan's notes tell what
            became of each, and why.

    Returns:
        A `Plan`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: The model is not built, subclassed, has no gate or a
            layer that can't be cut safely; a threshold is negative, NaN or
            for an unknown gate; or an output would become constant.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(16, activation="relu"),
    ...         kg.FilterGate(),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> kg.surgeon.plan(model, kg.Quantile(0.5)).params
    Pair(before=194, after=90)
    """
    options = Options(exact, round_to, drop_shortcuts, written_out=written_out)
    found, _ = _solved(model, thresholds, scores, keep_at_least, options)
    _ = found.rows  # made now, of the weights as they are
    return found


def _solved(
    model: keras.Model,
    thresholds: Thresholds,
    scores: Scores | None,
    keep_at_least: Floors,
    options: Options,
) -> tuple[Plan, Solution]:
    """A plan whose rows are not made yet, and what it was made of.

    To prune takes the solution at once, and no row.
    """
    solution, options, notes = from_thresholds(
        model, thresholds, scores, keep_at_least, options
    )

    def describe() -> Described:
        rows, told = table.describe(solution, options.sizes)
        told = told + notes + notes_on(model)
        return rows, told, kept_of.find(solution)

    closed = {
        name: np.flatnonzero(mask.reshape(-1)).tolist()
        for name, mask in solution.closed.items()
    }
    request = Request.from_arguments(thresholds, keep_at_least, scores)
    shapes = {name: mask.shape for name, mask in solution.closed.items()}
    found = Plan(model, closed, options, request, shapes, describe)
    return found, solution


def prune(
    model: keras.Model,
    thresholds: Thresholds,
    *,
    scores: Scores | None = None,
    keep_at_least: Floors = 0,
    round_to: int = 1,
    exact: bool = True,
    drop_shortcuts: bool = False,
    written_out: bool | None = None,
    keep_optimizer: bool = False,
    repair: Any = None,
) -> keras.Model:
    """A smaller model that computes the same; the original is untouched.

    `prune(m, t)` computes what `m` computes with its closed gates at
    exactly 0, to float rounding. Gates that stay are folded into their
    neighbors, so the result holds stock Keras layers and operations only.

    Args:
        model: A built Functional or Sequential model with gates.
        thresholds: As in `plan`.
        scores: As in `plan`.
        keep_at_least: As in `plan`.
        round_to: As in `plan`.
        exact: As in `plan`.
        drop_shortcuts: As in `plan`; the one option that changes what open
            gates compute.
        written_out: As in `plan`.
        keep_optimizer: Whether to compile the result as the model is, and
            to cut the state of its optimizer (momenta, iterations, the
            learning rate) by the same plan, so that `fit` goes on. Where a
            gate was folded into a weight, its state is scaled to match.
        repair: Inputs of the model, without labels, to repair the result
            on, as `surgeon.repair` takes them: some hundred samples. What
            closed channels did is then left to those that stay, as well as
            these can, and no longer zero. This is approximate by design; the
            report is the attribute `repair_report` of the result. None for
            the exact result.

    Returns:
        A new `keras.Sequential` for a Sequential that is still a chain of
        layers (a gather is none), else a functional `keras.Model`; of the
        model's own class if its constructor takes `(inputs, outputs)` (or
        `(layers)`) first, with the attributes that were set on it, where
        layers stand for those of the old model. A warning names what is
        lost. It is compiled with `keep_optimizer=True` only.

    Raises:
        TypeError, ValueError: As `plan`; and if `keep_optimizer` is asked
            for and the model is not compiled, or its optimizer holds what
            can't be cut safely.

    Warns:
        UserWarning: Gates are closed, and nothing can be removed for it; it
            says what bars, as the notes of a plan do.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(16, activation="relu"),
    ...         kg.FilterGate(),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> small = kg.surgeon.prune(model, kg.Quantile(0.5))
    >>> [layer.units for layer in small.layers]
    [8, 2]
    """
    options = Options(exact, round_to, drop_shortcuts, written_out=written_out)
    found, solution = _solved(model, thresholds, scores, keep_at_least, options)
    futile.warn(solution, model.name)
    if repair is None:
        return found.built_from(solution, keep_optimizer)
    request = RepairRequest()
    batches = request.batches(model, repair)
    pruned = found.built_from(solution, keep_optimizer)
    mend(Pairs.of_solution(solution, pruned), batches, request)
    return pruned


def cut_and_pair(
    model: keras.Model,
    thresholds: Thresholds,
    *,
    scores: Scores | None = None,
    keep_at_least: Floors = 0,
    keep_optimizer: bool = False,
    **options: Any,
) -> Pairs:
    """What `prune` makes of a model, with what it has kept of it.

    Args:
        model: as in `prune`, and so are all others.
        thresholds: as in `prune`.
        scores: as in `prune`.
        keep_at_least: as in `prune`.
        keep_optimizer: as in `prune`.
        **options: those of `Options`.
    """
    found, solution = _solved(
        model, thresholds, scores, keep_at_least, Options(**options)
    )
    pruned = found.built_from(solution, keep_optimizer)
    return Pairs.of_solution(solution, pruned)
