"""The file of a UNIX socket: created with permissions, removed only if still ours."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from collections.abc import Iterator
from typing import Final

from kaywatch_agent.errors import InvalidValue, StartError

__all__ = ["MAX_ID", "MAX_PATH", "SocketFile", "check_mode", "group_number"]

# sockaddr_un.sun_path holds 108 bytes with its final NUL (unix(7)).
MAX_PATH: Final = 107
MAX_ID: Final = 2**32 - 2  # 2**32 - 1, which is -1, means "unchanged" to chown(2)


class SocketFile:
    """The file of one listening socket."""

    def __init__(self, section: str, path: str) -> None:
        """Prepare a file; create nothing yet.

        Args:
            section: of the configuration, for errors.
            path: absolute, or relative to the working directory.
        """
        self.path = path
        self._section = section
        self._inode: tuple[int, int] | None = None

    def bind(self, mode: str, group: str = "") -> socket.socket:
        """Return a socket bound to the path, which does not listen yet.

        Args:
            mode: permissions in octal digits; they apply from the creation on.
            group: its group; empty for that of this process.

        Raises:
            StartError: the path cannot be used, or another process listens there.
        """
        self._prepare()
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _umask(0o777 & ~int(mode, 8)):
                bound.bind(self.path)
            if group:
                # Never follow a link that replaced the socket meanwhile.
                number = group_number("group", group)
                os.chown(self.path, -1, number, follow_symlinks=False)
            self._inode = _inode(os.lstat(self.path))
        except (OSError, ValueError) as error:
            bound.close()
            raise StartError(
                f"{self._section}: cannot listen on {self.path}: {error}"
            ) from None
        return bound

    def remove(self) -> None:
        """Remove the file, unless another one replaced it. Idempotent."""
        with contextlib.suppress(OSError):
            if self._inode and _inode(os.lstat(self.path)) == self._inode:
                os.unlink(self.path)
        self._inode = None

    def _prepare(self) -> None:
        """Create the folder, and remove a socket that no process listens on."""
        path = self.path
        size = len(os.fsencode(path))
        if size > MAX_PATH:
            raise self._refusal(
                f"{path} has {size} bytes; a socket's path has at most {MAX_PATH}:"
                " choose a shorter path"
            )
        try:
            os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refusal(f"cannot use {path}: {error}; choose another") from None
        if stat.S_ISLNK(mode):
            raise self._refusal(
                f"{path} is a symbolic link, which is not followed:"
                " remove it, or specify the socket itself"
            )
        if not stat.S_ISSOCK(mode):
            raise self._refusal(f"{path} exists and is not a socket")
        self._replace()

    def _replace(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self.path)
            except OSError:
                os.unlink(self.path)
                return
        raise self._refusal(
            f"another agent listens on {self.path}; stop it, or choose another path"
        )

    def _refusal(self, text: str) -> StartError:
        return StartError(f"{self._section}: {text}")


def check_mode(mode: str) -> None:
    """Validate permissions.

    Raises:
        InvalidValue: the mode is not 0 to 777 in octal digits.
    """
    try:
        wrong = not 0 <= int(mode, 8) <= 0o777
    except ValueError:
        wrong = True
    if wrong:
        raise InvalidValue("mode", f'"{mode}": expected octal digits such as "0660"')


def group_number(key: str, name: str) -> int:
    """Return the id of a group, given by name or number.

    Raises:
        ValueError: no such group exists; names the key.
    """
    if name.isascii() and name.isdigit() and int(name) <= MAX_ID:
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise ValueError(
            f'{key}: unknown group "{name}": expected a name or number of a group'
        ) from None


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
