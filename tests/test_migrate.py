"""`castd import` makes of each configuration of the corpus the service file and notes beside it, and castd takes it."""

from __future__ import annotations

import json
import os
import re
import sys
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from castd.cli import importing, main
from castd.config.yaml import parse
from castd.errors import ConfigError
from castd.files import names
from castd.migrate import dnsmasq, patterns, words
from castd.migrate.draft import Draft, OldMachine, Place, Value
from castd.migrate.readers import READERS, readConfiguration
from castd.migrate.writer import dump, write
from tests.support.quick import slowBut

CORPUS = sorted((Path(__file__).parent / "migrate").glob("*.yaml"))
#: Of each server one whose result castd check reads in the quick suite as well.
QUICK = ("hpa-map-absolute", "atftpd-mtftp", "dnsmasq-menu", "tftpd64-pxe", "slamd-unit")


def stem(path: Path) -> str:
    return path.stem


def machineOf(case: dict[str, Any], root: Path) -> OldMachine:
    """The machine of a case, with its files beneath a folder."""
    for path, text in case.get("files", {}).items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    interfaces = {name: IPv4Interface(each) for name, each in case.get("interfaces", {}).items()}
    return OldMachine(interfaces, case.get("ipv6", True), root, lambda path, user: case.get("stores"))


def imported(case: dict[str, Any], root: Path) -> tuple[str, list[str]]:
    """Return the service file of a case, and its notes."""
    machine = machineOf(case, root)
    draft = readConfiguration(case["server"], case.get("arguments", ()), case.get("command"), machine)
    return write(draft), [importing.show(note) for note in draft.notes]


@pytest.mark.parametrize("path", CORPUS, ids=stem)
def test_corpus(path: Path, tmp_path: Path) -> None:
    """A configuration becomes exactly this file, with these notes.  CASTD_CORPUS=write writes what it becomes."""
    whole = path.read_text()
    case = yaml.safe_load(whole)
    text, notes = imported(case, tmp_path)
    if os.environ.get("CASTD_CORPUS") == "write":
        head = re.split(r"^notes:", whole, maxsplit=1, flags=re.MULTILINE)[0].rstrip("\n")
        told = "".join(f"  - {json.dumps(note, ensure_ascii=False)}\n" for note in notes)
        shown = "".join(f"  {line}\n" if line else "\n" for line in text.rstrip("\n").split("\n"))
        path.write_text(f"{head}\nnotes:{' []' * (not notes)}\n{told}becomes: |\n{shown}")
        case = yaml.safe_load(path.read_text())
    assert text == case["becomes"]
    assert notes == case["notes"]


@pytest.mark.parametrize(
    ("server", "option", "rules"),
    [("tftpd-hpa", "-m", "r ^a b\nr ^c d\nr (.)\\1 e\nr ^f g\n"), ("atftpd", "--pcre", "^a b\n^c d\n^f g\n")],
)
def test_rulesWithoutTheirLibrary(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str, option: str, rules: str
) -> None:
    """Where RE2 is not installed that is told once, not of each rule; what no rule of castd can do is told as ever."""
    monkeypatch.setitem(sys.modules, "re2", None)
    command = f"{server} {option} /etc/map /srv/tftp"
    _, notes = imported({"server": server, "command": command, "files": {"/etc/map": rules}}, tmp_path)
    lost = [note.partition(" not carried over: ")[::2] for note in notes if note.startswith("/etc/map")]
    missing = "this rule and all others that change names, as their library google-re2 is not installed"
    assert lost[0] == ("/etc/map:1:", f"{missing}; pip install 'castd[rewrite]', and import once more")
    assert [where for where, _ in lost[1:]] == (["/etc/map:3:"] if "\\1" in rules else [])


