"""Clients that profiles know get what the profiles say, on the wire; all others get what they got before."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred

from castd.cli.main import main
from castd.machines.known import KnownMachine
from castd.observe.metrics import GAUGES, Readings
from castd.packets import tftp
from castd.profiles.options import OptionShape, ProfileOptions
from castd.profiles.stock import BY_NAME, STOCK
from castd.profiles.table import MOST_COUNTED, OTHER, Profile, ProfileHits, fitOptions
from castd.service.explain import DryRequest
from castd.testing import Network, RecordingClient
from tests.support.disks import result
from tests.support.log import observed
from tests.support.server import SERVER, START, Case

HERE = "10.0.0.9"
BOTH = "transports:\n  multicast: {port: 69, clients: any, gather: 0}\n  tftp: {port: 69, windowsize: 16}\n"


def rrq(name: bytes, *options: str, mode: str = "octet", write: bool = False) -> bytes:
    """A request as it stands on the wire."""
    fields = [name, mode.encode(), *(part.encode() for each in options for part in each.split("=", 1))]
    return bytes((0, 2 if write else 1)) + b"".join(each + b"\0" for each in fields)


class Hall:
    """A server with these profiles, and clients that ask."""

    def __init__(self, folder: Path, profiles: str = "", transports: str = BOTH) -> None:
        (folder / "boot").mkdir(exist_ok=True)
        for name in ("f", "pxelinux.bin", "network-confg", "digicap.dav"):
            (folder / "boot" / name).write_bytes(bytes(3000))
        self.network = Network()
        self.case = Case(folder, self.network, START + (f"profiles: {profiles}\n" if profiles else "") + transports)

    def ask(self, request: bytes, host: str = HERE, port: int = 2000) -> Any:
        """Return the first answer, parsed."""
        self.box = RecordingClient(self.network.host(host), port)
        self.box.send(request, (SERVER, 69))
        self.letter = self.box.expect(seconds=2)
        return tftp.parse(self.letter.datagram)

    def granted(self, request: bytes, host: str = HERE, port: int = 2000) -> dict[str, str] | None:
        """Return the options of the OACK; L{None}: DATA 1 came."""
        packet = self.ask(request, host, port)
        assert isinstance(packet, tftp.Oack | tftp.Data), packet
        return dict(packet.options) if isinstance(packet, tftp.Oack) else None

    def hits(self) -> dict[str, int]:
        return dict(self.case.server.site.profileHits)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    halls: list[Hall] = []

    def make(*given: str) -> Hall:
        halls.append(Hall(tmp_path, *given))
        return halls[-1]

    yield make
    for hall in halls:
        hall.case.server.stopService()
        hall.network.advance(60)


#: For each of castd's own profiles: a request of its client, and what is granted.
SEEN = {
    "name-junk": (rrq(b"pxelinux.bin\xff\n;o\x1e"), None),
    "ipxe": (rrq(b"f", "blksize=1432", "tsize=0"), {"blksize": "1432", "tsize": "3000"}),
    "pxelinux": (rrq(b"f", "tsize=0", "blksize=1408"), {"blksize": "1408", "tsize": "3000"}),
    "grub": (rrq(b"/f", "blksize=1024", "tsize=0"), {"blksize": "1024", "tsize": "3000"}),
    "u-boot": (
        rrq(b"f", "timeout=5", "tsize=1048576", "blksize=1468"),
        {"blksize": "1468", "timeout": "5", "tsize": "3000"},
    ),
    "edk2": (
        rrq(b"f", "tsize=0", "blksize=1468", "windowsize=4"),
        {"blksize": "1468", "tsize": "3000", "windowsize": "4"},
    ),
    "intel-pxe": (rrq(b"f", "blksize=1456"), {"blksize": "1456"}),
    "wds": (rrq(b"\\f", "tsize=0", "blksize=1456", "msftwindow=31416"), {"blksize": "1456", "tsize": "3000"}),
    "curl": (
        rrq(b"f", "tsize=0", "blksize=512", "timeout=6"),
        {"blksize": "512", "tsize": "3000", "timeout": "6"},
    ),
    "atftp": (
        rrq(b"f", "tsize=0", "blksize=1024", "multicast="),
        {"blksize": "1024", "tsize": "3000", "multicast": "239.255.0.1,1758,1"},
    ),
    "network-station": (rrq(b"f", "blksize=1024", "sbroadcast=255.255.255.0"), {"blksize": "1024"}),
    "cisco": (rrq(b"network-confg"), None),
    "hikvision": (rrq(b"digicap.dav"), None),
}


def test_eachOfOurOwnIsSeen() -> None:
    """Each profile of castd's own has a request here, and says who, what and from where."""
    assert [each.options.name for each in STOCK] == list(SEEN)
    assert all(each.client and each.does and each.source for each in STOCK)


