"""`castd explain` says what a request would get, as it would get it, and why; and it serves nothing."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import maybeDeferred
from twisted.internet.testing import MemoryReactorClock

from castd.cli import main
from castd.cli.explain import known, verdict
from castd.dialects.tftp import Dialect as DialectOfTftp
from castd.errors import Declined, WireError
from castd.files import root, uploads
from castd.files.root import Root
from castd.group_pool import BorrowedGroups, GroupPool
from castd.packets import tftp
from castd.packets.slam import FIRST_LIST
from castd.server.admission import MIN_STAY
from castd.server.machines import Machines
from castd.service.explain import PATIENCE, DryRequest, ExplainAnswer, Explanation
from castd.testing import Network, RecordingClient
from tests.support.descriptors import Descriptors
from tests.support.disks import Later, nobody, result
from tests.support.jobs import ROOT, free, running, until
from tests.support.server import SERVER, Case

HERE, THERE = "10.0.0.9", "10.0.1.9"
MAC = "52:54:00:66:00:10"

#: Sources with every way to change a name, uploads of each policy, and each transport of the TFTP family.
FILE = """castd: 1
content:
- directory:
    path: first
    networks: 10.0.1.0/24
    under: one
- directory:
    path: boot
    strip: [tftpboot]
    rewrite:
    - {{from: '^pxe/(.*)', to: 'images/\\1'}}
    - {{from: '-', to: '_', every: true}}
    world-readable: true
uploads:
- directory: {{path: logs, under: logs, policy: overwrite, max-size: 4096}}
- directory: {{path: drop, networks: 10.0.0.0/24}}
access: {rules}
limits: {{per-peer: 10}}
transports:
  multicast: {{port: 69, caps: [{{clients: 10.0.1.0/24, blksize: 900}}]}}
  tftp:
    port: 69
    blksize: 1400
    windowsize: 8
    without: [{{clients: 10.0.1.0/24, options: [timeout]}}]
    caps: [{{clients: 10.0.0.0/24, windowsize: 4}}, {{clients: 10.0.0.9/32, blksize: 1024}}]
  mtftp: {{port: 1759, files: {{images/kernel: null, nowhere: 239.255.1.2:3001}}, errors: true}}
  slam: {{port: 10000, file: images/kernel}}