def adapted(text: str, root: Path) -> str:
    """A service file for this machine: its directories beneath a folder, its addresses all 127.0.0.1."""
    paths = r"""path: (["']?)(/[^"'{,}\n]*)"""
    for _, each in re.findall(paths, text):
        (root / each.lstrip("/")).mkdir(parents=True, exist_ok=True)
    text = re.sub(paths, lambda found: f"path: {found[1]}{root}{found[2]}", text)
    return re.sub(r"(interface: )(?:192|10)\.[0-9.]+", r"\g<1>127.0.0.1", text)


@pytest.mark.parametrize("path", slowBut(lambda path: path.stem in QUICK, CORPUS), ids=stem)
def test_starts(path: Path, tmp_path: Path) -> None:
    """castd check takes what a configuration becomes, where its directories and addresses are."""
    file = tmp_path / "castd.yaml"
    file.write_text(adapted(yaml.safe_load(path.read_text())["becomes"], tmp_path / "disk"))
    checked = CliRunner().invoke(main.main, ["check", str(file)])
    assert checked.exit_code == 0, checked.output


@pytest.mark.slow
def test_enough() -> None:
    """The corpus has at least thirty configurations, of every server; ten are compared with the server itself."""
    cases = [yaml.safe_load(path.read_text()) for path in CORPUS]
    assert len(cases) >= 30
    assert {case["server"] for case in cases} >= set(READERS)
    assert sum("compare" in case for case in cases) >= 10


def asText(value: Value) -> Value:
    """A value as the reader of service files sees it: all scalars are text."""
    if isinstance(value, dict):
        return {key: asText(each) for key, each in value.items()}
    if isinstance(value, list):
        return [asText(each) for each in value]
    return value if value is None else str(value).lower() if isinstance(value, bool) else str(value)


STRINGS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), STRINGS)
VALUES = st.dictionaries(STRINGS, st.one_of(SCALARS, st.lists(SCALARS), st.dictionaries(STRINGS, SCALARS)), min_size=1)


@pytest.mark.slow
@given(VALUES)
def test_whateverStandsThere(value: dict[str, Value]) -> None:
    """Whatever names and paths a configuration has, they are the same text in the service file."""
    assert parse(dump({"content": value}).encode(), "made").value == {"content": asText(value)}


@given(STRINGS, STRINGS)
def test_comments(file: str, line: str) -> None:
    """A comment stays one, whatever the line says that it names."""
    draft = Draft()
    draft.serve({"path": "/srv"}, Place(file, 1, line))
    draft.listen("tftp", {"port": 69}, Place(file, 2, line))
    assert parse(write(draft, [line]).encode(), "made").value == asText(draft.value)


def rewritten(rule: tuple[str, str], name: str) -> str:
    """Return what a rule of a map file makes of a name."""
    pattern, replacement = rule
    compiled = names.Rewrite.compile(patterns.fromPosix(pattern), "".join(patterns.posixReplacement(replacement)))
    return names.text(names.rewrite(names.parts(name), [compiled], {"ip": "10.0.0.7"}))


@pytest.mark.parametrize(
    ("rule", "name", "becomes"),
    [
        ((r"^a\.b$", "c"), "a.b", "c"),
        ((r"^a\.b$", "c"), "axb", "axb"),
        (("[[:digit:]]+", r"<\0>"), "x12y", "x<12>y"),
        ((r"[\]", "x"), "a", "a"),
        ((r"(a)(b)", r"\2\11"), "ab", "ba1"),
        ((r"\d", "x"), "d5", "x5"),
        ((r"\<boot\>", "x"), "a-boot-b", "a-x-b"),
        (("a{2}", "x"), "baab", "bxb"),
        ((r"\#", r"\#\ \\"), "a#b", "a# /b"),
        (("[]x]", "y"), "a]b", "ayb"),
        (("[^a-c]", "-"), "abd", "ab-"),
        (("^config$", r"clients/\i/\0"), "config", "clients/10.0.0.7/config"),
        (("^x", "{mac}}{"), "x", "{mac}}{"),
    ],
)
def test_posix(rule: tuple[str, str], name: str, becomes: str) -> None:
    """Expressions of POSIX mean here what they mean to glibc."""
    assert rewritten(rule, name) == becomes


