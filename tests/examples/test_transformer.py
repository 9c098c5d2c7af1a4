"""Runs `examples/transformer.py` as a user does, but small."""

import json

import pytest

from tests.examples.scripts import run

pytestmark = pytest.mark.trains

SCRIPT = "transformer.py"
WAYS = ("gates", "taylor", "minitron", "random")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder that it wrote to, and what it printed."""
    folder = tmp_path_factory.mktemp("transformer")
    return folder, run(SCRIPT, folder, "--ways", *WAYS)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_meets_the_budget(done, way):
    path = done[0] / "words-seed0" / f"{way}-0.5.json"
    row = json.loads(path.read_text())
    assert 0.4 < row["macs"] <= 0.5
    assert row["params"] < 0.8


def test_the_table_has_a_row_for_each(done):
    assert all(way in done[1] for way in ("whole", *WAYS))


def test_what_is_done_is_not_done_again(done):
    assert "epoch 1/1" in done[1]
    assert "epoch 1/1" not in run(SCRIPT, done[0], "--ways", *WAYS)
