"""Replaces functions of a framework's classes, and puts them back exactly.

Strategy: classes are patched, never instances, since the frameworks run a copy of a
node at every visit. A class is known by its shape. Each function in a class's own
`__dict__` is replaced by a wrapper, so overrides are met wherever they are; classes
that are made later come through `__init_subclass__`, or are found at their first run.
No class is kept alive: applications define classes within functions.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator
from types import FunctionType, ModuleType
from typing import Any, Final

from kaywatch._wrappers import Function, is_wrapper, warn_once

__all__ = ["Patches", "Wrap", "is_graph"]

# (owner of the function, whether it runs nodes, name, function) -> the wrapper, or
# None to leave the function alone.
Wrap = Callable[[type, bool, str, FunctionType], Function | None]

_SHAPE: Final = ("prep", "exec", "post", "_run")
_GRAPH_SHAPE: Final = "get_next_node"
_HOOK: Final = "__init_subclass__"


def is_graph(cls: type) -> bool:
    """Return whether instances of `cls` run other nodes."""
    return hasattr(cls, _GRAPH_SHAPE)


class Patches:
    """The classes that are patched, and how to undo it.

    Args:
        names: of the functions to replace.
        wrap: makes the wrapper of one function.
    """

    def __init__(self, names: Collection[str], wrap: Wrap) -> None:
        self._names = names
        self._wrap = wrap
        self._roots: list[type] = []
        self._modules: list[ModuleType] = []
        self._frameworks: set[str] = set()
        self._classes: dict[int, weakref.ref[type]] = {}
        self._hooks: dict[type, tuple[object, object]] = {}  # root: (theirs, ours)

    def add(self, module: ModuleType) -> bool:
        """Patch the node classes in `module` and all their subclasses.

        Returns:
            Whether there were any.
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
            for cls in _family(root):
                self._patch(cls)
        if roots and module not in self._modules:
            self._modules.append(module)
            self._frameworks.add(module.__name__)
        return bool(roots)

    def adopt(self, cls: type) -> bool:
        """Patch one class; return whether it belongs to a framework that we patch."""
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
        """Put every function back that is still ours.

        Returns:
            The modules that were patched.
        """
        modules, self._modules = self._modules, []
        for root, (theirs, ours) in self._hooks.items():
            if vars(root).get(_HOOK) is not ours:
                continue
            if theirs is None:
                type.__delattr__(root, _HOOK)
            else:
                type.__setattr__(root, _HOOK, theirs)
        for reference in list(self._classes.values()):
            cls = reference()
            for name, function in self._functions(cls) if cls is not None else ():
                if is_wrapper(function):
                    original = function.__wrapped__  # type: ignore[attr-defined]
                    type.__setattr__(cls, name, original)
        self._hooks.clear()
        self._classes.clear()
        self._roots.clear()
        self._frameworks.clear()
        return modules

    # -- inside ------------------------------------------------------------------

    def _patch(self, cls: type) -> None:
        # Mixins too: an `exec` may come from outside the framework's tree. Only the
        # class that they are mixed into tells what they are for.
        for base in cls.__mro__:
            graph = is_graph(base if _is_node(base) else cls)
            for name, function in self._functions(base):
                if not is_wrapper(function):
                    wrapper = self._wrap(base, graph, name, function)
                    if wrapper is not None:
                        # Past a metaclass of the application's that watches.
                        type.__setattr__(base, name, wrapper)
            self._remember(base)

    def _functions(self, cls: type) -> list[tuple[str, FunctionType]]:
        own = vars(cls)
        found = ((name, own.get(name)) for name in self._names)
        return [(name, f) for name, f in found if isinstance(f, FunctionType)]

    def _remember(self, cls: type) -> None:
        key = id(cls)
        if key not in self._classes:
            classes = self._classes
            self._classes[key] = weakref.ref(cls, lambda _: classes.pop(key, None))

    def _hook(self, root: Any) -> None:
        theirs = vars(root).get(_HOOK)
        call = theirs.__func__ if isinstance(theirs, classmethod) else None

        def init_subclass(cls: Any, /, **kwargs: Any) -> None:
            if call is not None:
                call(cls, **kwargs)
            else:
                super(root, cls).__init_subclass__(**kwargs)
            try:
                self.adopt(cls)
            except Exception:  # noqa: BLE001 - the application goes on without us
                warn_once(f"class {cls.__name__}")

        ours: classmethod[Any, Any, None] = classmethod(init_subclass)
        type.__setattr__(root, _HOOK, ours)
        self._hooks[root] = (theirs, ours)


def _is_node(cls: type) -> bool:
    return all(callable(getattr(cls, name, None)) for name in _SHAPE)


def _family(root: type) -> Iterator[type]:
    seen = {root}
    todo = [root]
    while todo:
        cls = todo.pop()
        yield cls
        below: list[type] = type.__subclasses__(cls)
        fresh = [c for c in below if c not in seen]
        seen.update(fresh)
        todo.extend(fresh)
