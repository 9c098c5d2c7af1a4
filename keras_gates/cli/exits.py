"""Exit codes of the command line, and failures that carry them."""

from __future__ import annotations

import enum
from typing import Any
from typing import NamedTuple


class Exit(enum.IntEnum):
    """The exit codes, for scripts and CI."""

    DONE = 0
    BUG = 1
    BAD_INPUT = 2
    BUDGET = 3
    DIFFERENT = 4
    INTERRUPTED = 130
    TERMINATED = 143


class Failure(Exception):
    """A failure that the user can fix.

    Args:
        message: what is wrong and what to do, in one line.
        code: the exit code.
    """

    def __init__(self, message: str, code: Exit = Exit.BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


class Outcome(NamedTuple):
    """The result of a verb.

    Attributes:
        text: for people.
        data: the same as plain data for JSON.
        code: the exit code.
        problem: what is wrong, in one line, if the code is not 0.
    """

    text: str
    data: dict[str, Any]
    code: Exit = Exit.DONE
    problem: str = ""


def one_line(error: BaseException | str) -> str:
    """A message as one line of limited length."""
    words = " ".join(str(error).split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."


_LONGEST = 1500
