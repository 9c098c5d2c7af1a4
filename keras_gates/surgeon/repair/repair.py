"""`repair`: fits the remaining channels to replace closed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import graph as gr
from keras_gates.graphs.rewrite import rewrite
from keras_gates.surgeon.plan import Plan
from keras_gates.surgeon.repair.by_weights import pairs_of
from keras_gates.surgeon.repair.mend import Request
from keras_gates.surgeon.repair.mend import mend
from keras_gates.surgeon.repair.pairs import Pairs

if TYPE_CHECKING:
    from keras_gates.surgeon.repair.report import Repair


def repair(
    target: Plan | tuple[keras.Model, keras.Model],
    x: Any,
    *,
    method: str = "kernels",
    max_samples: int = 512,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int = 0,
) -> Repair:
    """Prune by a plan, and fit the result to what the original computes.

    It needs no labels and no training: a few hundred inputs are run through
    both models, layer by layer. Each kernel of the smaller model gets the
    values with which its output, on the inputs from the smaller model itself,
    is closest to the output of the original layer:

    `min |y - (x W + b)|^2 + ridge * |W - W_cut|^2`

    over all positions of `x`, for `y` of the original. A fifth of the samples
    is left out at first. The error on these decides how much ridge is used, and
    whether the new values are kept at all, so that no layer is worse on them
    than after the cut; then they are fitted, too. A tenth (a fifth of few
    samples) is never fitted, and measures the error of the outputs. Shapes,
    names and types of the layers do not change, except that a stock layer that
    lost inputs, and has neither a bias nor a batch normalization after it, gets
    a bias.

    A repair is approximate by design: `verify` refuses to compare its result
    as if it were exact.

    References:
    - [He et al., 2017, Channel Pruning for Accelerating Very Deep Neural
      Networks](https://arxiv.org/abs/1707.06168), where each layer is fitted by
      least squares
    - [An et al., 2024, Fluctuation-based Adaptive Structured Pruning for Large
      Language Models](https://arxiv.org/abs/2312.11983), where the biases are
      fitted

    Args:
        target: A `Plan`; or a pair of a model and the result of `prune`, before
            any training. The smaller model of a pair is copied.
        x: Inputs of the model as in `fit`: an array, a list or a dict of arrays
            for several inputs, or an iterable of batches, where y of a tuple
            `(x, y)` is ignored. It is best to have more samples than a layer
            has inputs; 128 are a start.
        method: `"kernels"`; `"bias"` to fit the biases alone, which is fast,
            and needs few samples; or `"statistics"`, to only measure the
            statistics of batch normalizations again.
        max_samples: The largest number of samples to take from `x`.
        batch_size: Samples per batch, if `x` is arrays.
        seed: Seed for the choice of held-out samples, and of the positions of a
            layer's output.
        verbose: 0 for silence, 1 for a progress bar.

    Returns:
        A `Repair`: its `model`, and a report on each layer. It prints as a
        table, and is the model's attribute `repair_report`.

    Raises:
        TypeError: `target` or `x` has an unknown form.
        ValueError: `x` does not fit the model, has NaN or infinity, or has
            fewer than three samples; the models of a pair do not belong
            together; or an argument is out of range.

    Warns:
        UserWarning: Layers have more inputs than there were rows to fit them
            on.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(16, activation="relu", name="hidden"),
    ...         keras.layers.Dense(2, name="logits"),
    ...     ]
    ... )
    >>> scores = kg.surgeon.score(model)
    >>> plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    >>> x = np.random.default_rng(0).normal(size=(256, 8))
    >>> repaired = kg.surgeon.repair(plan, x)
    >>> repaired.changed
    ['logits']
    >>> repaired.total.after < repaired.total.before
    True
    """
    request = Request(method, max_samples, batch_size, seed, verbose)
    if isinstance(target, Plan):
        batches = request.batches(target.model, x, "x")
        solution = target.solved()
        pruned = target.built_from(solution, keep_optimizer=False)
        return mend(Pairs.of_solution(solution, pruned), batches, request)
    if not isinstance(target, (tuple, list)) or len(target) != 2:
        raise TypeError(
            "`repair` takes a Plan, or a pair of a model and the result of "
            f"prune. Received: {target!r} (of type {type(target).__name__})."
        )
    model, small = target
    pairs_of(model, small)
    batches = request.batches(model, x, "x")
    pruned = rewrite(gr.read(small))
    return mend(pairs_of(model, pruned), batches, request)
