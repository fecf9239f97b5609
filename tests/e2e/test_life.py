"""Root given up, and the options of twistd and twist, with real processes."""

import json
import os
import pwd
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.jobs import eventually
from tests.support.lab.castd import command
from tests.support.lab.daemons import BODY, USER, Place, environment, place, script, status
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

PORT = 6970
STARTS = {
    "serve": lambda at: [*command(), "serve", "-c", str(at.file), "--user", USER],
    "twistd": lambda at: [*script("twistd"), "-n", "--pidfile=", f"--uid={USER}", "castd", "-c", str(at.file)],
    "daemon": lambda at: [
        *(*script("twistd"), "--pidfile", str(at.folder / "pid"), "--logfile", str(at.mine / "log")),
        *(f"--uid={USER}", "castd", "-c", str(at.file)),
    ],
}


@pytest.fixture
def at() -> Iterator[Place]:
    with place() as made:
        yield made


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("how", STARTS)
def test_rootGivenUp(at: Place, how: str) -> None:
    """
    A port below 1024 is bound while castd is root; then it is the user, with his groups, no capability and no way back,
    and content, uploads, the control socket, metrics and log files work by his rights, also after a reload.  A further
    port below 1024 cannot be had, which a reload says, and then nothing has changed.
    """
    at.write(69, logging={"json": str(at.events)}, metrics={"listen": f"{at.host}:9147"})
    with at.start(["setpriv", "--groups", "4242", *STARTS[how](at)]) as job:
        at.ready(69)
        pid = int((at.folder / "pid").read_text()) if how == "daemon" else job.pid
        try:
            known, user = status(pid), pwd.getpwnam(USER)
            assert known["Uid"] == [str(user.pw_uid)] * 4
            assert known["Gid"] == [str(user.pw_gid)] * 4
            assert set(map(int, known["Groups"])) == set(os.getgrouplist(USER, user.pw_gid))
            assert [known[name] for name in ("CapPrm", "CapEff", "CapAmb")] == [["0" * 16]] * 3

            assert at.fetch("file", 69) == BODY
            at.put("new", 69, b"new")
            eventually((at.up / "new").exists, "the upload", 10)
            assert ((at.up / "new").read_bytes(), (at.up / "new").owner()) == (b"new", USER)
            with socket.create_connection((at.host, 9147), 10) as web:
                web.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert web.recv(100).startswith(b"HTTP/1.0 200")
            assert (at.events.owner(), at.control.owner()) == (USER, USER)

            at.events.rename(at.events.with_suffix(".1"))
            assert at.castd("reload").returncode == 0
            assert (at.said()[0]["event"], at.events.owner()) == ("reloaded", USER)
            at.write(69, 70, logging={"json": str(at.events)})
            refused = at.castd("reload")
            assert refused.returncode == 1
            assert f"{at.host}:70 is not permitted: a port below 1024 needs root or the cap" in refused.stderr
            assert at.fetch("file", 69) == BODY
            assert [each["address"] for each in json.loads(at.castd("status", "--json").stdout)["addresses"]] == [
                f"{at.host}:69"
            ]
        finally:
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: ended(pid) or job.process.poll() is not None, "the end", 60)
        eventually(lambda: ended(pid), "the end", 60)
    assert not at.control.exists()


@pytest.mark.parametrize("how", ["serve", "twistd"])
def test_notForTheUser(at: Place, how: str) -> None:
    """What only root could read or write is refused before a port is open, not by the first reload."""
    at.boot.chmod(0o700)
    at.up.chmod(0o755)
    os.chown(at.up, 0, 0)
    at.write(69)
    done = at.start(STARTS[how](at)).finish(60)
    assert done.code == os.EX_UNAVAILABLE
    uid = pwd.getpwnam(USER).pw_uid
    rest = f", by user {uid}: castd doctor --user {uid} names each folder that keeps it out"
    assert [line.partition(": ")[2] for line in done.text.splitlines()] == [
        f"content[0].directory.path: {at.boot}: directory cannot be searched{rest}",
        f"uploads[0].directory.path: {at.up}: directory cannot be written to{rest}",
    ]


def test_capability(at: Place) -> None:
    """CAP_NET_BIND_SERVICE alone is enough: castd is never root, binds port 69, and at a reload another low port."""
    need("setpriv")
    at.write(69)
    bare = ["setpriv", f"--reuid={USER}", "--clear-groups", "--bounding-set=-all,+net_bind_service"]
    able = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"]
    serve = [*command(), "serve", "-c", str(at.file)]
    with at.start([*bare, *able, *serve]) as job:
        at.ready(69)
        assert status(job.pid)["Uid"] == [str(pwd.getpwnam(USER).pw_uid)] * 4
        assert status(job.pid)["CapEff"] == [f"{1 << 10:016x}"]
        at.write(69, 70)
        assert at.castd("reload").returncode == 0
        assert (at.fetch("file", 70), at.fetch("file", 69)) == (BODY, BODY)
    done = at.start([*bare, *serve]).finish(60)
    assert done.code == os.EX_UNAVAILABLE
    assert f"{at.host}:69 is not permitted: a port below 1024 needs root or the capability" in done.text


