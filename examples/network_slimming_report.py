"""The tables of the Network Slimming recipe, next to those of the paper."""

import numpy as np
import training

# Table 3, and the multi-pass table for CIFAR-10: test errors in per cent
# after sparse training and after fine-tuning, shares of parameters and of
# multiply-adds that are gone in per cent.
PAPER_MNIST = (
    ("paper, baseline", "784-500-300-10", "1.43", "", "545,000", "-"),
    ("paper, pruned", "784-100-60-10", "", "1.49", "85,000", "84.4"),
    ("SSL, quoted there", "784-434-174-78-10", "", "1.53", "89,868", "83.5"),
)
PAPER_PASSES = (
    ("6.38", "6.51", "66.7", "38.6"),
    ("6.23", "6.11", "84.7", "52.7"),
    ("5.87", "6.10", "91.4", "63.1"),
    ("6.19", "6.59", "95.6", "77.2"),
    ("5.96", "7.73", "98.3", "88.7"),
    ("7.79", "9.70", "99.4", "95.7"),
)
MEANS = ("uncut", "tuned", "params_gone", "macs_gone")
DENSE = 545_000


def show(args, recipe, seeds):
    """What the cuts did, and the paper's rows beside ours.

    Args:
        args: the command line.
        recipe: the `Recipe`.
        seeds: for each seed the rows of its stages, the baseline first.
    """
    names = ["plain"] + [f"pass {n + 1}" for n in range(args.passes)]
    head = "seed, stage|uncut|gammas at 0|cut|betas dropped|fine-tuned"
    head += "|closed|gammas 0|params gone|MACs gone|cut differs"
    rows = []
    for seed, stages in zip(args.seeds, seeds, strict=True):
        for name, row in zip(names, stages, strict=True):
            rows.append([f"{seed}, {name}", *_cells(row)])
    training.table(
        "Accuracy on the test images, last epoch, per cent",
        head.split("|"),
        rows,
    )
    if args.network == "mlp":
        _show_mnist(seeds)
    else:
        _show_passes(recipe, seeds)


def _cells(row):
    keys = ("uncut", "zeroed", "cut", "dropped", "tuned")
    shown = [f"{100 * row[key]:.2f}" if key in row else "" for key in keys]
    for key in ("closed", "zeros", "params_gone", "macs_gone"):
        shown.append(f"{100 * row[key]:.1f}")
    return [*shown, f"{row['differs']:.0e}"]


def _show_mnist(seeds):
    """Table 3 of the paper, and ours beneath."""
    dense = [stages[0] for stages in seeds]
    base = "784-500-300-10", _errors(dense, "uncut"), "", f"{DENSE:,}", "-"
    rows = [*PAPER_MNIST, ("ours, baseline", *base)]
    for number in range(1, len(seeds[0])):
        every = [stages[number] for stages in seeds]
        count = np.mean([row["weights"] for row in every])
        rows.append(
            (
                f"ours, pass {number}",
                ", ".join(dict.fromkeys(row["widths"] for row in every)),
                _errors(every, "cut"),
                _errors(every, "tuned"),
                f"{count:,.0f}",
                f"{100 * (1 - count / DENSE):.1f}",
            )
        )
    head = "MNIST|units|error, trained|fine-tuned|weights|gone, %"
    title = "Table 3, test errors in per cent: mean (each seed)"
    training.table(title, head.split("|"), rows)


def _errors(rows, key):
    """Their mean, and each."""
    errors = [100 * (1 - row[key]) for row in rows]
    each = " ".join(f"{error:.2f}" for error in errors)
    return f"{np.mean(errors):.2f} ({each})"


def _show_passes(recipe, seeds):
    """The multi-pass table, the paper's numbers on the right."""
    rows = []
    for number in range(1, len(seeds[0])):
        every = [stages[number] for stages in seeds]
        mean = {key: np.mean([row[key] for row in every]) for key in MEANS}
        cells = [f"{100 * (1 - mean[key]):.2f}" for key in MEANS[:2]]
        cells += [f"{100 * mean[key]:.1f}" for key in MEANS[2:]]
        theirs = ("", "", "", "")
        if number <= len(PAPER_PASSES):
            theirs = PAPER_PASSES[number - 1]
        rows.append((number, *cells, *theirs))
    head = "pass|error, trained|fine-tuned|params gone|MACs gone"
    head += "|paper's VGG-19: trained|fine-tuned|params gone|MACs gone"
    title = f"Multi-pass on {recipe.dataset}, per cent"
    training.table(title, head.split("|"), rows)
