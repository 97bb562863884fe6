"""The `kaywatch` command's entry: tells what is missing before anything else fails."""

from __future__ import annotations

import importlib
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    try:
        cli = importlib.import_module("kaywatch_agent.cli")
    except ModuleNotFoundError as error:
        sys.exit(
            f"kaywatch: the agent needs {error.name}, which is not installed here;"
            " install it with: pip install 'kaywatch[agent]'"
        )
    cli.main()


if __name__ == "__main__":
    main()
