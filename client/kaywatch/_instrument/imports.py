"""Calls back whenever a module has been imported.

Strategy: a finder in front of the others lets them find an awaited module, and makes
its loader call back after `exec_module`. Nothing of ours stays on the module, its spec
or its loader.
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

_callbacks: Final[dict[str, list[Callback]]] = {}  # by the module's name


def when_imported(name: str, callback: Callback) -> None:
    """Call `callback(module)` after each import of a module, and now if that is done.

    A module is imported again by `importlib.reload`, and after it was removed from
    `sys.modules`. An error of the callback is logged and not raised.

    Args:
        name: the module's; `*.part` for all modules whose name ends with that part.
        callback: called for the same module more than once if this is called again.
    """
    callbacks = _callbacks.setdefault(name, [])
    if callback not in callbacks:
        callbacks.append(callback)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for module in _imported(name):
        spec = getattr(module, "__spec__", None)
        if module is not None and not getattr(spec, "_initializing", False):
            _call(callback, module)


def _imported(name: str) -> list[ModuleType | None]:
    """Return the modules of a name; None for one that may not be imported."""
    if name.startswith("*."):
        suffix, modules = name[1:], list(sys.modules.items())
        return [module for key, module in modules if f".{key}".endswith(suffix)]
    return [sys.modules.get(name)]


def _wildcard(name: str) -> str:
    return "*." + name.rpartition(".")[2]


def _callbacks_of(name: str) -> list[Callback]:
    return [*_callbacks.get(name, ()), *_callbacks.get(_wildcard(name), ())]


def forget(callback: Callback) -> None:
    """Cancel all waiting of `callback`."""
    for name, callbacks in list(_callbacks.items()):
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks:
            del _callbacks[name]
    if not _callbacks and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


class _Finder:
    """Finds nothing by itself; hooks what the finders behind it find."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if not _callbacks_of(name):
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
            for callback in _callbacks_of(spec.name):
                _call(callback, module)

    try:
        loader.exec_module = execute_and_call
    except AttributeError:
        warn_once(f"the import of {spec.name}")


def _call(callback: Callback, module: ModuleType) -> None:
    try:
        callback(module)
    except Exception:  # noqa: BLE001 - the application's import continues
        warn_once(f"module {module.__name__}")
