"""What all wrappers share: they look like the original and log our own errors once."""

from __future__ import annotations

import functools
import logging
import sys
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

__all__ = ["Function", "is_wrapper", "seal", "warn_once"]

Function = Callable[..., Any]

MAX_WARNINGS: Final = 100

log = logging.getLogger("kaywatch")

# Not by a mark on the wrapper, which `functools.wraps` would copy from our wrapper to
# the application's own around it.
_wrappers: Final[weakref.WeakSet[FunctionType]] = weakref.WeakSet()
_warned: Final[set[str]] = set()


def seal(wrapper: Any, original: Function) -> Function:
    """Make `wrapper` look like `original`, and recognisable as ours."""
    functools.update_wrapper(wrapper, original)
    _wrappers.add(wrapper)
    sealed: Function = wrapper
    return sealed


def is_wrapper(value: object) -> bool:
    """Return whether `value` is a function that `seal` returned."""
    return isinstance(value, FunctionType) and value in _wrappers


def warn_once(where: str) -> None:
    """Log the error of our own that is being handled, once for each place."""
    if where not in _warned and len(_warned) < MAX_WARNINGS:
        _warned.add(where)
        log.warning("%s can't be watched", where, exc_info=sys.exception())
