"""The code of ours on the page for those who come from other tools runs."""

import pathlib
import re
import runpy

import pytest

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs/migrating.md"


@pytest.mark.once
def test_the_page_runs(tmp_path):
    text = PAGE.read_text("utf-8")
    # Blocks of other tools are marked "py".
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.M)
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), "utf-8")
    left = runpy.run_path(str(script))
    # A share of 0.2 of 16, kept at a multiple of 4.
    assert left["small"].get_layer("conv1").filters == 16
    assert left["small"].get_layer("hidden").units in (12, 16, 20, 24)
    # A quarter of the gammas is 0.
    assert left["smaller"].get_layer("conv1").filters == 12
