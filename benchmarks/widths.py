"""Which widths run slowly: the time of a layer by its channels, one by one.

    KERAS_BACKEND=tensorflow taskset -c 0 python benchmarks/widths.py

Chains of equal layers with as many channels going in as coming out, on one
image and one core, in the runtimes of `latency.py`. All widths take turns; a
time is the median of all rounds, of the processor. The table has each width's
time by that of the next multiple of 8, which computes more: above 1, whoever
removed those channels made the network slower.
"""

import argparse
import json
import os
import pathlib

os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import latency
import numpy as np
import tensorflow as tf

RESULTS = latency.RESULTS.with_name("widths.json")
BASES = (8, 16, 32, 64, 128)
DEPTH = 6
SIZE = 16


def widths():
    """Each base and what lies around it, as far as to the next multiples."""
    near = {b + step for b in BASES for step in (*range(-4, 9), 12, 16)}
    return sorted(near)


def chain(kernel, width):
    x = inputs = keras.Input((SIZE, SIZE, width))
    for _ in range(DEPTH):
        x = keras.layers.Conv2D(
            width, kernel, padding="same", activation="relu"
        )(x)
    model = keras.Model(inputs, x)
    # The export to ONNX asks for a model that has been called.
    model(np.zeros((1, SIZE, SIZE, width), "float32"))
    return model


def bench(runtime, kernel, rounds):
    """`{width: milliseconds}`."""
    rng = np.random.default_rng(0)
    calls = {}
    for width in widths():
        x = rng.normal(size=(1, SIZE, SIZE, width)).astype("float32")
        calls[width] = latency.RUNTIMES[runtime](chain(kernel, width), x)
    return latency.medians(calls, rounds)


def up(width, multiple=8):
    return -(-width // multiple) * multiple


def table(rows):
    """Time by that of the next multiple of 8, worst width of each residue."""
    lines = [f"{'':24}" + "".join(f"{r:>7}" for r in range(1, 8))]
    for name, row in rows.items():
        times = {int(width): time for width, time in row.items()}
        for base in BASES:
            cells = []
            for rest in range(1, 8):
                width = base + rest
                ratio = times[width] / times[up(width)]
                cells.append(f"{ratio:7.2f}")
            head = f"{name}, {base}+"
            lines.append(f"{head:24}" + "".join(cells))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for runtime in latency.RUNTIMES:
        for kernel in (1, 3):
            name = f"{runtime} {kernel}x{kernel}"
            if name not in rows:
                rows[name] = bench(runtime, kernel, options.rounds)
                write(rows)
                print(name, rows[name], flush=True)
    print(table(rows))


def write(rows):
    """Write beside and rename, so that a kill leaves the old file whole."""
    pathlib.Path(RESULTS).parent.mkdir(exist_ok=True)
    beside = RESULTS.with_suffix(".tmp")
    beside.write_text(json.dumps(rows, indent=1))
    os.replace(beside, RESULTS)


if __name__ == "__main__":
    main()
