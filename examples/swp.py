"""Stripe-wise pruning: train filter skeletons, cut stripes, fine-tune.

    python examples/swp.py
    python examples/swp.py --network small_vgg --continual

The first is LeNet-5 on MNIST with three seeds. It compares the filter skeleton
with group lasso on the stripes, as in figure 1 of the paper's supplement, and
with two controls: stripes of a network that was trained without any penalty,
cut by their norms or at random. All are cut to the same multiply-adds.
`--continual` is its table 1: filters are cut first, then stripes of the rest.
ResNet-20 and VGG-16 need a GPU.

Each stage is kept in `--output` and not repeated, and an interrupted training
resumes from its last epoch.
"""

import argparse
import dataclasses
import pathlib

import keras
import numpy as np
import training
from keras import ops
from small_vgg import small_vgg

import keras_gates as kg
from keras_gates.transforms import GateSpec

NAMES = {
    "skeleton": "filter skeleton",
    "lasso": "group lasso",
    "norm": "norms, no penalty",
    "random": "random",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained and cut.

    `skeleton` and `lasso` are the strengths of the penalties, `delta` is where
    a factor of the skeleton becomes 0. `filters` is the share of the
    multiply-adds that stays when filters are cut first.
    """

    dataset: str
    epochs: int
    fine_tune: int
    skeleton: float
    lasso: float
    shares: tuple = (0.5, 0.3)
    filters: float = 0.6
    gates: float = 1e-3
    delta: float = 0.05
    decay: float = 1e-4
    rate: float = 0.05
    batch: int = 128


RECIPES = {
    "lenet5": Recipe("mnist", 6, 2, 2e-3, 6e-4, rate=0.02),
    "small_vgg": Recipe("cifar10", 8, 2, 2e-3, 5e-4),
    "resnet20": Recipe("cifar10", 160, 40, 1e-5, 1e-5, rate=0.1, batch=64),
    "vgg16": Recipe("cifar10", 160, 40, 1e-5, 1e-5, rate=0.1, batch=64),
}


def main(argv=None):
    """Run all seeds, and print the tables."""
    args = arguments(argv)
    recipe = training.recipe_of(args, RECIPES, epochs=1, fine_tune=1)
    print(f"{args.network} on {recipe.dataset}: {recipe}", flush=True)
    data = training.load(recipe.dataset, args.data_dir, args.images, args.smoke)
    run = continual if args.continual else compare
    rows = {}
    for seed in args.seeds:
        for name, row in run(Seed(args, recipe, data, seed)).items():
            rows.setdefault(name, []).append(row)
    report(args, rows)


# The runs ----------------------------------------------------------------


class Seed:
    """One seed's trainings and cuts; each is done once."""

    def __init__(self, args, recipe, data, seed):
        self.args, self.recipe = args, recipe
        self.data, self.seed = data, seed
        folder = args.output / args.network / f"seed{seed}"
        self.record = training.Record(folder)

    def fresh(self):
        """The network before any training."""
        keras.utils.set_random_seed(self.seed)
        shape = self.data.x_train.shape[1:]
        return network(self.args.network, shape, self.recipe.decay)

    def trained(self, name, make, epochs=None, rate=None):
        """What `make` returns, trained."""
        return self.record.trained(
            name,
            make,
            self.data,
            seed=self.seed,
            epochs=epochs or self.recipe.epochs,
            rate=rate or self.recipe.rate,
            batch_size=self.recipe.batch,
        )

    def tuned(self, name, model):
        """What is left, trained a little more."""
        epochs, rate = self.recipe.fine_tune, self.recipe.rate / 5
        return self.trained(name, lambda: model, epochs, rate)

    def cut(self, name, model, thresholds):
        """The numbers of a cut, before and after fine-tuning."""

        def numbers():
            small = kg.surgeon.prune(model, thresholds)
            found = kg.surgeon.verify(model, small, thresholds)
            return {
                "uncut": training.accuracy(model, self.data),
                "cut": training.accuracy(small, self.data),
                "tuned": training.accuracy(self.tuned(name, small), self.data),
                "differs": max(found.values()),
                **self.sizes(small),
            }

        return self.record.numbers(name, numbers)

    def plain(self, name, model):
        """The numbers of a model that is not cut."""

        def numbers():
            right = training.accuracy(model, self.data)
            return {"uncut": right, **self.sizes(model)}

        return self.record.numbers(name, numbers)

    def sizes(self, model):
        """Its multiply-adds and parameters, as shares of the dense ones."""
        found = kg.stats.compare(self.fresh(), model)
        return {
            "macs": 1 - found.macs_removed,
            "params": 1 - found.params_removed,
        }


def compare(run):
    """Ways to choose stripes, at the same multiply-adds."""
    recipe = run.recipe
    plain = run.trained("plain", run.fresh)
    skeleton = run.trained("skeleton", lambda: skeletons(run, run.fresh()))
    sparse = run.trained("lasso", lambda: lasso(run, run.fresh()))
    models = {
        "skeleton": skeleton,
        "lasso": scored(sparse, norms, recipe.decay),
        "norm": scored(plain, norms, recipe.decay),
        "random": scored(plain, at_random(run.seed), recipe.decay),
    }
    rows = {"not pruned": run.plain("plain", plain)}
    for share in recipe.shares:
        for name, model in models.items():
            closed = {"stripe": kg.Budget(macs=share)}
            row = run.cut(f"{name}-{round(100 * share)}", model, closed)
            rows[f"{NAMES[name]}, {share:.0%}"] = row
    draw(run, models["skeleton"], recipe.shares[-1])
    return rows


def continual(run):
    """Filters first, then stripes of what is left; and filters alone."""
    recipe = run.recipe
    plain = run.trained("plain", run.fresh)
    dense = kg.stats.count(plain).macs
    gated = run.trained("gated", lambda: gates(run.fresh(), recipe.gates))
    rows = {"not pruned": run.plain("plain", plain)}
    shares = (recipe.filters, *recipe.shares)
    for share in shares:
        closed = {"filter": kg.Budget(macs=round(share * dense))}
        name = f"filters-{round(100 * share)}"
        rows[f"filters, {share:.0%}"] = run.cut(name, gated, closed)
    first = f"filters-{round(100 * recipe.filters)}"
    small = run.record.model(first, None)
    striped = run.trained("continued", lambda: skeletons(run, small))
    for share in recipe.shares:
        closed = {"stripe": kg.Budget(macs=round(share * dense))}
        row = run.cut(f"continued-{round(100 * share)}", striped, closed)
        rows[f"filters, {recipe.filters:.0%}, then stripes, {share:.0%}"] = row
    return rows


def draw(run, model, share):
    """The supplement's figure 2, of the net with the fewest stripes."""
    path = run.record.folder / "stripes.png"
    if path.exists():
        return
    small = kg.surgeon.prune(model, {"stripe": kg.Budget(macs=share)})
    with training.beside(path) as new:
        kg.stats.draw_stripes(small).savefig(new, dpi=110)


# Models ------------------------------------------------------------------


def skeletons(run, model):
    """A model with a skeleton to train in each convolution."""
    recipe = run.recipe
    return kg.to_stripconv(
        model,
        recipe.skeleton,
        skeleton_constraint=kg.constraints.HardThreshold(recipe.delta),
    )


def gates(model, strength):
    """A model with a gate on the channels of each convolution."""
    spec = GateSpec(strength=strength, weigh="count")
    return kg.insert_gates(model, filters=spec)


def lasso(run, model):
    """A model with the penalty of group lasso on each kernel's stripes."""
    penalty = GroupLasso(run.recipe.lasso, run.recipe.decay)
    for layer in kg.to_stripconv(model).layers:
        if isinstance(layer, kg.StripConv):
            conv = model.get_layer(layer.name)
            conv.kernel_regularizer = conv.kernel.regularizer = penalty
    return model


@keras.saving.register_keras_serializable(package="swp")
class GroupLasso(keras.regularizers.Regularizer):
    """The sum of the norms of all stripes, and weight decay."""

    def __init__(self, strength, decay):
        self.strength, self.decay = strength, decay

    def __call__(self, kernel):
        squares = ops.sum(ops.square(kernel), axis=2)
        # The gradient of a root is infinite at 0.
        norms = ops.sum(ops.sqrt(squares + 1e-12))
        return self.strength * norms + self.decay * ops.sum(squares)

    def get_config(self):
        return {"strength": self.strength, "decay": self.decay}


def norms(layer):
    """The norm of each stripe."""
    kernel = ops.convert_to_numpy(layer.kernel)
    return np.sqrt((kernel**2).sum(axis=2))


def at_random(seed):
    """Scores that tell nothing."""
    rng = np.random.default_rng(seed)
    return lambda layer: rng.uniform(0.1, 1, layer.skeleton.shape)


def scored(model, score, decay):
    """The same function, with skeletons that hold a score for each stripe.

    Stripes are cut by the size of their factors. So the score becomes the
    factor, and the kernel is divided by it.
    """
    striped = kg.to_stripconv(model)
    for layer in striped.layers:
        if isinstance(layer, kg.StripConv):
            # Group lasso has chosen; fine-tuning is the same for all.
            layer.kernel_regularizer = keras.regularizers.L2(decay)
            factors = np.maximum(score(layer), 1e-6)
            kernel = ops.convert_to_numpy(layer.kernel)
            layer.kernel.assign(kernel / factors[:, :, None])
            layer.skeleton.assign(factors)
    return striped


def network(name, shape, decay):
    """A network that returns logits."""
    if name == "small_vgg":
        widths = (16, 16, 32, 32, 64, 64)
        return small_vgg(shape, decay, widths, pooled=(2, 4))
    make = {
        "lenet5": kg.zoo.lenet5,
        "resnet20": lambda *a, **k: kg.zoo.resnet(20, "pad", *a, **k),
        "vgg16": kg.zoo.vgg16,
    }[name]
    return make(shape, l2=decay, classifier_activation=None)


# Table -------------------------------------------------------------------


def report(args, rows):
    """The mean over the seeds, and each seed after fine-tuning."""
    head = "stripes cut by, multiply-adds allowed|uncut|cut|fine-tuned"
    head += "|each seed|MACs|parameters|cut differs"
    cells = []
    for name, seeds in rows.items():
        line = [name]
        for key in ("uncut", "cut", "tuned"):
            every = [100 * row[key] for row in seeds if key in row]
            line.append(f"{np.mean(every):.2f}" if every else "")
        last = [row.get("tuned", row["uncut"]) for row in seeds]
        line.append(" ".join(f"{100 * value:.2f}" for value in last))
        for key in ("macs", "params"):
            line.append(f"{np.mean([row[key] for row in seeds]):.1%}")
        worst = [row["differs"] for row in seeds if "differs" in row]
        cells.append([*line, f"{max(worst):.0e}" if worst else ""])
    told = " ".join(map(str, args.seeds))
    title = f"Accuracy on the test images, last epoch, per cent; seeds {told}"
    training.table(title, head.split("|"), cells)


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
        default="lenet5",
        help="network to prune",
    )
    add("--continual", action="store_true", help="filters first, then stripes")
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="seeds, one run each",
    )
    add("--epochs", type=int, help="epochs of each training")
    add("--fine-tune", type=int, help="epochs after each cut")
    add("--skeleton", type=float, help="strength of the L1 on skeletons")
    add("--lasso", type=float, help="strength of the group lasso")
    add("--gates", type=float, help="strength of the L1 on filter gates")
    add("--shares", type=float, nargs="+", help="shares of MACs to keep")
    add("--images", type=int, help="training images; all by default")
    add("--data-dir", help="tensorflow_datasets folder")
    add(
        "--output",
        type=pathlib.Path,
        default="build/swp",
        help="folder for results",
    )
    add("--smoke", action="store_true", help="a quick run, for tests")
    args = parser.parse_args(argv)
    if args.smoke:
        args.seeds = [0]
    return args


if __name__ == "__main__":
    main()
