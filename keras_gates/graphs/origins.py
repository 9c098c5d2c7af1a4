"""Remembers the class of a model whose constructor creates its layers.

A model with gates in it can't be of such a class: the constructor makes no
gates. It remembers what it was made of, and so do models made of it; once the
gates are gone, it may be of that class again.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

NAME = "_made_of"


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """A class, and the config that a model of it told.

    Attributes:
        cls: the class.
        config: the config.
        weights: how many weights it had.
        parts: for the new name of a layer that was in a layer of the model,
            the names that led to it.
    """

    cls: type[keras.Model]
    config: dict[str, Any]
    weights: int
    parts: Mapping[str, tuple[str, ...]] = dataclasses.field(
        default_factory=dict
    )


def origin_of(model: keras.Model) -> Origin | None:
    """What a model was made of, if it remembers."""
    found: Origin | None = vars(model).get(NAME)
    return found


def remember(old: keras.Model, new: keras.Model) -> None:
    """Let a model remember the class of the one that it is made of.

    Args:
        old: a model of a class whose constructor makes its layers.
        new: a functional model, of another class.
    """
    try:
        config = copy.deepcopy(old.get_config())
    except Exception:  # whatever a class without a config says
        return
    _set(new, Origin(type(old), config, len(old.weights)))


def hand_on(old: keras.Model, new: keras.Model) -> None:
    """Let a model remember what another one does."""
    found = origin_of(old)
    if found is not None:
        _set(new, found)


def note_parts(
    model: keras.Model, parts: Mapping[str, tuple[str, ...]]
) -> None:
    """Let a model remember which layers were in others; as `Origin.parts`."""
    found = origin_of(model)
    if found is not None and parts:
        both = {**found.parts, **parts}
        _set(model, dataclasses.replace(found, parts=both))


def _set(model: keras.Model, origin: Origin) -> None:
    # Past the trackers: it holds nothing of the model, and no file has it.
    object.__setattr__(model, NAME, origin)
