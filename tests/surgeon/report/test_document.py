"""Plans as files, pictures and notebook cells; and what of layers stays."""

import builtins
import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import _tables
from keras_gates.surgeon.report import futile
from keras_gates.surgeon.report import reasons
from tests import helpers


class Odd(helpers.Opaque):
    """Has no rule."""

    def function(self, x):
        return 2.0 * x


def network():
    """Two branches of which one is closed; a sum; a barrier; a gate in vain."""
    x = keras.Input((6, 6, 3), name="x")
    h = L.Conv2D(8, 3, padding="same", name="conv")(x)
    h = L.BatchNormalization(name="norm")(kg.FilterGate(name="gate")(h))
    h = L.Conv2D(4, 3, name="second", activation="relu")(h)
    h = L.GlobalAveragePooling2D(name="pool")(kg.FilterGate(name="both")(h))
    other = kg.FilterGate(name="open")(L.Dense(4, name="other")(h))
    h = L.Add(name="sum")([h, other])
    h = kg.FilterGate(name="vain")(L.Dense(5, name="third")(h))
    h = Odd(name="odd")(h)
    model = keras.Model(x, L.Dense(2, name="<logits>")(h), name="net")
    model.get_layer("gate").factor.assign([1, 0, 1, 1, 0, 1, 0, 1])
    model.get_layer("both").factor.assign([1, 0, 1, 1])
    model.get_layer("vain").factor.assign([1, 1, 0, 1, 1])
    return model


@pytest.fixture(scope="module")
def plan():
    keras.utils.set_random_seed(0)
    return kg.surgeon.plan(network(), 0.5)


@pytest.fixture(scope="module")
def repair(plan):
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype("f")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are few samples
        return kg.surgeon.repair(plan, x)


def test_a_report_in_html_holds_all(plan, repair, tmp_path):
    path = tmp_path / "report.html"
    plan.report(path, repair=repair, metrics={"accuracy": (0.91, 0.9)})
    text = path.read_text("utf-8")
    for words in (
        "Plan for &#x27;net&#x27;",
        "asked for: 0.5",
        "<td",
        "0.91",
        "8 &rarr; 5",
        "blue: what stays",
        "What stays, and why",
        "Closed for nothing",
        "relative error of the outputs",
        "&lt;logits&gt;",
    ):
        assert words in text
    # It needs no other file, and no network.
    for outside in ("http", "<script", "<link", "src=", "<logits>"):
        assert outside not in text
    assert text.count("<table>") == text.count("</table>") == 5
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_in_markdown(plan, tmp_path):
    path = tmp_path / "report.md"
    plan.report(path)
    lines = path.read_text("utf-8").splitlines()
    assert lines[0] == "# Plan for 'net'"
    assert "| conv | convolution | 8 -> 5 | 224 -> 140 |" in "\n".join(lines)
    assert "## Repair" not in lines
    assert "## Measured" not in lines
    assert "blue" not in "\n".join(lines)  # a table of text has no bars


def test_a_report_says_what_was_asked_for_and_no_defaults(tmp_path):
    path = tmp_path / "report.md"
    rules = {"gate": kg.Budget(params=0.87), "both": kg.Quantile(0.25)}
    kg.surgeon.plan(network(), rules).report(path)
    wanted = "asked for: gate: Budget(params=0.87), both: Quantile(q=0.25)\n"
    assert wanted in path.read_text("utf-8")


def test_a_report_in_another_form_is_refused(plan, tmp_path):
    with pytest.raises(ValueError, match=r"ends in .html or .md"):
        plan.report(tmp_path / "report.pdf")
    with pytest.raises(FileNotFoundError, match="no folder"):
        plan.report(tmp_path / "none" / "report.md")
    assert not list(tmp_path.iterdir())


def test_what_stays_is_grouped_by_reason(plan):
    lines = [line for row in plan.rows for line in row.why]
    held = [found for found in map(reasons.held, lines) if found]
    # A channel that the sum ties to an open one, and one before the barrier.
    assert [found.closed for found in held if found.closed] == [1, 1]
    assert any(futile.is_note(note) for note in plan.notes)