"""
ALL = "[{allow: any}]"


def fill(folder: Path) -> None:
    """Make the directories of FILE."""
    for name in ("first", "boot/images", "logs", "drop"):
        (folder / name).mkdir(parents=True)
    for name, size in (
        ("first/kernel", 700),
        ("boot/images/kernel", 3000),
        ("boot/a_b", 0),
        ("boot/Case", 10),
        ("boot/secret", 10),
        ("logs/old", 5),
        ("drop/old", 5),
    ):
        (folder / name).write_bytes(bytes(size))
    (folder / "boot" / "secret").chmod(0o640)
    (folder / "boot" / "out").symlink_to("/etc/passwd")
    (folder / "boot" / "in").symlink_to("images/kernel")


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    fill(folder)
    return folder


@pytest.fixture
def case(hall: Path) -> Iterator[Case]:
    made = Case(hall, Network(), FILE.format(rules=ALL))
    yield made
    made.server.stopService()
    made.network.advance(30)


def asked(name: str, client: str = HERE, **given: Any) -> DryRequest:
    return DryRequest.read({"client": client, "name": name, **given})


def explained(case: Case, question: DryRequest) -> ExplainAnswer:
    found = case.server.explain(question)
    answer: ExplainAnswer = result(found)
    return answer


def one(case: Case, name: str, to: str = f"{SERVER}:69", **given: Any) -> Explanation:
    """What one address makes of a request."""
    (found,) = explained(case, asked(name, to=to, **given))["explanations"]
    return found


def texts(found: Explanation, step: str) -> list[str]:
    return [each["text"] for each in found["steps"] if each["step"] == step]


def placed(found: Explanation, step: str) -> list[tuple[int | None, str]]:
    """The line of the service file and the text of each step of this kind."""
    steps = [each for each in found["steps"] if each["step"] == step]
    return [(None if each["where"] is None else int(each["where"].split(":")[1]), each["text"]) for each in steps]


# What it says is what a request gets.

READS = st.sampled_from(
    [
        "images/kernel",
        "pxe/kernel",
        "tftpboot/images/kernel",
        "one/kernel",
        "a-b",
        "a_b",
        "case",
        "Case",
        "secret",
        "out",
        "in",
        "images",
        "nowhere",
        "/images//kernel",
        "../etc/passwd",
        "images\\kernel",
        "x.efi",
    ]
)
WRITES = st.sampled_from(
    ["logs/old", "logs/new", "drop/x", "old", "new", "one", "x.efi", "logs/deep/x", "../new", "logs", "images/kernel"]
)
PATTERNS = st.sampled_from(["*.efi", "images/**", "kernel", "/old", "?-b", "logs/*", "*"])
NETWORKS = st.sampled_from(["any", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.9/32", "192.168.0.0/16"])
RULES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={"names": st.lists(PATTERNS, min_size=1, max_size=2), "for": st.sampled_from(["read", "write"])},
    ).flatmap(
        lambda rule: st.tuples(st.sampled_from(["allow", "allow", "deny"]), NETWORKS).map(
            lambda who: {who[0]: who[1], **rule}
        )
    ),
    max_size=5,
)
OPTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["blksize", "BLKSIZE", "blksize2"]),
            st.sampled_from(["7", "8", "600", "1468", "65464", "x"]),
        ),
        st.tuples(st.just("windowsize"), st.sampled_from(["0", "1", "4", "64"])),
        st.tuples(st.just("timeout"), st.sampled_from(["0", "3", "256"])),
        st.tuples(st.just("tsize"), st.sampled_from(["0", "100", "5000"])),
        st.tuples(st.just("multicast"), st.just("")),
        st.tuples(st.just("rollover"), st.sampled_from(["0", "2"])),
        st.tuples(st.just("noise"), st.just("1")),
    ),
    max_size=4,
)


def first(case: Case, question: DryRequest, port: int, wait: float = 0.5) -> bytes | None:
    """The first datagram that a client gets that really asks; L{None}: it gets none."""
    client = RecordingClient(case.network.host(question.client))
    datagram = FIRST_LIST if port == 10000 else question.datagram()
    client.send(datagram, (SERVER, port))
    case.network.advance(wait)
    return client.inbox[0].datagram if client.inbox else None


def same(found: Explanation, datagram: bytes | None) -> bool:
    """Whether an explanation announces exactly this datagram."""
    answer = found["answer"]
    if datagram is None:
        return answer["kind"] == "nothing" and not found["served"]
    packet = tftp.parse(datagram)
    if isinstance(packet, tftp.Error):
        return (answer["kind"], answer["code"], answer["text"]) == ("ERROR", packet.code, packet.text)
    if isinstance(packet, tftp.Oack):
        return found["served"] and (answer["kind"], answer["options"]) == ("OACK", dict(packet.options))
    return found["served"] and answer["kind"] == ("DATA" if isinstance(packet, tftp.Data) else "ACK")


@given(
    rules=RULES | st.just([{"allow": "any"}]),
    wanted=st.tuples(st.just(False), READS) | st.tuples(st.just(True), WRITES),
    client=st.sampled_from([HERE, THERE, "10.0.0.8"]),
    mode=st.sampled_from(["octet", "octet", "octet", "netascii", "mail"]),
    options=OPTIONS,
    port=st.sampled_from([69, 69, 69, 1759]),
)
def test_saysWhatARequestGets(
    hall: Path, rules: Any, wanted: Any, client: str, mode: str, options: list[tuple[str, str]], port: int
) -> None:
    """Whatever the rules, the name, the client and the options are, a real request gets what was explained before."""
    case = Case(hall, Network(), FILE.format(rules=json.dumps(rules)))
    write, name = wanted
    given = {option.lower(): (option, value) for option, value in options}
    question = DryRequest(client, name, write, mode, tuple(given.values()), (SERVER, port))
    (found,) = explained(case, question)["explanations"]
    got = first(case, question, port)
    assert same(found, got), (found, got)
    case.server.stopService()
    case.network.advance(30)
    for file in ("logs/new", "drop/new", "drop/x"):
        assert not (hall / file).exists()


@pytest.mark.parametrize("client", [HERE, THERE])
@pytest.mark.parametrize("name", ["logs/old", "logs/new", "old", "new", "logs/deep/x", "../new", "logs"])
def test_writes(case: Case, name: str, client: str) -> None:
    """So does each kind of write."""
    question = asked(name, client=client, write=True, to=f"{SERVER}:69", options=["tsize=100"])
    (found,) = explained(case, question)["explanations"]
    assert same(found, first(case, question, 69))


@pytest.mark.parametrize("name", ["images/kernel", "/images/kernel", "other"])
def test_slam(hall: Path, name: str) -> None:
    """A request of SLAM names no file: it is explained for the one file of its port, and for no other."""
    case = Case(hall, Network(), FILE.format(rules=ALL))
    found = one(case, name, f"{SERVER}:10000")
    got = first(case, asked(name), 10000)
    assert got is not None
    assert found["served"] is (name != "other")
    assert found["answer"]["kind"] == ("nothing" if name == "other" else "other")


def test_refusedInItsWords(hall: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's protocol may say no in its own way: the verdict then speaks of no ERROR, of which it knew no code."""
    monkeypatch.setattr(DialectOfTftp, "refuse", lambda *_: b"E\1File not found")
    case = Case(hall, Network(), FILE.format(rules=ALL))
    found = one(case, "absent", f"{SERVER}:69")
    assert verdict(found).split(maxsplit=1)[1] == "refused by tftp with the first datagram of its protocol"


