"""The file of a capture: written as it goes on, readable up to where it was cut off.

Eight bytes that no text has, then records, each with its length in four bytes,
big-endian. The first is a map: what the capture is. Then arrays `[at, connection,
message]`; without a message, the connection ended. A last map says that all is there;
a file without it was cut off. A name that ends in `.gz` is compressed as a whole.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec

from kaywatch.wire import MAX_FRAME
from kaywatch_agent.errors import CaptureError
from kaywatch_agent.model.bounds import MAX_TIME

__all__ = ["FORMAT", "MAGIC", "Header", "Reader", "Record", "Writer"]

# As PNG's: a transfer that changes line ends, or bit 7, breaks it at once.
MAGIC: Final = b"\x89kwcap\r\n"
FORMAT: Final = 1
MAX_RECORD: Final = MAX_FRAME + 64

# Columns of floats are hard to compress: higher levels cost three times as much for
# 5 % less.
GZIP_LEVEL: Final = 1
GZIP_FORMAT: Final = 31  # of zlib: deflate with gzip's header and trailer
_GZIP: Final = b"\x1f\x8b"

WRITE_BYTES: Final = 256 * 1024
READ_BYTES: Final = 256 * 1024
_LENGTH: Final = struct.Struct(">I")


class Header(msgspec.Struct, omit_defaults=True):
    """What a capture is; nothing of it tells the host.

    Attributes:
        v: the file's format.
        started: Unix seconds.
        agent: the version of the agent.
        redacted: whether texts that may be payload were replaced.
    """

    v: int
    started: float
    agent: str = ""
    redacted: bool = False


class _End(msgspec.Struct):
    """The last record."""

    ended: float
    missed: int = 0


class Record(NamedTuple):
    """One message as the agent got it, or the end of a connection."""

    at: float
    connection: int
    message: bytes | None


class Writer:
    """Writes a capture; `close` it in the end, and `end` it before if it is whole."""

    def __init__(self, path: Path, header: Header, *, force: bool = False) -> None:
        """Begin the file.

        Raises:
            CaptureError: it is there already, or can't be written.
        """
        self.path = path
        self.size = 0  # bytes, those included that wait to be written
        self._encode = msgspec.msgpack.Encoder().encode
        self._compress = None
        if path.name.endswith(".gz"):
            self._compress = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_FORMAT)
        how = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
        try:
            # For its owner alone: what nodes say of errors is nobody else's.
            self._fd = os.open(path, how, 0o600)
        except FileExistsError:
            problem = "is there already; --force overwrites it"
            raise CaptureError(f"{path} {problem}") from None
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror}") from None
        self._waiting = bytearray()
        self._put(MAGIC)
        self._put(_framed(self._encode(header)))
        try:
            self.flush()
        except CaptureError:
            self.close()
            raise

    def add(self, record: Record) -> None:
        """Append a record.

        Raises:
            CaptureError: it can't be written; what was before is readable.
        """
        self._put(_framed(self._encode(record)))
        if len(self._waiting) >= WRITE_BYTES:
            self._write()

    def flush(self) -> None:
        """Let what was added survive the end of this process.

        Raises:
            CaptureError: it can't be written.
        """
        if self._compress is not None:
            self._grow(self._compress.flush(zlib.Z_SYNC_FLUSH))
        self._write()

    def end(self, at: float, missed: int) -> None:
        """Say that nothing more comes.

        Raises:
            CaptureError: that can't be written.
        """
        self._put(_framed(self._encode(_End(at, missed))))
        if self._compress is not None:
            self._grow(self._compress.flush(zlib.Z_FINISH))
            self._compress = None
        self._write()

    def close(self) -> None:
        """Release the file, with what was added if possible. Idempotent."""
        if self._fd >= 0:
            with contextlib.suppress(CaptureError):
                self.flush()
            os.close(self._fd)
            self._fd = -1

    def _put(self, data: bytes) -> None:
        self._grow(data if self._compress is None else self._compress.compress(data))

    def _grow(self, data: bytes) -> None:
        self._waiting += data
        self.size += len(data)

    def _write(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting)]
        except OSError as error:
            raise CaptureError(f"{self.path}: {error.strerror}") from None


class Reader:
    """Reads a capture from its start to its end, or to where it was cut off.

    Attributes:
        header: what the capture is.
        problem: why it was not read to its end, once that is known.
        missed: messages that the capture itself had left out.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            CaptureError: it is no capture, or can't be read.
        """
        self.path = path
        self.problem = ""
        self.missed = 0
        self._records = msgspec.msgpack.Decoder(Record | _End)
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror}") from None
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self._stream = self._plain()
            self.header = self._head()
        except OSError as error:
            self._file.close()
            problem = error.strerror or f"damaged: {error}"
            raise CaptureError(f"{path}: {problem}") from None
        except zlib.error as error:
            self._file.close()
            raise CaptureError(f"{path}: damaged: {error}") from None
        except (CaptureError, EOFError, ValueError) as error:
            self._file.close()
            problem = str(error) or "cut off within its first record"
            raise CaptureError(f"{path}: {problem}") from None

    @property
    def position(self) -> int:
        """Bytes of the file that were read."""
        return self._file.tell()

    def __iter__(self) -> Iterator[Record]:
        """Yield the records, as far as they are sound; then see `problem`."""
        while True:
            try:
                found = self._record()
            except EOFError:
                self.problem = "it was cut off while it was written"
                return
            except (OSError, zlib.error, ValueError) as error:
                self.problem = f"it is damaged from here on: {error}"
                return
            if isinstance(found, _End):
                self.missed = found.missed
                return
            yield found

    def close(self) -> None:
        """Release the file. Idempotent."""
        self._file.close()

    def _plain(self) -> IO[bytes] | _Unzipped:
        """Return the file as it was before it was compressed."""
        start = self._file.read(len(_GZIP))
        self._file.seek(0)
        if start != _GZIP:
            return self._file
        return _Unzipped(self._file)

    def _head(self) -> Header:
        start = self._stream.read(len(MAGIC))
        if start != MAGIC:
            what = f"it begins with {start!r}" if start else "it is empty"
            raise CaptureError(f"no capture of kaywatch: {what}")
        encoded = self._framed()
        try:
            version = msgspec.msgpack.decode(encoded, type=_Version).v
            if version != FORMAT:
                raise CaptureError(
                    f"a capture in format {version}, and this kaywatch reads {FORMAT}"
                )
            return msgspec.msgpack.decode(encoded, type=Header)
        except msgspec.MsgspecError as error:
            raise CaptureError(f"damaged: {error}") from None

    def _record(self) -> Record | _End:
        found: Record | _End = self._records.decode(self._framed())
        if isinstance(found, Record):
            if not 0 <= found.at <= MAX_TIME:
                raise ValueError(f"a record at {found.at}, expected Unix seconds")
            if found.message is not None and len(found.message) > MAX_FRAME:
                raise ValueError(f"a message of {len(found.message)} bytes")
        return found

    def _framed(self) -> bytes:
        (size,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if size > MAX_RECORD:
            raise ValueError(f"a record of {size} bytes, at most {MAX_RECORD} are")
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise EOFError
        return data


class _Unzipped:
    """A compressed file, read as far as it goes.

    The reader of the standard library raises at the end of a file that was cut off, and
    keeps to itself what it had read before.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unzip = zlib.decompressobj(GZIP_FORMAT)
        self._ready = bytearray()

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end."""
        unzip = self._unzip
        while len(self._ready) < size and not unzip.eof:
            data = unzip.unconsumed_tail or self._file.read(READ_BYTES)
            if not data:
                break
            # Bounded: a little of it can be a lot.
            self._ready += unzip.decompress(data, READ_BYTES)
        found = bytes(self._ready[:size])
        del self._ready[:size]
        return found


class _Version(msgspec.Struct):
    v: int


def _framed(packed: bytes) -> bytes:
    return _LENGTH.pack(len(packed)) + packed
