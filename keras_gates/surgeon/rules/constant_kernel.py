"""Products with arrays that are not weights: they read channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.graph import Tensor
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.known import channel_values
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.product import Product
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import channel_axis
from keras_gates.surgeon.rules.rule import one_axis
from keras_gates.surgeon.rules.rule import operands

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View

_PRODUCT = "a product over the channels needs the same channels on both sides"


@dataclasses.dataclass(frozen=True)
class ConstantKernel(Rule):
    """`x . kernel` with an array `(..., in, out)`; the output stays.

    Attributes:
        argument: the name of the array among the arguments of the call.
        rank: how many axes it must have; None for two more than positions.
        products: the rule for a product of two tensors, if it is another.
    """

    kind: str = "product with an array"
    costs: Mapping[str, str | None] | None = None
    argument: str = "x2"
    rank: int | None = 2
    products: Rule | None = None

    def pick(self, call: Call) -> Rule:
        kernel = self._kernel(call)
        if kernel is None and self.products is not None:
            return self.products.pick(call)
        if kernel is None:
            return self._whole()
        rank = len(call.inputs[0].shape)
        axis = channel_axis(call.op, rank)
        fits = kernel.ndim == (self.rank or rank)
        if not fits or call.inputs[0].shape[axis] != kernel.shape[-2]:
            return self._whole()
        return self

    def _whole(self) -> Rule:
        return Product(costs=None, why=_PRODUCT, counts=self.counts)

    def _kernel(self, call: Call) -> NDArray[Any] | None:
        """The array, or None if there is none on the right."""
        kernel = call.argument(self.argument)
        single = len(call.inputs) == 1 and operands(call)[0] is call.inputs[0]
        if isinstance(kernel, Tensor) or kernel is None or not single:
            return None
        return np.asarray(keras.ops.convert_to_numpy(kernel))

    def axis(self, call: Call) -> int:
        return channel_axis(call.op, len(call.inputs[0].shape))

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        ids = one_axis(inputs[0], self.axis(call), call.inputs[0].shape)
        roles = {} if ids is None else {"in": ids}
        if ids is None and lb.varying(inputs[0]):
            units.pin(
                inputs[0],
                "its channels are not along the axis that is multiplied",
            )
        outputs = [lb.fixed(len(t.shape)) for t in call.outputs]
        return Flow(outputs, [[None]], roles, mixes=True)

    def reading(self, call: Call) -> Reading:
        return ZERO

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        if values[0] is None or "in" not in flow.roles:
            return [None]
        x = channel_values(values[0].values, self.axis(call))
        return [known(np.zeros(flow.labels[0].shape)) if not x.any() else None]

    def sized(self, call: Call) -> bool:
        return True

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        whole = self._kernel(call)
        if whole is None or "in" not in view.index:
            return {}, call.args, call.kwargs
        old = call.argument(self.argument)
        kernel = np.take(whole, view.index["in"], -2)
        args = tuple(kernel if x is old else x for x in call.args)
        kwargs = {k: kernel if x is old else x for k, x in call.kwargs.items()}
        return {}, args, kwargs
