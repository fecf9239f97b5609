"""The unit files, as systemd itself judges them, and what castd does beneath them."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from castd.cli.history import DEFAULT_FILE
from tests.support.lab.castd import command
from tests.support.lab.daemons import BODY, place
from tests.support.needs import lack, need, run

pytestmark = pytest.mark.e2e

UNIT = Path(__file__).parents[2] / "etc" / "castd.service"
PORT = 6970
EXPOSURE = 1.8
"""
The most that systemd-analyze may count on its scale from 0 (safe) to 10; C{NotifyAccess=all} is 0.1 of it, and that
files may be made set-user-ID 0.2.
"""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program in it that is there, under its own name."""
    file = tmp_path / UNIT.name
    file.write_text(re.sub(r"/opt/castd/bin/castd\b", sys.executable, UNIT.read_text()))
    # Where systemd is not process 1, as in a container, it wants to read the environment of that process.
    if (
        run("systemd-analyze", "verify", "--man=no", file).stderr
        == "Failed to setup working directory: Permission denied\n"
    ):
        lack("systemd-analyze needs root where process 1 is not systemd")
    return file


def test_verify(unit: Path) -> None:
    """systemd finds nothing to say against the unit file: every key known, every value one that it takes."""
    said = run("systemd-analyze", "verify", "--man=no", unit)
    assert (said.returncode, [line for line in said.stderr.splitlines() if "castd" in line]) == (0, [])


def test_security(unit: Path) -> None:
    """What a broken castd could do to its machine is little, by systemd's own reckoning."""
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for castd\.service: ([0-9.]+)", said.stdout)
    assert found is not None, said.stdout + said.stderr
    assert float(found[1]) <= EXPOSURE


SOCKET = UNIT.with_suffix(".socket")


def test_verifySocket(unit: Path) -> None:
    """Nor against the socket unit, beside the service that it is for."""
    file = unit.with_suffix(".socket")
    file.write_text(SOCKET.read_text())
    said = run("systemd-analyze", "verify", "--man=no", file, unit)
    assert (said.returncode, [line for line in said.stderr.splitlines() if "castd" in line]) == (0, [])


def settings(key: str) -> list[str]:
    """All values of a key of the unit, in their order."""
    return [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{key}=")]


def test_history() -> None:
    """The unit gives the history its place, where the command looks for it when no server answers."""
    (state,) = settings("StateDirectory")
    assert f"/var/lib/{state}/history.sqlite" == DEFAULT_FILE


#: A main process that takes a moment to stop.
WAITS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), print("told", flush=True), sys.exit()))
print("ready", flush=True)
signal.pause()
"""


def test_afterAnUpgrade() -> None:
    """
    What the unit says suits a main process that was started by the one before it, and not by systemd.  systemd waits
    for the end of C{ExecStop=}, and not for such a process, and with C{KillMode=mixed} kills all others, too; with
    C{NotifyAccess=main} the process before cannot say that it is the main one again.
    """
    (stop,) = settings("ExecStop")
    script = re.fullmatch("-/bin/sh -c '(.+)'", stop)
    assert script is not None
    # It lasts as long as the main process, and that is told to end; without one, after a crash, it ends at once.
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        assert main.stdout.readline() == "ready\n"
        # As systemd does: what nobody has waited for is not gone.
        threading.Thread(target=main.wait).start()
        run("sh", "-c", script[1], env={**os.environ, "MAINPID": str(main.pid)}, check=True)
        assert main.stdout.read() == "told\n"
    assert run("sh", "-c", script[1], env={**os.environ, "MAINPID": ""}).returncode != 0
    assert (settings("KillMode"), settings("NotifyAccess")) == (["control-group"], ["all"])


def test_openat2() -> None:
    """Nothing in the unit makes systemd refuse openat2, as no set of system calls would tell."""
    assert [settings(key) for key in ("DynamicUser", "RestrictSUIDSGID")] == [[], []]


def syscalls() -> dict[str, set[str]]:
    """systemd's sets of system calls, with what is in the sets that are in them."""
    said = run("systemd-analyze", "syscall-filter", "--no-pager", check=True)
    sets: dict[str, set[str]] = {}
    for line in said.stdout.splitlines():
        if line.startswith("@"):
            inside = sets[line.strip()] = set()
        elif (word := line.strip()) and not word.startswith("#"):
            inside.add(word)

    def whole(name: str) -> set[str]:
        return set().union(*(whole(each) if each.startswith("@") else {each} for each in sets[name]))

    return {name: whole(name) for name in sets}


@pytest.mark.root
def test_filter() -> None:
    """
    All that castd does is permitted by the unit: every system call it makes from its start to its end, with transfers
    of both kinds, a group, a reload, metrics and the control socket, every family of its sockets, and no memory that
    can be both written and run.
    """
    _, strace = need("systemd-analyze", "strace")
    with place() as at:
        trace = at.folder / "trace"
        trace.touch()
        trace.chmod(0o666)
        tftp = {"port": PORT, "interface": at.host}
        both = {"multicast": {**tftp, "groups": "239.255.32.0/24", "data-port": 1758, "clients": "any"}, "tftp": tftp}
        at.write(transports=both, metrics={"listen": f"{at.host}:9147"}, logging={"json": str(at.events)})
        serve = [strace, "-f", "-qq", "-o", str(trace), *command(), "serve", "-c", str(at.file)]
        with at.start(serve) as job:
            at.ready(PORT, 60)
            # The end is told to castd itself, not to who looks at it.
            (child,) = map(int, Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split())
            try:
                assert at.fetch("file", PORT) == BODY
                assert at.fetch("file", PORT, b"multicast\0\0").startswith(b"\0\6multicast\000239.255.32.")
                at.put("new", PORT, b"new")
                with socket.create_connection((at.host, 9147), 20) as web:
                    web.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                    assert web.makefile("rb").read()
                assert (at.castd("status").returncode, at.castd("reload").returncode) == (0, 0)
            finally:
                os.kill(child, signal.SIGTERM)
            assert job.finish(60).code == 0
        lines = [line.partition(" ")[2].strip() for line in trace.read_text(errors="replace").splitlines()]
    made = {found[1] for line in lines if (found := re.match(r"([a-z0-9_]+)\(", line))}
    assert {"recvmsg", "sendto", "epoll_wait", "fsync"} <= made
    sets, allowed = syscalls(), set[str]()
    for value in settings("SystemCallFilter"):
        named = set().union(*(sets[each] for each in value.removeprefix("~").split()))
        allowed = allowed - named if value.startswith("~") else allowed | named
    assert made - allowed - sets["@default"] == set()
    families = {found[1] for line in lines if (found := re.match(r"socket\((AF_\w+)", line))}
    assert families <= set(settings("RestrictAddressFamilies")[0].split())
    assert [line for line in lines if "PROT_EXEC" in line and "PROT_WRITE" in line] == []
