"""Output files: checked before the work, and put in place at the end."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from keras_gates.cli.exits import Failure


def check(
    path: pathlib.Path,
    suffixes: Sequence[str],
    force: bool,
    what: str,
    read: Sequence[pathlib.Path | None],
) -> None:
    """Refuse a path that can't be written to, before hours of work.

    Args:
        path: where to write.
        suffixes: the allowed suffixes; "" stands for a folder.
        force: whether it may replace an existing file.
        what: what is written, for messages.
        read: the files that are read; these are never replaced.

    Raises:
        Failure: its suffix is not allowed, its folder is missing or can't be
            written to, or the path exists.
    """
    if path.suffix.lower() not in suffixes and "" not in suffixes:
        raise Failure(
            f"{what} can't be written as '{path}'. Expected: a name that ends "
            f"in {' or '.join(suffixes)}."
        )
    folder = path.parent
    if not folder.is_dir():
        raise Failure(
            f"{what} can't be written: there is no folder '{folder}'. Create "
            "it first."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Failure(
            f"{what} can't be written: no permission to write to '{folder}'."
        )
    if not path.exists():
        return
    if any(each and each.exists() and path.samefile(each) for each in read):
        raise Failure(
            f"{what} can't be written as '{path}': this file is read. Pass "
            "another name."
        )
    if not force:
        raise Failure(
            f"'{path}' exists already. Pass --force to replace it, or another "
            "name."
        )
    if path.is_dir() and ("" not in suffixes or not _is_saved_model(path)):
        raise Failure(
            f"'{path}' is a folder but not a SavedModel, so --force does not "
            "replace it. Pass another name."
        )


def _is_saved_model(path: pathlib.Path) -> bool:
    return (path / "saved_model.pb").is_file() or not any(path.iterdir())


def size(path: pathlib.Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size
