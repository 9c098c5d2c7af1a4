"""Layers that hold the weights of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
from numpy.typing import NDArray

from keras_gates.graphs.opened import Place
from keras_gates.graphs.stand_ins import SideEffect

if TYPE_CHECKING:
    from keras_gates.graphs.names import Names
    from keras_gates.graphs.weight_values import Weight


class TwoWays(SideEffect):
    """A variable would be in two layers.

    Args:
        variable: the variable.
    """

    def __init__(self, variable: keras.Variable) -> None:
        super().__init__(
            f"its `call` uses the variable '{variable.name}' in two ways"
        )
        self.variable = variable


class Holders:
    """Makes a layer for each use of a weight.

    Args:
        twin: the copy of a layer whose weights they are.
        names: free names.
        before: those of another way in which the layer is called. What is
            used alike is in the same layer.

    Attributes:
        placed: where the values of variables are.
        layers: by use, the layer that is made for it.
        uses: by the id of a variable, its use.
        several: the ids of variables that may have several uses.
        shared: a variable of those that has, and None if none has.
    """

    def __init__(
        self, twin: keras.Layer, names: Names, before: Holders | None = None
    ) -> None:
        self.twin = twin
        self.names = names
        self.placed: list[tuple[keras.Variable, Place]] = []
        self.layers: dict[tuple[Any, ...], keras.Layer] = {}
        self.uses: dict[int, tuple[Any, ...]] = {}
        self.several: set[int] = set()
        self.shared: keras.Variable | None = None
        if before is not None:
            self.layers |= before.layers
            self.uses |= before.uses

    def layer(
        self,
        weight: Weight,
        name: str,
        kind: type[keras.Layer],
        computes: str,
        **config: Any,
    ) -> keras.Layer:
        """A layer whose weight `name` holds a weight; one for each use.

        Args:
            weight: the weight.
            name: the attribute that holds it.
            kind: the class.
            computes: the type in which the operation computes.
            **config: for the class.

        Raises:
            SideEffect: the variable is in a layer of another kind already.
        """
        variable = weight.variable
        # Another order of its numbers, or other parts, are another use.
        key = (id(variable), kind, name, str(config), weight.probe.tobytes())
        if key in self.layers:
            layer = self.layers[key]
            self._place(weight, layer, name)
            return layer
        if self.uses.setdefault(id(variable), key) != key:
            if id(variable) not in self.several:
                raise TwoWays(variable)
            self.shared = variable
        layer = kind(
            **config,
            name=self.names.free(weight.label),
            dtype=self._policy(weight, computes),
            trainable=variable.trainable,
        )
        self.layers[key] = layer
        self._place(weight, layer, name)
        return layer

    def give_bias(self, weight: Weight, layer: keras.Layer) -> None:
        """Let a weight be the bias of a layer.

        Raises:
            SideEffect: the variable is in another layer already.
        """
        variable = weight.variable
        key = (id(variable), "bias", id(layer))
        if self.uses.setdefault(id(variable), key) != key:
            raise TwoWays(variable)
        layer.bias.assign(weight.value.reshape(layer.bias.shape))
        self._place(weight, layer, "bias")

    def _place(self, weight: Weight, layer: keras.Layer, name: str) -> None:
        """Note where the values of a weight are."""
        variable = weight.variable
        if any(p.layer is layer and p.name == name for _, p in self.placed):
            return
        if not weight.derived:
            setattr(layer, f"{name}_regularizer", variable.regularizer)
            setattr(layer, f"{name}_constraint", variable.constraint)
        place = Place(layer, name, weight.derived, weight.part)
        self.placed.append((variable, place))

    def _policy(self, weight: Weight, computes: str) -> Any:
        """That of a layer that computes in a type, as the operation does.

        A `call` may compute in float32 where its layer does not.
        """
        own, variable = self.twin.dtype_policy, weight.variable
        # What torch says of float64 is not always so.
        if computes == own.compute_dtype or own.compute_dtype == "float64":
            return own
        if computes == variable.dtype:
            return computes
        raise SideEffect(
            f"its `call` computes with the variable '{variable.name}' in "
            f"{computes}, which is neither its type nor the layer's"
        )

    def called(
        self,
        layer: keras.Layer,
        x: keras.KerasTensor,
        weight: Weight,
        value: NDArray[Any],
        name: str = "kernel",
    ) -> keras.KerasTensor:
        """The output of a layer, whose weight has its values by then."""
        y = layer(x)
        getattr(layer, name).assign(value)
        return y
