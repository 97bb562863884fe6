"""`kaywatch serve`, `run` and `check`: the agent, applications, configuration."""

from __future__ import annotations

import asyncio
import dataclasses
import faulthandler
import importlib
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import click

from kaywatch_agent.cli.commands import options
from kaywatch_agent.cli.help import epilog
from kaywatch_agent.errors import ConfigError

if TYPE_CHECKING:
    from kaywatch_agent.config import Config

__all__ = ["check", "run", "serve"]


@click.command(
    epilog=epilog(
        "kaywatch serve",
        "kaywatch serve --config kaywatch.toml --http 127.0.0.1:9500",
        "kaywatch serve --store :memory: --socket /tmp/kw.sock  # nothing on disk",
        exits="0 after SIGTERM or SIGINT; 1 cannot open a socket, a port or the store;"
        " 2 usage error; 78 configuration error.",
    )
)
@click.option(
    "--socket",
    metavar="PATH",
    help="The socket that clients push to.  [default: /run/kaywatch/ingest.sock for"
    " root, else kaywatch/ingest.sock in $XDG_RUNTIME_DIR or ~/.local/state]",
)
@click.option(
    "--http",
    "listen",
    metavar="HOST:PORT",
    help="The HTTP address, or unix:PATH.  [default: 127.0.0.1:9477]",
)
@click.option(
    "--store",
    metavar="PATH",
    help="The database file, or :memory: to write nothing to disk.  [default:"
    " kaywatch.db in /var/lib/kaywatch for root, else in ~/.local/state/kaywatch]",
)
@options.config
def serve(
    config: str, socket: str | None, listen: str | None, store: str | None
) -> None:
    """Run the agent until SIGTERM or SIGINT.

    No configuration is needed. All settings are in one TOML file; see
    docs/configuration.md. `kaywatch check` validates a file. Command-line options
    override the file.

    SIGHUP and POST /-/reload reload the file. An invalid file changes nothing, and its
    errors are logged. Changes of a socket, an address or the store's path need a
    restart.

    Environment: under systemd, the socket is created in RUNTIME_DIRECTORY and the store
    in STATE_DIRECTORY; otherwise XDG_RUNTIME_DIR and XDG_STATE_HOME are used. Secrets
    can be files in CREDENTIALS_DIRECTORY, or variables that a key ending in _env names.
    """
    _import_structlog()
    # Imported here, because these modules import the whole agent.
    from kaywatch_agent.runtime import logs

    def reload() -> Config:
        try:
            return _load_config(config, socket, listen, store)
        except click.UsageError as error:
            raise ConfigError("", str(error)) from None

    first = _load_config(config, socket, listen, store)
    logs.set_up(first.log)
    _run(first, reload)


# Packages that structlog imports if they are installed. The agent does not use them:
# tracebacks in another format take 3 MB, and support for greenlets takes 1 MB.
# `kaywatch top` uses rich.
UNUSED: Final = ("rich", "greenlet")


def _import_structlog() -> None:
    """Import structlog without packages that the agent does not use."""
    absent = [name for name in UNUSED if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    try:
        importlib.import_module("structlog")
    finally:
        for name in absent:
            del sys.modules[name]


def _load_config(
    path: str, socket: str | None, listen: str | None, store: str | None
) -> Config:
    """Return the configuration, in which the options override the file."""
    from kaywatch_agent.config import find, load

    config = load(find(path or None))
    overrides = (
        ("ingest", "socket", socket),
        ("http", "listen", listen),
        ("store", "path", store),
    )
    for section, key, value in overrides:
        if value is not None:
            try:
                # A new section is validated like one of the file.
                changed = dataclasses.replace(getattr(config, section), **{key: value})
            except ValueError as error:
                raise click.UsageError(str(error)) from None
            config = dataclasses.replace(config, **{section: changed})
    return config


def _run(config: Config, load: Callable[[], Config]) -> None:
    from kaywatch_agent.app import App
    from kaywatch_agent.runtime import systemd

    # This comes first, so that no child inherits systemd's variables and notifies
    # systemd.
    notifier, sockets = systemd.Notifier.take(), systemd.inherited_sockets()
    # Print all stacks at the watchdog's SIGABRT.
    faulthandler.enable()

    async def run_app() -> None:
        app = App(config, load, notifier=notifier, sockets=sockets)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, app.stop)
        loop.add_signal_handler(signal.SIGHUP, app.reload)
        await app.run()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run_app())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop if it is installed; it halves the CPU per message."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...]) -> None:
    """Run an application with monitoring, without changing its code."""
    from kaywatch import launch

    launch.main(arguments)  # for tests: `__main__` runs `run` without this module


@click.command(
    epilog=epilog(
        "kaywatch check",
        "kaywatch check --config new.toml && systemctl reload kaywatch",
        exits="0 valid; 78 invalid: each error is printed with its key.",
    )
)
@options.config
@click.option("--quiet", is_flag=True, help="Print nothing if the file is valid.")
def check(config: str, quiet: bool) -> None:
    """Validate the configuration without changing anything.

    `kaywatch rules check` also explains each rule. `kaywatch doctor` also checks that
    the files and servers in the configuration are accessible.
    """
    from kaywatch_agent.config import find, find_unused, load
    from kaywatch_agent.notify.config_check import find_defects, find_warnings
    from kaywatch_agent.web.check import check_files

    path = find(config or None)
    settings = load(path)
    check_files(settings.http)
    notify = settings.notify
    for note in (
        *find_defects(notify.receivers, notify.heartbeat),
        *find_warnings(notify.receivers, notify.heartbeat),
        *find_unused(notify, settings.alerts),
        *settings.alerts.warnings,
    ):
        click.echo(f"warning: {note}", err=True)
    if quiet:
        return
    click.echo(f"{path or 'no file, all defaults'}: valid")
    click.echo(f"  socket  {settings.ingest.path}")
    click.echo(f"  HTTP    {settings.http.listen}")
    click.echo(f"  store   {settings.store.file or ':memory:'}")
