"""The reference has an entry for every public name, and for no other."""

import importlib.util
import re
import types

import pytest

from tests import test_public_api
from tests.docs.test_pages import DOCS

pytestmark = pytest.mark.once

MARK = re.compile(r"\{\{ api ([\w.]+) \}\}")


def hooks():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented():
    """The names that the pages have, as users type them: `{name: object}`."""
    names = {}
    for page in sorted((DOCS / "api").glob("*.md")):
        for module in MARK.findall(page.read_text("utf-8")):
            for name, value in hooks().entries(module):
                assert name not in names, name
                names[name] = value
    return names


def test_every_public_name_has_an_entry():
    module = hooks()
    entries = [
        *documented().values(),
        *(test_public_api.found(f"surgeon.rules.{n}") for n in module.PROTOCOL),
    ]
    missing = [
        f"{module}.{name}".lstrip(".")
        for module, names in test_public_api.NAMES.items()
        for name in names.split()
        for value in [test_public_api.found(f"{module}.{name}")]
        if not isinstance(value, types.ModuleType) and value not in entries
    ]
    assert missing == []


def test_names_are_those_that_users_type():
    for name, value in documented().items():
        path = name.removeprefix("keras_gates.")
        assert test_public_api.found(path) is value
        assert not any(part.startswith("_") for part in path.split("."))
    assert "keras_gates.insert_gates" in documented()
    assert "keras_gates.transforms.find_structure" in documented()


def test_a_page_is_written_from_the_code():
    text = hooks().on_page_markdown("{{ api keras_gates.search }}\n{{ x }}")
    assert "::: keras_gates.search.find.find_thresholds" in text
    assert "heading: keras_gates.find_thresholds" in text
    assert text.endswith("{{ x }}")
    page = (DOCS / "extending.md").read_text("utf-8")
    rule = "::: keras_gates.surgeon.rules.rule.Rule"
    assert rule in hooks().on_page_markdown(page)
    assert "`keras Dense`" in hooks().on_page_markdown("{{ layers }}")
