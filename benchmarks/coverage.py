"""Prunes published networks and compares them with the truth.

    KERAS_BACKEND=torch python benchmarks/coverage.py [--suite S] [NAME ...]

Prunes each network in four ways, compares it with its gated original, and
adds a row to benchmarks/results/coverage-SUITE-BACKEND.json after each, so that
it may be interrupted and goes on where it was. `coverage_report.py` makes
the coverage pages of the rows.

The cases: "after" closes half of the coupled channel groups after the
normalizations and activations; "before" closes half of those of the layers
with kernels, whose channels then hold constants other than zero; "branches"
closes 40 % of the residual branches altogether; "identity" closes nothing.
The networks of the suite "beyond" have gates of their own, and one case.

Weights are random. The statistics of the normalizations are those of actual
activations, perturbed, so that the outputs vary with the inputs.
"""

import argparse
import datetime
import gc
import json
import os
import pathlib
import sys
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# XLA's optimizer takes longer than all else here, and each model runs twice.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import coverage_networks
import keras
import numpy as np

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.build.rebuild import rebuild
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.solving.solve import solve
from tests import helpers
from tests.surgeon import gated_copies

# Keras walks a model's graph by recursion: EfficientNetV2L with gates is a
# path of more than a thousand operations, which it can't make otherwise.
sys.setrecursionlimit(10_000)
RESULTS = pathlib.Path(__file__).resolve().parent / "results"
CASES = ("after", "before", "branches", "identity")
# Closed factors are 0, and open ones near 1.
THRESHOLD = 0.5


def one_case(model, case, rng):
    """The row of one case; None if the network has nothing to close."""
    if case == "identity":
        return _identity(model, rng)
    if case == "gates":
        return _pruned(model, rng)
    if case == "branches":
        gated = gated_copies.with_branch_gates(model)
        gated_copies.close_branches(gated, rng)
    else:
        types = {"after": gated_copies.AFTER, "before": gated_copies.BEFORE}
        gated = gated_copies.with_filter_gates(model, types[case])
        gated_copies.close_groups(gated, rng)
    if not helpers.gates_of(gated):
        return None
    gated_copies.settle(gated, rng)
    return _pruned(gated, rng, approximate=case == "before")


def _pruned(gated, rng, approximate=False):
    start = time.perf_counter()
    small = kg.surgeon.prune(gated, THRESHOLD)
    seconds = time.perf_counter() - start
    plan = kg.surgeon.plan(gated, THRESHOLD)
    sizes = _sizes(gated, small)
    sizes["planned"] = list(plan.params) == sizes["params"]
    sizes["gathers"] = sum("a gather picks" in str(r.why) for r in plan.rows)
    sizes["rescalings"] = sum("Rescaling" in str(r.why) for r in plan.rows)
    if approximate:
        sizes["approximate"] = _approximate(gated, plan)
    return {
        **sizes,
        **_compare(gated, small, rng),
        "barriers": _barriers(gated),
        "seconds": round(seconds, 3),
    }


def _identity(model, rng):
    gated_copies.settle(model, rng)
    graph = gr.read(model)
    start = time.perf_counter()
    solution = solve(graph, {})
    same = rebuild(graph, solution.decision, solution.folds)
    seconds = time.perf_counter() - start
    return {
        **_sizes(model, same),
        **_compare(model, same, rng),
        "barriers": _barriers(model),
        "seconds": round(seconds, 3),
        "same_names": _names(model) == _names(same),
        "same_config": _configs(model, same) == _configs(same, model),
    }


def _names(model):
    return [operation.name for operation in model.operations]


def _configs(model, other):
    """The config of a model; of its layers, if `other` is of another class."""
    if type(model) is type(other):
        return model.get_config()
    return [operation.get_config() for operation in model.operations]


def _sizes(model, small):
    before, after = kg.stats.count(model), kg.stats.count(small)
    return {
        "params": [before.params, after.params],
        "macs": [before.macs, after.macs],
        "unknown": list(before.unknown),
    }


def _approximate(gated, exact):
    """What `exact=False` would leave, and how much more exactness keeps.

    `surplus` is the largest number of channels that one layer has more.
    """
    other = kg.surgeon.plan(gated, THRESHOLD, exact=False)
    pairs = zip(exact.rows, other.rows, strict=True)
    more = {a.layer: (a.after or 0) - (b.after or 0) for a, b in pairs}
    worst = max(more, key=more.get)
    rows = {row.layer: row for row in exact.rows}
    return {
        "params": other.params[1],
        "macs": other.macs[1],
        "surplus": more[worst],
        "layer": worst,
        "why": rows[worst].why,
    }


def _barriers(model):
    labelling = label(gr.read(model))
    return sorted(
        {
            f"{type(s.call.op).__name__}: {s.flow.reason}"
            for s in labelling.steps
            if s.flow.reason is not None
        }
    )


def _compare(model, small, rng):
    """The largest relative difference, and what a nudge of 1e-7 does."""
    x = gated_copies.inputs(model, gated_copies.BATCH, rng)
    nudged = keras.tree.map_structure(lambda a: _nudge(a, rng), x)
    expected, nudged = _outputs(model, x), _outputs(model, nudged)
    got = _outputs(small, x)
    return {
        "difference": max(helpers.differences(expected, got)),
        "conditioning": max(helpers.differences(expected, nudged)),
        "variation": min(helpers.variation(expected)),
    }


def _nudge(array, rng):
    step = helpers.PROBE * np.abs(array).max()
    return array + rng.choice([-step, step], array.shape).astype("float32")


def _outputs(model, x):
    """The outputs of a model; compiled on JAX, where calls are slow."""
    if keras.backend.backend() != "jax":
        return helpers.run(model, x)
    outputs = keras.tree.flatten(model.predict(x, verbose=0))
    return [y.astype("float64") for y in outputs]


def run(suite, names, cases):
    backend = keras.backend.backend()
    path = RESULTS / f"coverage-{suite}-{backend}.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    networks = coverage_networks.SUITES[suite]()
    for number, name in enumerate(names or networks):
        row = rows.setdefault(name, {})
        if all(case in row for case in cases):
            continue
        row.pop("error", None)
        row["date"] = str(datetime.date.today())
        head = f"[{number + 1:2}/{len(names or networks)}] {name:<20}"
        try:
            _fill(row, networks[name], cases, name, head)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"
            print(f"{head} {row['error'][:300]}", flush=True)
        _write(path, json.dumps(rows, indent=1))
        keras.backend.clear_session()
        gc.collect()


def _fill(row, build, cases, name, head):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    keras.utils.set_random_seed(0)
    model = build()
    if cases != ("gates",):
        gated_copies.disturb(model, rng)
    for case in cases:
        row[case] = one_case(model, case, rng)
        if row[case] is not None:
            _say(f"{head} {case:<9}", row[case])


def _say(head, row):
    before, after = row["params"]
    extra = row.get("approximate")
    more = f", not exact {extra['params'] / before:.3f}" if extra else ""
    print(
        f"{head}{after / before:6.3f} of the parameters{more}, difference "
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
    suites = list(coverage_networks.SUITES)
    parser.add_argument("names", nargs="*", default=None)
    parser.add_argument("--suite", default=suites[0], choices=suites)
    options = parser.parse_args()
    cases = ("gates",) if options.suite == "beyond" else CASES
    run(options.suite, options.names, cases)


if __name__ == "__main__":
    main()