@pytest.mark.parametrize("name", SEEN)
def test_ourOwn(made: Any, name: str) -> None:
    """A client's own datagram is known, counted once, and granted what that client can bear."""
    hall = made()
    request, granted = SEEN[name]
    found = hall.granted(request)
    if found is not None and "multicast" in found:
        assert found.pop("multicast").endswith(",1")
        granted = {key: value for key, value in (granted or {}).items() if key != "multicast"}
    assert (found, hall.hits()) == (granted, {name: 1})


@pytest.mark.parametrize("name", SEEN)
def test_switchedOffOneByOneAndAsAWhole(made: Any, name: str) -> None:
    """A profile in `except` is not used; nor is any with `stock: false`, and then requests are compared with none."""
    assert made(f"{{except: [{name}]}}").ask(SEEN[name][0]) is not None
    hall = made("{stock: false}")
    hall.ask(SEEN[name][0])
    assert hall.hits() == {}
    assert hall.case.server.site.profiles is None


@pytest.mark.parametrize("octet", [*range(1, 32), 0x7F, 0xFF])
def test_eachJunk(octet: int) -> None:
    """Each octet that the profile looks for is one that it cuts off, in whatever folder the name is."""
    profile = Profile(BY_NAME["name-junk"].options)
    junk = bytes([octet]).decode("utf-8", "surrogateescape")
    for name in ("a", "b/a"):
        assert profile.fitsName(name + junk)
        assert profile.mend(name + junk) == name
        assert not profile.fitsName(name)


def test_junkIsRefusedWithoutTheProfile(made: Any) -> None:
    """Without the profile the name with its junk is refused; control octets inside a name are refused with it too."""
    assert made("{stock: false}").ask(SEEN["name-junk"][0]).code == 2
    hall = made()
    assert hall.ask(rrq(b"pxe\nlinux.bin")).code == 2
    assert hall.granted(rrq(b"f\n"), port=2001) is None
    assert hall.ask(rrq(b"../f\xff"), port=2002).code == 2, "what is left of the name is judged"
    assert hall.ask(rrq(b"f \n"), port=2003).code == 1, "a blank belongs to the name"


ASKED = rrq(b"f", "blksize=1400", "timeout=200", "windowsize=8", "rollover=0")
ALL = {"blksize": "1400", "timeout": "200", "windowsize": "8", "rollover": "0"}


def own(effects: str, match: str = "clients: 10.0.0.0/24") -> str:
    return f"{{own: [{{name: mine, match: {{{match}}}, {effects}}}]}}"


