"""Separated shortcuts: does it matter where channels may be pruned?

    python examples/sspruning.py --where both --score learned
    python examples/sspruning.py --where both block shortcut tied
        --score learned taylor random --seeds 0 1 2

prunes a ResNet for CIFAR-10 to a share of its multiply-adds, and fine-tunes
it. In a ResNet, an identity shortcut ties the channels of all blocks of a
stage together. A 1x1 convolution on each, the identity at the start, cuts
these ties.

`--where`: "block" closes channels inside the blocks only, "shortcut" those
after the additions only, "both" all of them; "tied" is "both" without the
1x1 convolutions. `--score`: "learned" ranks gates by their size after training
with an L1 penalty, "taylor" by the first-order effect on the loss, "random" is
the control. All cells have the same multiply-adds, relative to the network
*before* the 1x1 convolutions were inserted, and the same number of epochs.

Results are kept in `--output`, and not trained again.
"""

import argparse
import pathlib

import keras
import numpy as np
import training

import keras_gates as kg
from keras_gates.transforms import GateSpec

# ResNet-32 on CIFAR-10, test accuracy in per cent: the paper's ablation.
# The network before it was pruned has 92.54.
PAPER = {
    0.5: {
        ("block", "learned"): "92.58",
        ("shortcut", "learned"): "92.16",
        ("both", "learned"): "92.80",
        ("block", "random"): "92.32",
        ("shortcut", "random"): "92.29",
        ("both", "random"): "92.51",
    },
    0.4: {
        ("block", "learned"): "92.08",
        ("shortcut", "learned"): "91.57",
        ("both", "learned"): "92.36",
        ("block", "random"): "91.84",
        ("shortcut", "random"): "91.85",
        ("both", "random"): "92.03",
    },
}
# First convolutions of blocks have all channels to themselves.
INSIDE = "*_conv1"


def main(argv=None):
    """Run all cells of all seeds, and print the table."""
    args = arguments(argv)
    data = training.load(
        "cifar10", args.data_dir, args.images, args.smoke, args.halve
    )
    found = {}
    for seed in args.seeds:
        runs = Runs(args, data, seed)
        for cell in cells(args):
            found[(seed, *cell)] = runs.cell(*cell)
        found[seed, "base"] = runs.base_row()
    report(args, found)


def cells(args):
    """`(where, score)` of all cells that were asked for."""
    return [(where, score) for where in args.where for score in args.score]


class Runs:
    """The trainings of one seed; each is done once."""

    def __init__(self, args, data, seed):
        self.args, self.data, self.seed = args, data, seed
        name = f"resnet{args.depth}-seed{seed}"
        self.record = training.Record(args.output / name)
        self.base = self.train("base", self.network, args.epochs, 0.1)

    def network(self):
        """The network before any training."""
        keras.utils.set_random_seed(self.seed)
        return kg.zoo.resnet(
            self.args.depth,
            input_shape=self.data.x_train.shape[1:],
            classifier_activation=None,
            l2=self.args.decay,
        )

    def train(self, name, make, epochs, rate):
        """The model of a name, trained if it was not before."""
        options = {"seed": self.seed, "epochs": epochs, "rate": rate}
        return self.record.trained(name, make, self.data, **options)

    def cell(self, where, score):
        """The numbers of one cell."""
        share = f"{self.args.macs:g}"
        name = f"{where}-{score}-{share}"
        return self.record.numbers(
            name, lambda: self.pruned(where, score, name)
        )

    def pruned(self, where, score, name):
        """Prune and fine-tune; accuracies and sizes."""
        gated = self.gated(where, score)
        options = {}
        if score != "learned":
            options["scores"] = self.scores(gated, score)
        budget = kg.Budget(macs=self.share(gated))
        small = kg.surgeon.prune(gated, budget, **options)
        cut = training.accuracy(small, self.data)
        args = self.args
        tuned = self.train(name, lambda: small, args.fine_tune, args.rate)
        size = kg.stats.compare(self.base, tuned)
        return {
            "gated": training.accuracy(gated, self.data),
            "cut": cut,
            "tuned": training.accuracy(tuned, self.data),
            "macs": 1 - size.macs_removed,
            "params": 1 - size.params_removed,
        }

    def gated(self, where, score):
        """The network with gates, after the training before the cut.

        Without a penalty all gates stay at 1, so that they need no training.
        """
        args = self.args
        tied = where == "tied"

        def untied():
            return self.base if tied else kg.separate_shortcuts(self.base)

        spec = {
            "block": {"include": INSIDE},
            "shortcut": {"exclude": INSIDE},
        }.get(where, {})
        if score == "learned":
            return self.train(
                f"{where}-sparse",
                lambda: kg.insert_gates(untied(), self.ranked(spec)),
                args.sparse_epochs,
                args.rate,
            )
        name = "tied-plain" if tied else "separated"
        model = self.train(name, untied, args.sparse_epochs, args.rate)
        return kg.insert_gates(model, GateSpec(**spec))

    def ranked(self, spec):
        """Gates that end in an order: none stops at 1, all are pulled alike.

        The mean over a layer would pull narrow layers harder, and all gates
        of a network are ranked together.
        """
        penalty = kg.regularizers.L1(self.args.strength)
        return GateSpec(regularizer=penalty, constraint=None, **spec)

    def scores(self, gated, score):
        """The scores of all gates."""
        data = self.data.x_train[:1024], self.data.y_train[:1024]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return kg.surgeon.score(
            gated, score, data, of="gates", loss=loss, seed=self.seed
        )

    def share(self, gated):
        """The budget as a share of what the gated network costs."""
        whole = kg.stats.count(self.base).macs
        return self.args.macs * whole / kg.stats.count(gated).macs

    def base_row(self):
        """The numbers of the network before it is pruned."""
        return self.record.numbers(
            "base", lambda: {"tuned": training.accuracy(self.base, self.data)}
        )


