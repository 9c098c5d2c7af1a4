"""The outcome of one wide random graph.

The truth is the user's own model object: gates that the plan closes are set
to exactly 0 in place, units of recurrent layers that scores close are cut off
inside the loop, and channels that scores close are multiplied by 0 where they
are read, as `walker` runs the model.
"""

import collections
import contextlib
import dataclasses
import re
import signal
import traceback
import warnings

import keras
import numpy as np

import keras_gates as kg
from keras_gates import surgeon
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups as package_groups
from tests import helpers
from tests.surgeon import random_layers
from tests.surgeon import tied_channels
from tests.surgeon import walker
from tests.surgeon import wide_graphs

FAILURES = ("wrong", "crashed", "hung", "silent", "changed", "unclear")
OUTCOMES = (
    *("equal", "not compared", "no gates", "refused"),
    *FAILURES,
    "broken",
)
RTOL = 2e-5
# Half precision: one rounding is 4e-3, and each operation has one.
LOW_RTOL, LOW_PROBE = 0.06, 4e-3
# What NumPy and the backends say; a user can do nothing with it.
LEAKED = re.compile(
    r"broadcast|operands|shape mismatch|index \d+ is out of|einsum\(\)|"
    r"size of tensor|mat1 and mat2|incompatible shapes|Node:",
    re.IGNORECASE,
)
ARGUMENTS = ("scores", "thresholds", "Budget", "budget", "criterion")


@dataclasses.dataclass
class Verdict:
    """One of `OUTCOMES`, why, and what the graph was made of.

    Attributes:
        seed: what the graph was drawn by.
        outcome: one of `OUTCOMES`.
        stage: where it came about: "transform", "score", "plan", ...
        detail: a message.
        features: the ingredients that were drawn, by name.
        warned: whether there was a warning on the way.
        removed: the share of the parameters that went.
        where: for exceptions, the innermost place in the package.
    """

    seed: int
    outcome: str
    stage: str = ""
    detail: str = ""
    features: set = dataclasses.field(default_factory=set)
    warned: bool = False
    removed: float = 0.0
    where: str = ""

    @property
    def failed(self):
        return self.outcome in FAILURES

    @property
    def kind(self):
        """What failures of one cause have in common, more or less."""
        text = re.sub(r"'[^']*'", "'...'", self.detail)
        text = re.sub(r"[-\d.e+]*\d", "#", text)
        return f"{self.outcome} in {self.stage}: {self.where} {text[:110]}"


class TimedOutError(BaseException):
    """No `Exception`: nothing on the way may take it for one."""


@contextlib.contextmanager
def limited(seconds):
    """Within, what takes longer is broken off, where the system can."""
    if not seconds or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_):
        raise TimedOutError

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again: a garbage collector's callback swallows what it raises.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(seed, skip=frozenset(), change=None, seconds=60):
    """Draw the graph of a seed, do what is asked, compare with the truth.

    Args:
        seed: any integer.
        skip: the numbers of blocks that are left out.
        change: `Request -> Request`, to make a failure smaller.
        seconds: how long it may take.
    """
    trial = Trial(seed)
    try:
        with warnings.catch_warnings(), limited(seconds):
            warnings.simplefilter("ignore")
            return trial.run(skip, change)
    except TimedOutError:
        if trial.stage in ("draw", "truth"):
            return trial.verdict("broken", "the time limit, in the test")
        return trial.verdict("hung", f"not done in {seconds} s")


