"""The parameters and multiply-adds of one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple
from typing import TypeAlias

import keras

from keras_gates import _documents
from keras_gates import _tables
from keras_gates.graphs import graph as gr
from keras_gates.graphs.shapes import shapes_of
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.rules import costs
from keras_gates.surgeon.rules import rule_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor

# The sizes of the inputs of a model, without the batch axis.
InputShape: TypeAlias = (
    tuple[int, ...] | list[tuple[int, ...]] | dict[str, tuple[int, ...]] | None
)

UNIT = "1 MAC = one multiply-add of a kernel, for one sample"
_HEAD = ("layer", "type", "parameters", "MACs", "")
NOTE = f"{UNIT}; biases, normalization, activations and gates are not counted."


@dataclasses.dataclass
class Layer:
    """One layer of a `Count`.

    Attributes:
        name: path of the layer, from the outermost model.
        type: its class.
        params: entries of its weights, without those shared with a layer above
            it in the table.
        trainable: how many of them are trainable.
        macs: multiply-adds for one sample, over all calls of the layer;
            `None` where they are unknown.
        calls: how often the model calls it.
    """

    name: str
    type: str
    params: int
    trainable: int
    macs: int | None
    calls: int = 1


@dataclasses.dataclass(frozen=True)
class Count:
    """The result of `count`; `print` shows it as a table.

    Attributes:
        model: name of the model.
        layers: a `Layer` for each layer with weights or multiply-adds, and
            for each operation whose multiply-adds are unknown.
        params: all parameters, as in `model.count_params()`.
        trainable: the trainable ones, which most papers count.
        macs: multiply-adds for one sample of all layers that are known.
        unknown: names of the layers whose multiply-adds are not known.
    """

    model: str
    layers: tuple[Layer, ...]

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @property
    def trainable(self) -> int:
        return sum(layer.trainable for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(x.name for x in self.layers if x.macs is None)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        return {
            "model": self.model,
            "unit": UNIT,
            "params": self.params,
            "trainable": self.trainable,
            "macs": self.macs,
            "unknown": list(self.unknown),
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }

    def _rows(self) -> list[tuple[_tables.Cell, ...]]:
        rows: list[tuple[_tables.Cell, ...]] = [
            (x.name, x.type, x.params, x.macs, _times(x.calls))
            for x in self.layers
        ]
        return [*rows, ("total", "", self.params, self.macs, "")]

    def _notes(self) -> list[str]:
        trainable = f"{self.trainable:,} of the parameters are trainable."
        return [trainable, NOTE, *unknown_macs(self.unknown)]

    def __str__(self) -> str:
        table = _tables.text(_HEAD, self._rows())
        return "\n".join(
            [f"Model '{self.model}'", "", table, "", *self._notes()]
        )

    def _repr_html_(self) -> str:
        section = _documents.Section("", _HEAD, self._rows(), self._notes())
        return _documents.fragment(
            _documents.Document(f"Model '{self.model}'", [], [section])
        )


def count(model: keras.Model, input_shape: InputShape = None) -> Count:
    """Count the parameters and multiply-adds of a model, layer by layer.

    The unit is one multiply-add (MAC) of a kernel, for one sample, or of two
    tensors that are multiplied, as in attention; biases, normalization,
    activations and gates are not counted. The weights of a
    shared layer count once, its MACs at each call. A layer without a rule has
    unknown MACs: it is listed in `unknown`, and not included in the sum.

    Args:
        model: A built functional or Sequential `keras.Model`. Nested ones
            are counted layer by layer.
        input_shape: Sizes for inputs with unknown sizes, without the batch
            axis: a tuple, or for several inputs a list of tuples or a dict of
            them by the inputs' names. Defaults to `None`, the sizes of the
            model.

    Returns:
        A `Count`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is subclassed or not built, if the MACs of
            a layer depend on a size that is unknown, or if `input_shape`
            does not fit the model.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((28, 28, 1)),
    ...         keras.layers.Conv2D(20, 5, name="conv"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...         keras.layers.Dense(10, name="logits"),
    ...     ],
    ...     name="small",
    ... )
    >>> print(kg.stats.count(model))
    Model 'small'
    <BLANKLINE>
    layer   type    parameters     MACs
    ------  ------  ----------  -------
    conv    Conv2D         520  288,000
    logits  Dense          210      200
    total                  730  288,200
    <BLANKLINE>
    730 of the parameters are trainable.
    1 MAC = one multiply-add of a kernel, for one sample; ...
    """
    subclassed = isinstance(model, keras.Model) and not isinstance(
        model, keras.Sequential
    )
    if subclassed and not gr.is_functional(model):
        raise ValueError(
            f"The MACs of model '{model.name}' (of type "
            f"{type(model).__name__}) can't be counted: it is subclassed, so "
            "it has no recorded graph. Expected: a functional or Sequential "
            "model, as `keras_gates.functional(model, x)` makes one; for its "
            "parameters alone call `model.count_params()`."
        )
    graph = see_through.read(model)
    shapes = shapes_of(graph, input_shape)
    variables = gr.own_variables(graph)
    # By id: a user's layer may compare by value and be unhashable.
    rows: dict[int, Layer] = {}
    seen: set[int] = set()
    for call in graph.calls:
        macs = _macs(call, shapes)
        row = rows.get(id(call.op))
        if row is None:
            size = _size(_own_weights(call, variables), seen)
            kind = type(call.op).__name__
            rows[id(call.op)] = Layer(call.path, kind, *size, macs)
            continue
        row.calls += 1
        if macs is not None:
            row.macs = (row.macs or 0) + macs
    counted = [x for x in rows.values() if x.params or x.macs != 0]
    return Count(model.name, (*counted, *_rest(graph, seen)))


def _macs(
    call: Call, shapes: dict[Tensor, tuple[int | None, ...]]
) -> int | None:
    weights = costs.weight_shapes(call.op)
    return costs.call_macs(call, rule_of(call), weights, shapes)


def _own_weights(
    call: Call, variables: dict[int, keras.Variable]
) -> list[keras.Variable]:
    """The weights of the user's layer, of which `call` may hold a copy.

    Without a user's layer, they are constants.
    """
    weights = gr.own_weights(call.op)
    if not any(scope.site.opened for scope in call.scopes):
        return weights
    return [variables[id(w)] for w in weights if id(w) in variables]


def _rest(graph: Graph, seen: set[int]) -> list[Layer]:
    """Rows for weights that belong to no call: of layers, and of the model."""
    found: list[tuple[str, keras.Layer]] = []
    for call in graph.calls:
        names = [scope.site.name for scope in call.scopes]
        found += [
            ("/".join(names[:depth]), scope.site.own)
            for depth, scope in enumerate(call.scopes, 1)
            if scope.site.opened is not None
        ]
    rows = []
    for name, layer in [*found, (graph.model.name, graph.model)]:
        size = _size(layer.weights, seen)
        rows += [Layer(name, type(layer).__name__, *size, 0)] * any(size)
    return rows


class _Size(NamedTuple):
    """The number of parameters of some weights."""

    params: int
    trainable: int


def _size(weights: list[keras.Variable], seen: set[int]) -> _Size:
    """The number for weights whose ids are not in `seen`, which is updated."""
    fresh = {id(w): w for w in weights if id(w) not in seen}
    seen.update(fresh)
    every = [(w.name, w.shape) for w in fresh.values()]
    tuned = [(w.name, w.shape) for w in fresh.values() if w.trainable]
    return _Size(costs.parameters(every), costs.parameters(tuned))


def _times(calls: int) -> str:
    return f"{calls} calls" if calls > 1 else ""


def unknown_macs(unknown: Iterable[str]) -> list[str]:
    """The line that names the layers a total leaves out, if any."""
    names = ", ".join(f"'{name}'" for name in unknown)
    if not names:
        return []
    return [f"MACs unknown, and not in the total (no rule): {names}."]