@pytest.mark.parametrize(
    ("effects", "granted"),
    [
        ("blksize: 1024", {**ALL, "blksize": "1024"}),
        ("windowsize: 2", {**ALL, "windowsize": "2"}),
        ("timeout: 100 s", {key: value for key, value in ALL.items() if key != "timeout"}),
        ("timeout: 200 s", ALL),
        ("without: [Blksize, rollover]", {"timeout": "200", "windowsize": "8"}),
        ("oack: false", None),
        ("end: true", ALL),
    ],
)
def test_effects(made: Any, effects: str, granted: dict[str, str] | None) -> None:
    """Each effect changes what is granted to the clients that match, and nothing for others."""
    hall = made(own(effects))
    assert hall.granted(ASKED) == granted
    assert hall.granted(ASKED, "10.0.1.9") == ALL
    assert hall.hits() == {"mine": 1}


@pytest.mark.parametrize(
    ("match", "request_", "fits"),
    [
        ("names: ['*.bin']", rrq(b"pxelinux.bin"), True),
        ("names: ['*.bin']", rrq(b"f"), False),
        ("options: [tsize, blksize=513-1400]", rrq(b"f", "tsize=0", "blksize=1400"), True),
        ("options: [tsize, blksize=513-1400]", rrq(b"f", "tsize=0", "blksize=1401"), False),
        ("options: [tsize, blksize]", rrq(b"f", "blksize=900", "tsize=0"), False),
        ("options: []", rrq(b"f"), True),
        ("options: []", rrq(b"f", "tsize=0"), False),
        ("asks: [WINDOWSIZE]", rrq(b"f", "tsize=0", "windowsize=4"), True),
        ("mode: OCTET", rrq(b"f", mode="OCTET"), True),
        ("mode: OCTET", rrq(b"f"), False),
        ("ports: 2000-2001", rrq(b"f"), True),
        ("ports: 2001", rrq(b"f"), False),
        ("transports: [tftp]", rrq(b"f"), True),
        ("transports: [multicast]", rrq(b"f"), False),
        ("for: write", rrq(b"f"), False),
        ("like: grub, clients: 10.0.0.0/24", rrq(b"f", "blksize=1024", "tsize=0"), True),
        ("like: grub, clients: 10.0.1.0/24", rrq(b"f", "blksize=1024", "tsize=0"), False),
        ("like: grub, clients: 10.0.0.0/24", rrq(b"f", "blksize=1023", "tsize=0"), False),
    ],
)
def test_matches(made: Any, match: str, request_: bytes, fits: bool) -> None:
    """A profile is for the requests that fit all that it says."""
    hall = made(own("blksize: 512", match))
    hall.ask(request_)
    assert hall.hits().get("mine", 0) == fits


def test_byMachine(made: Any) -> None:
    """A MAC or an architecture that is known chooses the profile; meanwhile a repetition begins nothing twice."""
    hall = made(own("oack: false", "mac: ['52:54:00']"))
    neighbours = {HERE: "52:54:00:00:00:01"}
    hall.case.server.site.machines.table.setNeighbours(neighbours)
    hall.case.server.site.machines._readings = ()
    assert hall.granted(ASKED) is None
    assert hall.granted(ASKED, "10.0.0.8") == ALL
    assert hall.hits() == {"mine": 1}


@pytest.mark.parametrize("write", [False, True])
def test_machineIsWaitedFor(made: Any, monkeypatch: pytest.MonkeyPatch, write: bool) -> None:
    """Until it is known which machine asks nothing is sent, and a repetition begins nothing; then it is served once."""
    transports = "uploads: [{directory: {path: boot}}]\naccess: [{allow: any}]\n" + BOTH
    hall = made(own("oack: false", "mac: ['52:54:00']"), transports)
    waiting: list[Deferred[KnownMachine]] = []

    def machineOf(*_: object) -> Deferred[KnownMachine]:
        waiting.append(Deferred())
        return waiting[-1]

    monkeypatch.setattr(hall.case.server.site.machines, "machineOf", machineOf)
    request = rrq(b"new" if write else b"f", "blksize=1400", write=write)
    box = RecordingClient(hall.network.host(HERE), 2000)
    for _ in range(3):
        box.send(request, (SERVER, 69))
        hall.network.advance(0.1)
    assert (len(waiting), box.inbox) == (1, [])
    waiting[0].callback(KnownMachine((HERE, 2000), mac="52:54:00:00:00:01"))
    first = tftp.parse(box.expect(seconds=2).datagram)
    assert first == tftp.Ack(0) if write else isinstance(first, tftp.Data)
    assert hall.hits() == {"mine": 1}


