"""Prunes networks of other packages and compares them with the truth.

    pip install --no-deps --target DIR kimm medicai keras-hub k3im ...
    KERAS_BACKEND=torch python benchmarks/zoo.py --packages DIR [NAME ...]

Each network, with random weights, is pruned twice, in a separate process with
limits of time and memory: by scores ("l2", half of each group), and by gates
from `insert_gates`, with half of the factors of each at 0. The first is
compared by `verify`, which runs the user's own model with the closed channels
at 0; the second with what the gated model itself predicts, too.

A line of JSON for each network is added to
benchmarks/results/zoo-BACKEND.jsonl; a network that has a line is left out, so
that a run may be interrupted and goes on where it was. `--again` runs the
named networks again. `coverage_report.py` makes the docs of the lines.
"""

import argparse
import collections
import datetime
import fnmatch
import json
import multiprocessing
import pathlib
import resource
import signal
import sys
import time
import traceback
import warnings
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import coverage_zoo
import keras
import numpy as np
import zoo_networks

import keras_gates as kg
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.passes.label import label
from tests import helpers

sys.setrecursionlimit(10_000)
RESULTS = pathlib.Path(__file__).resolve().parent / "results"
CASES = coverage_zoo.CASES
SAMPLES, STEPS, WORDS = 4, 10, 40
# Seconds of one case, building aside, on one core.
LIMIT = 60
# Times this many seconds by the clock, on a machine busy with other work.
PATIENCE = 30
# What a process may hold besides what its parent does, in GiB.
MEMORY = 8


class TooLong(Exception):
    """A case takes longer than it may."""


# Weights and inputs -----------------------------------------------------------


