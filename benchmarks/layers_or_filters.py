"""Layers or filters: VGG-16 pruned both ways to the same size, in one run.

    KERAS_BACKEND=jax python benchmarks/layers_or_filters.py

The paper on ResConv-Prune has a VGG-16 of 68.5M FLOPs and 4.2M parameters, once
by dropping filters and once by dropping layers; on its GPU, the second takes
0.82 of the time and 0.97 of the memory. Here, the first convolution of each
stage stays, which gives these numbers, compared with all 13 convolutions at
widths with the same multiply-adds and parameters. The surgeon prunes both, and
both are fused.

Times are medians of alternating calls with 64 images, in processor time, so
other load does not count. Memory is the increase of the peak by a call, in a
process with one of the models that has run before (Linux only).
"""

import argparse
import ctypes
import gc
import itertools
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
from stripes import BACKEND
from stripes import ways

import keras_gates as kg

KEPT = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
SHAPE = (64, 32, 32, 3)


def fewer_layers(model):
    """Without most of its layers: their shortcuts are what is left."""
    gated = kg.to_resconv(model, start="residual")
    for layer in gated.layers:
        if isinstance(layer, kg.ResConv):
            layer.m.assign(float(layer.name in KEPT))
    return kg.fuse(kg.surgeon.prune(gated, 0.5))


def fewer_filters(model, size):
    """All layers narrower, early and late ones by a share each."""
    early, late = shares(model, size)
    gated = kg.insert_gates(model, filters=0.0)
    gates = [x for x in gated.layers if isinstance(x, kg.FilterGate)]
    for gate in gates:
        width = gate.factor.shape[0]
        share = early if width < 512 else late
        gate.factor.assign(1.0 * (np.arange(width) < width_of(width, share)))
    return kg.fuse(kg.surgeon.prune(gated, 0.5))


def shares(model, size):
    """The shares of the filters that come nearest to a size."""
    convs = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    widths = [x.filters for x in convs]
    pixels = [x.output.shape[1] * x.output.shape[2] for x in convs]
    units = np.arange(1, 257) / 256

    def off(early, late):
        left = [width_of(w, early if w < 512 else late) for w in [*widths, 512]]
        pairs = list(itertools.pairwise([3, *left[:-1]]))
        kernels = [9 * a * b for a, b in pairs]
        macs = sum(k * p for k, p in zip(kernels, pixels, strict=True))
        head = left[-2] * left[-1] + 10 * left[-1]
        found = macs + head, sum(kernels) + sum(left) + head + 10
        goal = size.macs, size.params
        return sum(abs(f / g - 1) for f, g in zip(found, goal, strict=True))

    return min(itertools.product(units, units), key=lambda pair: off(*pair))


def width_of(width, share):
    return max(1, round(width * share))


# Time and memory ---------------------------------------------------------


def runner(model):
    """The model as the backend compiles it."""
    functions = ways(lambda x: model(x, training=False))
    function = functions.get("XLA") or next(iter(functions.values()))
    return lambda x: keras.ops.convert_to_numpy(function(x))


def medians(models, x, rounds):
    """The median time of each model in milliseconds; they take turns."""
    runners = {name: runner(model) for name, model in models.items()}
    times = {name: [] for name in models}
    for number in range(rounds + 2):
        for name, run in runners.items():
            start = time.process_time()
            run(x)
            if number > 1:  # The first compile.
                times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def peak_of(path):
    """By how many MB a call raises the peak of a process with the model."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def show_peak(path):
    run, x = runner(keras.models.load_model(path)), keras.ops.ones(SHAPE)
    run(x)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # From here on the peak counts anew.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run(x)
    print((status("VmHWM") - before) / 1e3)


def status(field):
    """A field of this process' status, in kB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(field))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        show_peak(options.peak)
    else:
        compare(options)


def compare(options):
    print(f"backend: {BACKEND}, keras {keras.__version__}")
    keras.utils.set_random_seed(options.seed)
    model = kg.zoo.vgg16(classifier_activation=None)
    layers = fewer_layers(model)
    filters = fewer_filters(model, kg.stats.count(layers))
    models = {"unpruned": kg.fuse(model), "filters": filters, "layers": layers}
    x = np.random.default_rng(options.seed).normal(size=SHAPE)
    x = keras.ops.convert_to_tensor(x, "float32")
    times, peaks = medians(models, x, options.rounds), {}
    print("\nVGG-16     MACs (M)  params (M)  convs       ms  peak MB")
    with tempfile.TemporaryDirectory() as folder:
        for name, each in models.items():
            path = pathlib.Path(folder) / f"{name}.keras"
            each.save(path)
            peaks[name] = peak_of(path)
            size = kg.stats.count(each)
            wide = sum(
                max(getattr(layer, "kernel_size", [0])) > 1
                for layer in each.layers
            )
            print(
                f"{name:<10} {size.macs / 1e6:8.2f} {size.params / 1e6:11.3f} "
                f"{wide:6} {times[name]:8.1f} {peaks[name]:8.0f}",
                flush=True,
            )
    faster = times["layers"] / times["filters"]
    memory = peaks["layers"] / peaks["filters"]
    print(f"layers / filters: time {faster:.2f}, memory {memory:.2f}")


if __name__ == "__main__":
    main()
