"""
Reading, rewriting, matching and showing names.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd.errors import Forbidden, NotFound, Refused, Unsupported
from castd.files.names import Patterns, Rewrite, beneath, parts, prefix, printable, rewrite, strip, text

VECTORS = json.loads((Path(__file__).parent / "vectors" / "tftp.json").read_text())["paths"]
OCTETS = st.binary(max_size=80) | st.lists(
    st.sampled_from([b"..", b".", b"/", b"\\", b"a", b"B", b"\xff", b"\xc3\xa9", b"\x00", b"\n", b" "]), max_size=12
).map(b"".join)


def wire(octets: bytes) -> str:
    """A name as a request has it."""
    return octets.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["raw"][:20] or "empty")
def test_vectors(vector: dict[str, str]) -> None:
    """Every name of the reference is read as it says, or refused with the code that it says."""
    name = wire(bytes.fromhex(vector["raw_hex"]))
    if "error" in vector:
        with pytest.raises(Refused) as refused:
            parts(name)
        assert refused.value.code == vector["error"]
    else:
        assert b"/".join(parts(name)) == vector["relative"].encode("latin-1")


@given(OCTETS)
def test_anyOctets(octets: bytes) -> None:
    """Whatever a client sends becomes parts that cannot lead anywhere but downwards, or a refusal."""
    try:
        found = parts(wire(octets))
    except Refused:
        return
    assert found
    for part in found:
        assert part not in (b"", b".", b"..")
        assert not set(part) & {*range(0x20), 0x7F, *b"/\\"}
        assert len(part) <= 255
    assert parts(text(found)) == found


@given(st.text(st.characters(codec=None), max_size=20))
def test_anyText(name: str) -> None:
    """Text that no octets can stand for is refused like any other name, not a fault."""
    with contextlib.suppress(Refused):
        parts(name)


@pytest.mark.parametrize(
    ("name", "error"),
    [("a" * 256, NotFound), ("a" * 255 + "/b", None), ("abcd/" * 204 + "abcd", None), ("a/" * 513 + "b", NotFound)],
    ids=["long part", "longest part", "below 1024", "above 1024"],
)
def test_lengths(name: str, error: type[Refused] | None) -> None:
    """Names longer than any file's are not found; those just short enough are read."""
    if error is None:
        assert text(parts(name)) == name
    else:
        with pytest.raises(error):
            parts(name)


def test_cutAtNul() -> None:
    """What follows the first zero octet is no part of the name; a name that begins with it is empty."""
    assert parts("boot\0/../x") == (b"boot",)
    with pytest.raises(Unsupported) as refused:
        parts("\0boot")
    assert refused.value.text == "No file name"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("boot/x", "boot/x"),
        ("a\x01b\n", "a\\x01b\\x0a"),
        ("\x1b[2J", "\\x1b[2J"),
        ("caf\u00e9", "caf\u00e9"),
        (wire(b"caf\xe9"), "caf\\xe9"),
        ("a\u202eb", "a\\xe2\\x80\\xaeb"),
        ("\ud800", "\\xed\\xa0\\x80"),
    ],
)
def test_printable(name: str, shown: str) -> None:
    """Control octets, broken UTF-8 and marks that turn a line around are shown octet by octet."""
    assert printable(name) == shown


@given(st.text(st.characters(codec=None)))
def test_printableAlways(name: str) -> None:
    """Nothing that a client can send reaches a terminal or breaks a line, and all of it can be written as UTF-8."""
    shown = printable(name)
    assert shown.isprintable()
    shown.encode("utf-8")


def test_rewriteInOrder() -> None:
    """Rules are applied in order, each to the result of the one before, to the first match or to every one."""
    rules = [
        Rewrite.compile("^bios/", "pc/"),
        Rewrite.compile(r"(pc)/(\w)", r"\2/\1-"),
        Rewrite.compile("o", "0", every=True),
    ]
    assert rewrite(parts("/bios/foo"), rules) == (b"f", b"pc-00")
    assert rewrite(parts("a/oo"), [Rewrite.compile("o", "0")]) == (b"a", b"0o")


def test_rewriteCannotLeave() -> None:
    """The result of the rules is read like a client's name: no rule can be tricked into leaving the root."""
    with pytest.raises(Forbidden):
        rewrite((b"up", b"x"), [Rewrite.compile("^up", "..")])
    with pytest.raises(NotFound):
        rewrite((b"x",), [Rewrite.compile(".*", "")])