# Why.


def test_rules(hall: Path) -> None:
    """Each rule is told with its line up to the one that decides, and why it does not match."""
    rules = "\n- {deny: 10.8.0.0/16}\n- {allow: any, for: write}\n- {allow: any, names: ['*.efi']}\n- {deny: any}"
    found = one(Case(hall, Network(), FILE.format(rules=rules)), "kernel")
    assert placed(found, "access") == [
        (18, "does not match: it is for other clients"),
        (19, "does not match: it is for other uses, to write"),
        (20, "does not match: it is for other names"),
        (21, "denies it"),
    ]
    assert (found["answer"]["code"], found["answer"]["text"]) == (2, "Access violation")


def test_manyRules(hall: Path) -> None:
    """Of very many rules those before the one that decides are told, and how many more there were."""
    rules = json.dumps([{"deny": f"10.8.{number}.0/24"} for number in range(200)] + [{"allow": "any"}])
    told = texts(one(Case(hall, Network(), FILE.format(rules=rules)), "a_b"), "access")
    assert told[0] == "160 rules before these do not match either"
    assert len(told) == 42
    assert told[-1] == "allows it"


def test_noRuleMatches(hall: Path) -> None:
    """Where no rule matches, that is why it is denied."""
    found = one(Case(hall, Network(), FILE.format(rules="[{allow: 10.8.0.0/16}]")), "a_b")
    assert texts(found, "access")[-1] == "no access rule matches: denied"


def test_sources(case: Case) -> None:
    """What each rule makes of the name is told with its line, and the path that was looked for in each source."""
    found = one(case, "tftpboot/pxe/ker-nel", client=THERE)
    assert placed(found, "name") == [
        (9, "the name becomes pxe/ker-nel"),
        (11, "the name becomes images/ker-nel"),
        (12, "the name becomes images/ker_nel"),
    ]
    boot = case.folder / "boot"
    assert placed(found, "source") == [
        (3, "does not have it: File not found"),
        (8, f"looks for {boot}/images/ker_nel"),
        (7, "does not have it: No such file or directory"),
        (7, f"{boot}/images is there, {boot}/images/ker_nel is not"),
    ]


def test_networks(case: Case) -> None:
    """A source that is for others is told as such; one that has the file is told with its size."""
    assert texts(one(case, "one/kernel"), "source")[0] == "does not have it: not for this client"
    found = one(case, "one/kernel", client=THERE)
    assert texts(found, "source") == [f"looks for {case.folder}/first/kernel", "has it", "700 octets"]
    assert (4, f"looks for {case.folder}/first/kernel") in placed(found, "source")


def test_case(case: Case) -> None:
    """A name in the wrong case is told with the name that is there."""
    told = texts(one(case, "IMAGES/Kernel"), "source")
    assert told[-1] == f"{case.folder}/boot/images/kernel is there, and differs in case only (ignore-case)"
    assert told[-2] == f"{case.folder}/boot is there, {case.folder}/boot/IMAGES is not"


