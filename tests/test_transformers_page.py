"""The code of the page on transformers runs."""

import importlib.util
import pathlib
import re
import runpy

import pytest

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs/transformers.md"


@pytest.mark.once
def test_the_page_runs(tmp_path, monkeypatch):
    text = PAGE.read_text("utf-8")
    # Blocks that need KerasHub, which is no dependency, are marked "py".
    there = importlib.util.find_spec("keras_hub") is not None
    marks = "python|py" if there else "python"
    blocks = re.findall(
        rf"^```(?:{marks})\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), "utf-8")
    monkeypatch.chdir(tmp_path)
    left = runpy.run_path(str(script))
    assert left["fewer_heads"].get_layer("attention_0").num_heads == 2
    # A quarter of both, wherever the smallest are.
    narrow = left["narrow_inside"]
    assert sum(narrow.get_layer(f"hidden_{i}").units for i in (0, 1)) == 32
