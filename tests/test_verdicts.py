"""Each failure that castd can tell apart is told, with cause and cure: provoked by the datagrams that cause it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd import outcomes
from castd.errors import Busy, Full, Refused, Unanswered
from castd.files import content, nearest, spelling
from castd.files.file_upload import writeRefusal
from castd.observe.format import asMessage
from castd.observe.history import entryOf
from castd.options import Limits
from castd.packets import dhcp
from castd.packets.tftp import Data, buildAck, buildData, buildError, parse
from castd.testing import BytesContent, Network, RecordingClient, pattern
from castd.verdicts import RULES, Facts, judge
from tests.support.clients.tftp import ackedTo, download, rrq, say, wrq
from tests.support.pxe import ProxyStage, discover, vector
from tests.support.server import SERVER, Case
from tests.support.stage import GroupStage, TftpStage

FILE = {"f": pattern(9000)}
#: A server with a directory for each way to miss a file, and access rules.
TEXT = """castd: 1
content:
  - directory: {path: boot}
  - directory: {path: others, networks: [192.168.7.0/24]}
uploads:
  - directory: {path: up, keep-free: 0}
access:
  - {deny: any, names: ["secret/**"]}
  - {allow: any, for: read, names: ["*.efi", "*.cfg", "*[ ']", "dir", "locked"]}
  - {allow: any, for: write}
transports:
  tftp: {}
