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

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_page_runs(name, tmp_path, monkeypatch):
    pages.run(PAGES[name], tmp_path, monkeypatch)
