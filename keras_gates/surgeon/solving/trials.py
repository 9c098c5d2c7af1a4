"""What all solutions of a graph have in common."""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates import loops
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.passes.label import constants
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.passes.label import outputs_of

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.gates.groups import Group
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.passes.label import StepKey
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.source import Source

# How many labellings are kept, which differ in what gathers there are; and how
# many outcomes of a step. Searches go back and forth between few of them.
_LABELLINGS, _OUTCOMES = 4, 4


class Trials:
    """Remembers what trials of one graph have in common.

    Labels follow from the graph and from which gathers there are. What is
    known of a tensor follows from a step, what is known of its inputs, and
    what is closed of its layer; most of that is as it was in a trial before.

    It is for a search: while it is used, nothing is put into the graph, and
    no weight changes.

    Args:
        graph: the `Graph`, with all virtual gates that it is to have.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._labellings: dict[frozenset[StepKey], Labelling] = {}
        self._outcomes: dict[frozenset[StepKey], _Outcomes] = {}

    @functools.cached_property
    def gates(self) -> Mapping[str, Group | Source]:
        """The gates and groups of the graph, by name."""
        return gates_of(self.graph)

    @functools.cached_property
    def _loops(self) -> IdentityDict[keras.Operation, keras.Operation]:
        """By recurrent layer, the gate that closes it from inside."""
        return loops.gated(self.graph)

    def by_layer(
        self, closed: Mapping[str, NDArray[np.bool_]]
    ) -> IdentityDict[keras.Operation, NDArray[np.bool_]]:
        """The closed factors by what is in the graph for them."""
        graph = self.graph
        own: IdentityDict[keras.Operation, NDArray[np.bool_]] = IdentityDict(
            (self.gates[name].layer, mask)
            for name, mask in closed.items()
            if name not in graph.groups
        )
        for op, mask in groups.masks(graph, closed).items():
            before = own.get(op)
            if before is not None:
                # Factors of a gate inside a layer, and scores of other units.
                mask[: before.size] |= before.reshape(-1)
            own[op] = mask
        for layer, gate in self._loops.items():
            if gate in own:
                before = own.get(layer)
                mask = own[gate]
                own[layer] = mask if before is None else mask | before
        return own

    def labelling(self, uncut: frozenset[StepKey]) -> Labelling:
        """The `Labelling` without these gathers."""
        found = self._labellings.pop(uncut, None)
        if found is None:
            found = label(self.graph, uncut)
        self._labellings[uncut] = found  # the last one used comes last
        while len(self._labellings) > _LABELLINGS:
            oldest = next(iter(self._labellings))
            del self._labellings[oldest]
            self._outcomes.pop(oldest, None)
        return found

    def constants(
        self,
        uncut: frozenset[StepKey],
        closed: IdentityDict[keras.Operation, NDArray[np.bool_]],
        exact: bool,
    ) -> dict[Tensor, Known]:
        """As `label.constants`, of the labelling without these gathers."""
        labelling = self.labelling(uncut)
        outcomes = self._outcomes.setdefault(uncut, _Outcomes())
        return constants(labelling, closed, exact, outcomes.of)


class _Outcome(NamedTuple):
    """What came of a step."""

    inputs: Sequence[Known | None]
    shut: bytes | None
    exact: bool
    outputs: list[Known | None]


class _Outcomes:
    """What is known of the outputs of steps, for the inputs of late."""

    def __init__(self) -> None:
        self._known: dict[Step, collections.deque[_Outcome]] = {}

    def of(
        self,
        step: Step,
        inputs: Sequence[Known | None],
        shut: NDArray[np.bool_] | None,
        exact: bool,
    ) -> list[Known | None]:
        """As `label.outputs_of`.

        What is equal is the same object, so that what follows is found by
        looking at its inputs' identity.
        """
        closed = None if shut is None else shut.tobytes()
        recent = self._known.setdefault(
            step, collections.deque(maxlen=_OUTCOMES)
        )
        for each in recent:
            pairs = zip(each.inputs, inputs, strict=True)
            same = each.shut == closed and each.exact == exact
            if same and all(a is b for a, b in pairs):
                return each.outputs
        outputs = outputs_of(step, inputs, shut, exact)
        for each in recent:
            pairs = zip(each.outputs, outputs, strict=True)
            if all(_equal(a, b) for a, b in pairs):
                outputs = each.outputs
                break
        recent.appendleft(_Outcome(inputs, closed, exact, outputs))
        return outputs


def _equal(value: Known | None, other: Known | None) -> bool:
    if value is None or other is None:
        return value is other
    return (
        value.border == other.border
        and value.guess == other.guess
        and value.values.shape == other.values.shape
        and value.values.tobytes() == other.values.tobytes()
    )
