r"""Layer pruning by ResConv-Prune: whole convolutions go.

    python examples/resconv_prune.py --small

takes about a minute on two CPU cores and downloads nothing. The paper's run is

    python examples/resconv_prune.py --model vgg16 --dataset cifar10 \\
        --data-dir FOLDER --epochs 300 --strength 0.1 --threshold 0.01

1. The network trains as it is, for comparison.
2. Each of its convolutions becomes a `ResConv`, which carries a shortcut of its
   own, and that network trains with an L1 penalty on the factor of each.
3. The convolutions with small factors go; their shortcuts stay.
4. What is left is fused into plain convolutions, with and without retraining.

A stage that has been done is read from `--output` and not done again, and one
that was interrupted goes on at the epoch where it was.
"""

import argparse
import json
import pathlib
import sys

import keras
import numpy as np
import quickstart
from quickstart import title

import keras_gates as kg

NETWORKS = {
    "vgg16": kg.zoo.vgg16,
    "resnet20": lambda **o: kg.zoo.resnet(20, **o),
    "resnet56": lambda **o: kg.zoo.resnet(56, **o),
    "resnet110": lambda **o: kg.zoo.resnet(110, **o),
    "plain_resnet20": lambda **o: kg.zoo.plain_resnet(20, **o),
    "plain_resnet56": lambda **o: kg.zoo.plain_resnet(56, **o),
    "mobilenet": kg.zoo.mobilenet,
}

# The paper's accuracy on CIFAR-10 in per cent, and by how many per cent FLOPs
# and parameters shrink; * is without retraining.
PAPER = {
    "vgg16": [
        ("base", 94.15, 0.0, 0.0),
        ("ResConv", 94.58, 0.0, 0.0),
        ("pruned *", 94.65, 21.2, 63.0),
        ("pruned", 93.45, 55.9, 75.9),
        ("pruned", 92.71, 73.3, 92.1),
        ("pruned", 90.71, 85.3, 93.1),
    ],
    "resnet56": [
        ("base", 93.69, 0.0, 0.0),
        ("ResConv", 94.12, 0.0, 0.0),
        ("pruned *", 93.75, 36.0, 28.2),
        ("pruned", 92.72, 63.4, 58.8),
        ("pruned", 91.59, 73.5, 65.9),
    ],
    "resnet110": [
        ("base", 93.72, 0.0, 0.0),
        ("ResConv", 94.15, 0.0, 0.0),
        ("pruned *", 94.01, 23.7, 8.7),
        ("pruned *", 93.59, 65.5, 55.5),
        ("pruned", 93.67, 67.8, 69.4),
    ],
    "mobilenet": [
        ("base", 92.15, 0.0, 0.0),
        ("ResConv", 93.11, 0.0, 0.0),
        ("pruned *", 93.03, 36.9, 33.5),
        ("pruned *", 92.28, 48.0, 34.5),
        ("pruned", 90.46, 65.6, 44.7),
    ],
}


def main(argv=None):
    """Train, convert, train sparsely, prune, retrain, fuse."""
    args = arguments(argv)
    keras.utils.set_random_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    check_settings(args)
    data = load(args)
    plain = network(args, data)

    title("1. The network as it is")
    base = trained(plain, "base", args, data)

    title("2. Each convolution a ResConv")
    print(kg.transforms.find_convolutions(plain))
    # At g = 1, as the paper starts; the plain network isn't trained.
    gated = kg.to_resconv(plain, args.strength, start="residual")
    gated = trained(gated, "res_conv", args, data)

    title("3. Plan and prune")
    plan = kg.surgeon.plan(gated, closed(args))
    print(plan)
    small = plan.apply()
    found = kg.surgeon.verify(gated, small, plan, x=data.x_test[:256])
    print(f"largest relative difference: {max(found.values()):.1e}")

    title("4. Retrain, and fuse")
    retrained = keras.models.clone_model(small)
    retrained.set_weights(small.get_weights())
    retrained = trained(retrained, "retrained", args, data)
    stages = {
        "base": base,
        "ResConv": gated,
        "pruned *": small,
        "pruned": retrained,
    }
    rows = []
    for name, model in stages.items():
        fused = kg.fuse(model)
        quickstart.save(fused, args.output / f"{file_name(name)}.keras")
        rows.append(measured(name, fused, data))
    report(rows, args)


# Training ----------------------------------------------------------------


def network(args, data):
    """The network that is to lose layers, with He's initial weights."""
    return NETWORKS[args.model](
        input_shape=data.x_train.shape[1:],
        classes=int(data.y_train.max()) + 1,
        # The paper decays weights by 5e-4, which is a penalty of half of it.
        l2=2.5e-4,
    )


