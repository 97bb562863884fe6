"""The wrappers around `_exec`, `exec` and `exec_fallback`: attempts and their answers.

Strategy: a call of `exec` after one that failed is another attempt. It is counted on
the span of the execution; of a batch, whose `_exec` is called again for each item, on
an `ItemSpan` of its own, as items may be worked on at once. A thread of a pool has lost
the context: there the execution is found by its node's identity. The frameworks' own
counter, `cur_retry`, is shared by all items and can't be relied on.
"""

from __future__ import annotations

import time
from typing import Any, Final

from kaywatch._instrument.naming import is_batch
from kaywatch._instrument.visits import answered
from kaywatch._instrument.wrapping import WrapperPair
from kaywatch._spans.details import ItemTiming
from kaywatch._spans.spans import TRYING, Span, current_run, current_span
from kaywatch._wrappers import Function
from kaywatch.wire import Outcome

__all__ = ["BATCH", "EXECUTE", "FALLBACK", "LOOP", "overrides_loop"]

_FALLBACK: Final = Outcome.FALLBACK.value

_span: Final = current_span.get
_clock: Final = time.perf_counter

# Executions whose `_exec` may hand items to threads, by the node's id. A node object
# that runs twice at once, which graphs never do, has the later one here.
_batches: Final[dict[int, Span]] = {}


class ItemSpan(Span):
    """One item of a batch node's execution: counts its own attempts.

    It stands in for the execution's span while the item is worked on, by whichever
    thread or task does that, so that values are attributed to the node. It is not
    recorded by itself.
    """

    __slots__ = ("root", "run_token")

    def __init__(self, root: Span, *, adopted: bool = False) -> None:
        self.root: Span = root.root if isinstance(root, ItemSpan) else root
        self.series = root.series
        self.run = root.run
        self.owner = root.owner
        self.entered = self.started = _clock()
        self.left = 0.0
        self.tried = 0.0
        self.details = None
        self.root.detail()
        self.token = current_span.set(self)
        # In a thread of a pool, which has lost the context.
        self.run_token = current_run.set(root.run) if adopted else None

    def answered(self, outcome: int, error: object) -> None:
        """Note on the execution that an item's error was answered."""
        self.root.answered(outcome, error)

    def close(self, error: BaseException | None = None) -> None:  # noqa: ARG002
        """Give the context back, and note on the execution what the item took."""
        try:
            current_span.reset(self.token)
            if self.run_token is not None:
                current_run.reset(self.run_token)
        except ValueError:
            pass
        self.owner = None
        self.keep()
        mine, seconds = self.detail(), _clock() - self.started
        part = ItemTiming(mine.attempts - 1, mine.waited, seconds)
        self.root.detail().timings.append(part)


def overrides_loop(cls: type) -> bool:
    """Return whether an `_exec` of `cls` comes before the retry loop's own.

    Such a one may call the loop for many items. The class that brings `exec_fallback`
    brings the loop.
    """
    waits = hasattr(cls, "exec_fallback_async")
    fallback = "exec_fallback_async" if waits else "exec_fallback"
    owners = [base for base in cls.__mro__ if fallback in vars(base)]
    if owners:
        return owners[-1] is not cls
    is_mixin = not hasattr(cls, "_run")
    return is_mixin or any("_exec" in vars(base) for base in cls.__mro__[1:])


# -- _exec of the retry loop -----------------------------------------------------


def _loop_plain(original: Function) -> Function:
    def loop(self: Any, given: Any) -> Any:
        span = _span()
        if span is not None and span.owner is self and span.left:
            # As `enter` and `leave` do, but for two calls.
            span.left = 0.0
            if not span.entered:
                span.entered = _clock()
            result = original(self, given)
            span.left = _clock()
            return result
        item = _item(self, span)
        if item is None:
            return original(self, given)
        try:
            return original(self, given)
        finally:
            item.close()

    return loop


