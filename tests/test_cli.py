"""The commands, and `twistd castd`, as an operator meets them."""

import errno
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.logger import Logger, jsonFileLogObserver, textFileLogObserver
from twisted.python.usage import UsageError

from castd import __version__, native, tap
from castd.cli import check, main, plugins
from castd.config import yaml
from castd.config.plugin import Collected, ContentSourceMaker, TransportMaker
from castd.errors import ConfigError
from castd.interfaces import ServicePort
from castd.net import devices
from castd.net.sockets import bindFails
from castd.net.timers import useMonotonicClock
from castd.observe import journal
from castd.observe.syslog import SyslogObserver, SyslogSocket
from castd.service import bootstrap
from castd.service.logs import jsonLog
from tests.support.jobs import ROOT, eventually, free, running, until
from tests.support.needs import lack, run

GOOD = "castd: 1\ncontent: [{directory: {path: boot}}]\naccess: [{allow: any}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "hello.txt").write_bytes(b"hello\n")
    (tmp_path / "good.yaml").write_text(
        GOOD + "transports:\n  tftp: {port: 6969, interface: 127.0.0.1, windowsize: 4}\n"
    )
    (tmp_path / "bad.yaml").write_text(GOOD + "limits: {casts: 0}\ntransports:\n  tftp: {prot: 1}\n")
    return tmp_path


@pytest.fixture(autouse=True)
def _anotherServes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries castd may have one running meanwhile: the ports of these files are as if they were free."""
    bind = check._bind

    def bound(host: str, port: int, kind: socket.SocketKind) -> int:
        error = bind(host, port, kind)
        return 0 if error == errno.EADDRINUSE and port in (1759, 6969) else error

    monkeypatch.setattr(check, "_bind", bound)


def castd(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(main.main, [str(each) for each in arguments])


def test_version() -> None:
    """--version says which castd this is, and whether it has the native loop."""
    result = castd("--version")
    assert (result.exit_code, result.stdout) == (0, f"castd, version {__version__} ({native.describe()})\n")


@pytest.mark.slow
def test_module() -> None:
    """`python -m castd` is the same command."""
    said = subprocess.run(
        [sys.executable, "-m", "castd", "--version"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout == f"castd, version {__version__} ({native.describe()})\n"


def test_checkGood(folder: Path) -> None:
    """A good file is summed up: what would listen where, and what was set."""
    result = castd("check", folder / "good.yaml")
    assert (result.exit_code, result.stderr) == (0, "")
    heading, line = result.stdout.splitlines()
    assert heading.split() == ["address", "transport", "kind", "options"]
    assert line.split() == ["127.0.0.1:6969", "tftp", "tftp", "windowsize:", "4"]


def test_checkShowsValues(folder: Path) -> None:
    """What was set is shown as it stands in a service file, and not as Python writes it."""
    options = "broadcast: true, caps: [{clients: 10.0.0.0/8, blksize: 1400}]"
    (folder / "x.yaml").write_text(f"{GOOD}transports:\n  tftp: {{port: 6969, interface: 127.0.0.1, {options}}}\n")
    assert castd("check", folder / "x.yaml").stdout.splitlines()[1].endswith(options)


def test_checkBad(folder: Path) -> None:
    """Of a bad file every fault is a line on standard error, and the status is 1."""
    result = castd("check", folder / "bad.yaml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f"{folder}/bad.yaml:4: limits.casts: 0 is not at least 1",
        f"{folder}/bad.yaml:6: transports.tftp.prot: unknown key: did you mean port?",
    ]


def test_checkNotThere(folder: Path) -> None:
    """A directory that is not there is a fault as well; no traceback is ever shown."""
    (folder / "x.yaml").write_text(GOOD.replace("boot", "none") + "transports: {tftp: {port: 6969}}\n")
    result = castd("check", folder / "x.yaml")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{folder}/x.yaml:2: content[0].directory.path: {folder}/none: ")
    assert "Traceback" not in result.output


def test_checkWarnings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allowed and hardly meant is a warning, and the status is 0."""
    (folder / "x.yaml").write_text(
        "castd: 1\nuploads: [{directory: {path: boot}}]\ntransports:\n  tftp: {port: 69, interface: 127.0.0.1}\n"
    )
    monkeypatch.setattr(check, "_bind", lambda host, port, kind: errno.EACCES if 0 < port < 1024 else 0)
    monkeypatch.setattr(check, "UNPRIVILEGED", "/nowhere")
    result = castd("check", folder / "x.yaml")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"warning: {folder}/x.yaml:2: uploads: without access rules nobody may upload",
        f"warning: {folder}/x.yaml:4: transports.tftp: port 69 is below 1024: this user may not have it",
    ]


CAPPED = """\
transports:
  multicast:
    port: 6969
    caps:
      - {clients: 10.0.0.0/8, blksize: 1428}
  tftp:
    port: 6969
    windowsize: 16
    caps:
      - {clients: 10.9.0.0/16, blksize: 1228}
      - {clients: any, windowsize: 64}
"""


LARGER = "clients in 10.9.0.0/16 on the interface's link get blocks of up to 1428 octets here"


@pytest.mark.parametrize(
    ("group", "tftp", "told"),
    [
        ("multicast: {port: 6969}", "blksize: 1428", None),
        ("multicast: {port: 6969}", "caps: [{clients: any, windowsize: 4}]", None),
        (
            "multicast: {port: 6969}",
            "blksize: 1024",
            "clients in 0.0.0.0/0 on the interface's link get blocks of up to 1428",
        ),
        ("multicast: {port: 6969, blksize: 1024}", "blksize: 1024", None),
        ("multicast: {port: 6969}", "caps: [{clients: 10.9.0.0/16, blksize: 1228}]", LARGER),
        ("multicast: {port: 6970}", "caps: [{clients: 10.9.0.0/16, blksize: 1228}]", None),
        ("multicast: {port: 6969, clients: 10.8.0.0/16}", "caps: [{clients: 10.9.0.0/16, blksize: 1228}]", None),
        (
            "multicast: {port: 6969, caps: [{clients: 10.0.0.0/8, blksize: 1228}]}",
            "caps: [{clients: 10.9.0.0/16, blksize: 1228}]",
            None,
        ),
        (
            "multicast: {port: 6969, caps: [{clients: 10.9.1.0/24, blksize: 1228}]}",
            "caps: [{clients: 10.9.0.0/16, blksize: 1228}]",
            LARGER,
        ),
        (
            "sbroadcast: {port: 6969, subnets: [10.9.1.0/24]}",
            "caps: [{clients: 10.9.0.0/16, blksize: 1228}]",
            "blocks of up to what the MTU carries here, and of at most 1228",
        ),
        ("sbroadcast: {port: 6969, subnets: [10.8.1.0/24]}", "caps: [{clients: 10.9.0.0/16, blksize: 1228}]", None),
    ],
)
def test_checkLargerBlocks(folder: Path, group: str, tftp: str, told: str | None) -> None:
    """A group that sends larger blocks to somebody than the tftp behind it does is worth a warning."""
    (folder / "x.yaml").write_text(f"{GOOD}transports:\n  {group}\n  tftp: {{port: 6969, {tftp}}}\n")
    result = castd("check", folder / "x.yaml")
    assert result.exit_code == 0, result.stderr
    warned = [line for line in result.stderr.splitlines() if "from 'tftp'" in line]
    assert len(warned) == (told is not None)
    assert told is None or told in warned[0]
    assert all(line.startswith(f"warning: {folder}/x.yaml:5: transports.") for line in warned)


