"""Finds a smaller config of the same class, by trial.

A class does not say which keys of its config hold sizes. Candidates are
changed, the layer is created, and the shapes of its weights show the effect. It
replaces the smaller parts only if every weight has exactly the required shape,
and if it computes the same on sample inputs: with its weights, with others, and
again when it is created from its own config.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from keras_gates.graphs.variables import copy_seeds
from keras_gates.graphs.variables import values_of
from keras_gates.surgeon.build import config_sizes as cs

if TYPE_CHECKING:
    from keras_gates.graphs.copies import Copies
    from keras_gates.surgeon.build.config_sizes import Config
    from keras_gates.surgeon.build.part_weights import Wanted

# Path of a config key -> its new value.
Edits: TypeAlias = Mapping[Path, Any]
Shapes: TypeAlias = dict[Path, tuple[int, ...]]
# How many layers are made in search of a config: so many, fewer if much is in
# them, and not fewer than the last.
_TRIALS, _LAYERS, _FEWEST = 64, 1024, 6
# A number is no size if so many others in its place change no shape.
_IDLE = 2


class NotKept(Exception):
    """The class of a layer can't be kept; the message is a clause."""


@dataclasses.dataclass(frozen=True, eq=False)
class Smaller:
    """What a user's layer class is to be.

    Attributes:
        layer: the layer, or model, as it is.
        args: the positional arguments of its call, with symbolic tensors.
        kwargs: those by keyword.
        model: a model of its parts at their final sizes, of the tensors among
            the arguments.
        weights: by path, what its weights are to be.
    """

    layer: keras.Layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    model: keras.Model
    weights: Mapping[Path, Wanted]

    @property
    def shapes(self) -> Shapes:
        """The shapes of the weights by path."""
        return {path: each.shape for path, each in self.weights.items()}


class KeptClasses:
    """Finds smaller configs; equal layers are searched once.

    Args:
        copies: makes the copies of layers.
    """

    def __init__(self, copies: Copies) -> None:
        self.copies = copies
        self._found: dict[Any, Edits | NotKept] = {}

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
        layer = smaller.layer
        config = cs.own_config(layer, recorded)
        if config is None:
            raise NotKept(f"{type(layer).__name__} has no config")
        search = _Search(smaller, config)
        key = search.key
        if key not in self._found:
            try:
                self._found[key] = search.edits()
            except NotKept as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, NotKept):
            raise found
        self.check(smaller, found, recorded)
        return found

    def made(self, smaller: Smaller, edits: Edits) -> keras.Layer:
        """The smaller layer, built, with its weights.

        Raises:
            NotKept: it can't be made, or has other weights.
        """
        layer = smaller.layer
        config = cs.own_config(layer, recorded=True) or {}
        try:
            with _known_classes(layer):
                new = self._made(layer, cs.changes(config, edits))
                _name_parts(layer, new)
                _build(new, smaller)
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
            with _known_classes(new):
                again = type(new).from_config(new.get_config())
                _build(again, smaller)
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


def _reloads(layer: keras.Layer) -> bool:
    """Whether a layer can be made from the config that it tells."""
    try:
        with _known_classes(layer):
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


