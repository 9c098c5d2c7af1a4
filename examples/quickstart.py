"""Train a network with gates, prune it, check it, fine-tune it, export it.

    python examples/quickstart.py

takes about a minute on two CPU cores and downloads nothing. It runs on every
backend (set `KERAS_BACKEND=jax` to choose one); only the SavedModel is left out
on torch, where Keras can't export one.

The network has two kinds of gates. A `FilterGate` after each activation
closes single channels. A `BranchGate` at the end of each residual branch
closes the whole block.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import shutil
import sys
import time

import keras
import numpy as np
import quickstart_report as report
from keras import layers
from keras.regularizers import L2

import keras_gates as kg

# How hard the penalty pulls a gate towards 0, in units of loss.
FILTER_L1 = 3e-3
BRANCH_L1 = 3e-2
# A network could undo the penalty: smaller gates, larger weights after them,
# and nothing has changed but the loss. Weight decay makes that cost something;
# it parts the useful gates from the useless ones.
WEIGHT_DECAY = 2e-3

EPOCHS = {"digits": 50, "mnist": 10, "fashion_mnist": 10, "cifar10": 30}
BATCH = {"digits": 32, "mnist": 128, "fashion_mnist": 128, "cifar10": 128}


def main(argv=None):
    """Gate, plan, prune, verify, fine-tune, export."""
    args = arguments(argv)
    start = time.perf_counter()
    keras.utils.set_random_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    data = load(args)
    classes = int(data.y_train.max()) + 1

    title(f"1. Train with gates: {len(data.x_train):,} images")
    gated = network(data.x_train.shape[1:], classes)
    counter = kg.callbacks.ClosedGates(args.threshold)
    fit(gated, data, args.epochs, 0.1, BATCH[args.dataset], [counter])
    save(gated, args.output / "gated.keras")

    title("2. Plan: what would go, what stays, and why")
    plan = kg.surgeon.plan(gated, thresholds(args))
    print(plan)

    title("3. Prune, and verify")
    small = plan.apply()
    found = kg.surgeon.verify(gated, small, plan, x=data.x_test)
    print(f"largest relative difference: {max(found.values()):.1e}")
    save(small, args.output / "pruned.keras")

    title("4. Fine-tune: it is a plain Keras model now")
    fit(small, data, args.fine_tune_epochs, 0.001, BATCH[args.dataset])
    save(small, args.output / "fine_tuned.keras")

    title("5. Export")
    export(small, args.output / "served_model", data.x_test)

    title("6. Results")
    stages = {"gated": "gated", "pruned": "pruned", "fine-tuned": "fine_tuned"}
    files = {k: args.output / f"{v}.keras" for k, v in stages.items()}
    report.show_table(report.measure(files, data, args.calls))
    with beside(args.output / "quickstart.png") as path:
        report.draw(plan, args.threshold, path)
    print(f"files and picture: {args.output}")
    print(f"{time.perf_counter() - start:.0f} seconds in all")


# The network -------------------------------------------------------------


def network(shape, classes):
    """Three stages: a convolution, then a residual block."""
    inputs = keras.Input(shape)
    # Larger images are halved at once, for the sake of CPUs.
    x = convolution(inputs, 16, "stem", strides=1 if shape[0] < 16 else 2)
    x = residual(x, "block1")
    x = convolution(x, 32, "down1", strides=2)
    x = residual(x, "block2")
    x = convolution(x, 64, "down2", strides=2)
    x = residual(x, "block3")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="quickstart")


def convolution(x, filters, name, strides=1):
    """Convolution, batch normalization, activation, and then the gate."""
    x = normalized_convolution(x, filters, name, strides)
    x = layers.ReLU(name=f"{name}_relu")(x)
    return gate(kg.FilterGate, FILTER_L1, f"{name}_gate")(x)


def residual(x, name):
    """A residual block that can lose single channels, or go as a whole."""
    filters = x.shape[-1]
    y = convolution(x, filters, f"{name}_conv1")
    y = normalized_convolution(y, filters, f"{name}_conv2")
    y = gate(kg.BranchGate, BRANCH_L1, f"{name}_branch")(y)
    x = layers.Add(name=f"{name}_add")([x, y])
    x = layers.ReLU(name=f"{name}_relu")(x)
    return gate(kg.FilterGate, FILTER_L1, f"{name}_gate")(x)


def normalized_convolution(x, filters, name, strides=1):
    """A convolution without a bias, and its batch normalization."""
    x = layers.Conv2D(
        filters,
        3,
        strides,
        padding="same",
        use_bias=False,
        kernel_regularizer=L2(WEIGHT_DECAY),
        name=name,
    )(x)
    # Its statistics must follow a short training: 0.9, and not 0.99.
    return layers.BatchNormalization(
        momentum=0.9,
        gamma_regularizer=L2(WEIGHT_DECAY),
        name=f"{name}_norm",
    )(x)


def gate(kind, l1, name):
    """A gate that training can close: L1 and the clip give exact zeros."""
    return kind(
        regularizer=kg.regularizers.L1(l1),
        constraint=kg.constraints.UnitInterval(),
        name=name,
    )


# Training ----------------------------------------------------------------


def fit(model, data, epochs, rate, batch_size, callbacks=()):
    """Train as usual; the penalty of the gates is part of the loss."""
    steps = epochs * -(-len(data.x_train) // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=batch_size,
        epochs=epochs,
        callbacks=list(callbacks),
        # A bar on a terminal, a line for each epoch in a log.
        verbose=1 if sys.stdout.isatty() else 2,
    )


def thresholds(args):
    """What is closed."""
    if args.smoke:
        # So short a training closes nothing by itself.
        return {"filter": kg.Quantile(0.5, scope="gate"), "branch": 1.0}
    return args.threshold


# Data --------------------------------------------------------------------


@dataclasses.dataclass
class Data:
    """Images from 0 to 1, and the numbers of their classes."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load(args):
    """The data set that was asked for."""
    if args.dataset == "digits":
        data = load_digits(args.seed)
    else:
        data = load_from_tfds(args.dataset, args.data_dir)
    if args.smoke:
        data.x_train, data.y_train = data.x_train[:256], data.y_train[:256]
        data.x_test, data.y_test = data.x_test[:128], data.y_test[:128]
    return data