def test_checkCaps(folder: Path) -> None:
    """A cap that is none is a fault at its line; one that changes nothing is a warning."""
    file = folder / "x.yaml"
    file.write_text(GOOD + CAPPED)
    result = castd("check", file)
    at = len(GOOD.splitlines())
    assert result.exit_code == 0, result.stderr
    group = "multicast: caps: a blksize of 1428 changes nothing: blksize is 1428 for all"
    unicast = "tftp: caps: a windowsize of 64 changes nothing: windowsize is 16 for all"
    assert [line for line in result.stderr.splitlines() if "caps" in line] == [
        f"warning: {file}:{at + 2}: transports.{group}",
        f"warning: {file}:{at + 6}: transports.{unicast}",
        f"warning: {file}:{at + 4}: transports.multicast.caps: {LARGER}, and of at most 1228 from 'tftp'",
    ]
    wrong = {
        "{clients: 10.9.0.0/16}": "[0]: a cap names blksize, windowsize or both",
        "{clients: 10.9.0.0/16, blksize: 7}": "[0].blksize: 7 is not between 8 and 65464",
        "{clients: 10.9.0.1/16, blksize: 512}": "[0].clients: 10.9.0.1/16 has bits set behind its prefix: "
        "did you mean 10.9.0.0/16?",
        "{blksize: 512}": "[0].clients: is missing (networks of those clients)",
    }
    for cap, complaint in wrong.items():
        file.write_text(GOOD + CAPPED.replace("{clients: 10.9.0.0/16, blksize: 1228}", cap))
        result = castd("check", file)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[0] == f"{file}:{at + 10}: transports.tftp.caps{complaint}"


def test_checkWays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's ways in are checked as ports are: what is no address is a fault, what may be wrong a warning."""
    good = GOOD + "transports: {tftp: {port: 6969, interface: 127.0.0.1}}\n"
    file = folder / "x.yaml"
    file.write_text(good + "metrics: {listen: '127.0.0.1:80'}\ncontrol: {path: /run/castd-none/control}\n")
    monkeypatch.setattr(check, "_bind", lambda host, port, kind: errno.EACCES if 0 < port < 1024 else 0)
    monkeypatch.setattr(check, "UNPRIVILEGED", "/nowhere")
    result = castd("check", file)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"warning: {file}:6: control.path: /run/castd-none: no such folder yet; systemd's RuntimeDirectory= makes it",
        f"warning: {file}:5: metrics.listen: port 80 is below 1024: this user may not have it",
    ]
    assert [line.split() for line in result.stdout.splitlines()[2:]] == [
        ["127.0.0.1:80", "metrics"],
        ["/run/castd-none/control", "control"],
    ]
    file.write_text(good + f"control: {{path: {'x' * 108}}}\n")
    result = castd("check", file)
    assert result.exit_code == 1
    assert result.stderr == f"{file}:5: control.path: {folder}/{'x' * 108}: longer than 107 octets\n"


_NEITHER = "neither a numeric address (IPv6 in brackets) and a port nor an endpoint of Twisted"


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("127.0.0.1:99999", "99999 is no port, which is from 1 to 65535"),
        ("tcp:99999", "99999 is no port, which is from 1 to 65535"),
        ("tcp:port=-3:interface=127.0.0.1", "-3 is no port, which is from 1 to 65535"),
        ("localhost:9147", _NEITHER),
        ("fd00::1:9147", _NEITHER),
        ("9147", _NEITHER),
        ("systemd:domain=INET:index=0", _NEITHER),
        ("tcp", "no endpoint of Twisted: missing 1 required positional argument: 'port'"),
        ("tcp:what", "no endpoint of Twisted: invalid literal for int() with base 10: 'what'"),
        ("tcp:9147:host=0", "no endpoint of Twisted: got an unexpected keyword argument 'host'"),
        ("unix:" + "x" * 108, "longer than 107 octets"),
    ],
)
def test_checkMetrics(folder: Path, monkeypatch: pytest.MonkeyPatch, listen: str, why: str) -> None:
    """What is no endpoint for the metrics is told with its place, with the reason and what to write."""
    monkeypatch.chdir(folder)
    file = folder / "x.yaml"
    file.write_text(f"{GOOD}transports: {{tftp: {{port: 6969}}}}\nmetrics: {{listen: '{listen}'}}\n")
    result = castd("check", file)
    cure = "write an address and a port, such as 127.0.0.1:9147"
    assert (result.exit_code, result.stderr) == (1, f"{file}:5: metrics.listen: {listen}: {why}: {cure}\n")


@pytest.mark.parametrize(
    ("listen", "missing"),
    [
        ("tcp:9147:interface=192.0.2.7", "no interface of this machine has the address 192.0.2.7"),
        ("tcp6:9147:interface=2001\\:db8\\:\\:7", "no interface of this machine has the address 2001:db8::7"),
        ("haproxy:tcp:9147:interface=192.0.2.7", "no interface of this machine has the address 192.0.2.7"),
        ("unix:none/metrics", "none: no such folder"),
        ("unix:boot", "boot: is a folder"),
        ("unix:good.yaml", "good.yaml: is there, and no socket: remove it"),
        ("unix:metrics:mode=600", None),
        ("tcp:0:interface=localhost", None),
    ],
)
def test_checkMetricsHere(folder: Path, monkeypatch: pytest.MonkeyPatch, listen: str, missing: str | None) -> None:
    """What an endpoint of Twisted's needs of this machine is looked for as for an address and a port."""
    monkeypatch.chdir(folder)
    file = folder / "x.yaml"
    file.write_text(f"{GOOD}transports: {{tftp: {{port: 6969}}}}\nmetrics: {{listen: '{listen}'}}\n")
    result = castd("check", file)
    assert result.stderr == ("" if missing is None else f"{file}:5: metrics.listen: {missing}\n")


