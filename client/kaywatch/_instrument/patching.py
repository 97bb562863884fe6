"""Replaces functions of a framework's classes, and restores them exactly.

Strategy: classes are patched, never instances, because the frameworks run a copy of a
node at every visit. A node class is recognized by its methods. Each function in a
class's own `__dict__` is replaced by a wrapper, so overrides are covered wherever they
are. Classes that are defined later are found by `__init_subclass__`, or at their first
run. No class is kept alive: applications define classes within functions.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Collection, Iterator
from types import FunctionType, ModuleType
from typing import Any, Final

from kaywatch._wrappers import Function, is_wrapper, seal, warn_once

__all__ = ["Patches", "Wrap", "is_graph"]

# (owner of the function, whether it runs nodes, name, function) -> the wrapper, or
# None to leave the function alone.
Wrap = Callable[[type, bool, str, FunctionType], Function | None]

_NODE_METHODS: Final = ("prep", "exec", "post", "_run")
_GRAPH_METHOD: Final = "get_next_node"
_HOOK: Final = "__init_subclass__"


def is_graph(cls: type) -> bool:
    """Return whether instances of `cls` run other nodes."""
    return hasattr(cls, _GRAPH_METHOD)


class Patches:
    """The patched classes, and how to restore them.

    Args:
        names: of the functions to replace.
        wrap: returns the wrapper of one function.
    """

    def __init__(self, names: Collection[str], wrap: Wrap) -> None:
        self._names = names
        self._wrap = wrap
        self._roots: list[type] = []
        self._modules: list[ModuleType] = []
        self._frameworks: set[str] = set()
        self._classes: dict[int, weakref.ref[type]] = {}
        # By the root class: its own hook, and the one that replaces it.
        self._hooks: dict[type, tuple[object, object]] = {}

    def add(self, module: ModuleType) -> bool:
        """Patch the node classes in `module` and all their subclasses.

        Returns:
            Whether there are any.
        """
        roots = {
            next(base for base in reversed(cls.__mro__) if _is_node(base))
            for cls in list(vars(module).values())
            if isinstance(cls, type) and _is_node(cls)
        }
        for root in roots:
            if root not in self._roots:
                self._roots.append(root)
                self._hook(root)
            self._frameworks.add(root.__module__)
            for cls in _with_subclasses(root):
                self._patch(cls)
        if roots and module not in self._modules:
            self._modules.append(module)
            self._frameworks.add(module.__name__)
        return bool(roots)

    def names_of(self, name: str) -> list[str]:
        """Return the own name of the module imported as `name`, if it is patched."""
        module = sys.modules.get(name)
        return [m.__name__ for m in self._modules if m is module]

    def adopt(self, cls: type) -> bool:
        """Patch a class of a patched framework; return whether it is one."""
        if not any(root in cls.__mro__ for root in self._roots):
            return False
        self._patch(cls)
        return True

    def is_own(self, cls: type) -> bool:
        """Return whether `cls` is a framework's own class, not an application's."""
        home = cls.__module__
        return home in self._frameworks or any(
            home.startswith(name + ".") for name in self._frameworks
        )

    def restore(self) -> list[ModuleType]:
        """Restore every function that is still replaced by our wrapper.

        Returns:
            The modules that were patched.
        """
        modules, self._modules = self._modules, []
        for root, (original, ours) in self._hooks.items():
            if vars(root).get(_HOOK) is not ours:
                continue
            if original is None:
                type.__delattr__(root, _HOOK)
            else:
                type.__setattr__(root, _HOOK, original)
        for reference in list(self._classes.values()):
            cls = reference()
            for name, function in self._functions(cls) if cls is not None else ():
                if is_wrapper(function):
                    wrapped = function.__wrapped__  # type: ignore[attr-defined]
                    type.__setattr__(cls, name, wrapped)
        self._hooks.clear()
        self._classes.clear()
        self._roots.clear()
        self._frameworks.clear()
        return modules

    def _patch(self, cls: type) -> None:
        # Mixins too: an `exec` may come from outside of the framework's class tree.
        # Only the class that they are mixed into tells nodes from graphs.
        for base in cls.__mro__:
            graph = is_graph(base if _is_node(base) else cls)
            for name, function in self._functions(base):
                if not is_wrapper(function):
                    wrapper = self._wrap(base, graph, name, function)
                    if wrapper is not None:
                        # Bypasses a `__setattr__` of the application's metaclass.
                        type.__setattr__(base, name, wrapper)
            self._remember(base)

    def _functions(self, cls: type) -> list[tuple[str, FunctionType]]:
        own = vars(cls)
        values = ((name, own.get(name)) for name in self._names)
        return [(name, f) for name, f in values if isinstance(f, FunctionType)]

    def _remember(self, cls: type) -> None:
        key = id(cls)
        if key not in self._classes:
            classes = self._classes
            self._classes[key] = weakref.ref(cls, lambda _: classes.pop(key, None))

    def _hook(self, root: Any) -> None:
        original = vars(root).get(_HOOK)
        call = original.__func__ if isinstance(original, classmethod) else None

        def init_subclass(cls: Any, /, **kwargs: Any) -> None:
            if call is not None:
                call(cls, **kwargs)
            else:
                super(root, cls).__init_subclass__(**kwargs)
            try:
                self.adopt(cls)
            except Exception:  # noqa: BLE001 - the application continues without us
                warn_once(f"class {cls.__name__}")

        def unhooked(cls: Any, /, **kwargs: Any) -> None:
            super(root, cls).__init_subclass__(**kwargs)

        # A pickler by value takes the original.
        seal(init_subclass, call or unhooked)
        ours: classmethod[Any, Any, None] = classmethod(init_subclass)
        type.__setattr__(root, _HOOK, ours)
        self._hooks[root] = (original, ours)


def _is_node(cls: type) -> bool:
    return all(callable(getattr(cls, name, None)) for name in _NODE_METHODS)


def _with_subclasses(root: type) -> Iterator[type]:
    seen = {root}
    pending = [root]
    while pending:
        cls = pending.pop()
        yield cls
        subclasses: list[type] = type.__subclasses__(cls)
        new = [subclass for subclass in subclasses if subclass not in seen]
        seen.update(new)
        pending.extend(new)