"""

Events = list[dict[str, Any]]
#: Provokes one verdict in an empty folder.
Provoke = Callable[[Path], object]


@contextmanager
def served(folder: Path) -> Iterator[tuple[Case, RecordingClient]]:
    """Serve some files by TEXT.  -> the server, and a client of it."""
    for name in ("boot/EFI", "others", "up", "boot/dir"):
        (folder / name).mkdir(parents=True)
    for name in ("boot/EFI/Grub.efi", "boot/a.cfg", "others/only.cfg", "up/there"):
        (folder / name).write_bytes(b"x")
    case = Case(folder, Network(seed=1), TEXT)
    yield case, RecordingClient(case.network.host("10.0.0.9"), 2000)
    case.server.stopService()


def asked(*requests: bytes) -> Provoke:
    """Return what sends these requests to the server of TEXT."""

    def provoke(folder: Path) -> None:
        with served(folder) as (case, client):
            for request in requests:
                client.send(request, (SERVER, 69))
                case.network.advance(0.1)

    return provoke


def refusing(error: Refused) -> Provoke:
    """Return what asks a server whose source and sink refuse everything."""

    class Refusing:
        def lookup(self, name: str, peer: object) -> None:
            raise error

        def begin(self, name: str, peer: object, size: object) -> None:
            raise error

    def provoke(folder: Path) -> None:
        stage = TftpStage(source=Refusing(), uploads=Refusing())
        client = stage.client()
        client.send(wrq() if isinstance(error, Full) or error.code == 2 else rrq(), stage.server)
        stage.network.advance(0.1)

    return provoke


def crowded(folder: Path) -> None:
    """The second transfer of one machine, where one is allowed."""
    stage = TftpStage(limits=Limits(perPeer=1))
    stage.client(2001).send(rrq(), stage.server)
    stage.client(2002).send(rrq(), stage.server)
    stage.network.advance(0.1)


def displaced(folder: Path) -> None:
    """Who has sent nothing but a request makes room for others, also at an upload."""
    stage = TftpStage(limits=Limits(casts=2), uploads=True)
    stage.client(2001).send(rrq(), stage.server)
    stage.client(2002).send(wrq("new"), stage.server)
    stage.network.advance(0.5)
    third, fourth = stage.ask(rrq(), stage.client(2003)), stage.ask(rrq(), stage.client(2004))
    for client, _, tid in (third, fourth):
        ackedTo(client, 1, tid)


def deaf(folder: Path) -> None:
    """A master repeats its ACK of the OACK, and nothing that is sent to the group reaches it."""
    stage = GroupStage(FILE)
    member = stage.join(request=rrq(blksize=512, multicast=""))
    for _ in range(4):
        member.client.send(buildAck(0), member.tid)
        stage.network.advance(1)


def tooLarge(folder: Path) -> None:
    stage = TftpStage(FILE)
    client, _, tid = stage.ask(rrq(blksize=1468))
    say(client, 0, tid)
    stage.network.advance(40)


def rollsOver(folder: Path) -> None:
    """A client of windows acknowledges block 65535, and does not know what follows."""
    stage = TftpStage({"f": pattern(8 * 65700)})
    client, _, tid = stage.ask(rrq(blksize=8, windowsize=64))
    for number in range(0, 65535, 64):
        say(client, number, tid)
        stage.network.advance(0.005)
        client.take()
    say(client, 65535, tid)
    stage.network.advance(40)


def closedAtOnce(**options: Any) -> Provoke:
    def provoke(folder: Path) -> None:
        stage = TftpStage(FILE, options=options)
        client = stage.client()
        client.send(rrq(), stage.server)
        client.port.stopListening()
        stage.network.advance(40)

    return provoke


def silentInAGroup(folder: Path) -> None:
    stage = GroupStage(FILE)
    stage.client().send(rrq(multicast=""), stage.server)
    stage.network.advance(90)


def silentAtOnce(**options: Any) -> Provoke:
    def provoke(folder: Path) -> None:
        stage = TftpStage(FILE, options=options)
        stage.client().send(rrq(), stage.server)
        stage.network.advance(40)

    return provoke


def begun() -> tuple[TftpStage, RecordingClient, Any]:
    """A client has the first block, and has asked for the second."""
    stage = TftpStage(FILE)
    client, packet, tid = stage.ask(rrq())
    assert isinstance(packet, Data)
    ackedTo(client, 1, tid)
    return stage, client, tid


def repeatsItself(folder: Path) -> None:
    stage, client, tid = begun()
    for _ in range(4):
        stage.network.advance(2)
        say(client, 1, tid)
    stage.network.advance(40)


def sendsError(folder: Path) -> None:
    stage, client, tid = begun()
    client.send(buildError(3, "no space \x1b[31m" + "x" * 600), tid)
    stage.network.advance(0.1)


def dies(folder: Path) -> None:
    begun()[0].network.advance(40)


def cannotSend(folder: Path) -> None:
    """The server's machine loses its network: before the first answer, in a transfer, in a window and in an upload."""
    stage = TftpStage(FILE, uploads=True)
    inStep, _, tid = stage.ask(rrq())
    inWindows, _, other = stage.ask(rrq(windowsize=4), stage.client(2001))
    sender, _, third = stage.ask(wrq("new"), stage.client(2002))
    stage.network.host(SERVER).errno = errno.ENETUNREACH
    say(inStep, 1, tid)
    say(inWindows, 0, other)
    sender.send(buildData(1, bytes(512)), third)
    for number, request in enumerate((rrq(), rrq(blksize=1000), wrq("another"))):
        stage.client(2003 + number).send(request, stage.server)
    stage.network.advance(90)


def closes(folder: Path) -> None:
    stage, client, _ = begun()
    client.port.stopListening()
    stage.network.advance(40)


def restarts(folder: Path) -> None:
    stage, client, _ = begun()
    client.send(rrq(), stage.server)
    stage.network.advance(0.2)


def changes(folder: Path) -> None:
    content = BytesContent("f", pattern(900_000))
    stage = TftpStage({"f": content})
    client, _, tid = stage.ask(rrq(blksize=1024))
    content.cut = 10
    ackedTo(client, 0, tid)


def stops(folder: Path) -> None:
    begun()[0].listener.stop()


def fails(folder: Path) -> None:
    class Broken(BytesContent):
        def readInto(self, buffers: object, offset: int) -> None:
            raise ValueError("a plugin")

    stage = TftpStage({"f": Broken("f", pattern(900))})
    stage.client().send(rrq(), stage.server)
    stage.network.advance(0.1)


def probes(folder: Path) -> None:
    stage = TftpStage(FILE)
    client, _, tid = stage.ask(rrq(tsize=0))
    client.send(buildError(8, ""), tid)
    stage.network.advance(31)


def fetches(stage: TftpStage, times: int, pause: float) -> None:
    client = stage.client()
    for _ in range(times):
        download(stage, client, rrq())
        stage.network.advance(pause)


