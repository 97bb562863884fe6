"""`kaywatch capture` and `kaywatch replay`: record and resend messages of clients."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from kaywatch._send.transport import candidates, check_unix
from kaywatch.errors import KaywatchError, QueryError
from kaywatch.query import DEFAULT_URL, fetch
from kaywatch_agent.cli.commands import options, output
from kaywatch_agent.cli.help import epilog
from kaywatch_agent.errors import CaptureError
from kaywatch_agent.units import duration, size

if TYPE_CHECKING:
    from kaywatch_agent.capture.file import CaptureReader
    from kaywatch_agent.capture.record import CaptureProgress
    from kaywatch_agent.capture.replay import ReplayProgress

__all__ = ["capture", "replay"]

_SERVICE_COLUMNS = {
    "service": lambda row: row.service,
    "processes": lambda row: f"{row.processes:,}",
    "batches": lambda row: f"{row.batches:,}",
    "executions": lambda row: f"{row.executions:,}",
    "runs": lambda row: f"{row.runs:,}",
    "points": lambda row: f"{row.points:,}",
    "dropped": lambda row: f"{sum(row.dropped.values()):,}",
}


def _parse_speed(text: str) -> float:
    """Return a factor; infinite for `max` and 0."""
    try:
        speed = math.inf if text == "max" else float(text) or math.inf
    except ValueError:
        speed = math.nan
    # NaN is not greater than 0 either.
    if not speed > 0:
        raise ValueError(
            f'invalid speed "{text}": expected a number such as 10, or max'
        )
    return speed


@click.command(
    epilog=epilog(
        "kaywatch capture work.kwcap.gz --seconds 60",
        "kaywatch capture bug.kwcap.gz --redact --max-size 50MB",
        exits="1 the capture could not start, or ended early.",
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--seconds",
    metavar="DURATION",
    type=options.duration(0.001),
    help="Stop after this time.  [default: at Ctrl-C]",
)
@click.option(
    "--max-size",
    metavar="SIZE",
    type=options.SIZE,
    default="1GB",
    show_default=True,
    help="Stop when the file reaches this size.",
)
@click.option(
    "--redact", is_flag=True, help="Replace error messages and other user data."
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@options.socket
@options.url
def capture(file: Path, socket: str, url: str, **options: Any) -> None:
    """Record what clients send to the agent into FILE.

    Use it for bug reports and load tests; `kaywatch replay` sends FILE to an agent.
    Clients are not delayed. A FILE whose name ends in .gz is compressed.
    """
    from kaywatch_agent.capture.record import record

    with output.ProgressLine() as line:
        progress = record(
            file,
            _find_socket(socket, url),
            show=lambda progress: line.show(lambda: _format_capture(progress)),
            **options,
        )
    click.echo(f"{file}: {_format_capture(progress)}")
    if progress.missed:
        missed = output.plural(progress.missed, "message")
        click.echo(f"  {missed} missed: the capture was too slow")
    if progress.unredacted:
        malformed = output.plural(progress.unredacted, "message")
        click.echo(f"  {malformed} left out, because it cannot be redacted")
    if progress.problem:
        raise CaptureError(f"the capture ended early: {progress.problem}")


@click.command(
    epilog=epilog(
        "kaywatch replay work.kwcap.gz --info",
        "kaywatch replay work.kwcap.gz --speed 10",
        "kaywatch replay work.kwcap.gz --speed max --socket /tmp/kw.sock",
        exits="1 the agent rejected a batch or was stopped, or FILE cannot be read.",
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--speed",
    metavar="N",
    type=options.ParsedType("speed", _parse_speed),
    default="1",
    show_default=True,
    help="Send N times as fast; max: as fast as the agent acknowledges.",
)
@click.option(
    "--keep-times",
    is_flag=True,
    help="Keep the original times of events.  [default: shift them]",
)
@click.option("--info", is_flag=True, help="Show what FILE contains; send nothing.")
@options.json
@options.socket
@options.url
def replay(
    file: Path,
    speed: float,
    keep_times: bool,
    info: bool,
    as_json: bool,
    socket: str,
    url: str,
) -> None:
    """Send a capture in FILE to an agent.

    Clients get new ids, so the events of every replay are counted. Times are shifted
    to now.
    """
    from kaywatch_agent.capture.file import CaptureReader

    reader = CaptureReader(file)
    try:
        if info:
            _show_summary(reader, as_json)
        else:
            endpoint = _find_socket(socket, url)
            _replay(reader, endpoint, speed, keep_times, as_json)
    finally:
        reader.close()


# -- inside --------------------------------------------------------------------------


def _find_socket(socket: str, url: str) -> str:
    """Return the agent's socket.

    In this order: `--socket`; KAYWATCH_ENDPOINT, as for clients; the socket that the
    agent at `--url` reports; the default paths, if no agent answers.
    """
    if socket:
        return socket
    if endpoint := os.environ.get("KAYWATCH_ENDPOINT"):
        try:
            return next(candidates(check_unix(endpoint)))
        except KaywatchError as error:
            raise click.UsageError(f"KAYWATCH_ENDPOINT: {error}") from None
    try:
        # The default paths are only a guess, because the socket can be configured.
        return str(fetch("/api/v1/clients", url=url)["socket"])
    except QueryError:
        # An explicit address that does not answer must not be replaced by another
        # agent.
        if url != DEFAULT_URL:
            raise
    paths = list(candidates(None))
    return next((path for path in paths if os.path.exists(path)), paths[-1])


def _replay(
    reader: CaptureReader, endpoint: str, speed: float, keep_times: bool, as_json: bool
) -> None:
    from kaywatch_agent.capture import replay as replaying

    def show(progress: ReplayProgress) -> None:
        # A share of bytes, because the number of messages is unknown before the end.
        share = reader.position / max(1, reader.size)
        line.show(lambda: f"{share:4.0%}  {_format_replay(progress)}")

    with output.ProgressLine() as line:
        progress = replaying.replay(
            reader,
            endpoint,
            speed=speed,
            keep_times=keep_times,
            # Each replay has a salt of its own, so that the agent does not drop it as a
            # duplicate.
            salt=os.urandom(16),
            show=show,
        )
    if as_json:
        gaps = {"problem": reader.problem, "missed": reader.missed}
        output.print_json(msgspec.to_builtins(progress) | gaps)
    else:
        _show_replay(progress)
        _show_gaps(reader)
    if progress.refused:
        raise CaptureError(f"the agent rejected {progress.refused:,} batches")


def _show_replay(progress: ReplayProgress) -> None:
    click.echo(_format_replay(progress))
    for code, count in progress.errors.most_common():
        click.echo(
            f"  {output.plural(count, 'error')} {code}: {progress.error_texts[code]}"
        )
    if progress.slow_requests:
        times = output.plural(progress.slow_requests, "time")
        click.echo(f"  the agent asked for less data {times}")
    if progress.max_delay >= 1:
        click.echo(f"  messages were sent up to {duration(progress.max_delay)} late")
    if progress.unusable:
        click.echo(
            f"  {output.plural(progress.unusable, 'malformed message')} left out"
        )


def _show_gaps(reader: CaptureReader) -> None:
    if reader.missed:
        missed = output.plural(reader.missed, "message")
        click.echo(f"  {missed} missing: the capture was too slow")
    if reader.problem:
        click.echo(f"  the capture is incomplete: {reader.problem}")


def _show_summary(reader: CaptureReader, as_json: bool) -> None:
    from kaywatch_agent.capture.summary import CaptureSummary, summarize

    def render(summary: CaptureSummary) -> None:
        redacted = ", redacted" if summary.redacted else ""
        click.echo(f"{reader.path}: captured by kaywatch {summary.agent}{redacted}")
        if summary.started is not None and summary.ended is not None:
            started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(summary.started))
            period = duration(summary.ended - summary.started)
            click.echo(f"  from {started} UTC, for {period}")
        types = ", ".join(f"{name} {n:,}" for name, n in summary.messages.items())
        click.echo(
            f"  {output.plural(summary.connections, 'connection')}; messages:"
            f" {types or 'none'}; {size(summary.bytes)}"
        )
        _show_gaps(reader)
        if summary.services:
            click.echo()
            output.print_table(_SERVICE_COLUMNS, summary.services)

    summary = summarize(reader)
    output.print_result(
        msgspec.to_builtins(summary) if as_json else summary, as_json, render
    )


def _format_capture(progress: CaptureProgress) -> str:
    missed = f", {progress.missed:,} missed" if progress.missed else ""
    return (
        f"{output.plural(progress.messages, 'message')},"
        f" {output.plural(progress.events, 'event')}, {size(progress.size)} in"
        f" {duration(progress.seconds)}{missed}"
    )


def _format_replay(progress: ReplayProgress) -> str:
    rate = progress.events / progress.seconds if progress.seconds else 0.0
    return (
        f"{output.plural(progress.messages, 'message')} of"
        f" {output.plural(progress.clients, 'client')},"
        f" {output.plural(progress.events, 'event')} in {duration(progress.seconds)}"
        f" ({rate:,.0f}/s), {progress.acknowledged:,} acknowledged"
    )
