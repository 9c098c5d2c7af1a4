"""Data as batches `(x, y)`, whatever form they come in."""

import keras

_LABELLED = ("taylor",)
_UNLABELLED = ("apoz", "mean")


def batches_of(data, criterion, size):
    """A list or iterable of batches `(x, y)`; y may be None.

    Raises:
        ValueError: the criterion needs data, or labels, and has none.
    """
    if criterion not in (*_LABELLED, *_UNLABELLED):
        return []
    if data is None:
        what = "(x, y)" if criterion in _LABELLED else "x"
        raise ValueError(
            f"The criterion {criterion!r} needs data. Pass data={what}, or an "
            "iterable of such batches."
        )
    if isinstance(data, tuple) or hasattr(data, "shape"):
        x, y = data if isinstance(data, tuple) else (data, None)
        return _split(x, y, size, criterion)
    return (_pair(batch, criterion) for batch in data)


def _split(x, y, size, criterion):
    _pair((x, y), criterion)
    count = len(keras.tree.flatten(x)[0])

    def part(array, start):
        return None if array is None else array[start : start + size]

    def cut(arrays, start):
        return keras.tree.map_structure(lambda a: part(a, start), arrays)

    return [(cut(x, start), cut(y, start)) for start in range(0, count, size)]


def _pair(batch, criterion):
    x, y = batch[:2] if isinstance(batch, (tuple, list)) else (batch, None)
    if y is None and criterion in _LABELLED:
        raise ValueError(
            f"The criterion {criterion!r} needs labels: batches of (x, y). "
            "Received batches of x alone."
        )
    return x, y
