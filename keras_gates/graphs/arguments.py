"""Put other tensors into the arguments of a call."""

import keras


def mapped(function, args, kwargs):
    """`(args, kwargs)` with `function` of each leaf in its place."""
    # Nearly every call has one tensor, which is no work for a tree's library.
    if len(args) == 1 and not kwargs and hasattr(args[0], "dtype"):
        return (function(args[0]),), {}
    return keras.tree.map_structure(function, (args, kwargs))


def recorded(node, tensors):
    """`(args, kwargs)` of a recorded call, on `tensors` by id instead."""

    def swap(x):
        return tensors[id(x)] if isinstance(x, keras.KerasTensor) else x

    return mapped(swap, node.arguments.args, node.arguments.kwargs)
