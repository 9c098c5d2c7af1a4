"""Files and folders that are written completely, or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A temporary path next to `path`, which replaces it at the end.

    Write a file or a folder there. If the block ends with an error, nothing of
    it remains, and `path` is unchanged. A process that is killed leaves at most
    a hidden folder named after `path`.

    Args:
        path: where to put the result. An existing folder is replaced
            completely.

    Raises:
        OSError: the parent folder can't be written to, or the block has written
            nothing.
    """
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{path.parent}' for '{path.name}'. Create it "
            "first."
        )
    folder = pathlib.Path(
        tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
    )
    try:
        # With the same name, since what Keras writes depends on the suffix.
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
    """Write a file atomically.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(path) as new:
        new.write_text(text, "utf-8")
