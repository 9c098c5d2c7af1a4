"""Runs `examples/swp.py` as a user does, but small."""

import json

import keras
import pytest

import keras_gates as kg
from tests.examples import scripts

pytestmark = pytest.mark.trains

SHARE = 0.3


def run(folder, *options):
    """What it prints."""
    return scripts.run("swp.py", folder, "--shares", str(SHARE), *options)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison, and what was printed."""
    folder = tmp_path_factory.mktemp("swp")
    return folder, run(folder)


def rows(folder, network="lenet5"):
    files = (folder / network / "seed0").glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in files}


def test_all_ways_are_cut_to_the_same_cost(compared):
    found = rows(compared[0])
    assert set(found) == {
        "plain",
        *(f"{way}-30" for way in ("skeleton", "lasso", "norm", "random")),
    }
    assert found.pop("plain")["macs"] == 1
    for row in found.values():
        # A budget is met from below, by 2 % of it at most.
        assert 0.98 * SHARE <= row["macs"] <= SHARE
        # Float32 rounding over four layers; 5e-7 has been seen.
        assert row["differs"] < 1e-5


def test_the_picture_is_a_picture(compared):
    image = pytest.importorskip("matplotlib.image")
    path = compared[0] / "lenet5" / "seed0" / "stripes.png"
    assert min(image.imread(path).shape[:2]) > 100


def test_what_is_done_is_not_done_again(compared):
    folder, printed = compared
    again = run(folder)
    assert "epoch 1/1" in printed
    assert "epoch 1/1" not in again
    assert again.split("Accuracy")[1] == printed.split("Accuracy")[1]


def test_stripes_go_on_where_filters_were_cut(tmp_path):
    run(tmp_path, "--continual", "--network", "small_vgg")
    found = rows(tmp_path, "small_vgg")
    assert set(found) == {"plain", "filters-60", "filters-30", "continued-30"}
    for name, share in (("filters-60", 0.6), ("continued-30", SHARE)):
        assert 0.9 * share <= found[name]["macs"] <= share
        assert found[name]["differs"] < 1e-5
    folder = tmp_path / "small_vgg" / "seed0"
    names = ("plain", "filters-60", "continued-30")
    models = [keras.models.load_model(folder / f"{x}.keras") for x in names]
    sizes = [kg.stats.count(model).params for model in models]
    assert sizes[0] > sizes[1] > sizes[2]
