"""Sends a snapshot to a server: every series that it accepts, whatever it rejects.

Prometheus rejects a whole request because of one series (issue 9214). Such a request is
sent again in halves, until only the rejected series are left; these are dropped, and
counted by reason.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from kaywatch_agent.export.client import RemoteWriteClient, Unavailable, retry_after
from kaywatch_agent.export.encoding import (
    encode_request,
    encoded_series,
    is_end,
    may_have_native,
    messages,
)
from kaywatch_agent.export.spool import SnapshotDamaged
from kaywatch_agent.notify.http import Response

__all__ = ["NATIVE_DISABLED", "RejectReason", "SentNames", "SnapshotSender"]

MAX_ERROR: Final = 200  # characters of a server's error message


class RejectReason(StrEnum):
    """Why a server did not store a series of a snapshot."""

    TOO_OLD = "too_old"
    OUT_OF_ORDER = "out_of_order"
    DUPLICATE = "duplicate"
    TOO_LARGE = "too_large"
    NATIVE_DISABLED = "native_disabled"
    NATIVE_DISCARDED = "native_discarded"
    OTHER = "other"


# What Prometheus and Mimir answer, in lower case, and what it means.
_TEXTS: Final = (
    ("out of bounds", RejectReason.TOO_OLD),
    ("too old", RejectReason.TOO_OLD),
    ("too-old", RejectReason.TOO_OLD),
    ("out of order", RejectReason.OUT_OF_ORDER),
    ("out-of-order", RejectReason.OUT_OF_ORDER),
    ("duplicate sample", RejectReason.DUPLICATE),
    ("duplicate-timestamp", RejectReason.DUPLICATE),
)
NATIVE_DISABLED: Final = "native histograms are disabled"


class SentNames(NamedTuple):
    """Metrics of a snapshot that a server accepted; empty for none.

    Attributes:
        native: one with a native histogram that has values.
        other: one without a histogram.
        epoch: the label of both.
    """

    native: str = ""
    other: str = ""
    epoch: str = ""


class SnapshotSender:
    """Sends one snapshot. After `Unavailable`, `send` continues where it was.

    Attributes:
        native_refused: whether the server refused native histograms.
        accepted: how many series without histograms it accepted.
        accepted_native: how many native histograms it accepted, and perhaps stored.
        names: some of these.
        dropped: how many series were dropped, by reason.
        after: how long the server asks to wait after `Unavailable`, in seconds.
    """

    def __init__(
        self,
        requests: Iterator[bytes],
        client: RemoteWriteClient,
        *,
        drop_native: RejectReason | None = None,
    ) -> None:
        """Send nothing yet.

        Args:
            requests: the encoded messages of the snapshot.
            client: sends them.
            drop_native: why native histograms are dropped; None to send them.
        """
        self.native_refused = False
        self.accepted = 0
        self.accepted_native = 0
        self.names = SentNames()
        self.dropped: Counter[RejectReason] = Counter()
        self.after = 0.0
        self._requests = requests
        self._client = client
        self._drop_native = drop_native
        self._waiting: list[bytes] = []  # requests; the last one is sent next

    async def send(self) -> None:
        """Send the rest of the snapshot.

        Raises:
            Unavailable: the server cannot be reached, or cannot answer now.
            SnapshotDamaged: the snapshot cannot be read.
        """
        while self._waiting or await self._take():
            request = self._waiting[-1]
            # A failure leaves it there.
            response = await self._client.post(request) if request else None
            self._waiting.pop()
            if response is None:
                continue
            if 200 <= response.status < 300:
                await _run(self._accept, request)
            elif not self._split(request, response):
                self._waiting.append(request)
                self.after = retry_after(response.headers)
                raise Unavailable(_error(response))

    # -- inside ------------------------------------------------------------------------

    def _accept(self, request: bytes) -> None:
        """Count the series of a request."""
        number = len(encoded_series(request))
        if may_have_native(request):
            native = [each for each in _series(request) if each.histograms]
            self._name_native(native)
            self.accepted_native += len(native)
            number -= len(native)
        self.accepted += number
        if number and not self.names.other:
            self._name_other(request)

    def _name_native(self, series: Iterable[Any]) -> None:
        if not self.names.native:
            for each in series:
                if each.histograms[0].count_int:
                    name, epoch = _label(each, "__name__"), _label(each, "epoch")
                    self.names = self.names._replace(native=name, epoch=epoch)
                    return

    def _name_other(self, request: bytes) -> None:
        for each in map(messages.TimeSeries.FromString, encoded_series(request)):
            if not each.histograms and not is_end(each):
                self.names = self.names._replace(other=_label(each, "__name__"))
                return

    async def _take(self) -> bool:
        """Wait with the next request of the snapshot; return whether there is one."""
        request = next(self._requests, None)
        if request is None:
            return False
        try:
            await _run(self._prepare, request)
        except DecodeError as error:
            raise SnapshotDamaged(str(error)) from None
        return True

    def _prepare(self, request: bytes) -> None:
        encoded_series(request)
        if self._drop_native is not None and may_have_native(request):
            request = self._without_native(_series(request))
        self._waiting.append(request)

    def _split(self, request: bytes, response: Response) -> bool:
        """Drop what was rejected, or wait with halves; return False to retry all."""
        text = response.text.lower()
        if NATIVE_DISABLED in text and may_have_native(request):
            self.native_refused = True
            self._drop_native = RejectReason.NATIVE_DISABLED
            self._waiting.append(self._without_native(_series(request)))
            return True
        if response.status not in (400, 413):
            return False
        reason = RejectReason.TOO_LARGE if response.status == 413 else _reason(text)
        series = encoded_series(request)
        # All samples of a request have about the same time, unless it has births.
        if len(series) == 1 or (
            reason is RejectReason.TOO_OLD and _have_one_time(_series(request))
        ):
            self.dropped[reason] += len(series)
            return True
        middle = len(series) // 2
        self._waiting += map(encode_request, (series[middle:], series[:middle]))
        return True

    def _without_native(self, series: Sequence[Any]) -> bytes:
        rest = [each.SerializeToString() for each in series if not each.histograms]
        if self._drop_native is not None and len(rest) < len(series):
            self.dropped[self._drop_native] += len(series) - len(rest)
        return encode_request(rest)


async def _run(work: Callable[[bytes], None], request: bytes) -> None:
    """Call a function; in a thread if decoding would block the event loop."""
    if may_have_native(request):
        await asyncio.to_thread(work, request)
    else:
        work(request)


def _series(request: bytes) -> Sequence[Any]:
    series: Sequence[Any] = messages.WriteRequest.FromString(request).timeseries
    return series


def _label(series: Any, name: str) -> str:
    return next((str(e.value) for e in series.labels if e.name == name), "")


def _reason(text: str) -> RejectReason:
    return next((reason for part, reason in _TEXTS if part in text), RejectReason.OTHER)


def _have_one_time(series: Iterable[Any]) -> bool:
    times = {
        sample.timestamp
        for each in series
        for sample in (*each.samples, *each.histograms)
    }
    return len(times) == 1


def _error(response: Response) -> str:
    text = response.text.partition("\n")[0][:MAX_ERROR]
    return f"HTTP {response.status}{f': {text}' if text else ''}"
