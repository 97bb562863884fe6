"""The wrappers around `_exec` and `exec`: attempts and items of an execution.

Strategy: a call of `exec` after one that failed is a retry, counted on the span of the
execution. A batch calls `_exec` again for each item, and items may run concurrently, so
each has an `ItemSpan` that counts its own attempts. A thread of a pool has lost the
context; there the execution is found by the identity of its node. The frameworks' own
counter, `cur_retry`, is shared by all items and so cannot be used.

Nearly every execution is one call of `exec` that succeeds. While there are no others,
`exec` calls no hooks: `watched_spans` is their gate, which the first error opens.
"""

from __future__ import annotations

import sys
import time
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from kaywatch import _wrappers
from kaywatch._inline import leave_of
from kaywatch._instrument.naming import is_batch
from kaywatch._spans.details import ItemTiming
from kaywatch._spans.runs import current_run
from kaywatch._spans.spans import TRYING, Span, current_span, watched_spans
from kaywatch._wrappers import Hooks

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["EXEC", "EXEC_LOOP", "EXEC_OVERRIDE", "overrides_loop"]

_span: Final = current_span.get
_clock: Final = time.perf_counter

# Executions whose `_exec` may pass items to threads, by the node's id. If a node object
# runs twice at once, which graphs never do, the later execution is here.
_batches: Final[dict[int, Span]] = {}


class ItemSpan(Span):
    """One item of a batch node's execution, which counts its own attempts.

    It replaces the execution's span while a thread or task works on the item, so that
    values are attributed to the node. It is not recorded by itself.
    """

    __slots__ = ("execution", "run_token")

    def __init__(self, outer: Span, *, lost_context: bool = False) -> None:
        self.execution: Span = outer.execution if isinstance(outer, ItemSpan) else outer
        self.series = outer.series
        self.run = outer.run
        self.owner = outer.owner
        self.exec_started = self.started = _clock()
        self.exec_ended = 0.0
        self.failed_at = 0.0
        self.details = None
        self.execution.ensure_details()
        self.token = current_span.set(self)
        self.run_token = current_run.set(outer.run) if lost_context else None

    def record_answer(self, outcome: int, error: object) -> None:
        """Note on the execution that an item's error was answered."""
        self.execution.record_answer(outcome, error)

    def close(
        self,
        action: Any = None,  # noqa: ARG002
        error: BaseException | None = None,  # noqa: ARG002
    ) -> None:
        """Restore the context, and add the item's timing to the execution."""
        try:
            current_span.reset(self.token)
            if self.run_token is not None:
                current_run.reset(self.run_token)
        except ValueError:
            pass
        self.owner = None
        watched_spans.discard(self)
        self.pass_on_cost()
        details, seconds = self.ensure_details(), _clock() - self.started
        timing = ItemTiming(details.attempts - 1, details.wait_seconds, seconds)
        self.execution.ensure_details().item_timings.append(timing)


def overrides_loop(cls: type) -> bool:
    """Return whether an `_exec` of `cls` comes before the retry loop's own.

    Such an override may call the loop for many items. The class that defines
    `exec_fallback` also defines the loop.
    """
    is_async = hasattr(cls, "exec_fallback_async")
    fallback = "exec_fallback_async" if is_async else "exec_fallback"
    owners = [base for base in cls.__mro__ if fallback in vars(base)]
    if owners:
        return owners[-1] is not cls
    is_mixin = not hasattr(cls, "_run")
    return is_mixin or any("_exec" in vars(base) for base in cls.__mro__[1:])


# -- _exec of the retry loop -----------------------------------------------------


def _enter_loop(node: Any, _: object) -> Span | None:
    """Enter the retry loop of an execution, or of an item, which is opened here."""
    span = _span()
    if span is None or span.owner is not node or not span.exec_ended:
        return _open_item(node, span)
    # As `enter_exec`, without a call.
    span.exec_ended = 0.0
    if not span.exec_started:
        span.exec_started = _clock()
    return span


def _leave_loop(span: Span, _: object, error: BaseException | None) -> None:
    if type(span) is ItemSpan:  # 20 ns less than isinstance
        span.close()
    elif error is None:
        span.exec_ended = _clock()


