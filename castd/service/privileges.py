"""
Gives up the privileges of root for good, once the ports are bound.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from castd.errors import Unavailable


def _mayEnter(folder: Path) -> bool:
    return os.access(folder, os.X_OK, effective_ids=True)


@dataclass(frozen=True, slots=True)
class UnprivilegedUser:
    """
    A user without privileges that the process becomes, with all groups of that user.

    @ivar groups: the supplementary groups.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @classmethod
    def byId(cls, uid: int, gid: int | None = None) -> UnprivilegedUser:
        """
        Find a user by number.

        @param gid: the group to run as; by default the user's primary group.
        @raise ValueError: the system does not know the user, and no group is given.
        """
        try:
            known = pwd.getpwuid(uid)
        except KeyError:
            if gid is None:
                raise ValueError(f"user {uid} is in no list: give the group, too") from None
            return cls(uid, gid, (gid,))
        primary = known.pw_gid if gid is None else gid
        return cls(uid, primary, tuple(os.getgrouplist(known.pw_name, primary)))

    @classmethod
    def byName(cls, user: str, group: str | None = None) -> UnprivilegedUser:
        """
        Find a user by name or number, as a command line has it.

        @raise ValueError: there is no such user, or no such group.
        """
        try:
            uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
        except KeyError:
            raise ValueError(f"there is no user {user}") from None
        try:
            gid = None if group is None else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise ValueError(f"there is no group {group}") from None
        return cls.byId(uid, gid)

    @contextmanager
    def asEffectiveUser(self) -> Iterator[None]:
        """
        Take the effective ids of this user while the context is entered; do nothing if this process is not root.

        A file that can be opened in the context can be opened again later, without root.  And root follows no symbolic
        link that this user has made.
        """
        if os.geteuid() != 0:
            yield
            return
        gid, groups = os.getegid(), os.getgroups()
        os.setgroups(self.groups)
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(gid)
            os.setgroups(groups)

    def requireReadable(self, files: Iterable[str]) -> None:
        """
        Find out whether this user may read the files that the program consists of: modules that are imported late, and
        the interpreter, which an upgrade starts again.

        @raise Unavailable: one of them cannot be read; the innermost directory that is closed is named.
        """
        with self.asEffectiveUser():
            for file in map(Path, files):
                if os.access(file, os.R_OK, effective_ids=True):
                    continue
                closed = next((each for each in reversed(file.parents) if not _mayEnter(each)), file)
                place = "" if closed == file else f", since {closed} is closed to it"
                cure = "install castd where it may read"
                raise Unavailable(f"user {self.uid} may not read {file}{place}: {cure}")

    def dropPrivileges(self) -> None:
        """
        Become this user for good: set real, effective and saved ids, and keep no capability.

        @raise Unavailable: this process is neither root nor this user.
        """
        uids, gids = (self.uid,) * 3, (self.gid,) * 3
        if os.geteuid() != 0 and (os.getresuid(), os.getresgid()) == (uids, gids):
            return
        try:
            os.setgroups(self.groups)
            os.setresgid(*gids)
            os.setresuid(*uids)
        except PermissionError:
            raise Unavailable(f"user {self.uid}: only root can become another user") from None
