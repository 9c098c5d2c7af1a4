"""The append-only table of rules, by exact class.

A subclass is not its parent: what it adds may change what its channels
mean, so it gets no rule until it is registered.
"""

import keras

from keras_gates.surgeon import graph as gr
from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import Rule

_RULES = {}
_UNKNOWN = Barrier()
_REPLACED = Barrier(why="its `call` is not that of its class")
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
# Rules that hold for subclasses, too, unless these change what is named.
_INHERITED = {}


def register(layer_class, rule):
    """Tell the surgeon how to treat a class of layers or operations.

    Args:
        layer_class: the class; subclasses are not included.
        rule: a `keras_gates.surgeon.rules.Rule`, such as `PerChannel(...)`
            or `Elementwise()`.

    Raises:
        TypeError: `layer_class` is no class, or `rule` is no `Rule`.
        ValueError: the class has a rule already, or stands for many
            functions, as `keras.layers.Lambda` does.
    """
    if not isinstance(layer_class, type):
        raise TypeError(
            "`layer_class` must be a class. Received: "
            f"{layer_class!r} (of type {type(layer_class).__name__})."
        )
    if not isinstance(rule, Rule):
        raise TypeError(
            f"The rule of {layer_class.__name__} must be an instance of "
            "keras_gates.surgeon.rules.Rule, such as Elementwise(). "
            f"Received: {rule!r}."
        )
    if _stands_for_many(layer_class):
        raise ValueError(
            f"{layer_class.__name__} can have no rule: rules go by class, and "
            "layers of this one compute many functions. Write yours with "
            "`keras.ops`, which have rules, or as a layer class of your own, "
            "and register that."
        )
    if layer_class in _RULES:
        raise ValueError(
            f"{layer_class.__name__} has a rule already "
            f"({_RULES[layer_class].kind}). Rules are never replaced; "
            "subclass the layer to treat it in another way."
        )
    _RULES[layer_class] = rule


def _stands_for_many(cls):
    """Whether a class does not say what its layers compute."""
    own = issubclass(cls, keras.layers.Lambda)
    same = own and cls.call is keras.layers.Lambda.call
    return same or any(cls is one for one in _MANY)


def include_subclasses(cls, names):
    """Let the rule of a class hold for subclasses that change none of `names`.

    Only for classes of which it is known what their function rests on.
    """
    _INHERITED[cls] = tuple(names)


def rule_of(call):
    """The rule for a call; a barrier if its class has none."""
    if "call" in vars(call.op):
        return _REPLACED
    return (rule_of_class(type(call.op)) or _UNKNOWN).pick(call)


def rule_of_class(cls):
    """The rule that a class is registered with, or inherits, or None."""
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


def registered():
    """All classes with their rules, in the order of registration."""
    return dict(_RULES)


def table():
    """Rows `(name, kind, note)` of all rules, for the documentation."""
    return [
        (f"{cls.__module__.split('.')[0]} {cls.__name__}", rule.kind, rule.note)
        for cls, rule in _RULES.items()
        if issubclass(cls, keras.Operation)
    ]
