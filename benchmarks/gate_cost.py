"""The cost of gates in a training step, as ratios within one run.

    KERAS_BACKEND=jax taskset -c 0 python benchmarks/gate_cost.py

A copy of each network has a layer after each of its normalizations, or each
of its ReLUs, and takes its training step in turn with the network itself:

- ungated: no layer, so that the ratio shows the noise.
- gated: a FilterGate.
- penalty: one with L1 and UnitInterval.
- frozen: one that does not train, the multiplication without the sum over
  the tensor that is the factor's gradient.
- bare: a layer that is `inputs * weight` and nothing else: the backend's own
  price for a trainable factor.

A ratio is the median over all rounds, each of two consecutive steps. Times are
processor times, so other processes do not count: pin the run to one core
(`taskset -c 0`), or waiting threads count as busy.
"""

import argparse
import os
import statistics
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np

import keras_gates as kg

# With the size of a batch: steps of about a second.
NETWORKS = {
    "ResNet-20": (lambda: kg.zoo.resnet(20), 128),
    "VGG-16": (lambda: kg.zoo.vgg16(), 32),
}
PLACEMENTS = {
    "normalization": keras.layers.BatchNormalization,
    "activation": keras.layers.ReLU,
}


class Bare(keras.layers.Layer):
    """`inputs * factor`, as plainly as Keras can say it."""

    def build(self, input_shape):
        self.factor = self.add_weight(
            shape=input_shape[-1:], initializer="ones"
        )

    def call(self, inputs):
        return inputs * self.factor


def _penalized(**options):
    return kg.FilterGate(
        regularizer=kg.regularizers.L1(1e-4),
        constraint=kg.constraints.UnitInterval(),
        **options,
    )


def _frozen(**options):
    return kg.FilterGate(trainable=False, **options)


SIDES = {
    "ungated": None,
    "gated": kg.FilterGate,
    "penalty": _penalized,
    "frozen": _frozen,
    "bare": Bare,
}


def copy_of(model, side, placement):
    """`model` with a layer of `side` after each layer of `placement`."""
    make = SIDES[side]

    def call(layer, *args, **kwargs):
        x = layer(*args, **kwargs)
        if make and isinstance(layer, PLACEMENTS[placement]):
            x = make(name=f"gate_{layer.name}")(x)
        return x

    return keras.models.clone_model(model, call_function=call)


def step_of(model, batch, jit):
    """A training step of `model`, compiled and warm."""
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(),
        jit_compile=jit,
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *model.input_shape[1:])).astype("float32")
    y = np.arange(batch) % model.output_shape[-1]

    def step():
        model.train_on_batch(x, y)

    step()
    step()
    return step


def seconds(step):
    start = time.process_time()
    step()
    return time.process_time() - start


def bench(network, rows, rounds, batch, jit):
    make, usual = NETWORKS[network]
    base = make()
    plain = step_of(base, batch or usual, jit)
    steps = [step_of(copy_of(base, *row), batch or usual, jit) for row in rows]
    times, ratios = [], [[] for _ in rows]
    for done in range(rounds):
        for step, found in zip(steps, ratios, strict=True):
            # Each is the first of its pair every other time.
            pair = (plain, step) if done % 2 else (step, plain)
            took = {one: seconds(one) for one in pair}
            times.append(took[plain])
            found.append(took[step] / took[plain])
        middles = " ".join(f"{statistics.median(f):.3f}" for f in ratios)
        print(f"  round {done + 1}/{rounds}: {middles}", file=sys.stderr)
    print(f"{network}: {statistics.median(times):.3f} s ungated")
    for (side, placement), found in zip(rows, ratios, strict=True):
        low, middle, high = statistics.quantiles(found, n=4)
        behind = f"behind {placement}" if SIDES[side] else ""
        print(
            f"  {side:<8} {behind:<21} {middle:6.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--placement", choices=PLACEMENTS, action="append")
    parser.add_argument("--side", choices=SIDES, action="append")
    parser.add_argument("--eager", action="store_true", help="without jit")
    options = parser.parse_args()
    placements = options.placement or list(PLACEMENTS)
    rows = [
        (side, placement)
        for side in options.side or ["ungated", "gated", "bare"]
        for placement in placements[: len(placements) if SIDES[side] else 1]
    ]
    jit = not options.eager
    print(f"backend: {keras.backend.backend()}, keras {keras.__version__}")
    print("gated / ungated: median (middle half)")
    for network in options.network or NETWORKS:
        bench(network, rows, options.rounds, options.batch, jit)


if __name__ == "__main__":
    main()
