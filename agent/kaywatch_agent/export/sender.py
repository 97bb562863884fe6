"""Sends a snapshot to a server: every series that it accepts, whatever it rejects.

Prometheus rejects a whole request because of one series (issue 9214). Such a request is
sent again in halves, until only the rejected series are left; these are dropped, and
counted by reason.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

import cramjam
from google.protobuf.message import DecodeError

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.export.config import RemoteWriteConfig
from kaywatch_agent.export.encoding import messages
from kaywatch_agent.export.spool import SnapshotDamaged
from kaywatch_agent.notify.http import HttpClient, NoResponse, Response
from kaywatch_agent.notify.request_options import RequestOptions

__all__ = ["RejectReason", "RemoteWriteClient", "SnapshotSender", "Unavailable"]

_HEADERS: Final = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
MAX_ERROR: Final = 200  # characters of a server's error message
MAX_RETRY_AFTER: Final = 300.0  # seconds


class RejectReason(StrEnum):
    """Why a server did not store a series of a snapshot."""

    TOO_OLD = "too_old"
    OUT_OF_ORDER = "out_of_order"
    DUPLICATE = "duplicate"
    TOO_LARGE = "too_large"
    NATIVE_DISABLED = "native_disabled"
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
_NATIVE_DISABLED: Final = "native histograms are disabled"


class Unavailable(Exception):
    """The server may have stored nothing; the same request has to be sent again."""


class RemoteWriteClient:
    """Sends single requests to one server."""

    def __init__(self, config: RemoteWriteConfig, http: HttpClient) -> None:
        self._config = config
        self._http = http

    async def post(self, series: Iterable[Any]) -> Response:
        """Send series; return the response, whatever its status.

        Raises:
            Unavailable: there was no response, or the credentials cannot be read.
        """
        request = messages.WriteRequest(timeseries=series)
        body = bytes(cramjam.snappy.compress_raw(request.SerializeToString()))
        try:
            return await self._http.post(
                self._config.url, body, _HEADERS, options=self._options()
            )
        except (NoResponse, ConfigError) as error:
            raise Unavailable(str(error)) from None

    def _options(self) -> RequestOptions:
        """Return how to send; secrets are read again at each request."""
        config = self._config
        options = config.request_options()
        if config.bearer_token is not None:
            value = f"Bearer {config.bearer_token.read()}"
        elif config.password is not None:
            value = _basic(config.username, config.password.read())
        else:
            return options
        return RequestOptions(
            options.timeout,
            {**options.headers, "Authorization": value},
            options.proxy,
            options.ca,
        )


class SnapshotSender:
    """Sends one snapshot. After `Unavailable`, `send` continues where it was.

    Attributes:
        native_refused: whether the server refused native histograms.
        accepted: how many series it accepted.
        dropped: how many series were dropped, by reason.
        after: how long the server asks to wait after `Unavailable`, in seconds.
    """

    def __init__(
        self, requests: Iterator[bytes], client: RemoteWriteClient, *, native: bool
    ) -> None:
        """Send nothing yet.

        Args:
            requests: the encoded messages of the snapshot.
            client: sends them.
            native: whether to send native histograms; otherwise they are dropped.
        """
        self.native_refused = not native
        self.accepted = 0
        self.dropped: Counter[RejectReason] = Counter()
        self.after = 0.0
        self._requests = requests
        self._client = client
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
                self.accepted += len(series)
            elif not self._split(series, response):
                self._waiting.append(series)
                self.after = _retry_after(response.headers)
                raise Unavailable(_error(response))

    # -- inside ------------------------------------------------------------------------

    def _take(self) -> bool:
        """Wait with the next request of the snapshot; return whether there is one."""
        data = next(self._requests, None)
        if data is None:
            return False
        try:
            series = list(messages.WriteRequest.FromString(data).timeseries)
        except DecodeError as error:
            raise SnapshotDamaged(str(error)) from None
        if self.native_refused:
            series = self._without_native(series)
        self._waiting.append(series)
        return True

    def _split(self, series: list[Any], response: Response) -> bool:
        """Drop what was rejected, or wait with halves; return False to retry all."""
        text = response.text.lower()
        if _NATIVE_DISABLED in text and any(each.histograms for each in series):
            self.native_refused = True
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
        if len(rest) < len(series):
            self.dropped[RejectReason.NATIVE_DISABLED] += len(series) - len(rest)
        return rest


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


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
