"""What each verb does with good input."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests.cli import files

ROOT = pathlib.Path(__file__).resolve().parents[2]
HALF = ("--macs", ".5", "--scores", "l2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return files.write(tmp_path_factory.mktemp("verbs"))


def loaded(path):
    return keras.models.load_model(path, compile=False)


def test_inspect(folder, capsys):
    done = files.call(capsys, "inspect", folder / "gated.keras")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert ["hidden", "Dense", "56", "48"] in lines
    assert ["gate", "filter", "8", "2", "0", "1"] in lines
    assert "classes     it is an output of the model" in done.out
    assert [line.split()[0] for line in done.err] == ["reading"]


def test_inspect_as_json(folder, capsys):
    done = files.call(capsys, "inspect", folder / "model.keras", "--json")
    data = json.loads(done.out)
    assert (data["params"], data["macs"], data["gates"]) == (83, 72, [])
    assert data["groups"] == [
        {"group": "hidden", "kind": "group", "channels": 8}
    ]
    assert data["barriers"][0]["layer"] == "classes"


def test_prune_by_gates(folder, capsys):
    small = folder / "by_gates.keras"
    done = files.call(
        capsys,
        *("prune", folder / "gated.keras", "-o", small, "--threshold", ".1"),
    )
    assert done.code == 0
    assert loaded(small).get_layer("hidden").units == 5
    assert "MACs: 72 -> 45 (62.5%)" in done.out
    assert "checked: outputs differ by" in done.out
    assert "note: 1 of 3 closed factors are not 0 yet" in done.out


def test_prune_writes_all_that_is_asked_for(folder, capsys):
    small, plan = folder / "half.keras", folder / "half.json"
    report = folder / "half.html"
    more = ("--plan", plan, "--report", report, "--data", folder / "data.npz")
    words = ("prune", folder / "model.keras", "-o", small, *HALF, *more)
    done = files.call(capsys, *words, "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert data["macs"] == [72, 36]
    assert data["difference"]["classes"] < 1e-5
    assert 0 <= data["accuracy"][1] <= 1
    assert data["files"] == {
        str(p): p.stat().st_size for p in (small, plan, report)
    }
    # The plan alone makes the same model.
    again = folder / "again.keras"
    words = ("prune", folder / "model.keras", "--plan", plan, "-o", again)
    assert files.call(capsys, *words, "--quiet").code == 0
    x = np.load(folder / "data.npz")["x"]
    ys = [loaded(path).predict(x, verbose=0) for path in (small, again)]
    np.testing.assert_array_equal(*ys)
    assert "Layer by layer" in report.read_text()


def test_without_an_output_nothing_is_written(folder, capsys):
    before = files.listing(folder)
    done = files.call(capsys, "prune", folder / "model.keras", *HALF)
    assert done.code == 0
    assert "MACs: 72 -> 36" in done.out
    assert files.listing(folder) == before


@pytest.mark.parametrize(
    "more",
    [
        ("--scores", "taylor", "--loss", "sparse_categorical_crossentropy"),
        ("--scores", "obs", "--repair"),
        ("--scores", "l1", "--round-to", "4", "--keep-at-least", ".25"),
        ("--scores", "random", "--approximate", "--no-verify"),
    ],
)
def test_options_of_prune(folder, capsys, more):
    small = folder / f"{more[1]}.keras"
    words = ("prune", folder / "model.keras", "-o", small, "--params", ".6")
    done = files.call(capsys, *words, *more, "--data", folder / "data.npz")
    assert done.code == 0, done.err
    assert loaded(small).get_layer("hidden").units == 4
    assert ("repaired:" in done.out) == ("--repair" in more)
    assert ("checked:" in done.out) == (more[1] in ("taylor", "l1"))


def test_compare(folder, capsys):
    models = folder / "model.keras", folder / "gated.keras"
    words = ("compare", *models, "--runtimes", "keras")
    done = files.call(capsys, *words, "--data", folder / "data.npz", "--json")
    data = json.loads(done.out)
    assert (data["before"]["params"], data["after"]["params"]) == (83, 91)
    assert all(time > 0 for time in data["latency"]["keras"])
    assert data["difference"]["classes"] > 0.01
    done = files.call(capsys, *words, "--tolerance", "1e-3")
    assert (done.code, len(done.err)) == (4, 4)
    assert "output 'classes' differs by" in done.err[-1]
    assert "parameters" in done.out


def test_quiet_says_nothing(folder, capsys):
    words = ("compare", folder / "model.keras", folder / "model.keras")
    done = files.call(capsys, *words, "--runtimes", "none", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", [])


def test_help(capsys):
    for verb in ("inspect", "prune", "compare", "export"):
        done = files.call(capsys, verb, "--help")
        assert done.code == 0
        assert "exit codes:" in done.out
        assert "--import MODULE" in done.out


def test_images(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4, 5, 3)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, name="classes"),
        ]
    )
    model.save(tmp_path / "model.keras")
    for name in ("cats", "dogs"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((9, 8, 3), 80 * number, "uint8")
            image.fromarray(pixels).save(
                tmp_path / "images" / name / f"{number}.png"
            )
    done = files.call(
        capsys,
        *("compare", tmp_path / "model.keras", tmp_path / "model.keras"),
        *("--data", tmp_path / "images", "--scale", "1/255", "--json"),
        *("--runtimes", "none"),
    )
    assert done.code == 0, done.err
    # The same images in both classes: one of two is right.
    assert json.loads(done.out)["accuracy"] == [0.5, 0.5]


@pytest.mark.once
def test_from_a_shell(folder):
    small = folder / "shell.keras"
    words = ("prune", "model.keras", "-o", "shell.keras", *HALF)
    done = subprocess.run(
        [sys.executable, "-m", "keras_gates", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "MACs: 72 -> 36 (50.0%)" in done.stdout
    assert kg.stats.count(loaded(small)).macs == 36


@pytest.mark.once
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
)
@pytest.mark.parametrize(
    "form, name, more",
    [
        ("savedmodel", "saved", ()),
        ("litert", "model.tflite", ()),
        ("litert", "int8.tflite", ("--int8",)),
        ("onnx", "model.onnx", ()),
        ("onnx", "int8.onnx", ("--int8",)),
    ],
)
def test_export(folder, capsys, form, name, more):
    path = folder / name
    words = ("export", folder / "model.keras", "--to", form, "-o", path, *more)
    data = ("--data", folder / "data.npz")
    done = files.call(capsys, *words, *data)
    assert done.code == 0, done.err
    assert path.exists()
    done = files.call(capsys, *words, *data)
    assert done.code == 2
    assert "Pass --force to replace it" in done.err[-1]
    assert files.call(capsys, *words, *data, "--force").code == 0
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]