def booting(datagram: bytes, *rules: dict[str, Any], offers: Sequence[str] = (), **given: Any) -> Provoke:
    """
    Return what has a machine ask what to boot, by these rules, and not fetch it.

    @param offers: recorded offers of other servers, which are at 10.66.0.3.
    """

    def provoke(folder: Path) -> None:
        with ProxyStage(folder, *rules, **given) as stage:
            other = RecordingClient(stage.network.host("10.66.0.3/24"), 67)
            other.port.setBroadcastAllowed(True)
            for id in offers:
                offer = dhcp.parse(vector(id))
                # Each of these servers says its own address.
                said = dhcp.build(replace(offer, options={**offer.options, dhcp.SERVER_ID: b"\x0a\x42\0\3"}))
                stage.network.carry(said, ("10.66.0.3", 67), ("255.255.255.255", 68), other.port)
            stage.hear(datagram)
            stage.network.advance(31)

    return provoke


READ_ONLY = writeRefusal(OSError(errno.EROFS, os.strerror(errno.EROFS)))

#: For each verdict, what provokes it.
PROVOKED: dict[str, Provoke] = {
    "limit": crowded,
    "displaced": displaced,
    "network": asked(rrq("only.cfg")),
    "case": asked(rrq("efi/grub.EFI")),
    "prefix": asked(rrq("tftpboot/a.cfg")),
    "spaces": asked(rrq('"a.cfg ')),
    "no-place": asked(wrq("gone/there")),
    "missing": asked(rrq("none.cfg")),
    "rule": asked(rrq("secret/a.cfg")),
    "no-rule": asked(rrq("nobody/may")),
    "read-only": refusing(READ_ONLY),
    "full": refusing(Full(why="No space left on device")),
    "exists": asked(wrq("there")),
    "no-name": asked(b"\0\1\0octet\0"),
    "malformed": asked(rrq("a.cfg", "mail")),
    "forbidden": asked(rrq("dir")),
    "unavailable": refusing(Busy(why="Input/output error")),
    "unanswered": refusing(Unanswered(why="the disk is slow")),
    "no-multicast": deaf,
    "mtu": tooLarge,
    "rollover": rollsOver,
    "unsent": cannotSend,
    "rejected": closedAtOnce(singlePort=True),
    "port-closed": closedAtOnce(),
    "blocked": silentAtOnce(singlePort=True),
    "unreachable": silentAtOnce(),
    "hears-nothing": repeatsItself,
    "client-error": sendsError,
    "silent": dies,
    "ended": closes,
    "restarted": restarts,
    "changed": changes,
    "stopped": stops,
    "fault": fails,
    "size-only": probes,
    "again": lambda folder: fetches(TftpStage(), 3, 60),
    "boot-missing": booting(discover(), {"boot": "gone"}),
    "boot-denied": booting(discover(), {"boot": "boot.ipxe"}, more={"access": [{"deny": "any"}]}),
    "boot-rule": booting(discover(arch=0), {"arch": "efi-x64", "boot": "boot.ipxe"}),
    "boot-network": booting(vector("Q-03"), {"boot": "boot.ipxe"}, own={"relays": True}),
    "boot-untold": booting(vector("S-16"), {"boot": "boot.ipxe"}),
    "boot-rival": booting(discover(), {"boot": "boot.ipxe"}, offers=("P-69", "P-52")),
    "boot-overruled": booting(discover(), {"boot": "boot.ipxe"}, offers=("P-69",)),
    "boot-ignored": booting(discover(), {"boot": "boot.ipxe"}),
}


@pytest.mark.parametrize("id", [rule.id for rule in RULES])
def test_provoked(id: str, tmp_path: Path, events: Events) -> None:
    """
    The machine's own datagrams lead to this verdict and to no other; it is in the fields and in the history, and in the
    line unless that says as much.
    """
    PROVOKED[id](tmp_path)
    told = [event for event in events if "verdict" in event]
    assert {event["verdict"] for event in told} == {id}
    (rule,) = (rule for rule in RULES if rule.id == id)
    for event in told:
        assert event["cause"]
        assert event["cure"]
        assert "{" not in event["cause"]
        assert len(event["cause"]) < 400
        assert (event.get("peer") or event["machine"]).startswith(("10.0.0.", "52:54:00:66:00:10"))
        shown = f"; {event['cause']}: {event['cure']}"
        assert asMessage({**event, "cause": "CAUSE", "cure": "CURE"}).endswith("; CAUSE: CURE") is rule.told, shown
        entry = entryOf(event)
        assert entry is not None
        assert entry.failed
        assert entry.address is not None


