"""A 1x1 convolution on each identity shortcut."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs.names import Names
from keras_gates.graphs.rewrite import rewrite
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.passes.label import label
from keras_gates.transforms.finding import regions
from keras_gates.transforms.gating import shortcuts
from keras_gates.transforms.gating.piece_gates import dtype_of
from keras_gates.transforms.gating.piece_gates import swapped

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.surgeon.passes.label import Labelling

# The suffix of the convolution on the shortcut to a join.
SEPARATED = "_separated"


def separate_shortcuts(model: keras.Model) -> keras.Model:
    """Insert a 1x1 convolution into each shortcut that has none.

    `h[l+1] = relu(f(h[l]) + h[l])` becomes
    `h[l+1] = relu(f(h[l]) + S(h[l]))`, where S starts as the identity, so
    that the function stays as it is. An identity shortcut ties the channels
    of all blocks of a stage together; S cuts that chain, and each addition
    can lose channels of its own. Put `FilterGate`s after the additions and
    inside the blocks with `insert_gates`.

    Shortcuts are found in the graph: the side of an addition without a kernel.
    Those that pool, or pad channels with zeros, get their convolution right
    before the addition. It has no bias, and for vectors it is a Dense layer.
    Its multiply-adds are added to the model's: 5.7 % for ResNet-32.

    Reference:

    - Joo, Kim and Kim, 2020, Slimming ResNet by Slimming Shortcut, ICPR

    Args:
        model: A built functional model. It is not changed.

    Returns:
        A new model with the same weights, not compiled.

    Raises:
        ValueError: If there is no shortcut without a kernel, or a shortcut has
            channels along more than one axis.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.resnet(8)
    >>> separated = kg.transforms.separate_shortcuts(model)
    >>> separated.get_layer("stage1_block1_add_separated").filters
    16
    """
    graph = see_through.read_to_write(model)
    joins = regions.find_joins(graph)
    # Each addition, and the index of its shortcut.
    sums = {
        join.call.site: (join, shortcut.index)
        for join in joins
        if join.adds
        and (shortcut := join.shortcut) is not None
        and shortcut.weight == 0
    }
    if not sums:
        unclear = [j.call.path for j in joins if j.adds and not j.shortcut]
        raise ValueError(
            f"Model '{model.name}' has no shortcut to separate: no addition "
            "has a side with a kernel and one without. "
            + _unclear(unclear)
            + "Pass a residual model."
        )
    labelling = label(graph)
    axes = {
        site: _axis(join.call, index, labelling)
        for site, (join, index) in sums.items()
    }
    names = Names.from_graph(graph)

    def edit(recall: Recall) -> Any:
        if recall.site not in sums:
            return None
        join, index = sums[recall.site]
        kt = recall.site.node.input_tensors[index]
        x, axis = recall.tensor(kt), axes[recall.site]
        name = names.free(recall.op.name + SEPARATED)
        dtype = dtype_of(join.branches[0].calls)
        y = shortcuts.project(x, axis, x.shape[axis], name, dtype)
        args, kwargs = swapped(recall, {id(x): y})
        return recall(*args, **kwargs)

    return rewrite(graph, edit)


def _axis(call: Call, index: int, labelling: Labelling) -> int:
    """The channel axis of the inputs of a join."""
    tensor = call.inputs[index]
    axes = lb.varying(labelling.labels[tensor])
    rank = len(tensor.shape)
    if len(axes) > 1 or rank > 5:
        raise ValueError(
            f"The shortcut to '{call.path}' can't be separated: its channels "
            f"are along the axes {axes} of {tensor.shape}. Expected: one "
            "axis, and at most three spatial axes."
        )
    # No axis has units if the input itself is added.
    return axes[0] if axes else rank - 1


def _unclear(paths: list[str]) -> str:
    if not paths:
        return ""
    return f"Of these, both sides have as many kernels: {', '.join(paths)}. "
