"""
C{castd get} and C{castd put} as a user meets them, on a virtual network; and once over real sockets.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from click.testing import Result as Ran
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from castd.cli.display import Result, lineOf
from castd.cli.transfer import _status, get, put
from castd.client import schemes
from castd.client.output import OutputStream, PartialFile
from castd.client.schemes import Scheme
from castd.dialects import tftp
from castd.packets.netascii import encode
from castd.testing import MemorySink, Network, memorySite, pattern
from tests.support.stage import listener
from tests.test_client import Flood

SERVER, CLIENT = "10.0.0.1", "10.0.0.9"
FILE = pattern(100_000)
SUM = hashlib.sha256(FILE).hexdigest()


class Machine:
    """
    A host of the virtual network with the rest of a reactor: it runs until it is stopped.

    @ivar interrupt: seconds after which somebody presses Ctrl-C.
    """

    def __init__(self, network: Network, interrupt: float | None = None) -> None:
        self._host = network.host(CLIENT)
        self._network = network
        self._interrupt = interrupt
        self._shutdown: list[Callable[[], object]] = []
        self._stopped = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        self._host.callLater(0, call)

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], object]) -> None:
        assert (phase, event) == ("before", "shutdown")
        self._shutdown.append(call)

    def stop(self) -> None:
        assert not self._stopped, "stopped twice"
        self._stopped = True

    def run(self) -> None:
        if self._interrupt is not None:
            self._host.callLater(self._interrupt, self.stop)
        self._network.run(lambda: self._stopped, limit=600)
        for call in self._shutdown:
            call()


def raising(number: int) -> Callable[..., object]:
    """What fails with this error."""

    def fail(*_: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


class World:
    """A server, a client's machine, and a working directory."""

    def __init__(self, directory: Path, **files: bytes) -> None:
        self.directory = directory
        self.network = Network()
        self.site = memorySite(self.network, files=files, uploads=MemorySink({}))
        self.uploads: dict[str, bytes] = self.site.uploads.files
        self.listener = listener(self.site, (tftp, {}))
        self.site.ports.listen(69, self.listener)

    def run(self, command: Any, *words: str, interrupt: float | None = None, stdin: bytes | None = None) -> Ran:
        machine = Machine(self.network, interrupt)
        result = CliRunner().invoke(command, words, obj={"reactor": machine}, input=stdin)
        assert not machine.openPorts()
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def get(self, *words: str, **more: Any) -> Ran:
        return self.run(get, *words, **more)

    def put(self, *words: str, **more: Any) -> Ran:
        return self.run(put, *words, **more)

    def here(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.directory.iterdir()}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(tmp_path, file=FILE, text=b"a\nb\n", other=b"other")


URL = f"tftp://{SERVER}/file"


