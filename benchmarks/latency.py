"""Latency of pruned networks against multiply-adds, by multiples of channels.

    KERAS_BACKEND=tensorflow taskset -c 0 python benchmarks/latency.py

Each network loses random channels until about half of its multiply-adds remain,
with channels rounded to multiples of 1, 4, 8 and 16 (`round_to`). The results
and the original take turns with one image on one
core: as a TensorFlow graph, compiled by XLA, in LiteRT and in onnxruntime.

Times are medians of processor time, so other processes do not count. Each
network is written to benchmarks/results/latency.json when it is done, and not
measured again; the table is printed at the end, and `--plot` draws the picture
in docs/images.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import coverage_report
import keras
import numpy as np
import tensorflow as tf

import keras_gates as kg

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latency.json"
PLOT = ROOT / "docs" / "images" / "latency.png"
MULTIPLES = (1, 4, 8, 16)
APPLICATION = {"weights": None, "input_shape": (96, 96, 3), "classes": 10}
NETWORKS = {
    "ResNet-20": lambda: kg.zoo.resnet(20),
    "VGG-16": lambda: kg.zoo.vgg16(),
    "ResNet50": lambda: keras.applications.ResNet50(**APPLICATION),
    "MobileNetV2": lambda: keras.applications.MobileNetV2(**APPLICATION),
    "DenseNet-40": lambda: kg.zoo.densenet(40, 12),
}


def tf_graph(model, x, jit_compile=False):
    """A call of the model as a graph."""
    call = tf.function(
        lambda x: model(x, training=False), jit_compile=jit_compile
    )
    x = tf.constant(x)
    return lambda: call(x).numpy()


def litert(model, x):
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        model.export(path, format="litert", verbose=False)
        interpreter = Interpreter(
            model_content=path.read_bytes(), num_threads=1
        )
    (taken,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(taken["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], x)
    return interpreter.invoke


def onnx(model, x):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        model.export(path, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(path.read_bytes(), options)
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)


RUNTIMES = {
    "TF graph": tf_graph,
    "XLA": functools.partial(tf_graph, jit_compile=True),
    "LiteRT": litert,
    "onnxruntime": onnx,
}


def variants(model):
    """`{multiple: model}`; 0 is the original."""
    scores = kg.surgeon.score(model, "random")
    found = {0: model}
    for multiple in MULTIPLES:
        found[multiple] = kg.surgeon.prune(
            model, kg.Budget(macs=0.5), scores=scores, round_to=multiple
        )
    return found


def medians(calls, rounds):
    """The median time of each call in milliseconds; they take turns."""
    times = {key: [] for key in calls}
    for done in range(rounds + 2):
        for key, call in calls.items():
            start = time.process_time()
            call()
            if done > 1:  # the first compile
                times[key].append(time.process_time() - start)
    return {key: 1e3 * statistics.median(v) for key, v in times.items()}


def bench(name, rounds):
    """`{"macs": {multiple: share}, runtime: {multiple: milliseconds}}`."""
    models = variants(NETWORKS[name]())
    shape = (1, *models[0].input_shape[1:])
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    macs = {key: kg.stats.count(model).macs for key, model in models.items()}
    row = {"macs": {key: count / macs[0] for key, count in macs.items()}}
    for runtime, make in RUNTIMES.items():
        calls = {key: make(model, x) for key, model in models.items()}
        row[runtime] = medians(calls, rounds)
        print(f"{name} {runtime}: {row[runtime]}", flush=True)
    return row


def read(path=RESULTS):
    return json.loads(path.read_text()) if path.exists() else {}


def write(rows, path=RESULTS):
    """Write beside and rename, so that a kill leaves the old file whole."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(rows, indent=1))
    os.replace(beside, path)


def table(rows):
    head = ["network", "multiple", "MACs left", *RUNTIMES]
    lines = []
    for name, row in rows.items():
        whole = [f"{row[runtime]['0']:.2f} ms" for runtime in RUNTIMES]
        lines.append([name, "original", "1", *whole])
        for multiple in map(str, MULTIPLES):
            left = [
                f"{row[runtime][multiple] / row[runtime]['0']:.2f}"
                for runtime in RUNTIMES
            ]
            share = f"{row['macs'][multiple]:.2f}"
            lines.append(["", multiple, share, *left])
    return coverage_report.table(head, lines)


def plot(rows):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(rows), figsize=(max(6.5, 2.6 * len(rows)), 3.4), sharey=True
    )
    places = range(len(MULTIPLES))
    for axis, (name, row) in zip(np.ravel(axes), rows.items(), strict=True):
        for runtime in RUNTIMES:
            times = row[runtime]
            left = [times[str(m)] / times["0"] for m in MULTIPLES]
            axis.plot(places, left, marker="o", label=runtime)
        macs = [row["macs"][str(m)] for m in MULTIPLES]
        axis.plot(places, macs, "k--", label="multiply-adds")
        axis.set(title=name, xticks=places, xticklabels=MULTIPLES)
        axis.set(xlabel="multiple of channels")
    # Only now, or what is higher in later networks would be cut off.
    np.ravel(axes)[0].set(ylim=(0, None), ylabel="left, of the original")
    figure.legend(
        *np.ravel(axes)[0].get_legend_handles_labels(),
        loc="upper center",
        ncols=5,
        fontsize="small",
    )
    figure.tight_layout(rect=(0, 0, 1, 0.88))
    figure.savefig(PLOT, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", choices=NETWORKS, action="append")
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rows = read()
    for name in options.only or NETWORKS:
        if name not in rows:
            rows[name] = bench(name, options.rounds)
            write(rows)
            rows = read()
    print(table(rows))
    if options.plot:
        plot(rows)


if __name__ == "__main__":
    main()
