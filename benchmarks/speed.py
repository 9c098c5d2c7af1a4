"""Speed and memory of pruning and of gates, as ratios within one run.

    KERAS_BACKEND=torch python benchmarks/speed.py

- prune: `prune` of a gated ResNet50, half of its channels closed, against
  `clone_model` and `set_weights` of the ungated one.
- gates: a training step of ResNet-20 with a gate behind every
  normalisation against one without gates, both jitted where Keras does so.
- inference: the pruned network against one built by hand at those widths.
- memory: the peak of a prune against both models together.

Times are the best of several that alternate between the two sides.
"""

import argparse
import ctypes
import gc
import os
import sys
import threading
import time

import keras
import numpy as np

import keras_gates as kg


def gated(model, seed=0):
    """`model` with a FilterGate behind each normalisation, half closed."""
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


def best_of(rounds, *sides):
    """The shortest time of each side, in seconds; the sides alternate."""
    best = [float("inf")] * len(sides)
    for done in range(rounds):
        for number, side in enumerate(sides):
            start = time.perf_counter()
            side()
            best[number] = min(best[number], time.perf_counter() - start)
        print(f"\r  round {done + 1}/{rounds}", end="", file=sys.stderr)
    print("\r" + " " * 20 + "\r", end="", file=sys.stderr)
    return best


def report(name, ours, peer, unit="s", limit=None):
    goal = "" if limit is None else f"  (goal {limit})"
    print(
        f"{name:<44} {ours:9.4g} {unit} / {peer:9.4g} {unit} = "
        f"{ours / peer:5.2f}{goal}",
        flush=True,
    )


def bench_prune(rounds, name="ResNet50"):
    model = getattr(keras.applications, name)(weights=None)
    weights = model.get_weights()
    gates = gated(model)

    def clone():
        keras.models.clone_model(model).set_weights(weights)

    def prune():
        kg.surgeon.prune(gates, kg.Quantile(0.5))

    ours, peer = best_of(rounds, prune, clone)
    report(f"prune {name} / clone_model + set_weights", ours, peer, limit=1.0)


def bench_gates(rounds):
    base = kg.zoo.resnet(20)
    models = [gated(base), base]
    x = np.random.default_rng(0).normal(size=(128, 32, 32, 3))
    x = x.astype("float32")
    y = np.arange(128) % 10
    for model in models:
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy())
        model.train_on_batch(x, y)
    steps = [lambda m=m: m.train_on_batch(x, y) for m in models]
    ours, peer = best_of(rounds, *steps)
    report("training step ResNet-20 gated / ungated", ours, peer, limit=1.05)


def bench_inference(rounds):
    """The pruned net against its own config with fresh weights."""
    small = kg.surgeon.prune(gated(kg.zoo.resnet(20)), kg.Quantile(0.5))
    hand = keras.Model.from_config(small.get_config())
    x = np.random.default_rng(0).normal(size=(64, 32, 32, 3))
    x = x.astype("float32")
    runs = [lambda m=m: m.predict(x, verbose=0) for m in (small, hand)]
    for run in runs:
        run()
    ours, peer = best_of(rounds, *runs)
    report("inference pruned / built at its widths", ours, peer, limit=1.03)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bench_memory():
    model = gated(keras.applications.VGG16(weights=None))
    gate = kg.FilterGate(name="gate_fc1")
    x = gate(model.get_layer("fc1").output)
    x = keras.layers.Dense(1000)(x)
    model = keras.Model(model.input, x)
    gate.factor.assign(np.linspace(0, 1, gate.factor.shape[0]))
    # What building the model left behind would hide what pruning takes.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, peak, done = resident(), [0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    small = kg.surgeon.prune(model, kg.Quantile(0.5))
    done.set()
    watcher.join()
    first, second = 4 * model.count_params(), 4 * small.count_params()
    ours = (peak[0] - before + first) / 1e6
    report(
        "peak memory of a prune / both models",
        ours,
        (first + second) / 1e6,
        unit="MB",
        limit=1.5,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--only",
        choices=["prune", "gates", "inference", "memory"],
        action="append",
    )
    options = parser.parse_args()
    only = options.only or ["prune", "gates", "inference", "memory"]
    print(f"backend: {keras.backend.backend()}, keras {keras.__version__}")
    if "memory" in only:
        bench_memory()
    if "prune" in only:
        bench_prune(options.rounds)
    if "gates" in only:
        bench_gates(options.rounds)
    if "inference" in only:
        bench_inference(options.rounds)


if __name__ == "__main__":
    main()
