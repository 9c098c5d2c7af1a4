"""Runs `examples/sspruning.py` as a user does, but small."""

import json

import pytest

from tests.examples.scripts import run

pytestmark = pytest.mark.trains

SCRIPT = "sspruning.py"
WHERE, SCORE = ("both", "tied"), ("learned", "taylor")


OPTIONS = ("--where", *WHERE, "--score", *SCORE)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder that it wrote to, and what it printed."""
    folder = tmp_path_factory.mktemp("sspruning")
    return folder, run(SCRIPT, folder, *OPTIONS)


@pytest.mark.parametrize("score", SCORE)
@pytest.mark.parametrize("where", WHERE)
def test_each_cell_meets_the_budget_of_the_original(done, where, score):
    path = done[0] / "resnet8-seed0" / f"{where}-{score}-0.5.json"
    row = json.loads(path.read_text())
    # At most, and not by much: a channel here is 2 % of the MACs or less.
    assert 0.45 < row["macs"] <= 0.5
    assert row["params"] < 0.8


def test_the_table_has_the_paper_beside_it(done):
    assert "92.80" in done[1]
    assert "tied" in done[1]


def test_what_is_done_is_not_done_again(done):
    assert "epoch 1/1" in done[1]
    assert "epoch 1/1" not in run(SCRIPT, done[0], *OPTIONS)
