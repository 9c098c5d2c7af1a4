"""A gate on each unit of a recurrent layer, inside its loop."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import ops

from keras_gates.layers import recurrence
from keras_gates.layers.filter_gate import FilterGate
from keras_gates.layers.other_weights import call_with

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Constraint
    from keras_gates.layers.arguments import Initializer
    from keras_gates.layers.arguments import Regularizer
    from keras_gates.layers.arguments import Shape


@keras.saving.register_keras_serializable(package="keras_gates")
class GatedRecurrent(keras.layers.Wrapper):
    """Multiplies each unit of a recurrent layer by a factor, inside its loop.

    `outputs = factor * layer(inputs)`, where the layer's recurrent kernel is
    `factor[:, None] * recurrent_kernel`: at each step, the factors multiply
    what the units read from each other, and the output.

    A recurrent unit feeds back into its layer, so that a `FilterGate` after the
    layer removes nothing: the other units still read what it closes. Here,
    nothing reads a unit whose factor is 0, so it can be removed exactly. The
    pruned model has the stock layer with fewer units, and the factors are
    folded into the rows of its recurrent kernel.

    What a unit carries over to its own next step (`c` of an LSTM, and the share
    of `h` that a GRU keeps) has no factor. So a sequence that is processed in
    parts, with the states passed from one call to the next, gives the same
    outputs as in one call. For the same reason, the states that `return_state`
    returns have no factor either, unless `gate_states` is set.

    Args:
        layer: The layer: `SimpleRNN`, `GRU`, `LSTM`, `ConvLSTM1D`,
            `ConvLSTM2D`, `ConvLSTM3D`, an `RNN` around one cell of Keras, or
            `Bidirectional` around two alike, which share the factors.
        initializer: Initial values of the factors. Defaults to `"ones"`, which
            leaves the function of the layer as it is; `"uniform"` is uniform in
            (0, 1).
        regularizer: Regularizer of the factors.
        activity_regularizer: Regularizer of the output.
        constraint: Constraint of the factors.
        stochastic: Whether the factors are random in training, as those of
            other gates: see `Gate`. One factor is drawn per unit and batch.
            Defaults to `False`.
        seed: Integer or `keras.random.SeedGenerator`, for a stochastic gate.
            Defaults to `None`.
        gate_states: Whether the returned states `h` are multiplied by the
            factors, too. Defaults to `False`. Set it to `True` if a layer such
            as a `Dense` head reads `h`, so that closed units can be removed
            from there. Do not use it for states that are passed back to this
            layer.
        name: Name of the layer. Defaults to that of `layer` and `"_gate"`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Call arguments:
        sequences: As for the layer.
        initial_state: Likewise; the states are used as given.
        mask: Likewise.
        training: Likewise.

    Output shape:
        The same as `layer`.

    Raises:
        ValueError: If `layer` is not one of these, if it is stateful, if its
            two directions differ, or if an initial state has another width.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> x = keras.Input((None, 5))
    >>> lstm = keras.layers.LSTM(8, name="lstm")
    >>> y = kg.GatedRecurrent(lstm, regularizer=kg.regularizers.L1(1e-4))(x)
    >>> model = keras.Model(x, keras.layers.Dense(2)(y))
    >>> gate = model.get_layer("lstm_gate")
    >>> _ = gate.factor.assign([1, 1, 0.7, 1, 0, 0, 0, 0])  # as training might
    >>> small = kg.surgeon.prune(model, thresholds=0.05)
    >>> small.get_layer("lstm").units
    4
    """

    def __init__(
        self,
        layer: keras.Layer,
        initializer: Initializer = "ones",
        regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        constraint: Constraint = None,
        stochastic: bool = False,
        seed: Any = None,
        gate_states: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        why = recurrence.why_not(layer)
        if why is not None:
            what = getattr(layer, "name", repr(layer))
            raise ValueError(
                f"GatedRecurrent can't gate the units of '{what}' (of type "
                f"{type(layer).__name__}): {why}. Expected: SimpleRNN, GRU, "
                "LSTM, ConvLSTM1D to ConvLSTM3D, RNN around one cell of "
                "Keras, or Bidirectional around two alike, not stateful."
            )
        name = f"{layer.name}_gate" if name is None else name
        super().__init__(layer, name=name, **kwargs)
        self.activity_regularizer = keras.regularizers.get(activity_regularizer)
        # It holds the factors, in float32 as always.
        self.gate = FilterGate(
            initializer=initializer,
            regularizer=regularizer,
            constraint=constraint,
            stochastic=stochastic,
            seed=seed,
            dtype="float32",
            name=self.name,
        )
        self.gate_states = bool(gate_states)
        self.supports_masking = True

    @property
    def factor(self) -> Any:
        """The factors, as in a `FilterGate`."""
        return self.gate.factor

    @property
    def return_sequences(self) -> bool:
        return bool(self.layer.return_sequences)

    @property
    def return_state(self) -> bool:
        return bool(self.layer.return_state)

    def build(
        self, sequences_shape: Shape, initial_state_shape: Any = None
    ) -> None:
        self._check_states(initial_state_shape)
        if not self.layer.built:
            self.layer.build(sequences_shape)
            self.layer.built = True
        self.gate.build((None, recurrence.units(self.layer)))
        self.built = True

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        ones = ops.ones((1, recurrence.units(self.layer)), "float32")
        # For a stochastic gate, drawn once for the loop and the output.
        factor = ops.reshape(self.gate(ones, training=training), (-1,))
        rows = ops.expand_dims(factor, -1)
        kernels = [
            (cell.recurrent_kernel, ops.multiply(rows, cell.recurrent_kernel))
            for cell in recurrence.cells(self.layer)
        ]
        found = call_with(
            self.layer,
            [(old, ops.cast(new, old.dtype)) for old, new in kernels],
            sequences,
            initial_state=initial_state,
            mask=mask,
            training=training,
        )
        flat = keras.tree.flatten(found)
        kinds = recurrence.outputs(self.layer)
        gated = [
            self._gated(tensor, ops.tile(factor, (kind.repeats,)))
            if self.gates(kind)
            else tensor
            for tensor, kind in zip(flat, kinds, strict=True)
        ]
        return keras.tree.pack_sequence_as(found, gated)

    def gates(self, output: recurrence.Output) -> bool:
        """Whether one of the outputs is multiplied by the factors."""
        return output.hidden and (self.gate_states or not output.state)

    def _gated(self, tensor: Any, factor: Any) -> Any:
        axis = recurrence.channel_axis(self.layer)
        factor = ops.reshape(factor, (-1,) + (1,) * (-1 - axis))
        return ops.multiply(tensor, ops.cast(factor, tensor.dtype))

    def compute_mask(self, sequences: Any, mask: Any = None) -> Any:
        return self.layer.compute_mask(sequences, mask)

    def compute_output_shape(
        self, sequences_shape: Shape, initial_state_shape: Any = None
    ) -> Any:
        return self.layer.compute_output_shape(sequences_shape)

    def get_config(self) -> dict[str, Any]:
        gate = self.gate.get_config()
        shared = ("initializer", "regularizer", "constraint")
        random = ("stochastic", "seed")
        # As `binarize` sets it; the layer inside goes on training.
        frozen = {} if self.gate.trainable else {"gate_trainable": False}
        return {
            **super().get_config(),
            **frozen,
            **{key: gate[key] for key in shared},
            **{key: gate[key] for key in random if key in gate},
            "activity_regularizer": keras.regularizers.serialize(
                self.activity_regularizer
            ),
            "gate_states": self.gate_states,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> GatedRecurrent:
        config = dict(config)
        if isinstance(config.get("seed"), dict):
            config["seed"] = keras.saving.deserialize_keras_object(
                config["seed"]
            )
        trainable = config.pop("gate_trainable", True)
        made: GatedRecurrent = super().from_config(config, custom_objects)
        if not trainable:
            made.gate.trainable = False
        return made

    def _check_states(self, shape: Any) -> None:
        """Refuse initial states of another width at the call."""
        if shape is None:
            return
        axis = recurrence.channel_axis(self.layer)
        width = recurrence.units(self.layer)
        flat = [shape] if _is_shape(shape) else _shapes(shape)
        for each in flat:
            if each[axis] not in (None, width):
                raise ValueError(
                    f"GatedRecurrent '{self.name}' can't start with such "
                    f"states. Received: a state of shape {tuple(each)}. "
                    f"Expected: {width} on axis {axis}, the units of "
                    f"'{self.layer.name}'."
                )


def _is_shape(value: Any) -> bool:
    return all(isinstance(size, (int, type(None))) for size in value)


def _shapes(value: Any) -> list[Any]:
    """The shapes in a nested list or tuple of shapes."""
    if _is_shape(value):
        return [value]
    return [shape for part in value for shape in _shapes(part)]
