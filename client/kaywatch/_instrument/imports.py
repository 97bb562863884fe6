"""Calls back once a module has been imported, whenever that is.

Strategy: a finder in front of the others looks a module that is waited for up by them,
and lets its loader call back after `exec_module`. Nothing of ours stays on the module,
its spec or its loader.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from kaywatch._wrappers import warn_once

__all__ = ["forget", "when_imported"]

Callback = Callable[[ModuleType], object]

_waiting: Final[dict[str, list[Callback]]] = {}


def when_imported(name: str, callback: Callback) -> None:
    """Call `callback(module)` now if the module is imported, else after its import.

    An error of the callback is logged and goes no further.
    """
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is not None and not getattr(spec, "_initializing", False):
        _call(callback, module)
        return
    callbacks = _waiting.setdefault(name, [])
    if callback not in callbacks:
        callbacks.append(callback)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def forget(callback: Callback) -> None:
    """Wait no more on behalf of `callback`."""
    for name, callbacks in list(_waiting.items()):
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks:
            del _waiting[name]
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


class _Finder:
    """Finds nothing by itself; hooks what the finders behind it find."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name not in _waiting:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                _hook(spec)
                return spec
        return None


_finder: Final[Any] = _Finder()


def _hook(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return

    def execute_and_call(module: ModuleType) -> None:
        execute(module)
        if module.__name__ == spec.name:  # a loader may be shared, as zipimport's is
            vars(loader).pop("exec_module", None)
            for callback in _waiting.pop(spec.name, []):
                _call(callback, module)

    try:
        loader.exec_module = execute_and_call
    except AttributeError:
        warn_once(f"the import of {spec.name}")


def _call(callback: Callback, module: ModuleType) -> None:
    try:
        callback(module)
    except Exception:  # noqa: BLE001 - the application's import goes on
        warn_once(f"module {module.__name__}")
