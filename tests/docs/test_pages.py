"""The Python of every page of the docs runs; `tests/pages.py` says how."""

import pathlib

import pytest

from tests import pages

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"

PAGES = {
    path.relative_to(DOCS).as_posix(): path
    for path in sorted(DOCS.rglob("*.md"))
    if pages.script(path.read_text("utf-8"))
}

# What exports from TensorFlow; torch runs the others.
FOR_TENSORFLOW = ("howto/phone.md",)
CASES = [
    pytest.param(
        name,
        marks=pytest.mark.once
        if name in FOR_TENSORFLOW
        else pytest.mark.trains,
    )
    for name in sorted(PAGES)
]


@pytest.mark.parametrize("name", CASES)
def test_the_page_runs(name, tmp_path, monkeypatch):
    pages.run(PAGES[name], tmp_path, monkeypatch)
