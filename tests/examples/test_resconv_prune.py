"""Runs `examples/resconv_prune.py` as a user does, but small."""

import os
import re
import subprocess
import sys

import pytest

from tests.examples.scripts import start

pytestmark = pytest.mark.trains

SCRIPT = "resconv_prune.py"
STAGES = ["baseline", "ResConv", "pruned *", "at random *", "retrained"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder that the recipe wrote to, and what it printed."""
    folder = tmp_path_factory.mktemp("resconv")
    done = start(SCRIPT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def rows_of(printed):
    """The cells of the last table, by the name of its row."""
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in printed.splitlines()
        if line.startswith("│")
    ]
    return {row[0]: row[1:] for row in cells}


def test_the_pruned_model_is_verified(run):
    found = re.search(r"largest relative difference: (\S+)", run[1])
    # Float32 rounding over seven convolutions; 3e-7 has been seen.
    assert float(found[1]) < 1e-5


def test_half_of_the_convolutions_go_in_each_row(run):
    rows = rows_of(run[1])
    assert list(rows) == [*STAGES, "at random, retrained"]
    left = {name: float(row[-1]) for name, row in rows.items()}
    assert left["baseline"] == left["ResConv"] == 7
    assert all(left[name] == 4 for name in rows if name not in STAGES[:2])
    # The unpruned ResConvs fuse to the network as it was.
    assert rows["ResConv"][2:4] == rows["baseline"][2:4] == ["0.0", "0.0"]
    gone = [float(row[2]) for name, row in rows.items()][2:]
    assert min(gone) > 10


def test_nothing_is_done_twice_and_other_settings_are_refused(run):
    again = start(SCRIPT, run[0])
    assert again.returncode == 0, again.stdout + again.stderr
    assert "epoch 1/1" in run[1] and "epoch 1/1" not in again.stdout
    assert rows_of(again.stdout) == rows_of(run[1])
    other = start(SCRIPT, run[0], "--strength", "0.5")
    assert other.returncode != 0
    assert "other settings" in other.stderr


def test_the_fused_file_needs_no_keras_gates(run):
    (path,) = run[0].rglob("fused_*.keras")
    code = (
        "import sys, keras;"
        f"model = keras.models.load_model({str(path)!r});"
        "kinds = {type(x).__name__ for x in model.layers};"
        "assert 'BatchNormalization' not in kinds, kinds;"
        "assert 'keras_gates' not in sys.modules"
    )
    # The NumPy backend is the quickest to import, and another one besides.
    env = {**os.environ, "KERAS_BACKEND": "numpy"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
