"""What a rule says of one kind of operation, and the rule for the unknown.

A rule knows nothing of models. It is asked, for one call: which units the
outputs carry (`flow`), what comes out of known inputs (`value`), what must
be physically there (`reading`), how a factor passes (`scaling`), and what
the operation looks like at its final size (`revise`).
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

# What `revise` gives: changes to the config, and the arguments of the call.
Revision = tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]

# `(call, weights, inputs, outputs)` -> multiply-adds; see `Rule.counts`.
Counts = Callable[
    ["Call", "Weights", Sequence["Sizes"], Sequence["Sizes"]], int | None
]
Entry = TypeVar("Entry", bound=np.generic)
# Name of a weight -> the roles of its axes; see `Rule.axes`.
Axes = Mapping[str, tuple[str | None, ...]]
# Pairs and no dictionary: a layer made of layers may have a name twice.
Weights = list[tuple[str, tuple[int, ...]]]
# A shape for a count: its sizes are integers. One that is unknown is None, and
# to multiply by it raises a TypeError, which is told to the user.
Sizes = tuple[Any, ...]

# The words of `modes`, by their short names.
ALL = Reading.ALL
ZERO = Reading.ZERO
BIAS = Reading.BIAS
STATISTICS = Reading.STATISTICS
IDENTITY = Identity.IDENTITY
LINEAR = Scaling.LINEAR
POSITIVE = Scaling.POSITIVE
PRESERVES_ZERO = Scaling.PRESERVES_ZERO

# For each coordinate of an output, which of an input it stems from.
Origin = NDArray[np.intp] | Identity | None


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """Where the coordinates of a call's outputs come from.

    Attributes:
        labels: for each output, an array of the numbers of units: of the
            output's rank, 1 along the axes where the unit does not change
            (that of the batch is one of them).
        sources: for each output, for each input: an array like the labels
            of the output, with the coordinate in the flattened labels of
            the input that each output coordinate stems from, -1 where there
            is none; or IDENTITY, where the two have the same labels; or
            None, for an input with no part in it, or of a layer that mixes.
        roles: role -> the units `(size,)` along it. A role is the name of an
            axis of weights, such as "in", "out" and "channel"; see
            `Rule.axes`.
        mixes: whether each output coordinate depends on every input one.
        untied: inputs whose units are other than the outputs', so that a
            kept output coordinate must be read from its source.
        states: inputs of a layer that mixes whose units are those of its
            outputs, and that it reads where those are kept.
        reason: why the inputs are kept whole, if they are.
        reads: input that is read by a kernel -> the role of its units.
        multiplied: inputs that are multiplied with each other and summed up:
            a unit of one is read only where none of the others is zero.
        idle: role of units inside the layer -> whether its weights make each
            of them count for nothing; see `Rule.inner_units`.
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
        """The units that a kernel reads of an input, or None."""
        role = self.reads.get(index)
        return None if role is None else self.roles.get(role)


