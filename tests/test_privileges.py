"""
Who castd is when root has been given up.
"""

import grp
import os
import pwd
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from castd.errors import Unavailable
from castd.service.privileges import UnprivilegedUser

ALICE = SimpleNamespace(pw_name="alice", pw_uid=1000, pw_gid=100)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system with one user, and two groups."""

    def only(table: dict[Any, Any]) -> Any:
        return lambda key: table[key]

    monkeypatch.setattr(pwd, "getpwnam", only({"alice": ALICE}))
    monkeypatch.setattr(pwd, "getpwuid", only({1000: ALICE}))
    monkeypatch.setattr(grp, "getgrnam", only({"boot": SimpleNamespace(gr_gid=200)}))
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 300])


@pytest.mark.usefixtures("known")
def test_named() -> None:
    """A user is known by name or number, with his groups; a number that is in no list needs a group."""
    alice = UnprivilegedUser(1000, 100, (100, 300))
    assert UnprivilegedUser.byName("alice") == UnprivilegedUser.byName("1000") == alice
    assert (
        UnprivilegedUser.byName("alice", "boot")
        == UnprivilegedUser.byName("1000", "200")
        == UnprivilegedUser(1000, 200, (200, 300))
    )
    assert UnprivilegedUser.byName("4711", "boot") == UnprivilegedUser(4711, 200, (200,))
    for names, complaint in (
        (("bob",), "there is no user bob"),
        (("alice", "x"), "there is no group x"),
        (("4711",), "user 4711 is in no list: give the group, too"),
        # The number that means "no change" to the system: castd would stay root.
        (("4294967295", "boot"), "there is no user 4294967295"),
        (("alice", "4294967295"), "there is no group 4294967295"),
        (("9" * 5000, "boot"), "there is no user 9+$"),
        (("\u0661\u0660\u0660\u0660", "boot"), "there is no user \u0661"),
    ):
        with pytest.raises(ValueError, match=complaint):
            UnprivilegedUser.byName(*names)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("ids", [(-1, 200), (2**32 - 1, 200), (2**64, 200), (1000, 2**32 - 1), (1000, -1)])
def test_numbered(ids: tuple[int, int]) -> None:
    """Twisted hands on any number; those that the system has no user for, or takes for "no change", are refused."""
    with pytest.raises(ValueError, match="no user or group has a number beyond 4294967294"):
        UnprivilegedUser.byId(*ids)


class System:
    """Keeps what it is asked to be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.uid = uid
        monkeypatch.setattr(os, "geteuid", lambda: self.uid)
        monkeypatch.setattr(os, "getegid", lambda: 7)
        monkeypatch.setattr(os, "getgroups", lambda: [7, 8])
        monkeypatch.setattr(os, "getresuid", lambda: (self.uid,) * 3)
        monkeypatch.setattr(os, "getresgid", lambda: (100,) * 3)
        for name in ("setgroups", "setegid", "seteuid", "setresgid", "setresuid"):
            monkeypatch.setattr(os, name, lambda *ids, name=name: self.said.append((name, *ids)))


def test_acting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root acts as the user for a while, groups first, and is root again whatever happens; others act as they are."""
    system, user = System(monkeypatch, 0), UnprivilegedUser(1000, 100, (100, 300))
    with pytest.raises(RuntimeError), user.asEffectiveUser():
        raise RuntimeError
    assert system.said == [
        ("setgroups", (100, 300)),
        ("setegid", 100),
        ("seteuid", 1000),
        ("seteuid", 0),
        ("setegid", 7),
        ("setgroups", [7, 8]),
    ]
    system.uid = 1000
    system.said.clear()
    with user.asEffectiveUser():
        assert system.said == []
    assert system.said == []


def test_become(monkeypatch: pytest.MonkeyPatch) -> None:
    """For good it is all three ids, groups before users; who is that user already has nothing to do."""
    system, user = System(monkeypatch, 0), UnprivilegedUser(1000, 100, (100, 300))
    user.dropPrivileges()
    assert system.said == [("setgroups", (100, 300)), ("setresgid", 100, 100, 100), ("setresuid", 1000, 1000, 1000)]
    system.uid = 1000
    system.said.clear()
    user.dropPrivileges()
    assert system.said == []


def test_notRoot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root cannot become another user, and is told so in a sentence."""

    def refuse(groups: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    System(monkeypatch, 1001)
    monkeypatch.setattr(os, "setgroups", refuse)
    with pytest.raises(Unavailable, match="user 1000: only root can become another user"):
        UnprivilegedUser(1000, 100).dropPrivileges()


@pytest.mark.root
def test_program() -> None:
    """A user who may not read the program is told what is closed to him, before anything is bound."""
    nobody = UnprivilegedUser(65534, 65534, (65534,))
    # The folder of pytest is closed to everybody else.
    with tempfile.TemporaryDirectory() as name:
        folder, library = Path(name), Path(name, "lib")
        folder.chmod(0o755)
        library.mkdir()
        module = library / "module.py"
        module.write_text("")
        nobody.requireReadable([str(module)])
        library.chmod(0o700)
        with pytest.raises(Unavailable, match=rf"^user 65534 may not read {module}, since {library} is closed to it: "):
            nobody.requireReadable([str(module)])
        library.chmod(0o755)
        module.chmod(0o600)
        with pytest.raises(Unavailable, match=rf"^user 65534 may not read {module}: install"):
            nobody.requireReadable([str(module)])
        module.chmod(0o644)
        library.chmod(0o700)
        link = folder / "python"
        link.symlink_to(module)
        with pytest.raises(Unavailable, match=rf"^user 65534 may not read {link}, since {library} is closed to it: "):
            nobody.requireReadable([str(link)])
