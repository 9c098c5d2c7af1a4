"""Compare two models: size, multiply-adds, outputs and time.

Outputs are compared on --data, or on random inputs. Times are for one sample,
in Keras and in each installed runtime that this backend exports to.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import keras

from keras_gates import _tables
from keras_gates import stats
from keras_gates.cli import data as samples
from keras_gates.cli import models
from keras_gates.cli import outputs
from keras_gates.cli import runtimes
from keras_gates.cli.data import Data
from keras_gates.cli.exits import Exit
from keras_gates.cli.exits import Failure
from keras_gates.cli.exits import Outcome
from keras_gates.cli.progress import Progress
from keras_gates.surgeon.verifying import masked_run
from keras_gates.surgeon.verifying import sample_inputs
from keras_gates.surgeon.verifying.compare import output_names

# The number of random samples for comparing outputs.
_SAMPLES = 8
_ALL = (*runtimes.RUNTIMES, "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `compare`."""
    for name, words in (("before", "a .keras file"), ("after", "another")):
        parser.add_argument(
            name, type=pathlib.Path, metavar=name.upper(), help=words
        )
    samples.add_arguments(parser, "to compare outputs on, and the accuracy")
    add = parser.add_argument_group("comparison").add_argument
    add(
        "--tolerance",
        type=float,
        metavar="T",
        help="exit with code 4 if an output differs by more than T of its "
        "scale",
    )
    add(
        "--runtimes",
        default=",".join(runtimes.RUNTIMES),
        metavar="NAMES",
        help=f"where to measure time: {', '.join(_ALL)} (default: all)",
    )


def run(given: argparse.Namespace, progress: Progress) -> Outcome:
    """Run the verb."""
    names = _names(given.runtimes)
    pair = []
    for path in (given.before, given.after):
        progress.step(f"reading {path}")
        pair.append(models.load(path, given.imports))
    before, after = pair
    found = stats.compare(before, after)
    data = samples.read(given, before)
    result: dict[str, Any] = {
        **found.to_dict(),
        "bytes": [outputs.size(p) for p in (given.before, given.after)],
        "difference": _difference(before, after, data),
        "latency": {},
        "not_measured": {},
    }
    accuracy = [samples.accuracy(model, data) for model in pair]
    if None not in accuracy:
        result["accuracy"] = accuracy
    for name in names:
        progress.step(f"measuring in {name}")
        try:
            times = runtimes.measure(name, before, after)
            result["latency"][name] = list(times)
        except runtimes.NotThere as error:
            result["not_measured"][name] = str(error)
    problem = _problem(given, result["difference"])
    code = Exit.DIFFERENT if problem else Exit.DONE
    return Outcome(_text(given, result), result, code, problem)


def _names(listed: str) -> list[str]:
    names = [name.strip() for name in listed.split(",")]
    unknown = [name for name in names if name not in _ALL]
    if unknown:
        raise Failure(
            f"--runtimes does not know {', '.join(unknown)}. Expected: one or "
            f"more of {', '.join(_ALL)}, with commas."
        )
    return [name for name in names if name != "none"]


def _difference(
    before: keras.Model, after: keras.Model, data: Data | None
) -> dict[str, float]:
    """The difference of the outputs, relative to their scale."""
    x = None if data is None else data.x
    batches = sample_inputs.batches(before, x, _SAMPLES, seed=0)
    try:
        ys, others = (masked_run.outputs(m, batches) for m in (before, after))
    except Exception as error:
        raise Failure(
            f"'{after.name}' does not take the inputs of '{before.name}', or "
            f"they don't run: {error}"
        ) from error
    shapes = [[y.shape[1:] for y in each] for each in (ys, others)]
    if shapes[0] != shapes[1]:
        raise Failure(
            f"The outputs of the models can't be compared: {shapes[0]} before "
            f"and {shapes[1]} after."
        )
    far = masked_run.differences(ys, others)
    return dict(zip(output_names(before), far, strict=True))


def _problem(given: argparse.Namespace, difference: dict[str, float]) -> str:
    name = max(difference, key=lambda each: difference[each])
    if given.tolerance is None or difference[name] <= given.tolerance:
        return ""
    return (
        f"output '{name}' differs by {difference[name]:.2g} of its scale, and "
        f"{given.tolerance:g} is allowed (--tolerance)"
    )


def _text(given: argparse.Namespace, result: dict[str, Any]) -> str:
    before, after = result["before"], result["after"]
    pairs = [
        ("parameters", before["params"], after["params"]),
        ("MACs", before["macs"], after["macs"]),
        ("bytes", *result["bytes"]),
    ]
    rows = [(w, f"{a:,}", f"{b:,}", _share(a, b)) for w, a, b in pairs]
    for name, (a, b) in result["latency"].items():
        rows.append((f"ms in {name}", f"{a:.3g}", f"{b:.3g}", _share(a, b)))
    if "accuracy" in result:
        a, b = result["accuracy"]
        rows.append(("accuracy", f"{a:.2%}", f"{b:.2%}", ""))
    head = ("", str(given.before), str(given.after), "left")
    lines = [_tables.text(head, rows), ""]
    for name, far in result["difference"].items():
        lines.append(f"output '{name}': differs by {far:.2g} of its scale")
    for name, why in result["not_measured"].items():
        lines.append(f"not measured in {name}: {why}")
    return "\n".join(lines)


def _share(before: float, after: float) -> str:
    return f"{after / before:.1%}" if before else ""