@pytest.mark.parametrize("reactor", ["epoll", "poll", "select", "asyncio"])
@pytest.mark.parametrize("runner", ["twistd", "twist"])
def test_reactor(at: Place, runner: str, reactor: str) -> None:
    """castd serves, times out, and stops in time under every reactor that Linux has."""
    at.write(PORT, logging={"json": str(at.events)})
    plain = {"twistd": ["-n", "--pidfile="], "twist": []}[runner]
    with at.start([*script(runner), *plain, f"--reactor={reactor}", "castd", "-c", str(at.file)]) as job:
        at.ready(PORT)
        assert at.fetch("file", PORT) == BODY
        with at.client() as silent:
            # Never answered: the block comes again after a second, by the reactor's timer.
            silent.sendto(b"\0\1file\0octet\0", (at.host, PORT))
            began = time.monotonic()
            assert silent.recv(600) == silent.recv(600)
            assert 0.5 < time.monotonic() - began < 5
            assert at.castd("status").returncode == 0
            job.process.send_signal(signal.SIGTERM)
            # twistd and twist end by the signal that stopped them.
            assert job.finish(60).code == -signal.SIGTERM
    outcomes = [each["outcome"] for each in at.said() if each["event"] == "received"]
    assert outcomes == ["done", "stopped"]


def test_daemon(at: Place) -> None:
    """twistd's folder, mask, pid file and log are what it is told; paths of the command line are found all the same."""
    run = at.folder / "run"
    run.mkdir()
    at.write(PORT)
    options = ["--rundir", "run", "--umask", "077", "--pidfile", "pid", "--logfile", "log"]
    job = at.start([*script("twistd"), *options, "castd", "-c", "castd.yaml"])
    assert job.finish(60).code == 0
    # twistd looks for its own file before it goes to its folder.
    file = at.folder / "pid"
    pid = int(file.read_text())
    try:
        at.ready(PORT)
        assert Path(f"/proc/{pid}/cwd").resolve() == run
        assert status(pid)["Umask"] == ["0077"]
        at.put("new", PORT, b"new")
        eventually((at.up / "new").exists, "the upload", 10)
        log = at.folder / "log"
        assert f"tftp{PORT} listens at {at.host}:{PORT}" in log.read_text()
        os.kill(pid, signal.SIGUSR1)
        eventually((at.folder / "log.1").exists, "the rotated log", 10)
        log.rename(at.folder / "old")
        assert at.castd("reload").returncode == 0
        assert "is in force" in log.read_text()
    finally:
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: ended(pid), "the end", 60)
    assert not file.exists()


def test_chroot(at: Place) -> None:
    """In another root castd serves from, and uploads to, the directories that it opened before; root is given up."""
    jail = at.folder / "jail"
    (jail / "dev").mkdir(parents=True)
    (jail / "dev" / "null").touch()
    at.write(69, control={}, metrics={"listen": f"{at.host}:9147"})
    options = ["-n", "--pidfile=", "--chroot", str(jail), f"--uid={USER}"]
    with at.start([*script("twistd"), *options, "castd", "-c", str(at.file)]) as job:
        at.ready(69)
        assert Path(f"/proc/{job.pid}/root").resolve() == jail
        assert at.fetch("file", 69) == BODY
        at.put("new", 69, b"new")
        eventually((at.up / "new").exists, "the upload", 10)
        with socket.create_connection((at.host, 9147), 10) as web:
            web.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            page = web.makefile("rb").read()
        assert b"castd_received_total" in page, job.text()
        job.process.send_signal(signal.SIGHUP)
        job.until("is refused (1 of", 10)
        assert at.fetch("file", 69) == BODY
    assert "Traceback" not in job.text()


def test_logger(at: Place) -> None:
    """With --logger the log is what its factory makes, and castd adds none."""
    (at.folder / "own.py").write_text(
        "from twisted.logger import FileLogObserver\n"
        "def make(): return FileLogObserver(open('own.log', 'w', 1), lambda event: f'{event.get(\"event\")}\\n')\n"
    )
    at.write(PORT)
    argv = [*script("twistd"), "-n", "--pidfile=", "--logger=own.make", "castd", "-c", str(at.file)]
    with at.start(argv, PYTHONPATH=os.pathsep.join([str(at.folder), os.environ.get("PYTHONPATH", "")])) as job:
        at.ready(PORT)
    assert "listening" in (at.folder / "own.log").read_text().splitlines()
    assert job.text() == ""


