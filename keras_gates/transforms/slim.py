"""A penalty on the gammas of batch normalisations."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates._checks import nonnegative_number
from keras_gates.constraints import KeepSign
from keras_gates.graphs import graph as gr
from keras_gates.graphs.rewrite import rewrite
from keras_gates.graphs.variables import values_of
from keras_gates.regularizers import L1

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph


def slim(model: keras.Model, strength: Any, gamma_init: Any = None) -> Any:
    """Let training pull the gammas of batch normalisations to zero.

    `loss = original + strength * sum(abs(gamma))`

    Gammas are gates that are there already: where one is 0, what comes out of
    its channel is a constant. Train the result as usual, and prune it with
    `thresholds={"batch_norm": Quantile(0.7)}`; penalties and constraints of
    gammas go with the cut.

    The penalty alone leaves gammas near zero. A constraint stops each at 0
    where it would change its sign, so that they become exactly 0. Both take
    the place of those that the layers have. Use SGD: under Adam, the strength
    does not say how hard the penalty pulls.

    Reference:

    - [Liu et al., 2017, Learning Efficient Convolutional Networks through
      Network Slimming](https://arxiv.org/abs/1708.06519), equation 1

    Args:
        model: A built functional or Sequential model. It is not changed.
        strength: A number >= 0, in units of loss per unit of gamma. The
            paper has 1e-4 for VGG, 1e-5 for ResNet-164 and DenseNet-40.
        gamma_init: A number that all gammas are set to, for training from
            scratch. The paper has 0.5. By default they stay as they are, and
            so does the function.

    Returns:
        A new model with the weights of the old, not compiled.

    Raises:
        ValueError: If there is no batch normalisation, or one has no gamma;
            or if an argument is not a number as above.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.slim(kg.zoo.resnet(8), 1e-4, gamma_init=0.5)
    >>> float(model.get_layer("conv1_bn").gamma[0])
    0.5
    """
    strength = nonnegative_number(strength, "strength", "slim")
    _check_start(gamma_init)
    graph = gr.read(model)
    norms = {id(call.op) for call in _norms(graph)}

    def edit(recall: Any) -> Any:
        if id(recall.op) not in norms:
            return None
        new = recall.copy()
        new.gamma_regularizer = L1(strength)
        new.gamma_constraint = KeepSign(_signs(recall.op, gamma_init))
        outputs = recall()
        # A copy may have come with its weights.
        new.gamma.regularizer = new.gamma_regularizer
        new.gamma.constraint = new.gamma_constraint
        if gamma_init is not None:
            new.gamma.assign(np.full(new.gamma.shape, gamma_init))
        return outputs

    return rewrite(graph, edit)


def _norms(graph: Graph) -> Any:
    """The calls of batch normalisations, all with gammas."""
    found = [
        call
        for call in graph.calls
        if isinstance(call.op, keras.layers.BatchNormalization)
    ]
    name = graph.model.name
    if not found:
        raise ValueError(
            f"Model '{name}' has no batch normalisation, so there are no "
            "gammas to slim. Put BatchNormalization layers behind its "
            "convolutions, or put gates there: keras_gates.insert_gates."
        )
    without = sorted({call.path for call in found if not call.op.scale})
    if without:
        raise ValueError(
            "These batch normalisations have no gamma: "
            f"{', '.join(map(repr, without))}. Expected: scale=True. Build "
            f"'{name}' with it and set these gammas to 1, which leaves the "
            "function as it is."
        )
    return found


def _signs(norm: Any, start: Any) -> Any:
    """1 where all gammas are at least 0, else the sign of each."""
    negative = values_of(norm.gamma) < 0
    if start is not None or not negative.any():
        return 1
    return np.where(negative, -1, 1).tolist()


def _check_start(value: Any) -> None:
    if value is None:
        return
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(
            "`slim` can't start gammas like this. Received: "
            f"gamma_init={value!r}. Expected: a finite number > 0, such as "
            "0.5, or None to leave them as they are."
        )
