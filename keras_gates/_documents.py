"""Documents with sections and tables, written as HTML or Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from keras_gates import _tables


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a document: a table, and sentences below it.

    Attributes:
        title: its heading; "" for none.
        head: the titles of the table's columns.
        rows: the rows of the table; without rows there is no table.
        items: sentences, one per line.
        legend: a sentence on how to read the table's bars, which only HTML
            has.
    """

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[_tables.Cell]] = ()
    items: Sequence[str] = ()
    legend: str = ""


@dataclasses.dataclass(frozen=True)
class Document:
    """A document.

    Attributes:
        title: its heading.
        lead: the first sentences, one per line.
        sections: its `Section`s.
    """

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]


def markdown(document: Document) -> str:
    """A document as text in Markdown."""
    out = [f"# {document.title}", _marked(document.lead)]
    for section in document.sections:
        out += [f"## {section.title}"] * bool(section.title)
        if section.rows:
            out.append(_tables.markdown(section.head, section.rows))
        out += [_marked(section.items)] * bool(section.items)
    return "\n\n".join(out) + "\n"


def page(document: Document) -> str:
    """A document as a page of HTML that needs no other file."""
    title = _tables.escape(document.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{fragment(document)}\n</body>\n</html>\n"
    )


def fragment(document: Document) -> str:
    """A document as HTML to embed in a page."""
    out = [f"<h1>{_tables.escape(document.title)}</h1>"]
    out += [_listed(document.lead)] * bool(document.lead)
    for section in document.sections:
        out += [f"<h2>{_tables.escape(section.title)}</h2>"] * bool(
            section.title
        )
        if section.rows:
            table = _tables.html(section.head, section.rows)
            out.append(f'<div class="wide">{table}</div>')
        items = [*[section.legend] * bool(section.legend), *section.items]
        out += [_listed(items)] * bool(items)
    return "\n".join(out)


def _marked(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _listed(items: Sequence[str]) -> str:
    told = (_tables.escape(item).replace("-&gt;", "&rarr;") for item in items)
    return f"<ul>{''.join(f'<li>{item}</li>' for item in told)}</ul>"


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem;
  background: light-dark(#fff, #16181c); color: light-dark(#1c1e21, #e4e6ea); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; }
th, td { padding: .25rem .8rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid light-dark(#e3e5e8, #2e3238); }
td { font-variant-numeric: tabular-nums; }
svg { vertical-align: .35em; }
"""