def test_serveOptions(folder: Path) -> None:
    """A user who is not there, or a group of nobody's, is wrong usage."""
    for options, complaint in (
        (("--user", "nobody-has-this"), "there is no user nobody-has-this"),
        (("--group", "0"), "--group is that of --user: who is it?"),
    ):
        result = castd("serve", "-c", folder / "good.yaml", *options)
        assert (result.exit_code, complaint in result.stderr) == (2, True)


def test_checkMachine(folder: Path) -> None:
    """What this machine lacks is a fault, beside wrong keys, all at once: the server would not start."""
    file = folder / "x.yaml"
    file.write_text(
        GOOD.replace("boot", "none")
        + "transports:\n  tftp: {interface: 192.0.2.7}\n  other: {use: tftp, prot: 1}\n"
        + "  six: {use: tftp, interface: fe80::1%none}\n"
        + "metrics: {listen: '192.0.2.7:9147'}\nlogging: {json: none/x.log}\ncontrol: {path: none/control}\n"
    )
    assert castd("check", file).stderr.splitlines() == [
        f"{file}:2: content[0].directory.path: {folder}/none: No such file or directory",
        f"{file}:5: transports.tftp: no interface of this machine has the address 192.0.2.7",
        f"{file}:6: transports.other.prot: unknown key: did you mean port?",
        f"{file}:7: transports.six: no interface of this machine has the address fe80::1%none",
        f"{file}:8: metrics.listen: no interface of this machine has the address 192.0.2.7",
        f"{file}:9: logging.json: {folder}/none: no such folder",
        f"{file}:10: control.path: {folder}/none: no such folder",
    ]


OWN = [
    ("logging: {file: boot}", 5, "logging.file: {folder}/boot: is a folder"),
    ("logging: {json: boot}", 5, "logging.json: {folder}/boot: is a folder"),
    ("history: {path: boot}", 5, "history.path: {folder}/boot: is a folder"),
    ("control: {path: boot}", 5, "control.path: {folder}/boot: is a folder"),
    ("control: {path: boot/hello.txt}", 5, "control.path: {folder}/boot/hello.txt: is there, and no socket: remove it"),
    ("logging: {format: journal}", 5, "logging.format: the journal is not there: no {folder}/journal"),
]


@pytest.mark.parametrize(("section", "line", "fault"), OWN, ids=[section for section, _, _ in OWN])
def test_checkOwnFiles(folder: Path, monkeypatch: pytest.MonkeyPatch, section: str, line: int, fault: str) -> None:
    """What lies where castd would make a file of its own, or that there is no journal, is a fault."""
    file = folder / "x.yaml"
    file.write_text(f"{GOOD}transports: {{tftp: {{port: 6969, interface: 127.0.0.1}}}}\n{section}\n")
    monkeypatch.setattr(journal, "SOCKET", str(folder / "journal"))
    said = castd("check", file)
    assert (said.exit_code, said.stderr) == (1, f"{file}:{line}: {fault.format(folder=folder)}\n")


@pytest.mark.slow
@pytest.mark.parametrize("section", [section for section, _, _ in OWN[:-1]])
def test_startAgrees(folder: Path, section: str) -> None:
    """What the check calls a fault keeps the server from starting: one that is too strict would be wrong as well."""
    file = folder / "x.yaml"
    file.write_text(f"{GOOD}transports: {{tftp: {{port: 6969, interface: 127.0.0.1}}}}\n{section}\n")
    with running("-m", "castd", "serve", file) as process:
        assert process.wait(60) in (69, 78)


OCTET, LONG = '"\\udce9"', "x" * 5000
ODD = [
    (
        "access: [{allow: any, names: ['V']}]",
        "[" * 20_000,
        "a pattern of 20000 characters is longer than any name needs",
    ),
    ("access: [{allow: any, names: [V]}]", "'a{99999999999}'", None),
    ("access: [{allow: any, names: [V]}]", OCTET, None),
    ("access: [{allow: V}]", OCTET, "\\xe9 is not a network"),
    ("uploads: [{directory: {path: boot, mode: V}}]", OCTET, "\\xe9 is no mode of a file"),
    ("limits: {drain: V}", OCTET, "\\xe9 is not a duration"),
    ("limits: {drain: V}", '"\\u202e"', "202e is not a duration"),
    ("logging: {json: V}", "x" * 300, "File name too long"),
    ("logging: {file: V}", "a/" * 20_000, "a path of 40000 characters is longer than the system takes"),
    ("history: {path: V}", LONG, "a path of 5000 characters is longer than the system takes"),
    ("control: {path: V}", "x" * 300, "File name too long"),
    ("content: [{directory: {path: V}}]", "x" * 300, "File name too long"),
    ("content: [{directory: {path: boot, rewrite: [{from: V, to: x}]}}]", "'a{99999999999}'", None),
    ("content: [{directory: {path: boot, under: V}}]", "'a{99999999999}'", "99999999999"),
    ("content: [{directory: {path: boot, rewrite: [{from: V, to: x}]}}]", "(" * 20_000, "rewrite[0]"),
    ("content: [{directory: {path: boot, under: V}}]", '"\\ud800"', "a half of a character"),
    ("transports: {tftp: {use: V}}", '"a\\0b"', "octet of 0"),
]


@pytest.mark.parametrize(("section", "value", "fault"), ODD, ids=[f"{key[:30]} {value[:15]}" for key, value, _ in ODD])
def test_checkOdd(folder: Path, section: str, value: str, fault: str | None) -> None:
    """Whatever stands in the place of a name, a rule or a path is a fault in one printable line, or is nothing."""
    file, first = folder / "x.yaml", section.partition(":")[0]
    usual = {
        "content": "content: [{directory: {path: boot}}]",
        "access": "access: [{allow: any}]",
        "transports": "transports: {tftp: {port: 6969, interface: 127.0.0.1}}",
    }
    lines = (usual | {first: section.replace("V", value)}).values()
    file.write_text("castd: 1\n" + "\n".join(lines) + "\n")
    result = castd("check", file)
    assert (result.exit_code, type(result.exception)) == ((0, type(None)) if fault is None else (1, SystemExit))
    assert all(line.isprintable() for line in result.stderr.splitlines())
    assert fault is None or fault in result.stderr


