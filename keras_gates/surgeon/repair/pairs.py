"""Which layers, calls, and channels of a model a smaller one has kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import keras

from keras_gates.graphs import private
from keras_gates.surgeon.build.weight_map import Cut
from keras_gates.surgeon.build.weight_map import cuts_of
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.repair.held import Held

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.solving.solve import Solution


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """A model, a smaller one, and what of the first is in the second.

    Attributes:
        old: the graph of the model.
        new: that of the smaller one.
        calls: call of a layer in `new` -> the call in `old` that it was.
        cuts: id of a weight of the smaller model -> its `Cut`.
        holds: whose weights the variables in `old` and in `new` are.
    """

    old: Graph
    new: Graph
    calls: dict[Call, Call]
    cuts: dict[int, Cut]
    holds: tuple[Held, Held]

    @classmethod
    def of_solution(cls, solution: Solution, pruned: keras.Model) -> Pairs:
        """Those of what `rebuild` made of a solution."""
        decision = solution.decision
        steps = decision.labelling.steps
        kept = [
            step.call
            for step in steps
            if step.position is None and step in decision.present
        ]
        new = see_through.read(pruned)
        cuts = cuts_of(decision, solution.folds, pruned)
        holds = Held(solution.graph), Held(new)
        return cls(solution.graph, new, matched(kept, new), cuts, holds)

    def cut(self, new: keras.Variable, old: keras.Variable) -> Cut | None:
        """How a variable in `new` was cut out of one in `old`.

        None if it was not, or not along the axes of `old`.
        """
        before, now = self.holds
        found = self.cuts.get(id(now.original(new)))
        if found is None or found.old is not before.original(old):
            return None
        sizes = [
            len(found.positions.get(axis, range(size)))
            for axis, size in enumerate(old.shape)
        ]
        return found if sizes == list(new.shape) else None

    def after(self, first: Pairs) -> Pairs:
        """From the model that `self.old` was made of, in a cut before.

        Args:
            first: the pairs of that cut.
        """
        # The graph of the model in between was read once more: the calls of
        # a layer are the same ones, in the same order.
        between = _by_path(first.new.calls)
        numbers = {
            call: (path, number)
            for path, calls in _by_path(self.old.calls).items()
            for number, call in enumerate(calls)
        }
        calls: dict[Call, Call] = {}
        for new, old in self.calls.items():
            path, number = numbers[old]
            middle = between.get(path, [])[number : number + 1]
            calls.update(
                (new, first.calls[c]) for c in middle if c in first.calls
            )
        both = {
            weight: first.cuts[id(cut.old)].then(cut)
            for weight, cut in self.cuts.items()
            if id(cut.old) in first.cuts
        }
        cuts = {weight: cut for weight, cut in both.items() if cut is not None}
        holds = first.holds[0], self.holds[1]
        return Pairs(first.old, self.new, calls, cuts, holds)


def matched(kept: Iterable[Call], new: Graph) -> dict[Call, Call]:
    """Calls of a new model -> those of the old one that they were.

    Those of one layer follow each other as before.

    Args:
        kept: the calls of the old model that are still there.
        new: the `Graph` of the new model.
    """
    olds, news = _by_path(kept), _by_path(new.calls)
    calls: dict[Call, Call] = {}
    for path, made in news.items():
        before = olds.get(path, [])
        if len(before) == len(made):
            made = sorted(made, key=_when)
            calls.update(zip(made, before, strict=True))
    return calls


def _by_path(calls: Iterable[Call]) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for call in calls:
        if isinstance(call.op, keras.Layer):
            found.setdefault(call.path, []).append(call)
    return found


def _when(call: Call) -> tuple[int, ...]:
    """When a call was made, among those of its layer."""
    sites = [*(scope.site for scope in call.scopes), call.site]
    outputs = [site.node.outputs[0] for site in sites]
    return tuple(private.origin_of(kt)[1] for kt in outputs)
