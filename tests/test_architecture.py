"""Checks the structure of the code as in DESIGN.md, by its syntax."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1] / "keras_gates"

# Who may import whom: a row for each package, from low to high, and what it may
# import besides itself. No other arrow is allowed.
GATES = ["constraints", "penalties", "layers"]
PLAIN = ["_checks", "_tables", "_files", "_pictures", "_documents", "_memory"]
LOW = [*PLAIN, "graphs", *GATES, "thresholds"]
PASSES = ["surgeon.faults", "surgeon.labels", "surgeon.rules", "surgeon.passes"]
SOLVING = [*PASSES, "surgeon.gates", "surgeon.solving"]
CLOSING = [*SOLVING, "surgeon.build", "surgeon.report", "surgeon.closing"]
# The parts of scores that read data, which a repair does as well.
DATA = [
    "surgeon.scores.inputs",
    "surgeon.scores.batches",
    "surgeon.scores.accuracy",
]
REPAIR = [*CLOSING, "surgeon.verifying", *DATA]
UNDER_PLAN = [*REPAIR, "surgeon.plan_json", "surgeon.repair"]
PLAN = [*UNDER_PLAN, "surgeon.plan"]
SURGEON = [
    *PLAN,
    "surgeon.scores",
    "surgeon.sensitivity",
    "surgeon.verify",
    "surgeon.repair.repair",
]
ARROWS = {
    "_checks": [],
    "_tables": [],
    "_files": [],
    "_memory": [],
    "_pictures": [],
    "_documents": ["_tables"],
    "graphs": [],
    "constraints": ["_checks", "graphs"],
    "penalties": ["_checks"],
    "layers": ["_checks", "constraints", "graphs", "penalties"],
    "thresholds": ["_checks", "layers"],
    "surgeon.faults": ["graphs"],
    "surgeon.labels": ["graphs"],
    "surgeon.rules": ["graphs", "layers", *PASSES[:2]],
    "surgeon.passes": ["graphs", *PASSES[:3]],
    "surgeon.gates": [*LOW, *PASSES],
    "surgeon.solving": [*LOW, *PASSES, "surgeon.gates"],
    "surgeon.expected": [*LOW, *SOLVING],
    "surgeon.build": [*LOW, *SOLVING],
    "surgeon.report": [*LOW, *SOLVING, "surgeon.build"],
    "surgeon.closing": [*LOW, *SOLVING, "surgeon.build", "surgeon.report"],
    "surgeon.scores.inputs": ["graphs"],
    "surgeon.verifying": [*LOW, *SOLVING, "surgeon.scores.inputs"],
    "surgeon.scores.batches": ["graphs", "surgeon.scores.inputs"],
    "surgeon.scores.accuracy": [],
    "surgeon.repair": [*LOW, *REPAIR],
    "surgeon.plan_json": [*LOW, *CLOSING],
    "surgeon.plan": [*LOW, *UNDER_PLAN],
    "surgeon.scores": [*LOW, *REPAIR, "surgeon.repair"],
    "surgeon.repair.repair": [*LOW, *PLAN],
    "surgeon.sensitivity": [*LOW, *REPAIR],
    "surgeon.verify": [*LOW, *PLAN],
    "surgeon.surgery": [*LOW, *SURGEON],
    "surgeon.iterative": [*LOW, *SURGEON],
    "surgeon.__init__": [
        *LOW,
        *SURGEON,
        "surgeon.surgery",
        "surgeon.iterative",
    ],
    "regularizers": [*LOW, *SOLVING, "penalties", "surgeon.expected"],
    "reaching": [*LOW, *SURGEON, "surgeon.expected"],
    "callbacks": [*LOW, *SURGEON, "reaching", "regularizers"],
    "stats": [
        *LOW,
        *("surgeon.rules", "surgeon.gates"),
    ],
    "search": [*LOW, *SURGEON],
    "transforms": [*LOW, *SURGEON, "stats", "regularizers"],
    "interop": ["graphs", "surgeon.gates"],
    "zoo": [],
}
# The top module re-exports what users type; the command line types it.
ARROWS["__init__"] = list(ARROWS)
ARROWS["cli"] = list(ARROWS)
ARROWS["__main__"] = ["cli"]

KERAS_INTERNALS = "keras" + ".src"
# The one package that may know what Keras does not document.
PRIVATE = "graphs.private"
# These are public in spite of their names.
OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields"}
BY_NAME = {"getattr", "setattr", "hasattr", "delattr"}
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
TYPES_ONLY = "TYPE_CHECKING"


def name_of(path):
    """`surgeon/rules/__init__.py` is `surgeon.rules.__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


PATHS = sorted(ROOT.rglob("*.py"))
SOURCES = {name_of(path): path.read_text("utf-8") for path in PATHS}
MODULES = {f"keras_gates.{name}" for name in SOURCES}
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
    assert "graphs.graph" in SOURCES


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
        ("keras_gates.graphs.graph", "graphs.graph"),
        ("keras_gates.graphs.graph.some_name", "graphs.graph"),
    ],
)
def test_names_lead_to_modules(dotted, module):
    assert own_module(dotted) == module


@pytest.mark.parametrize(
    "source, dotted",
    [
        ("import keras_gates.stats", "keras_gates.stats"),
        ("from keras_gates import stats", "keras_gates.stats"),
        ("from . import verify", "keras_gates.surgeon.verify"),
        ("from .verify import verify", "keras_gates.surgeon.verify.verify"),
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


def for_types(tree):
    """The nodes under `if TYPE_CHECKING:`, which no run imports."""
    return {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == TYPES_ONLY
        for child in ast.walk(node)
    }


def test_no_modules_import_each_other_in_a_circle():
    arrows = {}
    for name, tree in TREES.items():
        skipped = for_types(tree)
        arrows[name] = {
            own_module(dotted)
            for dotted, node in imports(tree, name)
            if node not in skipped
        }
    lowest = set()
    while left := arrows.keys() - lowest:
        # An `__init__` re-exports what may import its own package.
        free = {
            name
            for name in left
            if name.endswith("__init__")
            or all(
                x in lowest or x is None or x.endswith("__init__")
                for x in arrows[name] - {name}
            )
        }
        assert free, report(sorted(left))
        lowest |= free


def is_private(name):
    return f"{name}.".startswith(f"{PRIVATE}.")


def test_only_one_package_imports_keras_internals():
    offenders = [
        f"{name}:{number} {line.strip()}"
        for name, source in SOURCES.items()
        if not is_private(name)
        for number, line in enumerate(source.splitlines(), 1)
        if KERAS_INTERNALS in line
    ]
    assert not offenders, report(offenders)


def modules_of_ours(tree, name):
    """The names in a module that stand for modules of this package."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{absolute(node, name)}.{alias.name}" in MODULES
    }


def classes_of_ours(tree):
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}


def foreign_attributes(tree, name):
    """All that reads or sets `x._name`, unless `x` is of this module."""
    own = {"self", "cls", *modules_of_ours(tree, name), *classes_of_ours(tree)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        attribute, value = node.attr, node.value
        private = attribute.startswith("_") and not attribute.endswith("__")
        if not private or attribute in OF_NAMED_TUPLES:
            continue
        if isinstance(value, ast.Name) and value.id in own:
            continue
        if ast.unparse(value) == "super()":
            continue
        yield node


def private_strings(tree):
    """Private names as arguments of `getattr` and the like, and as keys."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) not in BY_NAME or len(node.args) < 2:
                continue
            name = node.args[1]
        elif isinstance(node, ast.Subscript):
            name = node.slice
        else:
            continue
        if isinstance(name, ast.JoinedStr) and name.values:
            name = name.values[0]
        text = getattr(name, "value", None)
        if isinstance(text, str) and re.match("_(?!_)", text):
            yield node


@pytest.mark.parametrize(
    "source, count",
    [
        ("layer._tracker", 1),
        ("layer._tracker = 1", 1),
        ("self.layer._tracker", 1),
        ("layers[0]._layers", 1),
        ("self._own, cls._own, super()._own", 0),
        ("row._replace(x=1)", 0),
        ("layer.__class__", 0),
        ("from keras_gates.graphs import graph as gr\ngr._own", 0),
        ("from keras_gates.graphs.graph import Call\nCall._own", 1),
        ("class Own: pass\nOwn._make", 0),
        ("getattr(layer, '_tracker', None)", 1),
        ("getattr(layer, f'_{name}_dense')", 1),
        ("vars(layer)['_tracker']", 1),
        ("getattr(layer, 'kernel')", 0),
    ],
)
def test_what_is_private_is_seen(source, count):
    tree = ast.parse(source)
    found = [*foreign_attributes(tree, "surgeon.plan"), *private_strings(tree)]
    assert len(found) == count


def test_only_one_package_reads_what_is_private_to_others():
    offenders = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, tree in TREES.items()
        if not is_private(name)
        for node in (*foreign_attributes(tree, name), *private_strings(tree))
    ]
    assert not offenders, (
        "Give what is Keras' a function in graphs/private, with its "
        "assumption and a test; give what is ours a public name:"
        + report(offenders)
    )


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
            names = ("__all__", "__version__", "_PACKAGES")
            return ast.unparse(node.targets[0]) in names
        if isinstance(node, ast.If):
            return ast.unparse(node.test) == TYPES_ONLY
        # Most is imported when it is asked for.
        if isinstance(node, ast.FunctionDef):
            return node.name in ("__getattr__", "__dir__")
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


def rule_classes():
    """The dotted names of `Rule` and of all classes made of it."""
    bases = {
        f"keras_gates.{name}.{node.name}": [
            known_as(tree, name).get(base, f"keras_gates.{name}.{base}")
            for base in map(ast.unparse, node.bases)
        ]
        for name, tree in TREES.items()
        if name.startswith("surgeon.")
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    found = {"keras_gates.surgeon.rules.rule.Rule"}
    while more := {c for c in bases if found & {*bases[c]}} - found:
        found |= more
    return found


def known_as(tree, name):
    """Local name -> dotted name, of all that a module imports.

    A class goes by the module that defines it, whoever hands it on.
    """
    defined = {
        f"keras_gates.{module}.{node.name}"
        for module, other in TREES.items()
        for node in other.body
        if isinstance(node, ast.ClassDef)
    }
    found = {}
    for node in ast.walk(tree):
        for alias in getattr(node, "names", ()):
            if not isinstance(node, ast.ImportFrom):
                continue
            dotted = f"{absolute(node, name)}.{alias.name}"
            homes = [
                d
                for d in defined
                if d.startswith(f"{absolute(node, name)}.")
                and d.endswith(f".{alias.name}")
            ]
            found[alias.asname or alias.name] = dotted
            if dotted not in defined and len(homes) == 1:
                found[alias.asname or alias.name] = homes[0]
    return found


def is_rule(node):
    """Whether an expression is a rule, by what it looks like."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).startswith("rule_of")
    return isinstance(node, ast.Attribute) and node.attr == "rule"


def asks_what_a_rule_is(tree, name, rules):
    """The calls in a module that look at the class of a rule."""
    names = known_as(tree, name)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        asks = ast.unparse(node.func)
        if asks not in ("isinstance", "issubclass", "hasattr", "type"):
            continue
        of = {
            names.get(x.id, f"keras_gates.{name}.{x.id}")
            for arg in node.args[1:]
            for x in ast.walk(arg)
            if isinstance(x, ast.Name)
        }
        if is_rule(node.args[0]) or (asks != "hasattr" and of & rules):
            yield node


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(step.rule, x)",
        "hasattr(rule_of(call), 'pads')",
        "type(step.rule)",
        "from keras_gates.surgeon.rules import Linear\nisinstance(r, Linear)",
        "from keras_gates.surgeon.rules.convolution import Conv\n"
        "isinstance(r, (int, Conv))",
    ],
)
def test_looking_at_the_class_of_a_rule_is_found(source):
    asked = asks_what_a_rule_is(ast.parse(source), "some", rule_classes())
    assert list(asked)


def test_only_rules_know_the_classes_of_rules():
    rules = rule_classes()
    offenders = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, tree in TREES.items()
        if not name.startswith("surgeon.rules.")
        for node in asks_what_a_rule_is(tree, name, rules)
    ]
    assert not offenders, report(offenders)


def test_all_that_is_asked_of_a_rule_is_declared():
    (rule,) = (
        node
        for node in TREES["surgeon.rules.rule"].body
        if isinstance(node, ast.ClassDef) and node.name == "Rule"
    )
    declared = {node.name for node in rule.body if hasattr(node, "name")}
    for node in rule.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = getattr(node, "target", None) or node.targets[0]
            declared.add(target.id)
    assert {"flow", "cuts", "kernel"} <= declared
    undeclared = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and is_rule(node.value)
        and node.attr not in declared
    ]
    assert not undeclared, report(undeclared)


def test_no_module_is_a_drawer():
    offenders = [name for name in SOURCES if name.split(".")[-1] == "utils"]
    assert not offenders, report(offenders)
