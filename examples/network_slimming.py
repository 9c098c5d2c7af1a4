"""Network Slimming: train sparse, prune, fine-tune, and repeat.

    python examples/network_slimming.py
    python examples/network_slimming.py --network vgg19 --passes 6

The first is the MNIST row of the paper's table 3, with three seeds: half an
hour on two CPU cores. The second is its multi-pass table, and needs a GPU. Each
stage is kept in `--output` and not repeated (so use another folder for other
options), and an interrupted training resumes from its last epoch.

For each cut, the table shows the accuracy before fine-tuning: of the trained
network, of the same with its closed gammas at zero, of the pruned network, and
of the pruned network as in the authors' code, which drops the betas of removed
channels.
"""

import argparse
import dataclasses
import pathlib

import keras
import network_slimming_report
import numpy as np
import training
from keras import layers
from small_vgg import norm_relu
from small_vgg import small_vgg

import keras_gates as kg
from keras_gates.surgeon.verify import closed_gates


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained and cut.

    `strength` is that of the penalty, `decay` the L2 on the kernels. Without
    a `quantile`, what is closed is what the penalty brought to exactly 0.
    """

    dataset: str
    epochs: int
    fine_tune: int
    strength: float
    quantile: float | None
    decay: float = 1e-4
    rate: float = 0.1
    tune_rate: float = 0.01
    batch: int = 128

    @property
    def tuning(self):
        """Epochs and learning rate after a cut."""
        return self.fine_tune, self.tune_rate


RECIPES = {
    "mlp": Recipe("mnist", 30, 10, 1e-3, None, 5e-4, tune_rate=1e-3),
    "small_vgg": Recipe("cifar10", 10, 5, 1e-3, 0.5),
    "vgg19": Recipe("cifar10", 160, 160, 1e-4, 0.7, batch=64),
    "resnet164": Recipe("cifar10", 160, 160, 1e-5, 0.6, batch=64),
    "densenet40": Recipe("cifar10", 160, 160, 1e-5, 0.7, batch=64),
}


def main(argv=None):
    """Run all seeds, and print the tables."""
    args = arguments(argv)
    smoke = {"epochs": 1, "fine_tune": 1, "quantile": 0.5}
    recipe = training.recipe_of(args, RECIPES, **smoke)
    print(f"{args.network} on {recipe.dataset}: {recipe}", flush=True)
    data = training.load(recipe.dataset, args.data_dir, args.images, args.smoke)
    seeds = [run_seed(args, recipe, data, seed) for seed in args.seeds]
    network_slimming_report.show(args, recipe, seeds)


# The loop ----------------------------------------------------------------


def run_seed(args, recipe, data, seed):
    """The numbers of the baseline and of each pass, for one seed."""
    record = training.Record(args.output / args.network / f"seed{seed}")
    floor = {"keep_at_least": args.keep_at_least}

    def train(name, model, epochs, rate=recipe.rate):
        options = {"epochs": epochs, "rate": rate, "batch_size": recipe.batch}
        return record.trained(name, lambda: model, data, seed=seed, **options)

    dense = fresh(args, recipe, data, seed)
    rows = []
    model, start = dense, keras.initializers.Constant(0.5)
    for number in range(1, args.passes + 1):
        sparse = kg.slim(model, recipe.strength, gamma_initializer=start)
        sparse = without_zeros(sparse) if args.no_zeros else sparse
        sparse = train(f"sparse{number}", sparse, recipe.epochs)
        closed = thresholds(recipe)
        small = kg.surgeon.prune(sparse, closed, **floor)
        model = train(f"tuned{number}", small, *recipe.tuning)
        start = None  # The next pass goes on with what this one left.
        row = record.numbers(
            f"pass{number}",
            lambda s=sparse, c=closed, m=model: {
                **cut(s, dense, c, data, floor),
                "tuned": training.accuracy(m, data),
            },
        )
        rows.append(row)
    plain = train("plain", fresh(args, recipe, data, seed), recipe.epochs)
    closed = {"batch_norm": kg.Quantile(recipe.quantile or 0.8)}
    row = record.numbers(
        "plain", lambda: cut(plain, dense, closed, data, floor)
    )
    return [row, *rows]


def fresh(args, recipe, data, seed):
    """The network before any training."""
    keras.utils.set_random_seed(seed)
    return network(args.network, data.x_train.shape[1:], recipe.decay)


def thresholds(recipe):
    """What is closed: the smallest gammas of all layers, or the zeros."""
    rule = kg.Quantile(recipe.quantile) if recipe.quantile else 1e-6
    return {"batch_norm": rule}


def cut(model, dense, closed, data, floor):
    """Accuracies right at the cut, and sizes beside the dense network's."""
    plan = kg.surgeon.plan(model, closed, **floor)
    small = plan.apply()
    bare = kg.transforms.drop_betas(model, closed, **floor)
    dropped = kg.surgeon.prune(bare, closed, **floor)
    with closed_gates(model, plan.masks()):
        zeroed = training.accuracy(model, data)
    gammas = np.concatenate(
        [keras.ops.convert_to_numpy(n.gamma) for n in norms_of(model)]
    )
    sizes = kg.stats.compare(dense, small)
    return {
        "uncut": training.accuracy(model, data),
        "zeroed": zeroed,
        "cut": training.accuracy(small, data),
        "dropped": training.accuracy(dropped, data),
        "differs": max(kg.surgeon.verify(model, small, plan).values()),
        "zeros": float((np.abs(gammas) < 1e-6).mean()),
        "closed": sum(map(len, plan.closed.values())) / len(gammas),
        "widths": widths(small),
        "weights": weights(small),
        "params_gone": sizes.params_removed,
        "macs_gone": sizes.macs_removed,
    }


