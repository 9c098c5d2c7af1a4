"""Data, resumable training, and a record of results."""

import contextlib
import dataclasses
import json
import pathlib
import sys

import keras
import numpy as np

# Mean and deviation of the colors of CIFAR-10, as its recipes have them.
CIFAR_MEAN, CIFAR_DEVIATION = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


# Data --------------------------------------------------------------------


@dataclasses.dataclass
class Data:
    """Images, whitened, and the numbers of their classes.

    Attributes:
        augment: whether training images are moved and mirrored.
        shift: by how many pixels at most; None for an eighth of their side.
        in_turn: whether each is mirrored in every other epoch, and not by
            chance.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    augment: bool = False
    shift: int | None = None
    in_turn: bool = False


def load(name, folder=None, images=None, smoke=False, halve=False):
    """MNIST or CIFAR-10; downloaded where `folder` has it not.

    Args:
        name: "mnist" or "cifar10".
        folder: of tensorflow_datasets.
        images: how many of the images to train on, the first; None for all.
        smoke: whether to make random images up instead, a few.
        halve: whether to make them half as wide and high, by averages.
    """
    if smoke:
        data = _made_up(name, images or 64)
    else:
        data = _loaded(name, folder, images)
    if halve:
        data.x_train = _halved(data.x_train)
        data.x_test = _halved(data.x_test)
    return data


def _halved(images):
    count, rows, columns, colors = images.shape
    pairs = (count, rows // 2, 2, columns // 2, 2, colors)
    return images.reshape(pairs).mean((2, 4))


def _loaded(name, folder, images):
    import tensorflow_datasets as tfds

    parts = tfds.load(
        name, split=["train", "test"], data_dir=folder, batch_size=-1
    )
    arrays = []
    for part in tfds.as_numpy(parts):
        arrays += [part["image"].astype("float32") / 255, part["label"]]
    data = Data(*arrays, augment=name == "cifar10")
    mean, deviation = 0.1307, 0.3081
    if name == "cifar10":
        mean, deviation = (
            np.array(x, "float32") for x in (CIFAR_MEAN, CIFAR_DEVIATION)
        )
    data.x_train = (data.x_train[:images] - mean) / deviation
    data.y_train = data.y_train[:images]
    data.x_test = (data.x_test - mean) / deviation
    return data


def _made_up(name, images):
    rng = np.random.default_rng(0)
    shape = (28, 28, 1) if name == "mnist" else (32, 32, 3)
    arrays = []
    for count in (images, 64):
        arrays += [rng.normal(size=(count, *shape)).astype("float32")]
        arrays += [rng.integers(0, 10, count)]
    return Data(*arrays, augment=name == "cifar10")


class Batches(keras.utils.PyDataset):
    """Shuffled batches; with random crops and mirror images if asked for."""

    def __init__(self, data, size, seed):
        super().__init__()
        self.data, self.size, self.seed = data, size, seed
        self.order = np.arange(len(data.x_train))
        self.padded = data.x_train
        if data.augment:
            self.side = data.x_train.shape[1]
            self.most = self.side // 8 if data.shift is None else data.shift
            pad = ((0, 0), *2 * [2 * [self.most]], (0, 0))
            self.padded = np.pad(data.x_train, pad)
        self.begin(0)

    def __len__(self):
        return len(self.order) // self.size

    def begin(self, epoch):
        """Shuffle for an epoch."""
        self.epoch = epoch
        rng = np.random.default_rng((self.seed, self.epoch))
        self.order = rng.permutation(len(self.order))

    def __getitem__(self, index):
        chosen = self.order[index * self.size : (index + 1) * self.size]
        x, y = self.padded[chosen], self.data.y_train[chosen]
        if not self.data.augment:
            return x, y
        rng = np.random.default_rng((self.seed, self.epoch, index))
        across, down = rng.integers(0, 2 * self.most + 1, (2, len(x), 1))
        side = np.arange(self.side)
        mirrored = rng.integers(0, 2, (len(x), 1)).astype(bool)
        if self.data.in_turn:
            first = np.random.default_rng(self.seed).integers(
                0, 2, len(self.order)
            )
            mirrored = ((first[chosen] + self.epoch) % 2 == 0)[:, None]
        columns = across + np.where(mirrored, side[::-1], side)
        rows = (down + side)[:, :, None]
        each = np.arange(len(x))[:, None, None]
        return x[each, rows, columns[:, None, :]], y


# Training ----------------------------------------------------------------


def recipe_of(args, recipes, **smoke):
    """The recipe of a network, with what the command line says otherwise.

    Args:
        args: the command line, with `network` and `smoke`.
        recipes: dataclasses by network.
        smoke: what a smoke run has in their place.
    """
    recipe = recipes[args.network]
    names = {field.name for field in dataclasses.fields(recipe)}
    given = {n: v for n, v in vars(args).items() if n in names}
    given = {n: v for n, v in given.items() if v is not None}
    if args.smoke:
        given |= smoke
    return dataclasses.replace(recipe, **given)


OPTIMIZERS = {
    "sgd": lambda rate: keras.optimizers.SGD(rate, 0.9, nesterov=True),
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.01),
}


def fit(
    model,
    data,
    folder,
    *,
    name,
    epochs,
    rate,
    batch_size=128,
    seed=0,
    optimizer="sgd",
    loss=None,
    rise=0.0,
    callbacks=(),
):
    """Train at a rate that falls to 0; goes on after a cut.

    Args:
        model: a model that returns logits; it is compiled here.
        data: a `Data`.
        folder: where to keep the state after each epoch until it is done.
        name: what the progress is to call it.
        epochs: how many.
        rate: the learning rate at the start.
        batch_size: images in a batch.
        seed: of the order of the images, and what is done to them.
        optimizer: "sgd", with Nesterov's momentum, "adamw", or a function
            that makes one for a schedule.
        loss: by default the cross-entropy of the logits.
        rise: the share of the training in which the rate rises first; it
            falls in a straight line after that, and not along a cosine.
        callbacks: more of them.
    """
    batches = Batches(data, min(batch_size, len(data.x_train)), seed)
    steps = max(1, epochs * len(batches))
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    if rise:
        peak = max(1, int(rise * steps))
        schedule = keras.optimizers.schedules.PolynomialDecay(
            rate, steps - peak
        )
        schedule = Rising(schedule, rate, peak)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    make = OPTIMIZERS.get(optimizer, optimizer)
    model.compile(
        make(schedule),
        cross_entropy if loss is None else loss,
        metrics=["accuracy"] if loss is None else None,
        jit_compile=keras.backend.backend() == "jax",
    )
    state = keras.callbacks.BackupAndRestore(str(folder))
    model.fit(
        batches,
        epochs=epochs,
        shuffle=False,  # the batches are
        callbacks=[state, Order(batches), *callbacks, Progress(name)],
        verbose=0,
    )
    return model


class Order(keras.callbacks.Callback):
    """Says which epoch begins, so that a resumed training goes on in order.

    Batches can't count: on some backends, one is taken to build the model
    before the first epoch.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.begin(epoch)