def test_metric(made: Any) -> None:
    """Each profile in force has a counter from the start, and a hit adds one."""
    hall = made()
    hall.ask(SEEN["grub"][0])
    (metric,) = [each for each in GAUGES if each.name == "castd_profiles"]
    found = metric.read(Readings(hall.case.server.site, {}, {}, {}, {}))
    assert found == {(name,): float(name == "grub") for name in SEEN}
    assert metric.kind == "counter"


def test_labelsAreBounded() -> None:
    """Over all reloads no more than so many profiles are counted by name."""
    hits = ProfileHits()
    for number in range(MOST_COUNTED + 3):
        profile = {"name": f"p{number}", "match": {"mode": "octet"}}
        hits.add([Profile(ProfileOptions.model_validate(profile))])
    assert (len(hits), hits[OTHER]) == (MOST_COUNTED + 1, 3)


def test_severalTogether(made: Any) -> None:
    """All that match are applied, the least bound counts, and one with `end` is the last."""
    several = """
  own:
  - {name: one, match: {clients: 10.0.0.0/24}, blksize: 1024, without: [timeout]}
  - {name: two, match: {asks: [blksize]}, blksize: 1200, without: [rollover], end: true}
  - {name: three, match: {asks: [blksize]}, windowsize: 1}
"""
    hall = made(several)
    assert hall.granted(ASKED) == {"blksize": "1024", "windowsize": "8"}
    assert hall.hits() == {"one": 1, "two": 1}


def test_noGroup(made: Any) -> None:
    """A client that is not granted `multicast` is served by the plain tftp behind, with the rest of its options."""
    hall = made(own("without: [multicast]", "like: ipxe"))
    assert hall.granted(rrq(b"f", "blksize=1432", "tsize=0", "multicast=")) == {"blksize": "1432", "tsize": "3000"}


def test_rollover(made: Any, tmp_path: Path) -> None:
    """The block after 65535 is number 1 for a client that counts so, and does not say it."""
    hall = made(own("rollover: 1"), "transports: {tftp: {}}\n")
    with (tmp_path / "boot" / "large").open("wb") as file:
        file.truncate(8 * 65540)
    assert hall.granted(rrq(b"large", "blksize=8")) == {"blksize": "8"}
    (address,) = hall.case.server.addresses
    (cast,) = address.transport.casts()
    assert tftp.parse(cast.wire.header(65535)) == tftp.Data(1, b"")


def test_repeatedRequest(made: Any) -> None:
    """The same request again, whose name a profile mends, is the same transfer: it is answered from the same port."""
    hall = made()
    hall.ask(SEEN["name-junk"][0])
    first = hall.letter.source
    hall.box.send(SEEN["name-junk"][0], (SERVER, 69))
    assert hall.box.expect(seconds=2).source == first


def test_told(made: Any) -> None:
    """Events name the profiles, the mended name, and the name as it was sent."""
    hall = made()
    events: list[dict[str, Any]] = []
    with observed(events.append):
        hall.ask(rrq(b"nothing\xff"))
    (event,) = [each for each in events if each.get("event") == "refused"]
    assert (event["profiles"], event["name"], event["sent_name"]) == ("name-junk", "nothing", "nothing\udcff")


