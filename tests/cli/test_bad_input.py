"""Bad input: an exit code, one line that says what and how, no traceback."""

import pathlib
import re
import signal
import zipfile

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_gates import _files
from keras_gates.cli import models
from keras_gates.cli import prune
from tests.cli import files


class Doubled(L.Layer):
    def call(self, x):
        return 2 * x


class Halved(L.Layer):
    def call(self, x):
        return x / 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = files.write(tmp_path_factory.mktemp("bad"))
    (path / "text.keras").write_text("no model")
    with zipfile.ZipFile(path / "empty.keras", "w") as archive:
        archive.writestr("other.txt", "")
    whole = (path / "model.keras").read_bytes()
    (path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    np.savez(path / "objects.npz", x=np.array([{}], dtype=object))
    np.savez(path / "names.npz", inputs=np.zeros((3, 6)))
    np.savez(path / "short.npz", x=np.zeros((3, 6)), y=np.zeros(2, int))
    np.savez(path / "wide.npz", x=np.zeros((3, 7), "float32"))
    np.savez(path / "nan.npz", x=np.full((3, 6), np.nan))
    np.savez(path / "text.npz", x=np.array([["a"] * 6]))
    (path / "broken.npz").write_bytes(b"PK\x03\x04 broken")
    (path / "images").mkdir()
    (path / "plan.json").write_text("{}")
    parts = [keras.Input((6,)), L.Lambda(lambda x: 2 * x), L.Dense(2)]
    keras.Sequential(parts).save(path / "lambda.keras")
    keras.saving.register_keras_serializable(package="shop")(Doubled)
    parts = [keras.Input((6,)), Doubled(), Halved(), L.Dense(2)]
    keras.Sequential(parts).save(path / "own.keras")
    del keras.saving.get_custom_objects()["shop>Doubled"]
    keras.Sequential([keras.Input((6,)), L.Dense(2)]).save_weights(
        path / "some.weights.h5"
    )
    return path


HALF = "--macs .5 --scores l2"
# A command line in a folder -> the exit code, and what its one line says.
BAD = {
    "inspect none.keras": (2, "There is no file 'none.keras'"),
    "inspect .": (2, "is a folder. Expected: a .keras file"),
    "inspect text.keras": (2, "is not a Keras file"),
    "inspect empty.keras": (2, "is not a Keras file"),
    "inspect cut.keras": (2, "is not a Keras file, or not a whole one"),
    "inspect lambda.keras": (2, "holds a Lambda"),
    "inspect own.keras": (2, "Doubled, Halved.*--import my_module"),
    "inspect own.keras --import no_such_module": (2, "no_such_module.*Name a"),
    "inspect own.keras --import none.py": (2, "none.py"),
    "prune model.keras -o s.keras": (2, "Nothing says what to close"),
    "prune model.keras -o s.keras --macs .5": (2, "has no gates.*--scores l2"),
    f"prune model.keras -o s.h5 {HALF}": (2, "ends in .keras"),
    f"prune model.keras -o none/s.keras {HALF}": (2, "no folder 'none'"),
    f"prune model.keras -o gated.keras {HALF}": (2, "exists.*--force"),
    f"prune model.keras -o images --force {HALF}": (2, "ends in .keras"),
    f"prune model.keras --report r.txt {HALF}": (2, "ends in .html or"),
    "prune model.keras --macs .001 --scores l2": (3, "can't be reached"),
    "prune gated.keras --macs 1e-9": (3, "can't be reached"),
    "prune model.keras --macs 0 --scores l2": (2, "must be more than 0"),
    "prune model.keras --macs half": (2, "invalid float value: 'half'"),
    "prune model.keras --macs .5 --params .5": (2, "not allowed with"),
    "prune model.keras --threshold -1 --scores l2": (2, "threshold"),
    "prune model.keras --threshold nan --scores l2": (2, "must be finite"),
    f"prune model.keras {HALF} --tolerance -1": (2, "--tolerance must be at"),
    f"prune model.keras {HALF} --loss mse": (2, "--loss is for --scores"),
    f"prune model.keras {HALF} --keep-at-least x": (2, "a number such as 8"),
    f"prune model.keras {HALF} --scale 1/0": (2, "such as 1/255: '1/0'"),
    f"prune model.keras {HALF} --scale nan": (2, "such as 1/255: 'nan'"),
    f"prune model.keras {HALF} --data wide.npz": (2, "wide.npz' does not fit"),
    f"prune model.keras {HALF} --data nan.npz": (2, "nan.npz' has NaN"),
    f"prune model.keras {HALF} --data text.npz": (2, "must hold numbers"),
    "compare model.keras gated.keras --data wide.npz": (2, "does not fit"),
    "prune model.keras --plan model.keras": (2, "as a plan. Expected: a .json"),
    "inspect some.weights.h5": (2, "holds weights without a model"),
    "prune model.keras --macs .5 --scores best": (2, "invalid choice"),
    "prune model.keras --macs .5 --scores taylor": (2, "needs samples"),
    f"prune model.keras {HALF} --repair": (2, "needs samples. Pass --data"),
    f"prune model.keras {HALF} --data none.npz": (2, "no file or folder"),
    f"prune model.keras {HALF} --data text.keras": (2, "not a file of NumPy"),
    f"prune model.keras {HALF} --data broken.npz": (2, "not a file of NumPy"),
    f"prune model.keras {HALF} --data objects.npz": (2, "more than plain"),
    f"prune model.keras {HALF} --data names.npz": (2, "Expected: x, or"),
    f"prune model.keras {HALF} --data short.npz": (2, "samples"),
    f"prune model.keras {HALF} --data images": (2, "folder of images"),
    f"prune model.keras {HALF} --data data.npz --samples 0": (2, "--samples"),
    "prune model.keras --macs .5 --scores mean --data wide.npz": (2, "7"),
    "prune model.keras --macs .5 --scores taylor --data data.npz": (
        2,
        "--loss",
    ),
    f"prune model.keras {HALF} --round-to 0": (2, "round_to"),
    "prune model.keras --plan none.json": (2, "There is no plan 'none.json'"),
    "prune model.keras --plan plan.json": (2, "not the JSON of a keras_gates"),
    "prune model.keras --plan text.keras": (2, "not the JSON"),
    "compare model.keras none.keras": (2, "There is no file"),
    "compare model.keras model.keras --runtimes tpu": (2, "does not know tpu"),
    "compare model.keras gated.keras --runtimes none --tolerance 0": (
        4,
        "differs by",
    ),
    "export model.keras --to litert -o m.onnx": (2, "ends in .tflite"),
    "export model.keras --to onnx --int8": (2, "needs samples"),
    "export model.keras --to savedmodel -o images/..": (2, "not a SavedModel"),
    "export model.keras --to tfjs": (2, "invalid choice"),
    "": (2, "required: COMMAND"),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input(folder, capsys, monkeypatch, line):
    monkeypatch.chdir(folder)
    before = files.listing(folder)
    done = files.call(capsys, *line.split(), *["--force"] * line.endswith(".."))
    code, words = BAD[line]
    assert done.code == code, done.err
    last = [each for each in done.err if not each.endswith(" ...")]
    assert len(last) == 1, done.err
    assert last[0].startswith("keras-gates")
    assert "error: " in last[0]
    assert re.search(words, last[0]), last[0]
    assert files.listing(folder) == before


def test_classes_of_ones_own(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "shop_layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable(package='shop')\n"
        "class Doubled(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 2 * x\n"
        "class Halved(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x / 2\n"
    )
    for name in ("shop_layers.py", "shop_layers"):
        done = files.call(capsys, "inspect", "own.keras", "--import", name)
        assert done.code == 0, done.err


def test_a_folder_that_can_not_be_written_to(folder, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    words = ("-o", folder / "s.keras", *HALF.split())
    done = files.call(capsys, "prune", folder / "model.keras", *words)
    assert (done.code, len(done.err)) == (2, 1)
    assert "no permission" in done.err[0]


def test_a_check_that_fails_writes_nothing(folder, capsys, monkeypatch):
    def wrong(given, plan, *others):
        small, repair = right(given, plan, *others)
        kernel = small.get_layer("classes").kernel
        kernel.assign(kernel + 1.0)
        return small, repair

    right = prune._pruned
    monkeypatch.setattr(prune, "_pruned", wrong)
    before = files.listing(folder)
    words = ("-o", folder / "s.keras", *HALF.split())
    done = files.call(capsys, "prune", folder / "model.keras", *words)
    assert done.code == 4
    assert "output 'classes' differs by" in done.err[-1]
    assert files.listing(folder) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, "kill"])
def test_an_end_while_writing_leaves_nothing(
    folder, capsys, monkeypatch, error
):
    def save(self, path, **_):
        pathlib.Path(path).write_bytes(b"half")
        if error == "kill":
            signal.raise_signal(signal.SIGTERM)
        raise error("no space left")

    monkeypatch.setattr(keras.Sequential, "save", save)
    before = files.listing(folder)
    words = ("-o", folder / "gated.keras", "--force", *HALF.split())
    done = files.call(capsys, "prune", folder / "model.keras", *words)
    assert done.code == {KeyboardInterrupt: 130, OSError: 2, "kill": 143}[error]
    assert files.listing(folder) == before
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_a_bug_says_that_it_is_one(folder, capsys, monkeypatch):
    def load(*_, **__):
        raise KeyError("lost")

    monkeypatch.setattr(models, "load", load)
    done = files.call(capsys, "inspect", folder / "model.keras")
    assert done.code == 1
    assert "KeyError: 'lost' (a bug of keras_gates" in done.err[-1]
    with pytest.raises(KeyError):
        files.call(capsys, "inspect", folder / "model.keras", "--debug")


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    target = tmp_path / "saved"
    for text in ("one", "two"):
        with _files.replacing(target) as new:
            new.mkdir()
            (new / text).write_text(text)
    assert [p.name for p in tmp_path.rglob("*")] == ["saved", "two"]
    with pytest.raises(RuntimeError), _files.replacing(target) as new:
        new.mkdir()
        raise RuntimeError
    assert [p.name for p in tmp_path.rglob("*")] == ["saved", "two"]
    with pytest.raises(FileNotFoundError), _files.replacing(target / "a" / "b"):
        pass
