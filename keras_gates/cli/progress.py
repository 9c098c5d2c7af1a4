"""Progress of a command, on stderr: one line per step."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from typing import TextIO

from keras_gates.cli.exits import one_line


class Progress:
    """Prints steps and warnings, unless it is quiet.

    Args:
        quiet: whether to print nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        # Looked up each time, since a test may have replaced the stream.
        self._stream: TextIO = sys.stderr

    @property
    def verbose(self) -> int:
        """For functions with their own progress bar."""
        return 0 if self.quiet else 1

    def step(self, words: str) -> None:
        """Print the current step."""
        if not self.quiet:
            self._stream.write(f"{words} ...\n")
            self._stream.flush()

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """A context in which stdout goes to stderr, since it is progress.

        Each warning is one line.
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
