"""The convolutions of a model that can have a shortcut."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import layers

from keras_gates import _tables
from keras_gates.graphs import graph as gr
from keras_gates.graphs import patterns
from keras_gates.graphs.configs import config_of
from keras_gates.layers import stock
from keras_gates.layers.resconv.res_conv import ResConv
from keras_gates.surgeon.gates import see_through
from keras_gates.transforms.fusing.wiring import Wiring
from keras_gates.transforms.fusing.wiring import shared_layers

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.patterns import Patterns

_KINDS = (*stock.CONVOLUTIONS, *stock.DEPTHWISE)
_OTHERS = (
    *(layers.Conv3D, layers.SeparableConv1D, layers.SeparableConv2D),
    *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution:
    """One convolution of a model.

    Attributes:
        name: its path in the model.
        site: its recorded call.
        norm: the recorded call of its batch normalization, or None.
        arguments: the arguments of its `ResConv`.
        shortcut: the kind of its shortcut, or None.
        reason: why it has none, or None.
    """

    name: str
    site: gr.Site
    norm: gr.Site | None = None
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    shortcut: str | None = None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Convolutions:
    """The result of `find_convolutions`; `print` shows it as a table.

    Attributes:
        model: name of the model.
        found: a `Convolution` for each convolution of the model.
    """

    model: str
    found: list[Convolution]

    @property
    def converted(self) -> list[Convolution]:
        return [x for x in self.found if x.reason is None]

    @property
    def left_out(self) -> list[Convolution]:
        return [x for x in self.found if x.reason is not None]

    def __str__(self) -> str:
        rows = [
            (
                x.name,
                type(x.site.op).__name__,
                x.norm.name if x.norm else "",
                x.shortcut or "",
                x.reason or "",
            )
            for x in self.found
        ]
        head = ("name", "layer", "with", "shortcut", "left out because")
        return f"Model '{self.model}'\n\n{_tables.text(head, rows)}"


def find_convolutions(
    model: keras.Model, include: Patterns = None, exclude: Patterns = None
) -> Convolutions:
    """Find the convolutions that `to_resconv` converts, and why not others.

    Args:
        model: A built functional or Sequential model.
        include: As in `to_resconv`.
        exclude: As in `to_resconv`.

    Returns:
        A `Convolutions`.

    Raises:
        TypeError: If a pattern is neither a name, a layer nor a class.
        ValueError: If a pattern fits no convolution, or the model has no
            recorded graph.

    Example:
    >>> import keras_gates as kg
    >>> found = kg.transforms.find_convolutions(kg.zoo.plain_resnet(8))
    >>> [(x.name, x.shortcut) for x in found.found][:2]
    [('conv1', 'conv'), ('stage1_block1_conv1', 'identity')]
    """
    graph = see_through.read_to_write(model)
    return read_convolutions(graph, include, exclude)


def read_convolutions(
    graph: Graph, include: Patterns = None, exclude: Patterns = None
) -> Convolutions:
    """The `Convolutions` of a `Graph`."""
    patterns.check(include, "include")
    patterns.check(exclude, "exclude")
    graphs = [graph, *graph.nested()]
    shared = shared_layers(graphs)
    found = []
    for each in graphs:
        wiring = Wiring(each, shared)
        for site in each.sites:
            if isinstance(site.op, (*_KINDS, *_OTHERS)) and site.calls:
                found.append(_judged(site, wiring, include, exclude))
    # A convolution that can't be converted may be named: the table says why.
    choices = [patterns.Choice(x.name, x.site.calls) for x in found]
    patterns.chosen(graph, choices, "convolutions", include, exclude)
    return Convolutions(graph.model.name, found)


def _judged(
    site: Site, wiring: Wiring, include: Patterns, exclude: Patterns
) -> Convolution:
    name = site.calls[0].path
    reason = _why_not(site, wiring, include, exclude)
    if reason is not None:
        return Convolution(name, site, reason=reason)
    norm = _normalization(site, wiring)
    arguments = _arguments(site, norm)
    try:
        trial = ResConv(**arguments)
        trial.build(tuple(site.node.input_tensors[0].shape))
    except ValueError as error:
        return Convolution(name, site, reason=str(error))
    return Convolution(name, site, norm, arguments, trial.shortcut_kind)


def _why_not(
    site: Site, wiring: Wiring, include: Patterns, exclude: Patterns
) -> str | None:
    op = site.op
    left = include is not None and not patterns.matches(include, site.calls)
    if left or patterns.matches(exclude, site.calls):
        return "it was not asked for"
    if gr.has_own_call(op):
        return "its `call` has been replaced on the object"
    if type(op) not in _KINDS:
        return f"a {type(op).__name__} and its shortcut are no one layer"
    if id(op) in wiring.shared:
        return "it is called at several places"
    if len(op.weights) > 1 + op.use_bias:
        return "it has weights beside its kernel and bias"
    return _norm_in_the_way(site, wiring)


def _norm_in_the_way(site: Site, wiring: Wiring) -> str | None:
    """Why a following normalization would divide `m` out again, or None."""
    if site.op.activation is not keras.activations.linear:
        return None
    readers = wiring.readers(site.node.outputs[0])
    norms = [r for r in readers if isinstance(r.op, layers.BatchNormalization)]
    if not norms or _normalization(site, wiring) is not None:
        return None
    return (
        f"batch normalization '{norms[0].name}' after it is shared, or not "
        "the only one to read it, or normalizes in another way"
    )


def _normalization(site: Site, wiring: Wiring) -> Site | None:
    """The batch normalization that belongs to a convolution, or None."""
    after = wiring.after(site)
    plain = site.op.activation is keras.activations.linear
    if after is None or not plain:
        return None
    if type(after.op) is not layers.BatchNormalization:
        return None
    rank = len(site.node.outputs[0].shape)
    first = site.op.data_format == "channels_first"
    fits = after.op.axis % rank == (1 if first else rank - 1)
    given = after.node.arguments
    training = [*given.args[1:2], given.kwargs.get("training")]
    alone = len(after.node.input_tensors) == 1 and True not in training
    alike = after.op.dtype_policy.name == site.op.dtype_policy.name
    return after if fits and alone and alike else None


def _arguments(site: Site, norm: Site | None) -> dict[str, Any]:
    """The arguments of the `ResConv` that a convolution becomes."""
    config = {
        key.replace("depthwise_", "kernel_"): value
        for key, value in config_of(site.op).items()
    }
    multiplier = config.pop("depth_multiplier", None)
    if multiplier is not None:
        tensor = site.node.input_tensors[0]
        first = site.op.data_format == "channels_first"
        config["groups"] = tensor.shape[1 if first else -1]
        config["filters"] = config["groups"] * multiplier
    arguments = {key: config[key] for key in _TAKEN if key in config}
    arguments["batch_norm"] = False
    if norm is not None:
        given = config_of(norm.op)
        arguments["batch_norm"] = {
            key: value for key, value in given.items() if key not in _OWN
        }
    return arguments


# The config keys that a ResConv takes from a convolution, and those that it
# does not take from a batch normalization.
_TAKEN = (
    *("name", "dtype", "filters", "kernel_size", "strides", "padding"),
    *("data_format", "dilation_rate", "groups", "activation", "use_bias"),
    *("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    *("bias_initializer", "bias_regularizer", "bias_constraint"),
    "activity_regularizer",
)
_OWN = ("name", "dtype", "trainable", "axis")
