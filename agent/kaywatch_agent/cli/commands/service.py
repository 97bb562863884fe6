"""`kaywatch service`: run the agent as a systemd service."""

from __future__ import annotations

from typing import Any

import click

from kaywatch_agent.cli.commands import options, output
from kaywatch_agent.cli.help import epilog
from kaywatch_agent.cli.service import installer
from kaywatch_agent.cli.service.installer import InstalledFile, Manager

__all__ = ["service"]

SERVICE = "kaywatch.service"

_user = click.option(
    "--user",
    is_flag=True,
    help="Use the systemd of your user, which does not need root.",
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
@options.config
@click.option(
    "--http-socket",
    "http",
    is_flag=True,
    help="Let systemd open the HTTP socket at http.listen as well.",
)
@click.option("--dry-run", is_flag=True, help="Print the files without writing them.")
@click.option("--now", is_flag=True, help="Enable and start the service.")
def install(user: bool, config: str, http: bool, dry_run: bool, now: bool) -> None:
    """Write the systemd units; run this again after an upgrade.

    Put your own changes into drop-ins (`systemctl edit kaywatch`), which this command
    never overwrites.
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
        click.echo(f"next: systemctl {option}enable --now {' '.join(_units(files))}")


@service.command(epilog=epilog("kaywatch service uninstall"))
@_user
def uninstall(user: bool) -> None:
    """Stop the service and remove its units.

    The data and the configuration are kept.
    """
    for step in installer.uninstall(Manager(user)):
        click.echo(step)


@service.command(
    epilog=epilog(
        "kaywatch service status",
        exits="0 the service runs and is up to date; 1 otherwise.",
    )
)
@_user
@options.json
def status(user: bool, as_json: bool) -> None:
    """Show whether the service is installed, up to date and running."""
    manager = Manager(user)
    files = installer.replan_files(manager)
    if files is None:
        raise click.ClickException(
            f"no {SERVICE} in {manager.folder} that kaywatch wrote; run"
            " `kaywatch service install`"
        )
    report = _report(manager, files)
    output.print_result(report, as_json, _show)
    up_to_date = all(file.installed == file.text for file in files)
    if not up_to_date or report["service"]["ActiveState"] != "active":
        raise click.exceptions.Exit(1)


def _report(manager: Manager, files: list[InstalledFile]) -> dict[str, Any]:
    return {
        "files": {str(file.path): file.state for file in files},
        "service": manager.properties(
            SERVICE,
            *("ActiveState", "SubState", "StatusText", "Result", "MainPID"),
            *("NRestarts", "Type", "UnitFileState", "DropInPaths", "NeedDaemonReload"),
        ),
        "sockets": {
            name: manager.properties(name, "ActiveState")["ActiveState"]
            for name in _units(files)
            if name.endswith(".socket")
        },
        "exposure": manager.exposure(),
    }


def _show(report: dict[str, Any]) -> None:
    for path, state in report["files"].items():
        hint = "; update it with `kaywatch service install`"
        click.echo(f"{path}: {state}{hint if state != 'up to date' else ''}")
    service = report["service"]
    for path in service["DropInPaths"].split():
        click.echo(f"{path}: a drop-in")
    if service["NeedDaemonReload"] == "yes":
        click.echo("files changed; run `systemctl daemon-reload`")
    for name, state in report["sockets"].items():
        click.echo(f"{name}: {state}")
    click.echo(
        f"{SERVICE}: {service['ActiveState']} ({service['SubState']}),"
        f" {service['UnitFileState']}, pid {service['MainPID']},"
        f" {service['NRestarts']} restarts, last result {service['Result']}"
    )
    if service["StatusText"]:
        click.echo(f"  status: {service['StatusText']}")
    click.echo(f"  exposure: {report['exposure']} of 10 (systemd-analyze security)")


def _units(files: list[InstalledFile]) -> list[str]:
    # Drop-ins belong to a unit, and systemctl does not know them by name.
    return [file.path.name for file in files if file.path.suffix != ".conf"]
