"""Run all benchmarks, or the named ones, and print one table.

    python -m tests.bench [--quick] [--json FILE] [NAME ...]

A name is the name of a module without `bench_`: `client`, `agent`, `store`, ...
If a module fails, the table and the JSON show its error, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path

from tests.bench.daemons import versions
from tests.bench.modules import NAMES, measure_module
from tests.bench.report import Row, as_json, describe_machine, failed_row, print_table
from tests.bench.rounds import FULL, QUICK, report_progress, run_in_process


def main() -> int:
    """Run the benchmarks; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="fewer events and seconds")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the results to FILE"
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(NAMES)}")
    # Some images set it; without bytecode, each of our processes would compile its
    # imports, and those of the peers would not.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    machine = describe_machine()
    machine["versions"] |= versions()
    effort = QUICK if options.quick else FULL
    rows: list[Row] = []
    failed: dict[str, str] = {}
    started = time.monotonic()
    for name in options.names or NAMES:
        report_progress(f"{name}, after {time.monotonic() - started:.0f} s")
        try:
            # One process per module: its memory and threads do not affect the next.
            rows += run_in_process(effort.seconds, measure_module, name, effort)
        except Exception as error:
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
            rows.append(failed_row(name, failed[name]))
    print_table(rows, machine)
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
