"""Measurements of the comprehensive recipe, and the published ones."""

import keras
import matplotlib
import numpy as np
from quickstart import beside

import keras_gates as kg

matplotlib.use("Agg")  # Draw to a file; a server has no screen.
from matplotlib import pyplot as plt

HEAD = ("", "accuracy", "parameters", "fewer", "MACs", "fewer")

# By network, data set and kinds of gates: the accuracy of the network as it
# was, that of the pruned one, and percent fewer parameters and MACs.
COMPREHENSIVE = {
    ("vgg16", "cifar10", "filter"): (89.27, 88.27, 83.05, 40.21),
    ("vgg16", "mnist", "filter"): (98.10, 97.57, 97.36, 89.60),
    ("vgg16", "fashion_mnist", "filter"): (92.75, 92.16, 92.95, 69.16),
    ("vgg16", "cifar10", "layer"): (89.27, 87.77, 52.16, 33.1),
    ("vgg16", "mnist", "layer"): (98.10, 98.82, 87.62, 69.47),
    ("vgg16", "fashion_mnist", "layer"): (92.75, 92.80, 87.62, 69.47),
    ("vgg16", "cifar10", "filter,layer"): (89.27, 88.11, 89.66, 57.79),
    ("vgg16", "mnist", "filter,layer"): (98.10, 97.48, 98.47, 89.95),
    ("vgg16", "fashion_mnist", "filter,layer"): (92.75, 92.10, 97.99, 83.44),
    ("resnet56", "cifar10", "branch"): (92.75, 91.78, 59.52, 63.78),
    ("resnet56", "cifar10", "filter,branch"): (92.75, 91.75, 78.14, 79.00),
    ("resnet56", "cifar10", "layer,branch"): (92.75, 92.13, 69.52, 66.50),
    ("resnet56", "mnist", "layer,branch"): (98.56, 98.28, 81.19, 84.60),
    ("resnet56", "fashion_mnist", "layer,branch"): (94.1, 93.73, 74.15, 78.02),
}
# What others report for networks that this paper has not.
OTHERS = {
    ("mlp", "mnist", "filter"): (
        "Structured Bayesian Pruning: 784-500-300-10 to 245-160-55-10, "
        "545,000 to 48,550 weights (11.2x) at 98.45 %"
    ),
    ("lenet5", "mnist", "filter"): (
        "Bayesian Compression (group horseshoe): 20-50-800-500 to "
        "5-10-76-16, 2,293K to 153K MACs at 99.0 %"
    ),
}


def accuracy(model, images, classes):
    """The share of images that are told right."""
    logits = model.predict(images, batch_size=500, verbose=0)
    return float((logits.argmax(-1) == classes).mean())


def measure(name, model, test):
    """The row of a model."""
    size = kg.stats.count(model)
    kernels = [w for w in model.trainable_weights if len(w.shape) > 1]
    return {
        "model": name,
        "accuracy": accuracy(model, *test),
        "parameters": size.params,
        "weights": sum(int(np.prod(w.shape)) for w in kernels),
        "MACs": size.macs,
        "widths": [int(w.shape[-1]) for w in kernels],
    }


def show(rows, args):
    """Print our rows and the published one."""
    base = rows[0]
    cells = []
    for row in rows:
        cells.append(
            (
                row["model"],
                f"{row['accuracy']:.2%}",
                f"{row['parameters']:,}",
                fewer(base["parameters"], row["parameters"]),
                f"{row['MACs']:,}",
                fewer(base["MACs"], row["MACs"]),
            )
        )
    key = args.model, args.dataset, ",".join(args.gates)
    cells += published(key)
    draw_table(cells)
    print(
        f"accuracy: {args.dataset} test images, last epoch, seed {args.seed}, "
        f"{keras.backend.backend()} backend\n"
        "MACs: multiply-adds for one image; parameters: without gates"
    )
    if key in OTHERS:
        print(f"published: {OTHERS[key]}")


def fewer(before, after):
    """How many percent fewer."""
    return f"{1 - after / before:.2%}"


def published(key):
    """The paper's rows, if it has any."""
    if key not in COMPREHENSIVE:
        return []
    before, after, params, macs = COMPREHENSIVE[key]
    return [
        ("the paper's base", f"{before:.2f}%", "", "", "", ""),
        (
            "the paper's pruned",
            f"{after:.2f}%",
            "",
            f"{params:.2f}%",
            "",
            f"{macs:.2f}%",
        ),
    ]


def draw_table(cells):
    """A table, by rich where it is installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for line in [HEAD, *cells]:
            print("  ".join(cell.rjust(18) for cell in line))
        return
    table = Table()
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="right" if number else "left")
    for row in cells:
        table.add_row(*row)
    # Never narrower than the numbers: in a log rich would take 80 columns.
    Console(width=max(88, Console().width)).print(table)


def draw_curve(found, path):
    """What the search for thresholds saw, as a picture."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    found.plot(axes)
    axes.set_ylabel("accuracy on held-out images")
    with beside(path) as new:
        figure.savefig(new, dpi=110)
    plt.close(figure)
