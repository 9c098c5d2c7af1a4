"""Several operations on a model at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.rewrite import new_copies
from keras_gates.graphs.rewrite import rewrite
from keras_gates.graphs.variables import copy_state
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.surgery.deletion import Wanted
from keras_gates.surgeon.surgery.deletion import delete
from keras_gates.surgeon.surgery.nodes import path_of
from keras_gates.surgeon.surgery.nodes import sites_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.rewrite import Recall

# The argument of each job besides the layer.
_NEEDS: dict[str, str | None] = {
    "delete_layer": None,
    "insert_layer": "new_layer",
    "replace_layer": "new_layer",
    "delete_channels": "channels",
}


@dataclasses.dataclass(eq=False)
class _Job:
    """A job at one or more calls of a layer.

    Attributes:
        verb: the job: a key of `_NEEDS`.
        argument: the new layer, or the channels to delete, or None.
        tied: whether channels of other layers may be deleted, too.
        alone: whether these calls get a separate layer, because the layer's
            other calls keep theirs.
        made: the layer of the new model, once created.
    """

    verb: str
    argument: Any
    tied: bool
    alone: bool
    made: keras.Layer | None = None


class Surgeon:
    """Keras-Surgeon's class for Keras 3: add jobs, then run them at once.

    Neither the model nor a `new_layer` is changed: the result has copies of all
    layers, with their weights. It is not compiled. Layers are deleted, inserted
    and replaced first, then channels are deleted.

    Args:
        model: A built Functional or Sequential model.
        copy: For compatibility; the model is always copied.

    Raises:
        TypeError, ValueError: `model` is not a model, not built, or subclassed.

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

    def __init__(self, model: keras.Model, copy: bool | None = None) -> None:
        self.model = model
        self._graph = see_through.read(model)
        self._jobs: dict[Site, _Job] = {}

    def add_job(
        self,
        job: str,
        layer: keras.Layer | str,
        *,
        channels: Sequence[int] | None = None,
        new_layer: keras.Layer | None = None,
        node_indices: Sequence[int] | None = None,
        tied: bool = False,
    ) -> None:
        """Add a job at a layer's calls; each call takes one job.

        Args:
            job: `"delete_layer"`, `"insert_layer"` (`new_layer` before
                the layer), `"replace_layer"` (by `new_layer`) or
                `"delete_channels"`.
            layer: A layer of the model, or its name.
            channels: Positions of the channels to delete; negative ones
                count from the end.
            new_layer: A layer, built or not. Its weights are copied if it is
                built.
            node_indices: Which of the layer's calls; all by default. If
                channels are deleted for some only, these get a separate layer,
                `<name>_delete_channels`.
            tied: Whether to also delete channels of other layers that can only
                be removed together with these.

        Raises:
            TypeError: `new_layer` is not a layer.
            ValueError: The job is unknown, or has a wrong argument; the layer
                or a node is not in the model; or a node already has a job.
        """
        argument = _argument(
            job, {"channels": channels, "new_layer": new_layer}
        )
        every = sites_of(self._graph, layer)
        sites = sites_of(self._graph, layer, node_indices)
        if any(site in self._jobs for site in sites):
            raise ValueError(
                f"Layer '{sites[0].name}' already has a job at one of these "
                "nodes, and each node takes one. Run the second job on the "
                "result of the first."
            )
        new = _Job(job, argument, tied, len(sites) < len(every))
        self._jobs |= dict.fromkeys(sites, new)

    def operate(self) -> keras.Model:
        """Run all jobs.

        Returns:
            A new model: a `keras.Sequential` if the model is one and still a
            chain of layers, otherwise a functional `keras.Model`.

        Raises:
            TypeError, ValueError: A layer does not fit in its new place, or
                channels can't be deleted: see `delete_channels`.
        """
        for job in self._jobs.values():
            job.made = None
        jobs = self._jobs.values()
        model = self.model
        if not all(j.verb == "delete_channels" and not j.alone for j in jobs):
            self._check_written_out()
            model = rewrite(self._graph, self._edit)
        elif not self._jobs:
            model = rewrite(self._graph)
        wanted = {}
        for site in self._sites():
            own = self._jobs.get(site)
            if own is not None and own.verb == "delete_channels":
                name = _own_name(site.op) if own.alone else site.name
                scope = path_of(self._graph, site).rpartition("/")[0]
                path = f"{scope}/{name}" if scope else name
                wanted[path] = Wanted(own.argument, own.tied)
        return delete(model, wanted) if wanted else model

    def _sites(self) -> list[Site]:
        return [
            site
            for graph in [self._graph, *self._graph.nested()]
            for site in graph.sites
        ]

    def _check_written_out(self) -> None:
        """Refuse surgery inside a layer whose parts can't replace it."""
        for site, job in self._jobs.items():
            for scope in site.calls[0].scopes if site.calls else ():
                opened = scope.site.opened
                whole = job.verb == "delete_channels" and not job.alone
                if opened is not None and opened.fixed and not whole:
                    raise ValueError(
                        f"Layer '{site.calls[0].path}' is inside "
                        f"'{scope.site.name}' (of type "
                        f"{type(scope.site.op).__name__}), which its parts "
                        f"can't replace: {opened.fixed}. Pass the outer layer."
                    )

    def _edit(self, recall: Recall) -> Any:
        job = self._jobs.get(recall.site)
        if job is None and recall.site.opened is not None:
            return None  # There may be one for a layer inside.
        try:
            outputs = recall() if job is None else _do(job, recall)
        except Exception as error:
            shapes = [tuple(x.shape) for x in _tensors(recall)]
            before = [tuple(x.shape) for x in recall.site.node.input_tensors]
            raise ValueError(
                f"This surgery fails at layer '{recall.op.name}' (of type "
                f"{type(recall.op).__name__}), where the input shapes would "
                f"be {shapes}; before, they were {before}: {error}"
            ) from error
        if len(keras.tree.flatten(outputs)) != len(recall.site.node.outputs):
            raise ValueError(
                f"The replacement of layer '{recall.op.name}' must have "
                f"{len(recall.site.node.outputs)} outputs, like the layer."
            )
        return outputs


