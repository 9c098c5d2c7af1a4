"""What is shown while a command works: on stderr, a line a step."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from typing import TextIO

from keras_gates.cli.exits import one_line


class Progress:
    """Tells of steps and warnings, unless it is to be quiet.

    Args:
        quiet: whether to say nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        # The stream of the moment: a test may have put another in its place.
        self._stream: TextIO = sys.stderr

    @property
    def verbose(self) -> int:
        """For what has a progress bar of its own."""
        return 0 if self.quiet else 1

    def step(self, words: str) -> None:
        """Say what is being done."""
        if not self.quiet:
            self._stream.write(f"{words} ...\n")
            self._stream.flush()

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """Within, what is written to stdout is progress, and so on stderr.

        Warnings are a line each.
        """
        other = io.StringIO() if self.quiet else self._stream
        with contextlib.redirect_stdout(other), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = self._warn
            yield

    def _warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not self.quiet:
            self._stream.write(f"warning: {one_line(str(message))}\n")