class Rising(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises in a straight line, and then goes by another."""

    def __init__(self, after, peak, steps):
        self.after, self.peak, self.steps = after, peak, steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rising = self.peak * (step + 1) / self.steps
        left = keras.ops.maximum(step - self.steps, 0)
        return keras.ops.where(step < self.steps, rising, self.after(left))

    def get_config(self):
        return {"after": self.after, "peak": self.peak, "steps": self.steps}


class Progress(keras.callbacks.Callback):
    """A bar on a terminal, a line for each epoch in a log."""

    def __init__(self, name):
        super().__init__()
        self.name, self.bar = name, None

    def on_train_begin(self, logs=None):
        if sys.stdout.isatty():
            from rich.progress import Progress as Bar

            self.bar = Bar()
            self.task = self.bar.add_task(self.name, total=None)
            self.bar.start()

    def on_epoch_begin(self, epoch, logs=None):
        if self.bar:
            steps = self.params["steps"]
            self.bar.reset(self.task, total=steps)

    def on_train_batch_end(self, batch, logs=None):
        if self.bar:
            self.bar.advance(self.task)

    def on_epoch_end(self, epoch, logs=None):
        told = " ".join(f"{k} {v:.4f}" for k, v in logs.items())
        told = f"{self.name} epoch {epoch + 1}/{self.params['epochs']}: {told}"
        show = self.bar.console.print if self.bar else print
        show(told, **({} if self.bar else {"flush": True}))

    def on_train_end(self, logs=None):
        if self.bar:
            self.bar.stop()


def accuracy(model, data):
    """The share of the test images that are told right."""
    right = 0
    for start in range(0, len(data.x_test), 500):
        part = slice(start, start + 500)
        logits = model(data.x_test[part], training=False)
        answers = keras.ops.convert_to_numpy(logits).argmax(-1)
        right += int((answers == data.y_test[part]).sum())
    return right / len(data.x_test)


# What is done, and need not be done again --------------------------------


class Record:
    """Models and numbers by name, in a folder; each is made once."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def state(self, name):
        """Where a training keeps its state until it is done."""
        return self.folder / f"{name}-state"

    def model(self, name, make):
        """The model of that name: from its file, or from `make`."""
        path = self.folder / f"{name}.keras"
        if not path.exists():
            model = make()
            with beside(path) as new:
                keras.Model(model.input, model.output).save(new)
        return keras.models.load_model(path, compile=False)

    def trained(self, name, make, data, *, seed, **options):
        """The model of that name: from its file, or from `make`, trained.

        Nothing is made unless it has to be trained. `options` are those of
        `fit`.
        """
        return self.model(
            name, lambda: self.fit(name, make(), data, seed=seed, **options)
        )

    def fit(self, name, model, data, *, seed, **options):
        """Train a model under that name, with options of `fit`."""
        told = f"seed {seed}, {name}"
        return fit(
            model, data, self.state(name), name=told, seed=seed, **options
        )

    def numbers(self, name, make):
        """The dict of that name: from its file, or from `make`."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            numbers = make()
            with beside(path) as new:
                new.write_text(json.dumps(numbers))
        return json.loads(path.read_text())


@contextlib.contextmanager
def beside(path):
    """A path to write to; it takes the place of `path` once it is whole."""
    new = path.with_name(f"new-{path.name}")
    new.unlink(missing_ok=True)  # By a run that was killed.
    yield new
    new.replace(path)


def table(title, head, rows):
    """Print rows of text: the first column to the left, others right."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        shown.add_column(name, justify="right" if number else "left")
    for row in rows:
        shown.add_row(*map(str, row))
    # Never narrower than the numbers: in a log rich would take 80 columns.
    Console(width=max(130, Console().width)).print(shown)
