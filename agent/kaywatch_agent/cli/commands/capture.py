"""`kaywatch capture` and `kaywatch replay`: their words, and what a person is shown."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from kaywatch._send.transport import candidates, check_unix
from kaywatch.errors import KaywatchError
from kaywatch_agent.cli import tables
from kaywatch_agent.cli.commands.options import Duration, Size
from kaywatch_agent.cli.help import manual
from kaywatch_agent.errors import CaptureError
from kaywatch_agent.units import duration, size

if TYPE_CHECKING:
    from kaywatch_agent.capture.file import CaptureReader
    from kaywatch_agent.capture.record import CaptureProgress
    from kaywatch_agent.capture.replay import ReplayProgress
    from kaywatch_agent.capture.summary import CaptureSummary

__all__ = ["capture", "replay"]

FAILED: Final = 1
SHOW_SECONDS: Final = 0.5

F = TypeVar("F", bound=Callable[..., Any])


def _speed(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Return how many times faster; infinite for 0 and max."""
    try:
        speed = math.inf if value == "max" else float(value) or math.inf
    except ValueError:
        speed = math.nan
    if not speed > 0:
        text = f"{value!r}: expected a number from 0, or max"
        raise click.BadParameter(text, ctx, param)
    return speed


def _socket(command: F) -> F:
    return click.option(
        "--socket",
        metavar="PATH",
        help="The agent's socket; by default where clients look for it.",
    )(command)


