"""Trains a model with gates to a budget."""

from __future__ import annotations

import json
import math
import pathlib
import warnings
from typing import Any

import keras

from keras_gates import _files
from keras_gates.reaching.controller import Controller
from keras_gates.reaching.course import Course
from keras_gates.surgeon.closing.options import plain
from keras_gates.thresholds import Budget

# How many times the factors are looked at during training.
_LOOKS = 200
# With fewer steps, factors shrink faster than the weights can adapt.
_ENOUGH = 200
# The least number of epochs where the first one shows how long an epoch is.
_UNCOUNTED = 5
_STATE = "reach_budget.json"


class ReachBudget(keras.callbacks.Callback):
    """Closes gates while a model trains, until the model is within a budget.

    ```python
    gated = kg.insert_gates(model, filters=True)  # no strength
    gated.compile(...)
    reach = kg.callbacks.ReachBudget(macs=0.5)
    gated.fit(..., callbacks=[reach])
    small = kg.surgeon.prune(gated, reach.thresholds)
    ```

    There is nothing to tune. During the first tenth of the training, nothing is
    closed. Then the current budget decreases by equal ratios until half of the
    training is over. Factors are ranked by their size times the norms of the
    weights around them, relative to the larger ones of their gate, and as many
    of the smallest are closed as the current budget requires. Channels around
    which training moves no weights count least, such as constant inputs.
    Factors that are next to close shrink towards 0 first. A closed factor that
    the optimizer would have made larger than an open one takes its place,
    starting small; this becomes rarer, and ends at six tenths of the training.
    Then the set is the one that `Budget` chooses, and stays fixed: closed
    factors are exactly 0, so the cut changes nothing, and the weights adapt to
    it.

    This happens between batches, and changes factors only. The loss does not
    change, so any optimizer, learning rate, compilation mode and precision
    works.

    It closes gates of all kinds, skeletons of `StripConv`, and the gammas that
    `slim` has prepared (`slim(model, 0.0)` is enough). Gates without a path
    around them keep some channels, as with every `Budget`.

    The logs and the progress bar show `macs_left`, the share of the MACs (or
    parameters) that remains; `macs_goal`, the share that the current budget
    allows; and `gates_closed`, the share of closed factors.

    In a custom training loop, call two methods:

    ```python
    reach.start(gated, steps=epochs * len(batches))
    for batch in ...:
        ...  # one step of the optimizer
        reach.step()
    ```

    Args:
        *budgets: One or more `Budget`s, of MACs or of parameters. If there are
            several, all of them are met.
        macs: Multiply-adds that may remain, as in `Budget`: a share up to 1, or
            a number above 1.
        params: Parameters that may remain, likewise.
        backup_dir: A folder for the state other than the model's weights,
            written after each epoch and removed at the end. Together with
            `keras.callbacks.BackupAndRestore`, an interrupted training resumes
            as if it had not been interrupted. Without it, training resumes from
            the current factors. Defaults to `None`: nothing is written.

    Attributes:
        thresholds: After training, what to pass to `plan`, `prune` and
            `verify`; `None` before.

    Raises:
        TypeError: If an argument is not a number or a `Budget` of MACs or
            parameters.
        ValueError: If no budget is given, or two of one kind; when training
            begins, if the model has no gates, if the gates can't reach the
            budget (the error names the smallest one that they can), or if a
            training for another budget is resumed.

    Warns:
        UserWarning: When training begins, if the model is already within the
            budget, or there are too few steps; at the end, if training was
            stopped before the set of closed gates was fixed, or ended with NaN
            in the gates.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> import keras_gates as kg
    >>> gated = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(100, activation="relu"),
    ...         kg.FilterGate(),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> gated.compile(optimizer="adam", loss="mse")
    >>> x, y = np.ones((100, 8)), np.ones((100, 2))
    >>> reach = kg.callbacks.ReachBudget(macs=0.5)
    >>> history = gated.fit(
    ...     x, y, batch_size=4, epochs=8, verbose=0, callbacks=[reach]
    ... )
    >>> kg.surgeon.plan(gated, reach.thresholds).macs
    Pair(before=1000, after=500)
    """

    # After a batch, the logs are filled in.
    async_safe = True

    def __init__(
        self,
        *budgets: Budget,
        macs: float | None = None,
        params: float | None = None,
        backup_dir: str | pathlib.Path | None = None,
    ) -> None:
        super().__init__()
        given = list(budgets)
        if macs is not None:
            given.append(Budget(macs=macs))
        if params is not None:
            given.append(Budget(params=params))
        _check(given)
        self.budgets = given
        self.backup_dir = (
            None if backup_dir is None else (pathlib.Path(backup_dir))
        )
        self.thresholds: dict[str, Any] | None = None
        self._course = Course()
        self._controller: Controller | None = None
        self._restored: dict[str, Any] = {}
        # The number of steps of the training, and of those done.
        self._total = self._done = 0
        self._every = 1
        self._complete = self._looked = False

    # A loop of the user's own ----------------------------------------------

    def start(self, model: keras.Model, steps: int) -> None:
        """Begin training in a custom loop.

        Args:
            model: The model with gates, built.
            steps: The total number of optimizer steps.

        Raises:
            TypeError, ValueError: As the class says.
        """
        whole = isinstance(steps, int) and not isinstance(steps, bool)
        if not whole or steps < 1:
            raise ValueError(
                "ReachBudget needs the number of training steps. Received: "
                f"steps={steps!r}. Expected: an int of at least 1."
            )
        self._begin(model, steps)

    def step(self) -> None:
        """Update the gates after an optimizer step; the last call finishes.

        Raises:
            RuntimeError: If `start` was not called.
        """
        self._running()
        self._done += 1
        if self._done >= self._total:
            self._finish()
        else:
            self._look(self._done)

    # Keras' fit -------------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        steps, epochs = self.params.get("steps"), self.params["epochs"]
        self._epochs, self._steps, self._counted = epochs, steps, 0
        self._begin(self.model, (steps or 0) * epochs)
        if not steps and epochs < _UNCOUNTED:
            warnings.warn(
                f"ReachBudget does not know the number of steps in {epochs} "
                "epochs: the length of the data is unknown, and the first "
                "epoch is over before it can begin. Pass steps_per_epoch to "
                f"fit(), or train for {_UNCOUNTED} epochs or more.",
                stacklevel=2,
            )

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._epoch = epoch

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._seen = batch + 1
        # For data of unknown length, the first epoch shows it.
        steps = self._steps or self._counted
        self._total = steps * self._epochs
        self._every = max(1, self._total // _LOOKS)
        self._look(self._epoch * steps + batch if steps else None)

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if logs is not None:
            logs.update(self._told())

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        # Keras calls this for the validation data, between two epochs.
        if self._controller is not None:
            self._controller.settle()

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        controller = self._running()
        controller.settle()
        self._counted = self._seen
        self._complete = epoch + 1 >= self._epochs
        if logs is not None:
            logs.update(self._told())
        if self.backup_dir is not None:
            self.backup_dir.mkdir(parents=True, exist_ok=True)
            state = json.dumps(self.get_state())
            _files.write_text(self.backup_dir / _STATE, state)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        controller = self._running()
        state = controller.state
        if self._complete or (state is not None and state.fixed):
            self._finish()
        else:
            self._stop()
        if self.backup_dir is not None:
            (self.backup_dir / _STATE).unlink(missing_ok=True)

    # State ------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """The state other than the model's weights, as data for JSON."""
        controller = self._controller
        state = {} if controller is None else controller.get_state()
        return {
            "budgets": plain(self.budgets),
            "done": self._done,
            "controller": state or self._restored,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from a state of `get_state` when training begins.

        In a custom training loop, call it before `start`.

        Args:
            state: What `get_state` returned.

        Raises:
            ValueError: If the state belongs to another budget.
        """
        if state["budgets"] != plain(self.budgets):
            raise ValueError(
                "ReachBudget can't resume a training for another budget. "
                f"Received: the state of {state['budgets']}. Expected: that "
                f"of {plain(self.budgets)}. Pass the same budget, or start "
                "again, in another folder or without the state."
            )
        self._restored = dict(state["controller"])
        self._done = int(state["done"])

    # Both -------------------------------------------------------------------

    def _begin(self, model: keras.Model, total: int) -> None:
        self.thresholds = None
        self._complete = False
        path = self.backup_dir and self.backup_dir / _STATE
        if path and path.exists():
            self.set_state(json.loads(path.read_text()))
        self._controller = Controller(model, self.budgets, self._course)
        self._looked = False
        if self._restored:
            self._controller.set_state(self._restored)
        else:
            self._done = 0
        self._restored = {}
        self._total, self._every = total, max(1, total // _LOOKS)
        if self._controller.goals.met:
            warnings.warn(
                f"'{model.name}' is already within {_named(self.budgets)}: "
                "ReachBudget closes nothing.",
                stacklevel=3,
            )
        elif 0 < total < _ENOUGH:
            warnings.warn(
                f"ReachBudget brings '{model.name}' to "
                f"{_named(self.budgets)} in {total} training steps. That is "
                f"few: the weights need about {_ENOUGH} to adapt. Train for "
                f"{math.ceil(_ENOUGH / total)} times as many epochs, or with "
                "smaller batches.",
                stacklevel=3,
            )

    def _running(self) -> Controller:
        if self._controller is None:
            raise RuntimeError(
                "ReachBudget has not started. Call start(model, steps) "
                "before the first step(), or pass the callback to fit()."
            )
        return self._controller

    def _look(self, done: int | None) -> None:
        """What to do between two batches.

        Args:
            done: the number of steps done; None while the total number is not
                known.
        """
        controller = self._running()
        if not self._looked:
            # By now, a backup has been restored.
            controller.settle()
            controller.watch()
            self._looked = True
        state = controller.state
        fixed = state is not None and state.fixed
        if not fixed and done is not None and done % self._every == 0:
            controller.advance(done / max(1, self._total))
        else:
            controller.hold()

    def _told(self) -> dict[str, float]:
        controller, of = self._running(), self.budgets[0].resource
        return {
            f"{of}_left": controller.left,
            f"{of}_goal": controller.goals.allowed,
            "gates_closed": controller.share_closed,
        }

    def _finish(self) -> None:
        controller = self._running()
        if not controller.finite:
            warnings.warn(
                "Training ended with gates that are not finite, so that "
                "ReachBudget has no thresholds. Restore an earlier "
                "checkpoint.",
                stacklevel=3,
            )
            return
        # Weight averaging may have replaced zeros.
        controller.advance(1.0)
        controller.settle()
        self.thresholds = controller.thresholds

    def _stop(self) -> None:
        """Training ended early, so the budget alone decides what to close."""
        controller = self._running()
        controller.settle()
        kinds = dict.fromkeys(controller.live.kinds)
        self.thresholds = dict.fromkeys(kinds, self.budgets[0])
        warnings.warn(
            "Training was stopped before ReachBudget had fixed what is "
            f"closed ({controller.left:.1%} of the "
            f"{self.budgets[0].resource} are left). Its `thresholds` are "
            "the budget itself: a cut by them keeps to it, and may cost "
            "accuracy that fine-tuning has to bring back.",
            stacklevel=3,
        )


def _check(budgets: list[Budget]) -> None:
    """Refuse anything but budgets that can be counted."""
    for budget in budgets:
        if not isinstance(budget, Budget):
            raise TypeError(
                "ReachBudget takes Budgets. Received: "
                f"{budget!r} (of type {type(budget).__name__}). Write "
                "ReachBudget(macs=0.5) or ReachBudget(Budget(macs=0.5))."
            )
    of = [budget.resource for budget in budgets]
    if "latency" in of:
        raise TypeError(
            "ReachBudget needs a cost that can be counted between two "
            "batches. Received: a Budget of latency. Expected: macs or "
            "params. Train to a budget of macs, and prune to one of latency."
        )
    if not of or len(set(of)) < len(of):
        raise ValueError(
            "ReachBudget takes a budget of macs, of params, or one of each. "
            f"Received: {', '.join(of) or 'none'}. Write, for example, "
            "ReachBudget(macs=0.5)."
        )


def _named(budgets: list[Budget]) -> str:
    return " and ".join(f"{b.resource}={b.amount!r}" for b in budgets)
