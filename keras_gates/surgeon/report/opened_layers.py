"""What becomes of the layers that were seen through, as notes of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from keras_gates._checks import listed
from keras_gates.graphs import create
from keras_gates.surgeon.solving.bars import few
from keras_gates.surgeon.solving.returns import How

if TYPE_CHECKING:
    from keras_gates.surgeon.solving.returns import Return
    from keras_gates.surgeon.solving.solve import Solution


def notes(solution: Solution) -> list[str]:
    """A line for all layers of which the same is to be said."""
    alike: dict[str, list[str]] = {}
    for each in solution.returns:
        alike.setdefault(_told(each), []).append(each.path)
    found = [f"{listed(paths)} {told}" for told, paths in alike.items()]
    # What loads where depends on all of them.
    own = {
        each.of.__name__: None
        for each in solution.returns
        if each.how is How.CLASS and not _is_stock(each)
    }
    if own:
        found.append(
            f"to load the result, {listed([*own])} must be importable, as for "
            f"the model itself; {_otherwise(solution)}"
        )
    return found


def _otherwise(solution: Solution) -> str:
    """What `written_out=True` would do about the classes."""
    graph = solution.graph
    fixed = {
        f"'{site.name}'": None
        for each in [graph, *graph.nested()]
        for site in each.sites
        if site.opened is not None and site.opened.fixed
    }
    if not fixed:
        return "with written_out=True, it needs no class of yours for them"
    return (
        f"written_out=True would keep {few(fixed)} whole, which can't be "
        "written out"
    )


def _told(each: Return) -> str:
    name = each.of.__name__
    if each.how is How.CLASS:
        edits = ", ".join(
            f"{'.'.join(map(str, path))} {old} -> {new}"
            for path, (old, new) in each.edits.items()
        )
        with_ = f"with {edits}" if edits else "with its config unchanged"
        if each.cls is not None:
            return f"is an instance of its class {name} again, {with_}"
        return f"(of type {name}) keeps its class, {with_}"
    why = f": its class can't be kept, since {each.reason}" * bool(each.reason)
    made = "written out as a model of its parts"
    if isinstance(each.layer, keras.Model):
        made = "rebuilt as a plain Keras model"
    return f"(of type {name}) is {made}{why}"


def _is_stock(each: Return) -> bool:
    return create.is_of(each.of, keras.__name__)
