"""Trains deep plain networks with and without a shortcut in each convolution.

    KERAS_BACKEND=jax python benchmarks/deep_plain.py --data-dir FOLDER

`zoo.plain_resnet(56)` has no shortcuts; the same with ResConvs has 55, and
fuses back into it. Both train on CIFAR-10 from the same initial weights, on the
same batches. Loss and accuracy are those of the training images in the course
of an epoch; the last column is of the test images after the epoch.

A run takes minutes on a CPU, so it can be resumed: each epoch is written to
`--output` when it ends.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np

import keras_gates as kg

NETWORKS = {
    "plain": lambda model: model,
    "ResConv": lambda model: kg.to_resconv(model, start="residual"),
}


def load(options):
    """CIFAR-10, with as many pixels and images as asked for."""
    import tensorflow_datasets as tfds

    parts = tfds.load(
        "cifar10",
        split=[f"train[:{options.images}]", f"test[:{options.test_images}]"],
        data_dir=options.data_dir,
        batch_size=-1,
    )
    arrays = []
    for part in tfds.as_numpy(parts):
        x = part["image"].astype("float32")
        step = x.shape[1] // options.pixels
        sides = (len(x), options.pixels, step, options.pixels, step, 3)
        arrays += [x.reshape(sides).mean((2, 4)), part["label"]]
    mean, deviation = (f(arrays[0], axis=(0, 1, 2)) for f in (np.mean, np.std))
    arrays[::2] = [(x - mean) / deviation for x in arrays[::2]]
    return arrays


def network(kind, options):
    """A compiled network; all kinds start from the same weights."""
    keras.utils.set_random_seed(options.seed)
    shape = (options.pixels, options.pixels, 3)
    plain = kg.zoo.plain_resnet(options.depth, input_shape=shape, l2=1e-4)
    model = NETWORKS[kind](plain)
    steps = options.epochs * -(-options.images // options.batch)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=options.rate, warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy", "sparse_categorical_crossentropy"],
    )
    return model


def train(kind, options, data):
    """Train a network to its last epoch, from the one where it was."""
    folder = options.output / f"{kind}_{options.depth}_{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "epochs.jsonl"
    done = rows.read_text("utf-8").splitlines() if rows.exists() else []
    for row in done:
        show(json.loads(row))
    if len(done) >= options.epochs:
        return
    start = time.perf_counter()

    def write(epoch, logs):
        row = {
            "network": kind,
            "epoch": epoch + 1,
            "loss": logs["sparse_categorical_crossentropy"],
            "accuracy": logs["accuracy"],
            "test_accuracy": logs["val_accuracy"],
            "seconds": time.perf_counter() - start,
        }
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        show(row)

    x, y, *test = data
    network(kind, options).fit(
        x,
        y,
        batch_size=options.batch,
        epochs=options.epochs,
        validation_data=tuple(test),
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=write),
            keras.callbacks.BackupAndRestore(folder / "backup"),
        ],
        verbose=0,
    )


def show(row):
    print(
        f"{row['network']:8} {row['epoch']:5} {row['loss']:8.3f} "
        f"{row['accuracy']:9.2%} {row['test_accuracy']:9.2%} "
        f"{row['seconds']:8.0f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data-dir", help="folder of tensorflow_datasets")
    add("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    add("--depth", type=int, default=56)
    add("--pixels", type=int, default=32, choices=[8, 16, 32])
    add("--images", type=int, default=50_000)
    add("--test-images", type=int, default=10_000)
    add("--epochs", type=int, default=10)
    add("--batch", type=int, default=128)
    add("--rate", type=float, default=0.1)
    add("--seed", type=int, default=0)
    add("--output", type=pathlib.Path, default="build/deep_plain")
    options = parser.parse_args()
    print(f"backend: {keras.backend.backend()}, keras {keras.__version__}")
    print("network  epoch     loss  accuracy      test  seconds")
    data = load(options)
    for kind in options.networks:
        train(kind, options, data)


if __name__ == "__main__":
    main()
