"""Which calls of `exec` are attempts, while other executions are in progress or not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pocketflow import AsyncFlow, AsyncNode, BatchNode, Flow, Node
from tests.agents import DEADLINE

import kaywatch
from kaywatch._spans.spans import watched_spans
from kaywatch.testing import capture
from kaywatch.wire import Outcome


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    kaywatch.instrument(modules=["pocketflow"])
    before = set(watched_spans)
    yield
    assert watched_spans <= before
    kaywatch.uninstrument()


class Waiting(BatchNode):
    """A batch of one item that waits."""

    def __init__(self, started: threading.Event, end: threading.Event) -> None:
        super().__init__()
        self.started, self.end = started, end

    def prep(self, shared: Any) -> list[int]:
        return [1]

    def exec(self, prep_res: Any) -> None:
        self.started.set()
        assert self.end.wait(DEADLINE)


@contextmanager
def batch_in_progress() -> Iterator[None]:
    """Run a batch in another thread: `exec` then calls its hooks."""
    started, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=Waiting(started, end).run, args=({},))
    thread.start()
    try:
        assert started.wait(DEADLINE)
        assert watched_spans
        yield
    finally:
        end.set()
        thread.join()


class Inner(Node):
    def exec(self, prep_res: Any) -> Any:
        raise ValueError("of the inner call")


class Answers(Inner):
    """Answers the errors of its parent's `exec`, twice in one attempt."""

    def exec(self, prep_res: Any) -> Any:
        for _ in range(2):
            with pytest.raises(ValueError, match="of the inner call"):
                super().exec(prep_res)
        return "answered"


class AnswersBesideBatch(Answers):
    """The same, while a batch begins and ends in another thread."""

    def exec(self, prep_res: Any) -> Any:
        with batch_in_progress():
            return super().exec(prep_res)


class PassesOn(Inner):
    def exec(self, prep_res: Any) -> Any:
        return super().exec(prep_res)


@pytest.mark.parametrize("node", [Answers, AnswersBesideBatch])
@pytest.mark.parametrize("is_watched", [False, True])
def test_errors_within_an_attempt_are_none_of_it(
    node: type[Node], is_watched: bool
) -> None:
    with capture() as captured:
        if is_watched:
            with batch_in_progress():
                node(max_retries=3).run({})
        else:
            node(max_retries=3).run({})
    (executed,) = captured.executions(node.__name__)

    assert (executed.attempts, executed.outcome) == (1, Outcome.OK)
    assert captured.points("retried_errors") == []
    assert captured.failures() == []


@pytest.mark.parametrize("is_watched", [False, True])
def test_an_error_that_passes_two_calls_is_one_attempt(is_watched: bool) -> None:
    with capture() as captured:
        if is_watched:
            with batch_in_progress(), pytest.raises(ValueError, match="inner"):
                PassesOn(max_retries=3).run({})
        else:
            with pytest.raises(ValueError, match="inner"):
                PassesOn(max_retries=3).run({})
    (executed,) = captured.executions("PassesOn")

    assert (executed.attempts, executed.outcome) == (3, Outcome.ERROR)
    assert len(captured.points("retried_errors")) == 2


class FailsOnce(Node):
    def __init__(self) -> None:
        super().__init__(max_retries=2)
        self.left = [1]

    def exec(self, prep_res: Any) -> Any:
        if self.left[0]:
            self.left[0] -= 1
            raise KeyError("first")
        return "done"


class AwaitedFailsOnce(AsyncNode):
    def __init__(self) -> None:
        super().__init__(max_retries=2)
        self.left = [1]

    async def exec_async(self, prep_res: Any) -> Any:
        await asyncio.sleep(0)
        if self.left[0]:
            self.left[0] -= 1
            raise KeyError("first")
        return "done"


class CallsItself(Node):
    """Its `_run` calls `exec` without the retry loop."""

    def exec(self, prep_res: Any) -> Any:
        raise LookupError("without a loop")

    def _run(self, shared: Any) -> Any:
        return self.exec(None)


class Nested(Node):
    """Runs what it is given within `exec`."""

    def __init__(self, work: Any) -> None:
        super().__init__()
        self.work = work

    def exec(self, prep_res: Any) -> Any:
        return self.work()


@pytest.mark.parametrize("is_watched", [False, True])
def test_attempts_within_an_attempt_of_another_node_are_counted(
    is_watched: bool,
) -> None:
    def work() -> None:
        Flow(FailsOnce()).run({})
        asyncio.run(AsyncFlow(AwaitedFailsOnce()).run_async({}))
        with pytest.raises(LookupError):
            CallsItself().run({})

    with capture() as captured:
        if is_watched:
            with batch_in_progress():
                Nested(work).run({})
        else:
            Nested(work).run({})

    attempts = {e.node: e.attempts for e in captured.executions()}
    assert attempts["FailsOnce"] == attempts["AwaitedFailsOnce"] == 2
    assert attempts["Nested"] == attempts["CallsItself"] == 1
    (failed,) = captured.executions("CallsItself")
    assert (failed.outcome, failed.error) == (Outcome.ERROR, "LookupError")
    points = captured.points("retried_errors")
    assert sorted(p.node for p in points) == ["AwaitedFailsOnce", "FailsOnce"]


def test_code_with_hooks_can_be_hashed() -> None:
    """Tools such as tracers use code objects as keys."""
    assert {Inner.exec.__code__: 1}[Inner.exec.__code__] == 1
