"""The loss of a model as `fit` takes it, and its gradients at probes."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs import private

if TYPE_CHECKING:
    from keras_gates.surgeon.scores.batches import Batch
    from keras_gates.surgeon.scores.probes import Nudge

# Beside the gradient for wrong labels, one that is no more than this is made of
# rounding. With its own soft outputs for labels, a small network was seen at
# 1e-8 to 3e-6 (PyTorch, JAX, TensorFlow), and a ResNet-20 at 2e-5 (JAX).
_ROUNDING = 256 * float(np.finfo("float32").eps)
# Gradients of float16 fall below its smallest number without it.
_HALF_SCALE = 1024.0


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is differentiated.

    Attributes:
        model: the model whose outputs it is for.
        loss: a loss in any form that `compile` takes.
        weights: the weights of the losses, likewise.
    """

    model: keras.Model
    loss: Any
    weights: Any = None

    @classmethod
    def of_model(
        cls, model: keras.Model, loss: Any = None, weights: Any = None
    ) -> Objective:
        """The loss that is given, or that of a compiled model.

        Raises:
            ValueError: there is none.
        """
        if loss is not None:
            return cls(model, loss, weights)
        compiled = getattr(model, "compiled", False)
        if not compiled or model.loss is None:
            state = "compiled without a loss" if compiled else "not compiled"
            raise ValueError(
                f"The criterion 'taylor' needs a loss, and '{model.name}' is "
                f"{state}. Compile it, or pass loss=..."
            )
        if weights is None:
            weights = private.loss_weights_of(model)
        _say_what_is_left_out(model)
        return cls(model, model.loss, weights)

    def gradients(
        self,
        copy: keras.Model,
        nudges: Sequence[Nudge],
        batches: Iterable[Batch],
    ) -> list[NDArray[np.float64]]:
        """`sum |dL/dnudge|` over batches, an array for each.

        A step of plain SGD at rate 1 from zero is the gradient, on any
        backend. Frozen normalizations use their moving statistics.

        Args:
            copy: a copy of the model with the nudges.
            nudges: the `Nudge` layers.
            batches: `Batch`es; read once.
        """
        self._compile(copy, nudges)
        sums = [np.zeros(nudge.nudge.shape) for nudge in nudges]
        count, wrong = 0, None
        for batch in batches:
            count += 1
            sizes = self._step(copy, nudges, batch, batch.y, check=True)
            for total, values in zip(sums, sizes, strict=True):
                total += values
            if wrong is None and batch.size > 1:
                other = self._step(copy, nudges, batch, _wrong(batch.y))
                wrong = sum(float(values.sum()) for values in other)
        self._check(sum(float(v.sum()) for v in sums), count, wrong)
        return sums

    def _compile(self, copy: keras.Model, nudges: Sequence[Nudge]) -> None:
        own = {id(nudge) for nudge in nudges}
        layers = private.sublayers(copy)
        half = False
        for layer in layers:
            half = half or getattr(layer, "compute_dtype", "") == "float16"
            if id(layer) not in own and not private.has_sublayers(layer):
                layer.trainable = False
        functional = gr.functional_of(copy) is copy
        if functional:
            # A gate may have been an output; losses go by its name.
            copy.output_names = list(self._output_names)
        scale = _HALF_SCALE if half else None
        copy.compile(
            optimizer=keras.optimizers.SGD(1.0, loss_scale_factor=scale),
            loss=self.loss,
            loss_weights=self.weights,
            auto_scale_loss=False,
        )

    @property
    def _output_names(self) -> list[str]:
        model = gr.functional_of(self.model) or self.model
        return list(model.output_names)

    def _step(
        self,
        copy: keras.Model,
        nudges: Sequence[Nudge],
        batch: Batch,
        y: Any,
        check: bool = False,
    ) -> list[NDArray[np.float64]]:
        """The size of the gradient of each nudge on a batch."""
        copy.reset_metrics()
        for nudge in nudges:
            nudge.nudge.assign(np.zeros(nudge.nudge.shape))
        weight = batch.sample_weight
        try:
            logs = copy.train_on_batch(
                batch.x, y, sample_weight=weight, return_dict=True
            )
        except Exception as error:
            raise ValueError(self._misfit(batch, y)) from error
        # A gradient may pass a NaN by: that of a ReLU is 0 there.
        if check and not np.isfinite(float(logs["loss"])):
            raise ValueError(
                f"The loss of '{self.model.name}' is not finite on a batch of "
                f"`data` ({float(logs['loss'])}): the data, the labels or the "
                "weights have NaN or infinity. Check these first."
            )
        return [np.abs(ops.convert_to_numpy(n.nudge)) for n in nudges]

    def _misfit(self, batch: Batch, y: Any) -> str:
        _, structure = gr.structures(self.model)
        shapes = [tuple(t.shape) for t in keras.tree.flatten(structure)]
        names = self._output_names
        pairs = zip(names, shapes, strict=True)
        outputs = ", ".join(f"{name!r} {shape}" for name, shape in pairs)
        weight = batch.sample_weight
        weighted = "" if weight is None else f", weights {_shapes(weight)}"
        return (
            f"The loss of '{self.model.name}' can't be computed for these "
            "labels. "
            f"{_misnamed(self.loss, names)}{_misnamed(self.weights, names)}It "
            f"has the outputs {outputs}, the loss {_as_written(self.loss)} "
            f"and loss_weights={self.weights!r}. Received: y "
            f"{_shapes(y)}{weighted}. Pass them as in `fit`: in the structure "
            f"of the outputs, or as a dict by name.{self._classes(shapes)}"
        )

    def _classes(self, shapes: list[tuple[int | None, ...]]) -> str:
        """What integer labels must be, if the loss takes such."""
        sparse = "sparse" in str(_as_written(self.loss))
        if not sparse or len(shapes) != 1 or shapes[0][-1] is None:
            return ""
        return f" Labels must be integers from 0 to {shapes[0][-1] - 1}."

    def _check(self, total: float, count: int, wrong: float | None) -> None:
        """Warn where the gradients are made of rounding.

        Where they are all 0, so are the scores, and `score` says it.
        """
        if not total or not wrong or not np.isfinite(total + wrong):
            return
        if total / count > _ROUNDING * wrong:
            return
        warnings.warn(
            "The gradient of the loss is rounding noise, about "
            f"{total / count / wrong:.0e} of what wrong labels give: the "
            "labels are where the loss is at its least, as the model's own "
            "outputs are. These scores rank at random. Pass hard "
            "labels (the true ones, or the argmax of the outputs), or another "
            'loss; or score by "mean", which needs no labels.',
            UserWarning,
            stacklevel=2,
        )


