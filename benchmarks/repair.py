"""Prune trained networks without training them, and see what is left.

    python benchmarks/repair.py fer --packages PACKAGES
    python benchmarks/repair.py cifar --data-dir DATA --folder FOLDER

For each criterion and budget: the network as it was cut, with the statistics
of its batch normalizations measured again, with its biases fitted, repaired,
and repaired in steps. For `fer` the numbers are the share of images whose
class is that of the whole network; for `cifar`, which
`benchmarks/repair_networks.py` trains, the accuracy on 4,000 test images.
"""

import argparse
import functools
import json
import pathlib
import time
import warnings

import keras
import numpy as np
import repair_networks

import keras_gates as kg

BUDGETS = (0.9, 0.7, 0.5, 0.3)
CRITERIA = ("l2", "taylor", "obs", "random")
METHODS = ("statistics", "bias", "kernels")
STEPS = 3


class Fer:
    """A network with weights of others; its own classes are the truth."""

    def __init__(self, options):
        self.model, x = repair_networks.fer(options.packages)
        share = options.samples / len(x)
        own, rest = repair_networks.split(len(x), share, options.seed)
        self.x, self.test = x[own], x[rest]
        self.y = self.classes(self.model, self.x)
        self.truth = self.classes(self.model, self.test)
        self.loss = "sparse_categorical_crossentropy"

    @staticmethod
    def classes(model, x):
        return model.predict(x, verbose=0).argmax(-1)

    def quality(self, model):
        return float((self.classes(model, self.test) == self.truth).mean())


class Cifar(Fer):
    """Our network, and the labels of CIFAR-10."""

    def __init__(self, options):
        data = repair_networks.cifar10(options.data_dir)
        self.model = repair_networks.trained_cifar(options.folder, data)
        x, y, test, truth = data
        rng = np.random.default_rng(options.seed)
        own = rng.permutation(len(x))[: options.samples]
        self.x, self.y = x[own], y[own]
        self.test, self.truth = test[:4000], truth[:4000]
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def scored(task, criterion, model):
    """Scores by a criterion; with labels where it takes them."""
    data = {"taylor": (task.x, task.y), "obs": task.x}.get(criterion)
    loss = task.loss if criterion == "taylor" else None
    return kg.surgeon.score(model, criterion, data, loss=loss)


def rows_of(task, options):
    """A row for each criterion and budget."""
    for criterion in options.criteria:
        score = functools.partial(scored, task, criterion)
        scores = score(task.model)
        for share in options.budgets:
            budget = kg.Budget(macs=share)
            plan = kg.surgeon.plan(task.model, budget, scores=scores)
            row = {"criterion": criterion, "macs": share}
            row["cut"] = task.quality(plan.apply())
            for method in METHODS:
                start = time.perf_counter()
                report = kg.surgeon.repair(
                    plan,
                    task.x,
                    method=method,
                    max_samples=options.samples,
                    seed=options.seed,
                )
                row[method] = task.quality(report.model)
                row[f"{method} seconds"] = time.perf_counter() - start
            row["error"] = report.total.after
            if options.steps:
                small = kg.surgeon.prune_iteratively(
                    task.model,
                    budget,
                    criterion=score,
                    steps=STEPS,
                    repair=task.x,
                )
                row["in steps"] = task.quality(small)
            yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=["fer", "cifar"])
    parser.add_argument("--packages", type=pathlib.Path)
    parser.add_argument("--data-dir", type=pathlib.Path)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--criteria", nargs="*", default=CRITERIA)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    options.samples = (
        options.samples or {"fer": 160, "cifar": 512}[options.network]
    )
    # That few samples are few is what some of the rows are to show.
    warnings.simplefilter("ignore", UserWarning)
    task = {"fer": Fer, "cifar": Cifar}[options.network](options)
    print(f"whole: {task.quality(task.model):.4f}", flush=True)
    for row in rows_of(task, options):
        shown = {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in row.items()
        }
        line = json.dumps({"network": options.network, **shown})
        print(line, flush=True)
        if options.output:
            with options.output.open("a", encoding="utf-8") as file:
                print(line, file=file)


if __name__ == "__main__":
    main()