def test_rewriteKeepsOctets() -> None:
    """Octets that are no UTF-8 pass through the rules unharmed."""
    assert rewrite((b"a", b"\xe9"), [Rewrite.compile("^a", "b")]) == (b"b", b"\xe9")


@pytest.mark.parametrize(
    ("pattern", "octets", "result"),
    [
        # Junk behind a name, as ROMs send it.
        (r"\xff.*$", b"x\xff\xfe\x80", b"x"),
        (r"(?s)[\x01-\x1f\x7f].*$", b"x\x01\xff", b"x"),
        (r"[^\x20-\x7e]+$", b"x\xc3", b"x"),
        # A character is one, whatever its octets are.
        ("^.x$", "äx".encode(), b""),
        ("[äö]", "ö".encode(), b""),
        ("[^ä]", "ö".encode(), b""),
        # The same letter in the two writings that clients use.
        (r"\xe4", "bär".encode(), b"br"),
        (r"\xe4", b"b\xe4r", b"br"),
        # What is written out matches its octets in any name.
        ("ä", "ä".encode() + b"x\xff", b"x\xff"),
    ],
)
def test_rewriteRawOctets(pattern: str, octets: bytes, result: bytes) -> None:
    """A rule matches the octets of a name that is no UTF-8, and the characters of one that is."""
    changed = Rewrite.compile(pattern, "")(octets.decode("utf-8", "surrogateescape"))
    assert changed.encode("utf-8", "surrogateescape") == result


@pytest.mark.parametrize(
    ("pattern", "to"),
    [
        ("(", ""),
        ("a", r"\1"),
        ("(a)", r"\g<b>"),
        ("a", "\\"),
        ("a", r"\n"),
        (r"(a)\1", ""),
        ("(?=a)", ""),
        ("(" * 20_000, ""),
        ("(?:(?:a{1000}){1000}){1000}", ""),
        ("\ud800", ""),
        ("a", "\ud800"),
    ],
)
def test_rewriteWrong(pattern: str, to: str) -> None:
    """A rule that cannot work is found when it is made, not at the first request that it matches."""
    with pytest.raises(ValueError, match="to"):
        Rewrite.compile(pattern, to)


def test_rewriteGroups() -> None:
    """A replacement may name groups by number and by name; one that had no part in the match is empty."""
    rule = Rewrite.compile(r"(?P<what>x)|(y)", r"<\1\2\g<what>\g<2>\\>", every=True)
    assert rule("xaya") == r"<xx\>a<yy\>a"


def test_rewriteWithoutTheLibrary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where RE2 is not installed a rule is refused, and the reason says what to install."""
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(ValueError, match=r"pip install 'castd\[rewrite\]'"):
        Rewrite.compile("a", "b")


#: For these a matcher that backtracks takes hours.
HOSTILE = """
from castd.files.names import Patterns, Rewrite
for pattern, name in [
    ("pxelinux.cfg/01-*-*-*-*-*-*", "pxelinux.cfg/01" + "-" * 200 + "/x"),
    ("*a*a*a*a*a*a*a*a*a*b", "a" * 255),
    ("*-*-*-*-*-*-*-*-*-*[!-]", "-" * 255),
    ("**/a/**/a/**/a/**/a/**/a/**/b", "a/" * 511 + "a"),
    ("**/*a*/**/*a*/**/*a*/**/*a*b", "/".join(["a" * 60] * 16)),
    ("a*b*c*d*e*f*g*h*i*j/**", "abcdefghij" * 25),
    ("*?*?*?*?*?*?*?*?*?*?/x", "y" * 255),
]:
    assert name not in Patterns([pattern]), pattern
for pattern in ["(a+)+$", "(a|a)*$", "(.*)*(.*)*(.*)*b", "^(([a-z])+.)+[A-Z]([a-z])+$", ".*.*.*.*.*.*x"]:
    for every in (False, True):
        Rewrite.compile(pattern, "", every)("a" * 1000 + "!")
"""


def test_hostileNames() -> None:
    """Whatever pattern an operator has written, no name of a client keeps the server busy."""
    subprocess.run([sys.executable, "-c", HOSTILE], check=True, timeout=20, cwd=Path(__file__).parents[1])


def test_strip() -> None:
    """The first prefix that fits is dropped, once, and only whole parts of it."""
    prefixes = [prefix("/tftpboot/"), prefix("srv/tftp")]
    assert strip(parts("/tftpboot/x"), prefixes) == (b"x",)
    assert strip(parts("/srv/tftp/a/b"), prefixes) == (b"a", b"b")
    assert strip(parts("/tftpboot/tftpboot/x"), prefixes) == (b"tftpboot", b"x")
    assert strip(parts("tftpboot2/x"), prefixes) == (b"tftpboot2", b"x")
    assert strip(parts("tftpboot"), prefixes) == (b"tftpboot",)


def test_prefix() -> None:
    """A leading directory may be empty or a slash; one that could never match is the operator's mistake."""
    assert prefix("") == prefix("/") == ()
    with pytest.raises(ValueError, match="beginning"):
        prefix("../x")


