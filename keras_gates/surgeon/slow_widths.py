"""Widths that are known to run slower than wider ones."""

import keras
import numpy as np

# On a CPU onnxruntime computes convolutions by blocks of so many channels, and
# what is not quite a block takes longer than a whole one: 1.1 to 1.6 times. The
# rule is read off what benchmarks/widths.py measures (docs/performance.md).
BLOCK = 16
_NEARLY = 13
_SHOWN = 3


def is_slow(width):
    """Whether a convolution is faster with the next multiple of `BLOCK`."""
    return 8 <= width < BLOCK or width % BLOCK >= _NEARLY


def notes(solution):
    """A line on the convolutions that a cut leaves with such widths, if any."""
    found = {}
    for step in solution.labelling.steps:
        op, ids = step.call.op, step.flow.roles.get("out")
        if type(op) is not keras.layers.Conv2D or op.groups != 1 or ids is None:
            continue
        before = len(ids)
        after = np.count_nonzero(solution.decision.mask(ids))
        # A block that the layer never had is none to go back to.
        whole = -(-after // BLOCK) * BLOCK <= before
        if after < before and whole and is_slow(after):
            found[step.path] = after
    if not found:
        return []
    some = [f"{n} of '{path}'" for path, n in list(found.items())[:_SHOWN]]
    more = ", ..." * (len(found) > _SHOWN)
    return [
        f"onnxruntime takes longer for {len(found)} of the widths than for the "
        f"next multiple of {BLOCK} ({', '.join(some)}{more}); "
        f"round_to={BLOCK} keeps to those"
    ]
