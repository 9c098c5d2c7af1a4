"""Prune, train quantization-aware, and convert to int8 for LiteRT.

    pip install keras_gates[examples,export,tfmot]
    KERAS_BACKEND=tensorflow python examples/quantize.py

1. A network without gates trains.
2. Its channels are scored, and pruned in steps with training in between,
   until a share of its multiply-adds remains (`--macs`).
3. The pruned network is converted to tf_keras, where the quantization-aware
   training of tensorflow-model-optimization continues.
4. All become LiteRT files: in float32; in int8 after training; and in int8
   after quantization-aware training. Each is run on the test images, one by
   one.

Each training is kept in `--output`, and not repeated.
"""

import argparse
import functools
import pathlib
import sys
import tempfile
import time

import keras
import numpy as np
import training

import keras_gates as kg

NETWORKS = {
    "mnist": kg.zoo.lenet5,
    "cifar10": functools.partial(kg.zoo.resnet, 20),
}
RATES = {"mnist": 0.02, "cifar10": 0.1}


def main(argv=None):
    """Train, prune, quantise, convert, measure."""
    args = arguments(argv)
    if keras.backend.backend() != "tensorflow":
        sys.exit("LiteRT and tf_keras need KERAS_BACKEND=tensorflow.")
    keras.utils.set_random_seed(args.seed)
    record = training.Record(args.output)
    data = training.load(
        args.dataset, args.data_dir, args.train_images, args.smoke
    )
    dense = record.model("dense", lambda: trained(args, data, record))
    small = record.model("pruned", lambda: pruned(args, data, record, dense))
    aware = quantised(args, data, small)
    models = {
        "dense, float32": (lambda: converted(dense), dense),
        "dense, int8": (lambda: converted(dense, data), dense),
        "pruned, float32": (lambda: converted(small), small),
        "pruned, int8": (lambda: converted(small, data), small),
        "pruned, int8 by QAT": (lambda: converted(aware, aware=True), small),
    }
    rows = []
    for name, (convert, model) in models.items():
        content = convert()
        path = args.output / f"{name.replace(', ', '_').replace(' ', '_')}"
        path.with_suffix(".tflite").write_bytes(content)
        rows.append([name, *measured(content, model, data, args.images)])
    head = ["LiteRT file", "parameters", "MACs", "KiB", "ms", "accuracy %"]
    training.table(f"{args.dataset}, one thread, one image", head, rows)


# Training ----------------------------------------------------------------


def trained(args, data, record):
    """The network as it is."""
    return training.fit(
        NETWORKS[args.dataset](classifier_activation=None),
        data,
        record.state("dense"),
        name="dense",
        epochs=args.epochs,
        rate=RATES[args.dataset],
        seed=args.seed,
    )


def pruned(args, data, record, dense):
    """Pruned in steps, by what each channel does to the loss."""
    part = data.x_train[: args.scored], data.y_train[: args.scored]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def score(model):
        return kg.surgeon.score(model, "taylor", part, loss=loss)

    def tune(model, step):
        training.fit(
            model,
            data,
            record.state(f"step{step}"),
            name=f"step {step}",
            epochs=args.tuning_epochs,
            rate=RATES[args.dataset] / 2,
            seed=args.seed + step,
        )

    return kg.surgeon.prune_iteratively(
        dense,
        kg.Budget(macs=args.macs),
        criterion=score,
        steps=args.steps,
        on_step=tune,
    )


def quantised(args, data, small):
    """Trained by tfmot with the rounding of eight bits in its forward pass."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    aware = tfmot.quantization.keras.quantize_model(
        kg.interop.to_tf_keras(small)
    )
    aware.compile(
        tf_keras.optimizers.SGD(RATES[args.dataset] / 20, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    aware.fit(
        data.x_train,
        data.y_train,
        batch_size=128,
        epochs=args.tuning_epochs,
        verbose=0,
    )
    return aware


# LiteRT ------------------------------------------------------------------


def converted(model, data=None, aware=False):
    """A model as a LiteRT file.

    Args:
        model: of Keras 3, or the quantization-aware one of tf_keras.
        data: images that tell the ranges of activations, for int8.
        aware: whether the model knows these ranges itself.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        options = {} if aware else {"verbose": False}
        model.export(folder, **options)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if data is not None or aware:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if data is not None:
            images = data.x_train[:200].astype("float32")
            converter.representative_dataset = lambda: (
                [image[None]] for image in images
            )
        return converter.convert()


def measured(content, model, data, images):
    """Parameters and MACs of the model; size, time and accuracy of the file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    times, right = [], 0
    x = data.x_test[:images].astype("float32")
    for image, label in zip(x, data.y_test, strict=False):
        interpreter.set_tensor(source, image[None])
        start = time.perf_counter()
        interpreter.invoke()
        times.append(time.perf_counter() - start)
        right += int(interpreter.get_tensor(target).argmax() == label)
    return [
        f"{model.count_params():,}",
        f"{kg.stats.count(model).macs:,}",
        f"{len(content) / 1024:.1f}",
        f"{1000 * np.median(times):.3f}",
        f"{100 * right / len(times):.2f}",
    ]


# The command line --------------------------------------------------------


def arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--dataset",
        choices=sorted(NETWORKS),
        default="mnist",
        help="dataset to train on",
    )
    add("--data-dir", help="tensorflow_datasets folder")
    add("--macs", type=float, default=0.2, help="share of MACs to keep")
    add("--steps", type=int, default=3, help="pruning steps")
    add("--epochs", type=int, default=5, help="epochs before pruning")
    add("--tuning-epochs", type=int, default=1, help="epochs after each step")
    add("--train-images", type=int, help="training images; all by default")
    add("--scored", type=int, default=2048, help="images for the scores")
    add("--images", type=int, default=10_000, help="images for each test")
    add(
        "--output",
        type=pathlib.Path,
        default="build/quantize",
        help="folder for results",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="random seed",
    )
    add("--smoke", action="store_true", help="a quick run, for tests")
    args = parser.parse_args(argv)
    if args.smoke:
        args.epochs, args.steps, args.scored, args.images = 1, 2, 64, 32
    return args


if __name__ == "__main__":
    main()
