"""Transforms: a new model from a model, with the weights kept."""

from __future__ import annotations

from keras_gates.transforms.added_shortcuts import AddedShortcut
from keras_gates.transforms.added_shortcuts import added_shortcuts
from keras_gates.transforms.added_shortcuts import drop_shortcuts
from keras_gates.transforms.binarize import binarize
from keras_gates.transforms.drop_betas import drop_betas
from keras_gates.transforms.finding.convolutions import Convolutions
from keras_gates.transforms.finding.convolutions import find_convolutions
from keras_gates.transforms.finding.structure import Structure
from keras_gates.transforms.finding.structure import find_structure
from keras_gates.transforms.functional import functional
from keras_gates.transforms.fuse import fuse
from keras_gates.transforms.gating.spec import GateSpec
from keras_gates.transforms.insert_gates import insert_gates
from keras_gates.transforms.normalize_gammas import normalize_gammas
from keras_gates.transforms.separate_shortcuts import separate_shortcuts
from keras_gates.transforms.simplify_selections import simplify_selections
from keras_gates.transforms.slim import slim
from keras_gates.transforms.to_dense import to_dense
from keras_gates.transforms.to_resconv import to_resconv
from keras_gates.transforms.to_stripconv import to_stripconv

__all__ = [
    "AddedShortcut",
    "Convolutions",
    "GateSpec",
    "Structure",
    "added_shortcuts",
    "binarize",
    "drop_betas",
    "drop_shortcuts",
    "find_convolutions",
    "find_structure",
    "functional",
    "fuse",
    "insert_gates",
    "normalize_gammas",
    "separate_shortcuts",
    "simplify_selections",
    "slim",
    "to_dense",
    "to_resconv",
    "to_stripconv",
]
