"""Several operations on a model in one go."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import graph as gr
from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.rewrite import new_copies
from keras_gates.graphs.rewrite import rewrite
from keras_gates.graphs.variables import copy_state
from keras_gates.surgeon.surgery.deletion import Wanted
from keras_gates.surgeon.surgery.deletion import delete
from keras_gates.surgeon.surgery.nodes import sites_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Site

# What each job needs besides the layer.
_NEEDS = {
    "delete_layer": None,
    "insert_layer": "new_layer",
    "replace_layer": "new_layer",
    "delete_channels": "channels",
}


@dataclasses.dataclass(eq=False)
class _Job:
    """What is done at one or more calls of a layer.

    `made` is the new layer, and `alone` whether these calls get one of
    their own because the layer's other calls keep theirs.
    """

    job: str
    given: object
    tied: bool
    alone: bool
    made: keras.Layer | None = None


class Surgeon:
    """Keras-Surgeon's class on Keras 3: jobs are added, then done at once.

    The model stays as it is, and so does a `new_layer`: the result has
    copies of all layers, with their weights. It is not compiled. First
    layers are deleted, inserted and replaced, then channels deleted.

    Args:
        model: A built Functional or Sequential model.
        copy: Taken for compatibility; the model is copied in any case.

    Raises:
        TypeError, ValueError: The model is none, not built, or subclassed.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((28, 28, 1)),
    ...         keras.layers.Conv2D(8, 3, name="first"),
    ...         keras.layers.Conv2D(16, 3, name="second"),
    ...         keras.layers.Flatten(),
    ...         keras.layers.Dense(10),
    ...     ]
    ... )
    >>> surgeon = kg.surgeon.Surgeon(model)
    >>> surgeon.add_job(
    ...     "delete_channels", model.get_layer("first"), channels=[0, 5]
    ... )
    >>> surgeon.add_job("delete_layer", model.get_layer("second"))
    >>> [layer.name for layer in surgeon.model.layers][:2]
    ['first', 'second']
    """

    valid_jobs = tuple(_NEEDS)

    def __init__(self, model: keras.Model, copy: Any = None) -> None:
        self.model = model
        self._graph = gr.read(model)
        self._jobs = {}

    def add_job(
        self,
        job: str,
        layer: str,
        *,
        channels: list[int] | None = None,
        new_layer: Any = None,
        node_indices: Any = None,
        tied: bool = False,
    ) -> None:
        """Note something to do at a layer's calls; one job for each call.

        Args:
            job: `"delete_layer"`, `"insert_layer"` (`new_layer` in front of
                the layer), `"replace_layer"` (by `new_layer`) or
                `"delete_channels"`.
            layer: A layer of the model, or its name.
            channels: Positions of the channels to delete; negative ones
                count from the end.
            new_layer: A layer, built or not. Its weights are taken over if
                it is built.
            node_indices: Which of the layer's calls; all by default. Where
                channels are deleted for some only, these get a layer of
                their own, called `<name>_delete_channels`.
            tied: Whether channels of other layers that can only go together
                with these are deleted, too.

        Raises:
            TypeError: `new_layer` is no layer.
            ValueError: The job is unknown, lacks its argument or has that
                of another; the layer or a node is not in the model; or a
                node has a job already.
        """
        given = _argument(job, {"channels": channels, "new_layer": new_layer})
        every = sites_of(self._graph, layer)
        sites = sites_of(self._graph, layer, node_indices)
        if any(id(site) in self._jobs for site in sites):
            raise ValueError(
                f"Layer '{sites[0].name}' has a job at one of these nodes, and "
                "each node takes one. Do the second on the result of the first."
            )
        new = _Job(job, given, tied, len(sites) < len(every))
        self._jobs |= {id(site): new for site in sites}

    def operate(self) -> keras.Model:
        """Do all jobs.

        Returns:
            A new model: a `keras.Sequential` for a Sequential that is still
            a chain of layers, else a functional `keras.Model`.

        Raises:
            TypeError, ValueError: A layer does not fit where it comes to
                stand, or channels can't be deleted: see `delete_channels`.
        """
        for job in self._jobs.values():
            job.made = None
        jobs = self._jobs.values()
        model = self.model
        if not all(j.job == "delete_channels" and not j.alone for j in jobs):
            model = rewrite(self._graph, self._edit)
        elif not self._jobs:
            model = rewrite(self._graph)
        wanted = {}
        for site in self._sites():
            job = self._jobs.get(id(site))
            if job is not None and job.job == "delete_channels":
                name = _own_name(site.op) if job.alone else site.name
                scope = site.calls[0].path.rpartition("/")[0]
                path = f"{scope}/{name}" if scope else name
                wanted[path] = Wanted(job.given, job.tied)
        return delete(model, wanted) if wanted else model

    def _sites(self) -> list[Site]:
        return [
            site
            for graph in [self._graph, *self._graph.nested()]
            for site in graph.sites
        ]

    def _edit(self, recall: Any) -> Any:
        job = self._jobs.get(id(recall.site))
        try:
            outputs = recall() if job is None else _do(job, recall)
        except Exception as error:
            shapes = [tuple(x.shape) for x in _tensors(recall)]
            before = [tuple(x.shape) for x in recall.site.node.input_tensors]
            raise ValueError(
                f"This surgery fails at layer '{recall.op.name}' (of type "
                f"{type(recall.op).__name__}), where the shapes {shapes} would "
                f"come in; before, they were {before}: {error}"
            ) from error
        if len(keras.tree.flatten(outputs)) != len(recall.site.node.outputs):
            raise ValueError(
                f"What comes in the place of layer '{recall.op.name}' must "
                f"have {len(recall.site.node.outputs)} outputs, as it has."
            )
        return outputs


def _argument(job: str, given: dict[str, list[int] | None]) -> list[int]:
    """The argument of a job, checked."""
    if job not in _NEEDS:
        raise ValueError(
            f"{job!r} is no job. Expected one of "
            f"{', '.join(map(repr, _NEEDS))}."
        )
    needs = _NEEDS[job]
    for name, value in given.items():
        if (value is not None) != (name == needs):
            verb = "needs" if name == needs else "takes no"
            raise ValueError(f"The job {job!r} {verb} `{name}`.")
    if needs == "new_layer" and not isinstance(given[needs], keras.Layer):
        raise TypeError(
            "`new_layer` must be a Keras layer. Received: "
            f"{given[needs]!r} (of type {type(given[needs]).__name__})."
        )
    return given.get(needs)


def _do(job: Any, recall: Any) -> Any:
    """The outputs of a call with a job."""
    if job.job == "delete_channels":
        if not job.alone:
            return recall()
        name = {"name": _own_name(recall.op)}
        return _called(job, recall.op, recall.args, recall.kwargs, name)
    if job.job == "replace_layer":
        return _called(job, job.given, recall.args)
    found = _tensors(recall)
    if len(found) != 1:
        raise ValueError(
            f"the job {job.job!r} is for layers with one input, and this one "
            f"has {len(found)}."
        )
    if job.job == "delete_layer":
        return found[0]
    new = _called(job, job.given, found)
    args, kwargs = mapped(
        lambda x: new if x is found[0] else x, recall.args, recall.kwargs
    )
    return recall(*args, **kwargs)


def _called(
    job: Any,
    layer: keras.Layer,
    args: Any,
    kwargs: Any = None,
    changes: Any = None,
) -> Any:
    """Call a copy of a layer, the same at all nodes of a job."""
    fresh = job.made is None
    if fresh:
        job.made, complete = _copied(layer, changes)
    outputs = job.made(*args, **(kwargs or {}))
    if fresh and layer.built and not complete:
        copy_state(layer, job.made)
    return outputs


def _copied(layer: keras.Layer, changes: Any) -> Any:
    """A copy of a layer, and whether it has its weights."""
    copies = new_copies()
    if changes:
        return copies.make(layer, changes), False
    return copies.whole(layer)


def _own_name(layer: keras.Layer) -> Any:
    return f"{layer.name}_delete_channels"


def _tensors(recall: Any) -> Any:
    """The tensors that a call reads."""
    found = keras.tree.flatten((recall.args, recall.kwargs))
    return [x for x in found if isinstance(x, keras.KerasTensor)]
