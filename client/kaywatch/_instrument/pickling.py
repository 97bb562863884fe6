"""Lets libraries that pickle by value see the original functions.

Strategy: pickle stores a function as a reference, which leads to our wrapper where it
is loaded under instrumentation. cloudpickle and dill store the code of a class from
`__main__` or a notebook. They receive what the wrapper replaced, so that the copy is
the application's, and loads where kaywatch is not installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, Final

from kaywatch._instrument.imports import forget, when_imported
from kaywatch._wrappers import is_wrapper, seal

__all__ = ["pickle_originals", "restore"]

_undo: Final[list[Callable[[], None]]] = []


def pickle_originals() -> None:
    """Pickle the originals of wrapped functions by value, from now on."""
    # By the last part of their names, since Ray and Spark have own copies.
    for name in ("*.cloudpickle", "*.cloudpickle_fast"):
        when_imported(name, _patch_cloudpickle)
    when_imported("dill._dill", _patch_dill)


def restore() -> None:
    """Undo `pickle_originals`."""
    forget(_patch_cloudpickle)
    forget(_patch_dill)
    while _undo:
        _undo.pop()()


def _patch_cloudpickle(module: ModuleType) -> None:
    for cls in {getattr(module, name, None) for name in ("Pickler", "CloudPickler")}:
        original = getattr(cls, "_dynamic_function_reduce", None)
        if isinstance(original, FunctionType) and not is_wrapper(original):
            _replace_reduce(cls, original)


def _replace_reduce(cls: Any, original: FunctionType) -> None:
    def reduce(self: Any, func: Any) -> Any:
        return original(self, _original_of(func))

    cls._dynamic_function_reduce = seal(reduce, original)
    _undo.append(lambda: setattr(cls, "_dynamic_function_reduce", original))


def _patch_dill(module: ModuleType) -> None:
    dispatch = module.Pickler.dispatch
    original = dispatch[FunctionType]
    if is_wrapper(original):
        return

    def save(pickler: Any, obj: Any) -> None:
        is_by_value = is_wrapper(obj) and not module._locate_function(obj, pickler)  # noqa: SLF001
        original(pickler, _original_of(obj) if is_by_value else obj)

    dispatch[FunctionType] = seal(save, original)
    _undo.append(lambda: dispatch.__setitem__(FunctionType, original))


def _original_of(function: Any) -> Any:
    """Return the function that our wrapper replaced; other functions unchanged."""
    return (
        inspect.unwrap(function, stop=lambda f: not is_wrapper(f))
        if is_wrapper(function)
        else function
    )
