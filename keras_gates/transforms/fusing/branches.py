"""Linear branches that are added, and one convolution for them all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

from keras import layers

from keras_gates.graphs import graph as gr
from keras_gates.transforms.fusing import edits as ed
from keras_gates.transforms.fusing import forms
from keras_gates.transforms.fusing import linear

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.transforms.fusing.wiring import Wiring


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """A way from a tensor to an operand of an addition.

    Attributes:
        source: the tensor that it starts from.
        form: what it computes.
        sites: its calls, in order.
    """

    source: object
    form: linear.Linear
    sites: tuple = ()

    @property
    def base(self) -> Any:
        """Its convolution, if nothing but padding is in front, or None."""
        for site in self.sites:
            if forms.is_kernel(site):
                return site
            if not forms.is_padding(site):
                return None
        return None


def find(
    graph: Graph, wiring: Wiring, edits: dict[Any, Any], batch_norm: bool
) -> None:
    """Add the edits that merge the branches of a graph's additions."""
    for site in graph.sites:
        if id(site) not in edits and _adds(site):
            _merge(site, wiring, edits)


def _adds(site: Site) -> bool:
    """Whether a call adds tensors of one shape, and nothing else."""
    shapes = {tuple(kt.shape) for kt in site.node.input_tensors}
    several = len(site.node.input_tensors) > 1
    add = (layers.Add, gr.operation("numpy.Add"))
    return type(site.op) in add and several and len(shapes) == 1


def _merge(site: Any, wiring: Any, edits: Any) -> None:
    operands = site.node.input_tensors
    for rank, axis in forms.layouts(operands[0].shape):
        ways = [
            {id(b.source): b for b in _branches(kt, wiring, edits, rank, axis)}
            for kt in operands
        ]
        for source in ways[0]:
            parallel = [way[source] for way in ways if source in way]
            merged = len(parallel) == len(ways) and _sum(parallel)
            if not merged:
                continue
            base, form = merged
            for branch in parallel:
                edits.update({id(s): ed.passed for s in branch.sites})
            # The padding in front of the convolution stays.
            for kept in base.sites[: base.sites.index(base.base)]:
                del edits[id(kept)]
            source = base.base.node.input_tensors[0]
            edits[id(site)] = ed.merged(base.base.op, form, source)
            return


def _branches(
    kt: Any, wiring: Any, edits: Any, rank: int, axis: int
) -> Iterator[Any]:
    """All branches that end in a tensor, the shortest first."""
    channels = kt.shape[axis]
    if channels is None:
        return
    form, sites = linear.identity(channels, rank), ()
    yield Branch(kt, form)
    while (site := wiring.sole_maker(kt)) is not None:
        before = forms.form_of(site, rank, axis)
        if before is None or id(site) in edits:
            return
        form = linear.then(before, form)
        if form is None:
            return
        kt, sites = site.node.input_tensors[0], (site, *sites)
        yield Branch(kt, form, sites)


def _sum(parallel: Any) -> Any:
    """`(branch, form)`: the branch with the widest kernel, and the sum."""
    bases = [b for b in parallel if b.base is not None]
    bases.sort(key=lambda b: -math.prod(b.form.taps))
    for base in bases:
        form = base.form
        for branch in parallel:
            if branch is not base and form is not None:
                form = linear.plus(form, branch.form)
        if form is not None:
            return base, form
    return None
