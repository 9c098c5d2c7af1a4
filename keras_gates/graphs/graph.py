"""The names through which the rest of the package reads models.

`read` turns a built Keras model into a `Graph`: a flat list of calls, with
nested models written out. The parts: `calls` is the data, `reading` makes it,
`functional` tells what needs no reading.
"""

from __future__ import annotations

from keras_gates.graphs.calls import Call
from keras_gates.graphs.calls import Graph
from keras_gates.graphs.calls import Scope
from keras_gates.graphs.calls import Site
from keras_gates.graphs.calls import Tensor
from keras_gates.graphs.calls import replace
from keras_gates.graphs.functional import carry_mask
from keras_gates.graphs.functional import finds_mask
from keras_gates.graphs.functional import functional_of
from keras_gates.graphs.functional import has_own_call
from keras_gates.graphs.functional import input_layer
from keras_gates.graphs.functional import is_functional
from keras_gates.graphs.functional import maker
from keras_gates.graphs.functional import masked_outputs
from keras_gates.graphs.functional import named_operation
from keras_gates.graphs.functional import own_weights
from keras_gates.graphs.functional import struct_of
from keras_gates.graphs.functional import structures
from keras_gates.graphs.opened import Opaque
from keras_gates.graphs.opened import Opened
from keras_gates.graphs.opened import SeeThrough
from keras_gates.graphs.opened import Whole
from keras_gates.graphs.own_variables import own_variables
from keras_gates.graphs.private import layer_class
from keras_gates.graphs.private import nodes_of
from keras_gates.graphs.private import operation
from keras_gates.graphs.private import operation_of
from keras_gates.graphs.private import other_loop
from keras_gates.graphs.private import recorded_before
from keras_gates.graphs.reading import finds
from keras_gates.graphs.reading import read

__all__ = [
    "Call",
    "Graph",
    "Opaque",
    "Opened",
    "SeeThrough",
    "Scope",
    "Site",
    "Tensor",
    "Whole",
    "carry_mask",
    "finds",
    "finds_mask",
    "functional_of",
    "has_own_call",
    "input_layer",
    "is_functional",
    "layer_class",
    "maker",
    "masked_outputs",
    "named_operation",
    "nodes_of",
    "operation",
    "operation_of",
    "other_loop",
    "own_variables",
    "own_weights",
    "read",
    "recorded_before",
    "replace",
    "struct_of",
    "structures",
]
