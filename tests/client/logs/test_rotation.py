"""The file that processes share: nothing is lost or mixed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.agents import kill

from kaywatch.logs import SharedRotatingFileHandler, setup_production_logging

WRITER = """
import logging, sys
from kaywatch.logs import SharedRotatingFileHandler

path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
logger = logging.getLogger("writer")
logger.setLevel(logging.INFO)
logger.addHandler(SharedRotatingFileHandler(path, max_bytes=2_000, backups=1_000))
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    logger.info("%s %d %s", name, number, "x" * (number % 100))
"""


def record(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelno": logging.INFO})


def texts(folder: Path) -> list[str]:
    """Return the lines of all files, those of a file in order."""
    return [
        line for path in folder.glob("*.log*") for line in path.read_text().splitlines()
    ]


def check(folder: Path, writers: list[str], count: int) -> None:
    """Check that each writer's lines are there, whole and once."""
    counts = Counter(texts(folder))
    assert counts == Counter(
        f"{name} {number} {'x' * (number % 100)}"
        for name in writers
        for number in range(count)
    )


def test_full_file_is_rotated_and_the_oldest_deleted(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    handler = SharedRotatingFileHandler(path, max_bytes=10, backups=2)
    for text in ("first", "second", "third", "fourth"):
        handler.handle(record(text))
    handler.close()

    assert path.read_text() == "fourth\n"
    assert (tmp_path / "a.log.1").read_text() == "third\n"
    assert (tmp_path / "a.log.2").read_text() == "second\n"
    assert len(list(tmp_path.iterdir())) == 3


def test_gap_left_by_a_killed_process_is_filled(tmp_path: Path) -> None:
    (tmp_path / "a.log.1").write_text("newer\n")
    (tmp_path / "a.log.3").write_text("oldest\n")
    handler = SharedRotatingFileHandler(tmp_path / "a.log", max_bytes=10, backups=3)
    for text in ("first line", "second line"):
        handler.handle(record(text))
    handler.close()

    backups = [(tmp_path / f"a.log.{n}").read_text() for n in (1, 2, 3)]
    assert backups == ["first line\n", "newer\n", "oldest\n"]


@pytest.mark.parametrize(("size", "backups"), [(0, 5), (10, 0)])
def test_file_is_not_rotated_without_size_or_backups(
    tmp_path: Path, size: int, backups: int
) -> None:
    handler = SharedRotatingFileHandler(tmp_path / "a.log", size, backups)
    for _ in range(10):
        handler.handle(record("a line"))
    handler.close()

    assert [path.name for path in tmp_path.iterdir()] == ["a.log"]
    assert len(texts(tmp_path)) == 10


def test_moved_or_removed_file_is_reopened(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    handler = SharedRotatingFileHandler(path)
    handler.handle(record("first"))
    path.rename(tmp_path / "moved")
    handler.handle(record("second"))
    path.unlink()
    handler.handle(record("third"))
    handler.close()
    handler.handle(record("after the end"))
    handler.close()

    assert (tmp_path / "moved").read_text() == "first\n"
    assert path.read_text() == "third\nafter the end\n"


def test_line_is_written_even_if_rotation_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.log"
    (tmp_path / "a.log.1").mkdir()
    (tmp_path / "a.log.1" / "full").touch()
    handler = SharedRotatingFileHandler(path, max_bytes=10, backups=1)
    for text in ("first line", "second line"):
        handler.handle(record(text))
    handler.close()

    assert path.read_text() == "first line\nsecond line\n"


def test_lone_surrogates_are_escaped(tmp_path: Path) -> None:
    handler = SharedRotatingFileHandler(tmp_path / "a.log")
    handler.handle(record("half \ud800 é"))
    handler.close()

    assert texts(tmp_path) == ["half \\ud800 é"]


def test_processes_sharing_a_file_lose_no_line(tmp_path: Path) -> None:
    names, count = ["a", "b", "c", "d"], 2_000
    path = str(tmp_path / "shared.log")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, name, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        for writer in writers:  # all at once, from when each is ready
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.communicate("\n", timeout=60)
            assert writer.returncode == 0
    finally:
        for writer in writers:
            kill(writer)

    check(tmp_path, names, count)
    # A file is over its size by a few lines at most, and rotated when full only.
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) > 100
    assert max(sizes) < 20_000


def write(name: str, count: int) -> None:
    for number in range(count):
        text = "x" * (number % 100)
        logging.getLogger("forked").info("%s %d %s", name, number, text)


def test_forked_children_keep_writing(tmp_path: Path) -> None:
    setup_production_logging(
        directory=tmp_path,
        level="INFO",
        max_bytes=10_000,
        backups=500,
        format="%(message)s",
        console=False,
    )
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=write, args=(name, 500)) for name in ("a", "b", "c")
    ]
    for child in children:
        child.start()
    write("parent", 500)
    for child in children:
        child.join(60)
        assert child.exitcode == 0

    check(tmp_path, ["a", "b", "c", "parent"], 500)


def test_every_descriptor_is_closed(tmp_path: Path) -> None:
    def descriptors() -> set[str]:
        return {
            os.readlink(f"/proc/self/fd/{name}")
            for name in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{name}")
        }

    handler = SharedRotatingFileHandler(tmp_path / "a.log", 100, 3)
    for number in range(200):
        handler.handle(record(f"line {number}"))
    assert [d for d in descriptors() if d.startswith(str(tmp_path))] == [
        str(tmp_path / "a.log")
    ]
    handler.close()
    assert not [d for d in descriptors() if d.startswith(str(tmp_path))]
