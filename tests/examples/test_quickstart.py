"""Runs `examples/quickstart.py` as a user does, but small."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.examples import scripts

pytestmark = pytest.mark.once

# What users would see. A smoke run hardly trains, so that what a model puts out
# may not tell whether it is right.
WARNINGS = [
    *("-W", "error::UserWarning"),
    *("-W", "ignore:`verify` can't tell:UserWarning"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder that the quickstart wrote to, and what it printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    script = scripts.EXAMPLES / "quickstart.py"
    done = subprocess.run(
        [sys.executable, *WARNINGS, script, "--smoke", "--output", folder],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_it_writes_its_files_and_no_others(run):
    names = {"gated.keras", "pruned.keras", "fine_tuned.keras"}
    names |= {"quickstart.png"}
    if keras.backend.backend() != "torch":
        names |= {"served_model"}
    assert {path.name for path in run[0].iterdir()} == names


def test_the_pruned_model_is_verified(run):
    found = re.search(r"largest relative difference: (\S+)", run[1])
    # Float32 rounding over six convolutions; 2e-7 has been seen.
    assert float(found[1]) < 1e-5


def test_the_table_has_a_row_for_each_model(run):
    cells = [
        line.replace("│", " ").split()
        for line in run[1].splitlines()
        if line.startswith("│")
    ]
    assert [row[0] for row in cells] == ["gated", "pruned", "fine-tuned"]
    gated, pruned, tuned = (int(row[2].replace(",", "")) for row in cells)
    assert gated > 5 * pruned
    assert pruned == tuned


def test_the_pruned_file_needs_no_keras_gates(run):
    code = (
        "import sys, keras;"
        f"keras.models.load_model({str(run[0] / 'pruned.keras')!r});"
        "assert 'keras_gates' not in sys.modules"
    )
    # The NumPy backend is the quickest to import, and another one besides.
    env = {**os.environ, "KERAS_BACKEND": "numpy"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_the_picture_is_a_picture(run):
    plt = pytest.importorskip("matplotlib.pyplot")
    pixels = plt.imread(run[0] / "quickstart.png")
    assert min(pixels.shape[:2]) > 400
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10
