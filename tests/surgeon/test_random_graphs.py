"""Random graphs: what is pruned equals the original with zeros for gates."""

import hypothesis
import hypothesis.strategies
import keras
import numpy as np
import pytest

from keras_gates import LayerGate
from keras_gates import surgeon
from tests import helpers
from tests.surgeon import random_graphs
from tests.surgeon.judge import RARE
from tests.surgeon.judge import census
from tests.surgeon.judge import judge

# JAX compiles each shape of each operation anew, so that a graph takes some
# ten times as long.
CHUNK, QUICK = (10, 1) if keras.backend.backend() == "jax" else (25, 1)
CHUNKS = [
    pytest.param(i, marks=[pytest.mark.slow] * (i >= QUICK), id=f"{i * CHUNK}")
    for i in range(10)
]
FEW = [3, 11, 26, 40, 57]


def pruned_case(seed, closing="half"):
    """A case that is not refused: `(model, inputs, pruned)`, or a skip."""
    case, x = random_graphs.prepared(seed, closing=closing)
    try:
        return case.model, x, surgeon.prune(case.model, helpers.THRESHOLD)
    except ValueError as error:
        pytest.skip(str(error)[:60])


def checked(seeds, record_property):
    """How often each outcome and path came up; none may be a failure."""
    verdicts = [judge(seed) for seed in seeds]
    failures = [f"seed {v.seed}: {v.kind}" for v in verdicts if v.failed]
    assert not failures, "\n" + "\n".join(failures)
    kinds, rare = census(verdicts)
    record_property("kinds", dict(kinds))
    record_property("rare paths", {name: rare[name] for name in RARE})
    # Else the graphs would prove little.
    assert kinds["same"] >= len(verdicts) // 2, kinds
    assert kinds["flat"] <= len(verdicts) // 4, kinds
    return rare


@pytest.mark.parametrize("chunk", CHUNKS)
def test_pruned_equals_gated_with_zeros(chunk, record_property):
    checked(range(chunk * CHUNK, (chunk + 1) * CHUNK), record_property)


BLOCKS = frozenset(range(5))
GRAPHS = hypothesis.strategies.tuples(
    hypothesis.strategies.integers(0, 2**32 - 1),
    hypothesis.strategies.frozensets(
        hypothesis.strategies.sampled_from(sorted(BLOCKS)), min_size=1
    ),
    hypothesis.strategies.sampled_from(random_graphs.CLOSINGS),
)


