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
from castd.migrate import patterns, words
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
