"""All lines of the log are castd's own sentences, from the start to the last signal; others' warnings stay."""

from __future__ import annotations

import io
import signal
import socket
import sys
from pathlib import Path

import pytest
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python import log as old
from twisted.python.failure import Failure

from castd.observe.voice import isTwistedsOwn
from castd.service.logs import jsonLog, textLog
from tests.support.jobs import Job, free, running, until
from tests.support.log import observed

SERVE = ("-m", "castd", "serve")
TWISTD = ("-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile=", "castd", "-c")
TWIST = ("-m", "twisted", "--log-format=text", "castd", "-c")


def own(namespace: str, level: LogLevel, form: str) -> bool:
    """Whether a line is left out."""
    found: list[bool] = []
    publisher = LogPublisher(lambda event: found.append(isTwistedsOwn(event)))
    Logger(namespace, observer=publisher).emit(level, form)
    return found == [True]


@pytest.mark.parametrize(
    ("namespace", "level", "form", "wanted"),
    [
        ("twisted.internet.base", LogLevel.info, "Received SIGTERM, shutting down.", True),
        ("twisted.internet.protocol.Factory", LogLevel.info, "Starting factory", True),
        ("twisted.internet.base", LogLevel.warn, "Something is odd", False),
        ("twisted.internet.defer", LogLevel.critical, "Unhandled error in Deferred", False),
        ("castd", LogLevel.info, "tftp listens at 127.0.0.1:69", False),
        ("castd_plugin", LogLevel.info, "Site starting on 9147", False),
        ("twistedness", LogLevel.info, "a plugin with a name like that", False),
    ],
)
def test_isTwistedsOwn(namespace: str, level: LogLevel, form: str, wanted: bool) -> None:
    """What Twisted says by the way is left out; its warnings and what others say is not."""
    assert own(namespace, level, form) is wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("MetricsSite starting on 9147", True),
        ("ControlFactory starting on '/run/castd/control'", True),
        ("(TCP Port 9147 Closed)", True),
        ("(UNIX Port '/run/castd/control' Closed)", True),
        ("Stopping factory <castd.observe.web.MetricsSite object at 0x7f>", True),
        ("a plugin of 2009 has started", False),
    ],
)
def test_oldInterface(text: str, wanted: bool) -> None:
    """Twisted's old interface tells no source: what its ports say is known by its words, and all else is shown."""
    streams = io.StringIO(), io.StringIO()
    with observed(textLog(streams[0]), jsonLog(streams[1])):
        old.msg(text)
    for stream in streams:
        assert (text not in stream.getvalue().replace("\\'", "'")) is wanted


def test_failures() -> None:
    """A traceback is never left out, whoever has caught it."""
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        assert not isTwistedsOwn({"log_namespace": "twisted.internet.base", "log_failure": Failure()})


@pytest.mark.slow
@pytest.mark.loopback
@pytest.mark.parametrize(
    "command", [SERVE, pytest.param(TWISTD, marks=pytest.mark.slow), TWIST], ids=lambda each: each[1]
)
def test_aLife(command: tuple[str, ...], tmp_path: Path) -> None:
    """
    A server with all its ports, in the middle of a transfer, gets SIGTERM again and again: each is answered in a line,
    the transfer ends, and no line is anybody else's.
    """
    port, web = free(socket.SOCK_DGRAM, socket.SOCK_STREAM)
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "f").write_bytes(b"f" * 600)
    file = tmp_path / "x.yaml"
    file.write_text(
        "castd: 1\ncontent: [{directory: {path: boot}}]\n"
        f"metrics: {{listen: '127.0.0.1:{web}'}}\ncontrol: {{path: {tmp_path}/control}}\n"
        f"transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\n"
    )
    with running(*command, file) as process, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        assert process.stdout is not None
        until(process, f"serves by {file}")
        client.settimeout(20)
        client.sendto(b"\0\1f\0octet\0", ("127.0.0.1", port))
        peer = client.recvfrom(600)[1]
        process.send_signal(signal.SIGTERM)
        assert "castd stops by SIGTERM: 1 transfers have 20 s to end" in until(process, "SIGTERM")
        process.send_signal(signal.SIGTERM)
        assert "castd is stopping already, SIGTERM changes nothing: 1 transfers are left" in until(process, "SIGTERM")
        process.send_signal(signal.SIGINT)
        assert "castd is stopping already, SIGINT changes nothing" in until(process, "SIGINT")
        for block in (b"\0\4\0\1", b"\0\4\0\2"):
            client.sendto(block, peer)
        rest = process.stdout.read()
        assert process.wait(30) in (0, -signal.SIGTERM)
    assert "f: complete" in rest
    lines = rest.splitlines()
    assert lines[-1].endswith("castd has stopped")
    assert [line for line in lines if "[castd#info]" not in line] == []


@pytest.mark.loopback
def test_inTheBackground(tmp_path: Path) -> None:
    """Whoever runs the tests in the background of a shell has SIGINT ignored; what the tests start ends by it."""
    shown = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with running("-c", shown) as process:
            until(process, "True")
        with Job((sys.executable, "-c", shown), tmp_path / "log", tmp_path) as job:
            job.until("True", 20)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
