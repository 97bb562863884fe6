"""`kaywatch open`: the web page in a browser."""

from __future__ import annotations

import webbrowser
from urllib.parse import urlencode, urlsplit

import click

from kaywatch.query import fetch
from kaywatch_agent.cli.commands import options
from kaywatch_agent.cli.help import epilog
from kaywatch_agent.errors import StartError

__all__ = ["open_page"]


@click.command(
    "open",
    epilog=epilog(
        "kaywatch open",
        "kaywatch open --graph SupportDesk --node Draft",
        "kaywatch open --url https://kaywatch.example/prefix",
        exits="1 the agent does not answer, or it serves a UNIX socket, which browsers"
        " cannot open.",
    ),
)
@options.filters("service", "graph", "node", verb="Open the page at")
@options.url
def open_page(url: str, **filters: str | None) -> None:
    """Open the agent's web page in a browser.

    The address is printed, too. To view the page of a host without a browser, forward
    its port: `ssh -L 9477:127.0.0.1:9477 HOST`.
    """
    # A browser would show its own error page, without the fix.
    fetch("/health", url=url)
    address = _page_address(url, filters)
    click.echo(address)
    # Not a failure: on a server, the address is all that people need.
    if not webbrowser.open(address):
        click.echo(
            "This machine has no browser. Open the address in one that can reach the"
            f" agent, or forward its port: ssh -L 9477:{urlsplit(url).netloc} HOST",
            err=True,
        )


def _page_address(url: str, filters: dict[str, str | None]) -> str:
    """Return the address of the page that shows a graph or a node.

    Raises:
        StartError: the agent serves a UNIX socket.
    """
    if url.startswith("unix:"):
        raise StartError(
            f"a browser cannot open {url}; set http.listen to HOST:PORT, or put a proxy"
            " in front of the socket (docs/web-page.md)"
        )
    parameters = {name: value for name, value in filters.items() if value}
    return f"{url.rstrip('/')}/" + (f"?{urlencode(parameters)}" if parameters else "")
