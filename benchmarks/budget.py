"""Training to a budget, at sizes that take minutes on a CPU core.

    KERAS_BACKEND=tensorflow python benchmarks/budget.py --data-dir FOLDER

For each network and seed: the unchanged network; the same trained with
`ReachBudget`, before and after pruning; and, as a control, a network that was
pruned at random to the same multiply-adds before training. All have the same
epochs, batches and rates, and none is fine-tuned. Accuracies are those of the
last epoch on the test images.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from keras import layers

import keras_gates as kg
from keras_gates.surgeon.gates.expand import read
from keras_gates.surgeon.gates.find import factors_of

WIDTHS, POOLED = (16, 16, 32, 32, 64, 64), (2, 4)


def vgg(shape):
    """Six convolutions with batch normalizations."""
    x = inputs = keras.Input(shape)
    for number, width in enumerate(WIDTHS, 1):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        if number in POOLED:
            x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def vit(shape, depth=3, width=32, patch=2):
    """A small transformer on patches."""
    x = inputs = keras.Input(shape)
    x = layers.Conv2D(width, patch, patch)(x)
    count = (shape[0] // patch) * (shape[1] // patch)
    x = layers.Reshape((count, width))(x)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 8)(y, y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


# Network, whether images are halved, and the optimizer.
NETWORKS = {
    "mlp": (lambda shape: kg.zoo.mlp(input_shape=shape), False, "adam"),
    "lenet5": (lambda shape: kg.zoo.lenet5(), False, "sgd"),
    "resnet20": (
        lambda shape: kg.zoo.resnet(20, input_shape=shape),
        True,
        "sgd",
    ),
    "vgg": (vgg, True, "sgd"),
    "vit": (vit, True, "adamw"),
}


def load(options, halved):
    """MNIST, whitened; at half its size where asked for."""
    import tensorflow_datasets as tfds

    parts = tfds.load(
        "mnist",
        split=[f"train[:{options.images}]", f"test[:{options.test_images}]"],
        data_dir=options.data_dir,
        batch_size=-1,
        download=options.data_dir is None,
    )
    arrays = []
    for part in tfds.as_numpy(parts):
        x = (part["image"].astype("float32") / 255 - 0.1307) / 0.3081
        if halved:
            x = x.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
        arrays += [x, part["label"]]
    return arrays


def optimizer_of(name, steps):
    cosine = keras.optimizers.schedules.CosineDecay
    if name == "sgd":
        rate = cosine(0.05, steps)
        return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    if name == "adam":
        return keras.optimizers.Adam(1e-3)
    return keras.optimizers.AdamW(cosine(2e-3, steps), weight_decay=0.01)


def train(model, data, optimizer, options, callbacks=()):
    """Train a model and return its accuracy on the test images."""
    x, y, x_test, y_test = data
    steps = options.epochs * -(-len(x) // options.batch)
    model.compile(
        optimizer_of(optimizer, steps), "sparse_categorical_crossentropy"
    )
    model.fit(
        x,
        y,
        batch_size=options.batch,
        epochs=options.epochs,
        callbacks=list(callbacks),
        verbose=0,
    )
    return accuracy(model, x_test, y_test)


def accuracy(model, x, y):
    answers = model.predict(x, batch_size=500, verbose=0).argmax(-1)
    return float((answers == y).mean())


def at_random(gated, budget, seed):
    """A model of which a budget was cut at random."""
    rng = np.random.default_rng(seed)
    gates = [g for g in factors_of(read(gated)) if g.kind != "batch_norm"]
    scores = {gate.name: rng.random(gate.values.shape) for gate in gates}
    thresholds = dict.fromkeys(scores, budget)
    return kg.surgeon.prune(gated, thresholds, scores=scores)


def measure(name, macs, seed, options):
    """The row of one network, budget and seed, as a dict."""
    make, halved, optimizer = NETWORKS[name]
    data = load(options, halved)
    if name == "mlp":
        data[::2] = [x.reshape(len(x), -1) for x in data[::2]]
    shape = data[0].shape[1:]

    def fresh():
        keras.utils.set_random_seed(seed)
        return make(shape)

    def gated():
        heads = True if name == "vit" else None
        return kg.insert_gates(fresh(), filters=True, heads=heads)

    row = {"network": name, "optimizer": optimizer, "macs": macs, "seed": seed}
    row["baseline"] = train(fresh(), data, optimizer, options)
    control = at_random(gated(), kg.Budget(macs=macs), seed)
    row["random"] = train(control, data, optimizer, options)
    model, reach = gated(), kg.callbacks.ReachBudget(macs=macs)
    row["gated"] = train(model, data, optimizer, options, [reach])
    plan = kg.surgeon.plan(model, reach.thresholds)
    row["left"] = plan.macs.after / plan.macs.before
    row["cut"] = accuracy(plan.apply(), *data[2:])
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data-dir", help="folder of tensorflow_datasets")
    add("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    add("--macs", nargs="*", type=float, default=[0.5, 0.25])
    add("--seeds", nargs="*", type=int, default=[0])
    add("--images", type=int, default=10_000)
    add("--test-images", type=int, default=10_000)
    add("--epochs", type=int, default=4)
    add("--batch", type=int, default=64)
    add("--output", type=pathlib.Path, default="build/budget.jsonl")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(f"backend: {keras.backend.backend()}, keras {keras.__version__}")
    for name in options.networks:
        for macs in options.macs:
            for seed in options.seeds:
                row = measure(name, macs, seed, options)
                with options.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