def test_notebooks_show_a_table(plan):
    assert "<table>" in plan._repr_html_()
    count = kg.stats.count(plan.model)
    for found in (count, kg.stats.compare(count, count)):
        assert "<table>" in found._repr_html_()


def test_pictures(plan):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = plan.plot()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["conv", "second", "other", "third", "<logits>"]
    widths = [bar.get_width() for bar in axes.patches[5:10]]
    assert widths == [5, 4, 4, 5, 2]
    found = kg.stats.compare(plan.model, plan.apply())
    assert len(found.plot(axes).patches) > 10


def test_without_matplotlib_it_says_what_to_install(plan, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for draw in (plan.plot, lambda: kg.stats.plot_gates(plan.model)):
        with pytest.raises(ImportError, match=r"keras_gates\[report\]"):
            draw()


def test_what_is_kept_of_each_layer(plan):
    kept = plan.kept
    assert kept["conv"] == {
        "output": {3: [0, 2, 3, 5, 7]},
        "kernel": {3: [0, 2, 3, 5, 7]},
        "bias": {0: [0, 2, 3, 5, 7]},
    }
    assert kept["second"]["kernel"][2] == [0, 2, 3, 5, 7]
    small = plan.apply()
    for name, arrays in kept.items():
        if name not in [layer.name for layer in small.layers]:
            continue
        new, old = small.get_layer(name), plan.model.get_layer(name)
        for array, axes in arrays.items():
            if array == "output":
                for axis, at in axes.items():
                    assert new.output.shape[axis] == len(at)
                continue
            values = helpers.numpy_of(getattr(old, array))
            for axis, at in axes.items():
                values = np.take(values, at, axis)
            assert values.shape == tuple(getattr(new, array).shape)
    text = plan.to_json()
    again = kg.surgeon.Plan.from_json(text, plan.model)
    assert again.kept == kept
    # Plans of older versions don't hold it.
    data = json.loads(text)
    del data["kept"]
    again = kg.surgeon.Plan.from_json(json.dumps(data), plan.model)
    assert again.kept == kept


def test_nothing_is_kept_of_a_layer_that_goes():
    x = keras.Input((3,), name="x")
    h = L.Dense(3, name="branch")(x)
    h = L.Add(name="sum")([x, kg.BranchGate(name="gate")(h)])
    model = keras.Model(x, L.Dense(2, name="logits")(h))
    _ = model.get_layer("gate").factor.assign(0.0)
    kept = kg.surgeon.plan(model, 0.5).kept
    assert kept["branch"] == {"output": {1: []}}
    assert kept["logits"]["kernel"][0] == [0, 1, 2]


@pytest.mark.parametrize("cell", ["a|b", "<b>", 1234, None])
def test_cells_are_escaped(cell):
    assert "<b>" not in _tables.html(["x"], [[cell]])
    assert _tables.markdown(["x"], [[cell]]).count("|\n") == 2


def test_gates_fall_into_two_heaps():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    model = network()
    figure = kg.stats.plot_gates(model, 0.5)
    # A notebook shows what is returned, and all that pyplot knows besides.
    assert figure.number not in matplotlib.pyplot.get_fignums()
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["closed: 5", "open: 16"]
    assert axes.lines[0].get_xdata() == [0.5, 0.5]
    figure = kg.stats.plot_gates(model, kg.Quantile(0.25), by="gate")
    assert [ax.get_title() for ax in figure.axes] == [
        "gate",
        "both",
        "open",
        "vain",
    ]
    masks = kg.surgeon.plan(model, {"gate": 0.5}).masks()
    figure = kg.stats.plot_gates(model, masks, by="gate")
    (first, *_) = figure.axes
    assert "closed: 3" in [t.get_text() for t in first.get_legend().get_texts()]
    with pytest.raises(ValueError, match='"kind" or "gate"'):
        kg.stats.plot_gates(model, by="layer")
    plain = keras.Sequential([keras.Input((2,)), L.Dense(2)])
    with pytest.raises(ValueError, match="no gates to draw"):
        kg.stats.plot_gates(plain)
