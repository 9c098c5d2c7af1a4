"""The Python of the README files runs, and does what they say."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.once


def run(readme, folder):
    """Run the Python blocks of a file, as one script; return the output."""
    text = (ROOT / readme).read_text("utf-8")
    blocks = re.findall(
        r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_prunes(tmp_path):
    output = run("README.md", tmp_path)
    left = re.search(r"MACs: .* \((\S+)% of before\)", output)
    # A budget is kept to, by 2 % at most.
    assert 29.4 <= float(left[1]) <= 30
    found = re.search(r"{'classes': (\S+)}", output)
    # Float32 rounding behind a softmax.
    assert float(found[1]) < 1e-5
    assert (tmp_path / "small.keras").exists()


def test_the_rule_of_the_surgeons_page_works(tmp_path):
    output = run("keras_gates/surgeon/README.md", tmp_path)
    labels = dict(re.findall(r"^(\S+) \S+ (\[\[.*\]\])$", output, re.MULTILINE))
    assert labels["shift"] == labels["hidden"] == labels["filter_gate"]
