"""Merges added linear branches into one convolution."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import keras
from keras import layers

from keras_gates.graphs import graph as gr
from keras_gates.transforms.fusing import edits as ed
from keras_gates.transforms.fusing import forms
from keras_gates.transforms.fusing import linear

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.transforms.fusing.edits import Edits
    from keras_gates.transforms.fusing.wiring import Wiring


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """A path from a tensor to an operand of an addition.

    Attributes:
        source: the tensor where it starts.
        form: what it computes.
        sites: its calls, in order.
    """

    source: keras.KerasTensor
    form: linear.Linear
    sites: tuple[Site, ...] = ()

    @property
    def base(self) -> Site | None:
        """Its convolution, if only padding precedes it, or None."""
        for site in self.sites:
            if forms.is_kernel(site):
                return site
            if not forms.is_padding(site):
                return None
        return None


def find(graph: Graph, wiring: Wiring, edits: Edits, batch_norm: bool) -> None:
    """Add the edits that merge the branches of a graph's additions."""
    for site in graph.sites:
        if id(site) not in edits and _adds(site):
            _merge(site, wiring, edits)


def _adds(site: Site) -> bool:
    """Whether a call only adds tensors of one shape."""
    shapes = {tuple(kt.shape) for kt in site.node.input_tensors}
    several = len(site.node.input_tensors) > 1
    add = (layers.Add, gr.operation("numpy.Add"))
    return type(site.op) in add and several and len(shapes) == 1


def _merge(site: Site, wiring: Wiring, edits: Edits) -> None:
    operands = site.node.input_tensors
    for rank, axis in forms.layouts(operands[0].shape):
        ways = [
            {id(b.source): b for b in _branches(kt, wiring, edits, rank, axis)}
            for kt in operands
        ]
        for source in ways[0]:
            parallel = [way[source] for way in ways if source in way]
            merged = _sum(parallel) if len(parallel) == len(ways) else None
            if merged is None:
                continue
            base, convolution, form = merged
            for branch in parallel:
                edits.update({id(s): ed.passed for s in branch.sites})
            # The padding before the convolution stays.
            for kept in base.sites[: base.sites.index(convolution)]:
                del edits[id(kept)]
            source = convolution.node.input_tensors[0]
            edits[id(site)] = ed.merged(convolution.op, form, source)
            return


def _branches(
    kt: keras.KerasTensor, wiring: Wiring, edits: Edits, rank: int, axis: int
) -> Iterator[Branch]:
    """All branches that end in a tensor, the shortest first."""
    channels = kt.shape[axis]
    if channels is None:
        return
    form = linear.identity(channels, rank)
    sites: tuple[Site, ...] = ()
    yield Branch(kt, form)
    while (site := wiring.sole_maker(kt)) is not None:
        before = forms.form_of(site, rank, axis)
        if before is None or id(site) in edits:
            return
        longer = linear.then(before, form)
        if longer is None:
            return
        form = longer
        kt, sites = site.node.input_tensors[0], (site, *sites)
        yield Branch(kt, form, sites)


def _sum(
    parallel: list[Branch],
) -> tuple[Branch, Site, linear.Linear] | None:
    """The branch with the widest kernel, its convolution, and the sum."""
    bases = [(b, b.base) for b in parallel]
    bases.sort(key=lambda pair: -math.prod(pair[0].form.taps))
    for base, convolution in bases:
        if convolution is None:
            continue
        form: linear.Linear | None = base.form
        for branch in parallel:
            if branch is not base and form is not None:
                form = linear.plus(form, branch.form)
        if form is not None:
            return base, convolution, form
    return None
