"""The command line: `keras-gates`, or `python -m keras_gates`.

`inspect` says what a saved model is made of, `prune` writes a smaller one,
`compare` compares two, `export` writes one for another runtime.
"""

from keras_gates.cli.command import main

__all__ = ["main"]
