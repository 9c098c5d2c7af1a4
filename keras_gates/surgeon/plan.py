"""`plan`: what would be removed, what stays, and why; `prune` applies it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates._memory import uncollected
from keras_gates.surgeon import plan_json
from keras_gates.surgeon.build import optimizer
from keras_gates.surgeon.build.rebuild import rebuild
from keras_gates.surgeon.build.remembered import Remembered
from keras_gates.surgeon.closing.options import Options
from keras_gates.surgeon.closing.options import Request
from keras_gates.surgeon.closing.request import from_closed
from keras_gates.surgeon.closing.tries import from_thresholds
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

    # Rows, notes and kept positions, created when they are first read.
    Described = tuple[list[Row], list[str], Kept | None, Remembered | None]


class Plan:
    """What pruning would do to a model; `apply()` does it.

    A plan is data: the closed gates, and what is kept of each layer. It refers
    to the model, changes nothing, prints as a table, and converts to JSON.

    Attributes:
        closed: dict from gate name to the indices of its closed factors.
        rows: one `Row` per layer: channels, parameters and MACs before and
            after, whether the change is exact, and why something stays.
        notes: further notes, one per line.
        kept: which of the original channels stay, by position: `{layer:
            {"output" or the name of a weight: {axis: positions}}}`. Axes
            without channels are left out. A removed layer has no positions.
        params: `(before, after)`.
        macs: `(before, after)`, in multiply-adds for one sample.
        exact: whether nothing is approximate.
        request: the thresholds, floors and names of scores that were requested,
            as data. None for a JSON plan of version 0.1.
        options: `exact`, `round_to`, `drop_shortcuts` and `written_out` as
            given; the `sizes` of a `Budget`; `groups`, the names in `closed`
            that scores have closed; and `whole`, the layers that are kept whole
            because they can't be rebuilt smaller, with the reason.
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
        """Create a plan; users call `plan` instead.

        Args:
            model: the model.
            closed: as the attribute.
            options: as the attribute.
            request: as the attribute.
            shapes: the shapes of the factors of the gates in `closed`.
            describe: creates the rows, notes and kept positions when they are
                first read, and what `apply` need not find once more.
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
        del self._describe  # it holds the whole solution
        return found

    @property
    def rows(self) -> list[Row]:
        """One `Row` per layer."""
        return self._described[0]

    @property
    def notes(self) -> list[str]:
        """Further notes, one per line."""
        return self._described[1]

    @functools.cached_property
    def kept(self) -> Kept:
        """The kept channels: `{layer: {array: {axis: positions}}}`."""
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
        """Whether nothing is approximate."""
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
        """Build the pruned model; the plan's own model does not change.

        Constants and kept factors are taken from the current weights.

        Args:
            keep_optimizer: As in `prune`.

        Returns:
            A new `keras.Sequential` if the model is one and still a chain of
            layers, otherwise a functional `keras.Model`.

        Raises:
            ValueError: the weights have changed, so that other channels would
                be removed.
        """
        return self.built_from(self.solved(), keep_optimizer)

    def solved(self) -> Solution:
        """The solution for the current weights.

        Raises:
            ValueError: as in `apply`.
        """
        # Known constants, and so the result, depend on the weights. Solving
        # again takes less time than finding out whether a weight has changed.
        remembered = self._described[3]
        solution = from_closed(
            self.model, self.masks(), self.options, remembered
        )
        widths = table.widths(solution, self.options.sizes)
        if widths != [row.after for row in self.rows]:
            raise ValueError(
                f"The weights of '{self.model.name}' have changed since this "
                "plan was made, so it would remove other channels. Make a "
                "new plan."
            )
        return solution

    def built_from(
        self, solution: Solution, keep_optimizer: bool
    ) -> keras.Model:
        """The pruned model, from a solution for the current weights."""
        if keep_optimizer:
            if self.options.drop_shortcuts:
                raise ValueError(
                    "`keep_optimizer` continues a training, but "
                    "`drop_shortcuts` changes the trained function. Pass one "
                    "of them; for the other, compile the result again."
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
        """Compare a pruned model with the original, as in `surgeon.verify`.

        Args:
            pruned: The result of `apply`, or of `prune` with the same
                arguments.
            x: As in `surgeon.verify`: inputs to compare on; random by default.
            samples: The number of random samples.
            seed: Seed of the random inputs.

        Returns:
            A dict from output name to `max|original - pruned| /
            max|original|`.

        Raises:
            ValueError: As in `surgeon.verify`.
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
        """Write the plan to a single file to share.

        It has the widths, parameters and multiply-adds of each layer before and
        after, closed channels that stay, by reason, and the notes. An HTML file
        is self-contained, and works in light and dark mode.

        Args:
            path: Where to write. The suffix sets the format: `.html` or `.md`.
            repair: The result of `surgeon.repair`, or the `repair_report` of a
                model from `prune(..., repair=x)`, to include its table.
            metrics: Metrics before and after to include: `{"accuracy": (0.91,
                0.9)}`.

        Raises:
            ValueError: The suffix is neither of these.
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
        """The plan as JSON text, including the request."""
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
        """Read a plan from JSON text, for the model that it was made for.

        Args:
            text: the result of `to_json`.
            model: a model of the same architecture.

        Raises:
            ValueError: the text is not a plan, or a plan for another model.
        """
        content, shapes = plan_json.load(text, model)
        found = cls(
            model,
            content.closed,
            content.options,
            content.request,
            shapes,
            lambda: (content.rows, content.notes, content.kept, None),
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
    """Plan what pruning would do, without doing it.

    Args:
        model: A built Functional or Sequential model with gates.
        thresholds: A number, a dict by kind or gate name, or a rule such as
            `Quantile(0.5)`. A gate is closed when `|factor| < threshold`.
        scores: The result of `surgeon.score`, for channels without gates:
            `{name of a group of coupled channels: array}`. Thresholds then
            apply to the scores, and to gates that a dict names. A closed
            channel is zero where it is read, at every position of its map.
        keep_at_least: The least number of channels of each filter gate that
            stay open: a number, a share below 1, or a dict of these by gate
            name. The plan's notes say where it applied.
        round_to: Round the channels of cut layers up to a multiple of this, by
            opening the largest closed factors again. Heads are not rounded.
        exact: Whether to make only removals that preserve the function, to
            float rounding. With `False`, constants are also absorbed across
            zero padding, channels are removed under layer normalization and
            softmax, and so are units that gates close after recurrent layers;
            the plan lists each place.
        drop_shortcuts: Whether to remove the shortcuts that `insert_gates`
            added for gates that stay open, which is the last step in the paper.
            Closed gates keep theirs. This changes the function, and the plan
            says so.
        written_out: How to rebuild a layer of a class without a rule, if
            something in it is removed. By default, as a layer of the same class
            with a smaller config, if one is found that makes exactly this
            layer; otherwise as a functional model of its parts. With `True`,
            always as the latter, which loads without the class; with `False`,
            never: if the class can't be kept, the layer is kept whole. The
            plan's notes say what happens to each, and why.

    Returns:
        A `Plan`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: The model is not built, is subclassed, or has no gate, or a
            layer can't be cut safely; a threshold is negative, NaN or for an
            unknown gate; or an output would become constant.

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
    _ = found.rows  # created now, from the current weights
    return found


