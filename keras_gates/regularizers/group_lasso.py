"""Group lasso over all weights of coupled channels."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_gates._checks import nonnegative_number
from keras_gates.regularizers.of_model import OfModel

if TYPE_CHECKING:
    from keras_gates.surgeon.gates.weight_slices import WeightSlices

# Added under the root, whose gradient diverges at 0.
_EPSILON = 1e-12


class _Member(NamedTuple):
    """A weight's slices, and the unit of each.

    Attributes:
        slices: as `weight_slices` has them.
        units: the number of the unit of each slice; for a slice that can't be
            removed, the number of units, which is counted and left out.
    """

    slices: WeightSlices
    units: NDArray[np.intp]

    @property
    def size(self) -> int:
        """How many weights there are in a slice."""
        return int(np.prod(self.slices.shape)) // len(self.units)


@keras.saving.register_keras_serializable(package="keras_gates")
class GroupLasso(OfModel):
    """The norms of all weights that are removed together with a channel.

    `loss = strength * sum(sqrt(n_c) * sqrt(sum(w_c ** 2)))`, for each channel c
    that can be removed: `w_c` are the `n_c` weights that produce it, scale it
    and read it, in all coupled layers, as `score` groups them.

    While a plain L2 shrinks all weights, this penalty shrinks all of a channel,
    or nothing: channels that the data do not need go to zero as a whole,
    without a gate. `score(model, "l2")` then finds them.

    It is one penalty for all weights of a model, so it must know the model.
    `bind` sets the model, and attaches the penalty to one of the weights, so
    that Keras adds it to the loss:

    ```python
    penalty = kg.regularizers.GroupLasso(1e-4).bind(model)
    model.compile(...)
    model.fit(...)
    scores = kg.surgeon.score(model, "l2")
    small = kg.surgeon.prune(model, kg.Budget(macs=0.5), scores=scores)
    ```

    In a custom training loop, add `penalty()` to the loss. Copies, clones and
    saved models keep the strength, but not the model: bind them again.

    References:
    - [Wen et al., 2016, Learning Structured Sparsity in Deep Neural
      Networks](https://arxiv.org/abs/1608.03665), equation 1
    - [Fang et al., 2023, DepGraph: Towards Any Structural
      Pruning](https://arxiv.org/abs/2301.12900), for coupled groups

    Args:
        strength: Number >= 0, in units of loss.

    Raises:
        ValueError: If `strength` is negative or not a number; by `bind`, if no
            channel of the model can be removed, or all weights have a
            regularizer.
        RuntimeError: If applied before it is bound.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> hidden = keras.layers.Dense(2, use_bias=False)
    >>> model = keras.Sequential(
    ...     [keras.Input((1,)), hidden, keras.layers.Dense(1)]
    ... )
    >>> penalty = kg.regularizers.GroupLasso(1.0).bind(model)
    >>> hidden.set_weights([keras.ops.array([[3.0, 0.0]])])
    >>> _ = model.layers[1].kernel.assign([[4.0], [1.0]])
    >>> # sqrt(2) * sqrt(9 + 16) + sqrt(2) * sqrt(0 + 1)
    >>> round(float(keras.ops.convert_to_numpy(penalty())), 3)
    8.485
    """

    def __init__(self, strength: float) -> None:
        self.strength = nonnegative_number(
            strength, "strength", type(self).__name__
        )
        self._members: list[_Member] = []
        self._roots: NDArray[np.float64] = np.zeros(0)

    def bind(self, model: keras.Model) -> GroupLasso:
        """Penalize the weights of a model from now on.

        Args:
            model: A built functional or Sequential model.

        Returns:
            The penalty itself.
        """
        # Saved models need this class, but not the imports of `bind`.
        from keras_gates.surgeon.gates import expand
        from keras_gates.surgeon.gates import groups
        from keras_gates.surgeon.gates.weight_slices import slices_of

        graph = expand.read(model)
        found = groups.find(graph)
        places = np.full(len(found.labelling.classes), -1)
        count = 0
        for group in found.groups.values():
            places[group.units] = np.arange(count, count + group.units.size)
            count += group.units.size
        if not count:
            raise ValueError(
                f"GroupLasso found no channel of '{model.name}' that can be "
                "removed. print(keras_gates.surgeon.plan(model)) shows what "
                "keeps them."
            )
        sizes = np.zeros(count + 1)
        self._members = []
        for slices in slices_of(graph, found):
            units = places[slices.classes]
            if (units < 0).all() or not slices.variable.trainable:
                continue
            member = _Member(slices, np.where(units < 0, count, units))
            np.add.at(sizes, member.units, member.size)
            self._members.append(member)
        self._roots = np.sqrt(sizes[:count])
        variables = [member.slices.variable for member in self._members]
        self.put_on(variables, model, "weights")
        return self

    def __call__(self, x: Any = None) -> Any:
        if not self._members:
            raise RuntimeError(
                "GroupLasso has no model. Received: no model. Expected: "
                "bind(model), once for each model, and again for one that "
                "was loaded."
            )
        count = len(self._roots)
        squares: Any = 0.0
        for slices, units in self._members:
            values = ops.reshape(
                ops.convert_to_tensor(slices.variable), slices.shape
            )
            rest = [a for a in range(len(slices.shape)) if a != slices.axis]
            each = ops.sum(ops.square(ops.cast(values, "float32")), rest)
            squares = squares + ops.segment_sum(
                each, ops.convert_to_tensor(units, "int32"), count + 1
            )
        norms = ops.sqrt(squares[:count] + _EPSILON)
        roots = ops.convert_to_tensor(self._roots, "float32")
        return ops.multiply(ops.sum(roots * norms), self.strength)

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}
