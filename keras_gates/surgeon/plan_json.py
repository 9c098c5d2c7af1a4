"""Plans as JSON text: what is stored, and what is refused when it is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import graph as gr
from keras_gates.surgeon.closing.request import factor_shapes
from keras_gates.surgeon.report import table

if TYPE_CHECKING:
    pass

_FORMAT = 1


def dump(plan: Any) -> str:
    """A plan as JSON text."""
    return json.dumps(
        {
            "format": _FORMAT,
            "model": plan.model.name,
            "fingerprint": fingerprint(plan.model),
            "options": plan.options,
            "closed": plan.closed,
            "rows": [dataclasses.asdict(row) for row in plan.rows],
            "notes": plan.notes,
        },
        indent=1,
    )


def load(text: str | None, model: keras.Model) -> Any:
    """The `closed, options, rows, notes` of a plan for this model.

    Raises:
        ValueError: the text is no plan, or a plan for another model.
    """
    data = _parsed(text)
    if data["fingerprint"] != fingerprint(model):
        raise ValueError(
            f"This plan was made for a model '{data['model']}' whose "
            f"layers, shapes or names are not those of '{model.name}'. "
            "Apply it to the model that it was made for, or make a new plan."
        )
    closed, options = data["closed"], data["options"]
    scored = options.get("groups")
    shapes = factor_shapes(model, closed, options["exact"], scored)
    _check_closed(closed, {n: math.prod(s) for n, s in shapes.items()})
    return [data[name] for name in ("closed", "options", "rows", "notes")]


def _parsed(text: str | None) -> dict[str, Any]:
    """The fields of a plan's JSON text."""
    try:
        data = json.loads(text)
        version = data["format"]
        if version == _FORMAT:
            return _fields(data)
    except KeyError as error:
        raise _no_plan(f"it has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise _no_plan(f"{type(error).__name__}: {error}") from error
    raise ValueError(
        f"This plan has format {version!r}, and this version of keras_gates "
        f"reads format {_FORMAT}. Make the plan again."
    )


def _fields(data: dict[str, Any]) -> dict[str, Any]:
    options = {name: data["options"][name] for name in ("exact", "round_to")}
    # Plans of older versions do not speak of it.
    dropped = data["options"].get("drop_shortcuts", False)
    options["drop_shortcuts"] = dropped
    if "groups" in data["options"]:
        options["groups"] = list(data["options"]["groups"])
    options["sizes"] = data["options"].get("sizes")
    return {
        "model": data["model"],
        "fingerprint": data["fingerprint"],
        "closed": {name: list(at) for name, at in data["closed"].items()},
        "options": options,
        "rows": [table.Row.from_dict(row) for row in data["rows"]],
        "notes": list(data["notes"]),
    }


def _check_closed(
    closed: dict[str, list[int | str]], sizes: dict[str, int]
) -> None:
    """Refuse a plan that closes what the model does not have."""
    for name, found in closed.items():
        size = sizes.get(name)
        if size is None:
            raise _no_plan(f"'{name}' is no gate of the model")
        if not all(isinstance(i, int) and 0 <= i < size for i in found):
            raise _no_plan(f"gate '{name}' has {size} factors, not {found}")


def _no_plan(why: str) -> Any:
    return ValueError(
        "This is not the JSON of a keras_gates plan. Expected what "
        f"`Plan.to_json()` returns. ({why})"
    )


def fingerprint(model: keras.Model) -> str:
    """A hash of a model's layers, shapes and names, not of its weights."""
    digest = hashlib.sha256()
    for call in gr.read(model).calls:
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