def _say_what_is_left_out(model: keras.Model) -> None:
    """Warn of methods that `fit` would call, and that are not called here."""
    own = [
        name
        for name in ("compute_loss", "train_step")
        if getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if own and not isinstance(model, keras.Sequential):
        warnings.warn(
            f"'{model.name}' (of type {type(model).__name__}) has a custom "
            f"{' and '.join(own)}, which scores don't call: taylor "
            "differentiates the compiled loss. Pass loss=... for another "
            "loss, or custom scores to prune.",
            UserWarning,
            stacklevel=2,
        )


def _wrong(y: Any) -> Any:
    """Other labels of the same kind: those of the sample before, turned.

    Turned along the classes as well, where there is an axis of them: labels
    of all samples may be alike.
    """

    def rolled(array: Any) -> Any:
        if array is None:
            return None
        array = np.roll(ops.convert_to_numpy(array), 1, axis=0)
        return np.roll(array, 1, axis=-1) if array.ndim > 1 else array

    return keras.tree.map_structure(rolled, y)


def _misnamed(given: Any, names: Sequence[str]) -> str:
    """What of losses, or of their weights, fits no output or is no loss."""
    faults = []
    if isinstance(given, dict):
        faults = [
            f"{key!r} is not the name of an output. "
            for key in given.keys() - set(names)
        ]
        lacking = [name for name in names if name not in given]
        if lacking:
            faults += [
                f"Nothing is given for {', '.join(map(repr, lacking))}. "
            ]
    for one in keras.tree.flatten(given):
        if isinstance(one, str):
            try:
                keras.losses.get(one)
            except ValueError:
                faults.append(f"{one!r} is not a loss of Keras. ")
    return "".join(faults)


def _shapes(structure: Any) -> Any:
    return keras.tree.map_structure(
        lambda a: None if a is None else f"{tuple(a.shape)} of {_type(a)}",
        structure,
    )


def _type(array: Any) -> str:
    return str(getattr(array.dtype, "name", array.dtype))


def _as_written(loss: Any) -> Any:
    """A loss as a user would write it."""
    return keras.tree.map_structure(
        lambda x: getattr(x, "name", getattr(x, "__name__", x)), loss
    )