def test_theTableIsProvoked() -> None:
    """No verdict stands in the table that nothing leads to, and none stands there twice."""
    assert list(PROVOKED) == [rule.id for rule in RULES]


GONE = st.sampled_from(sorted(set(outcomes.MEANING) - {outcomes.DONE, outcomes.PROBE, outcomes.UNCONFIRMED}))


@given(GONE, st.booleans(), st.booleans(), st.booleans(), st.none() | st.integers(0, 70_000), st.integers(0, 9))
def test_everyFailureHasOne(
    outcome: str, heard: bool, write: bool, single: bool, lacks: int | None, repeated: int
) -> None:
    """Whatever was seen: a transfer that failed has a verdict; one that the client itself left early needs none."""
    verdict = judge(
        Facts("received", outcome=outcome, heard=heard, write=write, singlePort=single, lacks=lacks, repeated=repeated)
    )
    assert verdict is not None or outcome == outcomes.EARLY


@given(st.integers(0, 8), st.text(max_size=9))
def test_everyRefusalHasOne(code: int, why: str) -> None:
    """Every refusal and every request without an answer has a verdict."""
    assert judge(Facts("refused", code=code, why=why)) is not None
    assert judge(Facts("crowded", why=why)) is not None


@pytest.mark.parametrize("outcome", [outcomes.DONE, outcomes.PROBE, outcomes.UNCONFIRMED])
def test_noneForWhatIsWell(outcome: str) -> None:
    """What has gone well has no verdict."""
    assert judge(Facts("received", outcome=outcome)) is None


# What is not to be taken for one.


def test_sizeAndThenTheFile(events: Events) -> None:
    """A machine that asks for the size, and then for the file, has done what all firmware does."""
    stage = TftpStage()
    client, _, tid = stage.ask(rrq(tsize=0))
    client.send(buildError(8, ""), tid)
    stage.network.advance(20)
    download(stage, client, rrq(tsize=0))
    stage.network.advance(60)
    assert [event["outcome"] for event in events if event.get("event") == "received"] == ["probe", "done"]
    assert [event for event in events if "verdict" in event] == []
    assert len(stage.site.timers) == 0


@pytest.mark.parametrize(("pause", "minutes"), [(9, 1), (60, 3)])
def test_againWithin(pause: float, minutes: int, events: Events) -> None:
    """It is told within how many minutes a machine has fetched the same again and again: never within none."""
    fetches(TftpStage(), 3, pause)
    (told,) = (event["cause"] for event in events if "verdict" in event)
    assert told.startswith(f"it has fetched this file 3 times in {minutes} min: ")


@pytest.mark.parametrize(("times", "pause"), [(2, 60), (9, 1), (9, 1000)])
def test_notAgain(times: int, pause: float, events: Events) -> None:
    """Twice is no loop; nor is a program that reads at once again, nor a machine that boots a few times a day."""
    fetches(TftpStage(), times, pause)
    assert [event for event in events if "verdict" in event] == []


def test_duplicatesAreNoDeafness(events: Events) -> None:
    """A client whose every ACK is doubled on the way, and which dies in the middle, has not repeated itself."""
    stage, client, tid = begun()
    for number in range(1, 9):
        say(client, number, tid)
        say(client, number, tid)
        stage.network.advance(0.1)
    stage.network.advance(40)
    assert [event["verdict"] for event in events if event.get("event") == "received"] == ["silent"]


def test_anOutageThatIsOver(events: Events) -> None:
    """A client that dies when the server could send to it again has not died of the server's network."""
    stage, client, tid = begun()
    server = stage.network.host(SERVER)
    server.errno = errno.ENETUNREACH
    say(client, 2, tid)
    stage.network.advance(1)
    server.errno = 0
    stage.network.advance(40)
    assert [event["verdict"] for event in events if event.get("event") == "received"] == ["silent"]