class Trial:
    """The steps of one judgment; each may be the last."""

    def __init__(self, seed):
        self.seed = seed
        self.stage = "draw"
        self.features = set()
        self.warned = False

    def verdict(self, outcome, detail="", **more):
        return Verdict(
            self.seed,
            outcome,
            self.stage,
            detail,
            self.features,
            self.warned,
            **more,
        )

    def run(self, skip, change):
        try:
            case = wide_graphs.build(self.seed, skip)
            helpers.run(case.model, case.x)
        except Exception as error:
            return self.verdict("broken", _line(error), where=_place(error))
        self.features = case.features
        if change is not None:
            case.request = change(case.request)
        for step in (self._transform, self._prune):
            found = step(case)
            if found is not None:
                return found
        return self._compare(case)

    def _attempt(self, stage, case, function):
        """`(result, None)`, or `(None, verdict)`; the model stays as it is."""
        self.stage = stage
        before = fingerprint(case.model)
        result, verdict = None, None
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                result = function()
            except (ValueError, TypeError) as error:
                verdict = self._refusal(case.model, error)
            except Exception as error:
                verdict = self.verdict(
                    "crashed", _line(error), where=_place(error)
                )
        self.warned |= any(issubclass(w.category, UserWarning) for w in told)
        if verdict is None and fingerprint(case.model) != before:
            verdict = self.verdict("changed", "the original is not what it was")
        return result, verdict

    def _refusal(self, model, error):
        """Whether an error is one that a user can go by."""
        text, where = str(error), _place(error)
        names = {o.name for o in _operations(model)} | {model.name}
        clear = any(f"'{n}" in text or f"{n}'" in text for n in names)
        clear |= any(word in text for word in ARGUMENTS)
        clear |= re.search(r"`\w+`", text) is not None
        own = "keras_gates" in where
        if "please report" in text:
            cause = error.__cause__ or error
            return self.verdict("crashed", _line(cause), where=_place(cause))
        leaked = LEAKED.search(text) is not None
        if not own or leaked or not clear:
            return self.verdict("unclear", _line(error), where=where)
        return self.verdict("refused", _line(error), where=where)

    # Steps ---------------------------------------------------------------

    def _transform(self, case):
        if case.request.transform is None:
            return None
        name, function, keeps = case.request.transform
        self.stage = "transform"
        before = helpers.run(case.model, case.x)
        made, verdict = self._attempt(
            f"transform {name}", case, lambda: function(case.model)
        )
        if verdict is not None:
            if verdict.outcome == "refused":
                # The model as it is will do.
                self.features.add("refused transform")
                return None
            return verdict
        if keeps:
            limit = self._limit(case)
            far = helpers.differences(before, helpers.run(made, case.x))
            if max(far) > limit:
                wrong = self._beyond_rounding(case, far, lambda x: before, {})
                if wrong is not None:
                    return wrong
        case.model = made
        rng = np.random.default_rng(self.seed + 1)
        if case.request.criterion is None:
            helpers.close(made, case.closing, rng)
        return None

    def _prune(self, case):
        request, model = case.request, case.model
        self.scores = None
        has_gates = bool(helpers.factors_of(model))
        if request.criterion is None and not has_gates:
            self.stage = "plan"
            return self.verdict("no gates")
        if request.criterion == "batch_norm" and not _has_norms(model):
            request = dataclasses.replace(request, criterion="l2")
        if request.criterion is not None:
            data = case.x if request.criterion in ("mean", "apoz") else None
            exact = request.options.get("exact", True)
            self.scores, verdict = self._attempt(
                "score",
                case,
                lambda: surgeon.score(
                    model, request.criterion, data, exact=exact
                ),
            )
            if verdict is not None:
                return verdict
            self.scores = _judged(case, self.scores)
            if not self.scores:
                return self.verdict("refused", "no scores")
        verdict = self._planned(case, request.thresholds)
        if verdict is not None and "can't be reached" in verdict.detail:
            self.features.add("budget out of reach")
            verdict = self._planned(case, kg.Quantile(0.4, scope="gate"))
        if verdict is not None:
            return self._needless(case, verdict)
        self.pruned, verdict = self._attempt("apply", case, self.plan.apply)
        return verdict

    def _planned(self, case, thresholds):
        request = case.request
        self.plan, verdict = self._attempt(
            "plan",
            case,
            lambda: surgeon.plan(
                case.model, thresholds, scores=self.scores, **request.options
            ),
        )
        return verdict

    def _needless(self, case, verdict):
        """A refusal for a constant output is right where it is constant."""
        if "no longer depends" not in verdict.detail:
            return verdict
        self.features.add("constant output")
        if case.request.thresholds != helpers.THRESHOLD:
            return verdict
        if "only on masks" in verdict.detail:
            # They vary, and say nothing of the data.
            return verdict
        truth = helpers.gated_outputs(case.model, case.x)
        if min(helpers.variation(truth)) > 1e-5:
            return self.verdict("unclear", f"needless: {verdict.detail}")
        return verdict

    # The truth -------------------------------------------------------------

    def _limit(self, case):
        return LOW_RTOL if case.low else RTOL

    def _compare(self, case):
        self.stage = "form"
        before, after = self.plan.params
        sizes = (case.model.count_params(), self.pruned.count_params())
        removed = 1 - sizes[1] / max(1, sizes[0])
        if _has_composites(case.model):
            # A plan speaks of the parts that they are written out as.
            before = sizes[0]
        if (before, after) != sizes:
            planned = f"planned {before, after}, is {sizes}"
            return self.verdict("wrong", planned)
        if self._is_silent(case, sizes):
            return self.verdict("silent", self._closed_for_nothing())
        if not case.request.options.get("exact", True):
            self.stage = "run"
            helpers.run(self.pruned, case.x)
            return self.verdict("not compared", "exact=False")
        self.stage = "truth"
        if self.scores and _has_composites(case.model):
            return self.verdict("not compared", "groups of written-out parts")
        if self.scores and _norm_inside(self.plan):
            # What scores close after it is closed inside a user's layer, where
            # the walker does not get to.
            verdict = self._verified(case)
            told = "a normalization inside a layer"
            return verdict or self.verdict("not compared", told)
        truth = Truth(case.model, case.x, self.plan, self.scores)
        if truth.masks is not None and not self._is_walked(case):
            return self.verdict("broken", "the walker is not the model")
        expected = truth.at(case.x)
        self.stage = "compare"
        try:
            got = helpers.run(self.pruned, case.x)
            far = helpers.differences(expected, got)
        except Exception as error:
            return self.verdict("wrong", _line(error), where=_place(error))
        self.features |= truth.features
        if not max(far) <= self._limit(case):
            wrong = self._beyond_rounding(case, far, truth.at, truth.features)
            if wrong is not None:
                return wrong
        if case.request.verify:
            verdict = self._verified(case)
            if verdict is not None:
                return verdict
        self.stage = "compare"
        return self.verdict("equal", removed=removed)

    def _is_walked(self, case):
        """Whether the walker, with nothing closed, is the user's model.

        What it does otherwise would be called a fault of the package.
        """

        def plain(x):
            return tied_channels.truth(case.model, x, {})

        expected = helpers.run(case.model, case.x)
        far = helpers.differences(expected, plain(case.x))
        if max(far) <= self._limit(case):
            return True
        return self._beyond_rounding(case, far, plain, set()) is None

    def _beyond_rounding(self, case, far, truth, features):
        """A verdict if the difference is more than rounding can be."""
        expected = truth(case.x)
        size = LOW_PROBE if case.low else helpers.PROBE
        limit = self._limit(case)
        moved = [0.0] * len(far)
        for number in range(3):
            with nudged(case.model, case.x, size, number) as x:
                near = helpers.run(case.model, x)
                there = truth(x) if features is not None else near
            moved = np.maximum(moved, helpers.differences(expected, there))
        for number, (one, other) in enumerate(zip(far, moved, strict=True)):
            bound = max(limit, helpers.PROBE_FACTOR * other)
            if not one <= bound:
                return self.verdict(
                    "wrong",
                    f"output {number} is off by {one:.2g} of its scale; "
                    f"rounding explains {bound:.2g}",
                )
        self.features.add("ill-conditioned")
        return None

    def _verified(self, case):
        self.features.add("verify")
        found, verdict = self._attempt(
            "verify",
            case,
            lambda: surgeon.verify(case.model, self.pruned, self.plan, case.x),
        )
        if verdict is None and not case.low and max(found.values()) > 0.01:
            if "ill-conditioned" in self.features:
                return None
            return self.verdict("wrong", f"verify says {found}")
        return verdict

    def _is_silent(self, case, sizes):
        """Channels closed, no parameter gone but those of gates, no word."""
        if not any(self.plan.closed.values()):
            return False
        gates = sum(
            int(np.prod(w.shape))
            for layer in helpers.gates_of(case.model)
            for w in layer.weights
        )
        grown = sizes[1] - (sizes[0] - gates)
        if grown < 0:
            return False
        before, after = (
            len(_operations(model)) for model in (case.model, self.pruned)
        )
        if after < before - len(helpers.gates_of(case.model)):
            return False
        return not any("nothing" in note for note in self.plan.notes)

    def _closed_for_nothing(self):
        closed = {n: len(at) for n, at in self.plan.closed.items() if at}
        paths = {row.layer: row.why for row in self.plan.rows}
        return f"{closed}; {[paths.get(n) for n in closed]}"[:300]


