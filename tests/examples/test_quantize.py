"""Runs `examples/quantize.py` as a user does, but small."""

import pathlib
import subprocess
import sys

import keras
import pytest

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "quantize.py"
NAMES = [
    *("dense, float32", "dense, int8", "pruned, float32"),
    *("pruned, int8", "pruned, int8 by QAT"),
]


def start(folder):
    return subprocess.run(
        [sys.executable, SCRIPT, "--smoke", "--output", folder],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def test_files_shrink_by_pruning_and_by_int8(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("LiteRT and tf_keras need TensorFlow")
    for name in ("tf_keras", "ai_edge_litert"):
        pytest.importorskip(name)
    done = start(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        cells[0]: cells[1:]
        for cells in (
            [cell.strip() for cell in line.split("│")[1:-1]]
            for line in done.stdout.splitlines()
            if line.startswith("│")
        )
    }
    assert list(rows) == NAMES
    size = {name: float(row[2]) for name, row in rows.items()}
    assert size["dense, float32"] > 3 * size["dense, int8"]
    assert size["dense, int8"] > 2 * size["pruned, int8"]
    # What the two ways to int8 hold is the same, and the layers' names aside.
    assert size["pruned, int8 by QAT"] < 1.5 * size["pruned, int8"]
    macs = [int(row[1].replace(",", "")) for row in rows.values()]
    assert macs[2] <= 0.2 * macs[0]
    assert len(list(tmp_path.glob("*.tflite"))) == 5