def test_ownFirewall() -> None:
    """A firewall of the server's machine that rejects what is sent makes the client's port seem closed."""
    seen = Facts("received", outcome=outcomes.CLOSED, heard=False, unsent="Operation not permitted")
    verdict = judge(seen)
    assert verdict is not None
    assert verdict.id == "unsent"
    assert verdict.cause == "this server could not send to it: Operation not permitted"


def test_aGroupHasNoOtherPort(events: Events) -> None:
    """A member that never answers is not sent to single-port, which groups do not have."""
    silentInAGroup(Path())
    assert [event["verdict"] for event in events if event.get("event") == "received"] == ["blocked"]


# What is looked for near a name.


@pytest.mark.parametrize(
    ("name", "found", "source"),
    [
        ("efi/grub.EFI", "EFI/Grub.efi", None),
        ("Grub.efi", "EFI/Grub.efi", None),
        ("/srv/tftp/EFI/Grub.efi", "EFI/Grub.efi", None),
        ("A.cfg", "a.cfg", None),
        ("only.cfg", "only.cfg", 4),
        ("x/only.cfg", "only.cfg", 4),
        ("a.cfg ", "a.cfg", None),
        ("'EFI/Grub.efi'", "EFI/Grub.efi", None),
        (" none.efi ", None, None),
        ("none.efi", None, None),
        ("../a.cfg/..", None, None),
    ],
)
def test_nearest(name: str, found: str | None, source: int | None, tmp_path: Path, events: Events) -> None:
    """The name that was probably meant is told to the operator, and nothing of it to the client."""
    with served(tmp_path) as (case, client):
        client.send(rrq(name), (SERVER, 69))
        case.network.advance(0.1)
        answer = client.expect().datagram
    (event,) = (event for event in events if event.get("event") == "refused")
    assert event.get("nearest") == found
    if source is not None:
        assert event["cause"].startswith(f"{tmp_path}/x.yaml:{source} has it")
    if found is not None:
        assert parse(answer) == parse(buildError(1, "File not found"))


@pytest.mark.parametrize(
    ("module", "call"),
    [(nearest, "open"), (nearest, "scandir"), (nearest, "stat"), (spelling, "scandir"), (spelling, "stat")],
    ids=lambda each: each if isinstance(each, str) else each.__name__.rpartition(".")[2],
)
def test_nearestFails(
    module: ModuleType, call: str, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails while a name is looked for costs nothing but the name."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    with served(tmp_path) as (case, client):
        monkeypatch.setattr(module, "os", SimpleNamespace(**{**vars(os), call: fail}))
        client.send(rrq("efi/none.efi"), (SERVER, 69))
        case.network.advance(0.1)
    assert [event["verdict"] for event in events if event.get("event") == "refused"] == ["missing"]


@pytest.mark.parametrize(
    ("octets", "names", "found"), [(1 << 20, 25_000, True), (1, 25_000, False), (1 << 20, 2, False)]
)
def test_nearestOfMany(
    octets: int, names: int, found: bool, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is too large, in octets or in names, is not listed for a name in another case."""
    monkeypatch.setattr(spelling, "LARGEST_LISTED", octets)
    monkeypatch.setattr(content, "MOST_LISTED", names)
    with served(tmp_path) as (case, client):
        client.send(rrq("A.cfg"), (SERVER, 69))
        case.network.advance(0.1)
    (event,) = (event for event in events if event.get("event") == "refused")
    assert event.get("nearest") == ("a.cfg" if found else None)


def test_uploadsHaveThem(events: Events) -> None:
    """An upload that stops has a verdict, too."""
    stage = TftpStage(uploads=True)
    client, _, tid = stage.ask(wrq())
    client.send(buildData(1, b"x" * 512), tid)
    stage.network.advance(0.1)
    client.send(buildError(0, "lost my disk"), tid)
    stage.network.advance(0.1)
    (event,) = (event for event in events if event.get("event") == "received")
    assert (event["verdict"], event["write"], event["client_text"]) == ("client-error", True, "lost my disk")