def test_checkPipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO in place of the service file is no file, and is not waited for."""
    monkeypatch.setattr(yaml, "PIPE_TIMEOUT", 0.05)
    os.mkfifo(folder / "pipe.yaml")
    result = castd("check", folder / "pipe.yaml")
    told = f"{folder}/pipe.yaml: cannot be read: it is no file, and nothing has come"
    assert (result.exit_code, result.stderr.startswith(told), result.stderr.count("\n")) == (1, True, 1)


@pytest.mark.slow
@pytest.mark.loopback
def test_plantedLog(folder: Path) -> None:
    """A link in place of the JSON log, in a folder where others may write, keeps castd from starting, and is named."""
    shared, victim = folder / "shared", folder / "victim"
    shared.mkdir()
    shared.chmod(0o1777)
    victim.write_bytes(b"precious\n")
    (shared / "log").symlink_to(victim)
    file = folder / "x.yaml"
    port = f"{{port: {freePort()}, interface: 127.0.0.1}}"
    file.write_text(f"{GOOD}transports: {{tftp: {port}}}\nlogging: {{json: shared/log}}\n")
    status, (line,) = serving(file)
    assert status == 69
    assert line.startswith(f"{file}:5: logging.json: {shared}/log: a symbolic link, in a folder where others may write")
    assert victim.read_bytes() == b"precious\n"


def test_checkUnwritable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is there is appended to, whoever owns its folder; a history needs its folder as well."""
    file, access = folder / "x.yaml", os.access
    kept = folder / "kept"
    kept.mkdir()
    (kept / "log").touch()
    (kept / "history").touch()
    text = f"{GOOD}transports: {{tftp: {{port: 6969, interface: 127.0.0.1}}}}\n"
    file.write_text(f"{text}logging: {{file: kept/log}}\nhistory: {{path: kept/history}}\n")
    closed = {kept}
    monkeypatch.setattr(os, "access", lambda path, *how, **more: path not in closed and access(path, *how, **more))
    history = f"{file}:6: history.path: {kept}: this user may not write there"
    assert castd("check", file).stderr.splitlines() == [history]
    closed.add(kept / "log")
    log = f"{file}:5: logging.file: {kept}/log: this user may not write it"
    assert castd("check", file).stderr.splitlines() == [log, history]


