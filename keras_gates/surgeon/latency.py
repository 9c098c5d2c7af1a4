"""How long a model takes, measured."""

import statistics
import time

import keras
import numpy as np

from keras_gates.surgeon import graph as gr

_RUNS = 15


def milliseconds(model, batch_size):
    """The median time of `model.predict_on_batch`.

    It is what this machine and backend take, compiled as Keras compiles it,
    with the transfer of inputs and outputs.

    Raises:
        ValueError: an input has an unknown size.
    """
    structure, _ = gr.structures(model)
    x = keras.tree.map_structure(lambda kt: _zeros(kt, batch_size), structure)
    for _ in range(2):  # the first call compiles
        model.predict_on_batch(x)
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        model.predict_on_batch(x)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def _zeros(kt, batch_size):
    shape = (kt.shape[0] or batch_size, *kt.shape[1:])
    if None in shape:
        raise ValueError(
            f"The latency of a model whose input '{kt.name}' has the shape "
            f"{tuple(kt.shape)} can't be measured. Give its sizes in "
            "keras.Input, or set a budget of params instead."
        )
    return np.zeros(shape, kt.dtype)
