"""Runs a script of `examples/` as a user does."""

import pathlib
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
# What users would see; those of other kinds are for developers. A smoke run
# hardly trains, so that what a model puts out may not tell whether it is right.
WARNINGS = [
    *("-W", "error::UserWarning"),
    *("-W", "ignore:`verify` can't tell:UserWarning"),
]


def start(name, folder, *options):
    """The finished process of the smoke run of a script, in a folder."""
    return subprocess.run(
        [sys.executable, *WARNINGS, EXAMPLES / name, "--smoke", *options],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def run(name, folder, *options):
    """What a smoke run with its output in the folder prints."""
    done = start(name, folder, "--output", folder, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