@click.command(
    epilog=manual(
        "kaywatch capture work.kwcap.gz --seconds 60",
        "kaywatch capture bug.kwcap.gz --redact --max-size 50MB",
        exits="1 nothing could be captured, or the capture ended early.",
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@_socket
@click.option(
    "--seconds",
    metavar="DURATION",
    type=Duration(0.001),
    help="End after so long.  [default: at Ctrl-C]",
)
@click.option(
    "--max-size",
    metavar="SIZE",
    type=Size(),
    default="1GB",
    show_default=True,
    help="End once the file is as large as this, such as 100MB.",
)
@click.option(
    "--redact",
    is_flag=True,
    help="Leave out what users may have written: messages of errors, and the like.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def capture(
    file: Path,
    socket: str | None,
    seconds: float | None,
    max_size: int,
    redact: bool,
    force: bool,
) -> None:
    """Write all that clients send into FILE.

    For a bug report or a load test: `kaywatch replay` sends it again. Nobody who sends
    is delayed by it. A FILE whose name ends in .gz is compressed.
    """
    from kaywatch_agent.capture import record

    endpoint = _find(socket)
    progress = _Progress()

    def show(state: CaptureProgress) -> None:
        progress.show(lambda: _captured_line(state))

    found = record.record(
        file,
        endpoint,
        seconds=seconds,
        max_size=max_size,
        redact=redact,
        force=force,
        show=show,
    )
    progress.clear()
    click.echo(f"{file}: {_captured_line(found)}")
    if found.missed:
        click.echo(
            f"  {found.missed:,} messages missed: this did not keep up with them"
        )
    if found.unredacted:
        click.echo(f"  {found.unredacted:,} messages left out: no way to redact them")
    if found.problem:
        raise CaptureError(f"the capture ended early: {found.problem}")


@click.command(
    epilog=manual(
        "kaywatch replay work.kwcap.gz --info",
        "kaywatch replay work.kwcap.gz --speed 10",
        "kaywatch replay work.kwcap.gz --speed max --socket /tmp/kw.sock",
        exits="1 the agent refused something, or FILE can't be read.",
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@_socket
@click.option(
    "--speed",
    metavar="N",
    callback=_speed,
    default="1",
    show_default=True,
    help="How many times faster than it came; 0 or max: as fast as the agent takes it.",
)
@click.option(
    "--keep-times", is_flag=True, help="Leave events when they were, not to be now."
)
@click.option("--info", is_flag=True, help="Show what FILE holds, and send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def replay(
    file: Path,
    socket: str | None,
    speed: float,
    keep_times: bool,
    info: bool,
    as_json: bool,
) -> None:
    """Send what `kaywatch capture` wrote into FILE again.

    Their ids are new, so that every replay counts, and times are shifted to be now.
    """
    from kaywatch_agent.capture.file import CaptureReader

    reader = CaptureReader(file)
    try:
        if info:
            _show_contents(reader, as_json)
        else:
            _replay(reader, _find(socket), speed, keep_times, as_json)
    finally:
        reader.close()


def _replay(
    reader: CaptureReader, endpoint: str, speed: float, keep_times: bool, as_json: bool
) -> None:
    from kaywatch_agent.capture import replay as replaying

    progress = _Progress()

    def show(state: ReplayProgress) -> None:
        share = reader.position / max(1, reader.size)
        progress.show(lambda: f"{share:4.0%}  {_replayed_line(state)}")

    try:
        found = replaying.replay(
            reader,
            endpoint,
            speed=speed,
            keep_times=keep_times,
            salt=os.urandom(16),
            show=show,
        )
    except KeyboardInterrupt:
        progress.clear()
        raise click.Abort from None
    finally:
        progress.clear()
    if as_json:
        done = msgspec.to_builtins(found)
        done |= {"problem": reader.problem, "missed": reader.missed}
        click.echo(msgspec.json.format(msgspec.json.encode(done)).decode())
    else:
        _show_replayed(found, reader)
    if found.refused:
        raise CaptureError(f"the agent refused {found.refused:,} batches")


def _show_replayed(found: ReplayProgress, reader: CaptureReader) -> None:
    click.echo(_replayed_line(found))
    for code, count in found.errors.most_common():
        click.echo(f"  the agent said {code}, {count:,} times: {found.texts[code]}")
    if found.slow:
        click.echo(f"  the agent asked to be sent less {found.slow:,} times")
    if found.behind >= 1:
        late = duration(found.behind)
        click.echo(f"  up to {late} late: neither we nor the agent were faster")
    if found.unusable:
        click.echo(f"  {found.unusable:,} messages left out: nothing an agent knows")
    _show_gaps(reader)


def _show_gaps(reader: CaptureReader) -> None:
    if reader.missed:
        click.echo(
            f"  {reader.missed:,} messages are missing: the capture did not keep up"
        )
    if reader.problem:
        click.echo(f"  the capture is incomplete: {reader.problem}")


def _show_contents(reader: CaptureReader, as_json: bool) -> None:
    from kaywatch_agent.capture.summary import summarize

    found = summarize(reader)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    click.echo(_contents_line(reader, found))
    if found.started is not None and found.ended is not None:
        began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found.started))
        click.echo(f"  from {began}, for {duration(found.ended - found.started)}")
    types = ", ".join(f"{name} {count:,}" for name, count in found.messages.items())
    click.echo(
        f"  {found.connections:,} connections; messages: {types or 'none'};"
        f" {size(found.bytes)}"
    )
    _show_gaps(reader)
    if not found.services:
        return
    table = tables.plain_table(
        "service", "processes", "batches", "executions", "runs", "points", "dropped"
    )
    for one in found.services:
        table.add_row(
            one.service,
            f"{one.processes:,}",
            f"{one.batches:,}",
            f"{one.executions:,}",
            f"{one.runs:,}",
            f"{one.points:,}",
            f"{sum(one.dropped.values()):,}",
        )
    click.echo()
    tables.console().print(table)


def _contents_line(reader: CaptureReader, found: CaptureSummary) -> str:
    redacted = ", redacted" if found.redacted else ""
    return f"{reader.path}: a capture by kaywatch {found.agent}{redacted}"


def _captured_line(state: CaptureProgress) -> str:
    return (
        f"{state.messages:,} messages, {state.events:,} events, {size(state.size)}"
        f" in {duration(state.seconds)}"
        + (f", {state.missed:,} missed" if state.missed else "")
    )


def _replayed_line(state: ReplayProgress) -> str:
    rate = state.events / state.seconds if state.seconds else 0.0
    return (
        f"{state.messages:,} messages of {state.clients:,} clients,"
        f" {state.events:,} events in {duration(state.seconds)}"
        f" ({rate:,.0f}/s), {state.acknowledged:,} acknowledged"
    )


def _find(socket: str | None) -> str:
    """Return the agent's socket: the one that is named, or where clients look."""
    if socket is not None:
        return socket
    endpoint = os.environ.get("KAYWATCH_ENDPOINT")
    try:
        paths = list(candidates(check_unix(endpoint) if endpoint else None))
    except KaywatchError as error:
        raise click.UsageError(f"KAYWATCH_ENDPOINT: {error}") from None
    return next((path for path in paths if os.path.exists(path)), paths[-1])


class _Progress:
    """One line on a terminal, written over again; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._width = 0
        self._on = sys.stderr.isatty()

    def show(self, line: Callable[[], str]) -> None:
        """Show a line, unless one was shown just now."""
        now = time.monotonic()
        if self._on and now - self._shown >= SHOW_SECONDS:
            self._shown = now
            text = line()
            click.echo("\r" + text.ljust(self._width), err=True, nl=False)
            self._width = len(text)

    def clear(self) -> None:
        """Leave the line empty. Idempotent."""
        if self._width:
            click.echo("\r" + " " * self._width + "\r", err=True, nl=False)
            self._width = 0
