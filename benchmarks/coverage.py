"""Networks of keras.applications, pruned and compared.

    KERAS_BACKEND=torch python benchmarks/coverage.py [--models ...]

Prunes each of the networks in four ways, compares it with its gated original,
and adds a row to benchmarks/results/coverage-BACKEND.json after each network,
so that it may be interrupted and goes on where it was.

The cases: "after" closes half of the coupled channel groups behind the
normalisations and activations; "before" closes half of those of the layers
with kernels, whose channels then hold constants other than zero; "branches"
closes 40 % of the residual branches altogether; "identity" closes nothing.

Weights are random. The statistics of the normalisations are those of real
activations, disturbed, so that the outputs vary with the inputs.
"""

import argparse
import gc
import inspect
import json
import os
import pathlib
import time

import keras
import numpy as np

import keras_gates as kg
from keras_gates.surgeon import analysis
from keras_gates.surgeon import graph as gr
from keras_gates.surgeon.rebuild import rebuild
from keras_gates.surgeon.solve import solve
from keras_gates.surgeon.verify import closed_gates

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CASES = ("after", "before", "branches", "identity")
BEFORE = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
)
AFTER = (
    keras.layers.BatchNormalization,
    keras.layers.Activation,
    keras.layers.ReLU,
)


def networks():
    """The names of all models of keras.applications, in order."""
    found = []
    for name, value in vars(keras.applications).items():
        if inspect.isfunction(value) and name[0].isupper():
            found.append(name)
    return sorted(found)


def build(name):
    """A network with small inputs and 10 outputs, not yet normalised."""
    function = getattr(keras.applications, name)
    options = {"weights": None, "classes": 10, "classifier_activation": None}
    known = inspect.signature(function).parameters
    options = {k: v for k, v in options.items() if k in known}
    for size in (64, 75, 96, 128, 224, 331):
        try:
            return function(input_shape=(size, size, 3), **options)
        except ValueError:
            continue
    return function(**options)