@dataclasses.dataclass(frozen=True)
class Rule:
    """The defaults: one input, one output, nothing to resize.

    Attributes:
        kind: the name that the plan and the table of layers show.
        axes: weight name -> the role of each of its axes, from the last
            backwards; None for an axis that is never cut.
        config: config key -> the role whose width it holds.
        costs: weight name -> "out" or "in": the tensor over whose
            positions its multiplications are counted; "step" for those of
            the output at every time step. None where it is not known.
        scales: "in" or "out" -> the weights that take a factor there, as
            `{weight: role}`.
        cuts: whether a selection of channels may stand in front.
        trains: whether a call with `training=True` may compute something
            else than one in inference.
        counts: the multiply-adds of a call that `costs` can't express, as
            `(call, weights, inputs, outputs) -> number`: `[(name, shape)]`
            of the weights, the shapes of all inputs and outputs. None where
            there are no such, or where they can't be counted.
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

    # Attributes, not fields: a class of rules sets them for all of its rules.

    kernel = "kernel"
    """The kernel whose outputs get a bias where constants are absorbed."""
    merging = False
    """Whether constant operands are left out; see `without`."""
    blends = True
    """Whether an output may come of more coordinates of its unit than of the
    one in `Flow.sources`, as a mean over space does. A move has no others."""
    moves = False
    """Whether it only moves coordinates, as a reshape does."""
    pointwise = False
    """Whether it treats each value alone, as activation functions do."""
    linear = False
    """Whether it is `act(kernel . x + bias)`, and mints what it puts out."""
    multiplies = False
    """Whether it multiplies tensors axis by axis; `demanded` says of which
    coordinates something depends."""
    is_gate = False
    """Whether it multiplies by factors that the surgeon takes out of the
    model."""
    closes_loop = False
    """Whether what it closes is zero for the recurrent layer before it, too."""
    opens = False
    """Whether its layer is seen through first, and the rule is for where it
    can't be: what it is made of says more."""
    keeps_whole = False
    """Whether its layer stays as it is, whatever is cut around it."""
    writes_again = False
    """Whether it is written out already, so that to write it again costs
    nothing."""
    feeds_back = False
    """Whether what comes out of it is read inside it, whatever is closed
    behind; `exact=False` lets such units go."""

    def composite_of(
        self, op: keras.Operation, calls: Sequence[Call] = ()
    ) -> Composite | None:
        """How a layer is written out before all else, or None.

        Args:
            op: the layer.
            calls: its calls at one place, as far as they are known.
        """
        return None

    @property
    def dissolved(self) -> tuple[str, ...]:
        """The factors in a layer that other weights take in any case.

        What is left is its `base`.
        """
        return ()

    @property
    def packing(self) -> Packing | None:
        """The rule itself, if its layer holds other weights once pruned."""
        return None

    def pick(self, call: Call) -> Rule:
        """The rule for this call, where a class has more than one."""
        return self

    def positions(
        self,
        call: Call,
        over: str,
        in_shape: tuple[int | None, ...],
        out_shape: tuple[int | None, ...],
    ) -> list[int | None]:
        """The axes' sizes over which a weight is used again; see `costs`."""
        shape = tuple(in_shape if over == "in" else out_shape)
        steps: tuple[int | None, ...] = ()
        if over == "step":
            # Only the last state may come out, but each step is computed.
            steps = (in_shape[1],)
            shape = shape[:1] + shape[1 + (len(shape) == len(in_shape)) :]
        channels = self.channels(call, over, len(shape)) % len(shape)
        rest = [s for a, s in enumerate(shape) if a not in (0, channels)]
        return [*steps, *rest]

    def channels(self, call: Call, over: str, rank: int) -> int:
        """The axis of the channels in the tensor that `over` names."""
        return channel_axis(call.op, rank)

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        """The `Flow` of a call on inputs with these labels.

        Args:
            call: the `Call`.
            inputs: the label arrays of its inputs.
            units: the `Units`, to mint, tie and pin.
        """
        raise self._lacking("flow", "every rule says how channels run")

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """A `Known` or None for each output."""
        return [None] * len(call.outputs)

    def reaches(self, call: Call, known: Sequence[Known | None]) -> list[int]:
        """How far each input gets: VALUES, CHOICE or NOTHING of `reach`.

        An output whose data has been closed is useless, although a mask may
        still vary it. What a call of Keras names a mask, a condition or
        indices is a choice; all else counts with its values.

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
        """On which coordinates of an input the outputs depend.

        Asked of rules that are `multiplies`; of others, `Flow` says it.

        Args:
            call: the `Call`.
            flow: its `Flow`.
            index: the number of the input.
            wanted: for each output, which coordinates are demanded; like its
                labels.
            zeros: for each input, which coordinates are zero; like its labels.
        """
        raise self._lacking("demanded", "it is `multiplies`")

    def axes_read(self, call: Call) -> list[int]:
        """The axes of the input that a kernel of it sums over."""
        return [self.axis(call)]

    def compared_axes(self, call: Call) -> list[int]:
        """The axes whose positions it compares, as a softmax over keys does.

        What is along them are no channels, which it would keep whole.
        """
        return []

    def looks_along(self, call: Call) -> list[int] | None:
        """The axes that a move looks at, None for all of them."""
        return None

    def moved(
        self, call: Call, numbers: list[NDArray[np.intp]]
    ) -> list[NDArray[np.intp]]:
        """Where a move puts the numbers of coordinates, for each output."""
        raise self._lacking("moved", "it is `moves`")

    def shared_axes(self, call: Call, index: int) -> list[int]:
        """The axes that an input, others and the output have, as of heads."""
        return []

    def carried_axes(self, call: Call, index: int) -> dict[int, int]:
        """The axes of an input that the output has, and where it has them."""
        return {}

    def met_axes(self, call: Call, index: int, other: int) -> dict[int, int]:
        """The axes of an input that another has, and where that has them."""
        return {}

    def head_axis(self, call: Call, flow: Flow) -> int | None:
        """The axis of the output along which there are heads, or None.

        Asked of rules that are `multiplies`.
        """
        return None

    def reading(self, call: Call) -> Reading:
        """How inputs with known values may be removed.

        Asked of calls that mix (`Flow.mixes`).
        """
        return ZERO

    def reads_all(self, call: Call) -> str:
        """How it reads all of its inputs, where its `reading` is ALL."""
        return "reads all channels together"

    def axis(self, call: Call) -> int:
        """The axis of the channels that the role "in" stands for."""
        return channel_axis(call.op, len(call.inputs[0].shape))

    def axis_read(self, call: Call, flow: Flow) -> int:
        """The axis of the input along which a kernel reads its units."""
        return self.axis(call)

    def contribution(
        self, part: keras.Layer, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What known inputs add to the output, as a bias of its own.

        Asked of rules whose `reading` is BIAS.

        Args:
            part: one of `parts`.
            values: the known inputs along the role "in", 0 for the others.
        """
        raise self._lacking("contribution", "its `reading` is BIAS")

    def with_bias(self, call: Call) -> dict[str, Any]:
        """The change to the config that gives the layer a bias."""
        return {"use_bias": True}

    def without(
        self, constants: dict[int, NDArray[np.float64]], count: int
    ) -> tuple[NDArray[np.float64] | float, NDArray[np.float64] | float] | None:
        """What stands in for operands that are constant, if they can go.

        Asked of rules that are `merging`.

        Args:
            constants: `{index of the operand: its values}`.
            count: how many operands there are.

        Returns:
            `(scale, offset)` for what is left, or None.
        """
        return None

    def factors(
        self, call: Call, rank: int, factor: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The factors of a gate, shaped for a tensor of `rank` axes.

        Args:
            call: the `Call`.
            rank: the number of axes, the batch's included.
            factor: an array like the factors, to be shaped in their place.
        """
        raise self._lacking("factors", "it is a rule for gates")

    def _lacking(self, method: str, why: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} ('{self.kind}') must define `{method}`: "
            f"{why}."
        )

    def merges(self, call: Call) -> bool:
        """Whether known inputs can merge into one of them.

        A linear operation sees a sum of constants: the kernel slice of the
        one that stays becomes the weighted sum of all, at any padding.
        """
        return False

    def guess(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """Like `value`, for what `exact=False` takes for constant."""
        return [None] * len(call.outputs)

    def approximates(self, call: Call) -> bool:
        """Whether `exact=False` may remove what is not quite removable.

        Inputs that are all read, or constants that meet a zero border.
        """
        return False

    def scaling(self, call: Call) -> Scaling | None:
        """How a factor on all inputs comes out; None: in no simple way."""
        return None

    def scaling_but_bias(self, call: Call) -> Scaling | None:
        """As `scaling`, were there no bias.

        A normalization that follows takes the shift by a bias back.
        """
        return self.scaling(call)

    def puts_rim(self, call: Call) -> bool:
        """Whether it puts a rim of its own round its input."""
        return False

    def as_function(
        self, op: keras.Operation | None
    ) -> tuple[Scaling | None, bool] | None:
        """What the operation is where another has it for an activation.

        Args:
            op: the operation; None for any of its class.

        Returns:
            `(how a factor passes, whether it mixes channels)`, or None where
            it is no function of its input alone.
        """
        return None

    def behind(self, call: Call) -> Scaling | None:
        """How a factor on the output passes back to the weights."""
        return LINEAR

    def carries(self, call: Call, index: int) -> Scaling | None:
        """How a factor on input `index` alone comes out."""
        return self.scaling(call)

    def one_takes_all(self, call: Call) -> bool:
        """Whether a factor on the output belongs on one input only."""
        return False

    def takes(self, call: Call, side: str) -> dict[str, str] | None:
        """The weights `{name: role}` that take a factor, or None."""
        return self.scales.get(side)

    def takes_input(
        self, call: Call, flow: Flow, index: int
    ) -> dict[str, str] | None:
        """As `takes`, for a factor on one of the inputs."""
        return self.takes(call, "in") if index == 0 else None

    def absorbed(
        self,
        call: Call,
        part: keras.Layer,
        role: str,
        values: NDArray[np.float64],
    ) -> dict[str, NDArray[np.float64]]:
        """What known inputs add: the name of a bias -> an array like it.

        Args:
            call: the `Call`.
            part: one of `parts`.
            role: that of the inputs.
            values: theirs, `(units,)`, 0 for what does not go.
        """
        return {"bias": self.contribution(part, values)}

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        """Weight name -> roles, for this call."""
        return self.axes

    def parts(self, op: keras.Operation) -> list[keras.Layer]:
        """The layers that hold the weights, each with a name for each.

        The layer itself, unless it keeps them in layers of its own. Parts
        are alike: `axes` holds for each of them.
        """
        return [op]

    def sense(self, call: Call) -> Hashable:
        """Equal for the calls of a layer that do the same with its weights.

        Their inputs and outputs are tied. Where a layer can be called in
        another sense, its rule ties what the two have in common.
        """
        return None

    def holds(self, layer: keras.Layer | None) -> bool:
        """Whether another layer may be what one of this rule became.

        It holds its weights then; `parts` tells how.
        """
        return False

    def sized(self, call: Call) -> bool:
        """Whether the operation itself has a size, for all of its calls."""
        return bool(self.axes_of(call) or self.config)

    def recalls(
        self,
        call: Call,
        flow: Flow,
        demanded: list[NDArray[np.bool_]],
        closed: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.intp] | None:
        """The units inside that the operation itself reads, or None.

        Asked of rules with `inner_units`.

        Args:
            call: the `Call`.
            flow: its `Flow`.
            demanded: for each output, which of its coordinates (an array
                like its labels) something that varies depends on.
            closed: which of the `inner_units` are zero inside, one role after
                the other; a boolean array, or None.
        """
        return None

    def inner_units(self, call: Call) -> tuple[iu.InnerUnits, ...]:
        """The units that are closed inside the layer, if it has any."""
        return ()

    def inner_factors(
        self,
        call: Call,
        flow: Flow,
        kept: Mapping[str, NDArray[np.bool_]],
        closed: NDArray[np.bool_] | None,
    ) -> list[tuple[str, str, NDArray[np.float64]]]:
        """What weights are multiplied by for what is closed inside.

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
            What changes in the config of the layer (or the arguments of the
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
        """Another operation for what is left of this one, or None.

        It gets the arguments that `revise` gives.
        """
        return None

    def writes_out(self, call: Call) -> bool:
        """Whether it becomes other operations, to count what goes.

        Asked of rules whose `reading` is STATISTICS.
        """
        return False

    def signals(
        self, call: Call, constants: NDArray[np.float64]
    ) -> Signals | None:
        """What becomes of constants that it counts, or None.

        Asked of rules whose `reading` is STATISTICS.

        Args:
            call: the `Call`.
            constants: those of its input; float64, `(channels,)`, NaN for
                what varies.
        """
        return None

    def written_macs(self, call: Call, sizes: Sizes) -> int:
        """The multiply-adds of what it becomes where it is written out.

        Args:
            call: the `Call`.
            sizes: the shape of what it reads after the cut.
        """
        return 0

    def rescaled(self, removed: NDArray[np.float64] | None) -> dict[str, float]:
        """What weights are multiplied by, to count what goes.

        Args:
            removed: as `View.removed` gives it of the first input.

        Returns:
            `{weight: number}`.
        """
        return {}

    def along_axis(self, call: Call) -> bool:
        """Whether a gate has a factor for each channel of an axis."""
        return False

    def base(self, op: keras.Operation) -> keras.Operation:
        """What is made again at its final size: the operation itself.

        Or a layer inside it, where what is round that goes in any case.
        """
        return op

    def source(self, call: Call) -> Source | None:
        """The `Source` of factors that thresholds may close, or None."""
        return None

    def zeroed(self, call: Call) -> dict[str, str]:
        """`{weight: role}` of the weights that are zero where it is closed."""
        source = self.source(call)
        return {} if source is None else source.zeroed

    def shut(
        self,
        call: Call,
        flow: Flow,
        value: Known | None,
        mask: NDArray[np.bool_],
    ) -> Known | None:
        """The output's `Known` when the factors in `mask` are zero.

        `value` is what is known of it with all factors as they are.
        """
        return value

    def opened_by(self, call: Call, flow: Flow) -> NDArray[np.intp] | None:
        """Which factors of its `source` let each coordinate through.

        Returns:
            Places among the flattened factors, shaped like the labels of the
            output with one more axis: a coordinate varies if one of them is
            open. None where no factor closes any.
        """
        return None

    def missing(self, call: Call) -> list[str]:
        """Weights of the layer that this rule does not label."""
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

    A weight that its layer gives no name goes by the attribute in `names`
    that holds it.
    """
    attributes = {id(getattr(part, name, None)): name for name in names}
    return [
        (w.name if w.name in names else attributes.get(id(w), w.name), w)
        for w in part.weights
    ]


def along_role(
    vector: NDArray[Entry], role: str, roles: Sequence[str | None], rank: int
) -> NDArray[Entry]:
    """A vector as an array that varies along the axis of a role.

    Args:
        vector: `(size,)`.
        role: the role of its axis.
        roles: those of the last axes of a weight, in order.
        rank: the number of the weight's axes.
    """
    shape = [1] * rank
    shape[rank - len(roles) + roles.index(role)] = -1
    return vector.reshape(shape)


def barrier(
    call: Call, inputs: list[NDArray[np.intp]], units: Units, reason: str
) -> Flow:
    """Pin every input whole; the outputs carry nothing to remove."""
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
    """The sources of a one-input rule; further inputs are kept whole."""
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
    """Keeps what goes in whole, for a reason that is told."""

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
    """Why an operation without a rule is kept, and what to do about it."""
    op, opaque = call.op, call.site.opaque
    name = type(op).__name__
    seen = f", and it can't be seen through: {opaque}" if opaque else ""
    if isinstance(op, keras.layers.Lambda):
        return (
            f"a {name} may compute anything{seen}; write it with keras.ops, "
            "or as a layer class of your own for keras_gates.surgeon.register"
        )
    return (
        f"no rule for {name}{seen}; keras_gates.surgeon.register can give it "
        "one"
    )


def run(
    function: Callable[[Any], Any], array: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Apply a Keras function to a float array, in NumPy and out."""
    return as_float64(function(keras.ops.convert_to_tensor(array, "float32")))


def channel_axis(op: keras.Operation, rank: int) -> int:
    """The axis of the channels of a layer that has a `data_format`."""
    layout = getattr(op, "data_format", "channels_last")
    layout = layout or keras.config.image_data_format()
    return 1 if layout == "channels_first" else rank - 1


def common_channel_axis(calls: Iterable[Call], rank: int) -> int:
    """As the first of some calls has it whose layer has a `data_format`."""
    laid = (call.op for call in calls if hasattr(call.op, "data_format"))
    return channel_axis(next(laid, None), rank)


def operands(call: Call) -> list[Any]:
    """The tensors and constants that a call combines, in order."""
    if isinstance(call.op, keras.Layer):
        return list(call.inputs)
    return [*call.args, *call.kwargs.values()]


def axes_among(axis: Any, rank: int) -> list[int]:
    """An argument `axis` as a list of axes, none negative; None for all.

    It may be a number, a list, a tuple, or an array of NumPy or a backend.
    """
    if axis is None:
        return list(range(rank))
    if not isinstance(axis, (int, tuple, list, np.ndarray)):
        axis = keras.ops.convert_to_numpy(axis)
    return [int(a) % rank for a in np.atleast_1d(axis)]


def one_axis(
    labels: NDArray[np.intp], axis: int, shape: tuple[int | None, ...]
) -> NDArray[np.intp] | None:
    """Units along `axis` if they are all that varies, else None.

    None as well where the axis is longer than its labels: a tensor that
    is fixed there has no unit for each channel.
    """
    ids = lb.along(labels, axis)
    if ids is None or (len(ids) != shape[axis]):
        return None
    return ids
