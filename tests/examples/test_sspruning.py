"""Runs `examples/sspruning.py` as a user does, but small."""

import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# What users would see; those of other kinds are for developers.
WARNINGS = ["-W", "error::UserWarning"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "sspruning.py"
WHERE, SCORE = ("both", "tied"), ("learned", "taylor")


def run(folder):
    """What it prints."""
    options = ["--smoke", "--output", folder, "--where", *WHERE]
    done = subprocess.run(
        [sys.executable, *WARNINGS, SCRIPT, *options, "--score", *SCORE],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder that it wrote to, and what it printed."""
    folder = tmp_path_factory.mktemp("sspruning")
    return folder, run(folder)


@pytest.mark.parametrize("score", SCORE)
@pytest.mark.parametrize("where", WHERE)
def test_each_cell_meets_the_budget_of_the_original(done, where, score):
    path = done[0] / "resnet14-seed0" / f"{where}-{score}-0.5.json"
    row = json.loads(path.read_text())
    # At most, and not by much: a channel here is 2 % of the MACs or less.
    assert 0.45 < row["macs"] <= 0.5
    assert row["params"] < 0.8


def test_the_table_has_the_paper_beside_it(done):
    assert "92.80" in done[1]
    assert "tied" in done[1]


def test_what_is_done_is_not_done_again(done):
    assert "epoch 1/1" in done[1]
    assert "epoch 1/1" not in run(done[0])
