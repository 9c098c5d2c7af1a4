"""The Python of the README files runs, and does what they say."""

import pathlib
import re

import pytest

from tests import pages

ROOT = pathlib.Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.once


@pytest.fixture
def output(tmp_path, monkeypatch, capsys):
    """What the Python of a file prints."""

    def output(readme):
        pages.run(ROOT / readme, tmp_path, monkeypatch)
        return capsys.readouterr().out

    return output


def test_the_example_prunes(output, tmp_path):
    printed = output("README.md")
    before, after = re.search(r"parameters: (\S+) -> (\S+)", printed).groups()
    # Two runs have left 5.4 and 7.9 times fewer; the example sets no seed.
    assert int(before.replace(",", "")) > 3 * int(after.replace(",", ""))
    found = re.search(r"{'classes': (\S+)}", printed)
    # Float32 rounding after a softmax; 1.5e-6 has been seen.
    assert float(found[1]) < 1e-5
    assert (tmp_path / "small.keras").exists()


def test_the_rule_of_the_surgeons_page_works(output):
    printed = output("keras_gates/surgeon/README.md")
    labels = dict(
        re.findall(r"^(\S+) \S+ (\[\[.*\]\])$", printed, re.MULTILINE)
    )
    assert labels["shift"] == labels["hidden"] == labels["filter_gate"]
