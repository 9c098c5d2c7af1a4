"""Holds what DESIGN.md says of the shape of the code, by reading its syntax."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1] / "keras_gates"

SURGEON = [
    "surgeon.faults",
    "surgeon.labels",
    "surgeon.rules",
    "surgeon.gates",
    "surgeon.expand",
    "surgeon.costs",
    "surgeon.sizes",
    "surgeon.analysis",
    "surgeon.groups",
    "surgeon.gated",
    "surgeon.decision",
    "surgeon.liveness",
    "surgeon.decide",
    "surgeon.fold",
    "surgeon.influence",
    "surgeon.solve",
    "surgeon.essential",
    "surgeon.bars",
    "surgeon.removable",
    "surgeon.scores",
    "surgeon.weights",
    "surgeon.reasons",
    "surgeon.futile",
    "surgeon.slow_widths",
    "surgeon.report",
    "surgeon.pieces",
    "surgeon.rebuild",
    "surgeon.latency",
    "surgeon.nearest",
    "surgeon.budget",
    "surgeon.closing",
    "surgeon.bypass",
    "surgeon.solution",
    "surgeon.stored",
    "surgeon.cuts",
    "surgeon.optimizer",
    "surgeon.plan",
    "surgeon.sample_inputs",
    "surgeon.masked_run",
    "surgeon.closed_places",
    "surgeon.verify",
    "surgeon.surgery",
    "surgeon.iterative",
]
GATES = ["constraints", "regularizers", "layers"]
_READING = (
    *("arguments", "time_axis", "graph", "create", "state", "twins"),
    "configs",
)
READING = [f"surgeon.{name}" for name in _READING]
COPYING = ["surgeon.forgotten", "surgeon.copies", "surgeon.classes"]
LOW = [
    *("_checks", *READING, *COPYING, "surgeon.naming"),
    *("surgeon.patterns", "surgeon.rewrite"),
    *(*GATES, "thresholds"),
]

# Who may import whom: a row for each module or package, from low to high, and
# what it may import besides itself. No other arrow is allowed.
ARROWS = {
    "_checks": [],
    "surgeon.arguments": [],
    "surgeon.time_axis": [],
    "surgeon.carried": [],
    "surgeon.graph": [
        *("surgeon.arguments", "surgeon.time_axis", "surgeon.carried"),
    ],
    "surgeon.create": ["surgeon.graph"],
    "surgeon.state": ["surgeon.graph", "surgeon.create"],
    "surgeon.twins": READING[:5],
    "surgeon.configs": READING[:6],
    "surgeon.forgotten": READING,
    "surgeon.copies": [*READING, "surgeon.forgotten"],
    "surgeon.classes": READING,
    "surgeon.naming": [],
    "surgeon.patterns": [],
    "surgeon.rewrite": [*READING, *COPYING],
    "constraints": ["_checks"],
    "regularizers": ["_checks"],
    "layers": ["_checks", "constraints", "regularizers"],
    "callbacks": ["_checks", *GATES],
    "thresholds": ["_checks", "layers"],
    **{name: [*LOW, *SURGEON[:rank]] for rank, name in enumerate(SURGEON)},
    "surgeon.__init__": [*LOW, *SURGEON],
    "stats": ["_checks", "layers", "surgeon.graph", *SURGEON[:7]],
    "search": [*LOW, *SURGEON],
    "transforms": [*LOW, *SURGEON, "stats"],
    "interop": ["surgeon.graph", "surgeon.naming"],
    "zoo": [],
}
# The top module re-exports what users type.
ARROWS["__init__"] = list(ARROWS)

KERAS_INTERNALS = "keras" + ".src"
BACKENDS = {"jax", "jaxlib", "tensorflow", "torch"}
# The library says nothing, and sets nothing up, that it was not asked for.
BANNED_CALLS = {
    "print",
    "logging.basicConfig",
    "keras.utils.set_random_seed",
    "np.random.seed",
    "numpy.random.seed",
    "random.seed",
}
BODY_LINES = 55


def name_of(path):
    """`surgeon/rules/__init__.py` is `surgeon.rules.__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


PATHS = sorted(ROOT.rglob("*.py"))
SOURCES = {name_of(path): path.read_text("utf-8") for path in PATHS}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}


def row_of(name):
    """The row of `ARROWS` that `name` belongs to, or None."""
    rows = [row for row in ARROWS if f"{name}.".startswith(f"{row}.")]
    return max(rows, key=len, default=None)


def absolute(node, name):
    """The module that an `ImportFrom` in the module `name` reads from."""
    if not node.level:
        return node.module
    package = ["keras_gates", *name.split(".")][: -node.level]
    return ".".join([*package, *filter(None, [node.module])])


def imports(tree, name):
    """All that the module imports, by full dotted name, with its node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{absolute(node, name)}.{alias.name}", node


def own_module(dotted):
    """The module of ours that `dotted` leads to, or None: it is not ours."""
    first, *parts = dotted.split(".")
    if first != "keras_gates":
        return None
    while parts:
        name = ".".join(parts)
        for candidate in (name, f"{name}.__init__"):
            if candidate in SOURCES:
                return candidate
        parts.pop()
    return "__init__"


def report(offenders):
    return "\n" + "\n".join(offenders)


def test_the_package_is_found():
    assert "surgeon.graph" in SOURCES


def test_the_table_runs_from_low_to_high():
    rows = list(ARROWS)
    upward = [
        f"{row} -> {allowed}"
        for rank, row in enumerate(rows)
        for allowed in ARROWS[row]
        if allowed not in rows[:rank]
    ]
    assert not upward, report(upward)


@pytest.mark.parametrize(
    "dotted, module",
    [
        ("keras.layers.Dense", None),
        ("keras_gates", "__init__"),
        ("keras_gates.surgeon.graph", "surgeon.graph"),
        ("keras_gates.surgeon.graph.some_name", "surgeon.graph"),
    ],
)
def test_names_lead_to_modules(dotted, module):
    assert own_module(dotted) == module


@pytest.mark.parametrize(
    "source, dotted",
    [
        ("import keras_gates.stats", "keras_gates.stats"),
        ("from keras_gates import stats", "keras_gates.stats"),
        ("from . import graph", "keras_gates.surgeon.graph"),
        ("from .graph import read", "keras_gates.surgeon.graph.read"),
        ("from .. import stats", "keras_gates.stats"),
        ("def f():\n    from ..stats import count", "keras_gates.stats.count"),
    ],
)
def test_imports_are_read_in_every_form(source, dotted):
    found = [name for name, _ in imports(ast.parse(source), "surgeon.plan")]
    assert found == [dotted]


def test_every_module_has_a_row():
    lost = [name for name in SOURCES if row_of(name) is None]
    assert not lost, "Add a row to ARROWS for:" + report(lost)


def test_imports_point_one_way():
    offenders = []
    for name, tree in TREES.items():
        row = row_of(name)
        allowed = [row, *ARROWS.get(row, [])]
        for dotted, node in imports(tree, name):
            target = own_module(dotted)
            if target is None or row_of(target) in allowed:
                continue
            offenders.append(f"{name}:{node.lineno} imports {target}")
    assert not offenders, report(offenders)


def test_only_graph_touches_keras_internals():
    offenders = [
        f"{name}:{number} {line.strip()}"
        for name, source in SOURCES.items()
        if name != "surgeon.graph"
        for number, line in enumerate(source.splitlines(), 1)
        if KERAS_INTERNALS in line
    ]
    assert not offenders, report(offenders)


def at_import(node):
    """The statements that run as the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
            yield from at_import(child)


def test_no_backend_is_imported_with_the_package():
    offenders = [
        f"{name}:{node.lineno} imports {dotted}"
        for name, tree in TREES.items()
        for dotted, node in imports(tree, name)
        if dotted.split(".")[0] in BACKENDS and node in set(at_import(tree))
    ]
    assert not offenders, report(offenders)


def test_the_library_is_silent():
    offenders = [
        f"{name}:{node.lineno} calls {ast.unparse(node.func)}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in BANNED_CALLS
    ]
    assert not offenders, report(offenders)


def test_the_top_module_only_re_exports():
    def allowed(node):
        if isinstance(node, ast.Assign):
            return ast.unparse(node.targets[0]) in ("__all__", "__version__")
        docstring = isinstance(node, ast.Expr) and node is body[0]
        return docstring or isinstance(node, (ast.Import, ast.ImportFrom))

    body = TREES["__init__"].body
    offenders = [ast.unparse(node) for node in body if not allowed(node)]
    assert not offenders, report(offenders)


def body_lines(function):
    """The lines of the body, its docstring aside."""
    rest = function.body[1:] if ast.get_docstring(function) else function.body
    return rest[-1].end_lineno - rest[0].lineno + 1 if rest else 0


def test_functions_are_short():
    offenders = [
        f"{name}:{node.lineno} {node.name}: a body of {body_lines(node)} lines"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and body_lines(node) > BODY_LINES
    ]
    assert not offenders, report(offenders)


def test_no_module_is_a_drawer():
    offenders = [name for name in SOURCES if name.split(".")[-1] == "utils"]
    assert not offenders, report(offenders)
