"""The command line: `keras-gates`, or `python -m keras_gates`.

`inspect` describes a saved model, `prune` writes a smaller one, `compare`
compares two, and `export` writes one for another runtime.
"""

from keras_gates.cli.command import main

__all__ = ["main"]