@pytest.mark.parametrize("replacement", [r"\U\0", r"\L\1", r"x\E", r"\x"])
def test_posixLost(replacement: str) -> None:
    """What a replacement of castd cannot do is refused, and so becomes a note."""
    with pytest.raises(ValueError, match="it "):
        "".join(patterns.posixReplacement(replacement))


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ("a$1b", r"a\1b"),
        ("$12", r"\g<12>"),
        ("${1}2", r"\g<1>2"),
        ("${x}", r"\g<x>"),
        ("$$", "$"),
        ("a\\b", r"a\\b"),
        ("{mac}$1}", r"{{mac}}\1}}"),
    ],
)
def test_pcreReplacement(given: str, becomes: str) -> None:
    """References of PCRE2 are written as castd writes them."""
    assert patterns.pcreReplacement(given) == becomes
    with pytest.raises(ValueError, match="without an end"):
        patterns.pcreReplacement(f"{given}${{1")


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        (r"\.pvt$", ["a.pvt", "x/y.pvt"], ["a.pvt.x", "pvt"]),
        ("^keys/", ["keys/a", "keys/b/c"], ["x/keys/a", "keys"]),
        ("^/keys/", ["keys/a"], ["x/keys/a"]),
        ("^boot", ["boot", "boot.x", "boot/x", "booting/x/y"], ["x/boot", "x/boot.x"]),
        ("^a/b$", ["a/b"], ["a/b/c", "x/a/b"]),
        ("secret", ["secret", "x/mysecrets", "secrets/x", "a/b.secret/c"], ["secre/t"]),
        ("/default$", ["x/default", "default"], ["xdefault", "x/default/y"]),
        ("a/b$", ["a/b", "xa/b", "c/a/b"], ["a/bc", "a/x/b"]),
        ("/old/", ["old/x", "a/old/b"], ["older/x", "old"]),
    ],
)
def test_asNames(pattern: str, matches: list[str], others: list[str]) -> None:
    """Simple expressions become patterns of names that match the same names."""
    found = names.Patterns(patterns.asNames(pattern) or [])
    assert [name for name in matches if name not in found] == []
    assert [name for name in others if name in found] == []


@pytest.mark.parametrize("pattern", ["a.b", "^(a|b)$", "[ab]", "a*", "$", "^", r"\w", "a?"])
def test_noNames(pattern: str) -> None:
    """An expression that is more than a text is no pattern of names."""
    assert patterns.asNames(pattern) is None


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["tftpd-hpa", "--command", "in.tftpd -l -s /srv/tftp"], 0, "path: /srv/tftp"),
        (["tftpd-hpa", "--command", "in.tftpd -l -s /srv/tftp --nonsense"], 3, "nonsense: an option that is not known"),
        (["tftpd-hpa", "--command", "in.tftpd 'open"], 1, "No closing quotation"),
        (["tftpd-hpa", "/does/not/exist"], 1, "/does/not/exist: cannot be read: No such file"),
        (["dnsmasq", "--command", "dnsmasq --dhcp-boot=x"], 1, "add enable-tftp and tftp-root to a copy"),
        (["mini-slamd", "--command", "mini-slamd"], 1, "no command line with one file"),
        (["tftpd64", "--command", "x"], 1, "name its tftpd32.ini"),
        (["iis", "x"], 2, "is not one of"),
        (["tftpd-hpa", "--interface", "eth0", "x"], 2, "eth0=10.0.0.5/24"),
    ],
)
def test_statuses(arguments: list[str], status: int, told: str) -> None:
    """The exit status tells whether all is carried over, some, or nothing."""
    ran = CliRunner().invoke(main.main, ["import", *arguments])
    assert (ran.exit_code, told in ran.output) == (status, True), ran.output


