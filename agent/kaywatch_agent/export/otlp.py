"""OTLP over HTTP: sends all metrics to an OpenTelemetry Collector, or what receives it.

Source: opentelemetry.io/docs/specs/otlp, "OTLP/HTTP".
"""

from __future__ import annotations

import asyncio
import gzip
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.export.client import Unavailable, request_options, retry_after
from kaywatch_agent.export.config import OtlpConfig
from kaywatch_agent.export.metrics import ExportMetrics
from kaywatch_agent.export.otlp_delta import Deltas, count_points
from kaywatch_agent.export.otlp_exposition import OtlpExposition, OtlpFormat
from kaywatch_agent.export.otlp_response import PROTOBUF, error_text, partial_success
from kaywatch_agent.export.snapshot_export import SnapshotExport, metric_filter
from kaywatch_agent.export.spool import Spool
from kaywatch_agent.notify.http import HttpClient, NoResponse
from kaywatch_agent.runtime.host import host_name
from kaywatch_agent.web.prometheus import families
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["HEADERS", "Otlp", "OtlpReason", "OtlpTransfer"]

HEADERS: Final = {"Content-Type": PROTOBUF, "Content-Encoding": "gzip"}


class OtlpReason(StrEnum):
    """Why a server did not store points of a snapshot."""

    REJECTED = "rejected"  # 400: the request
    TOO_LARGE = "too_large"  # 413
    PARTIAL = "partial"  # some points of an accepted request


class OtlpTransfer:
    """Sends one snapshot. After `Unavailable`, `send` continues where it was.

    Attributes:
        accepted: how many points the server accepted.
        dropped: how many it rejected, by reason.
        message: what the server said about these.
        after: how long the server asks to wait after `Unavailable`, in seconds.
    """

    def __init__(
        self, requests: Iterator[bytes], config: OtlpConfig, http: HttpClient
    ) -> None:
        """Send nothing yet.

        Args:
            requests: the encoded messages of the snapshot.
            config: of the server.
            http: sends them.
        """
        self.accepted = 0
        self.dropped: Counter[OtlpReason] = Counter()
        self.message = ""
        self.after = 0.0
        self._requests = requests
        self._config = config
        self._http = http
        self._waiting: _Body | None = None

    async def send(self) -> None:
        """Send the rest of the snapshot.

        Raises:
            Unavailable: the server cannot be reached, or cannot answer now.
            SnapshotDamaged: the snapshot cannot be read.
        """
        while True:
            if self._waiting is None:
                # Reading a request, and its differences, would block the event loop.
                self._waiting = await asyncio.to_thread(self._read)
            if self._waiting is None:
                return
            if self._waiting.number:
                await self._post(self._waiting)
            self._waiting = None

    # -- inside ------------------------------------------------------------------------

    def _read(self) -> _Body | None:
        """Return the next request; None if there is none."""
        data = next(self._requests, None)
        if data is None:
            return None
        return _Body(gzip.compress(data, 1, mtime=0), count_points(data))

    async def _post(self, body: _Body) -> None:
        try:
            response = await self._http.post(
                self._config.url,
                body.data,
                HEADERS,
                options=request_options(self._config),
            )
        except (NoResponse, ConfigError) as error:
            raise Unavailable(str(error)) from None
        if response.status in _DROPS:
            self.dropped[_DROPS[response.status]] += body.number
            self.message = error_text(response)
        elif 200 <= response.status < 300:
            partial = partial_success(response.body)
            rejected = min(partial.rejected_data_points, body.number)
            self.accepted += body.number - rejected
            if rejected:
                self.dropped[OtlpReason.PARTIAL] += rejected
                self.message = partial.error_message
        else:
            self.after = retry_after(response.headers)
            raise Unavailable(f"HTTP {response.status}: {error_text(response)}")


class _Body(NamedTuple):
    """A compressed request.

    Attributes:
        data: its bytes.
        number: of its points.
    """

    data: bytes
    number: int


_DROPS: Final = {400: OtlpReason.REJECTED, 413: OtlpReason.TOO_LARGE}


class Otlp(SnapshotExport[OtlpConfig, OtlpTransfer]):
    """Sends to one server."""

    def __init__(
        self,
        config: OtlpConfig,
        spool: Spool,
        *,
        snapshot: Callable[[], AgentSnapshot],
        http: HttpClient,
        metrics: ExportMetrics,
        clock: Callable[[], float],
    ) -> None:
        """Send nothing yet; see `SnapshotExport`.

        Args:
            config: of the server.
            spool: keeps its snapshots.
            snapshot: returns the state of the agent.
            http: sends requests.
            metrics: counts, for all servers.
            clock: returns Unix seconds.
        """
        super().__init__(config, spool, snapshot=snapshot, metrics=metrics, clock=clock)
        self._http = http

    # -- inside ------------------------------------------------------------------------

    def _encode(
        self, time: int, snapshot: AgentSnapshot
    ) -> Mapping[int, Iterable[bytes]]:
        config = self.config
        exposition = OtlpExposition(
            time,
            OtlpFormat(
                metric_filter(config),
                config.max_buckets,
                config.gen_ai_names,
                {"host.name": host_name(), **config.resource},
                {"process.pid": str(os.getpid())},
            ),
        )
        families.write(snapshot, exposition)
        return {time: exposition.chunks()}

    def _transfer(self, time: int) -> OtlpTransfer:
        requests = self.spool.requests(time)
        if self.config.temporality == "delta":
            requests = self._deltas(requests, time)
        return OtlpTransfer(requests, self.config, self._http)

    def _deltas(self, requests: Iterator[bytes], time: int) -> Iterator[bytes]:
        before = self.spool.last_sent
        previous = () if before is None else self.spool.requests(before)
        deltas = Deltas(previous, (before or 0) * 1_000_000, time * 1_000_000)
        yield from map(deltas.of, requests)

    async def _finish(self, transfer: OtlpTransfer, time: int) -> None:
        del time
        self.metrics.accepted.labels(self.name).add(transfer.accepted)
        for reason, number in transfer.dropped.items():
            self.metrics.dropped.labels(self.name, reason).add(number)
        self._reject({str(reason): n for reason, n in transfer.dropped.items()})
