"""Files for tests of the command line, and how it is called."""

import types

import keras
import numpy as np
from keras import layers as L

import keras_gates as kg
from keras_gates.cli import main


def network(*, gate=False, name="net"):
    keras.utils.set_random_seed(0)
    parts = [keras.Input((6,), name="x"), L.Dense(8, "relu", name="hidden")]
    if gate:
        parts.append(kg.FilterGate(name="gate"))
    parts.append(L.Dense(3, name="classes"))
    model = keras.Sequential(parts, name=name)
    if gate:
        model.get_layer("gate").factor.assign([1, 1, 1, 1, 0, 0, 0.01, 0.5])
    return model


def write(folder):
    """model.keras, gated.keras, data.npz and own.py in a folder."""
    network().save(folder / "model.keras")
    network(gate=True).save(folder / "gated.keras")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)).astype("float32")
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 3, 40))
    return folder


def call(capsys, *words):
    """The exit code, what is on stdout, and the lines of stderr."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return types.SimpleNamespace(code=code, out=out, err=err.splitlines())


def listing(folder):
    """The names and bytes of all that is in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
