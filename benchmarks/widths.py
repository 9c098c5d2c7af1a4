"""Which widths run slowly: the time of convolutions by channels.

    KERAS_BACKEND=tensorflow taskset -c 0 python benchmarks/widths.py

Chains of equal convolutions with the same number of input and output channels,
on one image and one core, in the runtimes of `latency.py`; "separable" ones are
a depthwise convolution and one of 1x1 in turn. All widths take turns; a time is
the median processor time of all rounds. The table has the time of a width
relative to the next multiple of 16, which computes more: if it is above 1,
removing these channels made the layer slower.

Finished runtimes are kept in benchmarks/results/widths.json.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import coverage_report
import keras
import latency
import numpy as np
import tensorflow as tf

RESULTS = latency.RESULTS.with_name("widths.json")
WIDTHS = (*range(8, 65), *range(113, 129))
SHOWN = (9, 12, 15, 20, 24, 28, 30, 31, 40, 44, 47, 56, 63, 120, 127)
BLOCK = 16
DEPTH = 6
SIZE = 16


def conv(width, kernel):
    return keras.layers.Conv2D(width, kernel, padding="same", activation="relu")


def depthwise():
    return keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")


KINDS = {
    "1x1": lambda width: [conv(width, 1)],
    "3x3": lambda width: [conv(width, 3)],
    "separable": lambda width: [depthwise(), conv(width, 1)],
}


def chain(kind, width):
    x = inputs = keras.Input((SIZE, SIZE, width))
    for _ in range(DEPTH):
        for layer in KINDS[kind](width):
            x = layer(x)
    model = keras.Model(inputs, x)
    # The export to ONNX asks for a model that has been called.
    model(np.zeros((1, SIZE, SIZE, width), "float32"))
    return model


def bench(runtime, kind, rounds):
    """`{width: milliseconds}`."""
    rng = np.random.default_rng(0)
    calls = {}
    for width in WIDTHS:
        x = rng.normal(size=(1, SIZE, SIZE, width)).astype("float32")
        calls[width] = latency.RUNTIMES[runtime](chain(kind, width), x)
        keras.backend.clear_session()
    return latency.medians(calls, rounds)


def ratios(row):
    """`{width: its time by that of the next multiple of 16}`."""
    times = {int(width): time for width, time in row.items()}
    return {w: t / times[-(-w // BLOCK) * BLOCK] for w, t in times.items()}


def table(rows):
    lines = []
    for name, row in rows.items():
        found = ratios(row)
        lines.append([name, *(f"{found[w]:.2f}" for w in SHOWN)])
    return coverage_report.table(["", *SHOWN], lines)


def slow(rows, limit=1.1):
    """For each runtime, the widths that take longer than a wider layer."""
    return "\n".join(
        f"{name}: {[w for w, r in ratios(row).items() if r > limit]}"
        for name, row in rows.items()
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    rows = latency.read(RESULTS)
    for runtime in latency.RUNTIMES:
        for kind in KINDS:
            name = f"{runtime}, {kind}"
            if name not in rows:
                rows[name] = bench(runtime, kind, options.rounds)
                latency.write(rows, RESULTS)
                print(f"{name} done", flush=True)
    print(table(rows), slow(rows), sep="\n\n")


if __name__ == "__main__":
    main()