class Truth:
    """The user's model with what a plan closed at exactly 0.

    Attributes:
        features: what it took.
    """

    def __init__(self, model, x, plan, scores):
        self.model = model
        self.features = set()
        self.gates, self.rows, self.loops = {}, [], []
        self.masks = None
        events = walker.events_of(model, x)
        by_path = {event.path: event.op for event in events}
        scored = [
            n
            for n, at in plan.closed.items()
            if at and n in scores_of(scores, by_path)
        ]
        for name, at in plan.closed.items():
            if at and name not in scored:
                self._gate(by_path, name, at)
        if scored:
            self._groups(model, x, plan, scored, by_path)

    def _gate(self, by_path, name, at):
        layer = by_path.get(name)
        if isinstance(layer, kg.ResConv):
            layer = layer.gate
        variable = getattr(layer, "factor", None)
        if variable is None:
            variable = getattr(layer, "skeleton", None)
        if variable is None:
            # Inside a composite layer: found by its name.
            layers = [
                inner
                for inner in helpers.layers_of(self.model)
                if name.endswith(inner.name)
            ]
            variable = getattr(layers[-1], "factor", None) if layers else None
        if variable is None:
            raise LookupError(f"no gate called {name}")
        self.gates[id(variable)] = (variable, np.ravel, at)

    def _groups(self, model, x, plan, scored, by_path):
        graph = expand.read(model)
        exact = plan.options.exact
        found = package_groups.find(graph, exact).groups
        ties = tied_channels.Ties(model, x)
        self.features.add("groups closed")
        for name in scored:
            channels = np.asarray(found[name].channels)[plan.closed[name]]
            attention = _attention_of(name, by_path)
            if attention is not None:
                self._cut_heads(attention, channels)
                continue
            op = _layer_of(name, by_path)
            places = tied_channels._channels(op, int(channels.max()) + 1)
            self.rows += [(id(op), int(places[c])) for c in channels]
        self.masks = ties.closed_at(self.rows)
        self._cut_loops(ties)

    def _cut_heads(self, attention, units):
        """Closed heads add nothing to what attention puts out."""
        kernel = attention._output_dense.kernel
        shared = getattr(attention, "num_key_value_heads", kernel.shape[0])
        # One head of keys and values goes with all that it serves.
        each = 1 if shared == 1 else kernel.shape[0] // shared
        heads = (units[:, None] * each + np.arange(each)).ravel()
        self.loops.append((kernel, np.asarray, heads))
        self.features.add("closed heads")

    def _cut_loops(self, ties):
        """Closed units of recurrent layers do not feed themselves."""
        shut = {ties.find(ties.rows[row]) for row in self.rows}
        for op in {id(e.op): e.op for e in ties.events}.values():
            cells = tied_channels.recurrent_cells(tied_channels.base(op))
            for cell in cells:
                units = [
                    n
                    for n in range(cell.units)
                    if ties.find(ties.rows[(id(op), n)]) in shut
                ]
                if units:
                    self.loops.append(
                        (cell.recurrent_kernel, np.asarray, units)
                    )
                    self.features.add("closed recurrent units")

    @contextlib.contextmanager
    def _closed(self):
        cuts = [*self.gates.values(), *self.loops]
        before = [(v, helpers.numpy_of(v)) for v, _, _ in cuts]
        try:
            for variable, rows, at in cuts:
                values = helpers.numpy_of(variable)
                rows(values)[at] = 0.0
                variable.assign(values)
            yield
        finally:
            for variable, values in reversed(before):
                variable.assign(values)

    def at(self, x):
        with self._closed():
            if self.masks is None:
                return helpers.run(self.model, x)
            return tied_channels.truth(self.model, x, self.masks)