def inputs(model, rng, count=SAMPLES):
    """Random inputs: tokens for whole numbers, with a mask of their ends."""

    def sample(kt):
        sizes = [STEPS if size is None else size for size in kt.shape[1:]]
        shape = (count, *sizes)
        if keras.backend.is_float_dtype(kt.dtype):
            return rng.normal(size=shape).astype(kt.dtype)
        if "mask" in kt.name or kt.dtype == "bool":
            ends = rng.integers(shape[1] // 2, shape[1] + 1, (count, 1))
            return (np.arange(shape[1]) < ends).astype(kt.dtype)
        most = 2 if "segment" in kt.name else WORDS
        return rng.integers(min(1, most - 2), most, shape).astype(kt.dtype)

    return keras.tree.map_structure(
        sample, helpers.functional(model)._inputs_struct
    )


def disturb(model, rng):
    """Draw what initializers make all alike, as training could have left it."""
    for weight in model.weights:
        value = helpers.numpy_of(weight)
        floats = keras.backend.is_float_dtype(weight.dtype)
        if floats and weight.trainable and np.ptp(value) == 0:
            # A scale near 0 would hide its branch.
            middle = 0.0 if value.flat[0] == 0 else 1.0
            weight.assign(middle + rng.normal(0, 0.2, value.shape))
    norms = [
        layer
        for layer in helpers.layers_of(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(inputs(model, rng, 16), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean = helpers.numpy_of(norm.moving_mean)
        variance = helpers.numpy_of(norm.moving_variance)
        variance = np.maximum(variance, 0.1 * variance.mean() + 1e-6)
        shift = 0.1 * np.sqrt(variance) * rng.normal(size=mean.shape)
        norm.moving_mean.assign(mean + shift)
        norm.moving_variance.assign(variance)


# Cases ------------------------------------------------------------------------


def by_scores(model, x, rng):
    """Half of each group by the norms of its kernels."""
    try:
        scores = kg.surgeon.score(model, "l2")
    except ValueError as error:
        if "no channel" not in str(error).lower():
            raise
        return {"left": 1.0, "nothing": str(error)}
    rule = kg.Quantile(0.5, scope="gate")
    plan = kg.surgeon.plan(model, rule, scores=scores)
    small = plan.apply()
    return {
        **left(model, small),
        "verify": largest(plan.verify(small, x)),
    }


def by_gates(model, x, rng):
    """Half of the factors of each gate at 0."""
    try:
        gated = kg.insert_gates(model, filters=1e-4)
    except ValueError as error:
        if "can get gates" not in str(error):
            raise
        return {"left": 1.0, "nothing": str(error)}
    for gate in helpers.gates_of(gated):
        shape = tuple(gate.factor.shape)
        shut = rng.permutation(shape[0]) < shape[0] // 2
        gate.factor.assign(np.where(shut, 0.0, rng.uniform(0.7, 1.3, shape)))
    small = kg.surgeon.prune(gated, 0.5)
    expected, got = (predicted(m, x) for m in (gated, small))
    return {
        **left(model, small),
        "gates": len(helpers.gates_of(gated)),
        "truth": max(helpers.differences(expected, got)),
        "verify": largest(kg.surgeon.verify(gated, small, 0.5, x)),
    }


def left(model, small):
    sizes = _size(model), _size(small)
    return {"left": sizes[1] / sizes[0]}


def _size(model):
    return model.count_params()


def largest(found):
    return max(float(value) for value in found.values())


def predicted(model, x):
    outputs = keras.tree.flatten(model.predict(x, verbose=0))
    return [np.asarray(y, "float64") for y in outputs]


def barriers(model):
    """What keeps channels in the model, and which layers stay closed."""
    graph = expand.read(model)
    found = {
        f"{type(s.call.op).__name__}: {s.flow.reason}"
        for s in label(graph).steps
        if s.flow.reason is not None
    }
    opaque = {
        f"{type(site.op).__name__}: {site.opaque}"
        for each in [graph, *graph.nested()]
        for site in each.sites
        if site.opaque
    }
    fixed = {
        f"{type(site.op).__name__}: {site.opened.fixed}"
        for each in [graph, *graph.nested()]
        for site in each.sites
        if site.opened is not None and site.opened.fixed
    }
    return {
        "barriers": sorted(found),
        "opaque": sorted(opaque),
        "fixed": sorted(fixed),
    }


# One network in its process ---------------------------------------------------


def _too_long(*_):
    raise TooLong(f"more than {LIMIT} s")


def timed(function, *args):
    """The row of a part, with its seconds, or the error in its place."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    start = time.process_time()
    try:
        row = function(*args)
    except Exception as error:
        text = " ".join(str(error).split())
        row = {
            "error": f"{type(error).__name__}: {text[:400]}",
            "traceback": traceback.format_exc()[-3000:],
        }
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {**row, "seconds": round(time.process_time() - start, 2)}


def network(name, cases):
    """The row of a network."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    keras.utils.set_random_seed(0)
    row = {"name": name, "date": str(datetime.date.today())}
    try:
        model = zoo_networks.networks()[name]()
        disturb(model, rng)
    except Exception as error:
        text = " ".join(str(error).split())
        return {**row, "unbuilt": f"{type(error).__name__}: {text[:300]}"}
    x = inputs(model, rng)
    before = predicted(model, x)
    nudged = predicted(model, _nudged(x, rng))
    row["params"] = model.count_params()
    row["conditioning"] = max(helpers.differences(before, nudged))
    row["variation"] = min(helpers.variation(before))
    made = {"scores": by_scores, "gates": by_gates}
    for case in cases:
        row[case] = timed(made[case], model, x, rng)
    after = predicted(model, x)
    same = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    row["untouched"] = same
    row.update(timed(barriers, model))
    return row


def _nudged(x, rng):
    def nudge(array):
        if array.dtype.kind != "f":
            return array
        step = helpers.PROBE * np.abs(array).max()
        return array + rng.choice([-step, step], array.shape).astype("float32")

    return keras.tree.map_structure(nudge, x)


def _child(row_of, name, cases, queue):
    warnings.simplefilter("ignore")
    if keras.backend.backend() == "torch":  # others map far more than they use
        most = _mapped() + MEMORY * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGPROF, _too_long)
    try:
        queue.put(row_of(name, cases))
    except BaseException as error:
        text = " ".join(str(error).split())
        queue.put({"name": name, "crashed": f"{type(error).__name__}: {text}"})
        raise


def _mapped():
    pages = pathlib.Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()


def apart(name, cases, row_of=network):
    """The row of a network, run in a process of its own."""
    # What torch has not computed yet may be forked, which saves the imports.
    method = "fork" if keras.backend.backend() == "torch" else "spawn"
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(row_of, name, cases, queue))
    process.start()
    ends = time.monotonic() + PATIENCE * LIMIT
    while queue.empty() and process.is_alive() and time.monotonic() < ends:
        time.sleep(0.05)
    row = {"name": name, "crashed": "the process ended without a word"}
    if not queue.empty():
        row = queue.get()
    elif process.is_alive():
        row = {"name": name, "crashed": f"hung for {PATIENCE * LIMIT} s"}
    process.join(5)
    if process.is_alive():
        process.kill()
    return row


# All --------------------------------------------------------------------------


def summary(rows):
    """The lines of a table of all networks, and of what bars."""
    yield f"{'network':<36} {'scores':>7} {'gates':>7}  off by  verdicts"
    for name, row in rows.items():
        if "unbuilt" in row or "crashed" in row:
            yield f"{name:<36} {row.get('unbuilt') or row['crashed']}"[:110]
            continue
        left = [row[c].get("left", float("nan")) for c in CASES]
        worst = coverage_zoo.difference(row)
        words = " ".join(coverage_zoo.verdict(row, c) for c in CASES)
        yield f"{name:<36} {left[0]:7.3f} {left[1]:7.3f} {worst:8.0e}  {words}"
    for case in CASES:
        counts = collections.Counter(
            coverage_zoo.verdict(r, case) for r in rows.values()
        )
        yield f"{case}: {dict(counts)}"
    for key in ("opaque", "fixed", "barriers"):
        met = collections.Counter(
            text for row in rows.values() for text in row.get(key, ())
        )
        yield f"--- {key}"
        yield from (f"{n:3} {text[:150]}" for text, n in met.most_common())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["*"])
    parser.add_argument("--packages", type=pathlib.Path, default=None)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--to", type=pathlib.Path, default=None)
    options = parser.parse_args()
    if options.packages is not None:
        sys.path.append(str(options.packages))
    backend = keras.backend.backend()
    path = options.to or RESULTS / f"zoo-{backend}.jsonl"
    rows = coverage_zoo.read(path)
    for name in zoo_networks.networks():
        wanted = any(fnmatch.fnmatch(name, n) for n in options.names)
        if options.summary or not wanted:
            continue
        if name in rows and not options.again:
            continue
        rows[name] = row = apart(name, CASES)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        words = [coverage_zoo.verdict(row, case) for case in CASES]
        print(name, *words, flush=True)
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
