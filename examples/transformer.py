"""A small transformer at half its multiply-adds, in four ways.

    python examples/transformer.py --task words --seeds 0 1 2
    python examples/transformer.py --task images --data-dir FOLDER

"words" are sentences of a small grammar: does each verb agree with its subject?
"images" are the digits of MNIST at 14x14 pixels, as patches of 2x2. A
transformer is trained, and then made smaller in its heads, in the hidden layers
of its blocks, and in its width, the channels of the stream that all blocks read
and write:

- "gates": gates on all of these, and on whole branches, are trained by
  `ReachBudget`;
- "l2", "taylor": scores decide what is removed, and training continues;
- "minitron": the size of activations on a thousand inputs decides what is
  removed, and the rest is distilled: it learns the logits of the whole model,
  as in Muralidharan et al. (2024, https://arxiv.org/abs/2407.14679);
- "random": the control, for what training alone recovers.

All have the same budget and number of epochs, and "whole" is trained for the
same time. Results are kept in `--output`, and not trained again.
"""

import argparse
import pathlib

import keras
import numpy as np
import training
import transformer_tasks as tasks

import keras_gates as kg

WAYS = ("gates", "l2", "taylor", "minitron", "random")
# Of the teacher's answers beside the labels', and how much they are softened.
SHARE, TEMPERATURE = 0.7, 2.0


def main(argv=None):
    """Run all ways of all seeds, and print the table."""
    args = arguments(argv)
    data = load(args)
    found = {}
    for seed in args.seeds:
        runs = Runs(args, data, seed)
        found[seed, "whole"] = runs.whole_row()
        for way in args.ways:
            found[seed, way] = runs.row(way)
    report(args, found)


def load(args):
    """The data of the task."""
    if args.task == "images":
        return training.load(
            "mnist", args.data_dir, args.count, args.smoke, halve=True
        )
    return tasks.words(args.count)


class Runs:
    """The trainings of one seed; each is done once."""

    def __init__(self, args, data, seed):
        self.args, self.data, self.seed = args, data, seed
        self.record = training.Record(args.output / f"{args.task}-seed{seed}")

    @property
    def base(self):
        """The network that all ways begin with: a new object each time."""
        return self.train("base", self.network, self.args.epochs)

    def network(self):
        """The network before any training."""
        keras.utils.set_random_seed(self.seed)
        make = {"images": tasks.image_model, "words": tasks.word_model}
        return make[self.args.task](self.data.x_train.shape[1:])

    def train(self, name, make, epochs, data=None, **options):
        """The model of a name, trained if it was not before."""
        return self.record.trained(
            name,
            make,
            data or self.data,
            seed=self.seed,
            epochs=epochs,
            rate=self.args.rate,
            batch_size=self.args.batch_size,
            optimizer="adamw",
            **options,
        )

    def row(self, way):
        """The numbers of one way."""
        name = f"{way}-{self.args.macs:g}"
        return self.record.numbers(name, lambda: self.pruned(way, name))

    def pruned(self, way, name):
        """Prune and train; accuracies and sizes."""
        if way == "gates":
            tuned = self.by_gates(name)
            at_cut = training.accuracy(tuned, self.data)
        else:
            cut = self.by_scores(way)
            # Before `cut` itself is trained.
            at_cut = training.accuracy(cut, self.data)
            tuned = self.trained_on(way, name, cut)
        size = kg.stats.compare(self.base, tuned)
        return {
            "cut": at_cut,
            "tuned": training.accuracy(tuned, self.data),
            "macs": 1 - size.macs_removed,
            "params": 1 - size.params_removed,
        }

    def by_gates(self, name):
        """Gates are trained and closed; nothing is trained after the cut."""
        reach = kg.callbacks.ReachBudget(
            macs=self.args.macs, backup_dir=self.record.state(f"{name}-reach")
        )

        def gated():
            return kg.insert_gates(
                self.base, heads=True, filters=True, branches=True
            )

        def smaller():
            model = gated()
            self.record.fit(
                name,
                model,
                self.data,
                seed=self.seed,
                epochs=self.args.gating,
                rate=self.args.rate,
                batch_size=self.args.batch_size,
                optimizer="adamw",
                callbacks=[reach],
            )
            return kg.surgeon.prune(model, reach.thresholds)

        return self.record.model(name, smaller)

    def by_scores(self, way):
        """The model at the cut."""
        base = self.base
        criterion = "mean" if way == "minitron" else way
        inputs = self.data.x_train[:1024]
        samples = {
            "taylor": (inputs, self.data.y_train[:1024]),
            "minitron": inputs,
        }.get(way)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        scores = kg.surgeon.score(
            base,
            criterion,
            samples,
            loss=loss if way == "taylor" else None,
            seed=self.seed,
        )
        budget = kg.Budget(macs=self.args.macs)
        return kg.surgeon.prune(base, budget, scores=scores)

    def trained_on(self, way, name, cut):
        if way != "minitron":
            return self.train(name, lambda: cut, self.args.more)
        data = taught(self.base, self.data)
        return self.train(
            name, lambda: cut, self.args.more, data=data, loss=distilling
        )

    def whole_row(self):
        """The numbers of the network that is not pruned, trained as long."""

        def numbers():
            whole = self.train("whole", lambda: self.base, self.args.more)
            return {
                "cut": training.accuracy(self.base, self.data),
                "tuned": training.accuracy(whole, self.data),
                "macs": 1.0,
                "params": 1.0,
            }

        return self.record.numbers("whole", numbers)


