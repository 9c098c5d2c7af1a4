"""The result of a search for thresholds, with its trials."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates import _documents
from keras_gates import _pictures

if TYPE_CHECKING:
    from keras_gates.search.trial import Trial


class FoundThresholds(dict[str, float]):
    """Thresholds as a dict, with the curve of the search.

    It is used like any dict of thresholds: `plan(model, found)`.

    Attributes:
        trials: a `Trial` for each evaluation, in order; the first closed
            nothing.
        chosen: the `Trial` of the thresholds that were found.
        whole: `(params, macs)` of the model with its gates.
        max_drop: the allowed drop of the score.
    """

    def __init__(
        self,
        trials: list[Trial],
        chosen: Trial,
        whole: tuple[int, int],
        max_drop: float,
    ) -> None:
        super().__init__(chosen.thresholds)
        self.trials = list(trials)
        self.chosen = chosen
        self.whole = whole
        self.max_drop = max_drop

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds as a plain dict, by kind and by gate name."""
        return dict(self)

    @property
    def scores(self) -> NDArray[np.float64]:
        """The score of each trial."""
        return np.array([trial.score for trial in self.trials])

    @property
    def params(self) -> NDArray[np.int64]:
        """The parameters that each trial would leave."""
        return np.array([trial.params for trial in self.trials])

    @property
    def macs(self) -> NDArray[np.int64]:
        """The multiply-adds that each trial would leave."""
        return np.array([trial.macs for trial in self.trials])

    def plot(self, ax: Any = None) -> Any:
        """Draw the score against the remaining size of the model.

        A dot is a trial, and the star is the chosen one. The line is the best
        score of any trial at most that large, since trials of several kinds of
        gates do not lie on one curve.

        Args:
            ax: Axes of matplotlib to draw on; new ones by default.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        ax = _pictures.axes(ax)
        params, macs = self.whole
        least = self.trials[0].score - self.max_drop
        for left, whole, chosen, label in [
            (self.macs, macs, self.chosen.macs, "MACs"),
            (self.params, params, self.chosen.params, "parameters"),
        ]:
            share = left / max(whole, 1)
            order = np.argsort(share, kind="stable")
            best = np.maximum.accumulate(self.scores[order])
            (line,) = ax.step(share[order], best, where="post", label=label)
            color = line.get_color()
            ax.plot(share, self.scores, "o", color=color, markersize=4)
            at = chosen / max(whole, 1)
            ax.plot(at, self.chosen.score, "*", color=color, markersize=14)
        ax.plot([], [], "*", color="gray", markersize=10, label="chosen")
        ax.axhline(least, color="gray", linestyle="--", label="least allowed")
        ax.set_xlabel("share of MACs or parameters that is left")
        ax.set_ylabel("score")
        ax.legend()
        return ax

    def __repr__(self) -> str:
        return f"<FoundThresholds {dict(self)}>"

    def _repr_html_(self) -> str:
        first, *lead = str(self).splitlines()
        rows = [
            (
                ", ".join(f"{k}: {v:.4g}" for k, v in each.thresholds.items()),
                f"{each.score:.4g}",
                int(each.params),
                int(each.macs),
                "chosen" if each.thresholds == self.chosen.thresholds else "",
            )
            for each in self.trials
        ]
        head = ("thresholds", "score", "parameters", "MACs", "")
        section = _documents.Section("Trials", head, rows)
        return _documents.fragment(
            _documents.Document(first.rstrip(":"), lead, [section])
        )

    def __str__(self) -> str:
        first, chosen = self.trials[0], self.chosen
        pairs = zip(self.whole, (chosen.params, chosen.macs), strict=True)
        (params, few_params), (macs, few_macs) = pairs
        return "\n".join(
            [
                f"Thresholds found in {len(self.trials)} evaluations:",
                *(f"  {key}: {value:.4g}" for key, value in self.items()),
                f"score: {first.score:.4g} -> {chosen.score:.4g} (a drop of "
                f"{self.max_drop:g} is allowed)",
                f"parameters: {params:,} -> {few_params:,}",
                f"MACs: {macs:,} -> {few_macs:,}",
            ]
        )
