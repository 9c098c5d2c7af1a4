"""What would go, what stays, and why: `plan`, and `prune` that does it."""

import numbers

import numpy as np

from keras_gates import thresholds as th
from keras_gates.surgeon import expand
from keras_gates.surgeon import gates
from keras_gates.surgeon import graph as gr
from keras_gates.surgeon import report
from keras_gates.surgeon import solve
from keras_gates.surgeon import stored
from keras_gates.surgeon.closing import close
from keras_gates.surgeon.rebuild import rebuild


class Plan:
    """What pruning a model would do; `apply()` does it.

    A plan is data: which gates are closed, and for each layer what is kept.
    It holds the model, changes nothing, prints as a table, and goes through
    JSON.

    Attributes:
        closed: dict from gate name to the indices of its closed factors.
        rows: one `Row` a layer: channels, parameters and MACs before and
            after, whether that is exact, and why something stays.
        params: `(before, after)`.
        macs: `(before, after)`, in multiply-adds for one sample.
        exact: whether nothing in it is approximate.
    """

    def __init__(self, model, closed, options, rows, notes):
        self.model = model
        self.closed = closed
        self.options = options
        self.rows = rows
        self.notes = notes

    @property
    def params(self):
        """Parameters before and after."""
        return report.total(self.rows, "params")

    @property
    def macs(self):
        """Multiply-adds of one sample before and after."""
        return report.total(self.rows, "macs")

    @property
    def exact(self):
        return all(row.exact for row in self.rows)

    def __str__(self):
        return report.text(self)

    def __repr__(self):
        before, after = self.params
        return (
            f"<Plan for '{self.model.name}': {before:,} -> {after:,} "
            "parameters>"
        )

    def apply(self):
        """The pruned model; the plan's own model stays as it is.

        Constants and kept factors are taken from the weights as they are
        now.

        Returns:
            A new `keras.Sequential` for a Sequential that is still a chain
            of layers, else a functional `keras.Model`.

        Raises:
            ValueError: the weights have changed so that other channels
                would go than the plan says.
        """
        solution = _solve(self.model, self.masks(), self.options)
        rows, _ = report.describe(solution)
        if [r.after for r in rows] != [r.after for r in self.rows]:
            raise ValueError(
                f"The weights of '{self.model.name}' have changed since this "
                "plan was made, so that it no longer removes what it says. "
                "Make a new plan."
            )
        return _build(solution)

    def masks(self):
        """The closed factors as boolean arrays, by gate name."""
        masks = {}
        for gate in gates.factors_of(gr.read(self.model)):
            if gate.name in self.closed:
                mask = np.zeros(gate.values.shape, bool)
                mask.reshape(-1)[self.closed[gate.name]] = True
                masks[gate.name] = mask
        return masks

    def to_json(self):
        """The plan as JSON text."""
        return stored.dump(self)

    @classmethod
    def from_json(cls, text, model):
        """A plan from JSON text, for the model that it was made for.

        Args:
            text: what `to_json` returned.
            model: a model of the same architecture.

        Raises:
            ValueError: the text is no plan, or a plan for another model.
        """
        return cls(model, *stored.load(text, model))


def plan(model, thresholds, *, keep_at_least=0, round_to=1, exact=True):
    """Say what pruning would do, without doing it.

    Args:
        model: A built Functional or Sequential model with gates.
        thresholds: A number, a dict by kind or gate name, or a rule such as
            `Quantile(0.5)`. A gate is closed when `|factor| < threshold`.
        keep_at_least: How many channels of each filter gate stay open at
            least: a number, a share below 1 of the gate's own, or a dict of
            these by gate name. The plan's notes tell where it applied.
        round_to: Keep the channels of cut layers at a multiple of this, by
            opening the largest closed gates again.
        exact: Whether to make only removals that leave the function as it
            is, to float rounding. With `False`, constants are absorbed
            across zero padding and channels are removed under layer
            normalisation and softmax, too; the plan lists each place.

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
    (194, 90)
    """
    solution, floors = _from_thresholds(
        model, thresholds, keep_at_least, round_to, exact
    )
    rows, notes = report.describe(solution)
    closed = {
        name: np.flatnonzero(mask.reshape(-1)).tolist()
        for name, mask in solution.closed.items()
    }
    return Plan(model, closed, solution.options, rows, notes + floors)


def prune(model, thresholds, *, keep_at_least=0, round_to=1, exact=True):
    """A smaller model that computes the same; the original is untouched.

    `prune(m, t)` computes what `m` computes with its closed gates at
    exactly 0, to float rounding. Gates that stay are folded into their
    neighbours, so the result holds stock Keras layers and operations only.

    Args:
        model: A built Functional or Sequential model with gates.
        thresholds: As in `plan`.
        keep_at_least: As in `plan`.
        round_to: As in `plan`.
        exact: As in `plan`.

    Returns:
        A new `keras.Sequential` for a Sequential that is still a chain of
        layers (a gather is none), else a functional `keras.Model`. It is
        not compiled.

    Raises:
        TypeError, ValueError: As `plan`.

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
    solution, _ = _from_thresholds(
        model, thresholds, keep_at_least, round_to, exact
    )
    return _build(solution)


def _from_thresholds(model, thresholds, keep_at_least, round_to, exact):
    if isinstance(round_to, bool) or not isinstance(round_to, numbers.Integral):
        raise TypeError(f"`round_to` must be an int. Received: {round_to!r}.")
    if round_to < 1:
        raise ValueError(
            f"`round_to` must be at least 1. Received: {round_to!r}."
        )
    if not isinstance(exact, bool):
        raise TypeError(
            f"`exact` must be True or False. Received: {exact!r} (of type "
            f"{type(exact).__name__})."
        )
    graph = expand.read(model)
    found = th.asked(thresholds, gates.factors_of(graph))
    if not found:
        raise ValueError(
            f"Model '{model.name}' has no gates, so there is nothing to "
            "close. Put FilterGate, LayerGate, BranchGate or BlockGate "
            "layers into it before training, or take the gammas of its "
            'batch normalisations for gates: thresholds={"batch_norm": ...}.'
        )
    options = {"exact": exact, "round_to": int(round_to)}
    closed, notes = close(graph, found, thresholds, keep_at_least, **options)
    return solve.solve(graph, closed, **options), notes


def _solve(model, closed, options):
    return solve.solve(expand.read(model), closed, exact=options["exact"])


def _build(solution):
    return rebuild(solution.graph, solution.decision, solution.folds)