def load_digits(seed):
    """1,797 images of 8x8 that scikit-learn holds; a quarter is held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images[..., None].astype("float32") / 16
    x_train, x_test, y_train, y_test = train_test_split(
        images,
        digits.target,
        test_size=0.25,
        random_state=seed,
        stratify=digits.target,
    )
    return Data(x_train, y_train, x_test, y_test)


def load_from_tfds(name, folder):
    """The data set's own split; downloaded where `folder` has it not."""
    import tensorflow_datasets as tfds

    parts = tfds.load(
        name, split=["train", "test"], data_dir=folder, batch_size=-1
    )
    arrays = []
    for part in tfds.as_numpy(parts):
        arrays += [part["image"].astype("float32") / 255, part["label"]]
    return Data(*arrays)


# Files -------------------------------------------------------------------


@contextlib.contextmanager
def beside(path):
    """A path to write to; it takes the place of `path` once it is whole."""
    new = path.with_name(f"new-{path.name}")
    old = path.with_name(f"old-{path.name}")
    for left in (new, old):  # By a run that was killed.
        shutil.rmtree(left, ignore_errors=True)
    yield new
    if path.is_dir():
        # No folder can be renamed onto another that is not empty.
        path.rename(old)
    new.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def save(model, path):
    """Save what is needed for inference: not the optimizer's state."""
    bare = keras.Model(model.input, model.output, name=model.name)
    with beside(path) as new:
        bare.save(new)


def export(model, folder, images):
    """Write a SavedModel, load it without Keras, and compare."""
    if keras.backend.backend() == "torch":
        print("left out: Keras exports no SavedModel from the torch backend")
        return
    import tensorflow as tf

    with beside(folder) as new:
        model.export(str(new), verbose=False)
    served = tf.saved_model.load(str(folder))
    got = served.serve(images).numpy()
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    worst = np.abs(got - expected).max() / np.abs(expected).max()
    print(f"SavedModel: {folder}")
    print(f"it differs from the model by {worst:.1e} of the largest output")


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
        choices=sorted(EPOCHS),
        default="digits",
        help="dataset to train on",
    )
    add("--data-dir", help="tensorflow_datasets folder")
    add("--epochs", type=int, help="epochs with gates")
    add("--fine-tune-epochs", type=int, default=10, help="epochs after pruning")
    add(
        "--threshold",
        type=float,
        default=0.05,
        help="gates below it are closed",
    )
    add(
        "--output",
        type=pathlib.Path,
        default="build/quickstart",
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
    args.epochs = args.epochs or EPOCHS[args.dataset]
    args.calls = 100
    if args.smoke:
        args.epochs, args.fine_tune_epochs, args.calls = 1, 1, 3
    return args


def title(text):
    """Print a heading."""
    print(f"\n=== {text}\n", flush=True)


if __name__ == "__main__":
    main()
