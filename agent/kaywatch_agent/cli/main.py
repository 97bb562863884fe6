"""The command line: what the words mean, and which exit code they end with.

Exit codes: 0 fine, 1 failed, 2 wrong usage, 78 wrong configuration (sysexits.h).
"""

from __future__ import annotations

import asyncio
import dataclasses
import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from kaywatch._version import __version__
from kaywatch.errors import KaywatchError
from kaywatch.query import fetch
from kaywatch.wire import Outcome
from kaywatch_agent.cli import tables
from kaywatch_agent.cli.commands import COMMANDS, options
from kaywatch_agent.cli.commands import capture as captures
from kaywatch_agent.cli.help import Chapters, manual
from kaywatch_agent.cli.top.layout import SORTS
from kaywatch_agent.errors import AgentError, ConfigError
from kaywatch_agent.runtime.systemd import is_journal

if TYPE_CHECKING:
    from kaywatch_agent.app import App
    from kaywatch_agent.config import Config

__all__ = ["main"]

FAILED: Final = 1
WRONG_CONFIGURATION: Final = 78


def main() -> None:
    """Run the command line."""
    try:
        # What a command exits with is returned; commands themselves return nothing.
        sys.exit(kaywatch(standalone_mode=False))
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigError as error:
        for wrong in (error, *error.others):
            _complain(wrong)
        sys.exit(WRONG_CONFIGURATION)
    except (AgentError, KaywatchError) as error:
        _complain(error)
        sys.exit(FAILED)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: Exception) -> None:
    # sd-daemon(3): what a service prints has a priority in the journal.
    priority = "<3>" if is_journal() else ""
    click.echo(f"{priority}kaywatch: {error}", err=True)


def _window(_: click.Context, __: click.Parameter, text: str) -> str:
    options.Duration(0.001).convert(text, None, None)
    return text


@click.group(
    cls=Chapters,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=manual(
        "kaywatch serve                 # the agent; one per host",
        "kaywatch run -- python app.py  # an application that it watches",
        "kaywatch status                # what is known",
        exits="0 fine, 1 failed, 2 wrong usage, 78 wrong configuration. `kaywatch"
        " COMMAND --help` says where a command has more to say by them.",
    ),
)
@click.version_option(__version__, prog_name="kaywatch")
def kaywatch() -> None:
    """Production monitoring for KayGraph and PocketFlow applications.

    An agent on each host takes in what applications push to it, keeps it, and says how
    they do: in the terminal, over HTTP, and by alerts. An application pushes when it is
    started by `kaywatch run`, or calls kaywatch.instrument().
    """


@kaywatch.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...]) -> None:
    """Run an application that is watched, without code in it."""
    from kaywatch import launch

    launch.main(arguments)  # not reached from `__main__`, which knows `run` itself


@kaywatch.command(
    epilog=manual(
        "kaywatch serve",
        "kaywatch serve --config kaywatch.toml --http 127.0.0.1:9500",
        "kaywatch serve --store :memory: --socket /tmp/kw.sock  # keeps nothing",
        exits="0 after SIGTERM or SIGINT; 1 if a socket, a port or the store is not to"
        " be had; 2 wrong usage; 78 wrong configuration.",
    )
)
@click.option(
    "--socket",
    metavar="PATH",
    help="The socket that clients push to.  [default: /run/kaywatch/ingest.sock, for"
    " other users than root $XDG_RUNTIME_DIR/kaywatch/ingest.sock]",
)
@click.option(
    "--http",
    "listen",
    metavar="HOST:PORT",
    help="Where to serve HTTP, or unix:PATH.  [default: 127.0.0.1:9477]",
)
@click.option(
    "--store",
    metavar="PATH",
    help="The file that keeps it all; :memory: for none.  [default: kaywatch.db in"
    " /var/lib/kaywatch, for other users in ~/.local/state/kaywatch]",
)
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help="The configuration.  [default: /etc/kaywatch/kaywatch.toml if it exists]",
)
def serve(
    socket: str | None, listen: str | None, store: str | None, config_path: str | None
) -> None:
    """Run the agent, until SIGTERM or SIGINT.

    Nothing needs to be set. What can be is in one TOML file, and docs/configuration.md
    has every key; `kaywatch check` looks through a file. Options go before what it
    says.

    SIGHUP reads the file again: all of it, or nothing if it is wrong, which is then in
    the log. A socket, an address and the store's path change at a restart only.

    Of the environment it looks at what systemd sets (RUNTIME_DIRECTORY and
    STATE_DIRECTORY: where the socket and the store are by default;
    CREDENTIALS_DIRECTORY: secrets), at XDG_RUNTIME_DIR and XDG_STATE_HOME likewise, and
    at variables that the configuration names for secrets (keys that end with _env).
    """
    from kaywatch_agent.runtime import logs

    def configured() -> Config:
        return _configured(config_path, socket, listen, store)

    config = configured()
    logs.set_up(config.log)
    _run(config, configured)


