"""The quickstart's measurements, table and picture."""

import os
import statistics
import time

import keras
import matplotlib
import numpy as np

import keras_gates as kg

matplotlib.use("Agg")  # Draw to a file; a server has no screen.
from matplotlib import pyplot as plt

BLUE, GREY, RED = "#2166ac", "#c9ccd1", "#b2182b"

HEAD = (
    "model",
    "accuracy",
    "parameters",
    "MACs",
    "file",
    "1 image",
    "64 images",
)


# Measurements ------------------------------------------------------------


def measure(files, data, calls):
    """A row of numbers for each saved model, read back from its file."""
    models = {
        name: keras.models.load_model(path, compile=False)
        for name, path in files.items()
    }
    one = latency(models, data.x_test[:1], calls)
    many = latency(models, data.x_test[:64], calls)
    rows = []
    for name, model in models.items():
        logits = model(data.x_test, training=False)
        answers = keras.ops.convert_to_numpy(logits).argmax(-1)
        size = kg.stats.count(model)
        rows.append(
            {
                "model": name,
                "accuracy": float((answers == data.y_test).mean()),
                "parameters": size.params,
                "MACs": size.macs,
                "file": files[name].stat().st_size,
                "1 image": one[name],
                "64 images": many[name],
            }
        )
    return rows


def latency(models, batch, calls):
    """The median seconds of `predict_on_batch`, for each model.

    The models take turns, so that what else the machine does at the time
    falls on all of them alike.
    """
    seconds = {name: [] for name in models}
    for model in models.values():
        model.predict_on_batch(batch)  # Traced, compiled, warm.
    for _ in range(calls):
        for name, model in models.items():
            start = time.perf_counter()
            model.predict_on_batch(batch)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(all_) for name, all_ in seconds.items()}


# Table -------------------------------------------------------------------


def show_table(rows):
    """Print the measurements, and what they are."""
    cells = [
        (
            row["model"],
            f"{row['accuracy']:.2%}",
            f"{row['parameters']:,}",
            f"{row['MACs']:,}",
            f"{row['file'] / 1000:.0f} kB",
            f"{row['1 image'] * 1000:.2f} ms",
            f"{row['64 images'] * 1000:.2f} ms",
        )
        for row in rows
    ]
    try:
        import rich  # noqa: F401
    except ImportError:
        plain_table(cells)
    else:
        rich_table(cells)
    print(
        "accuracy: held-out images, last epoch\n"
        "MACs: multiply-adds for one image\n"
        "file: .keras, without the optimizer's state\n"
        "images: median time of predict_on_batch, "
        f"{keras.backend.backend()} backend, {os.cpu_count()} CPU cores"
    )


def rich_table(cells):
    """A table with rules."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in HEAD:
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in cells:
        table.add_row(*row)
    # Never narrower than the numbers: in a log rich would take 80 columns.
    Console(width=max(88, Console().width)).print(table)


def plain_table(cells):
    """A table of plain text, where rich is not installed."""
    lines = [HEAD, *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = zip(line, widths, strict=True)
        print("  ".join(cell.rjust(width) for cell, width in padded))


# Picture -----------------------------------------------------------------


def draw(plan, threshold, path):
    """Gate values on the left, the widths of the layers on the right."""
    style = {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(style):
        figure = plt.figure(figsize=(11.5, 6.2), layout="constrained")
        figure.suptitle(summary(plan), fontsize=12)
        left, right = figure.subfigures(1, 2, width_ratios=(1.55, 1))
        draw_filter_gates(left, plan, threshold)
        upper, lower = right.subplots(2, 1, height_ratios=(4, 1))
        plan.plot(upper)
        upper.set_title("Width of each layer", weight="bold", fontsize=10)
        draw_branch_gates(lower, plan, threshold)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def summary(plan):
    """The sizes in one line."""
    parameters, macs = plan.params, plan.macs
    return (
        f"Pruned: {parameters[0]:,} to {parameters[1]:,} parameters "
        f"({parameters[0] / parameters[1]:.1f} times fewer), "
        f"{macs[0]:,} to {macs[1]:,} MACs ({macs[0] / macs[1]:.1f} times fewer)"
    )


def gates_of(plan, kind):
    """`(name, factors, which are closed)` of each gate of a kind."""
    for name, closed in plan.closed.items():
        gate = plan.model.get_layer(name)
        values = keras.ops.convert_to_numpy(gate.factor).reshape(-1)
        if gate.kind == kind:
            shut = np.isin(np.arange(values.size), closed)
            yield (
                name.removesuffix(f"_{kind}").removesuffix("_gate"),
                values,
                shut,
            )


def draw_filter_gates(figure, plan, threshold):
    """A panel for each filter gate: its factors, from large to small."""
    gates = list(gates_of(plan, "filter"))
    panels = figure.subplots(-(-len(gates) // 3), 3, sharey=True)
    for panel, (name, values, shut) in zip(panels.flat, gates, strict=True):
        draw_filter_gate(panel, values, shut)
        panel.axhline(threshold, color=RED, lw=1, ls="--")
        panel.set_title(f"{name}: {(~shut).sum()} of {values.size} open")
    first = panels.flat[0]
    first.set_ylim(0, 1.05)
    end = first.get_xlim()[1]
    first.text(end, threshold + 0.03, "threshold", color=RED, ha="right")
    figure.suptitle("Filter gates after training", weight="bold")
    figure.supylabel("factor", fontsize=9)
    figure.supxlabel(
        "channels, from the largest factor to the smallest", fontsize=9
    )


def draw_filter_gate(panel, values, shut):
    """The open factors first, then the closed ones on grey."""
    order = np.lexsort((-values, shut))
    values, shut = values[order], shut[order]
    x = np.arange(values.size)
    panel.bar(x, values, width=1.0, color=np.where(shut, RED, BLUE))
    if shut.any():
        start, end = (~shut).sum() - 0.5, values.size - 0.5
        panel.axvspan(start, end, color=GREY, alpha=0.4, lw=0)
        panel.text((start + end) / 2, 0.5, "closed", ha="center", color="#555")
    panel.set_xlim(-0.5, values.size - 0.5)
    panel.set_xticks([])


def draw_branch_gates(panel, plan, threshold):
    """A bar for each residual block."""
    names, values, shut = zip(*gates_of(plan, "branch"), strict=True)
    values, shut = np.concatenate(values), np.concatenate(shut)
    panel.barh(names, values, color=np.where(shut, RED, BLUE))
    for at, value in enumerate(values):
        fate = "closed: the block goes" if shut[at] else "open"
        text = f"{value:.2f}, {fate}"
        panel.text(max(value, threshold) + 0.03, at, text, va="center")
    panel.axvline(threshold, color=RED, lw=1, ls="--")
    panel.invert_yaxis()
    panel.set_xlim(0, 1.3)
    panel.set_xlabel("factor")
    panel.set_title("Branch gates after training", weight="bold", fontsize=10)
