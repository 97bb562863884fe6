"""The file format of captures: complete, cut off, damaged and hostile files."""

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

from kaywatch_agent.capture.file import (
    MAGIC,
    MAX_RECORD,
    CaptureHeader,
    CaptureReader,
    CaptureRecord,
    CaptureWriter,
)
from kaywatch_agent.errors import CaptureError

HEADER = CaptureHeader(1, 1_700_000_000.0, "0.1.0")
RECORDS = [
    CaptureRecord(1_700_000_000.0 + n, n % 3, b"message %d" % n) for n in range(50)
] + [CaptureRecord(1_700_000_060.0, 2, None)]


def write(path: Path, *, end: bool = True, missed: int = 0) -> Path:
    writer = CaptureWriter(path, HEADER)
    for record in RECORDS:
        writer.add(record)
    if end:
        writer.finish(1_700_000_061.0, missed)
    else:
        writer.flush()
    writer.close()
    return path


def read(path: Path) -> tuple[list[CaptureRecord], CaptureReader]:
    reader = CaptureReader(path)
    records = list(reader)
    reader.close()
    return records, reader


@pytest.mark.parametrize("name", ["a.kwcap", "a.kwcap.gz"])
def test_a_written_capture_reads_back_the_same(tmp_path: Path, name: str) -> None:
    records, reader = read(write(tmp_path / name, missed=7))
    assert records == RECORDS
    assert reader.header == HEADER
    assert (reader.problem, reader.missed) == ("", 7)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    compressed = (tmp_path / name).read_bytes().startswith(b"\x1f\x8b")
    assert compressed is name.endswith(".gz")


def test_a_reader_recognises_compression_whatever_the_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz").rename(tmp_path / "plain")
    assert read(path)[0] == RECORDS


@pytest.mark.parametrize("name", ["a.kwcap", "a.kwcap.gz"])
def test_a_capture_without_trailer_is_read_to_its_last_record(
    tmp_path: Path, name: str
) -> None:
    records, reader = read(write(tmp_path / name, end=False))
    assert records == RECORDS
    assert reader.problem == "the file was cut off while it was written"


def test_a_capture_cut_off_anywhere_yields_its_whole_records(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole").read_bytes()
    lengths = []
    for size in range(len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        try:
            records, reader = read(path)
        except CaptureError:
            lengths.append(0)
            continue
        assert records == RECORDS[: len(records)]
        assert reader.problem == "the file was cut off while it was written"
        lengths.append(len(records))
    assert all(a <= b for a, b in itertools.pairwise(lengths))
    assert lengths[-1] == len(RECORDS)


def test_a_compressed_capture_cut_off_anywhere_yields_its_whole_records(
    tmp_path: Path,
) -> None:
    whole = write(tmp_path / "whole.gz").read_bytes()
    for size in range(40, len(whole) - 8, 7):  # except for its checksum
        path = tmp_path / "cut.gz"
        path.write_bytes(whole[:size])
        try:
            records, reader = read(path)
        except CaptureError:
            continue
        assert records == RECORDS[: len(records)]
        assert reader.problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a capture of kaywatch: it is empty"),
        (b"SQLite format 3", "not a capture of kaywatch: it starts with b'SQLite f'"),
        (MAGIC, "the file was cut off within its first record"),
        (
            MAGIC + b"\xff\xff\xff\xff",
            "the file is damaged: a record has 4294967295 bytes; at most",
        ),
        (MAGIC + struct.pack(">I", 1) + b"\xc1", "the file is damaged: "),
        (gzip.compress(b"another thing", mtime=0), "not a capture of kaywatch: it"),
        (b"\x1f\x8b nothing of gzip's", "the file is damaged: "),
    ],
)
def test_a_file_that_is_no_capture_is_rejected_with_the_reason(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(CaptureError) as caught:
        CaptureReader(path)
    assert str(caught.value).startswith(f"{path}: {problem}")


def test_a_later_format_is_rejected_by_version(tmp_path: Path) -> None:
    packed = msgspec.msgpack.encode({"v": 2, "something": "else"})
    path = tmp_path / "later"
    path.write_bytes(MAGIC + struct.pack(">I", len(packed)) + packed)
    with pytest.raises(
        CaptureError, match="unknown format 2; this version of kaywatch reads 1"
    ):
        CaptureReader(path)


@pytest.mark.parametrize("name", ["missing", "."])
def test_an_unreadable_path_is_reported(tmp_path: Path, name: str) -> None:
    with pytest.raises(CaptureError, match=r"No such file|Is a directory"):
        CaptureReader(tmp_path / name)


def test_an_existing_file_is_only_overwritten_with_force(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("precious")
    with pytest.raises(CaptureError, match="already exists; overwrite it with --force"):
        CaptureWriter(path, HEADER)
    assert path.read_text() == "precious"
    CaptureWriter(path, HEADER, force=True).close()
    assert read(path)[0] == []


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="no /dev/full, which only Linux has"
)
@pytest.mark.parametrize("name", ["full", "full.gz"])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(CaptureError, match=rf"{name}: No space left on device"):
        CaptureWriter(tmp_path / name, HEADER, force=True)


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
def test_an_invalid_record_ends_the_reading(tmp_path: Path, record: object) -> None:
    path = write(tmp_path / "a", end=False)
    packed = msgspec.msgpack.encode(record)
    with path.open("ab") as file:
        file.write(struct.pack(">I", len(packed)) + packed)
    records, reader = read(path)
    assert records == RECORDS
    assert reader.problem.startswith("the file is damaged from here on: ")


def test_an_excessive_length_allocates_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a", end=False)
    with path.open("ab") as file:
        file.write(struct.pack(">I", MAX_RECORD + 1))
    records, reader = read(path)
    assert records == RECORDS
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
def test_hostile_files_raise_nothing_but_capture_errors(
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
