"""Python's collector of cycles, and when it only costs time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Pause the collector; also a decorator.

    What is made meanwhile is reachable until it is dropped, and then freed
    without the collector. But there are so many small objects that it is
    started again and again, and each time looks at all that the process holds:
    for a network of a thousand layers, a third of the time of a plan.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
