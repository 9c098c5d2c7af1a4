"""Every assumption about Keras that its documentation does not guarantee.

Each function here relies on one thing inside Keras, and says on which after
"Assumes". Nothing else in the package reads a private attribute of Keras or
imports `keras.src`. `tests/keras_internals` has a test for each name: where a
new Keras breaks an assumption, the test that fails leads to the line to mend.
"""

from keras_gates.graphs.private.classes import SAVEABLE
from keras_gates.graphs.private.classes import TRACKER
from keras_gates.graphs.private.classes import layer_class
from keras_gates.graphs.private.classes import names_in_methods
from keras_gates.graphs.private.classes import operation
from keras_gates.graphs.private.classes import operation_of
from keras_gates.graphs.private.classes import returns_its_input
from keras_gates.graphs.private.keras2 import cause_of
from keras_gates.graphs.private.keras2 import keras2_has_graph
from keras_gates.graphs.private.keras2 import keras2_nodes_of
from keras_gates.graphs.private.keras2 import keras2_structures_of
from keras_gates.graphs.private.layers import added_by
from keras_gates.graphs.private.layers import attention_projection
from keras_gates.graphs.private.layers import attributes_of
from keras_gates.graphs.private.layers import copy_trainable
from keras_gates.graphs.private.layers import has_sublayers
from keras_gates.graphs.private.layers import known_output
from keras_gates.graphs.private.layers import lambda_shape_of
from keras_gates.graphs.private.layers import overheard
from keras_gates.graphs.private.layers import rebuild_at_init
from keras_gates.graphs.private.layers import recorded_config
from keras_gates.graphs.private.layers import rename
from keras_gates.graphs.private.layers import set_on
from keras_gates.graphs.private.layers import sublayers
from keras_gates.graphs.private.looking_in import Watch
from keras_gates.graphs.private.looking_in import computing
from keras_gates.graphs.private.looking_in import default_of_training
from keras_gates.graphs.private.looking_in import input_conversion
from keras_gates.graphs.private.looking_in import operation_names
from keras_gates.graphs.private.looking_in import read_dtype
from keras_gates.graphs.private.looking_in import takes_training
from keras_gates.graphs.private.looking_in import told
from keras_gates.graphs.private.looking_in import watching
from keras_gates.graphs.private.masks import hands_mask_on
from keras_gates.graphs.private.masks import mask_arguments
from keras_gates.graphs.private.masks import mask_of
from keras_gates.graphs.private.masks import merges_masks
from keras_gates.graphs.private.masks import set_mask
from keras_gates.graphs.private.recording import RECORDS_ANY_CALL
from keras_gates.graphs.private.recording import any_activation_recorded
from keras_gates.graphs.private.recording import any_call_recorded
from keras_gates.graphs.private.recording import any_key_recorded
from keras_gates.graphs.private.recording import attributes_kept
from keras_gates.graphs.private.recording import attributes_set
from keras_gates.graphs.private.recording import made_of
from keras_gates.graphs.private.recording import readers_of
from keras_gates.graphs.private.recording import recorded_before
from keras_gates.graphs.private.recording import symbolic_call_set
from keras_gates.graphs.private.records import Node
from keras_gates.graphs.private.records import building
from keras_gates.graphs.private.records import calls_of
from keras_gates.graphs.private.records import graph_of
from keras_gates.graphs.private.records import init_functional
from keras_gates.graphs.private.records import mark_called
from keras_gates.graphs.private.records import nodes_of
from keras_gates.graphs.private.records import origin_of
from keras_gates.graphs.private.records import other_loop
from keras_gates.graphs.private.records import record
from keras_gates.graphs.private.records import runs_its_graph
from keras_gates.graphs.private.records import structures_of
from keras_gates.graphs.private.tables import AUTO_CONFIG
from keras_gates.graphs.private.tables import INNER_LAYERS
from keras_gates.graphs.private.tables import KEPT_AS
from keras_gates.graphs.private.tables import OF_CALLS
from keras_gates.graphs.private.tables import OF_FIT
from keras_gates.graphs.private.tables import OF_FUNCTION
from keras_gates.graphs.private.tables import OF_GRAPHS
from keras_gates.graphs.private.tables import OF_SETTING
from keras_gates.graphs.private.tables import OF_TORCH
from keras_gates.graphs.private.tables import OF_TRAINING
from keras_gates.graphs.private.tables import OF_VARIABLES
from keras_gates.graphs.private.tables import common_names
from keras_gates.graphs.private.tables import is_of_tensorflow
from keras_gates.graphs.private.tables import unwrapped
from keras_gates.graphs.private.trackers import Unwrapped
from keras_gates.graphs.private.trackers import books_without
from keras_gates.graphs.private.trackers import container_tracker
from keras_gates.graphs.private.trackers import find_parameters
from keras_gates.graphs.private.trackers import rewrapped
from keras_gates.graphs.private.trackers import set_found
from keras_gates.graphs.private.trackers import start_tracking
from keras_gates.graphs.private.trackers import state_of
from keras_gates.graphs.private.trackers import stores_of
from keras_gates.graphs.private.trackers import tracked
from keras_gates.graphs.private.trackers import tracker_of
from keras_gates.graphs.private.trackers import tracker_state
from keras_gates.graphs.private.trackers import uncompiled
from keras_gates.graphs.private.training import autocasts
from keras_gates.graphs.private.training import batches_of
from keras_gates.graphs.private.training import drop_bias
from keras_gates.graphs.private.training import give_bias
from keras_gates.graphs.private.training import loss_weights_of
from keras_gates.graphs.private.training import raw_value
from keras_gates.graphs.private.training import slots_of
from keras_gates.graphs.private.training import trained_by

