"""The parser of the command line, and its exit codes."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NoReturn

from keras_gates.cli import compare
from keras_gates.cli import export
from keras_gates.cli import inspect
from keras_gates.cli import prune
from keras_gates.cli.exits import Exit
from keras_gates.cli.exits import Failure
from keras_gates.cli.exits import Outcome
from keras_gates.cli.exits import one_line
from keras_gates.cli.progress import Progress
from keras_gates.thresholds.budget import OutOfReach

_VERBS = {
    "inspect": inspect,
    "prune": prune,
    "compare": compare,
    "export": export,
}
_EXITS = """\
exit codes:
  0  done
  1  a bug of keras_gates: please report it
  2  bad input: arguments, files, data, or a model that can't be read
  3  the budget can't be met
  4  the models differ: `prune` failed its check, or `compare` its --tolerance
"""
# What the library raises for bad input, with a message for the user.
_INPUT = (ValueError, TypeError, OSError, ImportError, MemoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit code.

    Args:
        arguments: the arguments; `sys.argv[1:]` by default.
    """
    try:
        given = parser().parse_args(arguments)
    except SystemExit as end:  # raised by --help, or after a usage error
        return int(end.code or 0)
    with _terminating():
        try:
            outcome = _run(given)
        except BaseException as error:
            if given.debug and not isinstance(error, Failure):
                raise
            return _told(error)
    return _shown(outcome, given)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    main_parser = _Parser(
        prog="keras-gates",
        description="Make Keras models physically smaller, exactly.",
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = main_parser.add_subparsers(
        dest="verb", metavar="COMMAND", required=True
    )
    for name, module in _VERBS.items():
        words = (module.__doc__ or "").partition("\n")[0]
        verb = verbs.add_parser(
            name,
            help=words,
            description=module.__doc__,
            epilog=_EXITS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        _add_common(verb)
        verb.set_defaults(run=module.run)
    return main_parser


class _Parser(argparse.ArgumentParser):
    """A parser with one-line errors."""

    def error(self, message: str) -> NoReturn:
        words = f"{self.prog}: error: {message} (see {self.prog} --help)"
        self.exit(Exit.BAD_INPUT, f"{one_line(words)}\n")


def _add_common(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument_group("common").add_argument
    add(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="a module, or a .py file, that has the model's own classes and "
        "functions; may be given several times",
    )
    add("--json", action="store_true", help="print JSON to stdout")
    add("--quiet", action="store_true", help="print errors only")
    add("--debug", action="store_true", help="show the traceback of an error")


def _run(given: argparse.Namespace) -> Outcome:
    progress = Progress(given.quiet)
    with progress.within():
        outcome: Outcome = given.run(given, progress)
    return outcome


def _shown(outcome: Outcome, given: argparse.Namespace) -> int:
    """Print the result of a verb, and return its exit code."""
    if given.json:
        sys.stdout.write(json.dumps(outcome.data, indent=1) + "\n")
    elif not given.quiet:
        sys.stdout.write(outcome.text + "\n")
    if outcome.problem:
        _error(outcome.problem)
    return int(outcome.code)


def _told(error: BaseException) -> int:
    """Print what went wrong in one line, and return the exit code."""
    if isinstance(error, Failure):
        _error(error)
        return int(error.code)
    if isinstance(error, KeyboardInterrupt):
        _error("interrupted")
        return int(Exit.INTERRUPTED)
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, OutOfReach):
        _error(error)
        return int(Exit.BUDGET)
    if isinstance(error, _INPUT):
        _error(error)
        return int(Exit.BAD_INPUT)
    _error(
        f"{type(error).__name__}: {error} (a bug of keras_gates, or of what it "
        "runs: --debug shows where; please report it)"
    )
    return int(Exit.BUG)


def _error(message: BaseException | str) -> None:
    sys.stderr.write(f"keras-gates: error: {one_line(message)}\n")


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """A context in which SIGTERM lets partial output be removed."""

    def end(*_: Any) -> NoReturn:
        raise SystemExit(int(Exit.TERMINATED))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
