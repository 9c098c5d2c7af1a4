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
    left = re.search(r"MACs: .* \((\S+)% of before\)", printed)
    # A budget is kept to, and missed by 2 % at most.
    assert 29.4 <= float(left[1]) <= 30
    found = re.search(r"{'classes': (\S+)}", printed)
    # Float32 rounding behind a softmax.
    assert float(found[1]) < 1e-5
    assert (tmp_path / "small.keras").exists()


def test_the_rule_of_the_surgeons_page_works(output):
    printed = output("keras_gates/surgeon/README.md")
    labels = dict(
        re.findall(r"^(\S+) \S+ (\[\[.*\]\])$", printed, re.MULTILINE)
    )
    assert labels["shift"] == labels["hidden"] == labels["filter_gate"]


def test_the_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r'(?:\]\(|src(?:set)?=")(?!https?:)([^)#"]+)', text)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