def test_explained(made: Any) -> None:
    """`castd explain` says which profile matches, where it stands, and what it changes."""
    hall = made(own("blksize: 1024, rewrite: [{from: '^old/', to: ''}]"))
    question = DryRequest.read(
        {"client": HERE, "name": "old/f", "options": ["blksize=1432", "tsize=0"], "to": f"{SERVER}:69"}
    )
    (found,) = result(hall.case.server.explain(question))["explanations"]
    steps = [(each["where"], each["text"]) for each in found["steps"] if each["step"] == "profile"]
    assert [text for _, text in steps] == [
        "mine: blocks of at most 1024 octets; the name becomes f",
        "ipxe: the client is known by it; nothing is changed",
    ]
    assert steps[0][0].endswith("x.yaml:3: profiles.own[0]")
    assert steps[1][0] is None
    assert found["answer"]["options"] == {"blksize": "1024", "tsize": "3000"}
    assert hall.hits() == {}


@pytest.mark.parametrize(
    ("profiles", "fault"),
    [
        ("{except: [grup]}", "profiles.except[0]: castd has no profile grup: did you mean grub?"),
        (own("end: true", "like: ipex"), "profiles.own[0].match.like: castd has no profile ipex: did you mean ipxe?"),
        (own("end: true", "transports: [tfpt]"), "match.transports[0]: there is no transport tfpt: did you mean tftp?"),
        (own("end: true", ""), "match: it would match every request"),
        (own("end: true", "mode: mail"), "match.mode: 'mail' is served to nobody"),
        (own("end: true", "options: ['blksize=9-8']"), "did you mean blksize=8-9?"),
        (own("end: true", "mac: [zz]"), "write it as 52:54:00"),
        (own("end: true", "names: []"), "an empty list matches nothing"),
        (own("rollover: 2"), "rollover: 2 is not between 0 and 1"),
        (own("rewrite: [{from: x, to: '{mac}'}]"), "{mac} is not known here"),
        ("{own: [{name: grub, match: {like: grub}}]}", "there is another grub, in castd's own list"),
    ],
)
def test_faults(tmp_path: Path, profiles: str, fault: str) -> None:
    """A profile that cannot be is refused, with file, line, key, and what would be right."""
    (tmp_path / "boot").mkdir()
    (tmp_path / "x.yaml").write_text(f"{START}profiles: {profiles}\n{BOTH}")
    found = CliRunner().invoke(main, ["check", str(tmp_path / "x.yaml")])
    assert found.exit_code != 0
    assert fault in found.output
    assert "x.yaml:3: " in found.output


@pytest.mark.parametrize(
    ("profiles", "why"),
    [
        (own("blksize: 512", "options: [tsize], asks: [blksize]"), "blksize is not among its options"),
        (own("blksize: 512", "options: [tsize, tsize]"), "an option is named twice"),
        (own("blksize: 512", "clients: fe80::/10"), "its clients have IPv6 addresses"),
        (own("blksize: 512", "arch: [efi-x64]"), "no architecture is known"),
        (
            "{own: [{name: a, match: {clients: 10.0.0.0/8}, end: true}, {name: b, match: {clients: 10.1.0.0/16}}]}",
            "a, in line 3, matches all that it could match",
        ),
        (own("blksize: 512"), ""),
    ],
)
def test_warnings(tmp_path: Path, profiles: str, why: str) -> None:
    """`castd check` warns of a profile that can never match, and of no other."""
    (tmp_path / "boot").mkdir()
    (tmp_path / "x.yaml").write_text(f"{START}profiles: {profiles}\n{BOTH}")
    found = CliRunner().invoke(main, ["check", str(tmp_path / "x.yaml")])
    assert ("never matches: " + why in found.output) if why else ("never matches" not in found.output), found.output


def test_optionShapes() -> None:
    """What may be absent may be absent, in its place only."""
    shapes = tuple(map(OptionShape.parse, ("a?=1", "b", "c?")))
    seen = [(("b", "x"),), (("a", "1"), ("b", "x"), ("c", "")), (("a", "2"), ("b", "x")), (("b", "x"), ("a", "1"))]
    assert [fitOptions(shapes, each) for each in seen] == [True, True, False, False]
