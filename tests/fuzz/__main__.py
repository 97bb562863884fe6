"""Fuzzes with the coverage as a guide: python -m tests.fuzz TARGET [SECONDS].

Needs atheris: `make fuzz`. What it finds is left in the folder `.fuzz`, as are the
inputs that led somewhere new, from which the next run goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kaywatch", "kaywatch_agent"]):
    from tests.fuzz.seeds import seeds
    from tests.fuzz.targets import TARGETS

FOLDER = Path(".fuzz")


def main() -> None:
    target = sys.argv[1]
    seconds = sys.argv[2] if len(sys.argv) > 2 else "60"
    corpus = FOLDER / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=10"]
    options += [f"-artifact_prefix={FOLDER}/{target}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