def test_checkReadOnly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file system that is read-only it is said so, by a check and by a start: no permission would help."""
    file, access = folder / "x.yaml", os.access
    for name in ("kept", "captures", "up"):
        (folder / name).mkdir()
    closed = {str(folder / name) for name in ("kept", "captures", "up")}
    text = f"{GOOD}transports: {{tftp: {{port: 6969, interface: 127.0.0.1}}}}\n"
    logs = "logging: {file: kept/log}\nhistory: {path: kept/history}\n"
    uploads = "uploads: [{directory: {path: up}}]\n"
    file.write_text(f"{text}{logs}recorder: {{directory: captures}}\n{uploads}")

    def accessOf(path: str | Path, mode: int, **more: Any) -> bool:
        return not (str(path) in closed and mode & os.W_OK) and access(path, mode, **more)

    monkeypatch.setattr(os, "access", accessOf)
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_flag=os.ST_RDONLY * (str(place) in closed)))
    assert castd("check", file).stderr.splitlines() == [
        f"{file}:5: logging.file: {folder}/kept: Read-only file system",
        f"{file}:6: history.path: {folder}/kept: Read-only file system",
        f"{file}:7: recorder.directory: {folder}/captures: Read-only file system",
        f"{file}:8: uploads[0].directory.path: {folder}/up: Read-only file system",
    ]


@pytest.mark.slow
@pytest.mark.root
def test_startReadOnly(folder: Path) -> None:
    """A start says the same, where a file system is really mounted so."""
    file, place, (port,) = folder / "x.yaml", folder / "place", free(socket.SOCK_DGRAM)
    place.mkdir()
    tried = run("mount", "-t", "tmpfs", "-o", "ro", "castd", place)
    if tried.returncode:
        lack(f"nothing can be mounted here: {tried.stderr}")
    try:
        for section, key in (
            ("recorder: {directory: place}", "recorder.directory"),
            ("uploads: [{directory: {path: place}}]", "uploads[0].directory.path"),
            ("logging: {file: place/log}", "logging.file"),
        ):
            file.write_text(f"{GOOD}transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\n{section}\n")
            status, lines = serving(file)
            assert status == os.EX_UNAVAILABLE, lines
            assert lines[0].startswith(f"{file}:5: {key}: {place}")
            assert lines[0].endswith(": Read-only file system")
    finally:
        run("umount", place, check=True)


@pytest.mark.parametrize("interface", ["''", "'::'"])
def test_checkFamily(folder: Path, monkeypatch: pytest.MonkeyPatch, interface: str) -> None:
    """A family of addresses that the kernel does not have is a fault, as any reason why no port can be bound."""
    monkeypatch.setattr(check, "_bind", lambda host, port, kind: errno.EAFNOSUPPORT)
    file = folder / "x.yaml"
    file.write_text(f"{GOOD}transports: {{tftp: {{interface: {interface}}}}}\n")
    said = castd("check", file)
    shown = interface.strip("'") or "any address"
    assert (said.exit_code, said.stderr) == (
        1,
        f"{file}:4: transports.tftp: {shown}: Address family not supported by protocol\n",
    )


@pytest.mark.loopback
def test_checkTaken(folder: Path) -> None:
    """A port that is taken is a warning: a castd that runs has it."""
    file = folder / "x.yaml"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        file.write_text(GOOD + f"transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\n")
        said = castd("check", file)
    assert (said.exit_code, said.stderr) == (
        0,
        f"warning: {file}:4: transports.tftp: port {port} is taken now, by a castd that runs or another program\n",
    )


@pytest.mark.loopback
def test_checkPortOfTheOtherFamily(folder: Path) -> None:
    """A port that is taken at all addresses of IPv4 is free at those of IPv6, as the server binds it."""
    file = folder / "x.yaml"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 0))
        port = other.getsockname()[1]
        if bindFails("::", port):
            lack("IPv6")
        file.write_text(f"{GOOD}transports: {{tftp: {{port: {port}, interface: '::'}}}}\n")
        said = castd("check", file)
    assert (said.exit_code, said.stderr) == (0, "")


@pytest.mark.loopback
def test_checkTriesServicePorts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port of a service is tried at its address; a group is not joined for that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        assert check._whyNoPort(ServicePort("127.0.0.1", port))
    assert not check._whyNoPort(ServicePort("127.0.0.1", port))
    gone = check._whyNoPort(ServicePort(f"{devices.BROADCAST}%192.0.2.7", port))
    assert gone == "no interface of this machine has the address 192.0.2.7"
    monkeypatch.delattr(check, "bindFails")
    assert not check._whyNoPort(ServicePort("239.255.66.1%127.0.0.1", port))


@pytest.mark.parametrize(
    ("access", "file", "told"),
    [
        ("[{allow: any}]", "hello.txt", None),
        ("[{allow: any}]", "/hello.txt", None),
        ("[{allow: any}]", "Hello.txt", "Hello.txt is not there: who asks for it is not served"),
        (
            "[{allow: any}]",
            "out",
            "out is refused to everybody: a link leads out of the root: who asks for it is not served",
        ),
        (
            "[{allow: any, names: [x]}]",
            "hello.txt",
            "hello.txt is refused to everybody: allowed by no access rule: who asks",
        ),
        ("[{deny: any, for: write}, {allow: 10.9.0.0/16}]", "hello.txt", None),
        ("[{allow: any}]", "private/hello.txt", None),
    ],
)
def test_checkFiles(folder: Path, access: str, file: str, told: str | None) -> None:
    """A file of slam or mtftp that nobody would get is a warning at the line of its key: it may come later."""
    (folder / "boot" / "out").symlink_to("/etc/passwd")
    directories = "[{directory: {path: boot}}, {directory: {path: boot, under: private, networks: 10.9.0.0/16}}]"
    text = f"castd: 1\ncontent: {directories}\naccess: {access}\ntransports:\n  tftp: {{}}\n"
    for kind, line in ((f"  slam:\n    file: {file}\n", 7), (f"  mtftp:\n    files: {{{file}: null}}\n", 7)):
        (folder / "x.yaml").write_text(text + kind)
        result = castd("check", folder / "x.yaml")
        assert result.exit_code == 0, result.stderr
        warned = [each for each in result.stderr.splitlines() if "who asks" in each]
        assert len(warned) == (told is not None), result.stderr
        assert told is None or told in warned[0]
        assert all(each.startswith(f"warning: {folder}/x.yaml:{line}: transports.") for each in warned)


MTFTP = "castd: 1\ncontent: [{directory: {path: boot}}]\ntransports:\n  mtftp:\n    interface: 127.0.0.1\n    files:\n"


def test_checkLeases(folder: Path) -> None:
    """castd check warns of a lease file that is not there, is none, or is of another server; one may be empty yet."""
    (folder / "isc").write_text("lease 10.0.0.7 { binding state active; hardware ethernet 52:54:00:66:00:10; }\n")
    (folder / "empty").write_text("# made when the server started\n")
    leases = [{"path": each, "format": "dnsmasq"} for each in ("gone", ".", "isc", "empty")]
    section = {"leases": [*leases, {"path": "isc", "format": "isc"}]}
    with (folder / "good.yaml").open("a") as file:
        file.write(f"machines: {json.dumps(section)}\n")
    checked = castd("check", folder / "good.yaml")
    assert checked.exit_code == 0, checked.output
    lines = [line for line in checked.stderr.splitlines() if line.endswith(": machines are not known by it")]
    assert [line.split(": ", 3)[3].removesuffix(": machines are not known by it") for line in lines] == [
        f"{folder}/gone: No such file or directory",
        f"{folder}: not a regular file",
        f"{folder}/isc: its format is isc, not dnsmasq",
    ]


def test_checkGroups(folder: Path) -> None:
    """Files that iPXE cannot have are named, and that is a warning only."""
    (folder / "x.yaml").write_text(MTFTP + "      hello.txt: 239.255.1.1:3001\n      b: 239.255.1.2:3002\n")
    (folder / "boot" / "b").write_bytes(b"b")
    result = castd("check", folder / "x.yaml")
    assert result.exit_code == 0
    assert f"warning: {folder}/x.yaml:4: transports.mtftp: iPXE hears 239.255.1.1:3001 only" in result.stderr
    (folder / "x.yaml").write_text(MTFTP + "      hello.txt: 239.255.1.1:3001\n")
    nobody = f"warning: {folder}/x.yaml:4: transports.mtftp: no tftp at port 69: clients that give up here ask there\n"
    assert castd("check", folder / "x.yaml").stderr == nobody
    with (folder / "x.yaml").open("a") as file:
        file.write("  tftp: {port: 69}\n")
    assert nobody not in castd("check", folder / "x.yaml").stderr


def test_checkTooLong(folder: Path) -> None:
    """A file that is too long for its protocol is refused, at its line, before anybody asks for it."""
    for size, status in ((33553919, 0), (33553920, 1)):
        with (folder / "boot" / "hello.txt").open("wb") as file:
            file.truncate(size)
        (folder / "x.yaml").write_text(MTFTP + "      hello.txt: 239.255.1.1:3001\n")
        result = castd("check", folder / "x.yaml")
        assert result.exit_code == status
        assert status == 0 or result.stderr.startswith(
            f"{folder}/x.yaml:6: transports.mtftp.files: hello.txt is longer"
        )


def test_dhcp() -> None:
    """Option 43 for a boot ROM, as octets and as two DHCP servers take it."""
    inside = "01:04:ef:ff:01:01:02:02:b9:0b:03:02:df:06:04:01:02:05:01:02:ff"
    assert castd("dhcp43", "239.255.1.1:3001").stdout.splitlines() == [
        f"octets:   2b 15 {inside.replace(':', ' ')}",
        f"dnsmasq:  dhcp-option-force=43,{inside}",
        f"ISC:      option vendor-encapsulated-options {inside};",
    ]
    assert castd("dhcp43", "10.0.0.1:3001").exit_code == 2
    assert castd("dhcp43", "239.255.1.1:3001", "--listen", "0").exit_code == 2


def test_checkPlugins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that cannot be used is a warning as long as nothing needs it."""
    found = plugins.collect()
    found.faults.append("castd/plugins/x.py: cannot be imported: [no]")
    monkeypatch.setattr(check, "collect", lambda: found)
    assert castd("check", folder / "good.yaml").stderr == "warning: castd/plugins/x.py: cannot be imported: [no]\n"