def _layer_of(name, by_path):
    """The user's layer that puts out the channels of a group, or None.

    In one that is seen through, the last part puts them out.
    """
    outer, _, part = name.rpartition("/")
    last = isinstance(by_path.get(outer), random_layers.Unnamed)
    # A layer with factors of its own has its name for these.
    inside = (last and part == "w") or part == "channels"
    return by_path.get(outer if inside else name)


def _attention_of(name, by_path):
    """The user's attention layer whose heads a group has, or None."""
    outer, _, part = name.rpartition("/")
    layer = by_path.get(outer)
    attention = (
        keras.layers.MultiHeadAttention,
        keras.layers.GroupQueryAttention,
    )
    return layer if part == "heads" and isinstance(layer, attention) else None


def _judged(case, scores):
    """The scores of what the judge can close: nothing inside other layers."""
    by_path = {e.path: e.op for e in walker.events_of(case.model, case.x)}
    return {
        name: values
        for name, values in scores.items()
        if _layer_of(name, by_path) is not None
        or _attention_of(name, by_path) is not None
    }


def scores_of(scores, by_path):
    """The names that scores are for and that are not gates."""
    if scores is None:
        return set()
    return {n for n in scores if not hasattr(by_path.get(n), "kind")}


@contextlib.contextmanager
def nudged(model, x, size, seed):
    """Within, weights are moved by rounding; gives inputs that are, too."""
    rng = np.random.default_rng(seed)

    def moved(array):
        if not np.issubdtype(np.asarray(array).dtype, np.floating):
            return array
        step = size * np.abs(array).max()
        return array + rng.choice([-step, step], array.shape).astype("float32")

    weights = [
        w
        for layer in helpers.layers_of(model)
        for w in layer.weights
        if keras.backend.is_float_dtype(w.dtype)
    ]
    before = [helpers.numpy_of(w) for w in weights]
    try:
        for weight, values in zip(weights, before, strict=True):
            signs = rng.choice([-1.0, 1.0], values.shape)
            weight.assign(values * (1 + size * signs))
        yield keras.tree.map_structure(moved, x)
    finally:
        for weight, values in zip(weights, before, strict=True):
            weight.assign(values)