def _configured(
    path: str | None, socket: str | None, listen: str | None, store: str | None
) -> Config:
    """Return the file's configuration with the options in place of its values."""
    from kaywatch_agent.config import find, load

    config = load(find(path))
    try:
        if socket is not None:
            ingest = dataclasses.replace(config.ingest, socket=socket)
            config = dataclasses.replace(config, ingest=ingest)
        if listen is not None:
            http = dataclasses.replace(config.http, listen=listen)
            config = dataclasses.replace(config, http=http)
        if store is not None:
            kept = dataclasses.replace(config.store, path=store)
            config = dataclasses.replace(config, store=kept)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return config


def _run(config: Config, configured: Callable[[], Config]) -> None:
    from kaywatch_agent.app import App
    from kaywatch_agent.runtime import systemd

    # Before anything else is started, which must not speak for this process.
    notifier, sockets = systemd.Notifier.take(), systemd.inherited_sockets()
    # The watchdog's SIGABRT shows where the agent hung.
    faulthandler.enable()

    async def life() -> None:
        app = App(config, notifier=notifier, sockets=sockets)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, app.stop)
        loop.add_signal_handler(signal.SIGHUP, _reload, app, configured)
        await app.run()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(life())


def _reload(app: App, configured: Callable[[], Config]) -> None:
    """Take the configuration as it is now, or say why it stays as it was."""
    import structlog

    from kaywatch_agent.runtime import logs

    app.supervision.reloading()
    try:
        config = configured()
        app.reload(config)
    except (ConfigError, click.UsageError) as error:
        log = structlog.get_logger("kaywatch.agent")
        for problem in (error, *getattr(error, "others", ())):
            # No trace for a mistake in a file.
            log.error("configuration not reloaded", problem=str(problem))  # noqa: TRY400
        app.supervision.reloaded(str(error))
    else:
        logs.set_up(config.log)
        app.supervision.reloaded()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where it is installed: half the CPU per message."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@kaywatch.command(
    epilog=manual(
        "kaywatch check",
        "kaywatch check --config new.toml && systemctl reload kaywatch",
        exits="0 it is right; 78 it is not: each mistake is named with its key.",
    )
)
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help="The file to check.  [default: /etc/kaywatch/kaywatch.toml if it exists]",
)
@click.option("--quiet", is_flag=True, help="Print nothing if it is fine.")
def check(config_path: str | None, quiet: bool) -> None:
    """Check the configuration, and change nothing.

    `kaywatch rules check` says besides what each rule looks for, and `kaywatch doctor`
    whether what the file names is there and can be reached.
    """
    from kaywatch_agent.config import find, load
    from kaywatch_agent.web.server import check as check_http

    path = find(config_path)
    config = load(path)
    check_http(config.http)
    if quiet:
        return
    click.echo(f"{path or 'no file, all defaults'}: fine")
    click.echo(f"  clients push to  {config.ingest.path}")
    click.echo(f"  HTTP is served at  {config.http.listen}")
    click.echo(f"  everything is kept in  {config.store.file or 'memory'}")


@kaywatch.command(
    epilog=manual(
        "kaywatch status",
        "kaywatch status --url http://127.0.0.1:9500",
        "kaywatch status --json | jq .health.status",
        exits="1 the agent doesn't answer, or says that it is unhealthy.",
    )
)
@options.agent
def status(url: str, as_json: bool) -> None:
    """Show the agent's health, its clients, and every node's figures."""
    health = fetch("/health", url=url)
    if as_json:
        clients = fetch("/api/v1/clients", url=url)
        export = fetch("/api/v1/export", url=url)
        llm = fetch("/api/v1/llm", url=url)
        complete = fetch("/api/v1/completeness", {"window": "24h"}, url)
        found = {"health": health, **clients, **export, "llm": llm}
        found["completeness"] = complete
        click.echo(json.dumps(found, indent=2))
    else:
        clients = fetch("/api/v1/clients", url=url)["clients"]
        nodes = fetch("/api/v1/nodes", {"window": "5m"}, url)["nodes"]
        models = fetch("/api/v1/llm", {"window": "5m"}, url)["models"]
        complete = fetch("/api/v1/completeness", {"window": "24h"}, url)
        tables.show_status(url, health, clients, nodes, models, complete)
    if health["status"] == "unhealthy":
        raise click.exceptions.Exit(FAILED)


