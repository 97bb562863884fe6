"""Shortens params and the keys of shared for the log, even if their `repr` raises."""

from __future__ import annotations

import reprlib
from typing import Any, Final

__all__ = ["keys_of", "params_of"]

MAX_ENTRIES: Final = 50
MAX_TEXT: Final = 200  # characters of one key or value

_short: Final = reprlib.Repr()
_short.maxstring = _short.maxother = MAX_TEXT
_PLAIN: Final = (bool, float, type(None))


def params_of(node: object) -> dict[str, Any] | None:
    """Return a node's params, None if they are not a dict."""
    params = getattr(node, "params", None)
    if not isinstance(params, dict):
        return None
    pairs = list(dict.items(params))[:MAX_ENTRIES]
    return {_text(key): _value(value) for key, value in pairs}


def keys_of(shared: object) -> list[str] | None:
    """Return the keys of shared, None if it is not a dict."""
    if not isinstance(shared, dict):
        return None
    return [_text(key) for key in list(dict.keys(shared))[:MAX_ENTRIES]]


def _value(value: object) -> Any:
    if type(value) in _PLAIN or (type(value) is int and value.bit_length() < 64):
        return value
    return _text(value)


def _text(value: object) -> str:
    if type(value) is str:
        return value[:MAX_TEXT]
    try:
        return _short.repr(value)[: 2 * MAX_TEXT]
    except Exception as failure:  # noqa: BLE001 - a __repr__ of the application's
        return f"<__repr__ raised {type(failure).__name__}>"