@pytest.mark.parametrize(
    ("server", "text"),
    [
        ("tftpd-hpa", 'TFTPD_ARGS="--secure /srv/tftp/"'),
        ("tftpd-hpa", 'RUN_DAEMON="yes"\nOPTIONS="-l -s /srv/tftp"'),
        ("tftpd-hpa", 'INTFTPD_PATH="/srv/tftp"\nINTFTPD_OPTS="-s ${INTFTPD_PATH}"'),
        ("tftpd-hpa", "TFTP_DIRECTORY=$(find-it)\nTFTP_OPTIONS=--secure"),
        ("tftpd-hpa", "[Service]\nExecStart=/usr/sbin/in.tftpd -l $TFTP_DIRECTORY"),
        ("atftpd", 'ATFTPD_OPTIONS="--daemon"\nATFTPD_DIRECTORY="/srv/tftp"'),
    ],
)
def test_saysNotWhat(tmp_path: Path, server: str, text: str) -> None:
    """Of a file that does not say what is served no service file is made, least of all one that serves the disk."""
    (tmp_path / "file").write_text(text)
    ran = CliRunner().invoke(main.main, ["import", server, "/file", "--root", str(tmp_path)])
    assert (ran.exit_code, ran.stdout) == (1, ""), ran.output


def test_json() -> None:
    """With --json a program gets the file, its values, and each note with its line."""
    ran = CliRunner().invoke(
        main.main, ["import", "tftpd-hpa", "--json", "--command", "in.tftpd -s -U 022 -c /srv/tftp"]
    )
    found = json.loads(ran.stdout)
    assert ran.exit_code == 3
    assert yaml.safe_load(found["file"]) == found["service"]
    assert [note["line"] for note in found["notes"] if note["lost"]] == [1]


@given(st.sampled_from(sorted(READERS)), st.text(max_size=200))
def test_anything(server: str, line: str) -> None:
    """Whatever text it is, there is a service file or a fault, and castd reads the file."""
    machine = OldMachine()
    try:
        draft = readConfiguration(server, (), f"x {line}", machine)
    except ConfigError:
        return
    assert parse(write(draft).encode(), "made").value == asText(draft.value)


def test_unknownWords() -> None:
    """An option that is not known takes the word behind it along, but not a path."""
    draft = Draft()
    reader = words.OptionReader({"s": "secure"}, ["secure", "second"], ["port"])
    given = reader.read(words.ofCommand("x --foo 1 --sec -q /srv --port=7 --secu -- -x"), draft)
    assert [(each.name, each.value) for each in given] == [
        ("", "/srv"),
        ("port", "7"),
        ("secure", ""),
        ("", "-x"),
    ]
    assert [note.what.split(":")[0] for note in draft.notes] == ["--foo 1", "--sec", "-q"]


@pytest.mark.parametrize("port", ["0000699999", "65536", "0", "-1", "6 9"])
def test_noPort(port: str, tmp_path: Path) -> None:
    """What is no port of another server's is told, and does not get into the service file."""
    text, notes = imported({"server": "tftpd-hpa", "command": f"in.tftpd -a '10.0.0.1:{port}' /srv/tftp"}, tmp_path)
    assert "tftp: {interface: 10.0.0.1, port: 69}" in text
    assert [note for note in notes if "is no value of --address" in note]


