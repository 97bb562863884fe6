"""The entry point of `kaywatch`: reports missing packages before an import fails."""

from __future__ import annotations

import importlib
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or report how to install missing dependencies."""
    if sys.argv[1:2] == ["run"]:
        # Before the agent's imports, because `run` works without the agent's packages.
        from kaywatch import launch

        launch.main(sys.argv[2:])
    if sys.argv[1:] == ["--version"]:
        # As click prints it, which a client alone does not need.
        from kaywatch._version import __version__

        print(f"kaywatch, version {__version__}")
        sys.exit()
    try:
        cli = importlib.import_module("kaywatch_agent.cli.main")
    except ModuleNotFoundError as error:
        sys.exit(
            f"kaywatch: the agent needs {error.name}, which is not installed here;"
            " install it with: pip install 'kaywatch[agent]'"
            " (`kaywatch run -- COMMAND` works without)"
        )
    cli.main()


if __name__ == "__main__":
    main()
