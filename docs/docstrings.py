"""Puts the doctests of docstrings into fences, where Markdown needs them."""

import re

import griffe

# From a prompt to the next blank line.
DOCTEST = re.compile(r"^([ \t]*)>>> .*(?:\n.*\S.*)*", re.MULTILINE)


def fenced(match):
    """The doctest between fences of the same indentation."""
    indent = match[1]
    return f"\n{indent}```pycon\n{match[0]}\n{indent}```"


class FencedDoctests(griffe.Extension):
    """A Griffe extension; mkdocs.yml names it."""

    def on_object(self, *, obj, **kwargs):
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(fenced, obj.docstring.value)
