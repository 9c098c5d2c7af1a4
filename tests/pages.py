"""Runs the Python of a Markdown file, as one script.

All blocks marked `python` run in their order, with one set of names, and so do
hidden ones:

    <!-- python
    rng = np.random.default_rng(0)  # a reader need not see this
    -->

Blocks marked `py`, hidden ones too, need a package that the tests do without,
or the net. They run, in their place, where the page names the package in a
comment, and it is there:

    <!-- needs: keras_hub -->

In an error, the file and the line are those of the page.
"""

import importlib.util
import re
import sys
import types

import keras
from matplotlib import pyplot

BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<mark>python|py) *\n(?P<shown>.*?)^ *``` *$"
    r"|^<!-- (?P<mark_hidden>python|py)\n(?P<hidden>.*?)^-->",
    re.DOTALL | re.MULTILINE,
)
NEEDS = re.compile(r"^<!-- needs: (\w+) -->$", re.MULTILINE)


def script(text):
    """The Python of a page, on the lines that it has there."""
    needs = NEEDS.findall(text)
    there = needs and all(importlib.util.find_spec(name) for name in needs)
    lines = []
    for block in BLOCK.finditer(text):
        if "py" in block.group("mark", "mark_hidden") and not there:
            continue
        begin = text.count("\n", 0, block.start()) + 1
        lines += [""] * (begin - len(lines))
        indent = len(block["indent"] or "")
        code = block["hidden"] if block["mark"] is None else block["shown"]
        lines += [line[indent:] for line in code.splitlines()]
    return "\n".join(lines)


def run(page, folder, monkeypatch):
    """Run the Python of the file `page` in `folder`; return its names."""
    code = compile(script(page.read_text("utf-8")), str(page), "exec")
    module = types.ModuleType("page")
    # Dataclasses, pickle and Keras look up a class's module by its name.
    monkeypatch.setitem(sys.modules, "page", module)
    monkeypatch.chdir(folder)
    keras.utils.clear_session()  # layers are dense, dense_1, ... on each page
    pyplot.switch_backend("agg")
    try:
        exec(code, vars(module))
    finally:
        registered = keras.saving.get_custom_objects()
        for name, found in list(registered.items()):
            if getattr(found, "__module__", None) == "page":
                del registered[name]
        pyplot.close("all")
    return vars(module)
