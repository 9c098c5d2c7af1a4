"""Speed and memory of pruning, as ratios within one run.

    KERAS_BACKEND=torch taskset -c 0 python benchmarks/speed.py

- prune: `prune` of a gated ResNet50 and MobileNetV2, half of their channels
  closed, against `clone_model` and `set_weights` of the ungated ones.
- inference: the pruned network against one built by hand at those widths.
- memory: the peak of a prune of VGG16 against both models together.
- wide: the same of a plan and its `apply`, for a stack of layers in float16.

Times are medians of processor times, alternating between the two sides.
gate_cost.py measures the cost of gates in training.
"""

import argparse
import ctypes
import gc
import os
import statistics
import sys
import threading
import time

import keras
import numpy as np

import keras_gates as kg


def gated(model, seed=0):
    """`model` with a FilterGate after each normalization, half closed."""
    rng = np.random.default_rng(seed)

    def call(layer, *args, **kwargs):
        x = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.BatchNormalization):
            x = kg.FilterGate(name=f"gate_{layer.name}")(x)
        return x

    copy = keras.models.clone_model(model, call_function=call)
    for layer in copy.layers:
        if isinstance(layer, kg.FilterGate):
            layer.factor.assign(rng.uniform(0, 1, layer.factor.shape))
        elif layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return copy


def median_of(rounds, *sides):
    """The median time of each side, in seconds; the sides alternate."""
    times = [[] for _ in sides]
    for done in range(rounds + 1):
        for found, side in zip(times, sides, strict=True):
            gc.collect()
            start = time.process_time()
            side()
            if done:
                found.append(time.process_time() - start)
        print(f"\r  round {done}/{rounds}", end="", file=sys.stderr)
    print("\r" + " " * 20 + "\r", end="", file=sys.stderr)
    return [statistics.median(found) for found in times]


def report(name, ours, peer, unit="s", limit=None):
    goal = "" if limit is None else f"  (goal {limit})"
    print(
        f"{name:<44} {ours:9.4g} {unit} / {peer:9.4g} {unit} = "
        f"{ours / peer:5.2f}{goal}",
        flush=True,
    )


def bench_prune(rounds, name):
    model = getattr(keras.applications, name)(weights=None)
    weights = model.get_weights()
    gates = gated(model)

    def clone():
        keras.models.clone_model(model).set_weights(weights)

    def prune():
        kg.surgeon.prune(gates, kg.Quantile(0.5))

    ours, peer = median_of(rounds, prune, clone)
    report(f"prune {name} / clone_model + set_weights", ours, peer, limit=0.5)


def bench_inference(rounds):
    """The pruned net against its own config with fresh weights."""
    small = kg.surgeon.prune(gated(kg.zoo.resnet(20)), kg.Quantile(0.5))
    hand = keras.Model.from_config(small.get_config())
    x = np.random.default_rng(0).normal(size=(64, 32, 32, 3))
    x = x.astype("float32")
    runs = [lambda m=m: m.predict(x, verbose=0) for m in (small, hand)]
    for run in runs:
        run()
    ours, peer = median_of(rounds, *runs)
    report("inference pruned / built at its widths", ours, peer, limit=1.03)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def vgg16():
    """VGG16 with gates, on its first dense layer as well."""
    model = gated(keras.applications.VGG16(weights=None))
    gate = kg.FilterGate(name="gate_fc1")
    x = gate(model.get_layer("fc1").output)
    x = keras.layers.Dense(1000)(x)
    model = keras.Model(model.input, x)
    gate.factor.assign(np.linspace(0, 1, gate.factor.shape[0]))
    return model


def wide(millions):
    """A stack of wide layers in float16, of so many million parameters.

    A billion takes four times as much as a quarter of it, so that the bytes
    for each parameter tell of it.
    """
    x = inputs = keras.Input((4096,), dtype="float16")
    options = {"dtype": "float16", "kernel_initializer": "zeros"}
    count = max(2, round(millions * 1e6 / 4096**2))
    for number in range(count):
        if number % 2:
            x = keras.layers.EinsumDense("bi,io->bo", 4096, **options)(x)
        else:
            x = keras.layers.Dense(4096, **options)(x)
        x = keras.layers.Activation("relu", dtype="float16")(x)
        x = kg.FilterGate(name=f"gate_{number}", dtype="float16")(x)
    x = keras.layers.Dense(8, **options)(x)
    model = keras.Model(inputs, x)
    for layer in model.layers:
        if isinstance(layer, kg.FilterGate):
            layer.factor.assign(np.linspace(0, 1, 4096))
    return model


def bench_memory(name, model, plan=False):
    """The peak of a prune, or of a plan and its `apply`."""
    # JAX makes weights when it gets round to it, and what building the model
    # left behind would hide what pruning takes.
    for variable in model.variables:
        keras.ops.convert_to_numpy(variable)
    # Keras imports TensorFlow, where there is one, to serialize anything:
    # half a gigabyte that a process takes once.
    keras.saving.serialize_keras_object(model.layers[-1])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, peak, done = resident(), [0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if plan:
        small = kg.surgeon.plan(model, kg.Quantile(0.5)).apply()
    else:
        small = kg.surgeon.prune(model, kg.Quantile(0.5))
    done.set()
    watcher.join()
    first, second = map(size_of, (model, small))
    ours = (peak[0] - before + first) / 1e6
    report(
        f"peak memory of a prune of {name} / both models",
        ours,
        (first + second) / 1e6,
        unit="MB",
        limit=1.3,
    )
    each = 1e6 * ours / model.count_params()
    print(f"  {each:.2f} bytes for each parameter of the original")


def size_of(model):
    return sum(
        int(np.prod(w.shape)) * (2 if "16" in w.dtype else 4)
        for w in model.weights
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parts = ["prune", "inference", "memory", "wide"]
    parser.add_argument("--millions", type=int, default=250)
    parser.add_argument("--only", choices=parts, action="append")
    options = parser.parse_args()
    only = options.only or parts
    print(f"backend: {keras.backend.backend()}, keras {keras.__version__}")
    if "memory" in only:
        bench_memory("VGG16", vgg16())
    if "wide" in only:
        model = wide(options.millions)
        bench_memory(f"{options.millions} million", model, plan=True)
    if "prune" in only:
        for name in ("ResNet50", "MobileNetV2"):
            bench_prune(options.rounds, name)
    if "inference" in only:
        bench_inference(options.rounds)


if __name__ == "__main__":
    main()
