"""Prunes backbones of KerasHub and compares them with the truth.

    pip install --no-deps --target DIR keras-hub tokenizers sentencepiece
    KERAS_BACKEND=torch python benchmarks/hub.py --packages DIR [NAME ...]

Each backbone is made from a small config, with random weights. Half of each
group is removed, by the norms of its kernels ("l2"), in up to four ways:

- "inside": heads, hidden layers, and everything else except the outputs, whose
  width a backbone must keep;
- "width": with a `Dense` layer after each output, so that the stream is pruned,
  too;
- "depth": every other block, by `insert_gates(blocks=..., written_out=False)`,
  or the branches that it finds;
- "gates": those of `insert_gates(filters=...)` after the convolutions of a
  network of convolutions, half of the factors of each at 0.

Each is compared by `verify`, which runs the backbone itself with the closed
channels at 0, and with another truth, which uses nothing of ours but the list
of closed channels: the backbone with zeros in its weights (see `zeroed`), or
with zeros in the factors of its gates.

A line of JSON a backbone goes to benchmarks/results/hub-BACKEND.jsonl. A
backbone that has a line is left out, so that a run may be interrupted and goes
on where it was. `coverage_report.py` makes the docs of the lines.
"""

import argparse
import datetime
import fnmatch
import json
import pathlib
import sys
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import coverage_hub
import hub_networks
import keras
import numpy as np
import zoo

import keras_gates as kg
from keras_gates.surgeon.plan import Options
from keras_gates.surgeon.plan import _solved
from tests import helpers

CASES = coverage_hub.CASES
HALF = kg.Quantile(0.5, scope="gate")
# Head counts of keys that several heads of queries read.
_HEADS = (hub_networks.HEADS, hub_networks.SERVED)


class Nothing(Exception):
    """There is nothing to close in this way."""


# Cases ------------------------------------------------------------------------


def inside(network, model, x, rng):
    """Half of each group of a backbone."""
    return _by_scores(network, model, x)


def width(network, model, x, rng):
    """Half of each group of a backbone whose outputs are read."""
    return _by_scores(network, _read(model), x)


def _by_scores(network, model, x):
    try:
        scores = kg.surgeon.score(model, "l2")
    except ValueError as error:
        if "no channel" not in str(error).lower():
            raise
        raise Nothing(str(error)) from error
    plan, small = _pruned(model, HALF, scores)
    row = _outcome(model, small, plan)
    row["closed"] = _closed(scores, plan.closed)
    row["verify"] = zoo.largest(plan.verify(small, x))
    if network.told:
        row["truth"] = _against_zeros(model, small, scores, plan.closed, x)
    return row


def _pruned(model, thresholds, scores=None):
    """A plan and its model; solved once, since to find a config takes long."""
    options = Options(True, 1, False, written_out=None)
    plan, solution = _solved(model, thresholds, scores, 0, options)
    return plan, plan.built_from(solution, False)


def depth(network, model, x, rng):
    """Every other block of a backbone, or half of its branches."""
    if not network.depth:
        raise Nothing("it has no blocks that are layers")
    try:
        gated = kg.insert_gates(model, blocks=1e-4, written_out=False)
    except ValueError:
        gated = kg.insert_gates(model, branches=1e-4)
    gates = helpers.gates_of(gated)
    shut = gates[1::2] or gates
    for gate in shut:
        gate.factor.assign(np.zeros(gate.factor.shape))
    row = _by_gates(gated, model, x)
    counts = [len(shut), len(gates)]
    return {**row, "closed": {type(gates[0]).__name__: counts}}


def gates(network, model, x, rng):
    """Half of the factors of the gates after convolutions."""
    if network.depth:
        raise Nothing("it is no network of convolutions")
    model = _read(model)
    gated = kg.insert_gates(model, filters=1e-4)
    for gate in helpers.gates_of(gated):
        shape = tuple(gate.factor.shape)
        shut = rng.permutation(shape[0]) < shape[0] // 2
        gate.factor.assign(np.where(shut, 0.0, rng.uniform(0.7, 1.3, shape)))
    return _by_gates(gated, model, x)


def _by_gates(gated, model, x):
    plan, small = _pruned(gated, 0.5)
    expected, got = (zoo.predicted(m, x) for m in (gated, small))
    return {
        **_outcome(model, small, plan),
        "truth": max(helpers.differences(expected, got)),
        "verify": zoo.largest(plan.verify(small, x)),
    }


def _read(model):
    """The backbone with a layer after each output but a pooled one.

    What pools a sequence has a layer as wide as the stream, which is another
    group of that size.
    """
    outputs = [
        keras.layers.Dense(3, name=f"read_{place}")(y)
        for place, y in enumerate(keras.tree.flatten(model.output))
        if len(y.shape) > 2
    ]
    return keras.Model(model.input, outputs)


