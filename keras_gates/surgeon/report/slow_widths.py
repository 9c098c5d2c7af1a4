"""Widths that are known to run slower than wider ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from keras_gates.surgeon.report.table import Row

# On a CPU onnxruntime computes convolutions by blocks of so many channels, and
# what is not quite a block takes longer than a whole one: 1.1 to 1.6 times. One
# that is depthwise leaves the blocks altogether unless its channels are a
# multiple of 4: 1.3 to 2.2 times. These rules are read off what
# benchmarks/widths.py measures (docs/performance-log.md).
_BLOCK = 16
_NEARLY = 13
_QUARTER = 4
_SHOWN = 3
_CONV, _DEPTHWISE = keras.layers.Conv2D, keras.layers.DepthwiseConv2D


def _multiple_wanted(op: keras.Layer, width: int) -> int | None:
    """The multiple whose next one runs faster than `width`, or None."""
    if type(op) is _DEPTHWISE and width % _QUARTER:
        return _QUARTER
    nearly = 8 <= width < _BLOCK or width % _BLOCK >= _NEARLY
    return _BLOCK if type(op) is _CONV and op.groups == 1 and nearly else None


def notes(rows: list[Row], ops: dict[str, keras.Operation]) -> list[str]:
    """A line on the convolutions that a cut leaves with such widths, if any.

    Args:
        rows: the `Row`s of a plan.
        ops: their layers, by path.
    """
    found = {}
    for row in rows:
        if not row.after or row.before is None or row.after == row.before:
            continue
        multiple = _multiple_wanted(ops[row.layer], row.after)
        # A block that the layer never had is none to go back to.
        if multiple and -(-row.after // multiple) * multiple <= row.before:
            found[row.layer] = row.after
    if not found:
        return []
    some = [f"'{path}' with {n}" for path, n in list(found.items())[:_SHOWN]]
    more = ", ..." * (len(found) > _SHOWN)
    layers = f"{len(found)} convolutions" if len(found) > 1 else "a convolution"
    return [
        f"onnxruntime runs {layers} slower than with a few more channels "
        f"({', '.join(some)}{more}); round_to={_BLOCK} avoids this"
    ]
