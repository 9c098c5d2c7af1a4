"""Folds scales and offsets into neighboring convolutions and Dense layers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

from keras import layers

from keras_gates.transforms.fusing import edits as ed
from keras_gates.transforms.fusing import forms
from keras_gates.transforms.fusing import linear

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.transforms.fusing.edits import Edits
    from keras_gates.transforms.fusing.linear import Linear
    from keras_gates.transforms.fusing.wiring import Wiring


def find(graph: Graph, wiring: Wiring, edits: Edits, batch_norm: bool) -> None:
    """Add the edits that fold the chains of a graph."""
    types = {layers.Rescaling}
    if batch_norm:
        types.add(layers.BatchNormalization)

    def free(site: Site | None) -> Site | None:
        return None if site is None or id(site) in edits else site

    for site in graph.sites:
        if free(site) is None or not forms.is_kernel(site):
            continue
        if id(site.op) in wiring.shared:
            continue
        rank, axis = forms.layout_of(site)
        form = forms.form_inside(site)
        if form is None:
            continue
        chain = [site]
        while (before := free(wiring.before(chain[0]))) is not None:
            longer = _joined(before, form, types, rank, axis, in_front=True)
            if longer is None:
                break
            form, chain = longer, [before, *chain]
        while (after := free(wiring.after(chain[-1]))) is not None:
            if not forms.is_linear(site):
                break
            longer = _joined(after, form, types, rank, axis)
            if longer is None:
                break
            form, chain = longer, [*chain, after]
        if len(chain) > 1:
            source = chain[0].node.input_tensors[0]
            edits.update({id(s): ed.passed for s in chain})
            edits[id(chain[-1])] = ed.merged(site.op, form, source)


def _joined(
    site: Site,
    form: Linear,
    types: set[type[Any]],
    rank: int,
    axis: int,
    in_front: bool = False,
) -> Linear | None:
    """The form with one more layer, or None."""
    if type(site.op) not in types:
        return None
    other = forms.form_of(site, rank, axis)
    if other is None:
        return None
    first, second = (other, form) if in_front else (form, other)
    return linear.then(first, second)
