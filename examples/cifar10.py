"""Trains a network for CIFAR-10 in about an hour on two cores, and halves it.

    KERAS_BACKEND=tensorflow python examples/cifar10.py --seeds 0 1 2

The recipe follows Jordan's airbench94 (2024,
https://arxiv.org/abs/2404.00498), written for Keras: a first layer that whitens
patches and is not trained, six convolutions of 64 to 256 filters with GELU,
which begin as identities as far as their shapes allow, smoothed labels, SGD
with Nesterov momentum and a rate that rises and falls linearly, biases of
normalizations that learn 64 times as fast, shifts by two pixels, alternating
mirrored images, and the mean over mirrored and shifted images at the end.

Rows: "baseline"; "reach", trained with `ReachBudget` for the same number of
epochs, and pruned; "random", pruned at random to the same size before training.
Results are kept in `--output`, and interrupted runs resume.
"""

import argparse
import pathlib

import keras
import numpy as np
import training
from keras import layers

import keras_gates as kg

WIDTHS = (64, 256, 256)


def main(argv=None):
    """Train all rows of all seeds, and print the table."""
    args = arguments(argv)
    count = 256 if args.smoke else args.images
    data = training.load("cifar10", args.data_dir, count, args.smoke)
    data.shift, data.in_turn = 2, True
    rows = []
    for seed in args.seeds:
        runs = Runs(args, data, seed)
        for name in args.rows:
            numbers = runs.row(name)
            cells = (f"{100 * x:.2f}" for x in numbers.values())
            rows.append((name, seed, *cells))
    head = ["row", "seed", "accuracy", "with views", "MACs left"]
    training.table("CIFAR-10, last epoch, per cent", head, rows)


class Runs:
    """The trainings of one seed; each is done once."""

    def __init__(self, args, data, seed):
        self.args, self.data, self.seed = args, data, seed
        self.record = training.Record(args.output / f"seed{seed}")

    def row(self, row):
        """Accuracies, and the share of the MACs that is left."""
        name = row if row == "baseline" else f"{row}-{self.args.macs:g}"
        whole = kg.stats.count(self.fresh()).macs

        def numbers():
            model = self.record.model(name, lambda: getattr(self, row)(name))
            return {
                "accuracy": training.accuracy(model, self.data),
                "views": accuracy_of_views(model, self.data),
                "left": kg.stats.count(model).macs / whole,
            }

        return self.record.numbers(name, numbers)

    def fresh(self):
        keras.utils.set_random_seed(self.seed)
        widths = (8, 16, 16) if self.args.smoke else WIDTHS
        return network(self.data.x_train, widths, self.args.dtype)

    def fit(self, name, model, *callbacks):
        return self.record.fit(
            name,
            model,
            self.data,
            seed=self.seed,
            epochs=self.args.epochs,
            rate=self.args.rate,
            batch_size=self.args.batch_size,
            loss=smoothed,
            optimizer=self.optimizer,
            rise=0.25,
            callbacks=callbacks,
        )

    def optimizer(self, schedule):
        """As the recipe has it; gates are left to `ReachBudget`."""
        made = FastBiases(
            schedule,
            momentum=0.85,
            nesterov=True,
            weight_decay=self.args.weight_decay,
        )
        made.exclude_from_weight_decay(var_names=["factor"])
        return made

    def baseline(self, name):
        return self.fit(name, self.fresh())

    def reach(self, name):
        model = kg.insert_gates(self.fresh(), filters=True)
        reach = kg.callbacks.ReachBudget(
            macs=self.args.macs, backup_dir=self.record.state(f"{name}-budget")
        )
        self.fit(name, model, reach)
        return kg.surgeon.prune(model, reach.thresholds)

    def random(self, name):
        model = self.fresh()
        scores = kg.surgeon.score(model, "random", seed=self.seed)
        budget = kg.Budget(macs=self.args.macs)
        cut = kg.surgeon.prune(model, budget, scores=scores)
        # A filter that passes on a channel that is gone would be constant.
        for layer in convolutions(cut):
            layer.kernel.assign(layer.kernel_initializer(layer.kernel.shape))
            pass_on(layer)
        return self.fit(name, cut)


class FastBiases(keras.optimizers.SGD):
    """SGD by which biases of normalizations learn 64 times as fast."""

    def update_step(self, gradient, variable, learning_rate):
        if "beta" in variable.name:
            gradient = 64 * gradient
        super().update_step(gradient, variable, learning_rate)