def _outcome(model, small, plan):
    """What is left, and what became of classes, as the plan's notes say."""
    kept = [note for note in plan.notes if "keeps its class, with" in note]
    out = [note for note in plan.notes if "is written out" in note]
    stay = [note for note in plan.notes if "stay" in note or "nothing" in note]
    return {
        **zoo.left(model, small),
        "class": type(small) is type(model),
        "kept": kept,
        "written_out": out,
        "stay": stay,
    }


def _closed(scores, closed):
    """`{kind: [channels that go, of how many]}`."""
    found = {}
    for name, values in scores.items():
        kind = _kind(name, np.size(values))
        row = found.setdefault(kind, [0, 0])
        row[0] += len(closed.get(name, ()))
        row[1] += np.size(values)
    return found


def _kind(name, size):
    if name.endswith("/heads") or size in _HEADS:
        return "heads"
    kinds = {hub_networks.INNER: "hidden", hub_networks.WIDTH: "width"}
    return kinds.get(size, "other")


# The second truth -------------------------------------------------------------


def _against_zeros(model, small, scores, closed, x):
    """How far the smaller model is from the model with zeros in its weights.

    Returns None where the zeros of a group can't be told by its name.
    """
    before = model.get_weights()
    try:
        for name, channels in closed.items():
            size = np.size(scores[name])
            if channels and not zeroed(model, name, size, channels):
                return None
        expected = zoo.predicted(model, x)
    finally:
        model.set_weights(before)
    got = zoo.predicted(small, x)
    return max(helpers.differences(expected, got))


def zeroed(model, name, size, channels):
    """Put zeros where the weights of a model hold closed channels.

    The sizes of the backbones are such that an axis of that many entries holds
    just these channels: of any weight for the stream, of the weights of an
    attention for its heads, and of those of the layer around it for a hidden
    layer. The rows of what reads them are zeros, too, and so are the scale and
    shift of a normalization: closed channels are zero wherever they are read.

    Returns:
        Of how many weights.
    """
    inside = name.removesuffix("/heads")
    if inside == name:
        inside = name.rpartition("/")[0]
    if _kind(name, size) == "width":
        inside = ""
    elif _kind(name, size) == "other":
        return 0
    count = 0
    for weight in model.weights:
        if inside and f"/{inside}/" not in f"/{weight.path}":
            continue
        value = helpers.numpy_of(weight).copy()
        axes = [axis for axis, n in enumerate(value.shape) if n == size]
        for axis in axes:
            np.moveaxis(value, axis, 0)[channels] = 0
        if axes:
            weight.assign(value)
            count += 1
    return count if count > 1 else 0


# One backbone in its process --------------------------------------------------


def backbone(name, cases):
    """The row of a backbone."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    keras.utils.set_random_seed(0)
    row = {"name": name, "date": str(datetime.date.today())}
    network = hub_networks.networks()[name]
    try:
        model = network.build()
        zoo.disturb(model, rng)
        x = zoo.inputs(model, rng)
        before = zoo.predicted(model, x)
    except Exception as error:
        text = " ".join(str(error).split())
        return {**row, "unbuilt": f"{type(error).__name__}: {text[:300]}"}
    row["params"] = model.count_params()
    row["conditioning"] = _conditioning(model, x, before, rng)
    for case in cases:
        row[case] = zoo.timed(_case, globals()[case], network, model, x, rng)
    after = zoo.predicted(model, x)
    same = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    row["untouched"] = same
    row.update(zoo.timed(zoo.barriers, model))
    return row


def _case(function, *args):
    try:
        return function(*args)
    except Nothing as why:
        return {"nothing": str(why)}


def _conditioning(model, x, before, rng):
    """What a nudge of 1e-7 on all weights makes of the outputs."""
    kept = model.get_weights()
    for weight in model.trainable_weights:
        value = helpers.numpy_of(weight)
        steps = rng.choice([-helpers.PROBE, helpers.PROBE], value.shape)
        weight.assign(value * (1 + steps))
    nudged = zoo.predicted(model, x)
    model.set_weights(kept)
    return max(helpers.differences(before, nudged))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["*"])
    parser.add_argument("--packages", type=pathlib.Path, default=None)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--to", type=pathlib.Path, default=None)
    options = parser.parse_args()
    if options.packages is not None:
        sys.path.append(str(options.packages))
    import keras_hub  # noqa: F401  once for all processes that are forked

    path = options.to or zoo.RESULTS / f"hub-{keras.backend.backend()}.jsonl"
    path.parent.mkdir(exist_ok=True)
    rows = coverage_hub.read(path)
    for name in hub_networks.networks():
        wanted = any(fnmatch.fnmatch(name, n) for n in options.names)
        if not wanted or (name in rows and not options.again):
            continue
        rows[name] = row = zoo.apart(name, CASES, backbone)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(name, *coverage_hub.words(row), flush=True)


if __name__ == "__main__":
    main()
