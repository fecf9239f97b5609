"""Every event about a request says what it met: in the text log, in JSON, in the journal and in the history alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel

from castd.files.content import Directory, DirectoryOptions
from castd.observe import journal
from castd.observe.eventstore import Query, Store
from castd.observe.format import asJSON, asMessage
from castd.observe.history import entryOf
from castd.packets.tftp import Data, Error, Oack, buildAck, buildError, parse
from castd.testing import BytesContent, Network, RecordingClient
from tests.support.clients.tftp import download, rrq, upload, wrq
from tests.support.server import SERVER, Case
from tests.support.stage import GroupStage, MtftpStage, TftpStage

Events = list[dict[str, Any]]

TEXT = """castd: 1
content:
  - directory: {path: other, under: other}
  - directory: {path: boot, strip: [tftpboot], rewrite: [{from: "^x/", to: ""}]}
uploads:
  - directory: {path: up, under: logs, keep-free: 0}
access:
  - {deny: any, names: ["secret/**"]}
  - {allow: any, names: ["**"]}
transports:
  tftp: {}
"""
#: What a request has to meet in the log, wherever it goes.
ALWAYS = {"peer", "name", "write", "mode"}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    for name in ("other", "boot", "up"):
        (tmp_path / name).mkdir()
    (tmp_path / "boot" / "f").write_bytes(b"f" * 1300)
    return Case(tmp_path, Network(seed=1, latency=0.01), TEXT)


def told(events: Events, kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event.get("event") == kind]


def fetch(case: Case, request: bytes, most: int = 9) -> None:
    """A new client asks, and acknowledges what comes, C{most} datagrams or up to the last block."""
    box, blksize = RecordingClient(case.network.host("10.0.0.9")), 512
    box.send(request, (SERVER, 69))
    for _ in range(most):
        datagram, tid, _ = box.expect()
        packet = parse(datagram)
        if isinstance(packet, Error):
            break
        if isinstance(packet, Oack):
            blksize = int(dict(packet.options).get("blksize", blksize))
        box.send(buildAck(packet.number if isinstance(packet, Data) else 0), tid)
        if isinstance(packet, Data) and len(packet.payload) < blksize:
            break
    case.network.advance(1)


def test_madeAsByTwisted(case: Case, events: Events) -> None:
    """The event of a transfer has all that Twisted's logger gives an event, in its order: an observer may want it."""
    fetch(case, rrq("tftpboot/x/f"))
    Logger(namespace="castd").info("{a}", a=1)
    (event,), other = told(events, "received"), events[-1]
    own = [key for key in event if key.startswith("log_")]
    assert own == [key for key in other if key.startswith("log_")] == list(event)[-len(own) :]
    assert [type(event[key]) for key in own] == [type(other[key]) for key in own]
    assert (event["log_level"], event["log_namespace"], event["log_source"]) == (LogLevel.info, "castd", None)
    assert event["log_time"] == pytest.approx(other["log_time"], abs=60)


def test_aDownload(case: Case, events: Events) -> None:
    """A transfer says under which name it was asked, which file that was, who had it, and what was agreed on."""
    fetch(case, rrq("tftpboot/x/f", blksize=9000, tsize=0, nonsense=7))
    (event,) = told(events, "received")
    folder = case.folder
    assert event["outcome"] == "done"
    assert (event["write"], event["mode"], event["name"]) == (False, "octet", "tftpboot/x/f")
    assert (event["path"], event["source"]) == (f"{folder}/boot/f", f"{folder}/x.yaml:4")
    assert event["options"] == "blksize=9000 tsize=0 nonsense=7"
    assert event["granted"] == "blksize=1468 tsize=1300"
    # The request takes 10 ms, as do OACK and ACK; the one block follows at once.
    assert event["first_block"] == event["last_block"] == pytest.approx(0.02)


def test_aSlowerDownload(case: Case, events: Events) -> None:
    """The first block and the last one have their own instants."""
    fetch(case, rrq("f"))
    (event,) = told(events, "received")
    assert (event["first_block"], event["last_block"]) == pytest.approx((0.0, 0.04))
    assert event.keys().isdisjoint({"options", "granted"})


