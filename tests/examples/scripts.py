"""Runs a script of `examples/` as a user does."""

import contextlib
import io
import os
import pathlib
import runpy
import subprocess
import sys
import traceback
import warnings
from unittest import mock

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def execute(name, folder, *options):
    """The finished run of a script, in a folder.

    It runs in this process: importing a backend takes longer than most runs.
    `test_quickstart.py` has a process of its own.
    """
    script, printed, errors = str(EXAMPLES / name), io.StringIO(), io.StringIO()
    words = [script, *map(str, options)]
    code, before = 0, os.getcwd()
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
        warnings.catch_warnings(),
    ):
        # What users would see is an error; other kinds are for developers. A
        # smoke run hardly trains, so that what a model puts out may not tell
        # whether it is right.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "`verify` can't tell", UserWarning)
        os.chdir(folder)
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
            errors.write(str(error))
        except Exception:
            code = 1
            errors.write(traceback.format_exc())
        finally:
            os.chdir(before)
    return subprocess.CompletedProcess(
        words, code, printed.getvalue(), errors.getvalue()
    )


def start(name, folder, *options):
    """The finished smoke run of a script, in a folder."""
    return execute(name, folder, "--smoke", *options)


def run(name, folder, *options):
    """What a smoke run with its output in the folder prints."""
    done = start(name, folder, "--output", folder, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
