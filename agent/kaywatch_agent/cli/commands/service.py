"""`kaywatch service`: the agent as a systemd service."""

from __future__ import annotations

import json
from typing import Any

import click

from kaywatch_agent.cli.help import epilog
from kaywatch_agent.cli.service import installer
from kaywatch_agent.cli.service.installer import InstalledFile, Manager

__all__ = ["service"]

_user = click.option(
    "--user", is_flag=True, help="A service of yours alone; needs no root."
)
_config = click.option(
    "--config",
    "config",
    metavar="FILE",
    default="",
    help="The configuration; /etc/kaywatch/kaywatch.toml if it exists.",
)
_http = click.option(
    "--http-socket",
    "http",
    is_flag=True,
    help="Let systemd hold HTTP's socket too, where http.listen says.",
)


@click.group()
def service() -> None:
    """Run the agent as a systemd service."""


@service.command(
    epilog=epilog(
        "kaywatch service install --now",
        "kaywatch service install --user --config ~/.config/kaywatch.toml",
    )
)
@_user
@_config
@_http
@click.option("--dry-run", is_flag=True, help="Print the files, and do nothing.")
@click.option("--now", is_flag=True, help="Enable and start it as well.")
def install(user: bool, config: str, http: bool, dry_run: bool, now: bool) -> None:
    """Write the units for this installation; again after an upgrade.

    Your own changes belong into drop-ins (`systemctl edit kaywatch`), which stay.
    """
    manager = Manager(user)
    files = installer.plan_files(manager, config, http)
    if dry_run:
        click.echo("\n".join(f"# {file.path}\n{file.text}" for file in files), nl=False)
        return
    for step in installer.install(manager, files, start=now):
        click.echo(step)
    if not now:
        option = "--user " if user else ""
        units = " ".join(name for name in _units(files))
        click.echo(f"next: systemctl {option}enable --now {units}")


@service.command(epilog=epilog("kaywatch service uninstall"))
@_user
def uninstall(user: bool) -> None:
    """Stop it and remove the units; data and configuration stay."""
    for step in installer.uninstall(Manager(user)):
        click.echo(step)


@service.command(
    epilog=epilog(
        "kaywatch service status",
        exits="0 it runs as it should; 1 it is not installed, differs, or doesn't run.",
    )
)
@_user
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(user: bool, as_json: bool) -> None:
    """Show whether it is installed as it should be, and runs."""
    manager = Manager(user)
    files = installer.replan_files(manager)
    if files is None:
        raise click.ClickException(
            f"no kaywatch.service in {manager.folder} that kaywatch wrote; run"
            " `kaywatch service install`"
        )
    found = _found(manager, files)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    good = all(file.installed == file.text for file in files)
    if not good or found["service"]["ActiveState"] != "active":
        raise click.exceptions.Exit(1)


def _found(manager: Manager, files: list[InstalledFile]) -> dict[str, Any]:
    properties = manager.properties(
        "kaywatch.service",
        *("ActiveState", "SubState", "StatusText", "Result", "MainPID", "NRestarts"),
        *("Type", "UnitFileState", "DropInPaths", "NeedDaemonReload"),
    )
    sockets = {
        name: manager.properties(name, "ActiveState")["ActiveState"]
        for name in _units(files)
        if name.endswith(".socket")
    }
    return {
        "files": {str(file.path): file.state for file in files},
        "service": properties,
        "sockets": sockets,
        "exposure": manager.exposure(),
    }


def _show(found: dict[str, Any]) -> None:
    for path, state in found["files"].items():
        hint = "; `kaywatch service install` writes it anew"
        click.echo(f"{path}: {state}{hint if state != 'up to date' else ''}")
    service = found["service"]
    for path in service["DropInPaths"].split():
        click.echo(f"{path}: a drop-in")
    if service["NeedDaemonReload"] == "yes":
        click.echo("changed since systemd read them: systemctl daemon-reload")
    for name, state in found["sockets"].items():
        click.echo(f"{name}: {state}")
    click.echo(
        f"kaywatch.service: {service['ActiveState']} ({service['SubState']}),"
        f" {service['UnitFileState']}, pid {service['MainPID']},"
        f" {service['NRestarts']} restarts, last result {service['Result']}"
    )
    if service["StatusText"]:
        click.echo(f"  it says: {service['StatusText']}")
    click.echo(f"  exposure: {found['exposure']} of 10 (systemd-analyze security)")


def _units(files: list[InstalledFile]) -> list[str]:
    return [file.path.name for file in files if file.path.suffix != ".conf"]
