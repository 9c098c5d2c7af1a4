"""Rules: what the surgeon knows about each layer and operation.

It exports everything that a rule for a custom layer needs; the page "Extending"
of the docs shows how to write one.
"""

from keras_gates.graphs import time_axis as _time_axis
from keras_gates.graphs.graph import Call
from keras_gates.graphs.graph import Tensor
from keras_gates.layers.gated_attention import GatedAttention as _GatedAttention
from keras_gates.layers.gated_recurrent import GatedRecurrent as _GatedRecurrent
from keras_gates.layers.loop_gate import LoopGate as _LoopGate
from keras_gates.layers.resconv.res_conv import ResConv as _ResConv
from keras_gates.layers.stripconv.strip_conv import StripConv as _StripConv
from keras_gates.surgeon.labels import Units
from keras_gates.surgeon.labels import along
from keras_gates.surgeon.labels import fixed
from keras_gates.surgeon.labels import varying
from keras_gates.surgeon.labels import vector
from keras_gates.surgeon.rules import gated_attention as _gated_attention
from keras_gates.surgeon.rules import gated_recurrent as _gated_recurrent
from keras_gates.surgeon.rules import gates as _gates
from keras_gates.surgeon.rules import strip_conv as _strip_conv
from keras_gates.surgeon.rules import tables as _tables
from keras_gates.surgeon.rules import time_distributed as _time_distributed
from keras_gates.surgeon.rules import virtual as _virtual
from keras_gates.surgeon.rules import written_again as _written_again
from keras_gates.surgeon.rules.composite import Composite
from keras_gates.surgeon.rules.elementwise import Elementwise
from keras_gates.surgeon.rules.index import Index
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.known import channel_values
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.linear import Linear
from keras_gates.surgeon.rules.merge import Merge
from keras_gates.surgeon.rules.modes import Identity
from keras_gates.surgeon.rules.modes import Reach
from keras_gates.surgeon.rules.modes import Reading
from keras_gates.surgeon.rules.modes import Scaling
from keras_gates.surgeon.rules.packing import Packing
from keras_gates.surgeon.rules.per_channel import PerChannel
from keras_gates.surgeon.rules.reach import CHOICE
from keras_gates.surgeon.rules.reach import NOTHING
from keras_gates.surgeon.rules.reach import VALUES
from keras_gates.surgeon.rules.registry import include_subclasses
from keras_gates.surgeon.rules.registry import recognize as _recognize
from keras_gates.surgeon.rules.registry import register
from keras_gates.surgeon.rules.registry import registered
from keras_gates.surgeon.rules.registry import rule_of
from keras_gates.surgeon.rules.registry import table
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import BIAS
from keras_gates.surgeon.rules.rule import IDENTITY
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import channel_axis
from keras_gates.surgeon.rules.rule import one_axis
from keras_gates.surgeon.rules.rule import weight
from keras_gates.surgeon.rules.source import Source
from keras_gates.surgeon.rules.spatial import Spatial
from keras_gates.surgeon.rules.view import View

_tables.fill()
_recognize(_written_again.written)
for _gate in _gates.GATES:
    register(_gate, _gates.GATE)
    include_subclasses(_gate, _gates.OF_FACTOR)
register(_GatedAttention, _gated_attention.GATED_ATTENTION)
register(_StripConv, _strip_conv.STRIP_CONV)
register(
    _ResConv,
    Composite(
        expand=lambda layer, x, made: layer.expand(x, made),
        shares=True,
        gate=lambda layer: ("layer", layer.m),
    ),
)
register(_GatedRecurrent, _gated_recurrent.GATED_RECURRENT)
register(_LoopGate, _gated_recurrent.LOOP_GATE)
register(_virtual.VirtualGate, _virtual.VIRTUAL)
register(_time_axis.FoldTime, _time_distributed.FOLD)
register(_time_axis.UnfoldTime, _time_distributed.UNFOLD)

__all__ = [
    # Rules, from ready-made ones to those written from scratch.
    "Elementwise",
    "PerChannel",
    "Linear",
    "Spatial",
    "Index",
    "Merge",
    "Composite",
    "Barrier",
    "Rule",
    "Packing",
    # What rules receive and return.
    "Call",
    "Tensor",
    "Units",
    "View",
    "Flow",
    "Known",
    "Source",
    "Identity",
    "IDENTITY",
    "Reading",
    "ALL",
    "ZERO",
    "BIAS",
    "Scaling",
    "LINEAR",
    "POSITIVE",
    "PRESERVES_ZERO",
    "Reach",
    "VALUES",
    "CHOICE",
    "NOTHING",
    # Helpers: of calls and weights, of labels, of known values.
    "barrier",
    "channel_axis",
    "one_axis",
    "weight",
    "along",
    "fixed",
    "varying",
    "vector",
    "channel_values",
    "known",
    # The registry.
    "register",
    "registered",
    "rule_of",
    "table",
]
