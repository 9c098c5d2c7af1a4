"""A run that can be interrupted: its images, its folder, its trainings."""

import dataclasses
import json
import sys

import keras
import numpy as np
import quickstart
from quickstart import beside
from training import Order

FLIPPED = ("cifar10", "fashion_mnist")  # A digit's mirror image is none.


# Data ---------------------------------------------------------------------


@dataclasses.dataclass
class Data:
    """Images from 0 to 1 and the numbers of their classes, in three parts."""

    train: tuple
    held: tuple
    test: tuple


def load(args):
    """The images that are asked for, at the size that the network takes."""
    if args.dataset == "digits":
        data = quickstart.load_digits(args.seed)
        # From 8x8 to 24x24; the border comes below.
        data.x_train, data.x_test = (
            images.repeat(3, axis=1).repeat(3, axis=2)
            for images in (data.x_train, data.x_test)
        )
    else:
        data = quickstart.load_from_tfds(args.dataset, args.data_dir)
    size = 28 if args.model in ("mlp", "lenet5") else 32
    x, x_test = (enlarged(i, size) for i in (data.x_train, data.x_test))
    y, y_test = (y.astype("int32") for y in (data.y_train, data.y_test))
    if args.small:
        x, y, x_test, y_test = x[:320], y[:320], x_test[:128], y_test[:128]
    rest = len(x) - args.held_out
    held = (x[rest:], y[rest:]) if args.held_out else (x, y)
    return Data((x[:rest], y[:rest]), held, (x_test, y_test))


def enlarged(images, size):
    """Images with a border of zeros, where they are smaller than `size`."""
    border = max(0, size - images.shape[1]) // 2
    sides = (border, border)
    return np.pad(images, ((0, 0), sides, sides, (0, 0)))


class Batches(keras.utils.PyDataset):
    """Shuffled images, shifted and flipped where that helps.

    What an epoch is like depends on the seed and its number alone, so that a
    training that was cut goes on as it would have gone.
    """

    def __init__(self, images, args):
        super().__init__()
        self.x, self.y = images
        self.args = args
        self.begin(0)

    def begin(self, epoch):
        """Shuffle for an epoch."""
        self.epoch = epoch
        rng = np.random.default_rng((self.args.seed, epoch))
        self.order = rng.permutation(len(self.x))

    def __len__(self):
        return -(-len(self.x) // self.args.batch)

    def __getitem__(self, number):
        args = self.args
        rng = np.random.default_rng((args.seed, self.epoch, number))
        at = self.order[number * args.batch :][: args.batch]
        images = self.x[at]
        if args.shift:
            images = shifted(images, args.shift, rng)
        if args.dataset in FLIPPED:
            mirrored = rng.random(len(images)) < 0.5
            images[mirrored] = images[mirrored, :, ::-1]
        return images, self.y[at]


def shifted(images, most, rng):
    """Each image moved by some pixels, zeros coming in at its border."""
    sides = (most, most)
    padded = np.pad(images, ((0, 0), sides, sides, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, images.shape[1:3], axis=(1, 2)
    )
    count = len(images)
    rows, columns = rng.integers(0, 2 * most + 1, (2, count))
    found = windows[np.arange(count), rows, columns]
    return np.ascontiguousarray(found.transpose(0, 2, 3, 1))


# The folder ---------------------------------------------------------------


class Run:
    """The stages of a run, each done once, and what is left of it."""

    def __init__(self, args):
        args.output.mkdir(parents=True, exist_ok=True)
        self.args = args
        self._check()
        self.data = load(args)

    def _check(self):
        """Refuse a folder that holds another run."""
        # The same run with a control is no other run.
        loose = ("control", "data_dir")
        own = {k: str(v) for k, v in sorted(vars(self.args).items())}
        path = self.args.output / "arguments.json"
        there = json.loads(path.read_text()) if path.exists() else own
        strange = [
            key
            for key in own
            if own[key] != there.get(key) and key not in loose
        ]
        if strange:
            sys.exit(
                f"{self.args.output} holds a run with other arguments: "
                f"{', '.join(strange)}. Choose another --output."
            )
        write(path, json.dumps(own, indent=1))

    def stage(self, name, make=None):
        """A model that is made once, and read from its file."""
        path = self.args.output / f"{name}.keras"
        if not path.exists():
            quickstart.save(make(), path)
        return keras.models.load_model(path, compile=False)

    def train(self, name, make, epochs, rate=None, callbacks=(), adam=False):
        """A model that is trained once, on from where a run was cut."""
        args = self.args
        if (args.output / f"{name}.keras").exists():
            return self.stage(name)
        # So that a stage is the same whether or not others came before.
        keras.utils.set_random_seed(args.seed)
        batches = Batches(self.data.train, args)
        path = args.output / f"{name}-unfinished.keras"
        if path.exists():
            model = keras.models.load_model(path)
            steps = int(model.optimizer.iterations)
            first = steps // len(batches)
        else:
            first = 0
            model = make()
            steps = epochs * len(batches)
            compile_(model, rate or args.rate, steps, adam)
        model.fit(
            batches,
            epochs=epochs,
            initial_epoch=first,
            shuffle=False,  # the batches are
            callbacks=[*callbacks, Order(batches), Keep(path)],
            # A bar on a terminal, a line for each epoch in a log.
            verbose=1 if sys.stdout.isatty() else 2,
        )
        model = self.stage(name, lambda: model)
        path.unlink(missing_ok=True)
        return model


class Keep(keras.callbacks.Callback):
    """Saves the model, with its optimizer, at the end of each epoch."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        with beside(self.path) as new:
            self.model.save(new)


def compile_(model, rate, steps, adam):
    """SGD or Adam, its rate falling to zero; gates' penalty is in the loss."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, max(steps, 1))
    model.compile(
        keras.optimizers.Adam(schedule)
        if adam
        else keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def write(path, text):
    """Write a file that is there as a whole or not at all."""
    with beside(path) as new:
        new.write_text(text)