#: Settings of each server that have other values than any text, and the file or command line that they stand in.
READ = {
    "tftpd-hpa": (
        ("blocksize", "port-range", "retransmit", "map-file", "map"),
        "in.tftpd --create --{name}={value} /srv/tftp",
    ),
    "atftpd": (
        ("retry-timeout", "maxthread", "port", "bind-address", "mcast-ttl", "mcast-addr", "mcast-port", "pcre",
         "mtftp"),
        "atftpd --{name}={value} /srv/tftp",
    ),
    "dnsmasq": (
        ("tftp-max", "tftp-mtu", "tftp-port-range", "tftp-unique-root", "enable-tftp", "interface", "listen-address",
         "except-interface", "conf-file", "conf-dir", "dhcp-match", "dhcp-mac", "tag-if", "pxe-service"),
        "enable-tftp\ntftp-root=/srv/tftp\n{name}={value}\n",
    ),
    "tftpd64": (
        ("TftpPort", "LowestUDPPort", "HighestUDPPort", "Timeout", "Max Simultaneous Transfers", "Services",
         "SecurityLevel", "LocalIP"),
        "[TFTPD32]\n{name}={value}\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("value", ["9999999999", "-1", "1.5", "0x10", "abc", "7:8:9", "1 2"])
@pytest.mark.parametrize(("server", "name"), [(server, name) for server, (names, _) in READ.items() for name in names])
def test_cannotBeRead(tmp_path: Path, server: str, name: str, value: str) -> None:
    """A setting whose value cannot be read is told with its place, or there is no service file."""
    case: dict[str, Any] = {"server": server, "interfaces": {"eth0": "10.0.0.5/24"}}
    text = READ[server][1].format(name=name, value=f"'{value}'" if server in ("tftpd-hpa", "atftpd") else value)
    if server in ("tftpd-hpa", "atftpd"):
        case["command"] = text
    else:
        case |= {"files": {"/file": text}, "arguments": ["/file"]}
    try:
        notes = readConfiguration(
            server, case.get("arguments", ()), case.get("command"), machineOf(case, tmp_path)
        ).notes
    except ConfigError:
        return
    place = f"--{name}={value}" if "command" in case else f"{name}={value}"
    assert [note for note in notes if note.lost and (note.place.text == place or value in note.what)], (text, notes)


@pytest.mark.parametrize(
    ("server", "given", "told"),
    [
        ("atftpd", "atftpd --mcast-port x-7 /srv", "x-7 is no value of --mcast-port"),
        ("atftpd", "atftpd --bind-address ::1 --mcast-ttl 3 /srv", "--mcast-ttl; castd has no multicast with IPv6"),
        ("atftpd", "atftpd --pcre-test /etc/pcre /srv", "--pcre-test"),
        ("tftpd-hpa", "in.tftpd --version /srv", "--version"),
        ("dnsmasq", "dnsmasq enabled --enable-tftp --tftp-root=/srv", "enabled: no option of dnsmasq"),
        ("dnsmasq", "dnsmasq --enable-tftp --tftp-root=/srv --listen-address=boot,10.0.0.5", "boot is no numeric"),
        ("dnsmasq", "dnsmasq --enable-tftp --tftp-root=/srv '--pxe-prompt=x,abc'", "as abc is no number from 0 to 254"),
        ("dnsmasq", "dnsmasq --enable-tftp --tftp-root=/srv '--pxe-prompt=tag:a,x,3'", "all machines get the last"),
        (
            "dnsmasq",
            "dnsmasq --enable-tftp --tftp-root=/srv --interface=eth0 --except-interface=lo,eth0,eth1",
            "except-interface=lo,eth0,eth1; name the addresses",
        ),
    ],
)
def test_toldAsLost(tmp_path: Path, server: str, given: str, told: str) -> None:
    """What castd does not carry over is told as lost, and the exit status says so."""
    arguments = ["import", server, "--root", str(tmp_path), "--interface", "eth0=10.0.0.5/24", "--command", given]
    ran = CliRunner().invoke(main.main, arguments)
    assert (ran.exit_code, told in ran.stderr) == (importing.INCOMPLETE, True), ran.output


INETD = "dgram udp wait root /usr/sbin/in.tftpd in.tftpd -s /srv"


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (f"tftp {INETD}", []),
        (f"10.0.0.5:tftp {INETD}", ["10.0.0.5:tftp: its address or port"]),
        (f"6969 {INETD}", ["6969: its address or port"]),
        ("[Service]\nUser=root\nExecStart=/usr/sbin/in.tftpd -L -s /srv\n", []),
        (
            "[Service]\nIPAddressDeny=any\nIPAddressAllow=any\nUMask=077\nExecStart=/usr/sbin/in.tftpd -s /srv\n",
            ["IPAddressDeny=any", "IPAddressAllow=any", "UMask=077"],
        ),
        ("service tftp\n{\n server_args = -s /srv\n umask = 077\n max_load = 3\n}\n", ["umask = 077", "max_load = 3"]),
    ],
)
def test_whatStartsIt(tmp_path: Path, text: str, lost: list[str]) -> None:
    """What the program that starts the server does itself, such as to keep others out, is told as lost."""
    case = {"server": "tftpd-hpa", "files": {"/file": text}, "arguments": ["/file"]}
    draft = readConfiguration("tftpd-hpa", ["/file"], None, machineOf(case, tmp_path))
    assert [note.what for note in draft.notes if note.lost] == lost


