"""Data of any form that `fit` takes, as batches."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras

from keras_gates.surgeon.scores.inputs import Inputs
from keras_gates.surgeon.scores.inputs import array_of
from keras_gates.surgeon.scores.inputs import check_arrays

_LABELLED = ("taylor", "sensitivity")
_UNLABELLED = ("apoz", "mean", "obs", "repair")
# Those that are functions, and no criteria.
_FUNCTIONS = ("sensitivity", "repair")
_PARTS = ("x", "y", "sample_weight")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some samples.

    Attributes:
        x: arrays in the structure that the model is called on.
        y: the targets, or None.
        sample_weight: weights of the samples in the loss, or None.
        size: how many samples there are.
    """

    x: Any
    y: Any
    sample_weight: Any
    size: int


def batches_of(
    model: keras.Model,
    data: Any,
    criterion: str,
    size: int,
    argument: str = "data",
) -> Iterable[Batch]:
    """`Batch`es, a list or an iterator that is read once.

    A tuple is `(x, y, sample_weight)`, or the first of these; an array, a
    dict, and a list of as many arrays as the model has inputs are x; anything
    else holds batches of these.

    Args:
        model: a functional or Sequential model.
        data: the data.
        criterion: what they are for.
        size: samples a batch, where data are arrays.
        argument: the argument that the data came in, for messages.

    Raises:
        TypeError: the data are of no known form.
        ValueError: the criterion needs data, or labels, and has none; they
            are not what the model takes; or `size` is below 1.
    """
    if criterion not in (*_LABELLED, *_UNLABELLED):
        return []
    labelled = criterion in _LABELLED
    if data is None:
        what = "(x, y)" if labelled else "x"
        raise ValueError(
            f"{_called(criterion)} needs data. Pass {argument}={what}, or an "
            "iterable of such batches."
        )
    _check_size(size)
    check_arrays(data, argument)
    inputs = Inputs.of_model(model, argument)
    if isinstance(data, (tuple, dict)) or _is_x(data, inputs):
        whole = _parts(data, criterion, inputs)
        batches = _split(whole, inputs.batch_size or size)
        return [_sized(batch, inputs) for batch in batches]
    return _each(_iterable(data, argument), criterion, inputs)


def _called(criterion: str) -> str:
    """The name of a criterion, or of the function that reads data."""
    if criterion in _FUNCTIONS:
        return f"`{criterion}`"
    return f"The criterion {criterion!r}"


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, numbers.Integral):
        raise TypeError(f"`batch_size` must be an int. Received: {size!r}.")
    if size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1. Received: {size!r}."
        )


def _is_x(data: Any, inputs: Inputs) -> bool:
    """Whether data that are no tuple are x alone, and no batches."""
    return hasattr(data, "shape") or (
        isinstance(data, list) and inputs.are(data)
    )


def _split(batch: Batch, size: int) -> list[Batch]:
    def cut(arrays: Any, start: int) -> Any:
        return keras.tree.map_structure(
            lambda a: None if a is None else a[start : start + size], arrays
        )

    return [
        Batch(
            cut(batch.x, start),
            cut(batch.y, start),
            cut(batch.sample_weight, start),
            min(size, batch.size - start),
        )
        for start in range(0, batch.size, size)
    ]


def _each(
    iterable: Iterable[Any], criterion: str, inputs: Inputs
) -> Iterator[Batch]:
    """The batches of an iterable, checked one by one."""
    empty = True
    for batch in iterable:
        empty = False
        # A loader of PyTorch collates into lists.
        pair = tuple(batch) if isinstance(batch, list) else batch
        yield _sized(_parts(pair, criterion, inputs), inputs)
    if empty:
        raise ValueError(
            f"`{inputs.argument}` has no batches. An iterator that was read "
            "before is empty: pass a new one."
        )


def _sized(batch: Batch, inputs: Inputs) -> Batch:
    """The batch, if the model takes as many samples."""
    if inputs.batch_size not in (None, batch.size):
        raise ValueError(
            f"Model '{inputs.model}' is made for batches of "
            f"{inputs.batch_size}. Received: {batch.size} samples, at least "
            "in the last batch. Leave some out."
        )
    return batch


def _parts(given: Any, criterion: str, inputs: Inputs) -> Batch:
    """A tuple, or x alone, as one `Batch`."""
    parts = given if isinstance(given, tuple) else (given,)
    if not 1 <= len(parts) <= len(_PARTS):
        raise ValueError(
            f"A tuple in `{inputs.argument}` is (x,), (x, y) or (x, y, "
            f"sample_weight). Received: a tuple of {len(parts)}. Pass several "
            f"inputs as a list or a dict: {inputs}."
        )
    x, y, weight = (*parts, None, None)[: len(_PARTS)]
    if y is None and criterion in _LABELLED:
        raise ValueError(
            f"{_called(criterion)} needs labels. Pass {inputs.argument}=(x, "
            "y), or batches of these. Received: x alone."
        )
    x = inputs.pack(x)
    y = _arrays(y, "y", inputs.argument)
    weight = _arrays(weight, "sample_weight", inputs.argument)
    return Batch(x, y, weight, _length((x, y, weight), inputs.argument))


def _arrays(structure: Any, name: str, argument: str) -> Any:
    """A structure of arrays; an output without a loss may have None."""
    return keras.tree.map_structure(
        lambda value: (
            None if value is None else array_of(value, name, argument)
        ),
        structure,
    )


def _length(parts: tuple[Any, ...], argument: str) -> int:
    """How many samples there are, the same in all parts."""
    lengths = {
        name: [len(a) for a in keras.tree.flatten(part) if a is not None]
        for name, part in zip(_PARTS, parts, strict=True)
    }
    every = {n for counts in lengths.values() for n in counts}
    if len(every) != 1 or not max(every):
        counted = "; ".join(
            f"{name}: {', '.join(map(str, counts))}"
            for name, counts in lengths.items()
            if counts
        )
        raise ValueError(
            f"All arrays in `{argument}` must have the same number of "
            f"samples, at least one. Received: {counted}."
        )
    return every.pop()


def _iterable(data: Any, argument: str) -> Iterable[Any]:
    """An iterable that ends.

    Raises:
        TypeError: the data are no iterable.
        ValueError: they have no end.
    """
    endless = f"`{argument}` is infinite ({{}}). Take a part of it: {{}}."
    cardinality = getattr(data, "cardinality", None)
    if callable(cardinality) and int(cardinality()) == -1:
        # What tf.data says of a dataset that is repeated for ever.
        raise ValueError(
            endless.format(
                type(data).__name__, f"{argument}.take(number of batches)"
            )
        )
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            how = f"({argument}[i] for i in range(number of batches))"
            raise ValueError(endless.format(type(data).__name__, how))
        # Python would go on until an IndexError, which few raise.
        return (data[index] for index in range(data.num_batches))
    if isinstance(data, str) or not hasattr(data, "__iter__"):
        raise TypeError(
            f"`{argument}` must be arrays, (x, y), (x, y, sample_weight), a "
            "list or dict of arrays for several inputs, or an iterable of "
            "batches: a tf.data.Dataset, a keras.utils.PyDataset, a torch "
            f"DataLoader, a generator. Received: {data!r} (of type "
            f"{type(data).__name__})."
        )
    iterable: Iterable[Any] = data
    return iterable
