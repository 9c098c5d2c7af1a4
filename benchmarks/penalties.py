"""Ways to choose what is closed, beside each other, at one budget.

    KERAS_BACKEND=tensorflow python benchmarks/penalties.py --data-dir FOLDER

LeNet-5 on the first images of MNIST, brought to a tenth of its multiply-adds.
Each row is trained its own way, cut to the budget, and fine-tuned; that of
`ReachBudget` has the same number of epochs, all of them before the cut. A
penalty needs a strength: each is trained with all of its strengths first, with
a seed of its own, and the one is taken that errs least on 5,000 images that are
held out. `ReachBudget` and `GrowDecay` have none. Results are kept in
`--output`.
"""

import argparse
import dataclasses
import pathlib
import sys

import keras

import keras_gates as kg

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import training

HELD_OUT = 5000
# The seed with which strengths are chosen; no row is reported with it.
CHOOSING = 100

# By row: the strengths to choose from.
STRENGTHS = {
    "L1": (1e-3, 3e-3, 1e-2, 3e-2),
    "polarization": (1e-3, 3e-3, 1e-2, 3e-2),
    "stochastic gates, L0": (1e-4, 3e-4, 1e-3, 3e-3),
    "group lasso": (1e-5, 3e-5, 1e-4, 3e-4),
}
# By row: the arguments of `insert_gates` for a strength.
GATES = {
    "L1": lambda strength: {"strength": strength},
    "polarization": lambda strength: {
        "regularizer": kg.regularizers.Polarization(strength)
    },
    "stochastic gates, L0": lambda strength: {
        "strength": strength,
        "stochastic": True,
    },
}
# All of their epochs come before the cut, if there is one.
UNTUNED = ("not pruned", "ReachBudget")
ROWS = (
    *UNTUNED,
    *STRENGTHS,
    "GrowDecay",
    "l2, no penalty",
    "random",
)


class Runs:
    """The trainings of one seed; each is done once."""

    def __init__(self, args, data, seed):
        self.args, self.data, self.seed = args, data, seed
        self.record = training.Record(args.output / f"seed{seed}")
        self.budget = kg.Budget(macs=args.macs)

    def fresh(self):
        keras.utils.set_random_seed(self.seed)
        return kg.zoo.lenet5(classifier_activation=None)

    def gated(self, **spec):
        return kg.insert_gates(self.fresh(), filters=spec or True)

    def fit(self, name, model, epochs, *callbacks, rate=None):
        return self.record.fit(
            name,
            model,
            self.data,
            seed=self.seed,
            epochs=epochs,
            rate=rate or self.args.rate,
            callbacks=list(callbacks),
        )

    def numbers(self, row, strength=None):
        """Errors at the cut and at the end, and the size."""
        told = row if strength is None else f"{row} {strength:g}"
        return self.record.numbers(
            told.replace(" ", "-"), lambda: self.measured(row, told, strength)
        )

    def measured(self, row, told, strength):
        first, more = self.args.epochs, self.args.fine_tune
        if row == "not pruned":
            model = self.fit(told, self.fresh(), first + more)
        elif row == "ReachBudget":
            reach = kg.callbacks.ReachBudget(self.budget)
            model = self.fit(told, self.gated(), first + more, reach)
            model = kg.surgeon.prune(model, reach.thresholds)
        else:
            model = self.cut(row, told, strength)
        at_cut = self.error(model)
        if row not in UNTUNED:
            rate = self.args.rate / 10
            self.fit(f"{told}, fine-tuned", model, more, rate=rate)
        return {
            "at the cut": at_cut,
            "at the end": self.error(model),
            "macs": kg.stats.count(model).macs,
        }

    def cut(self, row, told, strength):
        """A network that was trained the way of the row, and cut."""
        epochs = self.args.epochs
        if row in GATES:
            model = self.fit(told, self.gated(**GATES[row](strength)), epochs)
            return kg.surgeon.prune(model, self.budget)
        model = self.fresh()
        if row == "group lasso":
            kg.regularizers.GroupLasso(strength).bind(model)
        if row == "GrowDecay":
            # Scores of weights that have learned nothing say nothing.
            early = epochs // 3
            self.fit(f"{told}, before", model, early)
            grow = kg.callbacks.GrowDecay(self.budget)
            self.fit(told, model, epochs - early, grow)
            return kg.surgeon.prune(model, grow.thresholds, scores=grow.scores)
        self.fit(told, model, epochs)
        options = {"seed": self.seed} if row == "random" else {}
        kind = "random" if row == "random" else "l2"
        scores = kg.surgeon.score(model, kind, **options)
        return kg.surgeon.prune(model, self.budget, scores=scores)

    def error(self, model):
        return 1 - training.accuracy(model, self.data)


def chosen(args, data):
    """By row: the strength that errs least on images held out."""
    x, y = data.x_train, data.y_train
    held = dataclasses.replace(
        data,
        x_train=x[: args.images],
        y_train=y[: args.images],
        x_test=x[-HELD_OUT:],
        y_test=y[-HELD_OUT:],
    )
    runs = Runs(args, held, CHOOSING)
    best = {}
    for row, strengths in STRENGTHS.items():
        if row in args.rows:
            ends = {s: runs.numbers(row, s)["at the end"] for s in strengths}
            best[row] = min(ends, key=ends.get)
            told = ", ".join(f"{s:g}: {100 * e:.2f}" for s, e in ends.items())
            print(f"{row}, errors held out: {told}", flush=True)
    return best


def report(args, numbers, strengths):
    """Print one row for each way, with the errors of all seeds."""
    rows = []
    for row, each in numbers.items():
        cells = [row, f"{strengths[row]:g}" if row in strengths else ""]
        for column in ("at the cut", "at the end"):
            errors = [100 * one[column] for one in each]
            seeds = ", ".join(f"{error:.2f}" for error in errors)
            cells += [f"{sum(errors) / len(errors):.2f}", seeds]
        rows.append((*cells, ", ".join(str(one["macs"]) for one in each)))
    head = ["way", "strength", "at the cut", "seeds", "at the end", "seeds"]
    title = f"LeNet-5 at {args.macs:.0%} of its MACs, test errors, per cent"
    training.table(title, [*head, "MACs"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, default=ROWS)
    add("--data-dir", help="folder of tensorflow_datasets")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--images", type=int, default=20000, help="training images")
    add("--epochs", type=int, default=9, help="before the cut")
    add("--fine-tune", type=int, default=3, help="epochs after the cut")
    add("--macs", type=float, default=0.1, help="share of MACs to keep")
    add("--rate", type=float, default=0.05, help="learning rate")
    add("--output", type=pathlib.Path, default="build/penalties")
    args = parser.parse_args()
    data = training.load("mnist", args.data_dir)
    strengths = chosen(args, data)
    data.x_train = data.x_train[: args.images]
    data.y_train = data.y_train[: args.images]
    numbers = {}
    for seed in args.seeds:
        runs = Runs(args, data, seed)
        for row in args.rows:
            one = runs.numbers(row, strengths.get(row))
            numbers.setdefault(row, []).append(one)
            print(seed, row, one, flush=True)
    report(args, numbers, strengths)


if __name__ == "__main__":
    main()
