"""Measures everything, or what is named, and prints one table.

    python -m tests.bench [--quick] [--json FILE] [NAME ...]

A name is that of a module without its `bench_`: `client`, `agent`, `store`, ...
A module that fails is named in the table and in the JSON; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

from tests.bench.daemons import versions
from tests.bench.modules import NAMES, measured
from tests.bench.report import Row, as_json, describe_machine, failure, show
from tests.bench.rounds import FULL, QUICK, alone, progress


def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="fewer events and seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there too")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(NAMES)}")
    machine = describe_machine()
    machine["versions"] |= versions()
    effort = QUICK if options.quick else FULL
    rows: list[Row] = []
    failed: dict[str, str] = {}
    started = time.monotonic()
    for name in options.names or NAMES:
        progress(f"{name}, after {time.monotonic() - started:.0f} s")
        try:
            # A process each: what one has allocated or started is no load to the next.
            rows += alone(effort.seconds, measured, name, effort)
        except Exception as error:
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
            rows.append(failure(name, failed[name]))
    show(rows, machine)
    if options.json:
        document = {
            "machine": machine,
            "quick": options.quick,
            "seconds": round(time.monotonic() - started),
            "failed": failed,
            "rows": [as_json(row) for row in rows],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
