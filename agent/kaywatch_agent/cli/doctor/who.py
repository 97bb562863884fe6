"""Names for users and groups, and who may go through a folder."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

__all__ = ["closed_folder", "group", "groups_of", "members", "user"]


def user(uid: int) -> str:
    """Return a user's name, or the number of one without."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group(gid: int) -> str:
    """Return a group's name, or the number of one without."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def members(gid: int) -> list[str]:
    """Return the names of those who are in a group by the system's list."""
    try:
        return list(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return []


def groups_of(name: str) -> set[int]:
    """Return the groups that a user has after the next login."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return set()
    return set(os.getgrouplist(name, found.pw_gid))


def closed_folder(path: Path) -> Path | None:
    """Return the first folder on the way that not everybody may go through."""
    for folder in reversed(path.absolute().parents):
        try:
            if not folder.stat().st_mode & stat.S_IXOTH:
                return folder
        except OSError:
            return folder
    return None
