"""Budgets of time that were met beside other work, measured without it.

    KERAS_BACKEND=torch python benchmarks/busy_latency.py plan FOLDER
    KERAS_BACKEND=torch python benchmarks/busy_latency.py measure FOLDER

`plan` keeps plans with budgets of latency for networks with random factors;
run it while other processes use the cores. `measure` applies these plans, and
times each result in turn with its network; run it on an idle machine. The goal
is 5 % between what was asked for and what is measured.
"""

import argparse
import pathlib
import statistics
import time

import keras
import numpy as np
from speed import gated

import keras_gates as kg

SHARES = (0.8, 0.6)
NETWORKS = {
    "VGG-16": lambda: kg.zoo.vgg16(),
    "MobileNetV2": lambda: keras.applications.MobileNetV2(
        weights=None, input_shape=(96, 96, 3)
    ),
    "ResNet50": lambda: keras.applications.ResNet50(
        weights=None, input_shape=(96, 96, 3)
    ),
}


def network(name):
    keras.utils.set_random_seed(0)
    return gated(NETWORKS[name]())


def timed(model, x):
    start = time.perf_counter()
    model.predict_on_batch(x)
    return time.perf_counter() - start


def ratio(model, other, rounds):
    """The least of three runs of each, in turn; the median of the ratios."""
    x = np.ones((1, *model.inputs[0].shape[1:]), "float32")
    for each in (model, other):
        timed(each, x)
    found = []
    for _ in range(rounds):
        pairs = [(timed(other, x), timed(model, x)) for _ in range(3)]
        before, after = map(min, zip(*pairs, strict=True))
        found.append(after / before)
    return statistics.median(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=["plan", "measure"])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--only", choices=NETWORKS, action="append")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only or NETWORKS:
        model = network(name)
        for share in SHARES:
            path = options.folder / f"{name}-{share}.json"
            if options.step == "plan":
                plan = kg.surgeon.plan(model, kg.Budget(latency=share))
                path.write_text(plan.to_json())
                print(name, share, plan.macs, *plan.notes, flush=True)
                continue
            plan = kg.surgeon.Plan.from_json(path.read_text(), model)
            whole = kg.surgeon.prune(model, 0.0)
            found = ratio(plan.apply(), whole, options.rounds)
            before, after = plan.macs
            print(
                f"{keras.backend.backend():<10} {name:<12} asked {share:.2f} "
                f"measured {found:.3f} off by {found / share - 1:+.1%} "
                f"MACs {after / before:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
