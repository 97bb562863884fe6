"""Records executions and calls that are still in progress when the process ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Generic, TypeVar
from weakref import WeakSet

from kaywatch._process import process

__all__ = ["ExitRecorder"]

T = TypeVar("T")

MAX_TRIES: Final = 1000  # as many as asyncio.all_tasks makes


class ExitRecorder(Generic[T]):
    """Records objects before the process ends, if the application still refers to them.

    Args:
        finish: records an object.
    """

    def __init__(self, finish: Callable[[T], object]) -> None:
        self._finish = finish
        self._objects: WeakSet[T] = WeakSet()
        process.before_exit.append(self._finish_all)
        os.register_at_fork(after_in_child=self._objects.clear)  # the parent's objects

    def add(self, one: T) -> None:
        """Add an object that has started."""
        self._objects.add(one)
        if process.sender is None:
            process.on_pressure()  # before the first event: the process may end now

    def _finish_all(self) -> None:
        for one in self._copy():
            self._finish(one)

    def _copy(self) -> list[T]:
        for _ in range(MAX_TRIES):
            try:
                return list(self._objects)
            except RuntimeError:  # another thread has changed the set meanwhile
                pass
        return []
