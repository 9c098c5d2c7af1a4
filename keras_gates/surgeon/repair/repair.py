"""`repair`: what closed channels did is left to those that stay."""

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
    """Prune by a plan, and fit what stays to what the original computes.

    No labels and no training: some hundred inputs are run through both
    models, layer by layer. Each kernel of the smaller one gets the values
    with which it comes nearest, on what the smaller model itself hands it, to
    what the layer of the original put out:

    `min |y - (x W + b)|^2 + ridge * |W - W_cut|^2`

    over all places of `x`, for `y` of the original. A fifth of the samples is
    left out at first. How much ridge there is, and whether the new values stay
    at all, is decided by the error on these, so that no layer is worse on them
    than it was cut; then they are fitted, too. A tenth, or of few samples a
    fifth, is held out for good, to tell how far the outputs are off. Shapes,
    names and types of the layers are as they were; a stock layer that lost
    inputs, and has neither a bias nor a batch normalization after it, is given
    a bias.

    A repair is approximate by design: `verify` refuses to compare its result
    as if it were exact.

    References:
    - [He et al., 2017, Channel Pruning for Accelerating Very Deep Neural
      Networks](https://arxiv.org/abs/1707.06168), who fit each layer by least
      squares
    - [An et al., 2024, Fluctuation-based Adaptive Structured Pruning for Large
      Language Models](https://arxiv.org/abs/2312.11983), who fit the biases

    Args:
        target: A `Plan`; or a model and what `prune` has made of it, before
            any training. The smaller model of a pair is copied.
        x: Inputs of the model as `fit` takes them: an array, a list or a dict
            of them for several inputs, or an iterable of batches, a tuple
            being `(x, y)` of which y is left alone. More samples than a layer
            reads numbers are better; 128 are a start.
        method: `"kernels"`; `"bias"` to fit the biases alone, which is fast,
            and needs few samples; or `"statistics"`, to measure the
            statistics of batch normalizations again, and no more.
        max_samples: How many samples are taken from `x` at most.
        batch_size: Samples a batch, where `x` is arrays.
        seed: Seed of which samples are held out, and of which places of a
            layer's output are looked at.
        verbose: 0 for silence, 1 for a progress bar.

    Returns:
        A `Repair`: its `model`, and what was done to each layer. It prints as
        a table. The model has it as `repair_report`.

    Raises:
        TypeError: `target` or `x` is of no known form.
        ValueError: `x` does not fit the model, holds NaN or infinity, or is
            fewer than three samples; the models of a pair don't belong
            together; or a number or a name is out of range.

    Warns:
        UserWarning: Layers read more numbers than there were rows to fit
            them on.

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
        batches = request.batches(target.model, x)
        solution = target.solved()
        pruned = target.built_from(solution, keep_optimizer=False)
        return mend(Pairs.of_solution(solution, pruned), batches, request)
    if not isinstance(target, (tuple, list)) or len(target) != 2:
        raise TypeError(
            "`repair` takes a Plan, or a pair of a model and what prune made "
            f"of it. Received: {target!r} (of type {type(target).__name__})."
        )
    model, small = target
    pairs_of(model, small)
    batches = request.batches(model, x)
    pruned = rewrite(gr.read(small))
    return mend(pairs_of(model, pruned), batches, request)
