"""A capture's file: what is written is read, up to where it was cut off."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.samples import calm

from kaywatch_agent.capture.recording import (
    MAGIC,
    MAX_RECORD,
    Header,
    Reader,
    Record,
    Writer,
)
from kaywatch_agent.errors import CaptureError

HEADER = Header(1, 1_700_000_000.0, "0.1.0")
RECORDS = [Record(1_700_000_000.0 + n, n % 3, b"message %d" % n) for n in range(50)] + [
    Record(1_700_000_060.0, 2, None)
]


def write(path: Path, *, end: bool = True, missed: int = 0) -> Path:
    writer = Writer(path, HEADER)
    for record in RECORDS:
        writer.add(record)
    if end:
        writer.end(1_700_000_061.0, missed)
    else:
        writer.flush()
    writer.close()
    return path


def read(path: Path) -> tuple[list[Record], Reader]:
    reader = Reader(path)
    found = list(reader)
    reader.close()
    return found, reader


@pytest.mark.parametrize("name", ["a.kwcap", "a.kwcap.gz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    found, reader = read(write(tmp_path / name, missed=7))
    assert found == RECORDS
    assert reader.header == HEADER
    assert (reader.problem, reader.missed) == ("", 7)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    compressed = (tmp_path / name).read_bytes().startswith(b"\x1f\x8b")
    assert compressed is name.endswith(".gz")


def test_the_name_does_not_matter_for_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz").rename(tmp_path / "plain")
    assert read(path)[0] == RECORDS


@pytest.mark.parametrize("name", ["a.kwcap", "a.kwcap.gz"])
def test_a_capture_without_its_end_is_read_as_far_as_it_goes(
    tmp_path: Path, name: str
) -> None:
    found, reader = read(write(tmp_path / name, end=False))
    assert found == RECORDS
    assert reader.problem == "it was cut off while it was written"


def test_a_capture_can_be_cut_off_anywhere(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole").read_bytes()
    lengths = []
    for size in range(len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        try:
            found, reader = read(path)
        except CaptureError:
            lengths.append(0)
            continue
        assert found == RECORDS[: len(found)]
        assert reader.problem == "it was cut off while it was written"
        lengths.append(len(found))
    assert all(a <= b for a, b in itertools.pairwise(lengths))
    assert lengths[-1] == len(RECORDS)


def test_compressed_ones_can_be_cut_off_too(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gz").read_bytes()
    for size in range(40, len(whole) - 8, 7):  # but for its checksum
        path = tmp_path / "cut.gz"
        path.write_bytes(whole[:size])
        try:
            found, reader = read(path)
        except CaptureError:
            continue
        assert found == RECORDS[: len(found)]
        assert reader.problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no capture of kaywatch: it is empty"),
        (b"SQLite format 3", "no capture of kaywatch: it begins with b'SQLite f'"),
        (MAGIC, "cut off within its first record"),
        (MAGIC + b"\xff\xff\xff\xff", "a record of 4294967295 bytes, at most"),
        (MAGIC + struct.pack(">I", 1) + b"\xc1", "damaged: "),
        (gzip.compress(b"another thing", mtime=0), "no capture of kaywatch: it"),
        (b"\x1f\x8b nothing of gzip's", "damaged: "),
    ],
)
def test_another_file_is_refused_by_name(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(CaptureError) as caught:
        Reader(path)
    assert str(caught.value).startswith(f"{path}: {problem}")


def test_a_later_format_says_so(tmp_path: Path) -> None:
    packed = msgspec.msgpack.encode({"v": 2, "something": "else"})
    path = tmp_path / "later"
    path.write_bytes(MAGIC + struct.pack(">I", len(packed)) + packed)
    with pytest.raises(CaptureError, match="in format 2, and this kaywatch reads 1"):
        Reader(path)


@pytest.mark.parametrize("where", ["missing", "."])
def test_what_is_no_file_is_said(tmp_path: Path, where: str) -> None:
    with pytest.raises(CaptureError, match=r"No such file|Is a directory"):
        Reader(tmp_path / where)


def test_a_file_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("precious")
    with pytest.raises(CaptureError, match="is there already; --force overwrites it"):
        Writer(path, HEADER)
    assert path.read_text() == "precious"
    Writer(path, HEADER, force=True).close()
    assert read(path)[0] == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("name", ["full", "full.gz"])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(CaptureError, match=rf"{name}: No space left on device"):
        Writer(tmp_path / name, HEADER, force=True)


@pytest.mark.parametrize(
    "record",
    [
        [float("nan"), 1, b""],
        [-1.0, 1, b""],
        [1e300, 1, b""],
        ["now", 1, b""],
        [1.0, 1],
        {"ended": "soon"},
        7,
    ],
)
def test_a_record_that_is_none_ends_the_reading(tmp_path: Path, record: object) -> None:
    path = write(tmp_path / "a", end=False)
    packed = msgspec.msgpack.encode(record)
    with path.open("ab") as file:
        file.write(struct.pack(">I", len(packed)) + packed)
    found, reader = read(path)
    assert found == RECORDS
    assert reader.problem.startswith("it is damaged from here on: ")


def test_a_length_that_is_none_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a", end=False)
    with path.open("ab") as file:
        file.write(struct.pack(">I", MAX_RECORD + 1))
    found, reader = read(path)
    assert found == RECORDS
    assert "at most" in reader.problem


@calm
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(lambda rest: MAGIC + rest),
        st.binary(max_size=300).map(gzip.compress),
        st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=30)),
    )
)
def test_no_file_is_more_than_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes | tuple[int, bytes]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"hostile-{os.getpid()}"
    if isinstance(content, tuple):
        path.unlink(missing_ok=True)
        whole = write(path).read_bytes()
        at, junk = content
        content = whole[:at] + junk + whole[at + len(junk) :]
    path.write_bytes(content)
    with contextlib.suppress(CaptureError):
        read(path)