def test_enabledTwice(tmp_path: Path) -> None:
    """Each line of dnsmasq's that names interfaces for TFTP adds to them; each one that is left out counts."""
    command = "dnsmasq --tftp-root=/srv --enable-tftp=eth0 --enable-tftp=eth1,eth2 --except-interface=eth9,eth2"
    interfaces = {f"eth{number}": f"10.0.{number}.1/24" for number in range(3)}
    text, notes = imported({"server": "dnsmasq", "command": command, "interfaces": interfaces}, tmp_path)
    assert (re.findall("interface: ([^,}]+)", text), notes) == (["10.0.0.1", "10.0.1.1"], [])


@pytest.mark.parametrize(
    ("options", "served"),
    [
        ("listen-address=127.0.0.1", ["127.0.0.1"]),
        ("listen-address=127.0.0.1 --listen-address=127.0.0.1", ["127.0.0.1"]),
        ("interface=lo", ["127.0.0.1"]),
        ("interface=lo --listen-address=127.0.0.1", ["127.0.0.1"]),
        ("interface=lo --listen-address=::1,127.0.0.1", ["127.0.0.1", "'::1'"]),
        ("listen-address=127.0.0.1,127.0.0.2", ["127.0.0.1", "127.0.0.2"]),
        ("interface=lo,eth0 --listen-address=127.0.0.1", ["10.0.0.1"]),
    ],
)
def test_loopbackOnly(tmp_path: Path, options: str, served: list[str]) -> None:
    """What is served to the machine itself only is not served to all, however often it is named."""
    command = f"dnsmasq --enable-tftp --tftp-root=/srv --{options}"
    interfaces = {"lo": "127.0.0.1/8", "eth0": "10.0.0.1/24"}
    text, notes = imported({"server": "dnsmasq", "command": command, "interfaces": interfaces}, tmp_path)
    assert (sorted(re.findall("interface: ([^,}]+)", text)), notes) == (sorted(served), [])


@pytest.mark.parametrize(
    ("options", "served"),
    [("listen-address=127.0.0.1 --except-interface=lo", "127.0.0.1"), ("interface=eth0 -I eth0", "10.0.0.1")],
)
def test_noneIsLeft(tmp_path: Path, options: str, served: str) -> None:
    """Where the only address is left out, too, all are not served instead; it is told."""
    command = f"dnsmasq --enable-tftp --tftp-root=/srv --{options}"
    interfaces = {"lo": "127.0.0.1/8", "eth0": "10.0.0.1/24"}
    text, notes = imported({"server": "dnsmasq", "command": command, "interfaces": interfaces}, tmp_path)
    assert re.findall("interface: ([^,}]+)", text) == [served]
    assert [note for note in notes if "name the addresses as interfaces" in note]


