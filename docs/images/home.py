"""Draws the picture of the home page, for light and dark screens.

    KERAS_BACKEND=torch python docs/images/home.py

A small network learns scikit-learn's digits under a budget, and is pruned.
Prints the figures that the page has.
"""

import pathlib

import keras
import matplotlib
import numpy as np
from matplotlib import pyplot
from sklearn.datasets import load_digits

import keras_gates as kg

FOLDER = pathlib.Path(__file__).parent
THEMES = {"light": ("#24292f", "#c9cdd3"), "dark": ("#d7dae0", "#50555f")}
ACCENT, CLOSED = "#3f7fd6", "#d1495b"
BUDGET = 0.25


def main():
    """Train, prune, draw."""
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).astype("float32") / 16
    train, test = (x[:1400], y[:1400]), (x[1400:], y[1400:])

    gated = kg.insert_gates(network(), filters=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    gated.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    reach = kg.callbacks.ReachBudget(macs=BUDGET)
    gated.fit(*train, epochs=30, batch_size=32, verbose=0, callbacks=[reach])
    plan = kg.surgeon.plan(gated, reach.thresholds)
    small = plan.apply()
    small.compile(loss=loss, metrics=["accuracy"])

    before, after = (model.predict(test[0]) for model in (gated, small))
    share = plan.macs.after / plan.macs.before
    accuracy = [model.evaluate(*test, verbose=0)[1] for model in (gated, small)]
    print(f"accuracy of the gated and the pruned model: {accuracy}")
    print(f"MACs: {plan.macs}, {share:.3f}; parameters: {plan.params}")
    difference = np.abs(before - after).max() / np.abs(before).max()
    print(f"largest difference of the outputs, relative: {difference:.1e}")
    for theme in THEMES:
        draw(gated, plan, theme)


def network():
    """Four convolutions that are wider than they have to be."""
    stack = [keras.Input((8, 8, 1))]
    for i, width in enumerate((16, 32, 64, 64), 1):
        stack += [
            keras.layers.Conv2D(width, 3, padding="same", name=f"conv{i}"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    head = [
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, name="digits"),
    ]
    return keras.Sequential([*stack, *head])


def draw(gated, plan, theme):
    """Two panels: the gates, and the widths before and after."""
    ink, pale = THEMES[theme]
    style = {
        "text.color": ink,
        "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "font.size": 13,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(9, 3.4), layout="constrained"
        )
        _factors(left, gated)
        _widths(right, plan, pale)
        left.set_title("1. Training closes gates")
        right.set_title("2. Pruning removes their channels")
        path = FOLDER / f"home-{theme}.png"
        beside = path.with_suffix(".part.png")
        figure.savefig(beside, dpi=150, transparent=True)
        beside.rename(path)
        pyplot.close(figure)


def _factors(ax, gated):
    gates = [x for x in gated.layers if isinstance(x, kg.FilterGate)]
    factors = np.concatenate(
        [keras.ops.convert_to_numpy(gate.factor) for gate in gates]
    )
    bins = np.linspace(0, 1, 26)
    ax.hist(factors[factors == 0], bins, color=CLOSED)
    ax.hist(factors[factors != 0], bins, color=ACCENT)
    closed, opened = (factors == 0).sum(), (factors != 0).sum()
    top = ax.get_ylim()[1]
    ax.text(0.07, 0.93 * top, f"{closed} closed: exactly 0", color=CLOSED)
    ax.text(0.45, 0.3 * top, f"{opened} open", color=ACCENT)
    ax.set_xlabel("factor of the gate on a channel")
    ax.set_ylabel("channels")


def _widths(ax, plan, pale):
    rows = [row for row in plan.rows if row.macs and row.macs.before]
    for place, row in enumerate(rows):
        ax.barh(place, row.before, color=pale)
        ax.barh(place, row.after, color=ACCENT)
        changed = row.after != row.before
        text = f"{row.before} → {row.after}" if changed else f"{row.after}"
        ax.text(row.before + 1, place, text, va="center")
    ax.set_yticks(range(len(rows)), [row.layer for row in rows])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.25 * max(row.before for row in rows))
    ax.set_xlabel("channels before and after")


if __name__ == "__main__":
    main()
