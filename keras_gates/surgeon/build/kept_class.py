"""Finds a smaller config of the same class, and checks what it makes.

It replaces the smaller parts only if every weight has exactly the required
shape, and if it computes the same on sample inputs: with its weights, with
others, and again when it is created from its own config.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import classes
from keras_gates.graphs import configs
from keras_gates.graphs import graph as gr
from keras_gates.graphs import private
from keras_gates.graphs import sampled
from keras_gates.graphs.attribute_paths import Path
from keras_gates.graphs.attribute_paths import parts_of
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.variables import copy_seeds
from keras_gates.graphs.variables import values_of
from keras_gates.surgeon.build import config_sizes as cs
from keras_gates.surgeon.build.config_search import ConfigSearch
from keras_gates.surgeon.build.smaller import NotKept
from keras_gates.surgeon.build.smaller import build_like
from keras_gates.surgeon.build.smaller import differences
from keras_gates.surgeon.build.smaller import known_classes
from keras_gates.surgeon.build.smaller import weight_shapes

if TYPE_CHECKING:
    from keras_gates.graphs.copies import Copies
    from keras_gates.surgeon.build.config_sizes import Config
    from keras_gates.surgeon.build.part_weights import Wanted
    from keras_gates.surgeon.build.smaller import Edits
    from keras_gates.surgeon.build.smaller import Smaller

    # What searches have found, by what they looked for.
    Found: TypeAlias = dict[Any, Edits | NotKept]


class KeptClasses:
    """Finds smaller configs; equal layers are searched once.

    It is for one solution, in which a layer becomes one other.

    Args:
        copies: makes the copies of layers.
        found: what was found before; what is found now is added.
    """

    def __init__(self, copies: Copies, found: Found | None = None) -> None:
        self.copies = copies
        self._found: Found = {} if found is None else found
        # What came of each layer, by whether recorded arguments would do.
        self._of_layer: IdentityDict[keras.Layer, dict[bool, Edits | NotKept]]
        self._of_layer = IdentityDict()

    def edits(self, smaller: Smaller, recorded: bool = False) -> Edits:
        """The changes to the config that make the layer smaller.

        Args:
            smaller: what the layer is to be.
            recorded: whether a layer that can't be made from a config of its
                own, which no file can hold, may be made of the arguments that
                it was given.

        Raises:
            NotKept: there are none.
        """
        known = self._of_layer.setdefault(smaller.layer, {})
        if recorded not in known:
            try:
                known[recorded] = self._searched(smaller, recorded)
            except NotKept as error:
                known[recorded] = NotKept(*error.args)
        return _raised(known[recorded])

    def _searched(self, smaller: Smaller, recorded: bool) -> Edits:
        """The changes, searched for if those of no equal layer are known."""
        layer = smaller.layer
        config = cs.own_config(layer, recorded)
        if config is None:
            raise NotKept(f"{type(layer).__name__} has no config")
        search = ConfigSearch(smaller, config)
        key = search.key
        if key not in self._found:
            try:
                self._found[key] = search.edits()
            except NotKept as error:
                self._found[key] = NotKept(*error.args)
        edits = _raised(self._found[key])
        self.check(smaller, edits, recorded)
        return edits

    def made(self, smaller: Smaller, edits: Edits) -> keras.Layer:
        """The smaller layer, built, with its weights.

        Raises:
            NotKept: it can't be made, or has other weights.
        """
        layer = smaller.layer
        config = cs.own_config(layer, recorded=True) or {}
        try:
            with known_classes(layer):
                new = self._made(layer, cs.changes(config, edits))
                _name_parts(layer, new)
                build_like(new, smaller)
        except NotKept:
            raise
        except Exception as error:
            raise NotKept(f"it can't be made again: {error}") from error
        _flag_parts(layer, new)
        _assign(new, smaller.weights)
        with contextlib.suppress(ValueError):  # it has no such states
            copy_seeds(layer, new)
        if not isinstance(layer, keras.Model):
            self.copies.finish(layer, new)
        return new

    def _made(self, layer: keras.Layer, changes: Config) -> Any:
        """A layer from its config, with what that forgets."""
        if not gr.is_functional(layer):
            return self.copies.make(layer, changes)
        base, new = configs.from_configs(layer, {}, changes)
        lost = set(classes.set_otherwise(layer, base))
        if lost:  # but for what no two models have alike, as ids
            (again,) = configs.from_configs(layer, {})
            lost -= set(classes.set_otherwise(base, again))
        if lost:
            raise NotKept(
                f"its config does not hold its {', '.join(sorted(lost))}"
            )
        classes.carry_beside(layer, new)
        return new

    def check(
        self, smaller: Smaller, edits: Edits, recorded: bool = False
    ) -> None:
        """Compare a smaller layer with its parts.

        Args:
            smaller: what the layer is to be.
            edits: the changes to its config.
            recorded: as in `edits`.

        Raises:
            NotKept: it computes something else.
        """
        told = _told(edits)
        new = self.made(smaller, edits)
        if not same(new, smaller):
            raise NotKept(f"{told} it computes something else")
        _check_shapes(new, smaller, told)
        if edits and not (recorded and not _reloads(smaller.layer)):
            self._check_reloaded(new, smaller, told)
        with other_weights(new, smaller.weights):
            if not same(new, smaller):
                raise NotKept(
                    f"{told} it computes something else where its weights are "
                    "others"
                )

    def _check_reloaded(
        self, new: keras.Layer, smaller: Smaller, told: str
    ) -> None:
        name = type(new).__name__
        try:
            with known_classes(new):
                again = type(new).from_config(new.get_config())
                build_like(again, smaller)
            _assign(again, smaller.weights)
        except Exception as error:
            raise NotKept(
                f"{told} a {name} can't be made from its own config"
            ) from error
        if not same(again, smaller):
            raise NotKept(
                f"{told} the config of {name} does not determine everything "
                "that it computes"
            )


def _check_shapes(new: keras.Layer, smaller: Smaller, told: str) -> None:
    """Compare the shapes that Keras infers, on which other layers are built.

    They may hold an old size where all values are right: `output_shape` of a
    Lambda does, and a `compute_output_shape` of the user's may.
    """
    outputs = keras.tree.flatten(build_like(new, smaller))
    for kt, wanted in zip(outputs, smaller.model.outputs, strict=True):
        if len(kt.shape) != len(wanted.shape) or any(
            None not in (a, b) and a != b
            for a, b in zip(kt.shape, wanted.shape, strict=True)
        ):
            raise NotKept(
                f"{told} Keras infers an output of the shape {kt.shape}, not "
                f"{wanted.shape}"
            )


def _raised(found: Edits | NotKept) -> Edits:
    """What was found, or the error, without the frames that it was raised in.

    These hold the layers that were made on the way.
    """
    if isinstance(found, NotKept):
        raise NotKept(*found.args)
    return found


def _reloads(layer: keras.Layer) -> bool:
    """Whether a layer can be made from the config that it tells."""
    try:
        with known_classes(layer):
            type(layer).from_config(layer.get_config())
    except Exception:  # the class may raise anything
        return False
    return True


def edited(layer: keras.Layer, edits: Edits) -> dict[Path, tuple[Any, Any]]:
    """What becomes of the keys of a layer's config, `(old, new)` by path."""
    config = cs.own_config(layer, recorded=True) or {}
    return {
        path: (cs.value_at(config, path), new) for path, new in edits.items()
    }