__all__ = [
    "AUTO_CONFIG",
    "INNER_LAYERS",
    "KEPT_AS",
    "Node",
    "OF_CALLS",
    "OF_FIT",
    "OF_FUNCTION",
    "OF_GRAPHS",
    "OF_SETTING",
    "OF_TORCH",
    "OF_TRAINING",
    "OF_VARIABLES",
    "RECORDS_ANY_CALL",
    "SAVEABLE",
    "TRACKER",
    "Unwrapped",
    "Watch",
    "added_by",
    "any_activation_recorded",
    "any_call_recorded",
    "any_key_recorded",
    "attention_projection",
    "attributes_kept",
    "attributes_of",
    "attributes_set",
    "autocasts",
    "batches_of",
    "books_without",
    "building",
    "calls_of",
    "cause_of",
    "common_names",
    "computing",
    "container_tracker",
    "copy_trainable",
    "default_of_training",
    "drop_bias",
    "find_parameters",
    "give_bias",
    "graph_of",
    "hands_mask_on",
    "has_sublayers",
    "init_functional",
    "input_conversion",
    "is_of_tensorflow",
    "keras2_has_graph",
    "keras2_nodes_of",
    "keras2_structures_of",
    "known_output",
    "lambda_shape_of",
    "layer_class",
    "loss_weights_of",
    "made_of",
    "mark_called",
    "mask_arguments",
    "mask_of",
    "merges_masks",
    "names_in_methods",
    "nodes_of",
    "operation",
    "operation_names",
    "operation_of",
    "origin_of",
    "other_loop",
    "overheard",
    "raw_value",
    "read_dtype",
    "readers_of",
    "rebuild_at_init",
    "record",
    "recorded_before",
    "recorded_config",
    "rename",
    "returns_its_input",
    "rewrapped",
    "runs_its_graph",
    "set_found",
    "set_mask",
    "set_on",
    "slots_of",
    "start_tracking",
    "state_of",
    "stores_of",
    "structures_of",
    "sublayers",
    "symbolic_call_set",
    "takes_training",
    "told",
    "tracked",
    "tracker_of",
    "tracker_state",
    "trained_by",
    "uncompiled",
    "unwrapped",
    "watching",
]