def test_plugins() -> None:
    """What can be named is listed, with a line on each."""
    result = castd("plugins")
    lines = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert ["tftp", "transport"] in [line[:2] for line in lines]
    assert ["directory", "source"] in [line[:2] for line in lines]


def test_pluginOptions() -> None:
    """With a name, its options are listed with type, default and meaning."""
    result = castd("plugins", "tftp")
    port = next(line for line in result.stdout.splitlines() if line.startswith("port "))
    assert " ".join(port.split()) == "port number, 1 to 65535 69 UDP port that requests come to"


def test_pluginUnknown() -> None:
    """A name that is not there is told with those that are."""
    result = castd("plugins", "nix")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: nothing here is called nix; known are ")
    assert "tftp" in result.stderr


def test_pluginBroken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin whose module cannot be imported is told in a line."""
    broken = Collected(transports={"x": TransportMaker("x", "castd.nowhere", "")})
    monkeypatch.setattr(plugins, "collect", lambda: broken)
    result = castd("plugins", "x")
    assert result.exit_code == 1
    assert "castd.nowhere cannot be imported" in result.stderr
    assert castd("schema").exit_code == 1


def test_schema() -> None:
    """The JSON schema is printed, with every kind that is there."""
    result = castd("schema")
    assert "transports.tftp" in json.loads(result.stdout)["$defs"]


@pytest.mark.slow
def test_serveBad(folder: Path) -> None:
    """`castd serve` with a bad file is a line for each fault and status 78 (EX_CONFIG)."""
    said = subprocess.run(
        [sys.executable, "-m", "castd", "serve", "-c", folder / "bad.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode == 78
    assert [line.partition(": ")[0] for line in said.stderr.splitlines()] == [
        f"{folder}/bad.yaml:4",
        f"{folder}/bad.yaml:6",
    ]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("serve",), 78),
        (("serve", "-c"), 78),
        (("check",), 1),
        (("explain", "--client", "10.0.0.7", "--name", "x"), 2),
        (("doctor",), 1),
    ],
)
def test_readByItself(folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int) -> None:
    """Each command reads the file to find out whether it may, and says what came of it: it is no wrong usage."""
    (folder / "x.yaml").write_text("castd: 2\n")
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    said = castd(*words, folder / "x.yaml")
    assert (said.exit_code, f"{folder}/x.yaml:1: castd: schema 2 is not known" in said.output) == (status, True), (
        said.output
    )


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("serve", "../good.yaml"), 78),
        (("serve", "."), 2),
        (("check", "../good.yaml"), 1),
        (("doctor", "../good.yaml"), 1),
    ],
)
def test_noWorkingDirectory(folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int) -> None:
    """A relative path where the working directory was removed is a fault that says so."""
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()
    said = castd(*words)
    assert (said.exit_code, "the working directory was removed" in said.output) == (status, True), said.output


def test_checkIdlePorts(folder: Path) -> None:
    """A range of ports beside single-port is a warning: none of them is ever used."""
    options = "port: 6969, interface: 127.0.0.1, single-port: true, windowsize: 1, ports: 7000-7999"
    (folder / "x.yaml").write_text(f"{GOOD}transports:\n  tftp: {{{options}}}\n")
    assert castd("check", folder / "x.yaml").stderr == (
        f"warning: {folder}/x.yaml:5: transports.tftp: ports: changes nothing: "
        "with single-port transfers have the port of the requests; leave one out\n"
    )


def test_checkWithoutMetrics(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library for metrics is not installed, the fault says what to install."""
    (folder / "x.yaml").write_text(
        f"{GOOD}metrics: {{listen: 127.0.0.1:9147}}\ntransports: {{tftp: {{port: 6969, interface: 127.0.0.1}}}}\n"
    )
    monkeypatch.setitem(sys.modules, "castd.observe.page", None)
    said = castd("check", folder / "x.yaml").stderr
    assert said.startswith(
        f"{folder}/x.yaml:4: metrics.listen: it needs what pip install 'castd[metrics]' installs: "
    ), said


def test_folderByMistake(folder: Path) -> None:
    """With -c a folder is no service file; without it, it is a directory to serve."""
    said = castd("serve", "-c", folder / "boot")
    assert (said.exit_code, said.stderr) == (78, f"{folder}/boot: cannot be read: Is a directory\n")


@pytest.mark.slow
def test_tooLongToLookAt(folder: Path) -> None:
    """Where the system cannot say whether there is a file, a start tells its reason, and has no traceback."""
    long = "x" * 300
    file = folder / "x.yaml"
    file.write_text(
        f"{GOOD}transports: {{tftp: {{port: {freePort()}, interface: 127.0.0.1}}}}\nrecorder: {{directory: {long}}}\n"
    )
    assert serving(file) == (69, [f"{file}:5: recorder.directory: {folder}/{long}: File name too long"])
    said = castd("serve", folder / long)
    assert (said.exit_code, said.stderr) == (78, f"{folder}/{long}: cannot be read: File name too long\n")


def test_tap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`twistd castd -c FILE` makes everything while it reads its options, and has it ready as the service."""
    server = object()
    monkeypatch.setattr(tap, "prepare", lambda file, reactor, user: (file, server)[1])
    options = tap.Options()
    options.parseOptions(["-c", str(folder / "good.yaml")])
    assert tap.makeService(options) is server


def test_tapBad(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a bad file it says each fault in a line and exits with status 78 (EX_CONFIG)."""

    def refuse(file: object, reactor: object, user: object) -> object:
        raise ConfigError("x.yaml:1: one", "x.yaml:2: two")

    monkeypatch.setattr(tap, "prepare", refuse)
    with pytest.raises(SystemExit) as raised:
        tap.Options().parseOptions(["-c", "x.yaml"])
    assert (raised.value.code, capsys.readouterr().err) == (78, "x.yaml:1: one\nx.yaml:2: two\n")


