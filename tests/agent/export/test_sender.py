"""What a server rejects is dropped, and everything else arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate.native_histogram import ZERO_THRESHOLD
from kaywatch_agent.export.client import Unavailable
from kaywatch_agent.export.encoding import messages
from kaywatch_agent.export.sender import RejectReason, SnapshotSender
from kaywatch_agent.notify.http import Response


class FakeServer:
    """Rejects a request because of one series, as Prometheus does."""

    def __init__(self, rejected: set[str], failures: Sequence[bool] = ()) -> None:
        self.rejected = rejected
        self.text = "out of order sample"
        self.native = True
        self.stored: list[str] = []
        self.requests = 0
        self._failures = list(failures)

    async def post(self, request: bytes) -> Response:
        series = messages.WriteRequest.FromString(request).timeseries
        self.requests += 1
        if self._failures and self._failures.pop():
            if len(self._failures) % 2:
                raise Unavailable("no response in time")
            return Response(503, {"Retry-After": "7"}, b"busy\nmore")
        names = [each.labels[0].value for each in series]
        if not self.native and any(each.histograms for each in series):
            return Response(500, {}, b"native histograms are disabled\n")
        if self.rejected & {*names}:
            return Response(400, {}, self.text.encode())
        self.stored += names
        return Response(204, {}, b"")


def series(name: str, time: int = 1, histogram: bool = False) -> Any:
    result = messages.TimeSeries()
    result.labels.add(name="__name__", value=name)
    if histogram:
        result.histograms.add(timestamp=time, zero_threshold=ZERO_THRESHOLD)
    else:
        result.samples.add(value=1.0, timestamp=time)
    return result


def snapshot(*requests: Sequence[Any]) -> list[bytes]:
    return [
        messages.WriteRequest(timeseries=each).SerializeToString() for each in requests
    ]


def send(
    server: FakeServer,
    requests: list[bytes],
    drop_native: RejectReason | None = None,
) -> Any:
    """Send a snapshot, again and again until the server has answered all."""
    sender = SnapshotSender(
        iter(requests),
        server,  # type: ignore[arg-type]
        drop_native=drop_native,
    )
    for _ in range(1_000):
        try:
            asyncio.run(sender.send())
        except Unavailable:
            continue
        return sender
    raise AssertionError("it does not end")


@calm
@given(
    st.lists(st.integers(0, 12), max_size=4),
    st.sets(st.integers(0, 40)),
    st.lists(st.booleans(), max_size=12),
)
def test_only_the_rejected_series_are_dropped(
    sizes: list[int], rejected: set[int], failures: list[bool]
) -> None:
    names = iter(range(1_000))
    requests = [[series(f"m{next(names)}") for _ in range(n)] for n in sizes]
    every = {f"m{n}" for n in range(sum(sizes))}
    server = FakeServer({f"m{n}" for n in rejected}, failures)

    sender = send(server, snapshot(*requests))

    assert sorted(server.stored) == sorted(every - server.rejected)
    lost = len(every & server.rejected)
    assert sender.dropped == ({RejectReason.OUT_OF_ORDER: lost} if lost else {})
    assert sender.accepted == len(every) - lost


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("out of order sample", RejectReason.OUT_OF_ORDER),
        ("duplicate sample for timestamp", RejectReason.DUPLICATE),
        ("out of bounds", RejectReason.TOO_OLD),
        ("the sample has been rejected because its timestamp is too old", "too_old"),
        ("label name is invalid", RejectReason.OTHER),
    ],
)
def test_drops_have_a_reason(text: str, reason: str) -> None:
    server = FakeServer({"a"})
    server.text = text
    assert send(server, snapshot([series("a")])).dropped == {reason: 1}


def test_a_snapshot_that_is_too_old_is_not_taken_apart() -> None:
    names = [f"m{n}" for n in range(1_000)]
    server = FakeServer(set(names))
    server.text = "out of bounds"

    sender = send(server, snapshot([series(name) for name in names]))

    assert sender.dropped == {RejectReason.TOO_OLD: 1_000}
    assert server.requests == 1


def test_one_birth_that_is_too_old_drops_itself_only() -> None:
    server = FakeServer({"old"})
    server.text = "out of bounds"
    births = [series("old", 1), *(series(f"m{n}", 5) for n in range(9))]

    assert send(server, snapshot(births)).dropped == {RejectReason.TOO_OLD: 1}
    assert len(server.stored) == 9


@pytest.mark.parametrize("known", [None, RejectReason.NATIVE_DISCARDED])
def test_native_histograms_that_are_refused_are_dropped(
    known: RejectReason | None,
) -> None:
    server = FakeServer(set())
    server.native = False
    mixed = [series("h", histogram=True), series("a")]
    more = [series("i", histogram=True)]

    sender = send(server, snapshot(mixed, more), known)

    assert server.stored == ["a"]
    assert sender.native_refused is (known is None)
    assert sender.dropped == {known or RejectReason.NATIVE_DISABLED: 2}


def test_a_server_may_ask_to_wait() -> None:
    server = FakeServer(set(), [True])
    sender = SnapshotSender(
        iter(snapshot([series("a")])),
        server,  # type: ignore[arg-type]
    )
    with pytest.raises(Unavailable, match=r"^HTTP 503: busy$"):
        asyncio.run(sender.send())
    assert sender.after == 7.0
