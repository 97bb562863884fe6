"""`kaywatch bundle`: one file with everything that support needs."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import click

from kaywatch_agent.cli.commands import options
from kaywatch_agent.cli.help import epilog

__all__ = ["bundle"]


@click.command(
    epilog=epilog(
        "kaywatch bundle",
        "kaywatch bundle -o /tmp/incident.zip  # as root: with the log",
        exits="1 the file cannot be written.",
    )
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="kaywatch-bundle.zip",
    show_default=True,
    help="The ZIP file to write; it must not exist.",
)
@options.config
@click.option(
    "--url",
    metavar="URL",
    default="",
    help="The agent's HTTP address.  [default: KAYWATCH_URL, or as configured]",
)
def bundle(output: str, config: str, url: str) -> None:
    """Write one ZIP file for support, without secrets.

    It contains versions, the results of `kaywatch doctor`, the configuration, the
    state of the agent, its metrics, and the last lines of its log. Keys, tokens,
    passwords, e-mail addresses and the paths of webhooks are replaced. Names of
    services, graphs and nodes, and messages of errors are included: review the file
    before you share it. It also works without a running agent.
    """
    # These import the whole agent.
    from kaywatch_agent.cli.bundle import collect
    from kaywatch_agent.cli.doctor.context import Options, gather

    context = gather(Options(config=config, socket="", store="", url=url))
    path = Path(output)
    try:
        # Only its owner may read it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with (
            os.fdopen(descriptor, "wb") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for each in collect(context):
                name = each.name
                if each.problem:
                    name, text = f"{name}.missing.txt", each.problem + "\n"
                    click.echo(f"  without {each.name}: {each.problem}")
                else:
                    text = each.text
                    click.echo(f"  {each.name}")
                archive.writestr(name, text)
    except OSError as error:
        raise click.ClickException(
            f"cannot write {output}: {error.strerror};"
            " choose another file with --output"
        ) from None
    click.echo(output)
