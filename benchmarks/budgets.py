"""The time of a plan with a budget, relative to plans without one.

    KERAS_BACKEND=torch python benchmarks/budgets.py

Networks with a FilterGate after each normalization: `plan` with
`Quantile(0.5)`, and with budgets of multiply-adds and parameters. The goal is
at most eight plans. Times are the least processor time of several runs, so
other processes do not count.
"""

import argparse
import gc
import time

import keras
from keras import layers as L
from speed import gated

import keras_gates as kg

BUDGETS = ({"macs": 0.8}, {"macs": 0.5}, {"params": 0.3})
GOAL = 8


def detector(width=16):
    """A detector of some 700 operations: cross-stage parts, a pyramid."""

    def conv(x, filters, size=3, strides=1):
        x = L.Conv2D(
            filters, size, strides=strides, padding="same", use_bias=False
        )(x)
        return L.Activation("silu")(L.BatchNormalization()(x))

    def stage(x, filters, depth):
        x = conv(x, filters, 1)
        parts = [x[..., : filters // 2], x[..., filters // 2 :]]
        for _ in range(depth):
            y = conv(conv(parts[-1], filters // 2), filters // 2)
            parts.append(L.Add()([parts[-1], y]))
        return conv(L.Concatenate()(parts), filters, 1)

    def joined(x, y, filters):
        return stage(L.Concatenate()([x, y]), filters, 6)

    inputs = keras.Input((64, 64, 3))
    x = conv(conv(inputs, width, 3, 2), 2 * width, 3, 2)
    found = []
    for filters, depth in ((2, 6), (4, 12), (8, 12), (8, 6)):
        if filters > 2:
            x = conv(x, filters * width, 3, 2)
        found.append(x := stage(x, filters * width, depth))
    _, fine, middle, coarse = found
    up = joined(L.UpSampling2D()(coarse), middle, 8 * width)
    top = joined(L.UpSampling2D()(up), fine, 4 * width)
    down = joined(conv(top, 4 * width, 3, 2), up, 8 * width)
    last = joined(conv(down, 8 * width, 3, 2), coarse, 8 * width)
    heads = [L.Conv2D(30, 1)(conv(x, 8 * width)) for x in (top, down, last)]
    return keras.Model(inputs, heads)


def application(name):
    return getattr(keras.applications, name)(
        weights=None, input_shape=(96, 96, 3), classes=10
    )


NETWORKS = {
    "ResNet50": lambda: application("ResNet50"),
    "MobileNetV2": lambda: application("MobileNetV2"),
    "DenseNet201": lambda: application("DenseNet201"),
    "detector": detector,
}


def seconds(run):
    gc.collect()
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def rows(model, rounds):
    """`(budget, plan)` of each budget, and the times, which take turns."""
    asked = [kg.Quantile(0.5), *(kg.Budget(**b) for b in BUDGETS)]
    times, plans = [[] for _ in asked], {}
    for _ in range(rounds):
        for number, what in enumerate(asked):
            took, plans[number] = seconds(
                lambda what=what: kg.surgeon.plan(model, what)
            )
            times[number].append(took)
    plain, *others = map(min, times)
    for number, took in enumerate(others, 1):
        yield asked[number], plans[number], plain, took


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=NETWORKS, action="append")
    options = parser.parse_args()
    print(f"backend: {keras.backend.backend()}, keras {keras.__version__}")
    print("network      calls  budget          plan  with it  ratio   left")
    for name in options.only or NETWORKS:
        model = gated(NETWORKS[name]())
        for budget, plan, plain, took in rows(model, options.rounds):
            before, after = getattr(plan, budget.resource)
            print(
                f"{name:<12} {len(model.operations):5}  "
                f"{budget.resource:<6} {budget.amount:4} {plain:8.3f} s "
                f"{took:6.2f} s {took / plain:6.1f} {after / before:7.2%}"
                f"  (goal {GOAL})",
                flush=True,
            )


if __name__ == "__main__":
    main()
