"""Wide random graphs: equal to the truth, or refused with a clear error."""

import hypothesis
import hypothesis.strategies
import keras
import pytest

from tests.surgeon import wide_graphs
from tests.surgeon.wide_judge import census
from tests.surgeon.wide_judge import judge

# Few, and yet with all that a graph can be drawn of; `benchmarks/fuzz.py` has
# the rest. JAX compiles each shape of each operation anew.
SEEDS = [
    *(0, 12, 27, 31, 36, 40, 42, 43, 48, 51, 52, 57, 58, 62, 63, 68, 70, 77),
    *(79, 84, 101, 110, 112, 121, 123, 133, 137, 146, 152, 153, 161, 185),
    *(199, 205, 227, 229, 242, 253, 254, 277, 285, 290),
]
QUICK = 10 if keras.backend.backend() == "jax" else len(SEEDS)
INGREDIENTS = [
    *("tokens", "masked", "mask_zero", "two inputs", "inner output"),
    *("LSTM", "GRU", "SimpleRNN", "bidirectional", "with_state", "stacked"),
    *("self_attention", "cross_attention", "distributed", "distributed_model"),
    *("custom_mixing", "custom_elementwise", "changed_afterwards"),
    *("shared", "shared gate", "nested", "nested twice", "user's Model class"),
    *("LayerNormalization", "through_vector", "to_map", "pixel_shuffle"),
    *("scores", "floor", "round_to", "outputs", "gated input"),
]


@pytest.fixture(scope="module")
def verdicts():
    """What was judged, for the last test of this module."""
    return []


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(seed, marks=[pytest.mark.slow] * (number >= QUICK))
        for number, seed in enumerate(SEEDS)
    ],
)
def test_what_is_pruned_equals_the_users_model(seed, verdicts):
    verdict = judge(seed)
    verdicts.append(verdict)
    assert not verdict.failed, (verdict.stage, verdict.detail, verdict.where)
    assert verdict.outcome != "broken", verdict.detail


def test_the_graphs_are_of_all_kinds(verdicts):
    """Else they would prove little."""
    if len(verdicts) < len(SEEDS):
        pytest.skip("some graphs were not judged here")
    outcomes, drawn = census(verdicts)
    assert outcomes["equal"] >= len(SEEDS) * 2 // 3, outcomes
    assert all(drawn[name] for name in INGREDIENTS), drawn


BLOCKS = frozenset(range(wide_graphs.BLOCKS))
GRAPHS = hypothesis.strategies.tuples(
    hypothesis.strategies.integers(0, 2**32 - 1),
    hypothesis.strategies.frozensets(
        hypothesis.strategies.sampled_from(sorted(BLOCKS)), min_size=1
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_no_graph_is_found_that_differs(number):
    """Hypothesis draws the graph; a failing one loses blocks as it shrinks."""

    @hypothesis.seed(number)
    @hypothesis.settings(
        max_examples=15,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(GRAPHS)
    def holds(graph):
        seed, left = graph
        verdict = judge(seed, BLOCKS - left)
        assert not verdict.failed, (verdict.outcome, verdict.detail)

    holds()
