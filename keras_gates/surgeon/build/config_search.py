"""Searches for the config of a smaller layer, by trial.

A class does not say which keys of its config hold sizes. Candidates are
changed, the layer is created, and the shapes of its weights show the effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

from keras_gates.graphs import configs
from keras_gates.graphs import private
from keras_gates.graphs.attribute_paths import Path
from keras_gates.surgeon.build import config_sizes as cs
from keras_gates.surgeon.build.smaller import NotKept
from keras_gates.surgeon.build.smaller import build_like
from keras_gates.surgeon.build.smaller import differences
from keras_gates.surgeon.build.smaller import known_classes
from keras_gates.surgeon.build.smaller import weight_shapes

if TYPE_CHECKING:
    from keras_gates.surgeon.build.config_sizes import Config
    from keras_gates.surgeon.build.smaller import Edits
    from keras_gates.surgeon.build.smaller import Shapes
    from keras_gates.surgeon.build.smaller import Smaller

# How many layers are made in search of a config: so many, fewer if much is in
# them, and not fewer than the last.
_TRIALS, _LAYERS, _FEWEST = 64, 1024, 6
# A number is no size if so many others in its place change no shape.
_IDLE = 2


class ConfigSearch:
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
        self.before: Shapes = weight_shapes(smaller.layer)
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
        self.nearest = differences(self.before, self.wanted)
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
        as_it_is = differences(self.before, self.wanted)
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
        before, idle = self._shapes_with(edits), 0
        for new in numbers:
            tried = {**edits, path: new}
            left = self._wrong(tried)
            if left is not None and (wrong is None or left < wrong):
                return tried, left
            idle += left is not None and self._shapes_with(tried) == before
            if idle == _IDLE:
                break
        return None

    def _wrong(self, edits: Edits) -> set[tuple[Path, int]] | None:
        """The axes of weights that have other sizes than those asked for.

        None if no layer can be made so.
        """
        got = self._shapes_with(edits)
        if got is None:
            return None
        wrong = differences(got, self.wanted)
        if self.nearest is None or len(wrong) < len(self.nearest):
            self.nearest = wrong
        return wrong

    def _shapes_with(self, edits: Edits) -> Shapes | None:
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
            with known_classes(self.layer):
                (new,) = configs.from_configs(self.layer, changes)
                build_like(new, self.smaller)
        except Exception:  # the class may raise anything for such a config
            return None
        return weight_shapes(new)

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
