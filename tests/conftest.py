"""Which cases a run takes, and room for what JAX compiles."""

import collections
import gc
import zlib

import keras
import pytest

# Each computation that JAX compiles is three memory maps of the process, and
# Linux allows it 65,530: past them XLA dies without a word. About 1,100 tests
# had left 13,000 computations.
TESTS_BETWEEN = 400


def pytest_addoption(parser):
    parser.addoption(
        "--one-in",
        type=int,
        default=1,
        metavar="N",
        help="run one in N of the cases of each test, at least one",
    )


def pytest_collection_modifyitems(config, items):
    """Leave out cases: the same ones in every run, others on each backend."""
    count = config.getoption("--one-in")
    if count == 1:
        return
    cases = collections.defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    left_out = set()
    for of_test in cases.values():
        of_test.sort(key=lambda item: number(item.nodeid))
        left_out.update(of_test[-(-len(of_test) // count) :])
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def number(name):
    """A number for a name that looks random, and is the same in each run."""
    return zlib.crc32(f"{keras.backend.backend()} {name}".encode())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """Every so many tests, drop what JAX has compiled."""
    if keras.backend.backend() != "jax":
        return
    session = item.session
    session.tests_since = getattr(session, "tests_since", 0) + 1
    if session.tests_since >= TESTS_BETWEEN:
        import jax

        session.tests_since = 0
        jax.clear_caches()
        gc.collect()