def _name_parts(old: keras.Layer, new: keras.Layer) -> None:
    """Give the layers inside the names that they had."""
    parts = parts_of(old).layers
    for path, layer in parts_of(new).layers.items():
        if path in parts and not layer.built:
            layer.name = parts[path].name


def _flag_parts(old: keras.Layer, new: keras.Layer) -> None:
    """Let the same parts be trained as before."""
    parts = parts_of(old)
    made = parts_of(new)
    for path, layer in made.layers.items():
        if path in parts.layers:
            private.copy_trainable(parts.layers[path], layer)
    for path, variable in made.variables.items():
        if path in parts.variables:
            variable.trainable = parts.variables[path].trainable


def _assign(new: keras.Layer, weights: Mapping[Path, Wanted]) -> None:
    """Give a layer its weights.

    Raises:
        NotKept: it has others.
    """
    found = parts_of(new).variables
    shapes = {path: each.shape for path, each in weights.items()}
    if differences(weight_shapes(new), shapes):
        raise NotKept("its weights have other shapes")
    for path, wanted in weights.items():
        found[path].assign(wanted.values())


def same(
    new: keras.Layer, smaller: Smaller, near: float = sampled.NEAR
) -> bool:
    """Whether both ran and returned the same.

    Args:
        new: the layer or model.
        smaller: what it is to be.
        near: as in `sampled.compared`.
    """
    given = smaller.args, smaller.kwargs
    inputs = smaller.model.inputs
    some = isinstance(smaller.layer, keras.Model)
    told = sampled.compared(new, given, smaller.model, inputs, some, near)
    return told is sampled.Likeness.ALIKE


@contextlib.contextmanager
def other_weights(
    new: keras.Layer, weights: Mapping[Path, Wanted]
) -> Iterator[None]:
    """Within, a layer and the parts that it stands for have other weights.

    Where a kernel is zero, the sizes that a layer computes with don't show.
    Those that are positive, as variances are, stay so.
    """
    random = np.random.default_rng(0)
    found = parts_of(new).variables
    before: list[tuple[keras.Variable, NDArray[Any]]] = []
    done: set[int] = set()
    try:
        for path, wanted in weights.items():
            values = values_of(wanted.variable)
            floats = keras.backend.is_float_dtype(wanted.variable.dtype)
            if wanted.fixed or not floats or id(wanted.variable) in done:
                continue
            done.add(id(wanted.variable))
            before.append((wanted.variable, values))
            before.append((found[path], values_of(found[path])))
            draws = random.random((2, *values.shape))
            other = values * (1 + 0.2 * draws[0]) + 0.1 * draws[1]
            wanted.variable.assign(other.astype(values.dtype))
            wanted.settle()
            found[path].assign(wanted.values())
        yield
    finally:
        for variable, values in before:
            variable.assign(values)


def _told(edits: Edits) -> str:
    """The changes, in words."""
    if not edits:
        return "with its config unchanged"
    pairs = (
        f"{'.'.join(map(str, path))}={new!r}" for path, new in edits.items()
    )
    return f"with {', '.join(pairs)}"
