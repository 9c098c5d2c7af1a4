"""Rules: what the surgeon knows of each layer and operation."""

from keras_gates.graphs import time_axis as _time_axis
from keras_gates.layers.resconv.res_conv import ResConv as _ResConv
from keras_gates.layers.stripconv.strip_conv import StripConv as _StripConv
from keras_gates.surgeon.rules import gates as _gates
from keras_gates.surgeon.rules import strip_conv as _strip_conv
from keras_gates.surgeon.rules import tables as _tables
from keras_gates.surgeon.rules import time_distributed as _time_distributed
from keras_gates.surgeon.rules import virtual as _virtual
from keras_gates.surgeon.rules.composite import Composite
from keras_gates.surgeon.rules.elementwise import Elementwise
from keras_gates.surgeon.rules.linear import Linear
from keras_gates.surgeon.rules.per_channel import PerChannel
from keras_gates.surgeon.rules.registry import include_subclasses
from keras_gates.surgeon.rules.registry import register
from keras_gates.surgeon.rules.registry import registered
from keras_gates.surgeon.rules.registry import rule_of
from keras_gates.surgeon.rules.registry import table
from keras_gates.surgeon.rules.rule import Rule

_tables.fill()
for _gate in _gates.GATES:
    register(_gate, _gates.GATE)
    include_subclasses(_gate, _gates.OF_FACTOR)
register(_StripConv, _strip_conv.STRIP_CONV)
register(
    _ResConv,
    Composite(
        expand=lambda layer, x, made: layer.expand(x, made),
        shares=True,
        gate=lambda layer: ("layer", layer.m),
    ),
)
register(_virtual.VirtualGate, _virtual.VIRTUAL)
register(_time_axis.FoldTime, _time_distributed.FOLD)
register(_time_axis.UnfoldTime, _time_distributed.UNFOLD)

__all__ = [
    "Composite",
    "Elementwise",
    "Linear",
    "PerChannel",
    "Rule",
    "register",
    "registered",
    "rule_of",
    "table",
]
