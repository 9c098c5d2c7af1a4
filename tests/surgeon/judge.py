"""The verdict on a random graph: correct, refused, or a failure."""

import collections
import dataclasses

import keras
import numpy as np

from keras_gates import surgeon
from tests import helpers
from tests.surgeon import random_graphs

# What a plan says of a step, and the rare path that it stands for.
WHYS = {
    "operands are constant": "dropped operand",
    "into its bias": "constants into a bias",
    "into one that stays": "merged constants",
    "a Rescaling remains": "residual scale",
    "of them stay": "closed but kept",
    "kept whole": "barrier",
}
# Each of these has to come up a few times in a hundred graphs.
RARE = [
    *WHYS.values(),
    *["gather", "offset", "nested", "nested twice", "shared", "shared gate"],
    *["refused", "two inputs", "outputs", "inner output", "gated input"],
]


@dataclasses.dataclass
class Verdict:
    """`kind` is "same", "refused", "no gates" or "failed: ..."."""

    seed: int
    kind: str
    features: set
    flat: bool = False

    @property
    def failed(self):
        return self.kind.startswith("failed")


def judge(seed, skip=frozenset(), closing=None):
    """Prune the graph of a seed, and compare it with the truth."""
    case, x = random_graphs.prepared(seed, skip, closing)
    if not helpers.gates_of(case.model):
        return Verdict(seed, "no gates", case.features)
    truth = helpers.gated_outputs(case.model, x)
    moving = min(helpers.variation(truth))
    before = helpers.fingerprint(case.model)
    try:
        plan = surgeon.plan(case.model, helpers.THRESHOLD)
        pruned = plan.apply()
    except ValueError as error:
        kind = _refusal(error, moving)
        return Verdict(seed, kind, case.features | {"refused"})
    features = case.features | paths(case.model, pruned, plan)
    try:
        helpers.assert_same(case.model, pruned, x, vary=False)
        check_form(case.model, pruned, plan)
        assert helpers.fingerprint(case.model) == before, "original changed"
    except AssertionError as error:
        return Verdict(seed, f"failed: {error}", features)
    return Verdict(seed, "same", features, moving < 1e-3)


def _refusal(error, moving):
    """A refusal is right where an output does not depend on the inputs."""
    if "no longer depends" not in str(error):
        return f"failed: {error}"
    if moving > 1e-6:
        return f"failed: refused, but the outputs vary by {moving:.2g}"
    return "refused"


def check_form(model, pruned, plan):
    """Stock layers, under their old names, of the sizes that were planned."""
    old = {layer.name for layer in helpers.layers_of(model)}
    for layer in helpers.layers_of(pruned):
        assert type(layer).__module__.startswith("keras."), layer
        assert layer.name in old or not layer.weights, layer.name
    assert plan.params == (model.count_params(), pruned.count_params()), (
        f"planned {plan.params} parameters, got "
        f"{(model.count_params(), pruned.count_params())}"
    )
    assert keras.tree.map_structure(
        lambda kt: tuple(kt.shape), helpers.functional(model)._inputs_struct
    ) == keras.tree.map_structure(
        lambda kt: tuple(kt.shape), helpers.functional(pruned)._inputs_struct
    ), "the structure of the inputs has changed"


def operations_of(model):
    """All layers and operations, those of nested models included."""
    found = []
    for operation in helpers.functional(model).operations:
        found.append(operation)
        if isinstance(operation, keras.Model):
            found += operations_of(operation)
    return found


def paths(model, pruned, plan):
    """The rare paths that this graph took."""
    lines = " | ".join(why for row in plan.rows for why in row.why)
    found = {name for text, name in WHYS.items() if text in lines}
    before, after = (
        collections.Counter(type(o).__name__ for o in operations_of(m))
        for m in (model, pruned)
    )
    if after["Take"] > before["Take"]:
        found.add("gather")
    offsets = [
        {o.name for o in operations_of(m) if np.any(getattr(o, "offset", 0))}
        for m in (model, pruned)
    ]
    if offsets[1] - offsets[0]:
        found.add("offset")
    return found


def census(verdicts):
    """How often each outcome and each rare path came up."""
    kinds = collections.Counter(v.kind.split(":")[0] for v in verdicts)
    kinds["flat"] = sum(v.flat for v in verdicts)
    rare = collections.Counter(f for v in verdicts for f in v.features)
    return kinds, rare