def fingerprint(model):
    """All of a model that must stay; not its config, which may not exist."""
    parts = model._flatten_layers(include_self=True)
    nodes = {
        part.name: len(getattr(part, "_inbound_nodes", ())) for part in parts
    }
    nodes |= {
        f"{o.name} {n}": (len(o._inbound_nodes), len(o._outbound_nodes))
        for n, o in enumerate(_operations(model))
    }
    trainable = [layer.trainable for layer in helpers.layers_of(model)]
    return helpers.weights_digest(model), nodes, trainable


def _norm_inside(plan):
    """Whether a normalization inside a user's layer is written out."""
    told = "written out under the same name as a model"
    return any(told in x and "/" in x.split(told)[0] for x in plan.notes)


def _operations(model):
    found = []
    for operation in helpers.functional(model).operations:
        found.append(operation)
        if walker.is_graph(operation):
            found += _operations(operation)
    return found


def _has_norms(model):
    return any(
        isinstance(layer, keras.layers.BatchNormalization) and layer.scale
        for layer in helpers.layers_of(model)
    )


def _has_composites(model):
    return any(
        isinstance(layer, kg.ResConv) for layer in helpers.layers_of(model)
    )


def _line(error):
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, ValueError)
        else (f"{type(error).__name__}: {text}")
    )


def _place(error):
    """The innermost line of the package; else of anything."""
    stack = traceback.extract_tb(error.__traceback__)
    own = [f for f in stack if "keras_gates/" in f.filename]
    last = stack[-1]
    frame = own[-1] if own else last
    name = frame.filename.split("site-packages/")[-1]
    name = name[name.find("keras_gates/") :] if own else name
    inside = "" if frame is last else f" <- {last.name}"
    return f"{name}:{frame.name}{inside}"


SIMPLER = {
    "no transform": {"transform": None},
    "no options": {"options": {}},
    "no verify": {"verify": False},
}


def shrunk(seed, kind, seconds=60):
    """The smallest case that still fails alike: `(skip, names)`.

    Args:
        seed: that of the failing graph.
        kind: the `kind` of its verdict.
        seconds: how long each attempt may take.

    Returns:
        The numbers of blocks that it does without, and which of `SIMPLER`.
    """

    def fails(skip, names):
        verdict = judge(seed, skip, simplifying(names), seconds)
        return verdict.failed and verdict.kind == kind

    skip, names = set(), []
    for number in range(wide_graphs.BLOCKS):
        if fails(frozenset(skip | {number}), names):
            skip.add(number)
    for name in SIMPLER:
        if fails(frozenset(skip), [*names, name]):
            names.append(name)
    return frozenset(skip), names


def simplifying(names):
    """`Request -> Request` that makes the changes named in `SIMPLER`."""
    changes = {}
    for name in names:
        changes |= SIMPLER[name]
    return lambda request: dataclasses.replace(request, **changes)


def again(seed, skip=(), simpler=()):
    """The case of a shrunk failure and its verdict."""
    verdict = judge(seed, frozenset(skip), simplifying(simpler))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = wide_graphs.build(seed, frozenset(skip))
    case.request = simplifying(simpler)(case.request)
    return case, verdict


def listing(model, indent=""):
    """All calls of a model with what they are on, as text."""
    lines = []
    for node in walker.nodes_of(helpers.functional(model)):
        op, kind = node.operation, type(node.operation).__name__
        inputs = [t._keras_history.operation.name for t in node.input_tensors]
        shapes = [tuple(kt.shape) for kt in node.outputs]
        lines.append(f"{indent}{op.name} ({kind}) {shapes} <- {inputs}")
        if walker.is_graph(op):
            lines.append(listing(op, f"{indent}    "))
    return "\n".join(lines)


def census(verdicts):
    """How often each outcome and each ingredient came up."""
    outcomes = collections.Counter(v.outcome for v in verdicts)
    outcomes["warned"] = sum(v.warned for v in verdicts)
    drawn = collections.Counter(f for v in verdicts for f in v.features)
    return outcomes, drawn