@pytest.mark.parametrize("root", ["/srv,eth9", ""])
def test_noRootThatIsKnown(tmp_path: Path, root: str) -> None:
    """A tftp-root that cannot be carried over does not become the whole disk."""
    with pytest.raises(ConfigError, match="nothing to serve") as raised:
        imported({"server": "dnsmasq", "command": f"dnsmasq --enable-tftp --tftp-root={root}"}, tmp_path)
    assert raised.value.faults[0].startswith("command line:1: ")


def test_mostFiles(tmp_path: Path) -> None:
    """Files of dnsmasq's beyond the most that are read are told."""
    files = {f"/etc/more/{number:03}": "" for number in range(dnsmasq.MOST_FILES)}
    files |= {"/etc/dnsmasq.conf": "enable-tftp\ntftp-root=/srv\nconf-dir=/etc/more\n"}
    _, notes = imported({"server": "dnsmasq", "files": files}, tmp_path)
    assert [note for note in notes if "not carried over: /etc/more/199: not read" in note]


def test_slamdFileWithoutIt(tmp_path: Path) -> None:
    """A file that does not start mini-slamd is a fault, beside one that does, too."""
    files = {"/one": "[Service]\nExecStart=/usr/bin/mini-slamd /srv/image\n", "/other": "x\n"}
    with pytest.raises(ConfigError, match="/other: no line starts mini-slamd"):
        imported({"server": "mini-slamd", "files": files, "arguments": ["/one", "/other"]}, tmp_path)


def test_root(tmp_path: Path) -> None:
    """Files of another machine are read beneath a folder, those that they name, too; its interfaces are as told."""
    for path, content in (
        ("etc/dnsmasq.conf", "interface=lan0\nconf-dir=/etc/more\n"),
        ("etc/more/boot", "enable-tftp\ntftp-root=/srv\n"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    ran = CliRunner().invoke(
        main.main, ["import", "dnsmasq", "--root", str(tmp_path), "--interface", "lan0=10.9.8.7/24"]
    )
    assert (ran.exit_code, "interface: 10.9.8.7" in ran.output, "path: /srv" in ran.output) == (0, True, True)


@pytest.mark.parametrize(("mode", "uploads"), [(0o777, True), (0o555, False), (None, False)])
def test_stores(tmp_path: Path, mode: int | None, uploads: bool) -> None:
    """Uploads of atftpd are carried over where its user (that of the tests, perhaps) may write to the directory."""
    (tmp_path / "etc" / "default").mkdir(parents=True)
    (tmp_path / "etc" / "default" / "atftpd").write_text('OPTIONS="--daemon /pub"\n')
    if mode is not None:
        (tmp_path / "pub").mkdir()
        (tmp_path / "pub").chmod(mode)
    ran = CliRunner().invoke(main.main, ["import", "atftpd", "--root", str(tmp_path), "--json"])
    found = json.loads(ran.stdout)
    assert ("uploads" in found["service"]) is uploads
    assert ran.exit_code == (3 if mode is None else 0)


@pytest.mark.parametrize(("option", "user"), [("", "nobody"), ("--user tftp", "tftp"), ("--user boot.boot", "boot")])
def test_storesAs(tmp_path: Path, option: str, user: str) -> None:
    """Whether uploads are stored is asked of the user that atftpd's command line names."""
    asked: list[tuple[str, str]] = []
    machine = OldMachine(root=tmp_path, stores=lambda path, user: asked.append((path, user)))
    readConfiguration("atftpd", (), f"atftpd {option} /srv", machine)
    assert asked == [("/srv", user)]


def test_braces() -> None:
    """A brace in a path of the other server begins no word of castd's."""
    draft = Draft()
    draft.serve({"path": "/srv/{mac}"})
    draft.serve({"path": "/srv/{ip}"}, below="{ip}")
    draft.store({"path": "/srv/}"})
    assert [draft.content, draft.uploads] == [
        [{"directory": {"path": "/srv/{{mac}}"}}, {"directory": {"path": "/srv/{{ip}}/{ip}"}}],
        [{"directory": {"path": "/srv/}}"}}],
    ]