def trained(model, name, args, data):
    """The trained model: from its file, if the stage has been done."""
    path = args.output / f"trained_{name}.keras"
    if path.exists():
        print(f"read from {path}")
        return keras.saving.load_model(path, compile=False)
    steps = -(-len(data.x_train) // args.batch)
    thirds = [args.epochs * steps * k // 3 for k in (1, 2)]
    rate = keras.optimizers.schedules.PiecewiseConstantDecay(
        thirds, [0.1, 0.01, 0.001]
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    backup = args.output / f"backup_{name}"
    model.fit(
        Batches(data, args),
        epochs=args.epochs,
        callbacks=[keras.callbacks.BackupAndRestore(backup)],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    quickstart.save(model, path)
    return model


class Batches(keras.utils.PyDataset):
    """Shuffled images, moved by up to 4 pixels and mirrored."""

    def __init__(self, data, args):
        super().__init__()
        self.data = data
        self.batch = args.batch
        self.moves = args.dataset != "digits"
        self.rng = np.random.default_rng(args.seed)
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.order) // self.batch)

    def __getitem__(self, index):
        chosen = self.order[index * self.batch :][: self.batch]
        x, y = self.data.x_train[chosen], self.data.y_train[chosen]
        return (self.moved(x) if self.moves else x), y

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.data.x_train))

    def moved(self, x):
        """Each image at a place of its own, every second one mirrored."""
        size = x.shape[1]
        padded = np.pad(x, [(0, 0), (4, 4), (4, 4), (0, 0)])
        found = np.empty_like(x)
        for number, (i, j, flip) in enumerate(
            self.rng.integers(0, [9, 9, 2], (len(x), 3))
        ):
            crop = padded[number, i : i + size, j : j + size]
            found[number] = crop[:, ::-1] if flip else crop
        return found


def closed(args):
    """What is closed."""
    # So short a training closes nothing by itself.
    return kg.Quantile(0.5) if args.small else args.threshold


# Data and results --------------------------------------------------------


def load(args):
    """The data set, each channel with mean 0 and deviation 1."""
    if args.dataset == "digits":
        data = quickstart.load_digits(args.seed)
    else:
        data = quickstart.load_from_tfds(args.dataset, args.data_dir)
    mean = data.x_train.mean((0, 1, 2))
    deviation = data.x_train.std((0, 1, 2))
    data.x_train = (data.x_train - mean) / deviation
    data.x_test = (data.x_test - mean) / deviation
    return data


def measured(name, model, data):
    """A row of the table, with numbers as they are."""
    model.compile(metrics=["accuracy"])
    guesses = model.predict(data.x_test, batch_size=256, verbose=0)
    count = kg.stats.count(model)
    return {
        "name": name,
        "accuracy": 100 * float((guesses.argmax(1) == data.y_test).mean()),
        "macs": count.macs,
        "parameters": count.params,
        "layers": sum("Conv" in layer.type for layer in count.layers),
    }


def report(rows, args):
    """Print what was measured beside the paper's rows, and keep it."""
    title(f"5. {args.model} on {args.dataset}, all fused, last epoch")
    head = ("", "accuracy", "MACs", "less", "parameters", "less", "convs")
    line = "{:10} {:>9} {:>14} {:>7} {:>12} {:>7} {:>6}"
    print(line.format(*head))
    base = rows[0]
    for row in rows:
        less = [f"{100 * (1 - row[k] / base[k]):.1f} %" for k in base if k in
                ("macs", "parameters")]  # fmt: skip
        print(
            line.format(
                row["name"],
                f"{row['accuracy']:.2f} %",
                f"{row['macs']:,}",
                less[0],
                f"{row['parameters']:,}",
                less[1],
                row["layers"],
            )
        )
    if args.dataset == "cifar10" and args.model in PAPER:
        print("\nthe paper:")
        for name, accuracy, macs, params in PAPER[args.model]:
            print(
                line.format(
                    name,
                    f"{accuracy:.2f} %",
                    "",
                    f"{macs} %",
                    "",
                    f"{params} %",
                    "",
                )
            )
    print("* is without retraining")
    path = args.output / "results.json"
    with quickstart.beside(path) as new:
        new.write_text(json.dumps(rows, indent=1), "utf-8")
    print(f"models and numbers: {args.output}")


def file_name(name):
    """The name of a stage's fused model."""
    return {"pruned *": "pruned", "pruned": "retrained"}.get(name, name)


# The command line --------------------------------------------------------


def arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=sorted(NETWORKS), default="resnet20")
    add("--dataset", choices=["cifar10", "digits"], default="cifar10")
    add("--data-dir", help="folder of tensorflow_datasets")
    add("--epochs", type=int, default=300, help="of each of three trainings")
    add("--batch", type=int, default=256)
    add("--strength", type=float, default=1e-2, help="of the penalty on m")
    add("--threshold", type=float, default=0.05, help="closed is below it")
    add("--output", type=pathlib.Path, default="build/resconv_prune")
    add("--seed", type=int, default=0)
    add("--small", action="store_true", help="digits, few epochs, for CI")
    args = parser.parse_args(argv)
    if args.small:
        args.dataset, args.epochs, args.batch = "digits", 3, 64
    return args


def check_settings(args):
    """Refuse to go on with stages that were done with other settings."""
    path = args.output / "settings.json"
    settings = {k: str(v) for k, v in vars(args).items() if k != "data_dir"}
    # What is closed is decided after training.
    settings = {k: v for k, v in settings.items() if k != "threshold"}
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        if before != settings:
            raise SystemExit(
                f"{args.output} holds a run with other settings: {before}. "
                "Choose another --output, or delete that folder."
            )
        return
    with quickstart.beside(path) as new:
        new.write_text(json.dumps(settings, indent=1), "utf-8")


if __name__ == "__main__":
    main()
