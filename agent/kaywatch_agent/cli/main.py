"""The command line.

Exit codes: 0 success, 1 failure, 2 usage error, 78 configuration error (sysexits.h).
"""

from __future__ import annotations

import io
import os
import sys
from typing import Final

import click

from kaywatch._version import __version__
from kaywatch.errors import KaywatchError
from kaywatch_agent.cli.commands import CHAPTERS, load_command
from kaywatch_agent.cli.help import ChapterGroup, epilog
from kaywatch_agent.errors import AgentError, ConfigError
from kaywatch_agent.runtime.systemd import is_journal

__all__ = ["kaywatch", "main"]

FAILURE: Final = 1
CONFIGURATION_ERROR: Final = 78
INTERRUPTED: Final = 130


def main() -> None:
    """Run the command line, and exit."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out.encoding.lower() != "utf-8":
        # A name may have characters that the terminal's encoding lacks.
        out.reconfigure(errors="replace")
    try:
        # Commands return nothing; the return value is the code of click's Exit.
        sys.exit(kaywatch(standalone_mode=False))
    except click.Abort:
        sys.exit(INTERRUPTED)
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigError as error:
        for each in (error, *error.others):
            _print_error(each)
        sys.exit(CONFIGURATION_ERROR)
    except (AgentError, KaywatchError, click.ClickException) as error:
        _print_error(error)
        sys.exit(FAILURE)
    except BrokenPipeError:
        # The reader of the pipe, such as `head`, has ended: the flush at exit must not
        # fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(error: Exception) -> None:
    # A prefix sets the priority of a line in the journal; see sd-daemon(3).
    priority = "<3>" if is_journal() else ""
    click.echo(f"{priority}kaywatch: {error}", err=True)


@click.group(
    cls=ChapterGroup,
    chapters=CHAPTERS,
    load=load_command,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=epilog(
        "kaywatch serve                 # run the agent, one on each host",
        "kaywatch run -- python app.py  # run an application with monitoring",
        "kaywatch status                # show health, clients and nodes",
        exits="0 success, 1 failure, 2 usage error, 78 configuration error. `kaywatch"
        " COMMAND --help` has the details of a command.",
    ),
)
@click.version_option(__version__, prog_name="kaywatch")
def kaywatch() -> None:
    """Production monitoring for KayGraph and PocketFlow applications.

    The agent of a host receives events from applications and stores them. Statistics
    are shown in the terminal, in a browser and over HTTP, and problems raise alerts.
    An application sends events if it is started with `kaywatch run` or calls
    kaywatch.instrument().
    """
