"""The append-only table of rules, by exact class.

A subclass is not its parent: what it adds may change what its channels
mean, so it gets no rule until it is registered.
"""

import keras

from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import Rule

_RULES = {}
_UNKNOWN = Barrier()


def register(layer_class, rule):
    """Tell the surgeon how to treat a class of layers or operations.

    Args:
        layer_class: the class; subclasses are not included.
        rule: a `keras_gates.surgeon.rules.Rule`, such as `PerChannel(...)`
            or `Elementwise()`.

    Raises:
        TypeError: `layer_class` is no class, or `rule` is no `Rule`.
        ValueError: the class has a rule already.
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
    if layer_class in _RULES:
        raise ValueError(
            f"{layer_class.__name__} has a rule already "
            f"({_RULES[layer_class].kind}). Rules are never replaced; "
            "subclass the layer to treat it in another way."
        )
    _RULES[layer_class] = rule


def rule_of(call):
    """The rule for a call; a barrier if its class has none."""
    return _RULES.get(type(call.op), _UNKNOWN).pick(call)


def rule_of_class(cls):
    """The rule that a class is registered with, or None."""
    return _RULES.get(cls)


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
