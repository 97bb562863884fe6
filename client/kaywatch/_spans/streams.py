"""Blocks that outlast the call that opened them: generators and awaitables.

Strategy: the block stays open until the result is exhausted, awaited, closed, dropped
or raises, or the process ends. It is the current span only while the code of the result
runs, so that nothing of its consumer is attributed to it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final

from kaywatch._exit_recorder import ExitRecorder
from kaywatch._process import process
from kaywatch._spans.spans import Span, current_span

__all__ = [
    "NoBlock",
    "OpenBlock",
    "follow",
    "follow_items",
    "record_async_items",
    "record_items",
]


class OpenBlock:
    """A block in progress; entering it makes it the current span for a while.

    Args:
        span: the block's, which is the current span until now.
    """

    def __init__(self, span: Span) -> None:
        self._span = span
        self._unclosed = [None]  # the thread that pops it closes the span
        open_blocks.add(self)
        self._suspend()

    def __enter__(self) -> None:
        self._resume()

    def __exit__(self, *_: object) -> None:
        self._suspend()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close(GeneratorExit())

    def close(self, error: BaseException | None = None) -> None:
        """Record the block, the first time this is called in its process."""
        try:
            self._unclosed.pop()
        except IndexError:
            return
        if self._span not in process.recorder.in_flight:
            return  # it was opened before a fork, and the parent records it
        self._resume()
        self._span.close(error=error)
        self._span.pass_on_cost()

    def _resume(self) -> None:
        self._span.token = current_span.set(self._span)

    def _suspend(self) -> None:
        try:  # noqa: SIM105 - see Span.close
            current_span.reset(self._span.token)
        except ValueError:
            pass


# The application may hold some to the end.
open_blocks: Final[ExitRecorder[OpenBlock]] = ExitRecorder(
    lambda block: block.close(GeneratorExit())
)

Open = Callable[[], OpenBlock]


def record_items(open_block: Open, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a generator function that records the generators of `function`.

    Args:
        open_block: called before the first item.
        function: returns a generator.
    """

    def recorded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        block = open_block()
        generator = function(*args, **kwargs)
        step, value = generator.send, None
        try:
            while True:
                with block:
                    item = step(value)
                try:
                    step, value = generator.send, (yield item)
                except GeneratorExit:
                    with block:
                        generator.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - passed on
                    step, value = generator.throw, error
        except StopIteration as end:
            block.close()
            return end.value
        except BaseException as error:
            block.close(error)
            raise

    return recorded


def record_async_items(
    open_block: Open, function: Callable[..., Any]
) -> Callable[..., Any]:
    """Return an asynchronous generator function, as `record_items` does."""

    async def recorded(*args: Any, **kwargs: Any) -> Any:
        block = open_block()
        generator = function(*args, **kwargs)
        step, value = generator.asend, None
        try:
            while True:
                with block:
                    item = await step(value)
                try:
                    step, value = generator.asend, (yield item)
                except GeneratorExit:
                    with block:
                        await generator.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 - passed on
                    step, value = generator.athrow, error
        except StopAsyncIteration:
            block.close()
        except BaseException as error:
            block.close(error)
            raise

    return recorded


def follow(span: Span, result: Any) -> Any:
    """Return a stand-in for the result of a call, which closes `span` when it ends.

    Args:
        span: the current span, of the call.
        result: a generator or an awaitable. A span is closed at once for others.
    """
    if isinstance(result, GeneratorType):
        block = OpenBlock(span)
        return record_items(lambda: block, lambda: result)()
    if isinstance(result, AsyncGeneratorType):
        block = OpenBlock(span)
        return record_async_items(lambda: block, lambda: result)()
    if isinstance(result, CoroutineType):
        return _wait(OpenBlock(span), result)
    if hasattr(type(result), "add_done_callback"):
        result.add_done_callback(_Closing(OpenBlock(span)))
    elif hasattr(type(result), "__await__"):
        return _RecordedAwaitable(result, OpenBlock(span))
    else:
        span.close()
        span.pass_on_cost()
    return result


def follow_items(span: Span, items: Any) -> Any:
    """Return the items of any iterable, and close `span` when they end."""
    block = OpenBlock(span)
    if hasattr(type(items), "__aiter__"):
        return record_async_items(lambda: block, lambda: _generate_async(items))()
    return record_items(lambda: block, lambda: _generate(items))()


def _generate(items: Any) -> Iterator[Any]:
    yield from items


async def _generate_async(items: Any) -> AsyncIterator[Any]:
    iterator = items.__aiter__()
    try:
        async for item in iterator:
            yield item
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _wait(block: OpenBlock, awaitable: Any) -> Any:
    try:
        with block:
            result = await awaitable
    except BaseException as error:
        block.close(error)
        raise
    block.close()
    return result


class _Closing:
    """Closes a block when a future is done."""

    def __init__(self, block: OpenBlock) -> None:
        self._block = block

    def __call__(self, future: Any) -> None:
        from asyncio import CancelledError  # here, because it takes 30 ms

        # Not `exception()`, after which asyncio no longer logs one that nobody reads.
        error = CancelledError() if future.cancelled() else future._exception  # noqa: SLF001
        self._block.close(error)


class _RecordedAwaitable:
    """An awaitable that is neither a coroutine nor a future, recorded when awaited."""

    def __init__(self, awaitable: Any, block: OpenBlock) -> None:
        self._awaitable = awaitable
        self._block = block

    def __await__(self) -> Any:
        return _wait(self._block, self._awaitable).__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._awaitable, name)


class NoBlock(OpenBlock):
    """Records nothing."""

    def __init__(self) -> None:
        self._unclosed = []

    def _resume(self) -> None:
        """Do nothing."""

    def _suspend(self) -> None:
        """Do nothing."""