@pytest.mark.parametrize("chunk", CHUNKS[:6])
def test_no_graph_is_found_that_differs(chunk):
    """Hypothesis draws the graph; a failing one loses blocks as it shrinks."""

    @hypothesis.seed(chunk)
    @hypothesis.settings(
        max_examples=CHUNK,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(GRAPHS)
    def holds(graph):
        seed, left, closing = graph
        verdict = judge(seed, BLOCKS - left, closing)
        assert not verdict.failed, verdict.kind

    holds()


@pytest.mark.slow
def test_rare_paths_are_taken(record_property):
    """The graphs do reach what is hard."""
    rare = checked(range(10_000, 10_100), record_property)
    least = {"barrier": 1}  # hardly any layer bars
    assert all(rare[name] >= least.get(name, 3) for name in RARE), rare


# Invariants ------------------------------------------------------------------


def by_name(config):
    """A functional model's config, whatever the order of what it lists.

    Layers are keyed by name. The calls of a shared layer are numbered in the
    order that they were made in, which says nothing; so a call is told by
    what it is called on, down to the inputs, instead of by its number.
    """
    layers = {layer["name"]: dict(layer) for layer in config["layers"]}
    calls = {name: layers[name].pop("inbound_nodes") for name in layers}

    def told(x):
        if isinstance(x, dict) and x.get("class_name") == "__keras_tensor__":
            name, number, position = x["config"]["keras_history"]
            before = calls[name][number] if calls[name] else ()
            return name, position, told(before)
        if isinstance(x, dict):
            return {key: told(value) for key, value in x.items()}
        return [told(i) for i in x] if isinstance(x, (list, tuple)) else x

    for name, layer in layers.items():
        layer["calls"] = sorted(str(told(call)) for call in calls[name])
        if "layers" in layer["config"]:
            layer["config"] = by_name(layer["config"])
    return {
        "layers": layers,
        "inputs": config["input_layers"],
        "outputs": keras.tree.map_structure(type, config["output_layers"]),
    }


@pytest.mark.parametrize("seed", range(1000, 1012))
def test_gates_that_are_all_one_leave_the_model_as_it_was(seed):
    gated, x = random_graphs.prepared(seed, closing="ones")
    if not helpers.gates_of(gated.model):
        pytest.skip("no gates")
    pruned = surgeon.prune(gated.model, helpers.THRESHOLD)
    bare = random_graphs.build(seed, gated=False).model
    values = {w.path: w for w in gated.model.weights}
    for weight in bare.weights:
        weight.assign(values[weight.path])
    assert by_name(pruned.get_config()) == by_name(bare.get_config())
    assert sorted(w.path for w in pruned.weights) == sorted(
        w.path for w in bare.weights
    )
    for a, b in zip(helpers.run(pruned, x), helpers.run(bare, x), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", FEW)
def test_pruning_again_changes_nothing(seed):
    model, x, pruned = pruned_case(seed)
    start = keras.tree.map_structure(
        lambda kt: keras.Input(kt.shape[1:], name=kt.name),
        helpers.functional(pruned)._inputs_struct,
    )
    first = keras.tree.flatten(start)[0]
    gate = LayerGate(name="one")(first)
    taken = keras.tree.map_structure(
        lambda kt: gate if kt is first else kt, start
    )
    again = surgeon.prune(keras.Model(start, pruned(taken)), 0.5)
    inner = again.get_layer(pruned.name)
    assert by_name(inner.get_config()) == by_name(pruned.get_config())
    for a, b in zip(inner.weights, pruned.weights, strict=True):
        np.testing.assert_array_equal(helpers.numpy_of(a), helpers.numpy_of(b))


@pytest.mark.parametrize("seed", FEW)
def test_the_result_is_a_model_like_any_other(seed, tmp_path):
    model, x, pruned = pruned_case(seed)
    expected = helpers.run(pruned, x)
    pruned.save(tmp_path / "pruned.keras")
    # No custom object is known: stock layers must be enough.
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    cloned = keras.models.clone_model(pruned)
    cloned.set_weights(pruned.get_weights())
    for twin in (loaded, cloned):
        for a, b in zip(helpers.run(twin, x), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", FEW)
def test_no_memory_is_shared_with_the_original(seed):
    model, x, pruned = pruned_case(seed)
    before = helpers.fingerprint(model)
    helpers.bump(pruned)
    assert helpers.fingerprint(model) == before


@pytest.mark.parametrize("seed", FEW)
def test_a_plan_survives_json(seed):
    case, x = random_graphs.prepared(seed, closing="half")
    try:
        plan = surgeon.plan(case.model, helpers.THRESHOLD)
    except ValueError as error:
        pytest.skip(str(error)[:60])
    read = surgeon.Plan.from_json(plan.to_json(), case.model)
    assert str(read) == str(plan)
    a, b = plan.apply(), read.apply()
    assert a.get_config() == b.get_config()
    assert helpers.weights_digest(a) == helpers.weights_digest(b)


@pytest.mark.parametrize("seed", range(2000, 2010))
def test_closing_more_never_adds(seed):
    """Parameters fall, but for biases that absorb constants."""
    case, x = random_graphs.prepared(seed, closing="none")
    rng = np.random.default_rng(seed)
    for gate in helpers.gates_of(case.model):
        gate.factor.assign(rng.uniform(0, 1, gate.factor.shape))
    sizes = []
    for threshold in (0.0, 0.2, 0.4, 0.6, 0.8):
        if not helpers.gates_of(case.model):
            pytest.skip("no gates")
        try:
            pruned = surgeon.prune(case.model, threshold)
        except ValueError:
            break
        biases = sum(
            int(np.prod(w.shape)) for w in pruned.weights if w.name == "bias"
        )
        sizes.append(pruned.count_params() - biases)
    assert sizes == sorted(sizes, reverse=True)