def test_anUpload(case: Case, events: Events) -> None:
    """An upload says the same, with the place that it went to."""
    box = RecordingClient(case.network.host("10.0.0.9"))
    box.send(wrq("logs/new", tsize=700), (SERVER, 69))
    tid = box.expect().source
    upload(box, tid, b"y" * 700)
    case.network.advance(9)
    (event,) = told(events, "received")
    assert (event["outcome"], event["write"]) == ("done", True)
    assert (event["path"], event["source"]) == (f"{case.folder}/up/new", f"{case.folder}/x.yaml:6")
    assert (event["options"], event["granted"]) == ("tsize=700", "tsize=700")
    assert 0 < event["first_block"] < event["last_block"] < event["seconds"] + 1


def test_refusedByARule(case: Case, events: Events) -> None:
    """A denied request names the rule by file and line, in the line as well."""
    fetch(case, rrq("secret/f"), 1)
    (event,) = told(events, "refused")
    rule = f"{case.folder}/x.yaml:8"
    assert (event["rule"], event["code"], event.get("path")) == (rule, 2, None)
    assert asMessage(event).endswith(f" is refused secret/f: denied by the access rule at {rule}")


def test_refusedByAReloadedRule(case: Case, events: Events) -> None:
    """After a reload it is the line of the file in force."""
    assert case.reload(f"# one line more\n{TEXT}") == ()
    fetch(case, rrq("secret/f"), 1)
    assert told(events, "refused")[0]["rule"].endswith("x.yaml:9")
    fetch(case, rrq("f"))
    assert told(events, "received")[0]["source"].endswith("x.yaml:5")


def test_notFound(case: Case, events: Events) -> None:
    """A request that finds nothing says where it was looked for."""
    fetch(case, rrq("tftpboot/none"), 1)
    (event,) = told(events, "refused")
    assert (event["path"], event.get("source")) == (f"{case.folder}/boot/none", None)
    fetch(case, rrq("other/none"), 1)
    assert told(events, "refused")[1]["path"] == f"{case.folder}/other/none, {case.folder}/boot/other/none"


def test_askedTwice(case: Case, events: Events) -> None:
    """A machine that repeats its request, since it hears no answer, is told of with the path and the source as well."""
    client = RecordingClient(case.network.host("10.0.0.9"), 2000)
    for _ in range(2):
        client.send(rrq("tftpboot/f"), (SERVER, 69))
        case.network.advance(0.1)
    case.network.advance(100)
    (event,) = told(events, "received")
    assert (event["outcome"], event["path"]) == ("silent", f"{case.folder}/boot/f")
    assert event["source"] == f"{case.folder}/x.yaml:4"


def test_theNextDialect(tmp_path: Path, events: Events) -> None:
    """What was found out for one dialect is known of the transfer that the next one at the port begins."""
    (tmp_path / "f").write_bytes(b"x")
    source = Directory(DirectoryOptions(path=tmp_path))
    stage = GroupStage(options={"clients": ["10.9.0.0/24"]}, source=source)
    download(stage, stage.client(), rrq(multicast=""))
    stage.network.advance(1)
    (declined,), (event,) = told(events, "declined"), told(events, "received")
    assert (event["transport"], event["path"], declined["path"]) == ("tftp", f"{tmp_path}/f", f"{tmp_path}/f")


def test_everyKind(events: Events) -> None:
    """Whatever becomes of a request, its event has the fields that every one has."""
    GroupStage(options={"clients": ["10.9.0.0/24"]}).ask(rrq("afile", multicast=""))
    stage = GroupStage({"f": bytes(9000)})
    member = stage.join(request=rrq(blksize=512, multicast="", tsize=0))
    for _ in range(4):
        member.client.send(buildAck(0), member.tid)
        stage.network.advance(1)
    member.client.send(buildError(0, "enough"), member.tid)
    stage.network.advance(1)
    big = TftpStage({"f": bytes(8 * 66_000)})
    big.ask(rrq(blksize=8))
    big.network.advance(60)
    kinds = {"declined", "moved", "received", "rollover"}
    for kind in kinds:
        assert told(events, kind), kind
        for event in told(events, kind):
            assert event.keys() >= ALWAYS, kind
            assert event["peer"].startswith("10.0.0.")
    (group,) = (event for event in told(events, "received") if event["transport"] == "multicast")
    assert group["granted"] == "blksize=512 tsize=9000"
    assert (group["client_code"], group["client_text"]) == (0, "enough")