# The table ---------------------------------------------------------------


def report(args, found):
    """A row for each cell, with the paper's number where it has one."""
    theirs = PAPER.get(args.macs, {})
    base = [found[seed, "base"]["tuned"] for seed in args.seeds]
    rows = [("not pruned", "", *accuracies(base), "", "100.0", "92.54")]
    for cell in cells(args):
        every = [found[(seed, *cell)] for seed in args.seeds]
        rows.append(
            (
                *cell,
                *accuracies([row["tuned"] for row in every]),
                f"{100 * np.mean([row['cut'] for row in every]):.2f}",
                f"{100 * np.mean([row['macs'] for row in every]):.1f}",
                theirs.get(cell, ""),
            )
        )
    head = "where|score|accuracy|of each seed|at the cut|MACs left"
    training.table(
        f"ResNet-{args.depth} on CIFAR-10, last epoch, per cent",
        [*head.split("|"), "paper, ResNet-32"],
        rows,
    )


def accuracies(values):
    """Their mean, and each, as text."""
    each = " ".join(f"{100 * value:.2f}" for value in values)
    return f"{100 * np.mean(values):.2f}", each


# The command line --------------------------------------------------------


def arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    places = ("block", "shortcut", "both", "tied")
    add(
        "--where",
        nargs="+",
        choices=places,
        default=["both"],
        help="parts to prune",
    )
    rankings = ("learned", "random", "taylor")
    add(
        "--score",
        nargs="+",
        choices=rankings,
        default=["learned", "random"],
        help="criterion that ranks the channels",
    )
    add("--macs", type=float, default=0.5, help="share of MACs to keep")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds, one run each")
    add("--depth", type=int, default=20, help="depth of the ResNet")
    add("--epochs", type=int, default=160, help="epochs before pruning")
    add("--sparse-epochs", type=int, default=40, help="epochs with gates")
    add("--fine-tune", type=int, default=80, help="epochs after the cut")
    add("--rate", type=float, default=0.05, help="rate after the cut")
    add("--strength", type=float, default=1e-3, help="penalty on a gate")
    add("--decay", type=float, default=5e-4, help="L2 on kernels")
    add("--images", type=int, help="training images; all by default")
    add("--halve", action="store_true", help="scale images to 16x16 pixels")
    add("--data-dir", help="tensorflow_datasets folder")
    add(
        "--output",
        type=pathlib.Path,
        default="build/sspruning",
        help="folder for results",
    )
    add("--smoke", action="store_true", help="a quick run, for tests")
    args = parser.parse_args(argv)
    if args.smoke:
        args.depth, args.halve, args.seeds = 8, True, [0]
        args.epochs = args.sparse_epochs = args.fine_tune = 1
    return args


if __name__ == "__main__":
    main()
