"""The protocol of rules, and the rule for unknown operations.

A rule knows nothing about models. For one call, it says which units the outputs
have (`flow`), what known inputs become (`value`), what must be physically
present (`reading`), how a factor passes (`scaling`), and what the operation
looks like at its final size (`revise`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import inner_units as iu
from keras_gates.surgeon.rules import reach
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.modes import Identity
from keras_gates.surgeon.rules.modes import Reading
from keras_gates.surgeon.rules.modes import Scaling

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.composite import Composite
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.known import Signals
    from keras_gates.surgeon.rules.packing import Packing
    from keras_gates.surgeon.rules.source import Source
    from keras_gates.surgeon.rules.view import View

# The result of `revise`: changes to the config, and call arguments.
Revision = tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]

# `(call, weights, inputs, outputs)` -> multiply-adds; see `Rule.counts`.
Counts = Callable[
    ["Call", "Weights", Sequence["Sizes"], Sequence["Sizes"]], int | None
]
Entry = TypeVar("Entry", bound=np.generic)
# Name of a weight -> the roles of its axes; see `Rule.axes`.
Axes = Mapping[str, tuple[str | None, ...]]
# Pairs instead of a dict, since a layer made of layers may have a name twice.
Weights = list[tuple[str, tuple[int, ...]]]
# A shape for counting, with integer sizes. An unknown size is None, and
# multiplying by it raises a TypeError, which is reported to the user.
Sizes = tuple[Any, ...]

# Short names of the enumerations in `modes`.
ALL = Reading.ALL
ZERO = Reading.ZERO
BIAS = Reading.BIAS
STATISTICS = Reading.STATISTICS
IDENTITY = Identity.IDENTITY
LINEAR = Scaling.LINEAR
POSITIVE = Scaling.POSITIVE
PRESERVES_ZERO = Scaling.PRESERVES_ZERO

# For each coordinate of an output, its source in an input.
Origin = NDArray[np.intp] | Identity | None


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """The units of a call's outputs, and where they come from.

    Attributes:
        labels: for each output, an array of unit numbers, with the output's
            rank and size 1 along axes where the unit does not change, such as
            the batch axis.
        sources: for each output, for each input: an array like the labels of
            the output that holds, for each output coordinate, its source
            coordinate in the flattened labels of the input, or -1 for none; or
            IDENTITY, if the two have the same labels; or None, for an input
            that is not involved, or if the layer mixes.
        roles: role -> the units along it, `(size,)`. A role is the name of an
            axis of weights, such as "in", "out" and "channel"; see `Rule.axes`.
        mixes: whether each output coordinate depends on every input coordinate.
        untied: inputs whose units differ from those of the outputs, so that a
            kept output coordinate must be read from its source.
        states: inputs of a mixing layer that share the units of its outputs,
            and are read where these are kept.
        reason: why the inputs are kept whole, if they are.
        reads: index of an input that a kernel reads -> the role of its units.
        multiplied: inputs that are multiplied with each other and summed: a
            unit of one is read only where none of the others is zero.
        idle: role of units inside the layer -> which of them have no effect
            because of their weights; see `Rule.inner_units`.
    """

    labels: list[NDArray[np.intp]]
    sources: Sequence[Sequence[Origin]]
    roles: dict[str, NDArray[np.intp]] = dataclasses.field(default_factory=dict)
    mixes: bool = False
    untied: tuple[int, ...] = ()
    states: tuple[int, ...] = ()
    reason: str | None = None
    reads: dict[int, str] = dataclasses.field(default_factory=lambda: {0: "in"})
    multiplied: tuple[int, ...] = ()
    idle: dict[str, NDArray[np.bool_]] = dataclasses.field(default_factory=dict)

    def read(self, index: int) -> NDArray[np.intp] | None:
        """The units of an input that a kernel reads, or None."""
        role = self.reads.get(index)
        return None if role is None else self.roles.get(role)


@dataclasses.dataclass(frozen=True)
class Rule:
    """The base class of rules: one input, one output, nothing to resize.

    Attributes:
        kind: the name in plans and in the table of layers.
        axes: weight name -> the role of each of its axes, from the last
            backwards; None for an axis that is never cut.
        config: config key -> the role whose width it holds.
        costs: weight name -> "out" or "in": the tensor whose positions multiply
            its cost; "step" for the output at every time step. None if it is
            not known.
        scales: "in" or "out" -> the weights that absorb a factor there, as
            `{weight: role}`.
        cuts: whether a selection of channels may come before it.
        trains: whether a call with `training=True` may differ from inference.
        counts: the multiply-adds of a call, if `costs` can't express them, as
            `(call, weights, inputs, outputs) -> number`: `[(name, shape)]` of
            the weights, and the shapes of all inputs and outputs. None if there
            are none, or if they can't be counted.
    """

    kind: str = "rule"
    axes: Axes = dataclasses.field(default_factory=dict)
    config: Mapping[str, str] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, str | None] | None = dataclasses.field(
        default_factory=dict
    )
    scales: Mapping[str, dict[str, str]] = dataclasses.field(
        default_factory=dict
    )
    cuts: bool = False
    trains: bool = True
    note: str = ""
    counts: Counts | None = None

    # Attributes, not fields: a subclass sets them for all of its rules.

    kernel = "kernel"
    """The kernel whose outputs get a bias if constants are absorbed."""
    merging = False
    """Whether constant operands are removed; see `without`."""
    blends = True
    """Whether an output may depend on more coordinates of its unit than the one
    in `Flow.sources`, as in a mean over space. A move does not."""
    moves = False
    """Whether it only moves coordinates, as a reshape does."""
    pointwise = False
    """Whether it treats each value alone, as activation functions do."""
    linear = False
    """Whether it is `act(kernel . x + bias)`, with new units in the output."""
    multiplies = False
    """Whether it multiplies tensors axis by axis; `demanded` says on which
    coordinates something depends."""
    is_gate = False
    """Whether it multiplies by factors that the surgeon removes from the
    model."""
    closes_loop = False
    """Whether its closed units are also zero inside the recurrent layer before
    it."""
    opens = False
    """Whether its layer is seen through first, which gives more detail, so that
    the rule applies only if that fails."""
    keeps_whole = False
    """Whether its layer is never changed."""
    writes_again = False
    """Whether it is already written out, so that writing it again costs
    nothing."""
    feeds_back = False
    """Whether it reads its own output, whatever is closed after it;
    `exact=False` removes such units."""

    def composite_of(
        self, op: keras.Operation, calls: Sequence[Call] = ()
    ) -> Composite | None:
        """How a layer is written out before everything else, or None.

        Args:
            op: the layer.
            calls: its calls at one place, if known.
        """
        return None

    @property
    def dissolved(self) -> tuple[str, ...]:
        """The factors in a layer that other weights always absorb.

        The rest of the layer is its `base`.
        """
        return ()

    @property
    def packing(self) -> Packing | None:
        """The rule itself, if its layer has other weights when pruned."""
        return None

    def pick(self, call: Call) -> Rule:
        """The rule for this call, if a class has more than one."""
        return self

    def positions(
        self,
        call: Call,
        over: str,
        in_shape: tuple[int | None, ...],
        out_shape: tuple[int | None, ...],
    ) -> list[int | None]:
        """The sizes of the axes over which a weight is reused; see `costs`."""
        shape = tuple(in_shape if over == "in" else out_shape)
        steps: tuple[int | None, ...] = ()
        if over == "step":
            # Only the last state may be returned, but each step is computed.
            steps = (in_shape[1],)
            shape = shape[:1] + shape[1 + (len(shape) == len(in_shape)) :]
        channels = self.channels(call, over, len(shape)) % len(shape)
        rest = [s for a, s in enumerate(shape) if a not in (0, channels)]
        return [*steps, *rest]

    def channels(self, call: Call, over: str, rank: int) -> int:
        """The channel axis of the tensor that `over` names."""
        return channel_axis(call.op, rank)

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        """The `Flow` of a call on inputs with these labels.

        Args:
            call: the `Call`.
            inputs: the label arrays of its inputs.
            units: the `Units`, to create, tie and pin units.
        """
        raise self._lacking("flow", "every rule says how channels run")

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """The known values of each output: a `Known` or None."""
        return [None] * len(call.outputs)

    def reaches(self, call: Call, known: Sequence[Known | None]) -> list[int]:
        """How outputs depend on each input: VALUES, CHOICE or NOTHING.

        An output whose data is closed is useless, even if a mask still changes
        it. Call arguments that are masks, conditions or indices are choices;
        all others count with their values.

        Args:
            call: the `Call`.
            known: for each input, a `Known` or None.
        """
        return reach.by_argument(call, known)

    def demanded(
        self,
        call: Call,
        flow: Flow,
        index: int,
        wanted: Sequence[NDArray[np.bool_]],
        zeros: Sequence[NDArray[np.bool_]],
    ) -> NDArray[np.bool_]:
        """The coordinates of an input on which the outputs depend.

        Used if `multiplies` is true; otherwise, `Flow` says it.

        Args:
            call: the `Call`.
            flow: its `Flow`.
            index: the index of the input.
            wanted: for each output, which coordinates are demanded; like its
                labels.
            zeros: for each input, which coordinates are zero; like its labels.
        """
        raise self._lacking("demanded", "it is `multiplies`")

    def axes_read(self, call: Call) -> list[int]:
        """The axes of the input that a kernel sums over."""
        return [self.axis(call)]

    def compared_axes(self, call: Call) -> list[int]:
        """The axes whose positions it compares, as in a softmax over keys.

        Along these there are no channels, which would have to be kept whole.
        """
        return []

    def axes_lost(self, call: Call) -> list[int]:
        """The axes of the first input that the output lacks, as after a sum."""
        return []

    def looks_along(self, call: Call) -> list[int] | None:
        """The axes that a move depends on, or None for all."""
        return None

    def moved(
        self, call: Call, numbers: list[NDArray[np.intp]]
    ) -> list[NDArray[np.intp]]:
        """The coordinates that a move puts into each output."""
        raise self._lacking("moved", "it is `moves`")

    def shared_axes(self, call: Call, index: int) -> list[int]:
        """The axes that an input shares with other inputs and the output."""
        return []

    def carried_axes(self, call: Call, index: int) -> dict[int, int]:
        """The axes of an input, mapped to those of the output."""
        return {}

    def met_axes(self, call: Call, index: int, other: int) -> dict[int, int]:
        """The axes of an input that another has, and where that has them."""
        return {}

    def head_axis(self, call: Call, flow: Flow) -> int | None:
        """The axis of heads in the output, or None.

        Used if `multiplies` is true.
        """
        return None

    def reading(self, call: Call) -> Reading:
        """How inputs with known values may be removed.

        Used for calls that mix (`Flow.mixes`).
        """
        return ZERO

    def reads_all(self, call: Call) -> str:
        """How it reads all of its inputs, if its `reading` is ALL."""
        return "reads all channels together"

    def axis(self, call: Call) -> int:
        """The channel axis of the role "in"."""
        return channel_axis(call.op, len(call.inputs[0].shape))

    def axis_read(self, call: Call, flow: Flow) -> int:
        """The axis of the input along which a kernel reads units."""
        return self.axis(call)

    def contribution(
        self, part: keras.Layer, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What known inputs add to the output, as a bias.

        Used if `reading` is BIAS.

        Args:
            part: one of `parts`.
            values: the known inputs along the role "in", 0 for the others.
        """
        raise self._lacking("contribution", "its `reading` is BIAS")

    def with_bias(self, call: Call) -> dict[str, Any]:
        """The change of the config that adds a bias."""
        return {"use_bias": True}

    def without(
        self, constants: dict[int, NDArray[np.float64]], count: int
    ) -> tuple[NDArray[np.float64] | float, NDArray[np.float64] | float] | None:
        """The replacement of constant operands, if they can be removed.

        Used if `merging` is true.

        Args:
            constants: `{index of the operand: its values}`.
            count: the number of operands.

        Returns:
            `(scale, offset)` for the remaining operands, or None.
        """
        return None

    def factors(
        self, call: Call, rank: int, factor: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The factors of a gate, shaped for a tensor with `rank` axes.

        Args:
            call: the `Call`.
            rank: the number of axes, including the batch axis.
            factor: an array like the factors, to shape instead.
        """
        raise self._lacking("factors", "it is a rule for gates")

    def _lacking(self, method: str, why: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} ('{self.kind}') must define `{method}`: "
            f"{why}."
        )

    def merges(self, call: Call) -> bool:
        """Whether known inputs can be merged into one of them.

        A linear operation reads a sum of constants: the kernel slice of the one
        that stays becomes the weighted sum of all, with any padding.
        """
        return False

    def guess(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """Like `value`, for what `exact=False` treats as constant."""
        return [None] * len(call.outputs)

    def approximates(self, call: Call) -> bool:
        """Whether `exact=False` may remove inputs approximately.

        These are inputs that are all read, or constants at zero padding.
        """
        return False

    def scaling(self, call: Call) -> Scaling | None:
        """How a factor on all inputs passes, or None."""
        return None

    def scaling_but_bias(self, call: Call) -> Scaling | None:
        """Like `scaling`, if there were no bias.

        A following normalization undoes the shift by a bias.
        """
        return self.scaling(call)

    def puts_rim(self, call: Call) -> bool:
        """Whether it pads its input."""
        return False

    def as_function(
        self, op: keras.Operation | None
    ) -> tuple[Scaling | None, bool] | None:
        """The operation as the activation of another one.

        Args:
            op: the operation, or None for any of its class.

        Returns:
            `(how a factor passes, whether it mixes channels)`, or None if it
            does not depend on its input alone.
        """
        return None

    def behind(self, call: Call) -> Scaling | None:
        """How a factor on the output passes back to the weights."""
        return LINEAR

    def carries(self, call: Call, index: int) -> Scaling | None:
        """How a factor on input `index` alone passes."""
        return self.scaling(call)

    def one_takes_all(self, call: Call) -> bool:
        """Whether a factor on the output belongs on one input only."""
        return False

    def takes(self, call: Call, side: str) -> dict[str, str] | None:
        """The weights `{name: role}` that absorb a factor, or None."""
        return self.scales.get(side)

    def takes_input(
        self, call: Call, flow: Flow, index: int
    ) -> dict[str, str] | None:
        """Like `takes`, for a factor on one of the inputs."""
        return self.takes(call, "in") if index == 0 else None

    def absorbed(
        self,
        call: Call,
        part: keras.Layer,
        role: str,
        values: NDArray[np.float64],
    ) -> dict[str, NDArray[np.float64]]:
        """What known inputs add: name of a bias -> an array like it.

        Args:
            call: the `Call`.
            part: one of `parts`.
            role: the role of the inputs.
            values: their values, `(units,)`, 0 for those that stay.
        """
        return {"bias": self.contribution(part, values)}

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        """Weight name -> roles, for this call."""
        return self.axes

    def parts(self, op: keras.Operation) -> list[keras.Layer]:
        """The layers that hold the weights.

        By default the layer itself. `axes` applies to each of the parts.
        """
        return [op]

    def sense(self, call: Call) -> Hashable:
        """A key that is equal for calls that use the weights in the same way.

        Inputs and outputs of such calls are tied. If a layer can be called in
        several ways, its rule ties what these have in common.
        """
        return None

    def holds(self, layer: keras.Layer | None) -> bool:
        """Whether another layer may be the pruned form of this one.

        If so, it holds the weights as `parts` says.
        """
        return False

    def sized(self, call: Call) -> bool:
        """Whether the operation itself has a size, the same for all calls."""
        return bool(self.axes_of(call) or self.config)

    def recalls(
        self,
        call: Call,
        flow: Flow,
        demanded: list[NDArray[np.bool_]],
        closed: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.intp] | None:
        """The inner units that the operation itself reads, or None.

        Used for rules with `inner_units`.

        Args:
            call: the `Call`.
            flow: its `Flow`.
            demanded: for each output, an array like its labels that marks the
                coordinates on which something varying depends.
            closed: which of the `inner_units` are zero, one role after the
                other; a boolean array, or None.
        """
        return None

    def inner_units(self, call: Call) -> tuple[iu.InnerUnits, ...]:
        """The units that can be closed inside the layer, if any."""
        return ()

    def inner_factors(
        self,
        call: Call,
        flow: Flow,
        kept: Mapping[str, NDArray[np.bool_]],
        closed: NDArray[np.bool_] | None,
    ) -> list[tuple[str, str, NDArray[np.float64]]]:
        """The factors of weights for units that are closed inside.

        Args:
            call: the `Call`.
            flow: its `Flow`.
            kept: role -> which units along it are kept.
            closed: as in `recalls`.

        Returns:
            `(weight, role of its axis, factors)`, all units before the cut.
        """
        inner = self.inner_units(call)
        shut = iu.split(inner, flow.roles, closed)
        found = []
        for each in inner:
            if shut[each.role].any():
                for name, role in each.zeroed:
                    mask = iu.along(
                        flow.roles, each.role, shut[each.role], role
                    )
                    found.append((name, role, np.where(mask, 0.0, 1.0)))
        return found

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        """`(config, args, kwargs)` at the final size.

        Args:
            call: the `Call`.
            flow: its `Flow`.
            view: the `View`: what is kept.

        Returns:
            The changes to the config of the layer (or to the arguments of the
            operation's class), and the arguments of the call.
        """
        config: dict[str, Any] = {
            key: len(view.index[role])
            for key, role in self.config.items()
            if role in view.index
        }
        return config, call.args, call.kwargs

    def replaced(
        self, call: Call, flow: Flow, view: View
    ) -> keras.Operation | None:
        """Another operation that replaces this one, or None.

        It gets the arguments from `revise`.
        """
        return None

    def writes_out(self, call: Call) -> bool:
        """Whether it is written out to account for removed channels.

        Used if `reading` is STATISTICS.
        """
        return False

    def signals(
        self, call: Call, constants: NDArray[np.float64]
    ) -> Signals | None:
        """The outputs for constants in its statistics, or None.

        Used if `reading` is STATISTICS.

        Args:
            call: the `Call`.
            constants: the constants of its input; float64, `(channels,)`, NaN
                for varying channels.
        """
        return None

    def written_macs(self, call: Call, sizes: Sizes) -> int:
        """The multiply-adds of its written-out form.

        Args:
            call: the `Call`.
            sizes: the shape of its input after the cut.
        """
        return 0

    def rescaled(self, removed: NDArray[np.float64] | None) -> dict[str, float]:
        """The factors of weights that account for removed channels.

        Args:
            removed: `View.removed` of the first input.

        Returns:
            `{weight: number}`.
        """
        return {}

    def along_axis(self, call: Call) -> bool:
        """Whether a gate has a factor for each channel of an axis."""
        return False

    def base(self, op: keras.Operation) -> keras.Operation:
        """The operation to rebuild at its final size: by default itself.

        It is an inner layer if the wrapper is always removed.
        """
        return op

    def source(self, call: Call) -> Source | None:
        """The `Source` of the factors that thresholds may close, or None."""
        return None

    def zeroed(self, call: Call) -> dict[str, str]:
        """`{weight: role}` of the weights that are zero for closed factors."""
        source = self.source(call)
        return {} if source is None else source.zeroed

    def shut(
        self,
        call: Call,
        flow: Flow,
        value: Known | None,
        mask: NDArray[np.bool_],
    ) -> Known | None:
        """The output's `Known` if the factors in `mask` are zero.

        `value` is the output's `Known` with the current factors.
        """
        return value

    def opened_by(self, call: Call, flow: Flow) -> NDArray[np.intp] | None:
        """The factors of its `source` that let each coordinate through.

        Returns:
            Indices of the flattened factors, shaped like the labels of the
            output with one more axis: a coordinate varies if one of them is
            open. None if no factor closes any.
        """
        return None

    def missing(self, call: Call) -> list[str]:
        """The weights of the layer that the rule does not name."""
        if not isinstance(call.op, keras.Layer):
            return []
        axes = self.axes_of(call)
        parts = self.parts(call.op)
        return [
            name
            for p in parts
            for name, _ in named_weights(p, axes)
            if name not in axes
        ]


def named_weights(
    part: keras.Layer, names: Iterable[str]
) -> list[tuple[str, keras.Variable]]:
    """Pairs of name and weight, in the order of `part.weights`.

    A weight without a given name is known by the attribute in `names` that
    holds it.
    """
    attributes = {id(getattr(part, name, None)): name for name in names}
    return [
        (w.name if w.name in names else attributes.get(id(w), w.name), w)
        for w in part.weights
    ]


def along_role(
    vector: NDArray[Entry], role: str, roles: Sequence[str | None], rank: int
) -> NDArray[Entry]:
    """A vector, reshaped to vary along the axis of a role.

    Args:
        vector: `(size,)`.
        role: the role of its axis.
        roles: the roles of the last axes of a weight, in order.
        rank: the number of the weight's axes.
    """
    shape = [1] * rank
    shape[rank - len(roles) + roles.index(role)] = -1
    return vector.reshape(shape)


def barrier(
    call: Call, inputs: list[NDArray[np.intp]], units: Units, reason: str
) -> Flow:
    """Keep every input whole; the outputs have no removable units."""
    for labels in inputs:
        units.pin(labels, reason)
    outputs = [lb.fixed(len(t.shape)) for t in call.outputs]
    return Flow(
        outputs,
        [[None] * len(inputs) for _ in outputs],
        mixes=True,
        reason=reason,
    )


def only_first(
    inputs: list[NDArray[np.intp]], units: Units, why: str
) -> list[Origin]:
    """The sources of a rule with one input; further inputs are kept whole."""
    for labels in inputs[1:]:
        units.pin(labels, why)
    return [IDENTITY, *[None] * (len(inputs) - 1)]


def weight(op: keras.Layer, name: str) -> NDArray[np.float64] | None:
    """A weight as a float64 array, or None if the layer has none."""
    found = getattr(op, name, None)
    if found is None:
        return None
    return as_float64(found)


@dataclasses.dataclass(frozen=True)
class Barrier(Rule):
    """Keeps inputs whole, for a reason that the plan prints."""

    kind: str = "barrier"
    costs: Mapping[str, str | None] | None = None
    why: str = ""

    keeps_whole = True

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        return barrier(call, inputs, units, self.why or unknown(call))

    def reading(self, call: Call) -> Reading:
        return ALL

    def missing(self, call: Call) -> list[str]:
        return []


def unknown(call: Call) -> str:
    """Why an operation without a rule is kept, and the remedy."""
    op, opaque = call.op, call.site.opaque
    name = type(op).__name__
    seen = f", and it can't be seen through: {opaque}" if opaque else ""
    if isinstance(op, keras.layers.Lambda):
        return (
            f"a {name} may compute anything{seen}; write it with keras.ops, "
            "or as a custom layer class with a rule "
            "(keras_gates.surgeon.register)"
        )
    return (
        f"no rule for {name}{seen}; add one with keras_gates.surgeon.register"
    )


def run(
    function: Callable[[Any], Any], array: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Apply a Keras function to a NumPy array."""
    return as_float64(function(keras.ops.convert_to_tensor(array, "float32")))


def channel_axis(op: keras.Operation, rank: int) -> int:
    """The channel axis of a layer, by its `data_format`."""
    layout = getattr(op, "data_format", "channels_last")
    layout = layout or keras.config.image_data_format()
    return 1 if layout == "channels_first" else rank - 1


def common_channel_axis(calls: Iterable[Call], rank: int) -> int:
    """The channel axis of the first call whose layer has a `data_format`."""
    laid = (call.op for call in calls if hasattr(call.op, "data_format"))
    return channel_axis(next(laid, None), rank)


def operands(call: Call) -> list[Any]:
    """The tensors and constants that a call combines, in order."""
    if isinstance(call.op, keras.Layer):
        return list(call.inputs)
    return [*call.args, *call.kwargs.values()]


def axes_among(axis: Any, rank: int) -> list[int]:
    """An argument `axis` as a list of nonnegative axes; None for all.

    It may be a number, a list, a tuple, or an array.
    """
    if axis is None:
        return list(range(rank))
    if not isinstance(axis, (int, tuple, list, np.ndarray)):
        axis = keras.ops.convert_to_numpy(axis)
    return [int(a) % rank for a in np.atleast_1d(axis)]


def one_axis(
    labels: NDArray[np.intp], axis: int, shape: tuple[int | None, ...]
) -> NDArray[np.intp] | None:
    """The units along `axis` if nothing else varies, otherwise None.

    Also None if the axis is longer than its labels: then there is no unit per
    channel.
    """
    ids = lb.along(labels, axis)
    if ids is None or (len(ids) != shape[axis]):
        return None
    return ids
