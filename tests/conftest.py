"""Which cases a run takes, what is drawn, and room for what JAX compiles."""

import collections
import functools
import gc
import zlib

import keras
import numpy as np
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
    parser.addoption(
        "--tests-in",
        type=int,
        default=1,
        metavar="N",
        help="run one in N of the tests of each file, at least one",
    )
    parser.addoption(
        "--all-of",
        default="",
        metavar="PATHS",
        help="run all tests in these paths, and those for some backends only",
    )
    parser.addoption(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="draw other weights and data than in each other run",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave out cases: the same ones in every run, others on each backend."""
    cases, tests = config.getoption("--one-in"), config.getoption("--tests-in")
    if cases == tests == 1:
        return
    whole = tuple(config.getoption("--all-of").split())
    kept = {
        item
        for item in items
        if for_some_backends(item) or (whole and item.nodeid.startswith(whole))
    }
    chosen = [item for item in items if item not in kept]
    chosen = sample(chosen, function_of, cases)
    found = set(sample({function_of(x) for x in chosen}, file_of, tests))
    kept.update(item for item in chosen if function_of(item) in found)
    left_out = [item for item in items if item not in kept]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item in kept]


def for_some_backends(item):
    """Whether a test is not for each backend: none may leave out its own."""
    return bool(
        item.get_closest_marker("once") or item.get_closest_marker("skipif")
    )


def function_of(item):
    """The name of a test, without the case."""
    return item.nodeid.partition("[")[0]


def file_of(test):
    """The file of a test."""
    return test.partition("::")[0]


def sample(members, group_of, count):
    """One in `count` members of each group, at least one."""
    groups = collections.defaultdict(list)
    for member in members:
        groups[group_of(member)].append(member)
    found = []
    for group in groups.values():
        group.sort(key=lambda each: number(getattr(each, "nodeid", each)))
        found += group[: -(-len(group) // count)]
    return found


def number(name):
    """A number for a name that looks random, and is the same in each run."""
    return zlib.crc32(f"{keras.backend.backend()} {name}".encode())


def drawn_by_numpy(name):
    """A function of `jax.random` that compiles nothing for a shape.

    Each layer that is made draws its weights, and a program that draws takes
    longer to compile than most models.
    """
    import jax

    compiled = getattr(jax.random, name)
    draws = {
        "uniform": lambda rng, shape, minval, maxval: rng.uniform(
            minval, maxval, shape
        ),
        "normal": lambda rng, shape: rng.normal(size=shape),
        # What is outside comes in again from the other side.
        "truncated_normal": lambda rng, shape, lower, upper: (
            np.mod(rng.normal(size=shape) - lower, upper - lower) + lower
        ),
    }

    @functools.wraps(compiled)
    def draw(key, *args, shape=(), dtype="float32", **options):
        values = (key, *options.values())
        if args or any(isinstance(v, jax.core.Tracer) for v in values):
            return compiled(key, *args, shape=shape, dtype=dtype, **options)
        rng = np.random.default_rng(np.asarray(key).ravel())
        # An array of NumPy: that of JAX would compile what comes next.
        return draws[name](rng, shape, **options).astype(dtype)

    return draw


def pytest_configure(config):
    """On JAX, random weights without a compilation for each shape."""
    if keras.backend.backend() != "jax":
        return
    import jax

    for name in ("uniform", "normal", "truncated_normal"):
        setattr(jax.random, name, drawn_by_numpy(name))


def pytest_collection_finish(session):
    """Look for garbage seldom, and not in what stays.

    The modules of a backend are half a million objects. To go through them
    again and again took a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def seed(config, name):
    """Draw alike in each run, whatever ran before in this process."""
    told = f"{config.getoption('--seed')} {name}"
    keras.utils.set_random_seed(zlib.crc32(told.encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    seed(request.config, f"{request.node.nodeid} {fixturedef.argname}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    seed(item.config, item.nodeid)


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