@uncollected()
def _solved(
    model: keras.Model,
    thresholds: Thresholds,
    scores: Scores | None,
    keep_at_least: Floors,
    options: Options,
) -> tuple[Plan, Solution]:
    """A plan without its rows, and its solution.

    `prune` needs only the solution.
    """
    solution, options, notes = from_thresholds(
        model, thresholds, scores, keep_at_least, options
    )

    @uncollected()
    def describe() -> Described:
        rows, told = table.describe(solution, options.sizes)
        told = told + notes + notes_on(model)
        remembered = Remembered.of(model, solution)
        return rows, told, kept_of.find(solution), remembered

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
    """Build a smaller model that computes the same; the original is untouched.

    `prune(m, t)` computes what `m` computes with its closed gates at
    exactly 0, to float rounding. Gates that stay are folded into their
    neighbors, so the result has no gates.

    Args:
        model: A built Functional or Sequential model with gates.
        thresholds: As in `plan`.
        scores: As in `plan`.
        keep_at_least: As in `plan`.
        round_to: As in `plan`.
        exact: As in `plan`.
        drop_shortcuts: As in `plan`; the only option that changes what open
            gates compute.
        written_out: As in `plan`.
        keep_optimizer: Whether to compile the result like the model, and to cut
            the state of its optimizer (momenta, iterations, learning rate) by
            the same plan, so that `fit` continues. Where a gate is folded into
            a weight, the weight's state is scaled to match.
        repair: Inputs of the model, without labels, to repair the result on, as
            in `surgeon.repair`: a few hundred samples. The remaining channels
            are then fitted to replace what the closed channels did, instead of
            zero. This is approximate by design; the report is the attribute
            `repair_report` of the result. None for the exact result.

    Returns:
        A new `keras.Sequential` if the model is one and still a chain of layers
        (without a gather), otherwise a functional `keras.Model`. It has the
        model's own class if the constructor takes `(inputs, outputs)` (or
        `(layers)`) first, with the attributes that were set on the model, where
        new layers replace old ones. A warning names what is lost. It is
        compiled only with `keep_optimizer=True`.

    Raises:
        TypeError, ValueError: As in `plan`; and with `keep_optimizer`, if the
            model is not compiled, or the optimizer's state can't be cut safely.

    Warns:
        UserWarning: Gates are closed but nothing can be removed; the warning
            says why, like the notes of a plan.

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
    """The result of `prune`, with the pairs of old and new parts.

    Args:
        model: as in `prune`, like the other arguments.
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