def test_beneath() -> None:
    """A name that does not begin with the prefix, or is nothing else, is not found."""
    assert beneath((b"images", b"a"), (b"images",)) == (b"a",)
    for name in ((b"images",), (b"other", b"a")):
        with pytest.raises(NotFound):
            beneath(name, (b"images",))


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("*.efi", ["x.efi", "boot/X.EFI", ".efi"], ["x.efi2", "x.efi/y"]),
        ("pxelinux.*", ["pxelinux.0", "bios/pxelinux.0"], ["pxelinux", "pxelinux.cfg/default"]),
        ("/pxelinux.0", ["pxelinux.0"], ["bios/pxelinux.0"]),
        ("images/**", ["images/a", "images/a/b/c"], ["images", "x/images/a", "images2/a"]),
        ("**/x", ["x", "a/x", "a/b/x"], ["ax", "x/a"]),
        ("a/**/**/b", ["a/b", "a/x/y/b"], ["ab", "a/bb"]),
        ("a/*/c", ["a/b/c"], ["a/c", "a/b/b/c"]),
        ("**", ["x", "a/b"], []),
        ("v?.[0-9]", ["v1.2", "vx.0"], ["v.2", "v1.a", "v/.1"]),
        ("[!a-c]x", ["dx"], ["ax", "BX", "/x"]),
        ("[]^-]x", ["]x", "^x", "-x"], ["ax"]),
        ("[.+(]", ["+", "(", "."], ["a"]),
        ("a.b+(c)|d", ["a.b+(c)|d"], ["axb", "d"]),
        ("[open", ["[open"], ["o"]),
    ],
)
def test_patterns(pattern: str, inside: list[str], outside: list[str]) -> None:
    """A pattern matches the names that a shell's would, never across a slash unless it says so."""
    patterns = Patterns([pattern])
    assert [name for name in inside if name not in patterns] == []
    assert [name for name in outside if name in patterns] == []


@pytest.mark.parametrize("pattern", ["", "/", "a//b", "images/", "[z-a]", "[]"])
def test_patternsWrong(pattern: str) -> None:
    """A pattern that can match no name is refused when it is read."""
    with pytest.raises(ValueError, match=r"pattern|\["):
        Patterns([pattern])


@given(st.text("ab*?[]!-^\\/.|&~", min_size=1, max_size=8), st.text("ab/.", min_size=1, max_size=8))
def test_patternsAny(pattern: str, name: str) -> None:
    """Any text is a pattern or a ValueError; as a pattern it answers for every name."""
    try:
        patterns = Patterns([pattern])
    except ValueError:
        return
    assert (name in patterns) in (True, False)


def test_severalPatterns() -> None:
    """One of several patterns is enough; none at all match nothing."""
    assert "b" in Patterns(["a", "b"])
    assert "ab" not in Patterns(["a", "b"])
    assert "a" not in Patterns([])


def globbed(pattern: str, name: str) -> bool:
    """Match by the definition: every split of the name is tried.  For short names alone."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any("/" not in name[:end] and globbed(pattern[1:], name[end:]) for end in range(len(name) + 1))
    if not name or name[0] == "/":
        return False
    return (pattern[0] == "?" or pattern[0] == name[0]) and globbed(pattern[1:], name[1:])


def matched(steps: list[str], parts: list[str]) -> bool:
    """Match a pattern and a name, part by part: C{**} is any number of parts, in the end at least one."""
    if not steps or not parts:
        return not steps and not parts
    if steps[0] != "**":
        return globbed(steps[0], parts[0]) and matched(steps[1:], parts[1:])
    return any(matched(steps[1:], parts[end:]) for end in range(len(parts))) if steps[1:] else True


@given(
    st.lists(st.text("ab*?", min_size=1, max_size=6), min_size=1, max_size=5),
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=5),
)
def test_asDefined(steps: list[str], parts: list[str]) -> None:
    """A pattern matches exactly the names that its definition says."""
    steps = [step if set(step) != {"*"} else step[:2] for step in steps]
    wanted = ["**", *steps] if len(steps) == 1 else steps
    assert ("/".join(parts) in Patterns(["/".join(steps)])) == matched(wanted, parts)