def disturb(model, rng):
    """Random scales and shifts, and statistics of real activations."""
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for weight in model.weights:
        kind = weight.path.rpartition("/")[2]
        if kind in ("gamma", "beta", "bias"):
            middle = 1.0 if kind == "gamma" else 0.0
            value = middle + rng.normal(0, 0.2, weight.shape)
            weight.assign(value.astype("float32"))
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    x = rng.normal(size=(8, *model.input_shape[1:])).astype("float32")
    model(keras.ops.convert_to_tensor(x), training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        mean = keras.ops.convert_to_numpy(layer.moving_mean)
        deviation = np.sqrt(keras.ops.convert_to_numpy(layer.moving_variance))
        shift = 0.1 * deviation * rng.normal(size=mean.shape)
        layer.moving_mean.assign((mean + shift).astype("float32"))


def gated(model, types, kind=kg.FilterGate):
    """A copy with a gate behind each layer of these types."""

    def call(layer, *args, **kwargs):
        x = layer(*args, **kwargs)
        if isinstance(layer, types) and layer.output is not model.output:
            axis = {"axis": -1} if kind is kg.FilterGate else {}
            x = kind(name=f"gate_{layer.name}", **axis)(x)
        return x

    copy = keras.models.clone_model(model, call_function=call)
    return _with_weights(copy, model)


def with_branch_gates(model):
    """A copy with a BranchGate on the branch of each residual addition."""
    adds = (
        keras.layers.Add,
        gr.layer_class("applications.inception_resnet_v2.CustomScaleLayer"),
    )

    def call(layer, *args, **kwargs):
        if isinstance(layer, adds):
            operands = list(args[0])
            side = 1 if type(layer) is adds[1] else _branch_of(operands)
            gate = kg.BranchGate(name=f"gate_{layer.name}")
            operands[side] = gate(operands[side])
            args = (operands, *args[1:])
        return layer(*args, **kwargs)

    copy = keras.models.clone_model(model, call_function=call)
    return _with_weights(copy, model)


def _branch_of(operands):
    """The operand of an addition that comes a longer way."""
    return int(np.argmax([_depth(x) for x in operands]))


def _depth(x):
    """How many calls lie behind a tensor, up to the addition before."""
    depth = 0
    while x._keras_history.operation._inbound_nodes[0].input_tensors:
        op = x._keras_history.operation
        if isinstance(op, keras.layers.Add) or depth > 40:
            break
        x = op._inbound_nodes[0].input_tensors[0]
        depth += 1
    return depth


def _with_weights(copy, model):
    for layer in copy.layers:
        if not layer.name.startswith("gate_") and layer.weights:
            twin = model.get_layer(layer.name)
            for new, old in zip(layer.weights, twin.weights, strict=True):
                new.assign(old)
    return copy


def close_groups(model, rng, share=0.5):
    """Close this share of the coupled groups of gated channels.

    Returns `{gate name: boolean array}`; never a whole gate.
    """
    labelling = analysis.label(gr.read(model))
    shut = rng.random(len(labelling.classes)) < share
    closed = {}
    for step in labelling.steps:
        if not step.is_gate:
            continue
        ids = step.flow.roles.get("channel")
        if ids is None:
            mask = np.zeros(step.call.op.factor.shape, bool)
        else:
            mask = shut[labelling.classes[ids]]
            if mask.all():
                mask[0] = False
        closed[step.path] = mask
        if ids is not None:
            shut[labelling.classes[ids[~mask]]] = False
    return closed


def close_branches(model, rng, share=0.4):
    names = [layer.name for layer in model.layers if "gate_" in layer.name]
    gone = rng.random(len(names)) < share
    return {n: np.array(g) for n, g in zip(names, gone, strict=True)}


def one_case(model, case, rng):
    """The row of one case, without the name."""
    if case == "identity":
        return _identity(model, rng)
    if case == "branches":
        gates = with_branch_gates(model)
        closed = close_branches(gates, rng)
        if not closed:
            return None
    else:
        gates = gated(model, AFTER if case == "after" else BEFORE)
        closed = close_groups(gates, rng)
    for layer in gates.layers:
        if layer.name in closed and np.ndim(closed[layer.name]):
            factor = rng.uniform(0.7, 1.3, layer.factor.shape)
            layer.factor.assign(factor.astype("float32"))
    start = time.perf_counter()
    solution = solve(gr.read(gates), closed)
    small = rebuild(solution.graph, solution.decision, solution.folds)
    seconds = time.perf_counter() - start
    return {
        **_compare(gates, closed, small, rng),
        "params": [gates.count_params(), small.count_params()],
        "seconds": round(seconds, 3),
        "scales": len(solution.folds.scales),
        "barriers": _barriers(solution),
    }


def _identity(model, rng):
    graph = gr.read(model)
    solution = solve(graph, {})
    start = time.perf_counter()
    same = rebuild(graph, solution.decision, solution.folds)
    seconds = time.perf_counter() - start
    return {
        **_compare(model, {}, same, rng),
        "params": [model.count_params(), same.count_params()],
        "seconds": round(seconds, 3),
        "scales": 0,
        "barriers": _barriers(solution),
        "same_names": [o.name for o in model.operations]
        == [o.name for o in same.operations],
        "same_config": model.get_config() == same.get_config(),
    }


def _barriers(solution):
    return sorted(
        {
            f"{type(s.call.op).__name__}: {s.flow.reason}"
            for s in solution.labelling.steps
            if s.flow.reason is not None
        }
    )


def _compare(model, closed, small, rng):
    """The largest relative difference, and what a nudge of 1e-7 does."""
    x = rng.normal(size=(3, *model.input_shape[1:])).astype("float32")
    nudge = 1 + 1e-7 * rng.choice([-1.0, 1.0], x.shape)
    with closed_gates(model, closed):
        expected = model.predict(x, verbose=0)
        nudged = model.predict((x * nudge).astype("float32"), verbose=0)
    got = small.predict(x, verbose=0)
    scale = np.abs(expected).max()
    return {
        "difference": float(np.abs(expected - got).max() / scale),
        "conditioning": float(np.abs(expected - nudged).max() / scale),
        "variation": float(expected.std(axis=0).mean() / scale),
    }


def run(names, cases):
    backend = keras.backend.backend()
    path = RESULTS / f"coverage-{backend}.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for number, name in enumerate(names):
        if name in rows and all(case in rows[name] for case in cases):
            continue
        rng = np.random.default_rng(number)
        row = rows.setdefault(name, {})
        try:
            model = build(name)
            disturb(model, rng)
            for case in cases:
                row[case] = one_case(model, case, rng)
                _say(number, len(names), name, case, row[case])
                gc.collect()
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"
            print(f"{name}: {row['error'][:300]}", flush=True)
        _write(path, json.dumps(rows, indent=1))
        keras.backend.clear_session()


def _say(number, count, name, case, row):
    if row is None:
        return
    before, after = row["params"]
    print(
        f"[{number + 1:2}/{count}] {name:<20} {case:<9} "
        f"{after / before:6.3f} of the parameters, difference "
        f"{row['difference']:.1e} (a nudge: {row['conditioning']:.1e}), "
        f"{row['seconds']:.2f} s",
        flush=True,
    )


def _write(path, text):
    """Write beside and rename, so that a kill leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(text)
    os.replace(beside, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="*", default=None)
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES)
    options = parser.parse_args()
    run(options.models or networks(), options.cases)


if __name__ == "__main__":
    main()