def test_theClientsError(events: Events) -> None:
    """The client's own words are in the event, whoever speaks; they are bounded, and safe in a line."""
    stage = TftpStage()
    box, _, tid = stage.ask(rrq())
    box.send(b"\0\5\0\3no \x1b[31mspace" + b"!" * 1500, tid)
    stage.network.advance(1)
    (event,) = told(events, "received")
    assert event["client_code"] == 3
    assert event["client_text"].startswith("no \x1b[31mspace!")
    assert len(event["client_text"]) < 260
    assert "\\x1b[31mspace" in asMessage(event)
    assert "\x1b" not in (asJSON(event) or "")
    events.clear()
    mtftp = MtftpStage()
    player = mtftp.client()
    mtftp.say(player, rrq("linux"))
    mtftp.say(player, buildError(2, "mine"))
    assert [(each["client_code"], each["client_text"]) for each in told(events, "received")] == [(2, "mine")]


def test_bounded(events: Events) -> None:
    """A request with as many options as fit it leaves no longer line than others."""
    stage = TftpStage()
    options = {f"o{number}": "v" * 20 for number in range(60)}
    stage.ask(rrq(**options))
    stage.network.advance(60)
    (event,) = told(events, "received")
    assert len(event["options"]) < 260


def test_emptyFile(events: Events) -> None:
    """An empty file is called one."""
    stage = TftpStage({"f": b""})
    download(stage, stage.client(), rrq())
    stage.network.advance(1)
    (event,) = told(events, "received")
    assert asMessage(event) == "tftp: 10.0.0.9:2000 f: complete, an empty file"


def test_emptyName(events: Events) -> None:
    """A request without a name is called one, with its machine."""
    stage = TftpStage()
    stage.ask(b"\0\1\0octet\0")
    (event,) = told(events, "refused")
    assert asMessage(event).startswith(
        "tftp: 10.0.0.9:2000 is refused an unreadable request: the request has no file name;"
    )


def test_rollover(events: Events) -> None:
    """The machine whose file has too many blocks for 16 bits is named."""
    stage = TftpStage({"f": bytes(8 * 66_000)})
    stage.ask(rrq(blksize=8))
    (event,) = told(events, "rollover")
    assert asMessage(event).startswith("tftp: 10.0.0.9:2000 gets f in 66001 blocks of 8: the block number rolls over")


@pytest.mark.parametrize("level", ["info", "debug"])
def test_requests(level: str, case: Case, events: Events) -> None:
    """At debug level each request is in the log, and at no other."""
    assert case.reload(f"{TEXT}logging: {{level: {level}}}\n") == ()
    fetch(case, rrq("f", blksize=1000))
    fetch(case, rrq("secret/f"), 1)
    shown = [asMessage(event).partition(" asks ")[2] for event in told(events, "request")]
    wanted = ["to read f (octet, blksize=1000)", "to read secret/f (octet)"]
    assert shown == (wanted if level == "debug" else [])


def test_everyOutput(case: Case, events: Events) -> None:
    """The fields are the same in JSON, in the journal and in the history, and the line is the same in all."""
    fetch(case, rrq("x/f", blksize=1000), 1)
    case.network.advance(40)
    (event,) = told(events, "received")
    line = asMessage(event)
    assert event["verdict"] == "mtu"
    assert line.endswith(f"; {event['cause']}: {event['cure']}")
    kept = {"verdict", "cause", "cure", "path", "source", "options", "granted", "write", "name"}
    shown = json.loads(asJSON(event) or "")
    assert {key: shown[key] for key in kept} == {key: event[key] for key in kept}
    fields = dict(journal.fields(event))
    assert fields["MESSAGE"] == line
    assert {key: fields[f"CASTD_{key.upper()}"] for key in kept} == {key: str(event[key]) for key in kept}
    store = Store(None, 1000.0, 1 << 20)
    entry = entryOf(event)
    assert entry is not None
    store.add([entry], event["log_time"])
    (found,) = store.find(Query(address="10.0.0.9", failed=True))
    assert found["message"] == line
    assert {key: found["fields"][key] for key in kept} == {key: event[key] for key in kept}


def test_pluginsNeedNothing(events: Events) -> None:
    """A source of somebody else that does not tell where it looks leaves the fields out; so does an event of his."""

    class Source:
        def lookup(self, name: str, peer: object) -> BytesContent:
            return BytesContent(name, b"x" * 600)

    stage = TftpStage(source=Source())
    download(stage, stage.client(), rrq())
    stage.network.advance(1)
    (event,) = told(events, "received")
    assert (event["outcome"], event.keys() & {"path", "source"}) == ("done", set())
    theirs = {"event": "received", "transport": "mine", "peer": "10.0.0.9:1", "name": "f", "outcome": "done"}
    assert asMessage(theirs) == "mine: 10.0.0.9:1 f: complete"