# Distillation ------------------------------------------------------------


def taught(teacher, data):
    """The data, with the teacher's logits after the numbers of classes."""
    logits = teacher.predict(data.x_train, batch_size=500, verbose=0)
    y = np.concatenate([data.y_train[:, None], logits], 1).astype("float32")
    return training.Data(data.x_train, y, data.x_test, data.y_test)


def distilling(y, logits):
    """The loss of a student: what the teacher says, and what is right."""
    ops, t = keras.ops, TEMPERATURE
    right, taught = y[:, 0], y[:, 1:]
    own = keras.losses.sparse_categorical_crossentropy(
        right, logits, from_logits=True
    )
    soft = ops.categorical_crossentropy(
        ops.softmax(taught / t), logits / t, from_logits=True
    )
    return (1 - SHARE) * own + SHARE * t**2 * soft


# The table ---------------------------------------------------------------


def report(args, found):
    """A row for each way."""
    rows = []
    for way in ("whole", *args.ways):
        every = [found[seed, way] for seed in args.seeds]
        percent = {
            key: 100 * np.mean([row[key] for row in every]) for key in every[0]
        }
        each = " ".join(f"{100 * row['tuned']:.2f}" for row in every)
        rows.append(
            (
                way,
                f"{percent['tuned']:.2f}",
                each,
                f"{percent['cut']:.2f}",
                f"{percent['macs']:.1f}",
                f"{percent['params']:.1f}",
            )
        )
    head = "way|accuracy|of each seed|at the cut|MACs left|parameters left"
    training.table(
        f"Transformer on {args.task}, last epoch, per cent",
        head.split("|"),
        rows,
    )


# The command line --------------------------------------------------------


def arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--task",
        choices=["words", "images"],
        default="words",
        help="task to train on",
    )
    add(
        "--ways",
        nargs="+",
        choices=WAYS,
        default=list(WAYS),
        help="ways to prune",
    )
    add("--macs", type=float, default=0.5, help="share of MACs to keep")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds, one run each")
    add("--epochs", type=int, default=10, help="epochs before pruning")
    add("--more", type=int, default=10, help="epochs after that, each way")
    add("--rate", type=float, default=2e-3, help="initial learning rate")
    add("--batch-size", type=int, default=64, help="batch size")
    add("--count", type=int, default=20_000, help="training samples")
    add("--data-dir", help="tensorflow_datasets folder")
    add(
        "--output",
        type=pathlib.Path,
        default="build/transformer",
        help="folder for results",
    )
    add("--smoke", action="store_true", help="a quick run, for tests")
    args = parser.parse_args(argv)
    if args.smoke:
        args.seeds, args.count, args.batch_size = [0], 64, 4
        args.epochs = args.more = 1
    # A budget needs 200 steps.
    args.gating = 13 if args.smoke else args.more
    return args


if __name__ == "__main__":
    main()
