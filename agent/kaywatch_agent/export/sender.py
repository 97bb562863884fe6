"""Sends a snapshot to a server: every series that it accepts, whatever it rejects.

Prometheus rejects a whole request because of one series (issue 9214). Such a request is
sent again in halves, until only the rejected series are left; these are dropped, and
counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from kaywatch_agent.export.client import RemoteWriteClient, Unavailable, retry_after
from kaywatch_agent.export.encoding import is_end, messages
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
        self._waiting: list[list[Any]] = []  # the last one is sent next

    async def send(self) -> None:
        """Send the rest of the snapshot.

        Raises:
            Unavailable: the server cannot be reached, or cannot answer now.
            SnapshotDamaged: the snapshot cannot be read.
        """
        while self._waiting or self._take():
            series = self._waiting[-1]
            # A failure leaves it there.
            response = await self._client.post(series) if series else None
            self._waiting.pop()
            if response is None:
                continue
            if 200 <= response.status < 300:
                self._accept(series)
            elif not self._split(series, response):
                self._waiting.append(series)
                self.after = retry_after(response.headers)
                raise Unavailable(_error(response))

    # -- inside ------------------------------------------------------------------------

    def _accept(self, series: Iterable[Any]) -> None:
        names = self.names
        for each in series:
            if each.histograms:
                self.accepted_native += 1
                if each.histograms[0].count_int and not names.native:
                    epoch = _label(each, "epoch")
                    names = names._replace(native=_label(each, "__name__"), epoch=epoch)
            else:
                self.accepted += 1
                if not names.other and not is_end(each):
                    names = names._replace(other=_label(each, "__name__"))
        self.names = names

    def _take(self) -> bool:
        """Wait with the next request of the snapshot; return whether there is one."""
        data = next(self._requests, None)
        if data is None:
            return False
        try:
            series = list(messages.WriteRequest.FromString(data).timeseries)
        except DecodeError as error:
            raise SnapshotDamaged(str(error)) from None
        if self._drop_native is not None:
            series = self._without_native(series)
        self._waiting.append(series)
        return True

    def _split(self, series: list[Any], response: Response) -> bool:
        """Drop what was rejected, or wait with halves; return False to retry all."""
        text = response.text.lower()
        if NATIVE_DISABLED in text and any(each.histograms for each in series):
            self.native_refused = True
            self._drop_native = RejectReason.NATIVE_DISABLED
            self._waiting.append(self._without_native(series))
            return True
        if response.status not in (400, 413):
            return False
        reason = RejectReason.TOO_LARGE if response.status == 413 else _reason(text)
        # All samples of a request have about the same time, unless it has births.
        if len(series) == 1 or (
            reason is RejectReason.TOO_OLD and _have_one_time(series)
        ):
            self.dropped[reason] += len(series)
            return True
        middle = len(series) // 2
        self._waiting += [series[middle:], series[:middle]]
        return True

    def _without_native(self, series: list[Any]) -> list[Any]:
        rest = [each for each in series if not each.histograms]
        if self._drop_native is not None and len(rest) < len(series):
            self.dropped[self._drop_native] += len(series) - len(rest)
        return rest


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