def without_zeros(model):
    """The penalty alone, as the paper has it: gammas come near 0 only."""
    for norm in norms_of(model):
        norm.gamma_constraint = norm.gamma.constraint = None
    return model


def norms_of(model):
    """The batch normalizations of a model."""
    kind = layers.BatchNormalization
    return [layer for layer in model.layers if isinstance(layer, kind)]


def kernels(model):
    """The kernels of a model, in order."""
    return [x.kernel for x in model.layers if hasattr(x, "kernel")]


def widths(model):
    """Such as "784-100-60-10"."""
    sizes = [kernel.shape[-1] for kernel in kernels(model)]
    return "-".join(map(str, [kernels(model)[0].shape[-2], *sizes]))


def weights(model):
    """The entries of all kernels, which is what the paper counts."""
    return int(sum(np.prod(kernel.shape) for kernel in kernels(model)))


# Networks ----------------------------------------------------------------


def network(name, shape, decay):
    """A network that returns logits."""
    if name == "mlp":
        return mlp(shape, decay)
    if name == "small_vgg":
        widths = (16, 32, 64, 64, 128, 128)
        return small_vgg(shape, decay, widths, pooled=(1, 2, 4))
    make = {
        "vgg19": kg.zoo.vgg19,
        "resnet164": lambda *a, **k: kg.zoo.preact_resnet(164, *a, **k),
        "densenet40": lambda *a, **k: kg.zoo.densenet(40, 12, *a, **k),
    }[name]
    return make(shape, l2=decay, classifier_activation=None)


def mlp(shape, decay):
    """784-500-300-10, with the batch normalizations that hold the gates."""
    inputs = keras.Input(shape)
    x = layers.Flatten()(inputs)
    for number, units in enumerate((500, 300), 1):
        x = layers.Dense(
            units,
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(decay),
            name=f"fc{number}",
        )(x)
        x = norm_relu(x, f"fc{number}")
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


# The command line --------------------------------------------------------


def arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--network",
        choices=sorted(RECIPES),
        default="mlp",
        help="network to prune",
    )
    add(
        "--passes",
        type=int,
        default=1,
        help="rounds of pruning and training",
    )
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="seeds, one run each",
    )
    add("--epochs", type=int, help="epochs of sparse training")
    add("--fine-tune", type=int, help="epochs after each cut")
    add("--strength", type=float, help="penalty on gammas")
    add("--quantile", type=float, help="share to close, besides zeros")
    add("--decay", type=float, help="L2 on kernels")
    add(
        "--keep-at-least",
        type=int,
        default=1,
        help="channels to keep in each layer",
    )
    add("--no-zeros", action="store_true", help="plain L1, without exact zeros")
    add("--images", type=int, help="training images; all by default")
    add("--data-dir", help="tensorflow_datasets folder")
    add(
        "--output",
        type=pathlib.Path,
        default="build/network_slimming",
        help="folder for results",
    )
    add("--smoke", action="store_true", help="a quick run, for tests")
    args = parser.parse_args(argv)
    if args.smoke:
        args.seeds = [0]
    return args


if __name__ == "__main__":
    main()
