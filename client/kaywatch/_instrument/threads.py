"""Carries the node in progress into the threads and executors that it uses.

Strategy: a new thread starts with an empty context. `Thread.start` notes the span and
the run of its caller on the thread, which makes them its own. A worker of a pool
outlives the node, so it starts without them, and each task carries those of the code
that submitted it. Context variables of the application are left alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from kaywatch._instrument.imports import forget, when_imported
from kaywatch._spans.runs import current_run
from kaywatch._spans.spans import current_span
from kaywatch._wrappers import Function, seal

__all__ = ["carry_into_threads", "is_on_by_default", "restore"]

_OFF: Final = frozenset({"0", "false", "no", "off"})
_ORIGIN: Final = "_kaywatch_origin"  # of a thread: the span and the run that started it
_POOL_METHODS: Final = (
    "apply_async",
    "imap",
    "imap_unordered",
    "map",
    "map_async",
    "starmap",
    "starmap_async",
)

_span: Final = current_span.get
_run: Final = current_run.get

_originals: Final[list[tuple[type, str, Any, Any]]] = []  # class, name, own, wrapper


def is_on_by_default() -> bool:
    """Return whether `KAYWATCH_THREADS` leaves this on."""
    return os.environ.get("KAYWATCH_THREADS", "").strip().lower() not in _OFF


def carry_into_threads() -> None:
    """Attribute events of threads to the node that started them, from now on."""
    if _originals:
        return
    _replace(threading.Thread, "start", _wrap_start)
    # Subclasses replace `run`, as `Timer` does, and rarely call this one's.
    _replace(threading.Thread, "_bootstrap_inner", _wrap_bootstrap)
    when_imported("concurrent.futures.thread", _patch_executor)
    when_imported("multiprocessing.pool", _patch_pool)


def restore() -> None:
    """Undo `carry_into_threads`."""
    forget(_patch_executor)
    forget(_patch_pool)
    while _originals:
        cls, name, own, wrapper = _originals.pop()
        if vars(cls).get(name) is not wrapper:
            continue
        if own is None:
            delattr(cls, name)
        else:
            setattr(cls, name, own)


def _patch_executor(module: ModuleType) -> None:
    _replace(module.ThreadPoolExecutor, "submit", _wrap_submit)


def _patch_pool(module: ModuleType) -> None:
    _replace(module.ThreadPool, "__init__", _wrap_pool)
    for name in _POOL_METHODS:
        _replace(module.ThreadPool, name, _wrap_submit)


def _replace(cls: Any, name: str, wrap: Callable[[Function], Function]) -> None:
    original = getattr(cls, name, None)
    if original is not None:
        wrapper = seal(wrap(original), original)
        _originals.append((cls, name, vars(cls).get(name), wrapper))
        setattr(cls, name, wrapper)


def _wrap_start(original: Function) -> Function:
    def start(self: Any) -> None:
        if _span() is not None or _run() is not None:
            vars(self)[_ORIGIN] = _span(), _run()
        original(self)

    return start


def _wrap_bootstrap(original: Function) -> Function:
    def bootstrap(self: Any) -> None:
        span, run = vars(self).pop(_ORIGIN, (None, None))
        current_span.set(span)
        current_run.set(run)
        original(self)

    return bootstrap


def _wrap_pool(original: Function) -> Function:
    def create(self: Any, *args: Any, **kwargs: Any) -> None:
        with _origin(None, None):
            original(self, *args, **kwargs)

    return create


def _wrap_submit(original: Function) -> Function:
    def submit(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not args or (_span() is None and _run() is None):
            return original(self, *args, **kwargs)
        function = _carry_context(args[0])
        with _origin(None, None):  # for the worker that this call may start
            return original(self, function, *args[1:], **kwargs)

    return submit


def _carry_context(function: Function) -> Function:
    """Return a function that runs in the span and the run of this moment."""
    span, run = _span(), _run()

    def carry(*args: Any, **kwargs: Any) -> Any:
        with _origin(span, run):
            return function(*args, **kwargs)

    return carry


@contextmanager
def _origin(span: Any, run: Any) -> Iterator[None]:
    span_token, run_token = current_span.set(span), current_run.set(run)
    try:
        yield
    finally:
        current_run.reset(run_token)
        current_span.reset(span_token)
