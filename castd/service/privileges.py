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
from castd.units import wholeNumber

#: The largest number of a user or a group; the next one means "no change" to the system calls.
_MOST_ID = (1 << 32) - 2


def _number(text: str) -> int | None:
    """Return the number of a user or a group; L{None}: it is a name."""
    return wholeNumber(text, _MOST_ID)


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
        @raise ValueError: the system does not know the user, and no group is given; or no user has such a number.
        """
        if any(not 0 <= number <= _MOST_ID for number in (uid, 0 if gid is None else gid)):
            raise ValueError(f"no user or group has a number beyond {_MOST_ID}")
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
        uid = _number(user)
        gid = None if group is None else _number(group)
        try:
            uid = pwd.getpwnam(user).pw_uid if uid is None else uid
        except KeyError:
            raise ValueError(f"there is no user {user}") from None
        try:
            gid = grp.getgrnam(group).gr_gid if group is not None and gid is None else gid
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

        @raise Unavailable: one of them cannot be read; the first directory on the way to it that is closed is named.
        """
        with self.asEffectiveUser():
            for file in map(Path, files):
                if os.access(file, os.R_OK, effective_ids=True):
                    continue
                # The interpreter of a virtual environment is a link to one that may be in the home of root.
                way = [*reversed(file.parents), *reversed(Path(os.path.realpath(file)).parents)]
                closed = next((each for each in way if not _mayEnter(each)), None)
                place = "" if closed is None else f", since {closed} is closed to it"
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
