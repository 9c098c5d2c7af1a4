"""Plans as JSON text, and checks when they are read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras

from keras_gates.graphs import graph as gr
from keras_gates.surgeon.closing.options import Options
from keras_gates.surgeon.closing.options import Request
from keras_gates.surgeon.closing.request import factor_shapes
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.report import kept as kept_of
from keras_gates.surgeon.report import table

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.report.kept import Kept

# Format 1 is that of version 0.1, which has no request.
_FORMAT, _FORMATS = 2, (1, 2)


class Content(NamedTuple):
    """The stored parts of a plan.

    Attributes:
        closed: `{name of a gate or group: indices of closed factors}`.
        options: how it removes them.
        request: the request; None if it is not known.
        rows: one for each layer.
        notes: further notes.
        kept: which channels stay; None in plans of older versions.
    """

    closed: dict[str, list[int]]
    options: Options
    request: Request | None
    rows: list[table.Row]
    notes: list[str]
    kept: Kept | None


def dump(model: keras.Model, content: Content) -> str:
    """A plan for a model as JSON text."""
    request = content.request
    fields = {
        "format": _FORMAT,
        "model": model.name,
        "fingerprint": fingerprint(model),
        "request": request and dataclasses.asdict(request),
        "options": dataclasses.asdict(content.options),
        "closed": content.closed,
        "rows": [dataclasses.asdict(row) for row in content.rows],
        "notes": content.notes,
        "kept": content.kept and kept_of.to_json(content.kept),
    }
    return json.dumps(fields, indent=1)


def load(
    text: str, model: keras.Model
) -> tuple[Content, dict[str, tuple[int, ...]]]:
    """What a plan for this model holds, and the shapes of its gates' factors.

    Raises:
        ValueError: the text is not a plan, or a plan for another model.
    """
    try:
        data = json.loads(text)
        version = data["format"]
        if version in _FORMATS:
            name, hashed, content = _read(data)
    except KeyError as error:
        raise _no_plan(f"it has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise _no_plan(f"{type(error).__name__}: {error}") from error
    if version not in _FORMATS:
        raise ValueError(
            f"This plan has format {version!r}, and this version of "
            f"keras_gates reads format {' and '.join(map(str, _FORMATS))}. "
            "Make the plan again."
        )
    graph = see_through.read(model)
    if hashed != _fingerprint(graph):
        raise ValueError(
            f"This plan was made for a model '{name}' whose "
            f"layers, shapes or names are not those of '{model.name}'. "
            "Apply it to the model that it was made for, or make a new plan."
        )
    shapes = factor_shapes(graph, content.closed, content.options)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    _check_closed(content.closed, sizes)
    return content, shapes


def _read(data: dict[str, Any]) -> tuple[str, str, Content]:
    """The name and fingerprint of a plan's model, and its content."""
    content = Content(
        {name: list(at) for name, at in data["closed"].items()},
        _options(data["options"]),
        None if data["format"] == 1 else _request(data["request"]),
        [table.Row.from_dict(row) for row in data["rows"]],
        list(data["notes"]),
        kept_of.from_json(data["kept"]) if data.get("kept") else None,
    )
    return data["model"], data["fingerprint"], content


def _options(data: dict[str, Any]) -> Options:
    """The options; format 1 always has only the first two."""
    groups = data.get("groups")
    return Options(
        data["exact"],
        data["round_to"],
        data.get("drop_shortcuts", False),
        data.get("sizes"),
        None if groups is None else tuple(groups),
        data.get("written_out"),
        dict(data.get("whole", {})),
    )


def _request(data: dict[str, Any] | None) -> Request | None:
    if data is None:  # of a plan that was read from format 1
        return None
    scores = data["scores"]
    return Request(
        data["thresholds"],
        data["keep_at_least"],
        None if scores is None else tuple(scores),
    )


def _check_closed(closed: dict[str, list[int]], sizes: dict[str, int]) -> None:
    """Refuse a plan that closes gates that the model does not have."""
    for name, found in closed.items():
        size = sizes.get(name)
        if size is None:
            raise _no_plan(f"'{name}' is not a gate of the model")
        if not all(isinstance(i, int) and 0 <= i < size for i in found):
            raise _no_plan(f"gate '{name}' has {size} factors, not {found}")


def _no_plan(why: str) -> ValueError:
    return ValueError(
        "This is not the JSON of a keras_gates plan. Expected what "
        f"`Plan.to_json()` returns. ({why})"
    )


def fingerprint(model: keras.Model) -> str:
    """A hash of a model's layers, shapes and names, not of its weights."""
    return _fingerprint(see_through.read(model))


def _fingerprint(graph: Graph) -> str:
    digest = hashlib.sha256()
    for call in graph.calls:
        shapes = [tuple(w.shape) for w in gr.own_weights(call.op)]
        line = (
            call.path if isinstance(call.op, keras.Layer) else "",
            type(call.op).__name__,
            [t.shape for t in call.inputs],
            [t.shape for t in call.outputs],
            shapes,
        )
        digest.update(repr(line).encode())
    return digest.hexdigest()