EXEC_LOOP: Final = Hooks(_enter_loop, _leave_loop)


def _open_item(node: Any, span: Span | None) -> ItemSpan | None:
    """Open an item of the node's execution, None if the node isn't executed."""
    if span is not None and span.owner is node:
        return ItemSpan(span)
    execution = _batches.get(id(node))
    # The id may be another node's by now, if its execution was abandoned.
    if execution is None or execution.owner is not node:
        return None
    return ItemSpan(execution, lost_context=True)


# -- _exec of a batch, or another override that comes before the loop ------------


def _enter_override(node: Any, _: object) -> Span | None:
    """Enter a node's outermost `_exec`, None within it."""
    span = _span()
    if span is None or span.owner is not node:
        return None
    if type(span) is ItemSpan or _batches.get(id(node)) is span:
        return None
    span.enter_exec()
    # Made now, while there is only one thread.
    details = span.ensure_details()
    details.is_batch, details.thread = is_batch(node), get_ident()
    watched_spans.add(span)
    _batches[id(node)] = span
    return span


def _leave_override(span: Span, _: object, error: BaseException | None) -> None:
    key = id(span.owner)
    if span.owner is None:  # closed meanwhile: a thread outlived the execution
        key = next((k for k, other in list(_batches.items()) if other is span), key)
    if _batches.get(key) is span:
        del _batches[key]
    if error is None:
        span.leave_exec()


EXEC_OVERRIDE: Final = Hooks(_enter_override, _leave_override)


# -- exec ------------------------------------------------------------------------


def _start_attempt(node: Any, _: object) -> Span | None:
    """Start an attempt, None within one."""
    span = _span()
    if span is None or span.owner is not node:
        # Some batches call `exec` in a pool without the loop.
        return _open_item(node, None) if _batches else None
    if _batches and _is_in_pool(node, span):
        return _open_item(node, span)
    if span.failed_at == TRYING:
        return None
    if span.failed_at:
        span.count_retry()
    elif _is_within_exec(node):
        return None
    span.failed_at = TRYING
    return span


def _is_in_pool(node: Any, span: Span) -> bool:
    """Return whether a batch calls `exec` in a pool that carries its span."""
    details = span.details
    return (
        details is not None
        and details.thread not in (0, get_ident())
        and _batches.get(id(node)) is span
    )


def _end_attempt(state: Any, _: object, error: BaseException | None) -> None:
    """End an attempt; the state is the node if the gate was closed at its start."""
    kind = type(state)
    if kind is not Span and kind is not ItemSpan:
        if error is not None:
            _record_first_error(state, error)
    # Not any item: of two threads that retry at once, one ends the other's attempt.
    elif kind is ItemSpan and state.failed_at != TRYING:  # opened by this very call
        if error is not None:
            state.waste_cost()
        state.close()
    elif error is None:
        state.failed_at = 0.0
    else:
        state.record_failed_attempt(error)


EXEC: Final = Hooks(_start_attempt, _end_attempt, gate=watched_spans)


def _record_first_error(node: Any, error: BaseException) -> None:
    """Record that a node's `exec` failed, before which there was no error."""
    span = _span()
    if span is None or span.owner is not node or span.failed_at == TRYING:
        return
    if not _is_within_exec(node):
        span.record_failed_attempt(error)


def _is_within_exec(node: Any) -> bool:
    """Return whether the node's `exec` calls the present one, as `super().exec()`.

    Only the outermost call is an attempt. It has left no mark if the gate was closed.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    while frame is not None and frame.f_globals is globals():
        frame = frame.f_back
    frame = frame.f_back if frame is not None else None
    # Beyond a wrapper with a frame of its own, which always marks an attempt, or beyond
    # `_exec`, are the calls of other executions.
    while frame is not None and frame.f_globals is not _FRAMES_OF_WRAPPERS:
        hook, first = leave_of(frame.f_code), frame.f_code.co_varnames[:1]
        if hook is _end_attempt:
            if any(frame.f_locals.get(name) is node for name in first):
                return True
        elif hook is not None:
            return False
        frame = frame.f_back
    return False


_FRAMES_OF_WRAPPERS: Final = vars(_wrappers)
