"""Speed of stripes, as ratios to the dense convolution within one run.

    KERAS_BACKEND=jax python benchmarks/stripes.py --output build/stripes.jsonl

- layers: five shapes at half, a quarter and 11 % of the stripes, drawn at
  random. "stripes" computes by stripes; "chosen" is the layer's own choice;
  both are relative to the dense layer.
- network: ResNet-18 at 224x224, all kernels larger than 1x1 thinned out in the
  same way and pruned, with `to_dense(only_slower=True)`.

"floor" is a lower bound for computing by stripes on this machine: its
multiply-adds at the rate of the dense layer, plus the bytes of its product,
which is written once and read once, at the bandwidth of a copy of the same size
in the same run. Reading the input and adding are not included.

The dense peer is the fastest mode of the backend: with or without XLA on
TensorFlow, XLA on JAX, eager on torch. Times are medians of alternating calls,
by the clock, and in CPU time, which other processes hardly affect. Rows that
are already in `--output` are not measured again.
"""

import argparse
import itertools
import json
import pathlib
import time

import keras
import numpy as np

import keras_gates as kg
from keras_gates.layers.stripconv.stripes import Stripes

BACKEND = keras.backend.backend()
# Height and width, input channels, filters, images.
SHAPES = [
    (32, 64, 64, 8),
    (16, 128, 128, 8),
    (8, 256, 256, 8),
    (56, 64, 64, 1),
    (14, 256, 256, 1),
]
GOALS = {0.5: 0.85, 0.25: 0.55, 0.11: 0.35}


def ways(function):
    """The function as the backend can run it, by name."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return {
            "graph": tf.function(function),
            "XLA": tf.function(function, jit_compile=True),
        }
    if BACKEND == "jax":
        import jax

        return {"XLA": jax.jit(lambda x: function(x))}
    return {"eager": _without_gradients(function)}


def _without_gradients(function):
    import torch

    def run(x):
        with torch.no_grad():
            return function(x)

    return run


def medians(functions, x, rounds):
    """The median times of each function in milliseconds; they take turns.

    Returns:
        `{name: (by the clock, of CPU)}`.
    """
    times = {name: [] for name in functions}
    for number in range(rounds + 2):
        for name, function in functions.items():
            start = time.perf_counter(), time.process_time()
            keras.ops.convert_to_numpy(function(x))
            end = time.perf_counter(), time.process_time()
            if number > 1:  # The first compile.
                times[name].append(np.subtract(end, start))
    return {k: 1e3 * np.median(v, axis=0) for k, v in times.items()}


def best(times, prefix):
    """The least time of all ways to run it, by each clock."""
    return np.min([v for k, v in times.items() if k.startswith(prefix)], axis=0)


def named(name, model):
    return {f"{name} {way}": f for way, f in ways(model).items()}


def mask(kernel_size, filters, share, rng):
    """So many stripes, drawn at random."""
    kept = np.zeros(np.prod(kernel_size) * filters, bool)
    kept[rng.permutation(kept.size)[: round(share * kept.size)]] = True
    return kept.reshape(*kernel_size, filters)


def bench_layer(key, rounds):
    """Ratios to the dense layer of one shape, at one share of stripes."""
    (size, channels, filters, batch), share = key["shape"], key["share"]
    rng = np.random.default_rng(key["seed"])
    shape = (batch, size, size, channels)
    x = keras.ops.convert_to_tensor(rng.normal(size=shape), "float32")
    dense = keras.layers.Conv2D(filters, 3, padding="same")
    dense.build(shape)
    functions = named("dense", dense)
    lists = Stripes(mask((3, 3), filters, share, rng)).lists()
    for method in ("stripes", "auto"):
        layer = kg.StripConv(
            filters, 3, padding="same", stripes=lists, method=method
        )
        layer.build(shape)
        functions |= named(method, layer)
    pixels = batch * size * size
    count = round(share * 9 * filters)
    functions["copy"] = copying(pixels * count)
    times = medians(functions, x, rounds)
    # What costs nothing to avoid: a dense layer is the peer itself.
    chosen = "auto" if layer.computes(shape) == "stripes" else "dense"
    found = ratios(times, {"stripes": "stripes", "chosen": chosen})
    # A copy reads as much as it writes, as the product is written and read.
    found["floor"] = (share + times["copy"] / best(times, "dense")).tolist()
    return found


def copying(count):
    """A function that reads and writes so many numbers, on one core."""
    source = np.ones(count, "float32")
    target = np.zeros_like(source)

    def copy(x):
        np.copyto(target, source)
        return target[:1]

    return copy


def bench_network(key, rounds):
    """Ratios to the dense ResNet-18."""
    rng = np.random.default_rng(key["seed"])
    dense = kg.zoo.resnet18()
    striped = kg.to_stripconv(dense)
    for layer in striped.layers:
        if isinstance(layer, kg.StripConv):
            kept = mask(layer.kernel_size, layer.filters, key["share"], rng)
            layer.skeleton.assign(1.0 * kept)
    small = kg.surgeon.prune(striped, {"stripe": 0.5})
    models = {
        "dense": dense,
        "stripes": small,
        "chosen": kg.to_dense(small, only_slower=True),
        "zeros": kg.to_dense(small),
    }
    functions = {}
    for name, model in models.items():
        functions |= named(name, lambda x, m=model: m(x, training=False))
    x = rng.normal(size=(key["shape"][-1], 224, 224, 3))
    x = keras.ops.convert_to_tensor(x, "float32")
    times = medians(functions, x, rounds)
    macs = kg.stats.count(small).macs / kg.stats.count(dense).macs
    found = ratios(times, {k: k for k in ("stripes", "chosen", "zeros")})
    return {**found, "macs": macs}


def ratios(times, names):
    """The dense layer's milliseconds, and ratios to it: clock, CPU."""
    peer = best(times, "dense")
    found = {"dense": peer.tolist()}
    for name, prefix in names.items():
        found[name] = (best(times, prefix) / peer).tolist()
    return found