def test_syslog(at: Place) -> None:
    """With --syslog the lines of castd go to the system's log, under their prefix."""
    need("unshare", "mount")
    at.write(PORT)
    devices = at.folder / "dev"
    devices.mkdir()
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.settimeout(20)
    log.bind(str(devices / "log"))
    nodes = ("null", "urandom", "random", "zero")
    for node in nodes:
        (devices / node).touch()
    mounts = [f"mount --bind /dev/{node} {devices}/{node}" for node in nodes]
    inside = " && ".join([*mounts, f"mount --rbind {devices} /dev", 'exec "$@"'])
    argv = [*script("twistd"), "-n", "--pidfile=", "--syslog", "--prefix=bootd", "castd", "-c", str(at.file)]
    with log, at.start(["unshare", "--mount", "sh", "-c", inside, "sh", *argv]):
        lines = []
        while "listens at" not in (line := log.recv(2000).decode()):
            lines.append(line)
    assert "bootd" in line
    assert f"tftp{PORT} listens at {at.host}:{PORT}" in line


def test_journal(at: Place) -> None:
    """Where standard error is the journal's, castd speaks to it by itself, and events arrive with their fields."""
    need("unshare", "mount")
    at.write(PORT)
    where = at.folder / "run" / "systemd" / "journal" / "socket"
    where.parent.mkdir(parents=True)
    journald = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journald.settimeout(20)
    journald.bind(str(where))
    output = at.folder / "output"
    output.touch()
    stream = f"{output.stat().st_dev}:{output.stat().st_ino}"
    inside = f'mount --bind {at.folder}/run /run && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", inside, "sh", *command(), "serve", "-c", str(at.file)]
    with journald, at.start(argv, JOURNAL_STREAM=stream):
        while b"CASTD_EVENT=listening" not in (told := journald.recv(9999).splitlines()):
            assert b"SYSLOG_IDENTIFIER=castd" in told
        at.ready(PORT)
        while b"CASTD_EVENT=refused" not in (refused := journald.recv(9999).splitlines()):
            assert b"SYSLOG_IDENTIFIER=castd" in refused
    assert {f"CASTD_ADDRESS={at.host}:{PORT}".encode(), b"PRIORITY=6", b"CASTD_TRANSPORT=tftp6970"} <= set(told)
    assert {b"CASTD_NAME=nothing there", b"CASTD_CODE=1"} <= set(refused)
    assert output.read_text() == ""


def test_exits(at: Place) -> None:
    """Each way to end has its exit status, the same whoever looks at it."""
    serve = [*command(), "serve", "-c", str(at.file)]
    twistd = [*script("twistd"), "-n", "--pidfile=", "castd", "-c", str(at.file)]
    daemon = [*script("twistd"), "--pidfile=", "--logfile", str(at.folder / "log"), "castd", "-c", str(at.file)]
    twist = [*script("twist"), "castd", "-c", str(at.file)]
    codes = lambda: [at.start(argv).finish(60).code for argv in (serve, twistd, daemon, twist)]  # noqa: E731

    at.write(PORT, logging={"level": "loud"})
    assert codes() == [os.EX_CONFIG] * 4
    at.write(PORT, transports={"nobody-has-this": {}})
    assert codes() == [os.EX_CONFIG] * 4
    at.write(PORT, metrics={"listen": "rubbish"})
    assert codes() == [os.EX_CONFIG] * 4
    at.write(PORT, logging={"json": str(at.folder / "none" / "log")})
    assert codes() == [os.EX_UNAVAILABLE] * 4
    at.write(PORT, content=[{"directory": {"path": str(at.folder / "none")}}])
    assert codes() == [os.EX_UNAVAILABLE] * 4
    at.write(PORT)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((at.host, PORT))
        assert codes() == [os.EX_UNAVAILABLE, 1, 1, 1]
    assert os.listdir(at.folder / "mine") == []
    plugins = at.folder / "plugins" / "castd" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "castd_bad.py").write_text("raise RuntimeError('broken')\n")
    path = {"PYTHONPATH": os.pathsep.join([str(plugins.parents[1]), environment().get("PYTHONPATH", "")])}
    job = at.start(serve, **path)
    job.until("castd_bad", 60)
    job.until("listens at", 60)
    assert job.end(grace=60) == 0
    at.write(PORT, transports={"bad": {}})
    done = at.start(serve, **path).finish(60)
    assert (done.code, "castd_bad" in done.text, "Traceback" in done.text) == (os.EX_CONFIG, True, False)
    at.write(PORT)
    for argv in (serve, twistd, twist):
        done = at.start(argv)
        at.ready(PORT)
        code = done.end(grace=60)
        assert code == (0 if argv is serve else -signal.SIGTERM)
    assert at.start([*command(), "serve"]).finish(60).code == 2
    assert at.start([*serve, "--user", "nobody-has-this"]).finish(60).code == 2
    assert at.start([*serve, "--group", "0"]).finish(60).code == 2
