"""Makes functional models of subclassed ones."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from keras_gates.graphs import graph as gr
from keras_gates.graphs.flattened import Unfunctional
from keras_gates.graphs.flattened import flattened
from keras_gates.graphs.rewrite import rewrite

# Methods that `fit`, `evaluate` and `predict` use, and a functional model does
# not have.
_STEPS = (
    *("train_step", "test_step", "predict_step", "compute_loss"),
    "compute_metrics",
)


def functional(
    model: keras.Model, inputs: Any, *, inference_only: bool = False
) -> keras.Model:
    """Make a functional model of a subclassed one.

    The `call` of a subclassed model is Python code, from which nothing can be
    removed. This function runs it on symbolic tensors and records what it does:
    layers that it calls, `keras.ops`, weights of the model itself. The
    functional model has inputs and outputs of the same structure, and layers
    with the same names and weights. It works with everything else:
    `insert_gates`, `slim`, `surgeon.prune`.

    Both models are compared on random inputs. A `call` with side effects or
    value-dependent control flow is refused, for example if it draws random
    numbers, adds a loss, or assigns a variable. An inner layer may do so, since
    it is kept unchanged. Nothing of the class itself is kept: no `train_step`,
    metrics or methods. Layers that `call` does not use are left out.

    Args:
        model: A subclassed `keras.Model`. It is not changed; if it is not
            built, a copy is built, and its weights are used.
        inputs: What `call` takes as its first argument: arrays (of any number
            of samples), `keras.Input`s or `keras.InputSpec`s, in lists,
            tuples or dicts as the model expects them.
        inference_only: Whether it is enough that both compute the same in
            inference. By default, a model that differs in training (`if
            training:`, or a layer that is always called with `training=False`)
            is refused.

    Returns:
        A new functional model with the same name, not compiled, that shares
        nothing with the old one.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If its `call` can't be recorded, with the reason.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> class Classifier(keras.Model):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hidden = keras.layers.Dense(
    ...             16, activation="relu", name="hidden"
    ...         )
    ...         self.logits = keras.layers.Dense(3)
    ...
    ...     def call(self, x):
    ...         return self.logits(self.hidden(x))
    >>> model = Classifier()
    >>> y = model(keras.ops.ones((1, 4)))
    >>> twin = kg.functional(model, keras.Input((4,)))
    >>> scores = kg.surgeon.score(twin, "l2")
    >>> small = kg.surgeon.prune(twin, kg.Quantile(0.5), scores=scores)
    >>> small.get_layer("hidden").units
    8
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`functional` takes a subclassed Keras model. Received: "
            f"{model!r} (of type {type(model).__name__})."
        )
    if gr.is_functional(model) and not gr.has_own_call(model):
        return rewrite(gr.read(model))
    named = f"Model '{model.name}' (of type {type(model).__name__})"
    try:
        new, otherwise = flattened(model, inputs)
    except Unfunctional as error:
        raise ValueError(
            f"{named} can't be made functional: {error}. Move what its "
            "`call` does beside calling layers and `keras.ops` into a layer "
            "of its own, which then stays as it is."
        ) from error
    if otherwise and not inference_only:
        raise ValueError(
            f"{named} can't be made functional: {otherwise}. Let its `call` "
            "pass `training` on to its layers and otherwise do the same, or "
            "pass `inference_only=True` if it is enough that both compute "
            "the same in inference."
        )
    steps = [n for n in _STEPS if getattr(type(model), n) is not _stock(n)]
    if steps:
        listed = ", ".join(f"`{n}`" for n in steps)
        warnings.warn(
            f"The functional model '{new.name}' is a plain `keras.Model`: it "
            f"lacks what {type(model).__name__} has of its own in {listed}.",
            UserWarning,
            stacklevel=2,
        )
    return new


def _stock(name: str) -> Any:
    return getattr(keras.Model, name)
