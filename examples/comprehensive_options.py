"""The networks of the recipe, and its command line."""

import argparse
import dataclasses
import pathlib

from small_vgg import small_vgg

import keras_gates as kg

KINDS = {
    "filter": "filters",
    "layer": "layers",
    "branch": "branches",
    "block": "blocks",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network, and how it is trained unless the command line says else.

    Attributes:
        build: makes it.
        dataset: what it is trained on.
        epochs: with gates, and, unless told otherwise, without.
        rate: the learning rate at the start.
        l2: of all kernels.
        strengths: of the penalties, by kind of gate. They are in units of
            loss: what the gates of a layer cost while all are one; or all
            gates of the model, for other kinds than filters.
        shift: by how many pixels images are moved at most.
    """

    build: object
    dataset: str
    epochs: int
    rate: float
    l2: float
    strengths: dict
    shift: int = 0


def resnet(depth):
    """A ResNet for CIFAR with 1x1 projections, as the paper's must be."""
    return lambda **options: kg.zoo.resnet(depth, "projection", **options)


def mlp(**options):
    """The MLP with batch normalization: gates after it mean more."""
    return kg.zoo.mlp(norm=True, **options)


def vgg16(**options):
    """The paper's VGG-16, with dropout after its first Dense layer."""
    return kg.zoo.vgg16(dropout=0.5, **options)


def narrow(*, input_shape, l2, batch_norm, classifier_activation):
    """A VGG of eight convolutions, which two cores can train."""
    del classifier_activation  # It returns logits anyhow.
    widths = (16, 16, 32, 32, 64, 64, 64, 64)
    return small_vgg(input_shape, l2, widths, pooled=(2, 4), **batch_norm)


DEEP = {"filter": 0.05, "layer": 0.1, "branch": 0.1, "block": 0.1}
RECIPES = {
    "mlp": Recipe(mlp, "mnist", 30, 0.1, 5e-4, {"filter": 0.8, "layer": 0.1}),
    "lenet5": Recipe(
        kg.zoo.lenet5, "mnist", 20, 0.05, 5e-4, {"filter": 0.1, "layer": 0.1}
    ),
    "resnet20": Recipe(resnet(20), "cifar10", 30, 0.1, 5e-4, DEEP, 4),
    "resnet56": Recipe(resnet(56), "cifar10", 100, 0.1, 5e-4, DEEP, 4),
    "vgg16": Recipe(vgg16, "cifar10", 100, 0.05, 5e-4, DEEP, 4),
    "small_vgg": Recipe(narrow, "cifar10", 30, 0.1, 5e-4, DEEP, 4),
    "inception": Recipe(kg.zoo.inception, "cifar10", 30, 0.1, 5e-4, DEEP, 4),
}
DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10")


def arguments(argv, text):
    """Parse the command line; what is not given is the recipe's."""
    parser = argparse.ArgumentParser(
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model",
        choices=sorted(RECIPES),
        default="lenet5",
        help="network to prune",
    )
    add("--dataset", choices=DATASETS, help="dataset to train on")
    add("--data-dir", help="tensorflow_datasets folder")
    add(
        "--gates",
        type=kinds,
        default=["filter"],
        help="kinds, such as filter,layer",
    )
    add(
        "--input-gates",
        action="store_true",
        help="put gates on the inputs, too",
    )
    for kind in KINDS:
        add(f"--{kind}-strength", type=float, help="penalty on these gates")
    add(
        "--weigh",
        choices=["count", "macs", "params"],
        default="count",
        help="quantity that weights the penalty of a gate",
    )
    add(
        "--mismatch",
        choices=["project", "skip"],
        default="skip",
        help="what to do with shortcuts whose shapes differ",
    )
    add("--l2", type=float, help="L2 on kernels")
    add("--rate", type=float, help="initial learning rate")
    add("--batch", type=int, default=128, help="batch size")
    add("--shift", type=int, help="random shift, in pixels")
    add("--epochs", type=int, help="epochs with gates")
    add("--base-epochs", type=int, help="epochs without gates")
    add("--passes", type=int, default=1, help="rounds of training and pruning")
    add("--fine-tune-epochs", type=int, default=10, help="epochs after pruning")
    add("--adam", type=float, help="fine-tune with Adam at this rate")
    add("--held-out", type=int, default=5000, help="training images held out")
    add(
        "--max-drop",
        type=float,
        default=0.005,
        help="accuracy that may be lost",
    )
    add("--threshold", type=float, help="threshold, without a search")
    add("--budget", type=float, help="share of MACs, without a search")
    add(
        "--drop-shortcuts",
        action="store_true",
        help="drop added shortcuts at the end",
    )
    add(
        "--control",
        choices=["random"],
        help="prune at random instead, for comparison",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="random seed",
    )
    add("--output", type=pathlib.Path, help="folder for results")
    add("--small", action="store_true", help="a quick run, for tests")
    return completed(parser, parser.parse_args(argv))


def kinds(text):
    """The kinds of gates, each once."""
    found = text.split(",")
    if not set(found) <= set(KINDS) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of {', '.join(KINDS)}, each once"
        )
    return [kind for kind in KINDS if kind in found]


def completed(parser, args):
    """The arguments, with what the recipe says where they do not."""
    recipe = RECIPES[args.model]
    for name in ("dataset", "epochs", "rate", "l2", "shift"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(recipe, name))
    for kind in KINDS:
        name = f"{kind}_strength"
        if getattr(args, name) is None:
            setattr(args, name, recipe.strengths.get(kind, 0.1))
    if args.passes > 1 and args.gates != ["filter"]:
        # A second pass would put shortcuts round shortcuts.
        parser.error("--passes is for --gates filter alone")
    args.base_epochs = args.base_epochs or args.epochs
    if args.small:
        args.base_epochs = 1
        args.epochs, args.fine_tune_epochs = args.passes, 1
        args.held_out = min(args.held_out, 64)
    if args.output is None:
        parts = [args.model, args.dataset, *args.gates, str(args.seed)]
        args.output = pathlib.Path("build/comprehensive", "-".join(parts))
    return args
