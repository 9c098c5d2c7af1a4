"""Fine-tunes a pruned network with the original network as a teacher.

    pip install scikit-learn
    python examples/distill.py --seeds 0 1 2

A small network learns scikit-learn's digits. Channels are cut by their L2 norm
down to a share of its multiply-adds, and the rest is trained further in two
ways, for the same number of epochs: on the labels only ("plain"), and with
`keras.distillation.Distiller`, also on the outputs of the whole network
("distilled"). Needs Keras 3.12 or later.
"""

import argparse

import keras
import numpy as np
import training
from keras import layers

import keras_gates as kg


def main(argv=None):
    """Run all seeds, and print the table."""
    args = arguments(argv)
    data = digits(args.images)
    rows = [run(args, data, seed) for seed in args.seeds]
    head = ["seed", "whole", "at the cut", "plain", "distilled", "MACs left"]
    table = [
        (seed, *(f"{100 * value:.2f}" for value in row))
        for seed, row in zip(args.seeds, rows, strict=True)
    ]
    means = [f"{100 * value:.2f}" for value in np.mean(rows, axis=0)]
    title = "Digits, accuracy of the last epoch, per cent"
    training.table(title, head, [*table, ("mean", *means)])


def digits(count):
    """Images of 8x8; the last 597 are those to test with."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = found.images[..., None].astype("float32") / 8 - 1
    y = found.target
    return training.Data(x[:count], y[:count], x[1200:], y[1200:])


def network():
    """Three convolutions; it returns logits."""
    x = inputs = keras.Input((8, 8, 1))
    for width in (16, 32, 32):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def run(args, data, seed):
    """Accuracies of one seed, and the share of the MACs that is left."""
    keras.utils.set_random_seed(seed)
    whole = fit(network(), data, args.epochs, args)
    scores = kg.surgeon.score(whole, "l2")
    plan = kg.surgeon.plan(whole, kg.Budget(macs=args.macs), scores=scores)
    plain = plan.apply()
    at_cut = training.accuracy(plain, data)
    # In the same order, so that the teacher is all that differs.
    keras.utils.set_random_seed(seed)
    fit(plain, data, args.more, args)
    keras.utils.set_random_seed(seed)
    taught = distilled(whole, plan.apply(), data, args)
    return [
        training.accuracy(whole, data),
        at_cut,
        training.accuracy(plain, data),
        training.accuracy(taught, data),
        plan.macs.after / plan.macs.before,
    ]


def fit(model, data, epochs, args):
    """Train on the labels."""
    model.compile(
        keras.optimizers.Adam(args.rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        data.x_train, data.y_train, args.batch_size, epochs=epochs, verbose=0
    )
    return model


def distilled(teacher, student, data, args):
    """Train on the labels, and on what a teacher answers."""
    if not hasattr(keras, "distillation"):
        raise SystemExit(
            "keras.distillation came with Keras 3.12; this is Keras "
            f"{keras.__version__}."
        )
    distiller = keras.distillation.Distiller(
        teacher,
        student,
        distance(args.temperature),
        student_loss_weight=1 - args.share,
    )
    fit(distiller, data, args.more, args)
    teacher.trainable = True  # The distiller froze it.
    return student


def distance(temperature):
    """Between the outputs of both, as probabilities."""
    # An object: the function that "kl_divergence" names, the default, gets
    # logits in Keras 3.15, and not probabilities.
    divergence = keras.losses.KLDivergence()
    return keras.distillation.LogitsDistillation(temperature, divergence)


def arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--macs", type=float, default=0.1, help="share of MACs to keep")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds, one run each")
    add("--images", type=int, default=1200, help="training images")
    add("--epochs", type=int, default=20, help="epochs before the cut")
    add("--more", type=int, default=10, help="epochs after the cut")
    add("--rate", type=float, default=3e-3, help="learning rate")
    add("--batch-size", type=int, default=32, help="batch size")
    add("--share", type=float, default=0.7, help="weight of the teacher")
    add(
        "--temperature",
        type=float,
        default=2.0,
        help="temperature of the teacher's outputs",
    )
    add("--smoke", action="store_true", help="a quick run, for tests")
    args = parser.parse_args(argv)
    if args.smoke:
        args.images, args.epochs, args.more = 64, 1, 1
    return args


if __name__ == "__main__":
    main()
