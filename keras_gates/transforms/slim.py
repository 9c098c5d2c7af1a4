"""Penalizes the gammas of batch normalizations."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates._checks import nonnegative_number
from keras_gates._checks import renamed
from keras_gates.constraints import KeepSign
from keras_gates.graphs import patterns
from keras_gates.graphs.rewrite import rewrite
from keras_gates.graphs.variables import values_of
from keras_gates.penalties import L1
from keras_gates.surgeon.gates import see_through

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.patterns import Patterns
    from keras_gates.graphs.rewrite import Recall


@renamed(gamma_init="gamma_initializer")
def slim(
    model: keras.Model,
    strength: float,
    *,
    gamma_initializer: Any = None,
    include: Patterns = None,
    exclude: Patterns = None,
) -> keras.Model:
    """Add a penalty that pulls the gammas of batch normalizations to zero.

    `loss = original + strength * sum(abs(gamma))`

    Gammas can serve as gates: if one is 0, the output of its channel is a
    constant. Train the result as usual, and prune it with
    `thresholds={"batch_norm": Quantile(0.7)}`; the pruned model has no
    penalties or constraints on gammas.

    The penalty alone leaves gammas near zero. A constraint stops each one at 0
    when it would change its sign, so that they become exactly 0. Both replace
    those of the layers. Use SGD: with Adam, the strength does not determine the
    pull of the penalty.

    Reference:

    - [Liu et al., 2017, Learning Efficient Convolutional Networks through
      Network Slimming](https://arxiv.org/abs/1708.06519), equation 1

    Args:
        model: A built functional or Sequential model. It is not changed.
        strength: A number >= 0: the strength of `regularizers.L1` on the
            gammas. The paper uses 1e-4 for VGG, and 1e-5 for ResNet-164 and
            DenseNet-40.
        gamma_initializer: Initializer of all gammas, as in
            `keras.layers.BatchNormalization`, for training from scratch. The
            paper uses `keras.initializers.Constant(0.5)`. Defaults to `None`:
            gammas and the function do not change.
        include: Which batch normalizations: one or a list of layer names (`*`
            stands for anything), layers and layer classes. Defaults to `None`:
            all.
        exclude: Which to leave out, likewise.

    Returns:
        A new model with the same weights, not compiled.

    Raises:
        TypeError: If a pattern is neither a name, a layer nor a class.
        ValueError: If there is no batch normalization, or one has no gamma;
            if `strength` is not a number as above, or `gamma_initializer` no
            initializer, or one of zeros; or if a pattern fits no batch
            normalization.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> half = keras.initializers.Constant(0.5)
    >>> model = kg.slim(kg.zoo.resnet(8), 1e-4, gamma_initializer=half)
    >>> float(model.get_layer("conv1_bn").gamma[0])
    0.5
    """
    strength = nonnegative_number(strength, "strength", "slim")
    graph = see_through.read_to_write(model)
    norms = _norms(graph, include, exclude)
    starts = {id(norm): _start(norm, gamma_initializer) for norm in norms}

    def edit(recall: Recall) -> Any:
        start = starts.get(id(recall.op))
        if start is None:
            return None
        new = recall.copy()
        new.gamma_regularizer = L1(strength)
        new.gamma_constraint = KeepSign(_signs(start))
        outputs = recall()
        # A copy may already have its weights.
        new.gamma.regularizer = new.gamma_regularizer
        new.gamma.constraint = new.gamma_constraint
        if gamma_initializer is not None:
            new.gamma.assign(start)
        return outputs

    return rewrite(graph, edit)


def _norms(
    graph: Graph, include: Patterns, exclude: Patterns
) -> list[keras.Layer]:
    """The chosen batch normalizations, all with gammas."""
    found = {
        id(call.op)
        for call in graph.calls
        if isinstance(call.op, keras.layers.BatchNormalization)
    }
    name = graph.model.name
    if not found:
        raise ValueError(
            f"Model '{name}' has no batch normalization, so there are no "
            "gammas to slim. Add BatchNormalization layers after its "
            "convolutions, or insert gates: keras_gates.insert_gates."
        )
    norms = patterns.chosen_layers(
        graph,
        "batch normalizations",
        lambda op: "" if id(op) in found else "it is none",
        include,
        exclude,
    )
    without = sorted({norm.name for norm in norms if not norm.scale})
    if without:
        raise ValueError(
            "These batch normalizations have no gamma: "
            f"{', '.join(map(repr, without))}. Expected: scale=True. Leave "
            f"them out with `exclude`, or build '{name}' with it and set "
            "these gammas to 1, which does not change the function."
        )
    return norms


def _start(norm: keras.Layer, initializer: Any) -> NDArray[np.floating]:
    """The initial gammas: the present ones, or new ones."""
    if initializer is None:
        return values_of(norm.gamma)
    try:
        make = keras.initializers.get(initializer)
    except ValueError as error:
        raise ValueError(
            "`slim` can't start gammas like this. Received: "
            f"gamma_initializer={initializer!r}. Expected: an initializer for "
            "BatchNormalization, such as keras.initializers.Constant(0.5). "
            + str(error)
        ) from error
    values: NDArray[np.floating]
    values = keras.ops.convert_to_numpy(make(norm.gamma.shape))
    if not np.isfinite(values).all() or not values.any():
        raise ValueError(
            "`slim` can't start gammas like this. Received: "
            f"gamma_initializer={initializer!r}, which gives only zeros, or "
            "infinity, or NaN. Expected: gammas that training can pull to "
            "zero, such as keras.initializers.Constant(0.5)."
        )
    return values


def _signs(start: NDArray[np.floating]) -> int | list[int]:
    """1 where all gammas are at least 0, else the sign of each."""
    negative = start < 0
    if not negative.any():
        return 1
    signs: list[int] = np.where(negative, -1, 1).tolist()
    return signs