class _Search:
    """The search for the config of one layer.

    Args:
        smaller: what the layer is to be.
        config: the config that it tells.
    """

    def __init__(self, smaller: Smaller, config: Config) -> None:
        self.smaller = smaller
        self.layer = smaller.layer
        self.config = config
        self.numbers = cs.numbers(config)
        self.switches = cs.switches(self.layer, config)
        self.wanted = smaller.shapes
        self.before: Shapes = _shapes(smaller.layer)
        pairs = [
            pair
            for path, shape in self.wanted.items()
            if shape != self.before.get(path)
            for pair in zip(self.before.get(path, ()), shape, strict=False)
        ]
        self.resized = [(a, b) for a, b in dict.fromkeys(pairs) if a != b]
        # Of weights that change, those that do not, and parts of those that do.
        steady = [a for a, b in pairs if a == b]
        counts = {n for n in self.numbers.values() if type(n) is int and n > 1}
        parts = [a // n for a, _ in self.resized for n in counts if a % n == 0]
        self.steady = [*dict.fromkeys(steady + parts)]
        self.trials = 0
        inside = len(private.sublayers(self.layer, own=True))
        self.limit = max(_FEWEST, min(_TRIALS, _LAYERS // inside))
        self.made: dict[Any, Shapes | None] = {}
        self.nearest: set[tuple[Path, int]] | None = None

    @property
    def key(self) -> Any:
        """Equal for layers that have the same search."""
        inputs = [tuple(kt.shape) for kt in self.smaller.model.inputs]
        numbers, switches = [*self.numbers.items()], [*self.switches.items()]
        shapes = [*self.before.items()], [*self.wanted.items()]
        return type(self.layer), repr((inputs, numbers, switches, shapes))

    def edits(self) -> Edits:
        """The changes to the config.

        Raises:
            NotKept: there are none, or too many were tried.
        """
        starts: list[Edits] = [{}]
        self.nearest = _differences(self.before, self.wanted)
        if self.wanted.keys() != self.before.keys():
            # A gate has gone, or a bias come.
            starts = [{path: value} for path, value in self.switches.items()]
        for start in starts:
            found = self._at_once(start)
            found = self._one_by_one(start) if found is None else found
            if found is not None:
                return found
        for start in self._settled():
            found = self._one_by_one(start)
            if found is not None:
                return found
        raise NotKept(self._reason())

    def _settled(self) -> Iterator[Edits]:
        """Sizes that follow from others, told as they are.

        That of a head, say, which is by default the width by the number.
        """
        self.trials = 0
        as_it_is = _differences(self.before, self.wanted)
        for path in cs.unset(self.config):
            for size in self.steady:
                start = {path: size}
                if self._wrong(start) == as_it_is:
                    yield start

    def _at_once(self, start: Edits) -> Edits | None:
        """Change all numbers that are an old size; leave out what need not."""
        if self._wrong(start) == set():
            return start
        sizes = dict(self.resized)
        whole = {
            path: sizes[value]
            for path, value in self.numbers.items()
            if type(value) is int and value in sizes
        }
        edits = {**start, **whole}
        if not whole or self._wrong(edits) != set():
            return None
        for path in whole if len(whole) > 1 else ():
            fewer = {k: v for k, v in edits.items() if k != path}
            if self._wrong(fewer) == set():
                edits = fewer
        return edits

    def _one_by_one(self, start: Edits) -> Edits | None:
        """Change a number where more shapes are right for it, and none less."""
        edits, wrong = start, self._wrong(start)
        trials = {
            path: cs.proposals(value, self.resized)
            for path, value in self.numbers.items()
        }
        changed = True
        while changed and self.trials < self.limit:
            changed = False
            for path, numbers in trials.items():
                better = None
                if path not in edits:
                    better = self._better(edits, wrong, path, numbers)
                if better is not None:
                    edits, wrong, changed = *better, True
            if wrong == set():
                return edits
        return None

    def _better(
        self,
        edits: Edits,
        wrong: set[tuple[Path, int]] | None,
        path: Path,
        numbers: list[int | float],
    ) -> tuple[Edits, set[tuple[Path, int]]] | None:
        """The edits with one more number changed, if that is better."""
        before, idle = self._shapes(edits), 0
        for new in numbers:
            tried = {**edits, path: new}
            left = self._wrong(tried)
            if left is not None and (wrong is None or left < wrong):
                return tried, left
            idle += left is not None and self._shapes(tried) == before
            if idle == _IDLE:
                break
        return None

    def _wrong(self, edits: Edits) -> set[tuple[Path, int]] | None:
        """The axes of weights that have other sizes than those asked for.

        None if no layer can be made so.
        """
        got = self._shapes(edits)
        if got is None:
            return None
        wrong = _differences(got, self.wanted)
        if self.nearest is None or len(wrong) < len(self.nearest):
            self.nearest = wrong
        return wrong

    def _shapes(self, edits: Edits) -> Shapes | None:
        """The shapes of the weights of a layer that is made so, if one can."""
        key = frozenset((path, repr(new)) for path, new in edits.items())
        if key not in self.made:
            self.trials += 1
            if self.trials > self.limit:
                return None
            self.made[key] = self._tried(edits)
        return self.made[key]

    def _tried(self, edits: Edits) -> Shapes | None:
        try:
            # A config may hold layers, of which not every one can be copied.
            changes = cs.changes(self.config, edits)
            with _known_classes(self.layer):
                (new,) = configs.from_configs(self.layer, changes)
                _build(new, self.smaller)
        except Exception:  # the class may raise anything for such a config
            return None
        return _shapes(new)

    def _reason(self) -> str:
        """Why nothing was found."""
        odd = self.nearest or {((), -1)}
        unlike = [path for path, axis in odd if axis < 0]
        path = min(unlike or [path for path, _ in odd], key=repr)
        name = "/".join(str(key).strip("_") for key in path)
        if path not in self.wanted:
            return f"no change of its config leaves out `{name}`"
        if path not in self.before:
            return f"no change of its config adds `{name}`"
        return (
            f"no change of the sizes in its config makes `{name}` "
            f"{self.wanted[path]}"
        )


def _shapes(layer: keras.Layer) -> Shapes:
    found = parts_of(layer).variables
    return {path: tuple(x.shape) for path, x in found.items()}


def _differences(got: Shapes, wanted: Shapes) -> set[tuple[Path, int]]:
    """The axes that differ, -1 for all of them, by path."""
    wrong = {(path, -1) for path in got.keys() ^ wanted.keys()}
    for path in got.keys() & wanted.keys():
        if len(got[path]) != len(wanted[path]):
            wrong.add((path, -1))
            continue
        pairs = zip(got[path], wanted[path], strict=True)
        wrong |= {(path, axis) for axis, (a, b) in enumerate(pairs) if a != b}
    return wrong


def _known_classes(
    layer: keras.Layer,
) -> contextlib.AbstractContextManager[Any]:
    """Within, configs may speak of the classes of what a layer holds."""
    classes = {type(x) for x in private.sublayers(layer, own=True)}
    scope: contextlib.AbstractContextManager[Any]
    scope = keras.saving.custom_object_scope({c.__name__: c for c in classes})
    return scope


def _build(new: keras.Operation, smaller: Smaller) -> None:
    """Call a layer on symbolic inputs like those that it is to be called on."""
    inputs = [
        keras.Input(batch_shape=kt.shape, dtype=kt.dtype)
        for kt in smaller.model.inputs
    ]
    args, kwargs = sampled.filled((smaller.args, smaller.kwargs), inputs)
    new(*args, **kwargs)


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
    if _differences(_shapes(new), shapes):
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
