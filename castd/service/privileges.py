"""
Who castd is once its ports are bound: root given up, with every way back.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from castd.errors import Unavailable


@dataclass(frozen=True, slots=True)
class UnprivilegedUser:
    """
    A user, with all his groups.

    @ivar groups: the supplementary ones, as the system knows them.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @classmethod
    def of(cls, uid: int, gid: int | None = None) -> UnprivilegedUser:
        """
        @param gid: his first group if not given.
        @raise ValueError: he is in no list, and no group is given.
        """
        try:
            known = pwd.getpwuid(uid)
        except KeyError:
            if gid is None:
                raise ValueError(f"user {uid} is in no list: give the group, too") from None
            return cls(uid, gid, (gid,))
        mine = known.pw_gid if gid is None else gid
        return cls(uid, mine, tuple(os.getgrouplist(known.pw_name, mine)))

    @classmethod
    def named(cls, user: str, group: str | None = None) -> UnprivilegedUser:
        """
        By names or numbers.

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
        return cls.of(uid, gid)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """
        As long as we are root: be this user, and root again afterwards.  What is opened here can be opened again by
        him later on, and no link that he has laid leads root astray.  Without being root: nothing.
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

    def become(self) -> None:
        """
        For good: real, effective and saved ids, and no capability is left.

        @raise Unavailable: only root can.
        """
        mine = (self.uid,) * 3, (self.gid,) * 3
        if os.geteuid() != 0 and (os.getresuid(), os.getresgid()) == mine:
            return
        try:
            os.setgroups(self.groups)
            os.setresgid(*mine[1])
            os.setresuid(*mine[0])
        except PermissionError:
            raise Unavailable(f"user {self.uid}: only root can become another user") from None