def test_caseAmongMany(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of too many names is not listed for one that differs in case; where the path ends is told."""
    monkeypatch.setattr(root, "MOST_LISTED", 2)
    told = texts(one(case, "IMAGES/Kernel"), "source")
    assert told[-1] == f"{case.folder}/boot is there, {case.folder}/boot/IMAGES is not"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("out", "a link leads out of the root"),
        ("secret", "not readable for everybody"),
        ("images", "not a regular file"),
        ("../etc/passwd", "the name leads out of the root"),
    ],
)
def test_refused(case: Case, name: str, why: str) -> None:
    """A source that has the file and may not give it says why; no other source is asked."""
    found = one(case, name)
    assert texts(found, "source")[-1] == f"refuses it: {why}"
    assert texts(found, "transport")[-1] == f"refuses the request: {why}"
    assert found["answer"]["code"] == 2


def test_transports(case: Case) -> None:
    """Each transport at the address is told, in the order in which they are asked, and why it leaves the request."""
    found = one(case, "images/kernel", options=["multicast="], client=THERE)
    assert [(line, text) for line, text in placed(found, "transport")] == [
        (20, "reads the request"),
        (20, "does not serve it: outside; the next one is asked"),
    ]
    assert found["transport"] == "tftp"
    assert "multicast=: not granted: tftp knows no such option" in texts(found, "option")


def test_group(case: Case) -> None:
    """A group that would be opened is named; it is free as before, and the real one gets it."""
    found = one(case, "images/kernel", options=["multicast="])
    assert found["answer"]["options"] == {"multicast": "239.255.0.0,1758,1"}
    assert one(case, "images/kernel", options=["multicast="])["answer"] == found["answer"]
    assert same(found, first(case, asked("images/kernel", options=["multicast="]), 69))
    later = one(case, "images/kernel", options=["multicast="])
    assert "it joins the group that receives this file already" in texts(later, "transport")
    assert later["answer"]["options"] == {"multicast": "239.255.0.0,1758,1"}


def test_fullGroup(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of MTFTP that has no room is told; the question is none of the client's two that let it in."""
    monkeypatch.setattr("castd.dialects.mtftp_cast.MOST_REMEMBERED", 1)
    question = asked("images/kernel", to=f"{SERVER}:1759")
    for host in ("10.0.0.31", "10.0.0.32"):
        first(case, asked("images/kernel", host), 1759, 0.01)
    for _ in range(2):
        (found,) = explained(case, question)["explanations"]
        assert "the group has no room" in texts(found, "transport")[-1]
        case.network.advance(0.2)
    assert same(found, first(case, question, 1759, 0.01))
    assert case.server.site.dropped == {"full": 1}


def test_bounds(case: Case) -> None:
    """Of each option it is told what is granted, and what bounds it, with the line."""
    found = one(case, "images/kernel", options=["blksize=1468", "windowsize=16", "timeout=3", "x=1"])
    assert found["answer"]["options"] == {"blksize": "1024", "windowsize": "4", "timeout": "3"}
    assert placed(found, "option") == [
        (23, "at most 1400 octets"),
        (26, "blocks of at most 1024 octets for this client"),
        (24, "at most 8 blocks"),
        (26, "windows of at most 4 blocks for this client"),
        (None, "blksize=1468: granted as 1024"),
        (None, "windowsize=16: granted as 4"),
        (None, "timeout=3: granted as 3"),
        (None, "x=1: not granted: tftp knows no such option"),
    ]
    there = one(case, "images/kernel", client=THERE, options=["timeout=3"])
    assert (25, "timeout not granted to this client") in placed(there, "option")
    assert "timeout=3: not granted" in texts(there, "option")


def test_uploads(case: Case) -> None:
    """Each place for uploads is told, with the reason why it does not take the file."""
    found = one(case, "logs/old", write=True, options=["tsize=5000"])
    assert placed(found, "upload") == [(15, "does not take it: larger than an upload may be")]
    assert found["answer"]["code"] == 3
    assert texts(one(case, "old", write=True), "upload") == [
        "does not take it: not for this name",
        "does not take it: File already exists",
    ]
    assert texts(one(case, "new", write=True, client=THERE), "upload")[-1] == (
        "does not take it: no uploads by this client"
    )
    assert one(case, "logs/deep/x", write=True)["answer"]["code"] == 1


def test_uploadsAreOff(hall: Path) -> None:
    """Without uploads, or without a rule for them, that is why."""
    text = "castd: 1\ncontent: [{directory: {path: boot}}]\n"
    off = one(Case(hall, Network(), f"{text}transports: {{tftp: {{}}}}\n"), "x", write=True)
    assert texts(off, "transport")[-1] == "refuses the request: uploads are off"
    uploads = f"{text}uploads: [{{directory: {{path: drop}}}}]\ntransports: {{tftp: {{}}}}\n"
    without = one(Case(hall, Network(), uploads), "x", write=True)
    assert texts(without, "access") == ["there are no access rules: nobody may write"]


def test_noUploadsHere(hall: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport that takes no uploads leaves them to the next one."""
    two = "transports:\n  first: {use: tftp}\n  second: {use: tftp, windowsize: 2}\n"
    case = Case(hall, Network(), FILE.format(rules=ALL).partition("transports:")[0] + two)
    monkeypatch.setattr(case.server.addresses[0].transport.dialects[0].dialect, "uploadReceiver", lambda _: None)
    question = asked("logs/new", write=True, options=["windowsize=8"], to=f"{SERVER}:69")
    (found,) = explained(case, question)["explanations"]
    assert "takes no uploads" in texts(found, "transport")
    assert (found["transport"], found["answer"]["options"]) == ("second", {"windowsize": "2"})
    assert same(found, first(case, question, 69))
    case.server.stopService()
    case.network.advance(30)


def test_theNextCannotReadIt(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one transport leaves to the next, and that cannot read, is not answered."""

    def declined(*_: object) -> None:
        raise Declined("elsewhere")

    def unread(*_: object) -> None:
        raise WireError("not of this protocol")

    dialects = case.server.addresses[0].transport.dialects
    assert [each.name for each in dialects] == ["multicast", "tftp"]
    monkeypatch.setattr(dialects[0].dialect, "key", declined)
    monkeypatch.setattr(dialects[1].dialect, "request", unread)
    found = one(case, "images/kernel", options=["multicast="])
    assert texts(found, "transport")[-1] == "cannot read the request: not of this protocol"
    assert (found["transport"], found["answer"]["kind"]) == ("tftp", "nothing")


@pytest.mark.parametrize("blocks", [65535, 65536])
def test_tooLarge(tmp_path: Path, blocks: int) -> None:
    """A file with more blocks than a protocol has numbers for is told to be none for it, as it is then."""
    fill(tmp_path)
    case = Case(tmp_path, Network(), FILE.format(rules=ALL))
    with (tmp_path / "boot" / "images" / "kernel").open("r+b") as file:
        file.truncate(blocks * 512 - 1)
    found = one(case, "images/kernel", f"{SERVER}:1759", client="10.0.0.8")
    group = one(case, "images/kernel", client="10.0.0.8", options=["multicast="])
    told = "does not serve it: too-many-blocks; the next one is asked"
    assert (told in texts(found, "transport")) is (blocks > 65535)
    assert (told in texts(group, "transport")) is (blocks > 65535)
    assert same(found, first(case, asked("images/kernel", client="10.0.0.8"), 1759))
    assert same(group, first(case, asked("images/kernel", client="10.0.0.8", options=["multicast="]), 69))


def test_window(case: Case) -> None:
    """An upload is granted the window that the socket would hold, as in a real one."""
    case.host.buffer = 3000
    question = asked("logs/new", write=True, options=["windowsize=8", "blksize=1000"], to=f"{SERVER}:69")
    (found,) = explained(case, question)["explanations"]
    assert found["answer"]["options"]["windowsize"] == "2"
    assert same(found, first(case, question, 69))


@pytest.mark.parametrize(
    ("closed", "what"), [("boot", "search"), ("boot/images", "search"), ("boot/images/kernel", "read")]
)
def test_noPermission(case: Case, hall: Path, closed: str, what: str) -> None:
    """Where a permission is in the way it is told whose: that of a directory above, or of the file."""
    path = hall / closed
    mode = path.stat().st_mode
    path.chmod(0o000)
    try:
        with nobody():
            found, user = one(case, "images/kernel"), os.geteuid()
    finally:
        path.chmod(mode)
    assert texts(found, "source")[-2:] == [
        "refuses it: Permission denied",
        f"user {user} may not {what} {path}: namei -l {path}",
    ]


# What there is now.


def test_limit(case: Case) -> None:
    """A limit that is reached now is told, and nothing of it is used up by asking."""
    for _ in range(10):
        assert one(case, "images/kernel")["served"]
        assert first(case, asked("images/kernel"), 69)
    found = one(case, "images/kernel")
    assert (found["served"], found["answer"]["kind"]) == (False, "nothing")
    assert placed(found, "limit")[-1] == (18, "is reached: there is no answer, the client asks again")
    assert placed(found, "limit")[0] == (18, "10 of 10 transfers of this address are under way")


@pytest.mark.parametrize("wait", [0.05, 0.5])
@pytest.mark.parametrize("limit", ["casts: 2", "receivers: 2", "new-per-peer: 2/s"])
def test_limits(hall: Path, limit: str, wait: float) -> None:
    """So is each of the limits of all together, and a rate: as a request that comes at that moment finds it."""
    case = Case(hall, Network(), FILE.format(rules=ALL).replace("per-peer: 10", limit))
    for _ in range(2):
        assert first(case, asked("images/kernel"), 69, wait)
    question = asked("images/kernel", to=f"{SERVER}:69")
    (found,) = explained(case, question)["explanations"]
    assert found["served"] is (first(case, question, 69) is not None)
    assert found["served"] is (wait > MIN_STAY)
    assert ("is reached: there is no answer, the client asks again" in texts(found, "limit")) is not found["served"]


def test_descriptors(case: Case) -> None:
    """So is the limit of open files, where that is the one that is reached."""
    case.server.site.admission.affordable = 1
    assert first(case, asked("images/kernel"), 69, MIN_STAY / 5)
    found = one(case, "images/kernel")
    casts = "limits.casts: 1 of 4096 casts are under way, and there are descriptors for 1 (LimitNOFILE)"
    assert casts in texts(found, "limit")
    assert placed(found, "limit")[-1] == (None, "LimitNOFILE is reached: there is no answer, the client asks again")


def test_readOnly(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads to a file system that is read-only are refused as such, and not for a permission."""
    monkeypatch.setattr(uploads, "writeFault", lambda path, mode, within: errno.EROFS)
    found = one(case, "logs/new", write=True)
    assert texts(found, "upload")[-1] == "does not take it: Read-only file system"


@pytest.mark.parametrize("answer", [False, OSError(errno.ESTALE, os.strerror(errno.ESTALE))])
def test_whyNobodyMayWrite(case: Case, monkeypatch: pytest.MonkeyPatch, answer: bool | OSError) -> None:
    """Where nobody may write the file system is asked why; one that fails to answer is what is told."""
    monkeypatch.setattr(os, "access", lambda *args, **more: False)

    def statvfs(place: object) -> SimpleNamespace:
        if isinstance(answer, OSError):
            raise answer
        return SimpleNamespace(f_flag=0)

    monkeypatch.setattr(os, "statvfs", statvfs)
    found = one(case, "logs/new", write=True)
    why = answer.strerror if isinstance(answer, OSError) else "Permission denied"
    assert texts(found, "upload")[-1] == f"does not take it: {why}"


def test_barred(case: Case) -> None:
    """A file that another transport has refused to a client is told so; only a real request counts against that."""
    case.server.site.bar(HERE, "images/kernel", 60, "it is to ask again by MTFTP")
    for _ in range(2):
        found = one(case, "images/kernel", options=["blksize=600"])
        assert texts(found, "transport")[-1] == "refuses the request: it is to ask again by MTFTP"
        case.network.advance(15)
    assert same(found, first(case, asked("images/kernel", options=["blksize=600"]), 69))
    assert one(case, "images/kernel")["served"]


def test_barredAndServed(case: Case) -> None:
    """A client that another file is being sent to at this port is refused nothing, and told so."""
    client = RecordingClient(case.network.host(HERE))
    client.send(b"\0\1images/kernel\0octet\0", (SERVER, 69))
    client.send(b"\0\4\0\1", client.expect().source)
    case.network.advance(0.1)
    case.server.site.bar(HERE, "images/kernel", 60, "it is to ask again by MTFTP")
    question = asked("images/kernel", to=f"{SERVER}:69", options=["blksize=600"])
    (found,) = explained(case, question)["explanations"]
    assert (found["served"], found["answer"]["options"]) == (True, {"blksize": "600"})
    assert same(found, first(case, question, 69))


def test_deaf(case: Case) -> None:
    """A machine that hears nothing of groups is told to be served by the next transport."""
    case.server.site.deafMachines.remember(HERE, 100, 0.0)
    found = one(case, "images/kernel", options=["multicast="])
    assert "does not serve it: deaf; the next one is asked" in texts(found, "transport")
    assert found["transport"] == "tftp"


def test_stopping(case: Case) -> None:
    """A server that is stopping says so."""
    case.server.draining = True
    assert one(case, "images/kernel")["answer"]["kind"] == "nothing"


def test_elsewhere(case: Case) -> None:
    """Where nothing listens, or only for the other family, that is the answer."""
    for question in (asked("x", to=f"{SERVER}:70"), asked("x", client="fd00::1")):
        found = explained(case, question)
        assert found["served"] is False
        assert "listens at" in texts(found["explanations"][0], "transport")[0]


def test_eachAddress(case: Case) -> None:
    """Without an address each one is explained; one that would serve is enough."""
    found = explained(case, asked("images/kernel"))
    assert [(each["to"], each["served"]) for each in found["explanations"]] == [
        (f"{SERVER}:69", True),
        (f"{SERVER}:1759", True),
        (f"{SERVER}:10000", True),
    ]
    assert found["served"]
    assert not explained(case, asked("nowhere"))["served"]


def test_nothingHappens(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    """Nothing is logged, counted, sent or made by asking."""
    fill(tmp_path)
    case = Case(tmp_path, Network(), FILE.format(rules=ALL))
    events.clear()
    site, sent = case.server.site, case.network.sent
    for write in (False, True):
        for name in ("images/kernel", "nowhere", "secret", "logs/new", "drop/old"):
            explained(case, asked(name, write=write, options=["blksize=1000", "multicast="]))
    assert [each for each in events if each.get("event")] == []
    assert (case.network.sent, site.admission.casts, site.admission.looking, site.admission.receivers.total()) == (
        sent,
        0,
        0,
        0,
    )
    assert not site.dropped
    assert sorted(os.listdir(case.folder / "logs")) == ["old"]


def test_reload(hall: Path) -> None:
    """After a reload the rules, lines and options in force are told."""
    case = Case(hall, Network(), FILE.format(rules=ALL))
    assert case.reload("# more\n" + FILE.format(rules="[{deny: any}]")) == ()
    assert placed(one(case, "images/kernel"), "access") == [(18, "denies it")]


@pytest.mark.parametrize(
    ("name", "write", "hangsAt", "told"),
    [
        ("images/kernel", False, 0, "refuses it: its disk does not answer"),
        ("nowhere", False, 0, "refuses it: its disk does not answer"),
        ("nowhere", False, 1, "does not have it: No such file or directory"),
        ("new", True, 0, None),
        ("new", True, 1, None),
    ],
)
def test_slowDisk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: bool, hangsAt: int, told: str | None
) -> None:
    """
    A disk that hangs is not waited for longer than PATIENCE, wherever it begins to; meanwhile time goes on for the
    others, and when the disk answers at last nothing is left open.
    """
    fill(tmp_path)
    disk = Later()
    for module in ("content", "uploads"):
        monkeypatch.setattr(f"castd.files.{module}.DiskThreads", lambda *_: disk)
    monkeypatch.setattr(Root, "openAtHand", lambda *_: None)
    case = Case(tmp_path, Network(), FILE.format(rules=ALL))
    disk.run()
    results: list[ExplainAnswer] = []
    case.server.explain(asked(name, to=f"{SERVER}:69", write=write)).addCallback(results.append)
    disk.run(hangsAt)
    opened = Descriptors()
    case.network.advance(PATIENCE - 0.1)
    assert results == []
    case.network.advance(0.2)
    ((found,),) = (each["explanations"] for each in results)
    assert told is None or texts(found, "source")[-1] == told
    assert found["answer"]["kind"] == ("ERROR" if hangsAt and not write else "nothing")
    disk.run()
    assert opened.left() == []
    assert os.listdir(tmp_path / "drop") == ["old"]


@given(st.lists(st.integers(0, 3), max_size=30))
def test_borrowedGroups(steps: list[int]) -> None:
    """Whatever is borrowed and given back, a pool allocates what it would have allocated."""
    pools, taken = (GroupPool(), GroupPool()), list[Any]()
    groups = tuple((f"239.0.0.{number}", 1) for number in range(4))
    for now, step in enumerate(steps):
        borrowed = BorrowedGroups(pools[1])
        if (found := borrowed.allocate(groups, now)) is not None:
            borrowed.release(found, now)
        if step and taken:
            group = taken.pop(step % len(taken))
            for pool in pools:
                pool.release(group, now)
        else:
            got = [pool.allocate(groups, now) for pool in pools]
            assert got[0] == got[1]
            taken += [got[0]] if got[0] else []


@pytest.mark.parametrize(
    "wrong",
    [
        {"client": "nobody", "name": "x"},
        {"client": "", "name": "x"},
        {"client": "10.0.0.0/24", "name": "x"},
        {"client": "239.1.1.1", "name": "x"},
        {"client": "255.255.255.255", "name": "x"},
        {"client": HERE, "name": "a\0b"},
        {"client": HERE, "name": 3},
        {"client": HERE, "name": "x", "options": ["blksize"]},
        {"client": HERE, "name": "x", "options": "blksize=1"},
        {"client": HERE, "name": "x", "options": ["=1"]},
        {"client": HERE, "name": "x", "to": "10.0.0.1"},
        {"client": HERE, "name": "x", "to": "10.0.0.1:70000"},
    ],
)
def test_noRequest(wrong: dict[str, object]) -> None:
    """What no client could ask is told so."""
    with pytest.raises(
        ValueError, match=r"expect|NAME=VALUE|NUL|^to: .* address and a port, such as|^client: .* address"
    ):
        DryRequest.read(wrong)


# The command.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    fill(tmp_path)
    path = tmp_path / "castd.yaml"
    path.write_text(FILE.format(rules=ALL).replace("port: 69\n", "port: 6969\n").replace("port: 69,", "port: 6969,"))
    return path


class Machine(MemoryReactorClock):
    """A reactor that runs what it is told to, and is stopped by it."""

    def callWhenRunning(self, call: Any) -> None:
        self.begun = call

    def run(self) -> None:
        self.begun()


def castd(*arguments: object) -> Result:
    """Run the command; its disks are waited for in this thread."""
    return CliRunner().invoke(main.main, ["explain", *map(str, arguments)], obj={"reactor": Machine()})


def test_command(file: Path) -> None:
    """The steps are lines beneath the address, the last one is the verdict, and the status is 0."""
    ran = castd(file, "--client", HERE, "--name", "a-b", "--options", "blksize=600", "--to", "10.0.0.1:6969")
    assert (ran.exit_code, ran.stderr) == (0, "")
    told = ran.stdout.splitlines()
    assert told[0] == "10.0.0.1:6969"
    assert f"  name       {file}:12: content[1].directory.rewrite[1]: the name becomes a_b" in told
    assert told[-1] == "  verdict    served by tftp with OACK blksize=600"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--name", "nowhere"], "refused by tftp: ERROR 1 File not found"),
        (
            ["--name", "logs/old", "--write", "--options", "tsize=9999"],
            "refused by tftp: ERROR 3 Disk full or allocation exceeded",
        ),
        (["--name", "a_b", "--to", "10.0.0.1:7000"], "not answered"),
    ],
)
def test_commandRefused(file: Path, arguments: list[str], told: str) -> None:
    """A request that would be refused, or not be answered, is status 1."""
    ran = castd("-c", file, "--client", HERE, *arguments, *([] if "--to" in arguments else ["--to", "10.0.0.1:6969"]))
    assert (ran.exit_code, ran.stderr) == (1, "")
    assert ran.stdout.splitlines()[-1] == f"  verdict    {told}"


def test_commandJson(file: Path) -> None:
    """--json is the same as data."""
    ran = castd(file, "--client", HERE, "--name", "a_b", "--to", "10.0.0.1:6969", "--json")
    found = json.loads(ran.stdout)
    assert (ran.exit_code, found["served"]) == (0, True)
    assert found["explanations"][0]["answer"] == {"kind": "DATA", "options": {}, "code": None, "text": ""}
    assert found["explanations"][0]["steps"][0] == {
        "step": "transport",
        "where": f"{file}:20: transports.multicast",
        "text": "does not read such a request",
    }


def test_commandCannotTell(file: Path, tmp_path: Path) -> None:
    """What cannot be found out is status 2: wrong usage, a file with faults, a server that does not run."""
    question = ("--client", HERE, "--name", "x")
    (tmp_path / "bad.yaml").write_text("castd: 1\ntransports: {tftp: {prot: 1}}\n")
    for arguments, told in (
        ([], "Of which server?"),
        ([file, "--running"], "Of which server?"),
        ([file, "-c", file], "Of which server?"),
        ([tmp_path / "bad.yaml"], "unknown key: did you mean port?"),
        (["--running", "--control", tmp_path / "nothing"], "no answer"),
        ([file, "--options", "blksize"], "NAME=VALUE"),
    ):
        ran = castd(*arguments, *question)
        assert (ran.exit_code, told in ran.stderr) == (2, True), (arguments, ran.stderr)


def test_shownSafely(file: Path) -> None:
    """A name never makes a terminal do anything."""
    ran = castd(file, "--client", HERE, "--name", "a\x1b[31m/b", "--to", "10.0.0.1:6969")
    assert "\x1b" not in ran.stdout
    assert ran.exit_code == 1


def test_whatIsKnownOfTheMachine(case: Case) -> None:
    """A running server also tells which machine has this address, and what has failed for it, of this file alone."""
    case.server.site.machines = Machines(case.server.site.reactor, lambda: maybeDeferred, lambda: {HERE: MAC})
    case.server.site.machines.hear(MAC, None, "efi-x64")
    box = RecordingClient(case.network.host(HERE))
    for name in ("no*", "no*", "nowhere"):
        box.send(tftp.buildRequest(tftp.TftpRequest(False, name, "octet", ())), (SERVER, 69))
        case.network.advance(1)

    def told(client: str, name: str) -> list[str]:
        question = {"do": "explain", "client": client, "name": name, "to": f"{SERVER}:69"}
        found = case.server.admin._answers["explain"](question)
        case.network.advance(1)  # an unknown machine may have come meanwhile, and is looked for again
        answer: ExplainAnswer = result(found)
        assert json.dumps(answer)
        return known(answer)

    machine, before = told(HERE, "no*")
    assert machine == f"machine      MAC {MAC}, architecture efi-x64"
    assert before.startswith("before       20")
    assert "is refused no*: File not found (2 times); no source has this file: " in before
    assert len(told(HERE, "kernel")) == 1
    assert told(THERE, "no*") == ["machine      not known: no neighbour, in no lease, and has said nothing by DHCP"]


@pytest.mark.loopback
@pytest.mark.slow
def test_running(file: Path) -> None:
    """The running server is asked by its control socket; without one, threads and a reactor of the command's own do."""
    port = free(socket.SOCK_DGRAM)[0]
    control = file.parent / "control"
    file.write_text(file.read_text().replace("6969", str(port)) + f"control: {{path: {control}}}\n")
    question = ("--client", "127.0.0.1", "--name", "IMAGES/kernel", "--to", f"127.0.0.1:{port}")
    with running("-m", "castd", "serve", file) as process:
        until(process, "listens at")
        asked = castd("--running", "--control", control, *question)
    offline = subprocess.run(
        [sys.executable, "-m", "castd", "explain", file, *question],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (asked.exit_code, offline.returncode, offline.stderr) == (1, 1, "")
    assert asked.stdout.startswith(offline.stdout)
    assert asked.stdout[len(offline.stdout) :].startswith("machine      not known")
    assert "boot/images/kernel is there, and differs in case only" in asked.stdout