def _argument(job: str, given: dict[str, Any]) -> Any:
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
    return None if needs is None else given[needs]


def _do(job: _Job, recall: Recall) -> Any:
    """The outputs of a call with a job."""
    if job.verb == "delete_channels":
        if not job.alone:
            return recall()
        name = {"name": _own_name(recall.op)}
        return _called(job, recall.op, recall.args, recall.kwargs, name)
    if job.verb == "replace_layer":
        return _called(job, job.argument, recall.args)
    tensors = _tensors(recall)
    if len(tensors) != 1:
        raise ValueError(
            f"the job {job.verb!r} is for layers with one input, and this one "
            f"has {len(tensors)}."
        )
    if job.verb == "delete_layer":
        return tensors[0]
    new = _called(job, job.argument, tensors)
    args, kwargs = mapped(
        lambda x: new if x is tensors[0] else x, recall.args, recall.kwargs
    )
    return recall(*args, **kwargs)


def _called(
    job: _Job,
    layer: keras.Layer,
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
) -> Any:
    """Call a copy of a layer, the same at all nodes of a job."""
    complete = True
    if job.made is None and changes:
        job.made, complete = new_copies().make(layer, changes), False
    elif job.made is None:
        job.made, complete = new_copies().whole(layer)
    outputs = job.made(*args, **(kwargs or {}))
    if layer.built and not complete:
        copy_state(layer, job.made)
    return outputs


def _own_name(layer: keras.Layer) -> str:
    return f"{layer.name}_delete_channels"


def _tensors(recall: Recall) -> list[keras.KerasTensor]:
    """The tensors that a call reads."""
    arguments = keras.tree.flatten((recall.args, recall.kwargs))
    return [x for x in arguments if isinstance(x, keras.KerasTensor)]
