"""ResConv-Prune: train sparse, remove whole convolutions, retrain, fuse.

    python examples/resconv_prune.py --network resnet20
    python examples/resconv_prune.py --network vgg16 --strength 0.1

1. The network is trained without changes, for comparison.
2. Each of its convolutions becomes a `ResConv`, which has its own shortcut, and
   this network is trained from scratch with an L1 penalty on the factor `m` of
   each.
3. The convolutions that contribute least are removed; their shortcuts stay. As
   a control, the same number is removed at random.
4. The rest is trained again, and fused into plain convolutions.

The paper trains for 300 epochs; which needs a GPU. Each stage is kept in
`--output` and not repeated, and an interrupted training resumes from its last
epoch.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
import training

import keras_gates as kg

NETWORKS = {
    "resnet8": lambda **o: kg.zoo.resnet(8, **o),
    "resnet20": lambda **o: kg.zoo.resnet(20, **o),
    "resnet56": lambda **o: kg.zoo.resnet(56, **o),
    "resnet110": lambda **o: kg.zoo.resnet(110, **o),
    "plain_resnet20": lambda **o: kg.zoo.plain_resnet(20, **o),
    "plain_resnet56": lambda **o: kg.zoo.plain_resnet(56, **o),
    "vgg16": kg.zoo.vgg16,
    "mobilenet": kg.zoo.mobilenet,
}
# The paper's rows for CIFAR-10, in per cent: accuracy, FLOPs and parameters
# that are gone; * is without retraining.
PAPER = {
    "vgg16": (
        ("baseline", "94.15", "0", "0"),
        ("ResConv", "94.58", "0", "0"),
        ("pruned *", "94.65", "21.2", "63.0"),
        ("retrained", "93.45", "55.9", "75.9"),
        ("retrained", "92.71", "73.3", "92.1"),
        ("retrained", "90.71", "85.3", "93.1"),
    ),
    "resnet56": (
        ("baseline", "93.69", "0", "0"),
        ("ResConv", "94.12", "0", "0"),
        ("pruned *", "93.75", "36.0", "28.2"),
        ("retrained", "92.72", "63.4", "58.8"),
        ("retrained", "91.59", "73.5", "65.9"),
    ),
    "resnet110": (
        ("baseline", "93.72", "0", "0"),
        ("ResConv", "94.15", "0", "0"),
        ("pruned *", "94.01", "23.7", "8.7"),
        ("pruned *", "93.59", "65.5", "55.5"),
        ("retrained", "93.79", "65.5", "55.5"),
        ("retrained", "93.67", "67.8", "69.4"),
    ),
    "mobilenet": (
        ("baseline", "92.15", "0", "0"),
        ("ResConv", "93.11", "0", "0"),
        ("pruned *", "93.03", "36.9", "33.5"),
        ("pruned *", "92.28", "48.0", "34.5"),
        ("retrained", "90.46", "65.6", "44.7"),
    ),
}
STAGES = ("baseline", "ResConv", "pruned *", "at random *")
STAGES += ("retrained", "at random, retrained")


def main(argv=None):
    """Run all seeds, and print the table."""
    args = arguments(argv)
    data = load(args)
    print(f"{args.network}, {len(data.x_train):,} images", flush=True)
    every = [run_seed(args, data, seed) for seed in args.seeds]
    report(args, every)


# The recipe --------------------------------------------------------------


def run_seed(args, data, seed):
    """A row of numbers for each of `STAGES`."""
    folder = args.output / args.network / f"seed{seed}"
    record = training.Record(folder)
    check_settings(args, folder)

    def train(name, make):
        options = {"epochs": args.epochs, "rate": args.rate}
        options["batch_size"] = args.batch
        return record.trained(name, make, data, seed=seed, **options)

    base = train("baseline", lambda: network(args, data, seed))
    gated = train("res_conv", lambda: sparse(args, data, seed))
    # An m says little by itself: see `normalize_gammas`.
    ranked = kg.transforms.normalize_gammas(gated)
    plan = kg.surgeon.plan(ranked, closed(args))
    chance = kg.surgeon.plan(ranked, at_random(plan, seed))
    print(plan)
    small = plan.apply()
    found = kg.surgeon.verify(ranked, small, plan, x=data.x_test[:256])
    print(f"largest relative difference: {max(found.values()):.1e}", flush=True)
    # Another share leaves another network. `small` itself is never trained.
    left = cut(args)
    models = (
        *(base, gated, small, chance.apply()),
        train(f"retrained_{left}", plan.apply),
        train(f"at_random_{left}", chance.apply),
    )
    fused = [kg.fuse(model) for model in models]
    record.model(f"fused_{left}", lambda: fused[STAGES.index("retrained")])
    pairs = zip(STAGES, fused, strict=True)
    return {stage: measured(model, data) for stage, model in pairs}


def network(args, data, seed):
    """The network before any training."""
    keras.utils.set_random_seed(seed)
    return NETWORKS[args.network](
        input_shape=data.x_train.shape[1:],
        # The paper decays weights by 5e-4, which is a penalty of half of it.
        l2=2.5e-4,
        classifier_activation=None,
    )


def sparse(args, data, seed):
    """The same with ResConvs; g starts at 1, as in the paper, or at 0."""
    plain = network(args, data, seed)
    print(kg.transforms.find_convolutions(plain), flush=True)
    return kg.to_resconv(plain, args.strength, start=args.start)


def closed(args):
    """What is closed: all below the threshold, or a share."""
    if args.threshold is not None:
        return {"layer": args.threshold}
    return {"layer": kg.Quantile(args.share)}


def cut(args):
    """What tells one choice of layers from another, for names of files."""
    if args.threshold is not None:
        return f"below_{args.threshold}"
    return f"share_{args.share}"


def at_random(plan, seed):
    """Thresholds that close as many layers as the plan does."""
    names = sorted(plan.closed)
    count = sum(bool(at) for at in plan.closed.values())
    chosen = np.random.default_rng(seed).choice(names, count, replace=False)
    return {str(name): 1e9 for name in chosen}


def measured(model, data):
    """The numbers of a fused network."""
    size = kg.stats.count(model)
    kernels = [layer.kernel for layer in model.layers if is_wide(layer)]
    return {
        "accuracy": training.accuracy(model, data),
        "macs": size.macs,
        "params": size.params,
        "convs": len(kernels),
    }


def is_wide(layer):
    """Whether a layer is a convolution of more than one pixel."""
    return max(getattr(layer, "kernel_size", (1,))) > 1


# Data, and the table -----------------------------------------------------


def load(args):
    """CIFAR-10; with fewer pixels it is as it is, never shifted."""
    data = training.load("cifar10", args.data_dir, args.images, args.smoke)
    if args.pixels < 32:
        data.augment = False
        data.x_train, data.x_test = (
            smaller(x, args.pixels) for x in (data.x_train, data.x_test)
        )
    return data


def smaller(images, pixels):
    """Images of so many pixels each way: averages of squares."""
    step = images.shape[1] // pixels
    sides = (len(images), pixels, step, pixels, step, 3)
    return images.reshape(sides).mean((2, 4))


def report(args, every):
    """Ours, means over the seeds, and the paper's rows beneath."""
    rows = []
    for stage in STAGES:
        seeds = [rows_of[stage] for rows_of in every]
        base = [rows_of["baseline"] for rows_of in every]
        accuracies = [100 * row["accuracy"] for row in seeds]
        each = " ".join(f"{x:.2f}" for x in accuracies)
        cells = [f"{np.mean(accuracies):.2f}", each]
        for key in ("macs", "params"):
            left = [r[key] / b[key] for r, b in zip(seeds, base, strict=True)]
            cells.append(f"{100 * (1 - np.mean(left)):.1f}")
        convs = f"{np.mean([row['convs'] for row in seeds]):g}"
        rows.append((stage, *cells, convs))
    for name, accuracy, macs, params in PAPER.get(args.network, ()):
        rows.append((f"paper, {name}", accuracy, "", macs, params, ""))
    head = "all fused|accuracy|by seed|MACs gone|params gone|convs left"
    title = f"{args.network}: test images, last epoch, per cent"
    training.table(title, head.split("|"), rows)
    print("* is without retraining; convs are those larger than 1x1")
    with training.beside(args.output / "results.json") as new:
        new.write_text(json.dumps(every, indent=1), "utf-8")


