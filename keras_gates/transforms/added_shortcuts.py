"""Finds and drops the shortcuts that `insert_gates` added."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.gates.added_shortcuts import added
from keras_gates.surgeon.gates.added_shortcuts import without_open
from keras_gates.surgeon.plan import plan

if TYPE_CHECKING:
    from keras_gates.surgeon.closing.options import Thresholds


@dataclasses.dataclass(frozen=True)
class AddedShortcut:
    """A shortcut that `insert_gates` added.

    Attributes:
        gate: path of the gate it belongs to.
        add: path of the `Add` layer in which it ends.
    """

    gate: str
    add: str


def added_shortcuts(model: keras.Model) -> list[AddedShortcut]:
    """The shortcuts that `insert_gates` added to a model.

    The config of its gate says that the shortcut was added, so they are found
    after saving and cloning, too.

    Args:
        model: A built functional model.

    Returns:
        A list of `AddedShortcut`, in the order of the model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, or has no recorded graph.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.plain_resnet(8)
    >>> gated = kg.transforms.insert_gates(model, layers=True, mismatch="skip")
    >>> kg.transforms.added_shortcuts(gated)[0].gate
    'stage1_block1_conv1_layer_gate'
    """
    found = added(see_through.read(model))
    return [AddedShortcut(gate.path, add.path) for add, gate, _ in found]


def drop_shortcuts(
    model: keras.Model, thresholds: Thresholds, **options: Any
) -> keras.Model:
    """Remove the added shortcuts of gates that stay open.

    `h = factor * f(h_in) + h_in` becomes `h = factor * f(h_in)`, which is the
    authors' last step. This changes the function, and requires fine-tuning,
    with one exception: a shortcut of `start="same"`, the default, has no effect
    while the factor is 1. Closed gates keep theirs, since it is all that
    remains of the layer. `prune(..., drop_shortcuts=True)` does this and
    prunes.

    Reference:

    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623), section 5.4

    Args:
        model: A functional model with gates, from `insert_gates`.
        thresholds: As in `surgeon.plan`.
        **options: `keep_at_least`, `round_to`, `exact` as in `surgeon.plan`.

    Returns:
        A new model with all of its gates; a copy if there are no added
        shortcuts.

    Raises:
        TypeError, ValueError: As `surgeon.plan`.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.plain_resnet(8)
    >>> gated = kg.insert_gates(model, layers=True)
    >>> len(kg.transforms.added_shortcuts(gated))
    7
    >>> bare = kg.transforms.drop_shortcuts(gated, thresholds=0.5)
    >>> kg.transforms.added_shortcuts(bare)
    []
    """
    decided = plan(model, thresholds, **options)
    closed = {name for name, indices in decided.closed.items() if indices}
    return without_open(model, closed)
