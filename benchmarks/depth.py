"""The time of a plan as a function of the network's depth.

    KERAS_BACKEND=torch python benchmarks/depth.py

Pre-activation ResNets of bottleneck blocks with a FilterGate after each
normalization, half of all channels closed. `plan` should take time in
proportion to the depth: the last column is the time per layer, relative to the
shallowest network. Times are the best of several, in processor seconds.
"""

import argparse
import time

import keras
from speed import gated

import keras_gates as kg

DEPTHS = (56, 110, 164, 1001)


def seconds(rounds, run):
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"backend: {keras.backend.backend()}, keras {keras.__version__}")
    print("depth     calls      plan   a layer, relative")
    first = None
    for depth in DEPTHS:
        model = gated(kg.zoo.preact_resnet(depth))
        found = seconds(
            options.rounds, lambda m=model: kg.surgeon.plan(m, kg.Quantile(0.5))
        )
        each = found / depth
        first = first or each
        print(
            f"{depth:5} {len(model.operations):9} {found:7.3f} s "
            f"{each / first:10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
