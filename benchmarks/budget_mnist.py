"""The published MNIST budgets, by `ReachBudget`: no strength, no threshold.

    KERAS_BACKEND=tensorflow python benchmarks/budget_mnist.py lenet5 \
        --data-dir FOLDER --seeds 0 1 2
    KERAS_BACKEND=jax python benchmarks/budget_mnist.py mlp \
        --data-dir FOLDER --seeds 0 1 2 --optimizer sgd --rate 0.05

"mlp" is 784-500-300-10 with gates on its inputs as well, brought to a 26th of
its weights; "lenet5" is 20-50-500-10, brought to 116,000 multiply-adds. All
60,000 images; errors of the last epoch on the 10,000 test images. For each
seed, there is a baseline with the same number of epochs, and a network that was
pruned at random to the same size before training. Results are kept in
`--output`.
"""

import argparse
import pathlib
import sys

import keras
import numpy as np

import keras_gates as kg
from keras_gates.surgeon.gates.expand import read
from keras_gates.surgeon.gates.find import factors_of
from keras_gates.transforms import GateSpec

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import training

BUDGETS = {"mlp": {"params": 1 / 26}, "lenet5": {"macs": 116_000}}
EPOCHS = {"mlp": 40, "lenet5": 20}
ROWS = ("reach", "baseline", "random")


def network(name):
    """The network, which returns logits."""
    options = {"classifier_activation": None}
    if name == "mlp":
        return kg.zoo.mlp(norm=True, **options)
    return kg.zoo.lenet5(**options)


class Runs:
    """The trainings of one network and seed; each is done once."""

    def __init__(self, args, data, seed):
        self.args, self.data, self.seed = args, data, seed
        folder = args.output / f"{args.network}-seed{seed}"
        self.record = training.Record(folder)

    def fresh(self):
        keras.utils.set_random_seed(self.seed)
        return network(self.args.network)

    def gated(self):
        spec = GateSpec(inputs=self.args.network == "mlp")
        return kg.insert_gates(self.fresh(), filters=spec)

    def fit(self, name, model, *callbacks):
        return self.record.fit(
            name,
            model,
            self.data,
            seed=self.seed,
            epochs=self.args.epochs,
            rate=self.args.rate,
            optimizer=self.args.optimizer,
            callbacks=list(callbacks),
        )

    def reach(self):
        """Gates are trained and cut; nothing is trained after it."""
        model = self.gated()
        reach = kg.callbacks.ReachBudget(
            **BUDGETS[self.args.network],
            backup_dir=self.record.state("reach-budget"),
        )
        self.fit("reach", model, reach)
        return kg.surgeon.prune(model, reach.thresholds)

    def baseline(self):
        return self.fit("baseline", self.fresh())

    def random(self):
        gated, rng = self.gated(), np.random.default_rng(self.seed)
        scores = {
            gate.name: rng.random(gate.values.shape)
            for gate in factors_of(read(gated))
            if gate.kind != "batch_norm"
        }
        budget = kg.Budget(**BUDGETS[self.args.network])
        thresholds = dict.fromkeys(scores, budget)
        cut = kg.surgeon.prune(gated, thresholds, scores=scores)
        return self.fit("random", cut)

    def row(self, name, make):
        def numbers():
            model = self.record.model(name, make)
            size = kg.stats.count(model)
            return {
                "error": 1 - training.accuracy(model, self.data),
                "params": size.params,
                "macs": size.macs,
            }

        return self.record.numbers(name, numbers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("network", choices=BUDGETS)
    add("--data-dir", help="folder of tensorflow_datasets")
    add("--seeds", nargs="*", type=int, default=[0])
    add("--epochs", type=int)
    add("--optimizer", choices=["sgd", "adamw"], default="adamw")
    add("--rate", type=float, default=2e-3)
    add("--rows", nargs="*", choices=ROWS, default=ROWS)
    add("--output", type=pathlib.Path, default="build/budget_mnist")
    args = parser.parse_args()
    args.epochs = args.epochs or EPOCHS[args.network]
    data = training.load("mnist", args.data_dir)
    if args.network == "mlp":
        data.x_train = data.x_train.reshape(len(data.x_train), -1)
        data.x_test = data.x_test.reshape(len(data.x_test), -1)
    for seed in args.seeds:
        runs = Runs(args, data, seed)
        for name in args.rows:
            told = runs.row(name, getattr(runs, name))
            print(args.network, seed, name, told, flush=True)


if __name__ == "__main__":
    main()
