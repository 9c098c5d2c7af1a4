"""Show what a model consists of, and what can be removed.

Lists the layers with their parameters and multiply-adds, the gates, the groups
of channels that can be removed without gates, and what is kept whole and why.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import keras
import numpy as np

from keras_gates import _tables
from keras_gates import stats
from keras_gates.cli import models
from keras_gates.cli import outputs
from keras_gates.cli.exits import Outcome
from keras_gates.cli.progress import Progress
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.find import gates_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `inspect`."""
    parser.add_argument(
        "model", type=pathlib.Path, metavar="MODEL", help="a .keras file"
    )


def run(given: argparse.Namespace, progress: Progress) -> Outcome:
    """Run the verb."""
    progress.step(f"reading {given.model}")
    model = models.load(given.model, given.imports)
    count = stats.count(model)
    data: dict[str, Any] = {
        "file": str(given.model),
        "bytes": outputs.size(given.model),
        **count.to_dict(),
        **_parts(model),
    }
    return Outcome("\n\n".join([str(count), *_tables_of(data)]), data)


def _parts(model: keras.Model) -> dict[str, Any]:
    """The gates, groups and barriers of a model."""
    graph = expand.read(model)
    gates = []
    for name, source in gates_of(graph).items():
        sizes = np.abs(source.values()).reshape(-1)
        gates.append(
            {
                "gate": name,
                "kind": source.kind,
                "factors": int(sizes.size),
                "zero": int((sizes == 0).sum()),
                "smallest": float(sizes.min(initial=np.inf)),
                "largest": float(sizes.max(initial=0.0)),
            }
        )
    found = groups.find(graph)
    barriers = dict(found.kept)
    for step in found.labelling.steps:
        if step.flow.reason is not None:
            barriers[step.path] = step.flow.reason
    return {
        "gates": gates,
        "groups": [
            {"group": name, "kind": group.kind, "channels": group.units.size}
            for name, group in found.groups.items()
            if group.main
        ],
        "barriers": [
            {"layer": name, "reason": reason}
            for name, reason in barriers.items()
        ],
    }


def _tables_of(data: dict[str, Any]) -> list[str]:
    out = []
    if data["gates"]:
        rows = [
            (
                each["gate"],
                each["kind"],
                each["factors"],
                each["zero"],
                f"{each['smallest']:.3g}",
                f"{each['largest']:.3g}",
            )
            for each in data["gates"]
        ]
        head = ("gate", "kind", "factors", "at zero", "smallest", "largest")
        out.append(_tables.text(head, rows))
    if data["groups"]:
        titles = ("channels that can be removed together", "kind", "number")
        out.append(
            _tables.text(titles, [tuple(e.values()) for e in data["groups"]])
        )
    if data["barriers"]:
        why = ("kept whole", "reason")
        out.append(
            _tables.text(why, [tuple(e.values()) for e in data["barriers"]])
        )
    return out
