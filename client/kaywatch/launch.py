"""`kaywatch run -- CMD`: replaces this process by an instrumented application.

Strategy: the folder `_run`, with a `sitecustomize`, becomes the first of PYTHONPATH,
and options become environment variables; then the command replaces this process. So it
keeps its pid, parent, descriptors and exit code, and every Python process that it
starts is instrumented as well, unless Python ignores PYTHONPATH.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from kaywatch._send.connecting import check_endpoint
from kaywatch._settings import parse_tags, settings_from_environment
from kaywatch.errors import ConfigurationError

__all__ = ["FOLDER", "main"]

FOLDER: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_run")

# The exit codes of shells.
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127

PROBE_TIMEOUT: Final = 10.0  # seconds
_PROBE: Final = (
    "import sys, importlib.util as u; sys.exit(u.find_spec('kaywatch') is None)"
)
_PYTHON: Final = re.compile(r"(python|pypy)[\d.]*t?")
_SHEBANG_BYTES: Final = 256  # the part that Linux reads


_ABOUT: Final = """\
Run an application with KayGraph and PocketFlow instrumented, without changing
its code. This covers COMMAND and every Python process that it starts."""

_MORE: Final = """\
KAYGRAPH_COLLECT_METRICS=false runs the command without monitoring. Python's
options -I, -E and -S prevent instrumentation. Events are buffered until an
agent starts.

Examples:
  kaywatch run -- python app.py
  kaywatch run --service shop --tag zone=b -- gunicorn shop:app

Exit codes: the exit code of COMMAND; 2 for a usage error, 126 if COMMAND cannot
be executed, 127 if it is not found."""


def main(arguments: Sequence[str], program: str = "kaywatch run") -> NoReturn:
    """Replace this process by the command that the arguments name.

    Args:
        arguments: the words after `run` on the command line.
        program: the name of this program in messages.

    Raises:
        SystemExit: with 2 for a usage error, 127 if the command is not found, 126 if it
            cannot be executed.
    """
    parser = _parser(program)
    options = parser.parse_args(arguments)
    command: list[str] = options.command
    if command[:1] == ["--"]:
        del command[0]
    if not command:
        parser.error("expected a command, as in: -- python app.py")
    environment = _inherited_environment()
    environment.update(_settings(options, environment))
    if settings_from_environment().enabled:
        _prepend_folder(environment)
        _warn_if_not_installed(command[0], environment, program)
    _exec_command(command, environment, program)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [options] [--] COMMAND [ARGUMENT ...]",
        description=_ABOUT,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--service",
        metavar="NAME",
        help="The name to report under.  [default: the program's name]",
    )
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        type=_endpoint,
        help="Where the agent listens, such as unix:///run/kaywatch/ingest.sock.",
    )
    parser.add_argument(
        "--tag",
        metavar="KEY=VALUE",
        type=_tag,
        action="append",
        default=[],
        help="A tag of these processes, such as zone=b; repeatable.",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _endpoint(text: str) -> str:
    try:
        check_endpoint(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _tag(text: str) -> tuple[str, str]:
    tags, invalid = parse_tags(text)
    if invalid or len(tags) != 1:
        raise argparse.ArgumentTypeError(
            f"expected KEY=VALUE without a comma, got {text!r}"
        )
    return next(iter(tags.items()))


def _inherited_environment() -> dict[str, str]:
    """Return the environment without an LC_CTYPE that Python has set.

    In the C locale, Python sets one for itself and its children (PEP 538), and a shell
    script would sort and match differently than without `kaywatch run`.
    """
    environment = dict(os.environ)
    if "LC_CTYPE" in environment:
        try:
            with open("/proc/self/environ", "rb") as original:
                if b"\0LC_CTYPE=" not in b"\0" + original.read():
                    del environment["LC_CTYPE"]
        except OSError:
            pass  # without /proc, the variable stays
    return environment


def _settings(
    options: argparse.Namespace, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment variables for the options."""
    variables = {
        "KAYWATCH_SERVICE": options.service,
        "KAYWATCH_ENDPOINT": options.endpoint,
    }
    if options.tag:
        tags, _ = parse_tags(environment.get("KAYWATCH_TAGS", ""))
        tags.update(options.tag)
        variables["KAYWATCH_TAGS"] = ",".join(f"{key}={tags[key]}" for key in tags)
    return {name: value for name, value in variables.items() if value}


def _prepend_folder(environment: dict[str, str]) -> None:
    """Make `_run` the first folder of PYTHONPATH, if it isn't yet."""
    path = environment.get("PYTHONPATH", "")
    folders = path.split(os.pathsep) if path else []
    if folders[:1] != [FOLDER]:
        # Empty entries are kept: they are the current folder.
        environment["PYTHONPATH"] = os.pathsep.join([FOLDER, *folders])


# -- whether kaywatch is installed -----------------------------------------------------


def _warn_if_not_installed(
    command: str, environment: Mapping[str, str], program: str
) -> None:
    """Warn if the command runs a Python of an environment without kaywatch."""
    path = shutil.which(command, path=environment.get("PATH"))
    python = _interpreter(path) if path is not None else None
    if python is None or _is_same_environment(python, sys.executable):
        return
    if not _has_kaywatch(python, environment):
        print(
            f"{program}: {python} has no kaywatch, so the command is not instrumented;"
            f" install kaywatch there, or run it with {sys.executable}",
            file=sys.stderr,
            flush=True,
        )


def _interpreter(path: str) -> str | None:
    """Return the Python that will run a file, None if it is unknown."""
    if _PYTHON.fullmatch(os.path.basename(path)):
        return path
    try:
        with open(path, "rb") as file:
            first = file.readline(_SHEBANG_BYTES)
    except OSError:
        return None
    if not first.startswith(b"#!"):
        return None
    words = os.fsdecode(first[2:]).split()
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if word[:1] != "-" and "=" not in word]
    if not words or not _PYTHON.fullmatch(os.path.basename(words[0])):
        return None
    return shutil.which(words[0])


def _is_same_environment(one: str, other: str) -> bool:
    """Return whether two interpreters are the same, as `python` and `python3` are."""
    folders = {os.path.dirname(os.path.abspath(path)) for path in (one, other)}
    return len(folders) == 1 and os.path.realpath(one) == os.path.realpath(other)


def _has_kaywatch(python: str, environment: Mapping[str, str]) -> bool:
    """Return whether an interpreter finds kaywatch; True if it cannot be run."""
    try:
        probe = subprocess.run(  # noqa: S603 - the user's own command
            [python, "-c", _PROBE],
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError):
        return True
    return probe.returncode == 0


# -- becoming the command ------------------------------------------------------------


def _exec_command(
    command: list[str], environment: Mapping[str, str], program: str
) -> NoReturn:
    # Python ignores these signals, and the command would inherit that: `kaywatch run --
    # yes | head` would not end. `subprocess` resets them, too.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        _execute(command, environment)
    except OSError as error:
        path = shutil.which(command[0], os.F_OK, environment.get("PATH"))
        missing = isinstance(error, FileNotFoundError) and path is None
        problem = "command not found" if missing else f"cannot be executed: {error}"
        print(f"{program}: {command[0]}: {problem}", file=sys.stderr, flush=True)
        sys.exit(NOT_FOUND if missing else NOT_EXECUTABLE)


def _execute(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - no shell, indeed
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # Like execvp(3) and every shell, let the shell run a script without `#!`.
    path = shutil.which(command[0], path=environment.get("PATH")) or command[0]
    os.execve("/bin/sh", ["sh", path, *command[1:]], environment)  # noqa: S606