# The command line --------------------------------------------------------


def arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--network",
        choices=sorted(NETWORKS),
        default="resnet20",
        help="network to prune",
    )
    add("--strength", type=float, default=1e-2, help="penalty on m")
    add(
        "--start",
        choices=["same", "residual"],
        help="initial shortcut: g = 0, or g = 1",
    )
    add("--share", type=float, default=0.5, help="share of layers to close")
    add("--threshold", type=float, help="close below it, not a share")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds, one run each")
    add("--epochs", type=int, default=300, help="epochs of each training")
    add("--rate", type=float, default=0.1, help="learning rate")
    add("--batch", type=int, default=256, help="batch size")
    add("--images", type=int, help="training images; all by default")
    add(
        "--pixels",
        type=int,
        choices=[8, 16, 32],
        default=32,
        help="height and width of the images",
    )
    add("--data-dir", help="tensorflow_datasets folder")
    add(
        "--output",
        type=pathlib.Path,
        default="build/resconv_prune",
        help="folder for results",
    )
    add("--smoke", action="store_true", help="a quick run, for tests")
    args = parser.parse_args(argv)
    if args.smoke:
        args.network, args.epochs, args.seeds = "resnet8", 1, [0]
    # With its own shortcuts and g = 1, each block would double its input.
    default = "same" if args.network.startswith("resnet") else "residual"
    args.start = args.start or default
    return args


def check_settings(args, folder):
    """Refuse to go on with stages that were done with other settings."""
    names = ("strength", "start", "epochs", "rate", "batch", "images", "pixels")
    settings = {name: getattr(args, name) for name in names}
    path = folder / "settings.json"
    if path.exists() and json.loads(path.read_text("utf-8")) != settings:
        raise SystemExit(
            f"{folder} holds a run with other settings: {path.read_text()}. "
            "Choose another --output, or delete that folder."
        )
    with training.beside(path) as new:
        new.write_text(json.dumps(settings), "utf-8")


if __name__ == "__main__":
    main()