def network(images, widths, dtype):
    """The network, whose first layer is made for some images."""
    inputs = keras.Input(images.shape[1:])
    whiten = layers.Conv2D(24, 2, use_bias=False, name="whiten")
    whiten.trainable = False
    x = keras.activations.gelu(whiten(inputs))
    for number, width in enumerate(widths, 1):
        for half in ("a", "b"):
            x = layers.Conv2D(
                width,
                3,
                padding="same",
                use_bias=False,
                kernel_initializer=keras.initializers.VarianceScaling(
                    1 / 3, "fan_in", "uniform"
                ),
                dtype=dtype,
                name=f"conv{number}{half}",
            )(x)
            if half == "a":
                x = layers.MaxPooling2D(dtype=dtype)(x)
            x = layers.BatchNormalization(
                momentum=0.9, epsilon=1e-6, scale=False
            )(x)
            x = layers.Activation("gelu")(x)
    x = layers.GlobalMaxPooling2D()(x)
    x = layers.Dense(10, use_bias=False)(x)
    model = keras.Model(inputs, layers.Rescaling(1 / 9)(x))
    whiten.set_weights([whitening(images[:5000])])
    for layer in convolutions(model):
        pass_on(layer)
    return model


def convolutions(model):
    """Those that are trained."""
    return [layer for layer in model.layers if layer.name.startswith("conv")]


def pass_on(convolution):
    """Have the first filters pass their inputs on, as they are."""
    (kernel,) = convolution.get_weights()
    same = min(kernel.shape[2:])
    kernel[..., :same] = 0
    kernel[1, 1, range(same), range(same)] = 1
    convolution.set_weights([kernel])


def whitening(images):
    """Filters whose outputs on 2x2 patches have variance 1, and minus them."""
    side = images.shape[1]
    patches = np.stack(
        [
            images[:, i : side - 1 + i, j : side - 1 + j]
            for i in (0, 1)
            for j in (0, 1)
        ],
        axis=3,
    ).reshape(-1, 12)
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    filters = vectors / np.sqrt(values + 5e-4)
    both = np.concatenate([filters, -filters], axis=1)
    return both.reshape(2, 2, 3, 24).astype("float32")


def smoothed(y, logits):
    """Cross-entropy with a fifth of each label spread over all classes."""
    right = keras.ops.one_hot(keras.ops.cast(y, "int32"), 10)
    right = keras.ops.reshape(right, keras.ops.shape(logits))
    return keras.ops.categorical_crossentropy(
        0.8 * right + 0.02, logits, from_logits=True
    )


def accuracy_of_views(model, data):
    """By the mean of the logits of mirrored and shifted images."""
    padded = np.pad(data.x_test, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    side = data.x_test.shape[1]
    total = 0.0
    for weight, first in ((2.0, 1), (1.0, 0), (1.0, 2)):
        view = padded[:, first : first + side, first : first + side]
        for images in (view, view[:, :, ::-1]):
            total += weight * model.predict(images, batch_size=500, verbose=0)
    return float((total.argmax(-1) == data.y_test).mean())


def arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    rows = ["baseline", "reach", "random"]
    add(
        "--rows",
        nargs="+",
        choices=rows,
        default=rows,
        help="rows of the table to compute",
    )
    add("--macs", type=float, default=0.5, help="share of MACs to keep")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds, one run each")
    add("--images", type=int, help="training images")
    add("--epochs", type=int, default=12, help="epochs of each training")
    add("--rate", type=float, default=0.375, help="learning rate")
    add("--weight-decay", type=float, default=9e-3, help="of the optimizer")
    add("--batch-size", type=int, default=256, help="batch size")
    add(
        "--dtype",
        default="float32",
        help="of the convolutions; mixed_bfloat16 is faster on CPUs with AMX",
    )
    add("--data-dir", help="tensorflow_datasets folder")
    add(
        "--output",
        type=pathlib.Path,
        default="build/cifar10",
        help="folder for results",
    )
    add("--smoke", action="store_true", help="a quick run, for tests")
    args = parser.parse_args(argv)
    if args.smoke:
        args.epochs, args.batch_size = 4, 4
        args.macs = 0.7
    return args


if __name__ == "__main__":
    main()
