"""`castd serve DIR` serves that directory, and `scripts/start` makes a server that `castd status` finds."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from castd.cli import control, folder, main
from castd.config import yaml
from castd.config.config import Config, build
from castd.config.plugin import collect
from castd.service.service import kinds
from tests.support.jobs import ROOT, running, until


def made(directory: Path, port: int, addresses: list[str], writable: bool) -> Config:
    """Return the service file of a directory, as the server reads it."""
    text = folder.serviceFile(directory, port, addresses, writable)
    return build(yaml.parse(text.encode(), "made"), directory / "made", kinds(collect()))


@pytest.mark.parametrize("name", ["boot", 'a "b" \\c', "ü: #{x}", "\u2028"])
def test_anyDirectory(name: str, tmp_path: Path) -> None:
    """The directory stands in the file whatever its name is; only its files may be read, by everybody."""
    found = made(tmp_path / name, 6969, ["", "::"], writable=False)
    assert [entry.options.base for entry in found.content] == [tmp_path / name]
    assert found.uploads == ()
    assert [(rule.allow is not None, rule.use) for rule in found.access or ()] == [(True, "read")]
    listening = [(entry.kind, entry.options.model_dump()) for entry in found.transports]
    assert [(kind, each["interface"], each["port"]) for kind, each in listening] == [
        ("tftp", "", 6969),
        ("tftp", "::", 6969),
    ]


def test_writable(tmp_path: Path) -> None:
    """With --writable what is uploaded replaces what is there."""
    found = made(tmp_path, 69, [""], writable=True)
    ((sink, policy),) = [(entry.kind, entry.options.model_dump()["policy"]) for entry in found.uploads]
    assert (sink, policy) == ("directory", "overwrite")
    assert [rule.use for rule in found.access or ()] == [None]


def test_noUtf8(tmp_path: Path) -> None:
    """A directory whose name no service file can hold is refused, and said why."""
    with pytest.raises(ValueError, match="UTF-8"):
        folder.serviceFile(tmp_path / os.fsdecode(b"\xff"), 69, [""], writable=False)


def test_usage(tmp_path: Path) -> None:
    """What names no file, two, or options of a directory for a file is wrong usage; so is a wrong address."""
    file = tmp_path / "x.yaml"
    file.write_text("castd: 1\n")
    for arguments, complaint in (
        ((), "Which service file?"),
        ((file, "-c", file), "Which service file?"),
        ((file, "--port", "1"), "--port, --listen and --writable are for a directory"),
        ((tmp_path, "--listen", "here"), "here is not a numeric address"),
        (("-c", tmp_path, "--port", "1"), "--port, --listen and --writable are for a directory"),
    ):
        said = CliRunner().invoke(main.main, ["serve", *map(str, arguments)])
        assert (said.exit_code, complaint in said.stderr) == (2, True), said.stderr


@pytest.mark.parametrize("option", [[], ["-c"]], ids=["FILE", "-c FILE"])
def test_check(option: list[str]) -> None:
    """`castd check` takes the file with and without -c."""
    said = CliRunner().invoke(main.main, ["check", *option, str(ROOT / "examples/quickstart/castd.yaml")])
    assert (said.exit_code, "127.0.0.1:6969" in said.stdout) == (0, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """Each shell is told how to ask castd for the words that fit."""
    said = CliRunner().invoke(main.main, ["completion", shell])
    assert (said.exit_code, "_CASTD_COMPLETE" in said.stdout) == (0, True)


def test_ownServer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd, commands ask the server that `scripts/start` has started in their own environment."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert control._defaultPath() == control.DEFAULT_PATH
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "control").touch()
    assert control._defaultPath() == str(tmp_path / "run" / "control")


def test_serverOfAnother(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose folder this user may not look into is asked all the same, so that he is told why he may not."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    # A name that is too long is refused by the system to root as well.
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ("x" * 300)))
    said = CliRunner().invoke(main.main, ["status"])
    assert (said.exit_code, said.stderr.startswith(f"Error: {tmp_path}/xxx")) == (1, True), said.output


@pytest.mark.slow
@pytest.mark.loopback
def test_serves(tmp_path: Path) -> None:
    """A directory is served on a real socket, the service file is printed, and nothing of it is left behind."""
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "hello.txt").write_bytes(b"hello\n")
    (tmp_path / "tmp").mkdir()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ("-m", "castd", "serve", tmp_path / "boot", "--listen", "127.0.0.1", "--port", str(port))
    with running(*command, TMPDIR=str(tmp_path / "tmp")) as process:
        until(process, "listens at")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(b"\0\1hello.txt\0octet\0", ("127.0.0.1", port))
            datagram, peer = client.recvfrom(600)
            client.sendto(b"\0\4\0\1", peer)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert datagram == b"\0\3\0\1hello\n"
    assert list((tmp_path / "tmp").iterdir()) == []
