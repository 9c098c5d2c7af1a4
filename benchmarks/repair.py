"""Prunes trained networks without training, and measures the result.

    python benchmarks/repair.py cifar --data-dir DATA --folder FOLDER
    python benchmarks/repair.py fer pnet rnet onet deepcut --packages PACKAGES
    python benchmarks/repair.py mnist --data-dir DATA --folder FOLDER

Each result is a line of `--output`, and is not measured again.
`benchmarks/repair_report.py` writes tables and the curve. The quality is the
accuracy if there are labels, otherwise the share of samples with the class of
the whole network; see `benchmarks/repair_networks.py`.
"""

import argparse
import functools
import itertools
import json
import pathlib
import time
import warnings

import keras
import repair_networks

import keras_gates as kg

BUDGETS = (0.9, 0.7, 0.5, 0.3)
CRITERIA = ("l2", "taylor", "obs", "random")
METHODS = ("cut", "statistics", "bias", "kernels", "in steps", "fine-tuned")
RESULTS = pathlib.Path(__file__).parent / "results" / "repair.jsonl"
STEPS = 3


class Results:
    """Lines of JSON, a result each."""

    def __init__(self, path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {self._key(json.loads(line)) for line in lines}

    @staticmethod
    def _key(row):
        names = ("network", "seed", "samples", "criterion", "macs", "method")
        return tuple(row[name] for name in names)

    def has(self, row):
        return self._key(row) in self.known

    def add(self, row):
        line = json.dumps(row)
        with self.path.open("a", encoding="utf-8") as file:
            print(line, file=file)
        print(line, flush=True)


def samples_of(task):
    """How many samples a task has, of one input or several."""
    return len(keras.tree.flatten(task.x)[0])


class Cell:
    """One network, some samples, one criterion, one budget."""

    def __init__(self, task, score, share, options):
        self.task, self.score, self.options = task, score, options
        self.budget = kg.Budget(macs=share)

    @functools.cached_property
    def plan(self):
        scores = self.score(self.task.model)
        return kg.surgeon.plan(self.task.model, self.budget, scores=scores)

    def made(self, method):
        """The smaller model, and what is known of it besides."""
        if method == "cut":
            return self.plan.apply(), {}
        if method == "in steps":
            small = kg.surgeon.prune_iteratively(
                self.task.model,
                self.budget,
                criterion=self.score,
                steps=STEPS,
                repair=self.task.x,
            )
            return small, {"error": small.repair_report.total.after}
        if method == "fine-tuned":
            small = self.plan.apply()
            self.task.train(small)
            return small, {}
        report = kg.surgeon.repair(
            self.plan,
            self.task.x,
            method=method,
            max_samples=samples_of(self.task),
            seed=self.options.seed,
        )
        return report.model, {"error": report.total.after}


def scored(task, criterion, seed, model):
    """Scores by a criterion; with labels where it takes them."""
    data = {"taylor": (task.x, task.y), "obs": task.x}.get(criterion)
    loss = task.loss if criterion == "taylor" else None
    return kg.surgeon.score(model, criterion, data, loss=loss, seed=seed)


def measure(name, options, results):
    """All that is asked for of one network, one seed, and so many samples."""
    task = repair_networks.NETWORKS[name](options)
    samples = samples_of(task)
    same = {"network": name, "seed": options.seed, "samples": samples}
    whole = {**same, "criterion": "none", "macs": 1.0, "method": "whole"}
    if not results.has(whole):
        results.add({**whole, "quality": round(task.quality(task.model), 4)})
    for criterion in options.criteria:
        score = functools.cache(
            functools.partial(scored, task, criterion, options.seed)
        )
        for share in options.budgets:
            cell = Cell(task, score, share, options)
            for method in options.methods:
                row = {**same, "criterion": criterion, "macs": share}
                row["method"] = method
                if results.has(row) or not task.can(method):
                    continue
                start, own = time.perf_counter(), time.process_time()
                small, more = cell.made(method)
                row["seconds"] = round(time.perf_counter() - start, 1)
                row["cpu seconds"] = round(time.process_time() - own, 1)
                row["quality"] = round(task.quality(small), 4)
                row |= {key: round(value, 4) for key, value in more.items()}
                results.add(row)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "networks", nargs="+", choices=list(repair_networks.NETWORKS)
    )
    parser.add_argument("--packages", type=pathlib.Path)
    parser.add_argument("--data-dir", type=pathlib.Path)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--samples", nargs="*", type=int, default=[None])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--criteria", nargs="*", default=CRITERIA)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    # That few samples are few is what some of the rows are to show.
    warnings.simplefilter("ignore", UserWarning)
    results = Results(options.output)
    every = itertools.product(options.networks, options.seeds, options.samples)
    for name, options.seed, options.samples in every:
        keras.utils.set_random_seed(options.seed)
        measure(name, options, results)


if __name__ == "__main__":
    main()
