"""Tables for docs/results-log.md, and the curve of docs/concepts/repair.md.

    python benchmarks/repair_report.py [--plot]

Prints the results of `benchmarks/repair.py`, in Markdown; with `--plot` it
draws `docs/images/repair.png`.
"""

import argparse
import json
import pathlib

import coverage_report
import repair

PLOT = coverage_report.ROOT / "docs" / "images" / "repair.png"
# Column of a method -> what it is called.
NAMES = {
    "cut": "cut",
    "statistics": '`"statistics"`',
    "bias": '`"bias"`',
    "kernels": "repaired",
    "in steps": "in steps",
    "fine-tuned": "one epoch of training",
}
USUAL = {"cifar": 512, "mnist": 512, "deepcut": 512}


def read(paths):
    """`{(network, seed, samples): {(criterion, macs, method): row}}`."""
    found = {}
    for path in paths:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            key = row["network"], row["seed"], row["samples"]
            cell = row["criterion"], row["macs"], row["method"]
            found.setdefault(key, {})[cell] = row["quality"]
    return found


def percent(value):
    return "" if value is None else f"{100 * value:.1f}"


def budgets(cells):
    """A row for each criterion and budget, a column for each method."""
    methods = [m for m in NAMES if any(m == cell[2] for cell in cells)]
    rows = []
    for criterion in repair.CRITERIA:
        for share in repair.BUDGETS:
            line = [cells.get((criterion, share, m)) for m in methods]
            if any(value is not None for value in line):
                name = f"{criterion}, {100 * share:.0f} %"
                rows.append([name, *map(percent, line)])
    head = ["criterion, MACs left", *(NAMES[m] for m in methods)]
    return coverage_report.table(head, rows)


def samples(found, network, cell):
    """The quality of one cell by the number of samples."""
    return {
        count: cells[cell]
        for (name, seed, count), cells in sorted(found.items())
        if name == network and seed == 0 and cell in cells
    }


def spread(found, network, count):
    """The least and the greatest of several splits, for what has them."""
    runs = [
        cells
        for (name, _, number), cells in found.items()
        if name == network and number == count
    ]
    rows = []
    for cell in dict.fromkeys(cell for run in runs for cell in run):
        values = [run[cell] for run in runs if cell in run]
        if len(values) > 1 and cell[2] != "whole":
            criterion, share, method = cell
            name = f"{criterion}, {100 * share:.0f} %, {NAMES[method]}"
            rows.append([name, percent(min(values)), percent(max(values))])
    head = ["", "least", "most"]
    return coverage_report.table(head, rows) if rows else ""


def report(found):
    lines = []
    for (network, seed, count), cells in found.items():
        if seed == 0 and count == USUAL.get(network, 160):
            whole = cells.get(("none", 1.0, "whole"))
            lines += [f"{network}, {count} samples, whole {percent(whole)}"]
            lines += ["", budgets(cells), "", spread(found, network, count), ""]
    for network in ("cifar", "fer"):
        curve = samples(found, network, ("l2", 0.5, "kernels"))
        if len(curve) > 1:
            lines += [f"{network}, half of the MACs, by l2", ""]
            rows = [list(map(percent, curve.values()))]
            lines += [coverage_report.table(list(curve), rows), ""]
    return "\n".join(lines)


def plot(found):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    cells = found["cifar", 0, USUAL["cifar"]]
    whole = 100 * cells["none", 1.0, "whole"]
    for method in ("cut", "statistics", "kernels"):
        known = {
            share: 100 * cells["l2", share, method]
            for share in repair.BUDGETS
            if ("l2", share, method) in cells
        }
        shares = [100, *(100 * share for share in known)]
        label = NAMES[method].strip('`"')
        left.plot(shares, [whole, *known.values()], marker="o", label=label)
    left.set(xlabel="multiply-adds left, %", ylabel="accuracy, %")
    left.set(ylim=(0, None), title="512 samples without labels")
    left.invert_xaxis()
    left.legend()
    curve = samples(found, "cifar", ("l2", 0.5, "kernels"))
    counts = list(map(str, curve))
    values = [100 * value for value in curve.values()]
    right.axhline(whole, color="k", linestyle="--", label="not pruned")
    right.plot(counts, values, "o-", color="tab:green", label="repaired")
    cut = 100 * cells["l2", 0.5, "cut"]
    right.axhline(cut, color="tab:blue", linestyle=":", label="cut")
    right.legend()
    right.set(xlabel="samples", title="half of the multiply-adds")
    figure.tight_layout()
    figure.savefig(PLOT, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "paths", nargs="*", type=pathlib.Path, default=[repair.RESULTS]
    )
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    found = read(options.paths)
    print(report(found))
    if options.plot:
        plot(found)


if __name__ == "__main__":
    main()
