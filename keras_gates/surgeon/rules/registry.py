"""The registry of rules, by exact class; entries are never replaced.

A subclass does not inherit a rule, since its additions may change the meaning
of its channels. A subclass without additions, as libraries define them to
export a layer under another name, does.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import graph as gr
from keras_gates.graphs import private
from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import Rule

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call

_RULES: dict[type[Any], Rule] = {}
_FUNCTIONS: dict[Callable[..., Any], Rule] = {}
_REASONS: dict[type[Any], Barrier] = {}
_UNKNOWN = Barrier()
_REPLACED = Barrier(why="its `call` has been replaced on the object")
# Each of these stands for many functions: what one of them computes, its
# class does not say. Operations that take a function are such, too.
_MANY = (
    *(keras.Operation, keras.Layer, keras.layers.Layer, keras.Model),
    *(keras.Sequential, keras.layers.Lambda, keras.layers.Wrapper),
    *(keras.layers.TFSMLayer, keras.layers.TorchModuleWrapper),
    *(keras.layers.JaxLayer, keras.layers.FlaxLayer),
    *(gr.operation(f"core.{name}") for name in ("Map", "Scan", "WhileLoop")),
    *(gr.operation(f"core.{name}") for name in ("ForiLoop", "VectorizedMap")),
    *(gr.operation(f"core.{name}") for name in ("AssociativeScan", "Switch")),
    *(gr.operation(f"core.{name}") for name in ("Cond", "CustomGradient")),
)
# What Python gives to every class.
_OF_EVERY_CLASS = frozenset(vars(type("_Empty", (), {})))
_TELLERS: list[Callable[[keras.Operation], Rule | None]] = []
# Rules that hold for subclasses, too, unless these change what is named.
_INHERITED: dict[type[Any], tuple[str, ...]] = {}


def register(layer_class: type[Any], rule: Rule) -> None:
    """Register a rule for a class of layers or operations.

    A function can be registered as well, for layers that use it as
    `activation`: with `Elementwise()`, if it treats each value alone.

    Args:
        layer_class: the class (not its subclasses), or a function.
        rule: a `keras_gates.surgeon.rules.Rule`, such as `PerChannel(...)`
            or `Elementwise()`.

    Raises:
        TypeError: `layer_class` is neither a class nor a function, or `rule` is
            not a `Rule`, or not `Elementwise` for a function.
        ValueError: the class or function already has a rule, or the class
            stands for many functions, such as `keras.layers.Lambda`.

    Example:
    A layer that adds a vector of weights treats each channel alone:

    >>> import keras
    >>> import keras_gates as kg
    >>> @keras.saving.register_keras_serializable("example")
    ... class Shift(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.shift = self.add_weight(shape=shape[-1:], name="shift")
    ...
    ...     def call(self, x):
    ...         return x + self.shift
    >>> kg.surgeon.register(
    ...     Shift,
    ...     kg.surgeon.rules.PerChannel(axes={"shift": ("channel",)}),
    ... )
    >>> x = keras.Input((4,))
    >>> gate = kg.FilterGate()
    >>> y = Shift(name="shift")(gate(keras.layers.Dense(8)(x)))
    >>> model = keras.Model(x, keras.layers.Dense(2)(y))
    >>> _ = gate.factor.assign([0, 0, 0, 1, 1, 1, 1, 1])
    >>> small = kg.surgeon.prune(model, thresholds=0.05)
    >>> tuple(small.get_layer("shift").shift.shape)
    (5,)

    A function that layers use as activation:

    >>> def squared_relu(x):
    ...     return keras.ops.square(keras.ops.relu(x))
    >>> kg.surgeon.register(
    ...     squared_relu, kg.surgeon.rules.Elementwise(passes="zero")
    ... )
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(8, activation=squared_relu, name="hidden"),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> list(kg.surgeon.score(model, "l2"))
    ['hidden']
    """
    if isinstance(layer_class, types.FunctionType | types.BuiltinFunctionType):
        _register_function(layer_class, rule)
        return
    if not isinstance(layer_class, type):
        raise TypeError(
            f"`layer_class` must be a class. Received: {layer_class!r} (of "
            f"type {type(layer_class).__name__}). A function may be "
            "registered, too, if layers use it as activation."
        )
    if not isinstance(rule, Rule):
        raise TypeError(
            f"The rule of {layer_class.__name__} must be an instance of "
            "keras_gates.surgeon.rules.Rule, such as Elementwise(). "
            f"Received: {rule!r}."
        )
    if _stands_for_many(layer_class):
        raise ValueError(
            f"{layer_class.__name__} can't have a rule: rules apply to "
            "classes, and layers of this class compute many functions. Write "
            "yours with `keras.ops`, which have rules, or as a custom layer "
            "class, and register that."
        )
    if layer_class in _RULES:
        raise ValueError(
            f"{layer_class.__name__} already has a rule "
            f"({_RULES[layer_class].kind}). Rules are never replaced; "
            "subclass the layer to give it another rule."
        )
    _RULES[layer_class] = rule


def _register_function(function: Callable[..., Any], rule: Rule) -> None:
    """Register an elementwise function."""
    known = rule.as_function(None) if isinstance(rule, Rule) else None
    if known is None or known[1]:
        raise TypeError(
            "A function can only be registered as "
            "keras_gates.surgeon.rules.Elementwise(...): it treats each "
            f"value alone. Received for {function.__name__}: {rule!r}. For "
            "anything else, write a layer class, and register that."
        )
    if function in _FUNCTIONS:
        raise ValueError(
            f"The function {function.__name__} already has a rule "
            f"({_FUNCTIONS[function].kind}). Rules are never replaced."
        )
    _FUNCTIONS[function] = rule


def explain(cls: type[Any], reason: str) -> None:
    """Set the reason why a class has no rule; it may still be registered."""
    name = cls.__name__
    _REASONS[cls] = Barrier(why=f"no rule for {name}: {reason}")


def _stands_for_many(cls: type[Any]) -> bool:
    """Whether a class does not say what its layers compute."""
    own = issubclass(cls, keras.layers.Lambda)
    same = own and cls.call is keras.layers.Lambda.call
    return same or any(cls is one for one in _MANY)


def include_subclasses(cls: type[Any], names: tuple[str, ...]) -> None:
    """Let the rule of a class hold for subclasses that change none of `names`.

    Only for classes of which it is known what their function rests on.
    """
    _INHERITED[cls] = tuple(names)


def rule_of(call: Call) -> Rule:
    """The rule for a call; a barrier if its class has none."""
    if "call" in vars(call.op):
        return _REPLACED
    rule = rule_of_model(call.op) or rule_of_class(type(call.op))
    if rule is None:
        return _REASONS.get(type(call.op), _UNKNOWN)
    rule = rule.pick(call)
    weighted = _weighted_activation(rule, call.op)
    if weighted is None:
        return rule
    why = (
        f"its activation '{weighted.name}' (of type "
        f"{type(weighted).__name__}) has weights of its own; call it as a "
        "layer after this one"
    )
    return Barrier(costs=rule.costs, why=why)


def _weighted_activation(rule: Rule, op: keras.Operation) -> keras.Layer | None:
    """A layer with weights that is the activation of another, or None."""
    if not private.has_sublayers(op) or rule.keeps_whole:
        return None
    for part in rule.parts(op):
        for name in ("activation", "recurrent_activation"):
            found = getattr(part, name, None)
            if isinstance(found, keras.Layer) and found.weights:
                return found
    return None


def rule_of_class(cls: type[Any]) -> Rule | None:
    """The rule that a class is registered with, or inherits, or None."""
    while cls not in _RULES and _adds_nothing(cls):
        (cls,) = cls.__bases__
    rule = _RULES.get(cls)
    if rule is not None:
        return rule
    for base, names in _INHERITED.items():
        if issubclass(cls, base) and all(
            getattr(cls, name, None) is getattr(base, name, None)
            for name in names
        ):
            return _RULES[base]
    return None


def _adds_nothing(cls: type[Any]) -> bool:
    """Whether a class has one parent, and is no other than this."""
    return len(cls.__bases__) == 1 and not any(
        callable(value) or hasattr(value, "__get__") or not name.startswith("_")
        for name, value in vars(cls).items()
        if name not in _OF_EVERY_CLASS
    )


def recognize(tell: Callable[[keras.Operation], Rule | None]) -> None:
    """Let a function tell the rules of functional models by what they are."""
    _TELLERS.append(tell)


def rule_of_model(op: keras.Operation) -> Rule | None:
    """The rule of a functional model that is taken as one layer, or None."""
    if isinstance(op, keras.Model):
        for tell in _TELLERS:
            rule = tell(op)
            if rule is not None:
                return rule
    return None


def why_none(cls: type[Any]) -> Barrier | None:
    """What `explain` said of a class, or None."""
    return _REASONS.get(cls)


def rule_of_function(function: Callable[..., Any]) -> Rule | None:
    """The rule that a function is registered with, or None."""
    return _FUNCTIONS.get(function)


def registered() -> dict[type[Any], Rule]:
    """All classes with their rules, in the order of registration."""
    return dict(_RULES)


def table() -> list[tuple[str, str, str]]:
    """Rows `(name, kind, note)` of all rules, for the documentation."""
    return [
        (f"{cls.__module__.split('.')[0]} {cls.__name__}", rule.kind, rule.note)
        for cls, rule in _RULES.items()
        if issubclass(cls, keras.Operation)
    ]
