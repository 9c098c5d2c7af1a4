"""Write a smaller model.

A budget, a threshold or a plan says what to close: gates that the model was
trained with or, with --scores, channels of a model without gates. Without
--output nothing is saved; it prints what would be removed.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
from typing import Any

import keras

from keras_gates import _files
from keras_gates import surgeon
from keras_gates.cli import data as samples
from keras_gates.cli import models
from keras_gates.cli import outputs
from keras_gates.cli import verdict
from keras_gates.cli.data import Data
from keras_gates.cli.exits import Exit
from keras_gates.cli.exits import Failure
from keras_gates.cli.exits import Outcome
from keras_gates.cli.progress import Progress
from keras_gates.surgeon.scores.score import CRITERIA
from keras_gates.thresholds import Below
from keras_gates.thresholds import Budget

_BUDGETS = ("macs", "params", "latency")
# Criteria that need data.
_ON_DATA = ("apoz", "mean", "taylor", "obs")
# Criteria that may need a loss.
_BY_LOSS = ("taylor", "obs")
# The number of samples for the check.
_CHECKED = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `prune`."""
    parser.add_argument(
        "model", type=pathlib.Path, metavar="MODEL", help="a .keras file"
    )
    _add_closing(parser)
    samples.add_arguments(parser, "for --scores and --repair, and to check on")
    add = parser.add_argument_group("result").add_argument
    path: dict[str, Any] = {"type": pathlib.Path, "metavar": "FILE"}
    add(
        "-o",
        "--output",
        **path,
        help="where to save the smaller model (.keras)",
    )
    add(
        "--plan",
        **path,
        help="with a budget or threshold: where to save the plan, as JSON; "
        "without: the plan to apply",
    )
    add("--report", **path, help="where to save a report (.html or .md)")
    add("--force", action="store_true", help="overwrite existing files")
    add(
        "--repair",
        action="store_true",
        help="fit what is left to the original on --data, without labels or "
        "training; the result is approximate",
    )
    add(
        "--tolerance",
        type=float,
        metavar="T",
        help="how far outputs may differ, relative to their scale (default: "
        "1e-4, more in half precision)",
    )
    add("--no-verify", action="store_true", help="do not check the result")


