"""Runs `examples/comprehensive.py` as a user does, but small."""

import argparse
import importlib
import json

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers
from tests.examples import scripts

pytestmark = pytest.mark.trains

# What closes, how it is finished, and what a search would take longer for.
RUNS = {
    "searched": [
        *("--gates", "filter,layer", "--control", "random"),
        *("--max-drop", "0.1"),
    ],
    "as the authors do": [
        *("--gates", "filter,layer", "--threshold", "0.9"),
        *("--drop-shortcuts", "--filter-strength", "2"),
        *("--model", "small_vgg"),
    ],
    "in passes, with inputs": [
        *("--model", "mlp", "--input-gates", "--passes", "2"),
        *("--budget", "0.3", "--adam", "1e-5"),
    ],
}


def call(folder, *arguments):
    common = ["--dataset", "digits", "--small", "--mismatch", "project"]
    options = (*common, *arguments, "--output", folder)
    return scripts.execute("comprehensive.py", folder.parent, *options)


@pytest.mark.parametrize("arguments", RUNS.values(), ids=RUNS)
def test_runs(arguments, tmp_path):
    folder = tmp_path / "run"
    done = call(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    line = done.stdout.split("largest relative difference: ")[1]
    # Float32 rounding over a few layers; 7e-7 has been seen.
    assert float(line.split()[0]) < 1e-5
    rows = json.loads((folder / "result.json").read_text())
    rows = {row["model"]: row for row in rows}
    assert rows["fine-tuned"]["MACs"] < rows["base"]["MACs"]
    assert f"{rows['fine-tuned']['MACs']:,}" in done.stdout
    if "random" in rows:
        # A budget is met to 2 %.
        ratio = rows["random"]["MACs"] / rows["fine-tuned"]["MACs"]
        assert 0.98 <= ratio <= 1
    model = keras.models.load_model(folder / "fine-tuned.keras", compile=False)
    assert kg.stats.count(model).macs == rows["fine-tuned"]["MACs"]
    assert not helpers.gates_of(model)


def test_another_run_does_not_overwrite(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    old = json.dumps({"model": "vgg16"})
    (folder / "arguments.json").write_text(old)
    done = call(folder)
    assert done.returncode and "other arguments: " in done.stderr
    assert "model" in done.stderr.split("other arguments: ")[1]
    assert (folder / "arguments.json").read_text() == old


def test_a_run_that_was_cut_goes_on_as_it_would_have(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(scripts.EXAMPLES))
    module = importlib.import_module("comprehensive_run")
    rng = np.random.default_rng(0)
    images = rng.random((48, 6, 6, 1), "float32"), rng.integers(0, 3, 48)
    data = module.Data(images, images, images)
    monkeypatch.setattr(module, "load", lambda args: data)

    class Cut(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(name):
        return module.Run(
            argparse.Namespace(
                output=tmp_path / name,
                dataset="cifar10",
                seed=3,
                batch=16,
                rate=0.1,
                shift=1,
            )
        )

    def make():
        model = kg.zoo.mlp((5,), (6, 6, 1), 3, classifier_activation=None)
        return kg.insert_gates(model, filters=0.1)

    whole = run("whole").train("m", make, 3)
    with pytest.raises(KeyboardInterrupt):
        run("cut").train("m", make, 3, callbacks=[Cut()])
    again = run("cut").train("m", pytest.fail, 3)
    for a, b in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(helpers.numpy_of(a), helpers.numpy_of(b))
    files = {path.name for path in (tmp_path / "cut").iterdir()}
    assert files == {"arguments.json", "m.keras"}
