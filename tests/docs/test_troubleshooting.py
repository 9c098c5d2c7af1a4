"""The page on troubleshooting knows every reason that a plan can print."""

import re

import pytest

from tests.docs import reasons
from tests.docs.test_pages import DOCS

pytestmark = pytest.mark.once

PAGE = (DOCS / "troubleshooting.md").read_text("utf-8")


def plain(text):
    return re.sub(r"\s+", " ", text.replace("`", ""))


@pytest.mark.parametrize("module", sorted({*reasons.reasons().values()}))
def test_each_reason_is_on_the_page(module):
    page = plain(PAGE)
    missing = [
        text
        for text, source in reasons.reasons().items()
        if source == module
        and any(plain(part) not in page for part in reasons.parts(text))
    ]
    assert missing == []


def test_reasons_are_found():
    found = reasons.reasons()
    assert "feeds them back into itself" in found
    assert "its `call` sets its attribute `…`" in found
    assert len(found) > 150
    assert reasons.parts("no rule for …: it calls …") == ["no rule for"]


def test_the_errors_are_those_of_the_code():
    """The first words of each row, as far as they are the same each time."""
    code = plain(
        "".join(
            re.sub(r'["\']\s*\n\s*f?["\']', "", path.read_text("utf-8"))
            for path in reasons.PACKAGE.rglob("*.py")
        )
    )
    section = PAGE.split("## Common errors")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| ", section, re.MULTILINE)[2:]
    assert len(rows) >= 15
    for row in rows:
        if "from Keras" not in row:
            parts = re.split("…|'", plain(row))
            longest = max(parts, key=len).strip(" :,.()")
            assert longest in code, row
