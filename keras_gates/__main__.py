"""`python -m keras_gates`: the command line."""

import sys

from keras_gates.cli import main

if __name__ == "__main__":
    sys.exit(main())
