"""Layers by name, by a pattern with *, or by class."""

import fnmatch


def listed(value):
    """One or several patterns, or None, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set)) else [value]


def check(patterns, argument):
    """Refuse what is no pattern.

    Raises:
        TypeError: one is neither a string nor a class.
    """
    for pattern in listed(patterns):
        if not isinstance(pattern, (str, type)):
            raise TypeError(
                f"`{argument}` takes layer names, patterns and layer classes. "
                f"Received: {pattern!r} (of type {type(pattern).__name__})."
            )


def matches(patterns, calls):
    """Whether one of the patterns fits one of the calls."""
    return any(
        _fits(pattern, call) for pattern in listed(patterns) for call in calls
    )


def check_used(patterns, argument, kind, found):
    """Refuse a pattern that fits nothing that can be gated.

    Args:
        patterns: one, or a list.
        argument: the argument they came in, for the message.
        kind: what they choose from, for the message.
        found: what there is: each with `name`, `calls` and `reason`.

    Raises:
        ValueError: a pattern fits none of them.
    """
    for pattern in listed(patterns):
        fitting = [x for x in found if matches(pattern, x.calls)]
        if any(not x.reason for x in fitting):
            continue
        if fitting and argument == "exclude":
            continue
        names = ", ".join(x.name for x in found if not x.reason) or "none"
        why = "; ".join(f"'{x.name}': {x.reason}" for x in fitting[:3])
        why = f"fits only what gets no gate ({why})" if why else "fits nothing"
        raise ValueError(
            f"`{argument}` of `{kind}` has {pattern!r}, which {why}. The "
            f"{kind} of this model that can get gates: {names}. Pass one of "
            "these names, the name of a layer inside, a pattern with *, or a "
            "class."
        )


def _fits(pattern, call):
    if isinstance(pattern, type):
        return isinstance(call.op, pattern)
    names = (call.path, call.op.name)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)