class TestGet:
    def test_get(self, world: World) -> None:
        """A file is fetched under its own name, readable as the umask allows; what it took is told on stderr."""
        result = world.get(URL)
        assert (result.exit_code, result.stdout) == (0, "")
        assert "file: 100000 octets" in result.stderr
        assert world.here() == {"file": FILE}
        mask = os.umask(0)
        os.umask(mask)
        assert stat.S_IMODE(Path("file").stat().st_mode) == 0o666 & ~mask

    @pytest.mark.parametrize(
        ("octets", "shown"),
        [(600, "30.0 kB/s"), (20_000_000, "1.0 GB/s"), (19, "950 bytes/s"), (0, "0 bytes/s")],
    )
    def test_rate(self, octets: int, shown: str) -> None:
        """The rate of a small file is told in a unit that shows it."""
        line = lineOf(Result("tftp://x/f", "f", octets=octets, seconds=0.02))
        assert line == f"f: {octets} octets in 0.02 s, {shown}"

    def test_output(self, world: World) -> None:
        """-o names the copy, and what it replaces gives it its mode."""
        Path("copy").write_bytes(b"old")
        Path("copy").chmod(0o640)
        assert world.get(URL, "-o", "copy").exit_code == 0
        assert world.here() == {"copy": FILE}
        assert stat.S_IMODE(Path("copy").stat().st_mode) == 0o640

    def test_link(self, world: World) -> None:
        """A symbolic link stays one; the file behind it is replaced."""
        Path("real").write_bytes(b"old")
        Path("link").symlink_to("real")
        assert world.get(URL, "-o", "link").exit_code == 0
        assert Path("link").is_symlink()
        assert Path("real").read_bytes() == FILE

    def test_several(self, world: World) -> None:
        """Several files are fetched at once into a directory."""
        Path("in").mkdir()
        assert world.get(URL, f"tftp://{SERVER}/other", "-d", "in").exit_code == 0
        assert {path.name for path in Path("in").iterdir()} == {"file", "other"}

    def test_many(self, world: World) -> None:
        """More files than are fetched at once wait for their turn."""
        for number in range(20):
            world.site.files[f"f{number}"] = bytes([number])
        result = world.get("-q", *[f"tftp://{SERVER}/f{number}" for number in range(20)])
        assert (result.exit_code, result.output) == (0, "")
        assert len(world.here()) == 20

    def test_one_of_two(self, world: World) -> None:
        """One that fails does not keep the others; the status tells of it."""
        result = world.get(URL, f"tftp://{SERVER}/nothing")
        assert result.exit_code == 3
        assert "nothing: ERROR 1: File not found" in result.stderr
        assert world.here() == {"file": FILE}

    def test_stdout(self, world: World) -> None:
        """-o - writes the file, and nothing but the file, to the standard output."""
        result = world.get(URL, "-o", "-", "--sha256", "--json")
        assert (result.exit_code, result.stdout_bytes) == (0, FILE)
        assert SUM in result.stderr

    def test_device(self, world: World) -> None:
        """Into what is no regular file is written; it is not replaced."""
        os.mkfifo("pipe")
        reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
        assert world.get(f"tftp://{SERVER}/other", "-o", "pipe").exit_code == 0
        assert os.read(reader, 100) == b"other"
        assert stat.S_ISFIFO(Path("pipe").stat().st_mode)
        os.close(reader)

    @pytest.mark.parametrize("words", [(), ("-q",), ("--json",)], ids=" ".join)
    def test_bars(self, world: World, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
        """On a terminal a bar shows the progress, unless it is not wanted; standard output stays as it was."""
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        result = world.get(URL, "--sha256", *words)
        assert result.exit_code == 0
        assert ("\x1b[" in result.stderr) == (words == ())
        if "--json" not in words:
            assert result.stdout == f"{SUM}  file\n"

    def test_netascii(self, world: World) -> None:
        """--netascii asks in that mode and gives the text its own line ends back."""
        assert world.get("--netascii", f"tftp://{SERVER}/text").exit_code == 0
        asked = [sighting.datagram for sighting in world.network.capture or () if b"netascii" in sighting.datagram]
        assert len(asked) == 1
        # The memory of a test serves the octets as they are; a CR is not in them.
        assert world.here() == {"text": b"a\nb\n"}

    def test_options(self, world: World) -> None:
        """--blksize and --windowsize are asked for, and what was granted is told."""
        result = world.get(URL, "--blksize", "1000", "--windowsize", "4", "--json")
        told = json.loads(result.stdout)
        assert (told["blksize"], told["windowsize"], told["octets"], told["file"]) == (1000, 4, 100_000, "file")
        assert (told["url"], told["outcome"], told["status"]) == (URL, "done", 0)


class TestChecksum:
    @pytest.mark.parametrize("words", [("--sha256", URL), (URL, "--sha256"), ("--sha256=", URL)], ids=" ".join)
    def test_shown(self, world: World, words: tuple[str, ...]) -> None:
        """--sha256 shows the checksum as sha256sum does, wherever it stands."""
        result = world.get(*words)
        assert (result.exit_code, result.stdout) == (0, f"{SUM}  file\n")

    @pytest.mark.parametrize("given", [SUM, SUM.upper()], ids=["lower", "upper"])
    def test_right(self, world: World, given: str) -> None:
        """The right checksum is compared in silence."""
        result = world.get("--sha256", given, URL)
        assert (result.exit_code, result.stdout) == (0, "")
        assert world.here() == {"file": FILE}

    def test_wrong(self, world: World) -> None:
        """With a wrong checksum the old file stays, nothing else is left, and the status is 4."""
        Path("file").write_bytes(b"old")
        result = world.get(URL, f"--sha256={'0' * 64}")
        assert (result.exit_code, world.here()) == (4, {"file": b"old"})
        assert SUM in result.stderr

    def test_no_checksum(self, world: World) -> None:
        """What is no checksum is wrong usage."""
        assert world.get(URL, "--sha256=abc").exit_code == 2


class TestTrouble:
    def test_refused(self, world: World) -> None:
        """A refusal is status 3, with the server's code and words, and leaves the old file and nothing else."""
        Path("nothing").write_bytes(b"old")
        result = world.get(f"tftp://{SERVER}/nothing", "--json")
        told = json.loads(result.stdout)
        assert (result.exit_code, told["code"], told["error"]) == (3, 1, "ERROR 1: File not found")
        assert world.here() == {"nothing": b"old"}

    def test_no_answer(self, world: World) -> None:
        """A server that never answers is status 1, after as long as --timeout and --retries say."""
        before = world.network.seconds()
        result = world.get("tftp://10.0.0.77/file", "--timeout", "0.5", "--retries", "2")
        assert (result.exit_code, world.here()) == (1, {})
        assert "no answer from 10.0.0.77 port 69" in result.stderr
        assert world.network.seconds() - before == pytest.approx(3.5)

    @pytest.mark.parametrize("put", [False, True])
    def test_localErrors(self, world: World, monkeypatch: pytest.MonkeyPatch, put: bool) -> None:
        """What is wrong on this machine is told with the file's name; the server is told no path."""
        if put:
            assert (
                f"castd put: tftp://{SERVER}/up: no/such: No such file"
                in world.put("no/such", f"tftp://{SERVER}/up").stderr
            )
            Path("local").write_bytes(FILE)
            monkeypatch.setattr(os, "pread", raising(errno.EIO))
            result, why = world.put("local", f"tftp://{SERVER}/up"), "local: Input/output error"
        else:
            assert f"castd get: {URL}: no/such: No such file" in world.get(URL, "-o", "no/such").stderr
            monkeypatch.setattr(PartialFile, "write", raising(errno.ENOSPC))
            result, why = world.get(URL), "file: No space left on device"
        assert (result.exit_code, why in result.stderr) == (1, True), result.stderr
        errors = [each.datagram for each in world.network.capture or () if each.datagram[:2] == b"\0\5"]
        assert errors
        assert all(b"local" not in each and b"file" not in each for each in errors)

    def test_interrupted(self, world: World) -> None:
        """Ctrl-C is status 130: the server is told, the old file stays, and nothing else is left."""
        Path("file").write_bytes(b"old")
        result = world.get(URL, "--blksize", "8", "--windowsize", "1", interrupt=0.1)
        assert (result.exit_code, world.here()) == (130, {"file": b"old"})
        world.network.run(limit=1)
        assert list(world.listener.casts()) == []

    def test_interrupted_in_the_queue(self, world: World) -> None:
        """Ctrl-C ends those that have not begun, too."""
        words = [f"tftp://10.0.0.77/f{number}" for number in range(20)]
        assert world.get(*words, interrupt=0.1).exit_code == 130

    def test_no_place(self, world: World) -> None:
        """A place that cannot be written to is told before the server is asked."""
        result = world.get(URL, "-o", "no/such/file")
        assert (result.exit_code, world.network.sent) == (1, 0)
        assert "No such file or directory" in result.stderr

    @pytest.mark.parametrize(
        "words",
        [
            (),
            (URL, "-q", "-v"),
            (URL, "--bind", "here"),
            ("file",),
            ("gopher://h/f",),
            ("tftp://h/",),
            ("tftp://h/dir/",),
            (URL, URL),
            (URL, f"tftp://{SERVER}/other", "-o", "one"),
            (URL, "--blksize", "7"),
            (URL, "--timeout", "0"),
            (URL, "-d", "nowhere"),
        ],
        ids=" ".join,
    )
    def test_usage(self, world: World, words: tuple[str, ...]) -> None:
        """Wrong usage is status 2, and nothing is sent."""
        result = world.get(*words)
        assert (result.exit_code, world.network.sent) == (2, 0)
        assert "Error: " in result.stderr

    def test_help(self, world: World) -> None:
        """The help tells the exit statuses."""
        for command in (get, put):
            told = world.run(command, "--help").stdout
            assert all(f" {status} " in told.replace("\n", " ") for status in (0, 1, 2, 3, 4, 130))


class TestVerbose:
    def test_packets(self, world: World) -> None:
        """-v shows each packet as it goes and comes, in its order, one on each line, and nothing of them on stdout."""
        result = world.get(f"tftp://{SERVER}/text", "-v", "-o", "-")
        told = [line.split(" ", 1) for line in result.stderr.splitlines()]
        assert result.stdout == "a\nb\n"
        assert [float(instant) for instant, _ in told[:-1]] == sorted(float(instant) for instant, _ in told[:-1])
        port = told[1][1].split()[1].rpartition(":")[2]
        assert [text for _, text in told[:-1]] == [
            f"> {SERVER}:69 RRQ text octet blksize=1468 windowsize=16 tsize=0",
            f"< {SERVER}:{port} OACK blksize=1468 windowsize=16 tsize=4",
            f"> {SERVER}:{port} ACK 0",
            f"< {SERVER}:{port} DATA 1, 4 octets",
            f"> {SERVER}:{port} ACK 1",
        ]

    def test_several(self, world: World) -> None:
        """Of several files each line begins with its name."""
        result = world.get(URL, f"tftp://{SERVER}/other", "-v")
        packets = [line for line in result.stderr.splitlines() if " > " in line or " < " in line]
        assert {line.split()[0] for line in packets} == {"file", "other"}

    def test_put(self, world: World) -> None:
        """So it does for a file that is sent."""
        Path("local").write_bytes(b"abc")
        told = world.put("local", f"tftp://{SERVER}/up", "-v").stderr
        assert "WRQ up octet blksize=1468 windowsize=16 tsize=3" in told
        assert "DATA 1, 3 octets" in told

    def test_nobodyReads(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who reads the first lines alone (castd get -v URL 2>&1 | head -n 2) gets the file all the same."""
        echo, told = click.echo, []

        def closing(text: str, err: bool = False) -> None:
            if err and len(told) >= 2:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            told.append(text)
            echo(text, err=err)

        monkeypatch.setattr(click, "echo", closing)
        assert world.get(URL, "-v").exit_code == 0
        assert world.here() == {"file": FILE}
        assert len(told) == 2

    def test_nobodyReadsResults(self) -> None:
        """That nobody reads standard output (castd get --json URL | true) is told as it is: click then ends with 1."""
        ended = Deferred.fromCoroutine(_status([fail(BrokenPipeError(errno.EPIPE, "Broken pipe"))]))
        told: list[Failure] = []
        ended.addErrback(told.append)
        assert [type(each.value) for each in told] == [BrokenPipeError]

    def test_bind(self, world: World) -> None:
        """--bind chooses the address to send from; one that is not there is told."""
        world.get(URL, "--bind", CLIENT)
        assert world.here() == {"file": FILE}
        result = world.get(URL, "--bind", "10.0.0.200")
        assert result.exit_code == 1
        assert f"cannot send to {SERVER} from 10.0.0.200: " in result.stderr
        six = world.get(URL, "--bind", "fd00::1")
        assert (six.exit_code, f"fd00::1 cannot send to {SERVER}" in six.stderr) == (1, True)


class TestPut:
    @pytest.mark.parametrize("url", [f"tftp://{SERVER}/up", f"tftp://{SERVER}/", f"tftp://{SERVER}"])
    def test_put(self, world: World, url: str) -> None:
        """A file is sent; under its own name if the URL has none."""
        Path("local").write_bytes(FILE)
        result = world.put("local", url)
        assert result.exit_code == 0
        assert world.uploads == {"up" if url.endswith("up") else "local": FILE}
        assert "local: 100000 octets" in result.stderr

    def test_stdin(self, world: World) -> None:
        """- sends what comes in at the standard input."""
        assert world.put("-", f"tftp://{SERVER}/up", stdin=FILE).exit_code == 0
        assert world.uploads == {"up": FILE}

    def test_netascii(self, world: World) -> None:
        """--netascii converts the ends of the lines, and announces the size that goes on the wire."""
        Path("text").write_bytes(b"a\nb\r")
        assert world.put("text", f"tftp://{SERVER}/", "--netascii").exit_code == 0
        wire = encode(b"a\nb\r")
        asked = (world.network.capture or [])[0].datagram
        assert b"\0netascii\0" in asked
        assert b"\0tsize\0%d\0" % len(wire) in asked
        assert any(sighting.datagram[4:] == wire for sighting in world.network.capture or ())

    def test_refused(self, world: World) -> None:
        """A refusal is status 3."""
        world.uploads["up"] = b"old"
        Path("local").write_bytes(FILE)
        result = world.put("local", f"tftp://{SERVER}/up", "--json")
        assert (result.exit_code, json.loads(result.stdout)["code"]) == (3, 6)
        assert world.uploads == {"up": b"old"}

    def test_checksum(self, world: World) -> None:
        """A file that is not the one that was meant is not sent."""
        Path("local").write_bytes(FILE)
        assert world.put("local", f"tftp://{SERVER}/up", f"--sha256={'0' * 64}").exit_code == 4
        assert world.network.sent == 0
        assert world.put("local", f"tftp://{SERVER}/up", "--sha256").stdout == f"{SUM}  local\n"

    def test_missing(self, world: World) -> None:
        """A file that is not there is status 1, and nothing is sent."""
        result = world.put("local", f"tftp://{SERVER}/up")
        assert (result.exit_code, world.network.sent) == (1, 0)

    def test_no_writes(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """A scheme without writes is wrong usage."""
        monkeypatch.setitem(schemes._SCHEMES, "flood", Scheme(700, lambda url, requested, policy: Flood(5)))
        assert world.put("local", f"flood://{SERVER}/up").exit_code == 2


class TestSinks:
    @pytest.mark.parametrize("inOrder", [True, False], ids=["in order", "in any order"])
    def test_part(self, tmp_path: Path, inOrder: bool) -> None:
        """A part has the checksum of what was written, in whichever order that came."""
        part = PartialFile(tmp_path / "f")
        if inOrder:
            part.write(b"one")
            part.write(b"two")
        else:
            part.writeAt(3, b"two")
            part.writeAt(0, b"one")
        assert part.sha256() == hashlib.sha256(b"onetwo").hexdigest()
        part.commit()
        part.abort()
        assert (tmp_path / "f").read_bytes() == b"onetwo"
        assert len(list(tmp_path.iterdir())) == 1

    def test_runs(self, tmp_path: Path) -> None:
        """Blocks that come in runs, with gaps that are filled later, some twice, and some simply next, are in place."""
        content = random.Random(1).randbytes(300_001)
        blocks = [(at, content[at : at + 1451]) for at in range(0, len(content), 1451)]
        part = PartialFile(tmp_path / "f")
        for chosen in (blocks[3:90:7], blocks[:60], blocks[120:], blocks[60:120]):
            for offset, block in chosen:
                part.writeAt(offset, block)
        part.writeAt(*blocks[0])
        part.write(blocks[1][1])
        part.writeAt(*blocks[2])
        assert part.sha256() == hashlib.sha256(content).hexdigest()
        part.commit()
        assert (tmp_path / "f").read_bytes() == content

    @pytest.mark.parametrize("inOrder", [True, False], ids=["in order", "in any order"])
    def test_stream(self, tmp_path: Path, inOrder: bool) -> None:
        """A stream gets its octets in order, whichever order they came in."""
        with (tmp_path / "f").open("wb") as file:
            stream = OutputStream(file)
            if inOrder:
                stream.write(b"one")
                stream.write(b"two")
            else:
                stream.writeAt(3, b"two")
                stream.writeAt(0, b"one")
            assert stream.sha256() == hashlib.sha256(b"onetwo").hexdigest()
            stream.commit()
            stream.abort()
        assert (tmp_path / "f").read_bytes() == b"onetwo"

    def test_long_name(self, tmp_path: Path) -> None:
        """The longest name there is has room for the part beside it."""
        part = PartialFile(tmp_path / ("n" * 255))
        part.write(b"x")
        part.commit()
        assert (tmp_path / ("n" * 255)).read_bytes() == b"x"


@pytest.mark.loopback
class TestProcess:
    @pytest.mark.slow
    def test_real_reactor(self, tmp_path: Path) -> None:
        """The command runs the reactor by itself: a closed port ends it at once, with status 1."""
        code = "from castd.cli.transfer import get; get()"
        words = ["tftp://127.0.0.1:1/file", "--timeout", "60", "-d", str(tmp_path)]
        ran = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert (ran.returncode, list(tmp_path.iterdir())) == (1, [])
        assert "port 1 of 127.0.0.1 is closed: no server listens there" in ran.stderr
