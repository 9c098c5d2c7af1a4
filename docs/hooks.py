"""Writes what the site says of the code from the code itself.

In a page, `{{ layers }}` stands for the table of supported layers, from the
surgeon's registry, and `{{ api }}` for every name that users type.
"""

import importlib
import types

# What users type seldom: what a search returns, what a rule is made of.
MORE = ("keras_gates.search", "keras_gates.surgeon.rules")


def on_page_markdown(markdown, **kwargs):
    """Called by MkDocs with the text of each page."""
    for name, write in {"layers": layers, "api": api}.items():
        mark = "{{ " + name + " }}"
        if mark in markdown:
            markdown = markdown.replace(mark, "\n".join(write()))
    return markdown


def layers():
    """The lines of the table of supported layers."""
    from keras_gates.surgeon import rules

    yield "| layer or operation | rule | note |"
    yield "| --- | --- | --- |"
    for name, rule, note in sorted(rules.table()):
        note = note.replace("|", "\\|")
        yield f"| `{name}` | {rule} | {note} |"


def api():
    """The lines of the reference: a section a module, an entry a name."""
    import keras_gates

    seen = set()
    modules = [
        keras_gates,
        *public(keras_gates, types.ModuleType),
        *map(importlib.import_module, MORE),
    ]
    for module in modules:
        entries = [
            (f"{module.__name__}.{found.__name__}", found)
            for found in public(module, (type, types.FunctionType))
            if found not in seen
        ]
        seen.update(found for _, found in entries)
        if entries:
            yield f"\n## {module.__name__}\n"
        for heading, found in entries:
            yield f"::: {found.__module__}.{found.__qualname__}"
            yield f"    options: {{heading: {heading}, toc_label: {heading}}}"
            yield ""


def public(module, kind):
    """What `module` offers of a kind: by `__all__`, or all that is its own."""
    for name in sorted(getattr(module, "__all__", vars(module))):
        found = getattr(module, name)
        home = getattr(found, "__module__", getattr(found, "__name__", ""))
        own = f"{home}.".startswith(f"{module.__name__}.")
        if own and isinstance(found, kind) and not name.startswith("_"):
            yield found