def _loop_waiting(original: Function) -> Function:
    async def loop(self: Any, given: Any) -> Any:
        span = _span()
        if span is not None and span.owner is self and span.left:
            # As `enter` and `leave` do, but for two calls.
            span.left = 0.0
            if not span.entered:
                span.entered = _clock()
            result = await original(self, given)
            span.left = _clock()
            return result
        item = _item(self, span)
        if item is None:
            return await original(self, given)
        try:
            return await original(self, given)
        finally:
            item.close()

    return loop


LOOP: Final = WrapperPair(_loop_plain, _loop_waiting, 2)


def _item(node: Any, span: Span | None) -> ItemSpan | None:
    """Open one item of the execution under way, None where none is."""
    if span is not None and span.owner is node:
        return ItemSpan(span)
    execution = _batches.get(id(node))
    # The id may be another node's by now, if its execution was abandoned.
    if execution is None or execution.owner is not node:
        return None
    return ItemSpan(execution, adopted=True)


# -- _exec of a batch, or whatever else comes before the loop --------------------


def _batch_plain(original: Function) -> Function:
    def batch(self: Any, given: Any) -> Any:
        span = _span()
        if span is None or span.owner is not self or not _begin(self, span):
            return original(self, given)
        try:
            result = original(self, given)
        finally:
            _end(self, span)
        span.leave()
        return result

    return batch


def _batch_waiting(original: Function) -> Function:
    async def batch(self: Any, given: Any) -> Any:
        span = _span()
        if span is None or span.owner is not self or not _begin(self, span):
            return await original(self, given)
        try:
            result = await original(self, given)
        finally:
            _end(self, span)
        span.leave()
        return result

    return batch


BATCH: Final = WrapperPair(_batch_plain, _batch_waiting, 2)


def _begin(node: Any, span: Span) -> bool:
    """Enter a node's outermost `_exec`; False within it."""
    if isinstance(span, ItemSpan) or _batches.get(id(node)) is span:
        return False
    span.enter()
    span.detail().batch = is_batch(node)  # made now, while there is one thread
    _batches[id(node)] = span
    return True


def _end(node: Any, span: Span) -> None:
    if _batches.get(id(node)) is span:
        del _batches[id(node)]


# -- exec ------------------------------------------------------------------------


def _execute_plain(original: Function) -> Function:
    def execute(self: Any, given: Any) -> Any:
        span = _span()
        if span is None or span.owner is not self:
            return _execute_elsewhere(original, self, given)
        if span.tried:
            if span.tried == TRYING:
                return original(self, given)
            span.repeat()
        span.tried = TRYING
        try:
            result = original(self, given)
        except BaseException as error:
            span.fails(error)
            raise
        span.tried = 0.0
        return result

    return execute


def _execute_waiting(original: Function) -> Function:
    async def execute(self: Any, given: Any) -> Any:
        span = _span()
        if span is None or span.owner is not self:
            return await original(self, given)
        if span.tried:
            if span.tried == TRYING:
                return await original(self, given)
            span.repeat()
        span.tried = TRYING
        try:
            result = await original(self, given)
        except BaseException as error:
            span.fails(error)
            raise
        span.tried = 0.0
        return result

    return execute


EXECUTE: Final = WrapperPair(_execute_plain, _execute_waiting, 2)


def _execute_elsewhere(original: Function, node: Any, given: Any) -> Any:
    """Call `exec` outside of its execution's context: in a pool, or on its own."""
    item = _item(node, None) if _batches else None
    if item is None:
        return original(node, given)
    try:
        return original(node, given)
    except BaseException:
        item.waste()
        raise
    finally:
        item.close()


# -- exec_fallback ---------------------------------------------------------------


def _fallback_plain(original: Function) -> Function:
    def fallback(self: Any, prepared: Any, error: Any) -> Any:
        result = original(self, prepared, error)
        answered(self, _FALLBACK, error)
        return result

    return fallback


def _fallback_waiting(original: Function) -> Function:
    async def fallback(self: Any, prepared: Any, error: Any) -> Any:
        result = await original(self, prepared, error)
        answered(self, _FALLBACK, error)
        return result

    return fallback


FALLBACK: Final = WrapperPair(_fallback_plain, _fallback_waiting, 3)