def _add_closing(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what to close."""
    group = parser.add_argument_group("what to remove")
    one = group.add_mutually_exclusive_group()
    number: dict[str, Any] = {"type": float, "metavar": "N"}
    one.add_argument(
        "--macs",
        **number,
        help="multiply-adds that may be left: a share up to 1, or a number",
    )
    one.add_argument("--params", **number, help="parameters that may be left")
    one.add_argument(
        "--latency",
        **number,
        help="time that may be left: a share up to 1, or milliseconds",
    )
    one.add_argument(
        "--threshold", **number, help="close gates or scores below N"
    )
    add = group.add_argument
    add(
        "--scores",
        choices=CRITERIA,
        metavar="CRITERION",
        help=f"rank channels of a model without gates: {', '.join(CRITERIA)}",
    )
    add("--loss", help="the loss for --scores taylor; the model's by default")
    add(
        "--round-to",
        type=int,
        default=1,
        metavar="N",
        help="keep widths at multiples of N",
    )
    add(
        "--keep-at-least",
        type=_count,
        default=0,
        metavar="N",
        help="channels that each gate keeps at least: a number, or a share "
        "below 1",
    )
    add(
        "--approximate",
        action="store_true",
        help="also remove what can't be removed exactly",
    )


def _count(text: str) -> float:
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"a number such as 8, or a share such as 0.1 is expected: {text!r}"
        ) from error


def run(given: argparse.Namespace, progress: Progress) -> Outcome:
    """Run the verb."""
    _check(given)
    progress.step(f"reading {given.model}")
    taylor = given.scores == "taylor" and given.loss is None
    model = models.load(given.model, given.imports, compiled=taylor)
    if taylor and not model.compiled:
        raise Failure(
            f"--scores taylor needs a loss, and '{given.model}' was saved "
            "without one. Pass one, such as --loss "
            "sparse_categorical_crossentropy."
        )
    data = samples.read(given, model)
    plan = _plan(given, model, data, progress)
    met = _met(given, plan)
    result: dict[str, Any] = {
        "model": model.name,
        "params": list(plan.params),
        "macs": list(plan.macs),
        "exact": plan.exact and not given.repair,
        "notes": plan.notes,
    }
    if met:
        return _outcome(given, plan, result, Exit.BUDGET, met)
    small, repair = _pruned(given, plan, data, progress)
    problem = ""
    if small is not None:
        metrics = _metrics(given, model, small, data, result)
        if repair is None and not given.no_verify:
            progress.step("checking that it computes the same")
            problem = _verify(given, plan, small, data, result)
        if repair is not None:
            result["repair"] = repair.total._asdict()
    else:
        metrics = {}
    if problem:
        return _outcome(given, plan, result, Exit.DIFFERENT, problem)
    _write(given, plan, small, repair, metrics)
    return _outcome(given, plan, result, Exit.DONE, "")


# Before the work ---------------------------------------------------------


def _asked(given: argparse.Namespace) -> list[str]:
    """Which options that decide what closes were given."""
    names = (*_BUDGETS, "threshold")
    return [name for name in names if getattr(given, name) is not None]


def _check(given: argparse.Namespace) -> None:
    """Refuse impossible requests, before any work.

    Raises:
        Failure: the request is impossible.
    """
    asked = _asked(given)
    if not asked and given.plan is None:
        raise Failure(
            "Nothing says what to close. Pass --macs 0.5, --params, "
            "--latency, --threshold, or --plan plan.json."
        )
    if not asked and given.scores:
        raise Failure(
            "--scores and --plan exclude each other: the plan decides what "
            "closes. Leave out one of them."
        )
    if asked:
        _check_thresholds(given)
    if given.loss is not None and given.scores not in _BY_LOSS:
        raise Failure(
            "--loss is for --scores taylor or obs. Leave it out, or pass one "
            "of these."
        )
    if given.tolerance is not None and not given.tolerance >= 0:
        raise Failure(
            f"--tolerance must be at least 0. Received: {given.tolerance}."
        )
    needs = given.repair or given.scores in _ON_DATA
    if needs and given.data is None:
        what = "--repair" if given.repair else f"--scores {given.scores}"
        raise Failure(f"{what} needs samples. Pass --data x.npz.")
    if given.repair and given.output is None:
        raise Failure("--repair writes a model. Pass --output, too.")
    results = [
        (given.output, (".keras",), "A model"),
        (given.report, (".html", ".htm", ".md"), "A report"),
    ]
    if asked:
        results.append((given.plan, (".json",), "A plan"))
    for path, suffixes, what in results:
        if path is not None:
            outputs.check(path, suffixes, given.force, what)


def _check_thresholds(given: argparse.Namespace) -> None:
    try:
        asked = _thresholds(given)
        if not isinstance(asked, Budget):
            Below(asked)
    except ValueError as error:
        raise Failure(str(error)) from error


# The plan ----------------------------------------------------------------


def _plan(
    given: argparse.Namespace,
    model: keras.Model,
    data: Data | None,
    progress: Progress,
) -> surgeon.Plan:
    """The requested or given plan."""
    if not _asked(given):
        return _given_plan(given.plan, model)
    scores = None
    if given.scores:
        progress.step(f"scoring channels by {given.scores}")
        pair = None if data is None else data.pair
        scores = surgeon.score(model, given.scores, pair, loss=given.loss)
    progress.step("planning")
    try:
        return surgeon.plan(
            model,
            _thresholds(given),
            scores=scores,
            keep_at_least=given.keep_at_least,
            round_to=given.round_to,
            exact=not given.approximate,
        )
    except ValueError as error:
        if scores is None and "has no gates" in str(error):
            raise Failure(
                f"'{given.model}' has no gates. Pass --scores l2 to rank "
                "its channels without them, or train it with gates first "
                "(keras_gates.insert_gates)."
            ) from error
        raise


def _thresholds(given: argparse.Namespace) -> float | Budget:
    for name in _BUDGETS:
        amount = getattr(given, name)
        if amount is not None:
            return Budget(**{name: amount})
    threshold: float = given.threshold
    return threshold


def _given_plan(path: pathlib.Path, model: keras.Model) -> surgeon.Plan:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise Failure(
            f"There is no plan '{path}'. To make one, say what to close: "
            "--macs 0.5, for example."
        ) from error
    except (OSError, ValueError) as error:
        raise Failure(
            f"'{path}' can't be read as a plan. Expected: a .json file, as "
            "prune --macs 0.5 --plan plan.json writes one."
        ) from error
    return surgeon.Plan.from_json(text, model)


def _met(given: argparse.Namespace, plan: surgeon.Plan) -> str:
    """What is wrong if a plan does not meet the budget."""
    for name in ("macs", "params"):
        amount = getattr(given, name)
        if amount is not None:
            before, after = getattr(plan, name)
            limit = Budget(**{name: amount}).limit(before)
            if after > limit:
                return (
                    f"{after:,} {name} would be left, and {limit:,.0f} may "
                    "be. Allow more, or close more (--scores, "
                    "--keep-at-least 0, --round-to 1)."
                )
    return ""


# The model ---------------------------------------------------------------


def _pruned(
    given: argparse.Namespace,
    plan: surgeon.Plan,
    data: Data | None,
    progress: Progress,
) -> tuple[keras.Model | None, surgeon.Repair | None]:
    """The smaller model, if requested, and its repair."""
    if given.output is None:
        return None, None
    if given.repair and data is not None:
        progress.step("pruning and repairing")
        repair = surgeon.repair(plan, data.x, verbose=progress.verbose)
        return repair.model, repair
    progress.step("pruning")
    return plan.apply(), None


def _verify(
    given: argparse.Namespace,
    plan: surgeon.Plan,
    small: keras.Model,
    data: Data | None,
    result: dict[str, Any],
) -> str:
    """Compare with the original; returns what is wrong, if anything."""
    x = None if data is None else data.first(_CHECKED)
    far = plan.verify(small, x)
    result["difference"] = far
    if not plan.exact and given.tolerance is None:
        return ""
    return verdict.too_far(far, plan.model, given.tolerance)


def _metrics(
    given: argparse.Namespace,
    model: keras.Model,
    small: keras.Model,
    data: Data | None,
    result: dict[str, Any],
) -> dict[str, tuple[float, float]]:
    """The accuracy of both, if the data has labels."""
    before = samples.accuracy(model, data)
    after = samples.accuracy(small, data)
    if before is None or after is None:
        return {}
    result["accuracy"] = [before, after]
    return {"accuracy": (before, after)}


def _write(
    given: argparse.Namespace,
    plan: surgeon.Plan,
    small: keras.Model | None,
    repair: surgeon.Repair | None,
    metrics: dict[str, tuple[float, float]],
) -> None:
    """Write all requested files, or none if one fails."""
    with contextlib.ExitStack() as stack:

        def beside(path: pathlib.Path) -> pathlib.Path:
            return stack.enter_context(_files.replacing(path))

        if given.report is not None:
            path = beside(given.report)
            plan.report(path, repair=repair, metrics=metrics)
        if given.plan is not None and _asked(given):
            beside(given.plan).write_text(plan.to_json(), "utf-8")
        if small is not None:
            small.save(beside(given.output))


# What is told ------------------------------------------------------------


def _outcome(
    given: argparse.Namespace,
    plan: surgeon.Plan,
    result: dict[str, Any],
    code: Exit,
    problem: str,
) -> Outcome:
    lines = []
    for name, unit in (("params", "parameters"), ("macs", "MACs")):
        before, after = result[name]
        share = f" ({after / before:.1%})" if before else ""
        lines.append(f"{unit}: {before:,} -> {after:,}{share}")
    if "accuracy" in result:
        before, after = result["accuracy"]
        lines.append(f"accuracy: {before:.2%} -> {after:.2%}")
    if "repair" in result:
        repair = result["repair"]
        lines.append(
            "repaired: relative error of the outputs "
            f"{repair['before']:.3g} -> {repair['after']:.3g}"
        )
    if "difference" in result:
        far = max(result["difference"].values())
        lines.append(f"checked: outputs differ by {far:.2g} of their scale")
    lines += [f"note: {note}" for note in result["notes"]]
    if code is Exit.DONE:
        result["files"] = _files_of(given)
        for path, size in result["files"].items():
            was = f", {given.model} has {outputs.size(given.model):,}"
            was *= path == str(given.output)
            lines.append(f"wrote {path}: {size:,} bytes{was}")
        if given.output is None:
            lines.append("no model was written: pass --output to write it")
    return Outcome("\n".join(lines), result, code, problem)


def _files_of(given: argparse.Namespace) -> dict[str, int]:
    """The written files, with their sizes in bytes."""
    plan = given.plan if _asked(given) else None
    paths = (given.output, plan, given.report)
    return {str(p): outputs.size(p) for p in paths if p is not None}