# Results -----------------------------------------------------------------


def keys(options):
    """What is to be measured: one dict a row."""
    shapes = []
    if options.only != "network":
        shapes += [
            ("layer", shape)
            for shape in SHAPES
            if options.channels in (None, shape[1])
        ]
    if options.only != "layers":
        shapes += [("ResNet-18", (224, 3, 1000, 1))]
    for (what, shape), share in itertools.product(shapes, options.shares):
        yield {
            "backend": BACKEND,
            "what": what,
            "shape": list(shape),
            "share": share,
            "seed": options.seed,
        }


def measured(key, options):
    """The row of a key: as it was measured before, or now."""
    path = options.output
    lines = path.read_text().splitlines() if path and path.exists() else []
    for row in map(json.loads, lines):
        if {name: row[name] for name in key} == key:
            return row
    bench = bench_layer if key["what"] == "layer" else bench_network
    row = {**key, **bench(key, options.rounds)}
    if path:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", choices=["layers", "network"])
    parser.add_argument("--channels", type=int, help="only such layers")
    parser.add_argument("--shares", type=float, nargs="+", choices=GOALS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    options.shares = options.shares or GOALS
    print(f"{BACKEND}, keras {keras.__version__}; ratios: clock, CPU time")
    for key in keys(options):
        row = measured(key, options)
        cells = [
            f"{name} {row[name][0]:.2f} {row[name][1]:.2f}"
            for name in ("stripes", "chosen", "zeros", "floor")
            if name in row
        ]
        print(
            f"{row['what']} {row['shape']} {row['share']:.0%}: dense "
            f"{row['dense'][0]:.2f} {row['dense'][1]:.2f} ms, "
            f"{', '.join(cells)} (goal {GOALS[row['share']]})",
            flush=True,
        )


if __name__ == "__main__":
    main()
