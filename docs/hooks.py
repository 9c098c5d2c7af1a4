"""Writes the reference pages of the site from the code itself.

In a page, `{{ layers }}` stands for the table of supported layers, from the
surgeon's registry, `{{ api MODULE }}` for the reference of the public names
of a module, and `{{ protocol }}` for all that a rule can be asked.
"""

import importlib
import re
import types

RULES = "keras_gates.surgeon.rules"
# What a rule is asked and answers, on a page of its own.
PROTOCOL = "Rule Flow Known View Reading Scaling Identity Reach".split()
_MARK = re.compile(r"\{\{ (\w+)(?: ([\w.]+))? \}\}")


def on_page_markdown(markdown, **kwargs):
    """Called by MkDocs with the text of each page."""
    return _MARK.sub(_written, markdown)


def _written(mark):
    writers = {"layers": layers, "api": api, "protocol": protocol}
    if mark[1] not in writers:
        return mark[0]
    arguments = [mark[2]] if mark[2] else []
    return "\n".join(writers[mark[1]](*arguments))


def layers():
    """The lines of the table of supported layers."""
    from keras_gates.surgeon import rules

    yield "| layer or operation | rule | note |"
    yield "| --- | --- | --- |"
    for name, rule, note in sorted(rules.table()):
        note = note.replace("|", "\\|")
        yield f"| `{name}` | {rule} | {note} |"


def api(name):
    """The lines of the reference of a module: an entry for each name."""
    for heading, found in entries(name):
        yield from _entry(heading, found)


def protocol():
    """The lines of the reference of the protocol of rules."""
    rules = importlib.import_module(RULES)
    for name in PROTOCOL:
        yield from _entry(f"{RULES}.{name}", getattr(rules, name))


def _entry(heading, found):
    yield f"::: {found.__module__}.{found.__qualname__}"
    yield f"    options: {{heading: {heading}, toc_label: {found.__name__}}}"
    yield ""


def entries(name):
    """Pairs of a name, as users type it, and the class or function."""
    import keras_gates

    module = importlib.import_module(name)
    for found in public(module, (type, types.FunctionType)):
        top = found.__name__ in keras_gates.__all__
        home = keras_gates.__name__ if top else name
        if name != RULES or found.__name__ not in PROTOCOL:
            yield f"{home}.{found.__name__}", found


def public(module, kind):
    """What `module` offers of a kind: by `__all__`, or all that is its own."""
    package = module.__name__.partition(".")[0]
    declared = getattr(module, "__all__", None)
    for name in sorted(vars(module) if declared is None else declared):
        found = getattr(module, name)
        home = getattr(found, "__module__", "") or ""
        root = module.__name__ if declared is None else package
        own = f"{home}.".startswith(f"{root}.")
        if own and isinstance(found, kind) and not name.startswith("_"):
            yield found
