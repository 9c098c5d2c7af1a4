"""How an input of an operation gets to its outputs.

An output may depend on an input by its *values*, which is what a network is
for, or only by what the input chooses: which steps a mask leaves out, which
rows an index picks. A search that closes gates must not cut all values off and
be content with the masks that are left.
"""

import inspect

import keras

VALUES = 2
CHOICE = 1
NOTHING = 0

# The names by which calls of Keras take what chooses among the data.
_CHOOSING = ("mask", "condition", "condlist", "indices")


def by_argument(call):
    """For each input of a call, how far it gets, from its argument's name.

    Where all that goes in is of that kind, as the numbers of the rows that
    are looked up in a table of constants, it is the data. What puts out truth
    values of something else, as a comparison does, passes on a choice.
    """
    most = CHOICE if _is_test(call) else VALUES
    if len(call.inputs) == 1:
        return [most]
    found = {}
    for name, value in _arguments(call):
        level = CHOICE if _chooses(name) else VALUES
        for tensor in keras.tree.flatten(value):
            if any(tensor is x for x in call.inputs):
                found[tensor] = max(level, found.get(tensor, NOTHING))
    if VALUES not in found.values():
        found = {}
    return [min(most, found.get(tensor, VALUES)) for tensor in call.inputs]


def _chooses(name):
    return any(name == x or name.endswith(f"_{x}") for x in _CHOOSING)


def _arguments(call):
    """Pairs of name and value, however they were passed."""
    names = [
        p.name
        for p in inspect.signature(call.op.call).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    # What a call takes as `*args` has no name.
    names += [""] * (len(call.args) - len(names))
    yield from zip(names, call.args, strict=False)
    yield from call.kwargs.items()


def _is_test(call):
    """Whether truth values come out of what is none."""
    tests = all(t.dtype == "bool" for t in call.outputs)
    return tests and not all(t.dtype == "bool" for t in call.inputs)
