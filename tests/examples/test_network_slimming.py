"""Runs `examples/network_slimming.py` as a user does, but small."""

import json

import keras
import pytest

from tests.examples.scripts import run

pytestmark = pytest.mark.trains

SCRIPT = "network_slimming.py"


@pytest.fixture(scope="module", params=["mlp", "small_vgg"])
def passes(request, tmp_path_factory):
    """The folder of two passes, what was printed, and the network."""
    folder = tmp_path_factory.mktemp("network_slimming")
    arguments = ("--network", request.param, "--passes", "2")
    return folder, run(SCRIPT, folder, *arguments), request.param, arguments


def test_the_cut_changes_nothing_but_what_is_closed(passes):
    folder, _, network, _ = passes
    for name in ("plain", "pass1", "pass2"):
        path = folder / network / "seed0" / f"{name}.json"
        row = json.loads(path.read_text())
        assert row["cut"] == row["zeroed"]
        # Float32 rounding over seven layers; 5e-7 has been seen.
        assert row["differs"] < 1e-5
        assert row["closed"] == pytest.approx(0.5, abs=0.01)


def test_the_second_pass_goes_on_with_the_first(passes):
    folder, _, network, _ = passes
    models = [
        keras.models.load_model(folder / network / "seed0" / f"{name}.keras")
        for name in ("plain", "tuned1", "tuned2")
    ]
    counts = [model.count_params() for model in models]
    assert counts[0] > 1.5 * counts[1] > 1.5 * 1.5 * counts[2]


def test_the_paper_stands_beside_it(passes):
    _, printed, network, _ = passes
    theirs = "784-100-60-10" if network == "mlp" else "84.7"
    assert ("Table 3" if network == "mlp" else "Multi-pass") in printed
    assert theirs in printed


def test_what_is_done_is_not_done_again(passes):
    folder, printed, _, arguments = passes
    again = run(SCRIPT, folder, *arguments)
    assert "epoch 1/1" in printed
    assert "epoch 1/1" not in again
    assert again.split("Accuracy")[1] == printed.split("Accuracy")[1]
