"""`python -m kaywatch run -- CMD`: the one command that works without the agent."""

from __future__ import annotations

import sys

from kaywatch import launch

__all__ = ["main"]


def main() -> None:
    """Run the command, or print the usage."""
    if sys.argv[1:2] != ["run"]:
        sys.exit("usage: python -m kaywatch run [options] [--] COMMAND [ARGUMENT ...]")
    launch.main(sys.argv[2:], "python -m kaywatch run")


if __name__ == "__main__":
    main()