@kaywatch.command(
    epilog=manual(
        "kaywatch stats Draft",
        "kaywatch stats Draft --window 15m --graph SupportDesk",
        exits="1 no such node, or the agent doesn't answer.",
    )
)
@click.argument("node")
@click.option(
    "--window",
    metavar="DURATION",
    help="How far back, such as 5m.  [default: since first seen]",
)
@click.option("--graph", metavar="NAME", help="Only within this graph.")
@click.option("--service", metavar="NAME", help="Only of this service.")
@options.agent
def stats(
    node: str,
    window: str | None,
    graph: str | None,
    service: str | None,
    url: str,
    as_json: bool,
) -> None:
    """Show all that is known of one NODE.

    NODE is its name as `kaywatch status` shows it. Where several graphs or services
    have one of that name, they are taken together.
    """
    from urllib.parse import quote

    found = fetch(
        f"/api/v1/nodes/{quote(node, safe='')}/stats",
        {"window": window, "graph": graph, "service": service},
        url,
    )
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        tables.show_node(found)


kaywatch.add_command(captures.capture)
kaywatch.add_command(captures.replay)


@kaywatch.command(
    epilog=manual(
        "kaywatch top",
        "kaywatch top --sort latency --window 1h --graph SupportDesk",
        "kaywatch top --once  # as in a script",
    )
)
@click.option(
    "--window",
    metavar="DURATION",
    default="5m",
    show_default=True,
    callback=_window,
    help="How far back: 30s, 5m, 24h or the like.",
)
@click.option(
    "--sort",
    type=click.Choice(list(SORTS)),
    default="errors",
    show_default=True,
    help="What is first: the most, or the slowest.",
)
@click.option("--service", metavar="NAME", help="Only of this service.")
@click.option("--graph", metavar="NAME", help="Only within this graph.")
@click.option(
    "--node", multiple=True, metavar="NAME", help="Only this node; repeatable."
)
@click.option(
    "--interval",
    metavar="DURATION",
    type=options.Duration(0.2),
    default="1s",
    show_default=True,
    help="How long to wait between two requests.",
)
@click.option("--once", is_flag=True, help="Print the nodes once, and exit.")
@options.agent
def top(
    url: str,
    as_json: bool,
    once: bool,
    interval: float,
    node: tuple[str, ...],
    sort: str,
    **asked: Any,
) -> None:
    """Show the nodes live, those with most errors first.

    Takes the whole screen; q quits, ? shows the keys. Without a terminal it prints
    the nodes once, and exits.
    """
    from kaywatch_agent.cli.top import top as terminal
    from kaywatch_agent.cli.top.state import Query

    query = Query(nodes=node, **asked)
    if once or as_json or not tables.console().is_interactive:
        terminal.show(url, query, sort, as_json)
    else:
        terminal.run(url, query, sort, interval)


@kaywatch.command(
    epilog=manual(
        "kaywatch tail --failures",
        "kaywatch tail --node Draft --node Send --slower-than 2s",
        "kaywatch tail --runs --limit 10 --json | jq .",
    )
)
@click.option(
    "--failures",
    is_flag=True,
    help="Only what failed: error, suppressed by on_error, fallback.",
)
@click.option("--service", multiple=True, metavar="NAME", help="Only of this service.")
@click.option("--graph", multiple=True, metavar="NAME", help="Only within this graph.")
@click.option("--node", multiple=True, metavar="NAME", help="Only of this node.")
@click.option(
    "--outcome",
    multiple=True,
    type=click.Choice([outcome.name.lower() for outcome in Outcome]),
    help="Only with this outcome.",
)
@click.option(
    "--slower-than",
    type=options.Duration(),
    metavar="DURATION",
    help="Only what took longer, such as 2s.",
)
@click.option("--runs", is_flag=True, help="Show runs of graphs that end, too.")
@click.option(
    "--rate",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=1000,
    show_default=True,
    help="Lines a second at most; what is left out is counted.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="End after N lines."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
@options.url
def tail(url: str, as_json: bool, limit: int | None, **filters: Any) -> None:
    """Print a line for each execution as it happens.

    Ctrl-C ends it. Options with a NAME, and --outcome, are repeatable.
    """
    from kaywatch_agent.cli.top import tail as terminal

    terminal.run(url, filters, limit, as_json)


@kaywatch.command(
    epilog=manual(
        "kaywatch demo",
        "kaywatch demo --seconds 20",
        exits="1 the agent counted something else than the application did.",
    )
)
@click.option(
    "--seconds",
    metavar="DURATION",
    type=options.Duration(1),
    help="End after so long, with a summary.  [default: at Ctrl-C]",
)
@click.option(
    "--processes",
    metavar="N",
    default=2,
    show_default=True,
    type=click.IntRange(1, 32),
    help="Processes of the application.",
)
@click.option(
    "--http",
    "listen",
    metavar="HOST:PORT",
    help="Where its agent serves HTTP.  [default: 127.0.0.1:9477, or a free port]",
)
def demo(seconds: float | None, processes: int, listen: str | None) -> None:
    """Run an agent and an application, to look at.

    The application is of PocketFlow, with nodes that fail now and then; nothing is
    kept. It needs `pip install 'kaywatch[demo]'`.
    """
    from kaywatch_agent.cli.demo import show

    raise click.exceptions.Exit(show.run(seconds, processes, listen))


for _command in COMMANDS:
    kaywatch.add_command(_command)
