"""Finds thresholds by closing gates and evaluating the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates import _checks
from keras_gates._checks import nonnegative_number
from keras_gates._checks import renamed
from keras_gates.search import scoring
from keras_gates.search.found_thresholds import FoundThresholds
from keras_gates.search.trial import Trial
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates.find import factors_of
from keras_gates.surgeon.report import table
from keras_gates.surgeon.solving import essential
from keras_gates.surgeon.solving import solve
from keras_gates.surgeon.verify import closed_gates
from keras_gates.thresholds.floor import check_floor
from keras_gates.thresholds.resolve import resolve
from keras_gates.thresholds.rule import NAMED

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.thresholds.rule import Factors

# From coarse to fine: the filters of a removed block need no threshold.
_ORDER = (
    *("block", "branch", "layer", "head"),
    *("filter", "stripe", "batch_norm"),
)


@renamed(keep_at_least="keep_essential")
def find_thresholds(
    model: keras.Model,
    evaluate: Any,
    *,
    max_drop: float = 0.01,
    kinds: str | Sequence[str] | None = None,
    metric: str = "accuracy",
    trials: int = 10,
    keep_essential: float = 0.05,
    exact: bool = True,
    verbose: int = 0,
) -> FoundThresholds:
    """Find the largest thresholds within an allowed drop of a score.

    Closes gates in place, by setting factors to 0, and evaluates the model; no
    model is built. The kinds of gates are searched one after the other, by
    bisection over their sorted factors; gates closed earlier stay closed. With
    `n` kinds, the first may cost `max_drop / n`, the first two `2 / n` of it,
    and so on. The search takes one evaluation for the model itself and at most
    `trials` for each kind. The same model and data give the same thresholds.

    The search assumes that closing more does not improve the score. If it does,
    as with a noisy score, the search finds one of several crossings.

    Gates without a path around them are not closed completely: as in `Budget`,
    `keep_essential` of their channels stay open. They have their own thresholds
    in the result, by name.

    Reference:

    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623), whose thresholds
      are found empirically

    Args:
        model: A built model with gates. Its factors are restored afterwards,
            even if the search is interrupted.
        evaluate: A function of the model that returns a number, more being
            better; or data for `model.evaluate`: a tuple `(x, y)`, a
            `tf.data.Dataset`, or whatever else it accepts. Use held-out data
            other than the test set.
        max_drop: How much of the score may be lost, in its units.
        kinds: Kinds of gates to search, in this order. Defaults to all kinds in
            the model, blocks first, filters last. Batch normalizations are
            searched only if `"batch_norm"` is among them.
        metric: Which of the compiled metrics to read, if data is given. Higher
            must be better; `"loss"` is negated.
        trials: The number of evaluations for each kind.
        keep_essential: The channels that stay open in each gate without a path
            around it, as in `Budget`: an integer, or a share below 1. At least
            one stays open.
        exact: As in `plan`; it only affects the counted cost of trials.
        verbose: 0 for silence, 1 for a progress bar.

    Returns:
        A `FoundThresholds`: a dict to pass as `thresholds`, with the score,
        parameters and multiply-adds of every trial.

    Raises:
        TypeError: If an argument is of another type, or the score is not a
            number.
        ValueError: If the model has no gates of a kind, a number is out of
            range, or the model's own score is not finite.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> import keras_gates as kg
    >>> gate = kg.FilterGate()
    >>> model = keras.Sequential([keras.Input((4,)), gate])
    >>> gate.set_weights([np.array([0.1, 0.2, 0.8, 0.9])])
    >>> def power(model):
    ...     return keras.ops.sum(keras.ops.square(gate.factor))
    >>> found = kg.find_thresholds(model, power, max_drop=0.1)
    >>> found.thresholds
    {'filter': 0.5}
    """
    max_drop = nonnegative_number(max_drop, "max_drop", "find_thresholds")
    _check(trials, keep_essential)
    graph = expand.read(model)
    found, gates = _searched(graph, kinds)
    severs = essential.Severing(graph, exact)
    held = essential.held_open(gates, {}, keep_essential, severs)
    score = scoring.scorer(model, evaluate, metric)
    search = _Search(model, graph, gates, held, score, exact)
    search.prepare(found, trials, verbose)
    with scoring.whole(model):
        first = best = search.trial({})
        scoring.check_score(first.score)
        for number, kind in enumerate(found, 1):
            least = first.score - max_drop * number / len(found)
            # Metrics are float32: 0.97 - 0.01 must accept 0.96.
            least -= 1e-6 * abs(first.score)
            best = search.bisect(kind, best, least)
    search.show(finalize=True)
    return FoundThresholds(search.trials, best, search.whole, max_drop)


class _Search:
    """The trials of one search."""

    def __init__(
        self,
        model: keras.Model,
        graph: Graph,
        gates: list[Factors],
        held: dict[str, NDArray[np.bool_]],
        score: Callable[[], float],
        exact: bool,
    ) -> None:
        self.model = model
        self.graph = graph
        self.gates = gates
        self.held = held
        self.score = score
        self.exact = exact
        self.trials: list[Trial] = []
        # Keyed by the bytes of the closed masks.
        self.known: dict[bytes, Trial] = {}
        # Parameters and multiply-adds of the model with its gates.
        self.whole = (0, 0)

    def prepare(self, kinds: list[str], trials: int, verbose: int) -> None:
        """Lay out the levels of each kind, and the progress bar."""
        self.levels = {kind: self._levels(kind) for kind in kinds}
        self.counts = {
            kind: min(trials, len(levels).bit_length())
            for kind, levels in self.levels.items()
        }
        self.progress = keras.utils.Progbar(
            1 + sum(self.counts.values()),
            verbose=verbose,
            unit_name="trial",
            stateful_metrics=["score", "params", "macs"],
        )

    def _levels(self, kind: str) -> list[float]:
        """Thresholds between the factors of a kind, one for each step."""
        every = [
            np.abs(gate.values)[~self._held(gate)].reshape(-1)
            for gate in self.gates
            if gate.kind == kind
        ]
        sizes = np.unique(np.concatenate([np.zeros(0, "float32"), *every]))
        above = np.append(sizes[1:], np.inf).astype(sizes.dtype)
        middle = sizes + (above - sizes) / 2
        # The midpoint may round to the lower one, but must be above it.
        next_up = np.nextafter(sizes, above)
        middle = np.where(np.isfinite(middle), middle, next_up)
        return [float(t) for t in np.maximum(middle, next_up)]

    def _held(self, gate: Factors) -> NDArray[np.bool_]:
        return self.held.get(gate.name, np.zeros(gate.values.shape, bool))

    def bisect(self, kind: str, best: Trial, least: float) -> Trial:
        """The trial with most of a kind closed that scores `least`."""
        levels, fixed = self.levels[kind], best.thresholds
        low, high = 0, len(levels) + 1
        for _ in range(self.counts[kind]):
            middle = (low + high) // 2
            if middle == low:
                break
            trial = self.trial(self._with(fixed, kind, levels[middle - 1]))
            if trial.score >= least:
                low, best = middle, trial
            else:
                high = middle
        if not low:
            fixed = {**fixed, kind: 0.0}
            best = dataclasses.replace(best, thresholds=fixed)
        return best

    def _with(
        self, fixed: dict[str, float], kind: str, threshold: float
    ) -> dict[str, float]:
        """Thresholds with one more kind, and by name for gates with a floor."""
        found = {**fixed, kind: threshold}
        for gate in self.gates:
            if gate.kind == kind and gate.name in self.held:
                limit = float(np.abs(gate.values[self._held(gate)]).min())
                if limit < threshold:
                    found[gate.name] = limit
        return found

    def trial(self, thresholds: dict[str, float]) -> Trial:
        """Close gates and score the model, unless this was done before."""
        masks = resolve(thresholds, self.gates)
        key = b"".join(mask.tobytes() for mask in masks.values())
        if key in self.known:
            return dataclasses.replace(self.known[key], thresholds=thresholds)
        solution = solve.solve(self.graph, masks, exact=self.exact)
        totals = table.totals(solution)
        params, macs = totals["params"], totals["macs"]
        self.whole = params[0], macs[0]
        with closed_gates(self.model, masks, self.graph):
            score = self.score()
        found = Trial(thresholds, score, params[1], macs[1])
        self.known[key] = found
        self.trials.append(found)
        self.show()
        return found

    def show(self, finalize: bool = False) -> None:
        """Show the progress of the search, unless it is silent."""
        last = self.trials[-1]
        values = [(n, getattr(last, n)) for n in ("score", "params", "macs")]
        self.progress.update(len(self.trials), values, finalize)


def _check(trials: object, keep_essential: object) -> None:
    check_floor(keep_essential, "keep_essential")
    _checks.integer(trials, "trials", least=1)


def _searched(
    graph: Graph, kinds: str | Sequence[str] | None
) -> tuple[list[str], list[Factors]]:
    """The kinds to search, and the `Factors` of all gates of them."""
    gates = factors_of(graph)
    there = {gate.kind for gate in gates}
    if kinds is None:
        kinds = [k for k in _ORDER if k in there and k not in NAMED]
    if not isinstance(kinds, (str, list, tuple)):
        raise TypeError(
            "`kinds` must be a kind of gate or a list of them. Received: "
            f"{kinds!r} (of type {type(kinds).__name__})."
        )
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if not there:
        raise ValueError(
            f"Model '{graph.model.name}' has no gates whose thresholds could "
            "be searched. Insert some before training: "
            "keras_gates.insert_gates(model, filters=1e-4)."
        )
    missing = [kind for kind in kinds if kind not in there]
    if missing or not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(
            "`find_thresholds` can't search these kinds of gates in model "
            f"'{graph.model.name}'. Received: {kinds}. It has: "
            f"{', '.join(k for k in _ORDER if k in there) or 'none'}. Name "
            "each kind once, or insert gates."
        )
    return kinds, [gate for gate in gates if gate.kind in kinds]
