"""A UNIX socket's file: made with its permissions, and removed only if it is ours."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from collections.abc import Iterator
from typing import Final

from kaywatch_agent.errors import StartError

__all__ = ["MAX_ID", "MAX_PATH", "SocketFile", "check_mode", "group_number"]

# sockaddr_un.sun_path holds 108 bytes with its final NUL (unix(7)).
MAX_PATH: Final = 107
MAX_ID: Final = 2**32 - 2  # -1 means nobody in particular


class SocketFile:
    """The file that clients connect to."""

    def __init__(self, section: str, path: str) -> None:
        """Touch nothing yet.

        Args:
            section: of the configuration, for complaints.
            path: absolute, or relative to the working directory.
        """
        self.path = path
        self._section = section
        self._inode: tuple[int, int] | None = None

    def bind(self, mode: str, group: str = "") -> socket.socket:
        """Return a socket that is bound to the path, and doesn't listen yet.

        Args:
            mode: its permissions, in octal digits, from the first moment on.
            group: that it belongs to; empty for this process's.

        Raises:
            StartError: the path can't be used, or somebody else listens there.
        """
        self._prepare()
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _umask(0o777 & ~int(mode, 8)):
                made.bind(self.path)
            if group:
                # Never through a link that somebody put there meanwhile.
                number = group_number("group", group)
                os.chown(self.path, -1, number, follow_symlinks=False)
            self._inode = _inode(os.lstat(self.path))
        except (OSError, ValueError) as error:
            made.close()
            raise StartError(
                f"{self._section}: can't listen on {self.path}: {error}"
            ) from None
        return made

    def remove(self) -> None:
        """Remove the file, unless another has taken its place. Idempotent."""
        with contextlib.suppress(OSError):
            if self._inode and _inode(os.lstat(self.path)) == self._inode:
                os.unlink(self.path)
        self._inode = None

    def _prepare(self) -> None:
        """Make the folder, and remove a socket that nobody listens on any more."""
        path = self.path
        size = len(os.fsencode(path))
        if size > MAX_PATH:
            raise self._refusal(
                f"{path} has {size} bytes, and a socket's path at most {MAX_PATH}:"
                " choose a shorter one"
            )
        try:
            os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refusal(f"can't use {path}: {error}; choose another") from None
        if stat.S_ISLNK(mode):
            raise self._refusal(
                f"{path} is a symbolic link, which is not followed;"
                " remove it, or name the socket itself"
            )
        if not stat.S_ISSOCK(mode):
            raise self._refusal(f"{path} exists and is no socket")
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
    """Refuse what are no permissions.

    Raises:
        ValueError: it is none of 0 to 777, in octal digits.
    """
    try:
        wrong = not 0 <= int(mode, 8) <= 0o777
    except ValueError:
        wrong = True
    if wrong:
        raise ValueError(f'mode = "{mode}": expected octal digits, as "0660"')


def group_number(key: str, name: str) -> int:
    """Return the number of a group that is named, or given by number.

    Raises:
        ValueError: there is none; names the key.
    """
    if name.isascii() and name.isdigit() and int(name) <= MAX_ID:
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise ValueError(
            f'{key}: there is no group "{name}" here; give a name or a number'
        ) from None


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