def test_tapLogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options of twistd and twist decide who keeps the log, and where."""
    monkeypatch.chdir(tmp_path)
    plain = {"logger": None, "syslog": False, "logfile": None, "nodaemon": True, "debug": False, "prefix": "p"}
    assert not tap._logs({**plain, "logger": object()}).keepsLog
    assert all(tap._logs({**plain, **each}).keepsLog for each in ({}, {"syslog": True}, {"logfile": "-"}))
    with pytest.raises(UsageError, match="a daemon has no standard output to log to"):
        tap._logs({**plain, "logfile": "-", "nodaemon": False})
    twist = {"fileLogObserverFactory": jsonFileLogObserver}
    assert not tap._logs(twist).keepsLog
    assert twist["fileLogObserverFactory"] is jsonLog
    assert tap._logs({"fileLogObserverFactory": textFileLogObserver}).keepsLog is False


@pytest.fixture
def syslogd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of the system's log, which nobody reads but the test."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.setblocking(False)
        log.bind(str(tmp_path / "log"))
        monkeypatch.setattr(tap, "SyslogSocket", partial(SyslogSocket, str(tmp_path / "log")))
        yield log


def syslogLine(log: socket.socket) -> tuple[int, str]:
    """Return the priority of the next line, and what stands behind its time."""
    told = re.fullmatch(r"<(\d+)>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d (.*)", log.recv(9999).decode())
    assert told is not None
    return int(told[1]), told[2]


def test_tapSyslog(syslogd: socket.socket) -> None:
    """What goes to the system's log is the sentence that people read, and nothing that a client could break out of."""
    log = Logger(namespace="castd", observer=tap._syslog("bootd")("text"))
    log.info("{name}", event="received", outcome="done", transport="tftp", peer="10.0.0.7:1", name="a\nb")
    log.error("{why}", event="refused", why="no\x1b[2J")
    assert syslogLine(syslogd) == (8 | 6, "bootd: [castd] tftp: 10.0.0.7:1 a\\x0ab: complete")
    assert syslogLine(syslogd) == (8 | 3, "bootd: [castd] no\\x1b[2J")


def test_syslogTraceback(syslogd: socket.socket) -> None:
    """A traceback is several lines."""
    log = Logger(namespace="castd", observer=tap._syslog("bootd")("text"))
    try:
        raise RuntimeError("broken\x1b")
    except RuntimeError:
        log.failure("a cast failed")
    assert syslogLine(syslogd) == (8 | 2, "bootd: [castd] a cast failed")
    assert syslogLine(syslogd)[1].startswith("bootd: [castd] \tTraceback")


def test_syslogUnread(syslogd: socket.socket) -> None:
    """
    The system's log is not waited for: what it does not take is lost and counted, and the next line that it takes has
    the number before it.
    """
    observer = tap._syslog("bootd")("text")
    assert isinstance(observer, SyslogObserver)
    log = Logger(namespace="castd", observer=observer)
    for number in range(100_000):
        log.info("{number}", number=number)
        if observer.lostInAll == 2:
            break
    assert observer.lost == 2
    for _ in range(number - 1):
        syslogLine(syslogd)
    log.info("again")
    said = "bootd: [castd] 2 lines before this one were lost: the system's log did not take them"
    assert [syslogLine(syslogd), syslogLine(syslogd)] == [(8 | 4, said), (8 | 6, "bootd: [castd] again")]
    assert (observer.lost, observer.lostInAll) == (0, 2)


