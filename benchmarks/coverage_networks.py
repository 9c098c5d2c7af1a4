"""The networks that benchmarks/coverage.py prunes, by suite and name."""

import functools
import inspect

import keras

from tests import helpers
from tests.surgeon import networks_beyond


def applications():
    """`{name: builder}` of all models of keras.applications."""
    found = {}
    for name, value in vars(keras.applications).items():
        if inspect.isfunction(value) and name[0].isupper():
            found[name] = functools.partial(_application, value)
    return dict(sorted(found.items()))


def _application(function):
    """A network with the smallest inputs that it takes, and 10 outputs."""
    options = {"weights": None, "classes": 10, "classifier_activation": None}
    known = inspect.signature(function).parameters
    options = {k: v for k, v in options.items() if k in known}
    for size in (64, 75, 96, 128, 224, 331):
        try:
            return function(input_shape=(size, size, 3), **options)
        except ValueError as error:
            refused = error
    raise refused


def beyond():
    """`{name: builder}` of the small gated networks of the tests."""
    return {
        build.__name__: functools.partial(_half_closed, build)
        for build in networks_beyond.TABLE
    }


def _half_closed(build):
    return networks_beyond.close_half(helpers.randomize(build()))


SUITES = {"applications": applications, "beyond": beyond}
