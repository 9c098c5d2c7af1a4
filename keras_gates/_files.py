"""Files and folders that are there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A path beside `path` to write to, which takes its place at the end.

    What is written may be a file or a folder. Where an error ends the block,
    nothing is left of it, and what was at `path` is as it was. A process that
    is killed leaves a hidden folder named after `path` at most.

    Args:
        path: where the result is to be. A folder there is replaced whole.

    Raises:
        OSError: the folder that holds it can't be written to, or the block
            has written nothing.
    """
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{path.parent}' to write '{path.name}' to. "
            "Make it first."
        )
    folder = pathlib.Path(
        tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
    )
    try:
        # Of the same name: what Keras writes depends on the suffix.
        new = folder / path.name
        yield new
        old = folder / "old"
        if path.is_dir() and new.is_dir():
            path.rename(old)
        try:
            new.replace(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file as a whole.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(path) as new:
        new.write_text(text, "utf-8")