def test_syslogAgain(syslogd: socket.socket, tmp_path: Path) -> None:
    """Where the system's log is started again, or later than castd, lines reach it from then on."""
    syslogd.close()
    os.unlink(tmp_path / "log")
    observer = tap._syslog("bootd")("text")
    log = Logger(namespace="castd", observer=observer)
    log.info("nobody hears that")
    for text in ("one", "two"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as another:
            another.setblocking(False)
            another.bind(str(tmp_path / "log"))
            log.info(text)
            *_, last = [syslogLine(another) for _ in range(2 if text == "one" else 1)]
            assert last == (8 | 6, f"bootd: [castd] {text}")
        os.unlink(tmp_path / "log")


def test_tapWithout() -> None:
    """Without a file it asks for one."""
    with pytest.raises(UsageError, match="castd -c FILE"):
        tap.Options().parseOptions([])


def test_steady() -> None:
    """The reactor's time is one that nobody sets back, for each command that has one."""
    reactor = SimpleNamespace(seconds=time.time)
    useMonotonicClock(reactor)
    assert reactor.seconds is time.monotonic
    seconds = "from castd.cli.transfer import commandReactor as of; print(of(SimpleNamespace(obj=None)).seconds)"
    words = [sys.executable, "-c", f"from types import SimpleNamespace; {seconds}"]
    assert subprocess.run(words, capture_output=True, check=True, text=True).stdout == f"{time.monotonic}\n"


def test_descriptors() -> None:
    """As many descriptors are asked for as may be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        assert bootstrap.raiseDescriptorLimit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_stockSource() -> None:
    """The announcement of the directory source names a module that keeps its promises."""
    maker = plugins.collect().sources["directory"]
    assert isinstance(maker, ContentSourceMaker)
    assert "path" in maker.options.model_fields


def freePort() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.loopback
@pytest.mark.parametrize(
    "command",
    [
        ("-m", "castd", "serve"),
        ("-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile=", "castd"),
    ],
    ids=["castd", "twistd"],
)
def test_serves(folder: Path, command: tuple[str, ...]) -> None:
    """Both ways to start it serve a file on a real socket, and end on SIGTERM."""
    port = freePort()
    file = folder / "served.yaml"
    file.write_text(GOOD + f"transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\n")
    with running(*command, "-c", file) as process:
        assert f"tftp listens at 127.0.0.1:{port}" in until(process, "listens at")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(b"\0\1hello.txt\0octet\0", ("127.0.0.1", port))
            datagram, peer = client.recvfrom(600)
            client.sendto(b"\0\4\0\1", peer)
        assert datagram == b"\0\3\0\1hello\n"
        until(process, "hello.txt")
        process.send_signal(signal.SIGTERM)
        # twistd dies of the signal it was sent once it has stopped, castd ends well.
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)


def serving(
    file: Path, *options: str, python: str = sys.executable, cwd: Path = ROOT, **environ: str
) -> tuple[int, list[str]]:
    """Start a server that ends by itself.  -> its exit status, and what it has said but for that it has stopped."""
    done = subprocess.run(
        [python, "-m", "castd", "serve", "-c", file, *options],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, [line for line in done.stdout.splitlines() if "castd has stopped" not in line]


@pytest.mark.slow
@pytest.mark.loopback
def test_taken(folder: Path) -> None:
    """
    A port that is taken is one line with file, line and reason, and status 69 (EX_UNAVAILABLE); of the transports whose
    ports were free nothing is said.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        file = folder / "taken.yaml"
        free = f"  tftp: {{port: {freePort()}, interface: 127.0.0.1}}\n"
        file.write_text(GOOD + f"transports:\n{free}  b: {{use: tftp, port: {port}, interface: 127.0.0.1}}\n")
        line = f"{file}:6: transports.b: 127.0.0.1:{port} is taken: another program listens there already"
        assert serving(file) == (69, [line])


@pytest.mark.slow
@pytest.mark.parametrize("value", ["x", "0"])
def test_notItsPredecessor(folder: Path, value: str) -> None:
    """CASTD_ELDER of somebody else's is one line with the cure, and status 69."""
    status, (line,) = serving(folder / "good.yaml", CASTD_ELDER=value)
    assert status == 69
    assert re.fullmatch("the process before this one .*: CASTD_ELDER names no channel: .*; castd sets it for .*", line)


@pytest.mark.slow
@pytest.mark.loopback
def test_anyEnvironment(folder: Path) -> None:
    """What else castd reads of its environment is ignored if it cannot be meant for it, and costs no start."""
    port = freePort()
    file = folder / "served.yaml"
    file.write_text(GOOD + f"transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\n")
    garbage = {
        "CASTD_NATIVE": "x",
        "JOURNAL_STREAM": "x:y:z",
        "LISTEN_FDS": "9" * 5000,
        "LISTEN_FDNAMES": "\udcff:\udcfe",
        "NOTIFY_SOCKET": f"@{'x' * 200}",
        "WATCHDOG_USEC": "9" * 5000,
        "WATCHDOG_PID": "",
    }
    # LISTEN_PID has to be the number of the very process.
    begin = "import os; os.environ['LISTEN_PID'] = str(os.getpid()); from castd.cli.main import main; main()"
    with running("-c", begin, "serve", "-c", file, **garbage) as process:
        until(process, f"tftp listens at 127.0.0.1:{port}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(b"\0\1hello.txt\0octet\0", ("127.0.0.1", port))
            assert client.recv(600) == b"\0\3\0\1hello\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()
        assert process.wait(timeout=30) == 0


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("closed", ["interpreter", "checkout"])
def test_unreadableProgram(folder: Path, closed: str) -> None:
    """A user who may not read the interpreter, or castd, is one line that names what is closed, and status 69."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "castd").symlink_to(ROOT / "castd")
        (place / "python").symlink_to(sys.executable)
        path = os.pathsep.join([name, *filter(None, sys.path)])
        python = str(place / "python") if closed == "interpreter" else sys.executable
        user = "--user", "65534", "--group", "65534"
        status, (line,) = serving(folder / "good.yaml", *user, python=python, cwd=place, PYTHONPATH=path)
    assert status == 69
    told = re.fullmatch(r"user 65534 may not read (\S+), since (\S+) is closed to it: install castd where .*", line)
    assert told is not None, line
    if closed == "interpreter":
        assert told.groups() == (python, name)
    else:
        # Where the interpreter itself is closed, as one in root's home is, that is told first.
        assert told.groups() == (f"{place}/castd/__init__.py", name) or told[1] == python


@pytest.mark.parametrize(
    "command",
    ["record --seconds", "doctor --listen", "get --timeout", "put --timeout", "status --watch"],
)
def test_noNumber(command: str) -> None:
    """C{nan} is no number of seconds: it would be waited for without an end."""
    said = castd(*command.split(), "nan")
    assert said.exit_code == 2
    assert "'nan' is not a number of seconds" in said.output


@pytest.mark.slow
@pytest.mark.loopback
def test_closedStreams(folder: Path) -> None:
    """
    A server whose standard streams were closed by whoever starts it serves, and ends well; no socket or file of its own
    has their descriptors.
    """
    (port,) = free(socket.SOCK_DGRAM)
    log, file = folder / "closed.log", folder / "closed.yaml"
    file.write_text(
        "castd: 1\ncontent: [{directory: {path: .}}]\nlogging: {file: closed.log}\n"
        f"transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\n"
    )
    command = ["/bin/sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', sys.executable, "-m", "castd", "serve", str(file)]
    with subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            said = partial(_serves, log, process)
            assert eventually(said, "a start or an end", 30) == "serves"
            streams = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in range(3)]
            assert streams == [os.devnull] * 3
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                # Its answer shows that the reactor runs, by which a signal is a stop.
                client.settimeout(10)
                client.sendto(b"\0\1closed.yaml\0octet\0", ("127.0.0.1", port))
                assert client.recv(600).startswith(b"\0\3\0\1castd: 1")
        finally:
            process.terminate()
            assert process.wait(40) == 0


def _serves(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return whether a server has begun to serve or has ended; C{""}: neither yet."""
    if process.poll() is not None:
        return f"ended with {process.returncode}"
    return "serves" if log.exists() and "serves by" in log.read_text() else ""


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("reload", {"twisted.internet.defer", "pydantic"}),
        ("record", {"twisted.internet.defer", "pydantic"}),
        ("history", {"twisted.internet.reactor", "pydantic"}),
        ("status", {"twisted.internet.reactor", "pydantic"}),
        ("get", {"twisted.internet.reactor", "castd.config.plugin"}),
        ("serve", {"twisted.internet.reactor", "castd.doctor", "castd.migrate", "castd.client"}),
    ],
)
def test_importsItsOwn(command: str, absent: set[str]) -> None:
    """A command waits for no import but its own, nor does a shell that completes it."""
    code = "import sys; from castd.cli.main import main; main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    found = run(sys.executable, "-c", code, command, "--help", check=True).stdout.split()
    assert absent & {*found} == set()


def test_namesAllCommands() -> None:
    """Each command that is found by its name is that command."""
    context = main.main.make_context("castd", ["status"])
    names = main.main.list_commands(context)
    assert len(names) > 15
    assert [getattr(main.main.get_command(context, name), "name", None) for name in names] == names
