"""Reads and writes the file format of captures, which is readable after any crash.

The file starts with eight magic bytes. Records follow, each preceded by its length (4
bytes, big-endian). The first record is a map, the `CaptureHeader`. Then come arrays
`[at, connection, message]`; a nil message means that the connection ended. The last
record is a map, the trailer; a file without it was cut off. A file whose name ends in
`.gz` is compressed as a whole.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec

from kaywatch.wire import MAX_FRAME, frame
from kaywatch_agent.errors import CaptureError
from kaywatch_agent.model.bounds import MAX_TIME

__all__ = [
    "FORMAT", "MAGIC", "CaptureHeader", "CaptureReader", "CaptureRecord",
    "CaptureWriter",
]  # fmt: skip

# As in PNG: a transfer that converts line ends or strips bit 7 damages these bytes.
MAGIC: Final = b"\x89kwcap\r\n"
FORMAT: Final = 1
# A record holds one message, its time and its connection.
MAX_RECORD: Final = MAX_FRAME + 64

# Columns of floats compress badly: higher levels take three times as long and save 5 %.
GZIP_LEVEL: Final = 1
GZIP_WINDOW: Final = 31  # zlib's wbits for deflate with gzip's header and trailer
_GZIP: Final = b"\x1f\x8b"

# Records are small and frequent: without a buffer, each would be a system call.
BUFFER_BYTES: Final = 256 * 1024
_LENGTH: Final = struct.Struct(">I")
_encode: Final = msgspec.msgpack.Encoder().encode


class CaptureHeader(msgspec.Struct, omit_defaults=True):
    """Describes a capture, without naming the host.

    Attributes:
        v: the version of the file format.
        started: Unix seconds.
        agent: the version of the agent.
        redacted: whether texts that may contain user data were replaced.
    """

    v: int
    started: float = 0.0
    agent: str = ""
    redacted: bool = False


class _Trailer(msgspec.Struct):
    ended: float
    missed: int = 0


class CaptureRecord(NamedTuple):
    """A message as the agent received it, or None for the end of its connection."""

    at: float
    connection: int
    message: bytes | None


class CaptureWriter:
    """Writes a capture. Call `finish` if it is complete, and `close` in any case."""

    def __init__(
        self, path: Path, header: CaptureHeader, *, force: bool = False
    ) -> None:
        """Create the file.

        Raises:
            CaptureError: the file exists, or cannot be written.
        """
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
        with self._errors():
            # Readable for its owner only, because error messages may contain user data.
            self._file = os.fdopen(os.open(path, flags, 0o600), "wb", BUFFER_BYTES)
        self._stream: IO[bytes] | gzip.GzipFile = self._file
        if path.name.endswith(".gz"):
            # No name is passed, because gzip would store it in the file, which may be
            # sent to others.
            self._stream = gzip.GzipFile("", "wb", GZIP_LEVEL, self._file)
        try:
            with self._errors():
                self._stream.write(MAGIC + frame(_encode(header)))
            # Written at once, so that an error is reported before the capture begins.
            self.flush()
        except CaptureError:
            self.close()
            raise

    @property
    def size(self) -> int:
        """The bytes of the file, including those still buffered."""
        with self._errors():
            return self._file.tell()

    def add(self, record: CaptureRecord) -> None:
        """Append a record.

        Raises:
            CaptureError: the file cannot be written; earlier records stay readable.
        """
        with self._errors():
            self._stream.write(frame(_encode(record)))

    def flush(self) -> None:
        """Hand everything to the operating system, so that it survives a `kill -9`.

        Raises:
            CaptureError: the file cannot be written.
        """
        with self._errors():
            self._stream.flush()

    def finish(self, at: float, missed: int) -> None:
        """Mark the capture as complete.

        Raises:
            CaptureError: the file cannot be written.
        """
        with self._errors():
            self._stream.write(frame(_encode(_Trailer(at, missed))))
            if self._stream is not self._file:
                self._stream.close()  # writes gzip's trailer, and leaves the file open
            self._file.flush()

    def close(self) -> None:
        """Write buffered data if possible, and close the file. Idempotent."""
        for stream in (self._stream, self._file):
            with contextlib.suppress(OSError):
                stream.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            message = f"{self.path} already exists; overwrite it with --force"
            raise CaptureError(message) from None
        except OSError as error:
            raise CaptureError(f"{self.path}: {error.strerror or error}") from None


class CaptureReader:
    """Reads a capture up to its end, or up to the point where it is cut off or damaged.

    Attributes:
        path: the file.
        header: the capture's description.
        size: the bytes of the file.
        problem: why reading stopped early, known after the iteration; empty if reading
            reached the end.
        missed: messages that the capture did not record, known after the iteration.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            CaptureError: it is not a capture, or cannot be read.
        """
        self.path = path
        self.problem = ""
        self.missed = 0
        # An array and a map: the types tell records and the trailer apart.
        self._decoder = msgspec.msgpack.Decoder(CaptureRecord | _Trailer)
        try:
            self._file = path.open("rb")
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror}") from None
        self._stream: IO[bytes] | _Decompressor = self._file
        try:
            # The content decides, because the file may have been renamed.
            if self._file.peek(2).startswith(_GZIP):
                self._stream = _Decompressor(self._file)
            self.header = self._read_header()
        except EOFError:
            problem = "the file was cut off within its first record"
        except CaptureError as error:
            problem = str(error)
        except (OSError, zlib.error, ValueError) as error:
            problem = f"the file is damaged: {error}"
        else:
            return
        self.close()
        raise CaptureError(f"{path}: {problem}")

    @property
    def position(self) -> int:
        """The bytes of the file that have been read."""
        return self._file.tell()

    def __iter__(self) -> Iterator[CaptureRecord]:
        """Yield the valid records; then `problem` and `missed` are known."""
        try:
            while isinstance(record := self._read_record(), CaptureRecord):
                yield record
            self.missed = record.missed
        except EOFError:
            self.problem = "the file was cut off while it was written"
        except (OSError, zlib.error, ValueError) as error:
            self.problem = f"the file is damaged from here on: {error}"

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def _read_header(self) -> CaptureHeader:
        start = self._stream.read(len(MAGIC))
        if start != MAGIC:
            reason = f"it starts with {start!r}" if start else "it is empty"
            raise CaptureError(f"not a capture of kaywatch: {reason}")
        header = msgspec.msgpack.decode(self._read_frame(), type=CaptureHeader)
        if header.v != FORMAT:
            raise CaptureError(
                f"unknown format {header.v}; this version of kaywatch reads {FORMAT}"
            )
        return header

    def _read_record(self) -> CaptureRecord | _Trailer:
        record: CaptureRecord | _Trailer = self._decoder.decode(self._read_frame())
        if isinstance(record, CaptureRecord):
            # A replay waits until this time, so damage could make it wait for years.
            if not 0 <= record.at <= MAX_TIME:
                raise ValueError(f"a record's time is {record.at}: not Unix seconds")
            if record.message is not None and len(record.message) > MAX_FRAME:
                raise ValueError(f"a message has {len(record.message)} bytes")
        return record

    def _read_frame(self) -> bytes:
        (size,) = _LENGTH.unpack(self._read_exactly(_LENGTH.size))
        # Checked before reading, because a damaged length could be 4 GB.
        if size > MAX_RECORD:
            raise ValueError(
                f"a record has {size} bytes; at most {MAX_RECORD} are allowed"
            )
        return self._read_exactly(size)

    def _read_exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise EOFError
        return data


class _Decompressor:
    """A gzip file that can be read even if it was cut off.

    `gzip.GzipFile` raises at the end of a truncated file and discards the bytes that
    it has read ahead.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._zlib = zlib.decompressobj(GZIP_WINDOW)
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end of the file."""
        while len(self._buffer) < size and not self._zlib.eof:
            data = self._zlib.unconsumed_tail or self._file.read(BUFFER_BYTES)
            if not data:
                break
            # Bounded, as a few compressed bytes can expand to gigabytes.
            self._buffer += self._zlib.decompress(data, BUFFER_BYTES)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
