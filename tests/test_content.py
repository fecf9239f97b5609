"""
Directories and chains of them, on a real file system.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib.util
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from castd.errors import Busy, ContentChanged, Forbidden, NotFound, Refused, Unanswered, Unsupported
from castd.files import athand, nearest
from castd.files.chains import SourceChain
from castd.files.content import HEAD, MOST_SEEKING, Directory, DirectoryOptions
from castd.files.directory import _unusable
from castd.files.names import Patterns
from castd.files.root import MOST_WALKS, _LinkWalk
from castd.files.spelling import Spellings, withoutCase
from castd.interfaces import IContent, IContentSource
from castd.machines.known import KnownMachine
from castd.networks import Networks
from castd.packets.tftp import Data
from castd.request import Trace
from castd.testing import memorySite
from tests.support.clients.tftp import rrq
from tests.support.descriptors import openFiles
from tests.support.disks import HereDirectory, Later, nobody, result
from tests.support.needs import lack
from tests.support.stage import TftpStage

PEER = ("10.0.0.7", 2070)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small root with a neighbour that nobody may read."""
    root = tmp_path / "boot"
    (root / "bios" / "deep").mkdir(parents=True)
    (root / "x").write_bytes(b"the file x")
    (root / "bios" / "y").write_bytes(b"the file y")
    (root / "bios" / "deep" / "z").write_bytes(b"the file z")
    (tmp_path / "secret").write_bytes(b"not for you")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"not for you either")
    return root


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test twice, but for one that does so itself, as Hypothesis asks of it."""
    if metafunc.function is not test_linksAsTheKernel:
        metafunc.parametrize("memory", [True, False], ids=["at hand", "in a thread"], indirect=True)


@pytest.fixture(autouse=True)
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are opened from memory where that can be done, or never."""
    if not getattr(request, "param", True):
        monkeypatch.setattr(athand, "openat2", lambda *_: None)


def directory(path: Path, **options: Any) -> Directory:
    """The source that a service file would make."""
    return HereDirectory(DirectoryOptions.model_validate({"path": str(path), **options}), maybeDeferred)


def content(source: Directory, name: str) -> bytes:
    """All octets of a file, read as a whole."""
    found = source.lookup(name, PEER)
    try:
        return found.read(0, found.size)
    finally:
        found.close()


def descriptors(place: Path) -> int:
    """How many files beneath a place this process has open."""
    gc.collect()
    return sum(each.startswith(f"{place}/") for each in openFiles())


@pytest.fixture(scope="module", autouse=True)
def _othersStay() -> Iterator[None]:
    """What other tests have left in memory is not looked through each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _noneLeft(tmp_path: Path) -> Iterator[None]:
    """No test leaves a descriptor open."""
    yield
    assert descriptors(tmp_path) == 0


@pytest.mark.slow
def test_interfaces(tree: Path) -> None:
    """Directory, chain and file are what their interfaces promise."""
    source = directory(tree)
    assert verifyObject(IContentSource, source)
    assert verifyObject(IContentSource, SourceChain([source]))
    file = source.lookup("x", PEER)
    assert verifyObject(IContent, file)
    file.close()


@pytest.mark.parametrize(
    ("name", "octets"),
    [
        ("x", b"the file x"),
        ("/x", b"the file x"),
        ("//bios\\y", b"the file y"),
        ("./bios/./deep//z", b"the file z"),
    ],
)
def test_found(tree: Path, name: str, octets: bytes) -> None:
    """A file is found by its name, however the slashes are written, with the size and name it has."""
    source = directory(tree)
    file = source.lookup(name, PEER)
    assert (file.name, file.size, file.read(0, file.size)) == (name, len(octets), octets)
    file.close()


@pytest.mark.parametrize("name", ["no", "bios/no", "no/x", "x/y", "X", "bios/deep/z/more"])
def test_notFound(tree: Path, name: str) -> None:
    """What is not there is NotFound, wherever on the way it ends."""
    with pytest.raises(NotFound):
        directory(tree).lookup(name, PEER)


@pytest.mark.parametrize("name", ["../secret", "bios/../../secret", "..\\secret", "/", "bios", "bios/deep/"])
def test_forbidden(tree: Path, name: str) -> None:
    """Names that lead out of the root, and directories, are access violations."""
    with pytest.raises(Forbidden):
        directory(tree).lookup(name, PEER)


def test_octetsOfNames(tree: Path) -> None:
    """A name that is not UTF-8 finds the file with just these octets."""
    with open(os.fsencode(tree) + b"/caf\xe9", "wb") as file:
        file.write(b"noir")
    assert content(directory(tree), b"caf\xe9".decode("utf-8", "surrogateescape")) == b"noir"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unixSocket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        place = os.getcwd()
        os.chdir(path.parent)  # a socket's path must be short
        try:
            made.bind(path.name)
        finally:
            os.chdir(place)


@pytest.mark.parametrize("make", [fifo, unixSocket, Path.mkdir])
def test_onlyFiles(tree: Path, make: Callable[[Path], None]) -> None:
    """A FIFO, a socket and a directory are refused at once: none of them makes the server wait."""
    make(tree / "odd")
    begun = time.monotonic()
    with pytest.raises(Forbidden):
        directory(tree).lookup("odd", PEER)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "target", ["x", "bios/y", "./bios/deep/../y", "{root}/bios/y", "{root}/../boot/x", "../boot/x", "bios/deep/../../x"]
)
def test_linkInside(tree: Path, target: str) -> None:
    """A link that ends inside the root is followed, be it relative, absolute or by way of the root's parent."""
    (tree / "link").symlink_to(target.format(root=tree))
    assert content(directory(tree), "link").startswith(b"the file")
    with pytest.raises(Forbidden):
        directory(tree, links="never").lookup("link", PEER)


@pytest.mark.parametrize(
    "target",
    [
        "../secret",
        "../outside/boot/x",
        "/etc{root}/x",
        "/etc/passwd",
        "/dev/null",
        "{root}/../secret",
        "{root}x/secret",
        "bios/../../secret",
        "..",
        "/",
        ".",
    ],
)
def test_linkOutside(tree: Path, target: str) -> None:
    """A link that ends outside the root (or at no file) is an access violation."""
    (tree / "link").symlink_to(target.format(root=tree))
    with pytest.raises(Forbidden):
        directory(tree).lookup("link", PEER)


def test_absoluteLinkInside(tree: Path) -> None:
    """A link that begins at the root of the machine begins there, in whatever directory it lies."""
    (tree / "bios" / "deep" / "link").symlink_to(tree / "bios" / "y")
    assert content(directory(tree), "bios/deep/link") == b"the file y"


def test_nothingIsClosed(tree: Path) -> None:
    """Where each part of a path may be used that is told, and none of them stays open."""
    parts = (b"bios", b"deep", b"z")
    assert result(directory(tree).closedAt(parts)) == parts


def test_linkInTheWay(tree: Path) -> None:
    """Directories on the way may be links, too, under the same rule."""
    (tree / "current").symlink_to("bios/deep")
    (tree / "bios" / "up").symlink_to("..")
    (tree / "away").symlink_to("../outside")
    source = directory(tree)
    assert content(source, "current/z") == b"the file z"
    assert content(source, "bios/up/bios/up/x") == b"the file x"
    with pytest.raises(Forbidden):
        source.lookup("away/x", PEER)
    with pytest.raises(Forbidden):
        directory(tree, links="never").lookup("current/z", PEER)


def test_linkLoop(tree: Path) -> None:
    """Links that lead in circles are refused, and a chain as long as the kernel allows is not."""
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    (tree / "l0").symlink_to("x")
    for number in range(1, 41):
        (tree / f"l{number}").symlink_to(f"l{number - 1}")
    source = directory(tree)
    assert content(source, "l39") == b"the file x"
    for name in ("a", "l40"):
        with pytest.raises(Forbidden):
            source.lookup(name, PEER)


def test_linkDangling(tree: Path) -> None:
    """A link to a file that is not there is a file that is not there."""
    (tree / "link").symlink_to("bios/no")
    with pytest.raises(NotFound):
        directory(tree).lookup("link", PEER)


def test_linkWithoutCase(tree: Path) -> None:
    """Where case is ignored the target of a link may be spelled in another way, unless there is such a file."""
    (tree / "BIOS").mkdir()
    for name, target in (("first", "BIOS/Y"), ("second", "bios/Y"), ("third", "Deep/z"), ("none", "bios/none")):
        (tree / name).symlink_to(target)
    source = directory(tree, **{"ignore-case": True})
    assert content(source, "second") == b"the file y"
    for name in ("first", "third", "none"):
        with pytest.raises(NotFound):
            source.lookup(name, PEER)


def test_rootThroughLink(tree: Path) -> None:
    """Where the configured path is a link itself, absolute links by either path are inside."""
    alias = tree.parent / "alias"
    alias.symlink_to(tree)
    (tree / "one").symlink_to(alias / "x")
    (tree / "two").symlink_to(tree / "x")
    source = directory(alias)
    assert content(source, "one") == content(source, "two") == b"the file x"


STEPS = st.sampled_from(["a", "b", "x", "l0", "l1", "l2", "..", ".", "", "boot", "outside"])
TARGETS = st.builds(
    lambda root, steps: ("{root}/" if root else "") + "/".join(steps), st.booleans(), st.lists(STEPS, max_size=5)
)
PLACES = st.sampled_from(["", "a/", "a/b/", "b/"])


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(PLACES, TARGETS), min_size=3, max_size=3), st.lists(STEPS, min_size=1, max_size=5))
def test_linksAsTheKernel(links: list[tuple[str, str]], steps: list[str]) -> None:
    """
    What is served is what the kernel finds, and is inside; what the kernel finds without a step outside is served.
    """
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent, "boot")
        for place in ("", "a", "a/b", "b"):
            (root / place).mkdir(parents=True, exist_ok=True)
            (root / place / "x").write_text(f"{place}/x")
        Path(parent, "outside").mkdir()
        Path(parent, "outside", "x").write_text("secret")
        for number, (place, target) in enumerate(links):
            (root / place / f"l{number}").symlink_to(target.format(root=root) or ".")
        name = "/".join(steps)
        served = orNone(root, name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(athand, "openat2", lambda *_: None)
            assert served == orNone(root, name)
        real = Path(os.path.realpath(f"{root}/{name}"))
        inside = real.is_relative_to(root) and real.is_file()
        if served is not None:
            assert inside
            assert served == real.read_text()
        elif inside and ".." not in steps:
            assert any("outside" in target for _, target in links), name


def orNone(root: Path, name: str) -> str | None:
    """The text of a file as it is served; L{None}: it is refused."""
    try:
        return content(directory(root), name).decode()
    except (NotFound, Forbidden, Unsupported):
        return None


def test_permissions(tree: Path) -> None:
    """What the server's user may not read is an access violation; with the switch, what not everybody may read."""
    for folder in (tree.parent, tree):
        folder.chmod(0o755)
    (tree / "x").chmod(0o000)
    (tree / "bios" / "y").chmod(0o640)
    (tree / "bios" / "deep" / "z").chmod(0o644)
    source, strict = directory(tree), directory(tree, **{"world-readable": "true"})
    with nobody(), pytest.raises(Forbidden):
        source.lookup("x", PEER)
    with pytest.raises(Forbidden):
        strict.lookup("bios/y", PEER)
    assert content(source, "bios/y") == content(directory(tree), "bios/y")
    assert content(strict, "bios/deep/z") == b"the file z"


def test_ignoreCase(tree: Path) -> None:
    """Without an exact match another spelling is found, if so configured; an exact one goes first."""
    (tree / "BIOS").mkdir()
    (tree / "BIOS" / "only").write_bytes(b"upper")
    source = directory(tree, **{"ignore-case": True})
    assert content(source, "Bios\\ONLY") == b"upper"
    assert content(source, "bios/DEEP/Z") == b"the file z"
    assert content(source, "X") == b"the file x"
    (tree / "X").write_bytes(b"exact")
    assert content(source, "X") == b"exact"
    with pytest.raises(NotFound):
        source.lookup("nothing", PEER)


def test_ignoreCaseEachDirectory(tree: Path) -> None:
    """Each directory that fits is tried, in any depth; what is spelled as on disk goes first."""
    for name in ("Boot/BCD", "boot/boot.sdi", "boot/Fonts/a", "BOOT/fonts/b", "Boot/same", "boot/same"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    (tree / "bOOT").write_bytes(b"a file that is in the way")
    source = directory(tree, **{"ignore-case": True})
    assert content(source, "boot/bcd") == b"Boot/BCD"
    assert content(source, "Boot/Boot.SDI") == b"boot/boot.sdi"
    assert content(source, "boot/FONTS/B") == b"BOOT/fonts/b"
    assert content(source, "Boot/fonts/A") == b"boot/Fonts/a"
    assert content(source, "boot/SAME") == b"boot/same"
    assert content(source, "Boot/same") == b"Boot/same"
    with pytest.raises(NotFound):
        source.lookup("boot/none", PEER)


@pytest.mark.slow
def test_ignoreCaseAsRulesDo() -> None:
    """No two names are one without case that a pattern of an access rule tells apart."""
    alike: dict[str, list[str]] = {}
    for code in range(sys.maxunicode + 1):
        alike.setdefault(withoutCase(chr(code)), []).append(chr(code))
    several = [letters for letters in alike.values() if len(letters) > 1]
    assert ["K", "k", "\u212a"] in several
    for letters in several:
        assert all(second in Patterns([first]) for first in letters for second in letters)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("con\ufb01g", None),  # the ligature fi
        ("K\u212aEY", "kkey"),
        ("\xe4\u1e9e", "\xc4\xdf"),
        ("\xe4ss", None),
        ("I\u0307", None),
        ("\u0130", "\u0130"),
    ],
)
def test_ignoreCaseByCharacters(tree: Path, name: str, file: str | None) -> None:
    """A character is another spelling of one, never of several."""
    for each in ("config", "kkey", "\xc4\xdf", "\u0130"):
        (tree / each).write_text(each)
    source = directory(tree, **{"ignore-case": True})
    if file is not None:
        assert content(source, name) == file.encode()
        return
    with pytest.raises(NotFound):
        source.lookup(name, PEER)


@pytest.mark.slow
def test_ignoreCaseBounded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many directories fit, so many ways are tried and no more."""
    step, walks = tree, list[int]()
    for _ in range(8):
        (step / "ab").mkdir()
        for name in ("Ab", "aB", "AB"):
            (step / name).symlink_to("ab")
        step = step / "ab"
    opened = _LinkWalk.open
    monkeypatch.setattr(_LinkWalk, "open", lambda self, *given: (walks.append(1), opened(self, *given))[1])
    with pytest.raises(NotFound):
        directory(tree, **{"ignore-case": True}).lookup("ab/" * 8 + "x", PEER)
    assert len(walks) == MOST_WALKS


def test_ignoreCaseRemovedMeanwhile(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is removed before it has been tried is not there, and no fault."""
    for name in ("AB", "aB"):
        (tree / name).mkdir()
    opened = _LinkWalk.open

    def openThenRemove(self: _LinkWalk, *given: Any) -> int:
        try:
            return opened(self, *given)
        finally:
            with suppress(FileNotFoundError):
                (tree / "aB").rmdir()

    monkeypatch.setattr(_LinkWalk, "open", openThenRemove)
    with pytest.raises(NotFound):
        directory(tree, **{"ignore-case": True}).lookup("ab/x", PEER)
    assert not (tree / "aB").exists()


MACHINE = KnownMachine(PEER, "10.0.0.1", "52:54:00:66:00:10", None, "efi-x64", 1_795_728_240.0)


def of(source: Directory, name: str, machine: KnownMachine = MACHINE) -> bytes:
    """All octets of a file that a machine asks for."""
    found: Any = source.lookupFor(name, machine)
    try:
        return bytes(found.read(0, found.size))
    finally:
        found.close()


def test_folderOfMachine(tree: Path) -> None:
    """A folder for each machine is one with a word; a machine of which too little is known has none."""
    (tree / "52-54-00-66-00-10" / "efi-x64").mkdir(parents=True)
    (tree / "52-54-00-66-00-10" / "efi-x64" / "x").write_bytes(b"its own")
    source = directory(tree / "{mac}" / "{arch}")
    assert source.byMachine
    assert of(source, "x") == b"its own"
    for machine in (KnownMachine(PEER), KnownMachine(PEER, mac=MACHINE.mac), KnownMachine(PEER, mac="../../bios")):
        with pytest.raises(NotFound):
            of(source, "x", machine)
    for name in ("../x", "../../bios/y"):
        with pytest.raises(Forbidden):
            of(source, name)


def test_wordsInNames(tree: Path) -> None:
    """Words also stand in the names below which a directory appears, and in what rules make of a name."""
    assert of(directory(tree, under="pc/{mac}"), "pc/52-54-00-66-00-10/x") == b"the file x"
    with pytest.raises(NotFound):
        of(directory(tree, under="pc/{mac}"), "pc/52-54-00-66-00-11/x")
    rules = [{"from": "^config$", "to": "bios/{ip}"}, {"from": r"^(.)$", "to": r"bios/{{\1}}/{uuid}"}]
    source = directory(tree, rewrite=rules)
    (tree / "bios" / "10.0.0.7").write_bytes(b"by address")
    assert of(source, "config") == b"by address"
    assert of(source, "bios/y") == b"the file y", "a rule that does not match needs no value"
    with pytest.raises(NotFound, match="uuid"):
        of(source, "x")
    assert not directory(tree, under="{ip}").byMachine, "an address is in each request"


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"path": "/srv/{mca}"}, "did you mean {mac}"),
        ({"path": "/srv/{mac"}, "write {{"),
        ({"under": "a/{host}/b"}, "known are {ip}"),
        ({"rewrite": [{"from": "a", "to": "{0}"}]}, "known are {ip}"),
    ],
)
def test_wrongWords(wrong: dict[str, Any], hint: str) -> None:
    """A word that is unknown is a fault of the service file, with what would be right."""
    with pytest.raises(ValidationError, match=re.escape(hint)):
        DirectoryOptions.model_validate({"path": "/srv", **wrong})


def test_braces(tree: Path) -> None:
    """A doubled brace is one in a path; braces in the folder of the service file are no words."""
    (tree / "{mac}").mkdir()
    (tree / "{mac}" / "x").write_bytes(b"braces")
    assert content(directory(tree / "{{mac}}"), "x") == b"braces"
    for path in (".", "{mac}"):
        options = DirectoryOptions.model_validate({"path": path}, context={"folder": tree / "{mac}"})
        assert options.base == tree / "{mac}"


def test_rulesSeeAll(tree: Path) -> None:
    """Rules see a name as the client has sent it, with what no name may have; what they make of it is judged."""
    junk = {"from": r"(?s)[\x01-\x1f\x7f].*$", "to": ""}
    for name in ("x\x01\x02", "x\r\n/..", "bios/../x\x7f"):
        with pytest.raises(Forbidden):
            directory(tree).lookup(name, PEER)
    source = directory(tree, rewrite=[junk])
    assert content(source, "x\x01\x02") == b"the file x"
    assert content(source, "x\r\n/..") == b"the file x"
    for name in ("../x\x01", "bios/../x\x7f", "/"):
        with pytest.raises(Forbidden):
            source.lookup(name, PEER)
    up = directory(tree, rewrite=[{"from": r"^bios/\.\./", "to": ""}])
    assert content(up, "bios/../x") == b"the file x"
    with pytest.raises(NotFound):
        up.lookup("a" * 10_000, PEER)


def test_lastRule(tree: Path) -> None:
    """Behind a rule that ends the rules no other one is applied; if it does not match, it ends nothing."""
    rules = [{"from": "^pc/", "to": "bios/", "end": True}, {"from": "y$", "to": "deep/z"}]
    source = directory(tree, rewrite=rules)
    assert content(source, "pc/y") == b"the file y"
    assert content(source, "bios/y") == b"the file z"


def test_stripRewriteUnder(tree: Path) -> None:
    """Names are stripped, then rewritten, then looked for beneath the prefix that the root has."""
    source = directory(
        tree, under="/images/", strip=["/tftpboot/"], rewrite=[{"from": r"^images/pc/(.)$", "to": r"images/bios/\1"}]
    )
    assert content(source, "/tftpboot/images/pc/y") == b"the file y"
    assert content(source, "images/x") == b"the file x"
    for name in ("x", "images", "tftpboot/x"):
        with pytest.raises(NotFound):
            source.lookup(name, PEER)


def test_rewriteOutOfRoot(tree: Path) -> None:
    """Not even a rule of the operator opens what is outside."""
    with pytest.raises(Forbidden):
        directory(tree, rewrite=[{"from": "^", "to": "../"}]).lookup("secret", PEER)


def test_networks(tree: Path) -> None:
    """A root is not there for clients outside its networks; IPv4 through an IPv6 socket is still IPv4."""
    source = directory(tree, networks=["10.0.0.0/24", "fe80::/10"])
    for host in ("10.0.0.9", "::ffff:10.0.0.9", "fe80::1%eth0"):
        source.lookup("x", (host, 1)).close()
    for host in ("10.0.1.9", "::ffff:10.0.1.9", "2001:db8::1"):
        with pytest.raises(NotFound):
            source.lookup("x", (host, 1))


def test_networksEdges() -> None:
    """The first and last address of a network are in it, their neighbours are not."""
    networks = Networks([ip_network("10.0.0.128/25"), ip_network("192.168.1.1")])
    for host, inside in [
        ("10.0.0.127", False),
        ("10.0.0.128", True),
        ("10.0.0.255", True),
        ("10.0.1.0", False),
        ("192.168.1.1", True),
        ("::a00:80", False),
    ]:
        assert (host in networks) is inside, host
    assert "10.0.0.1" not in Networks([])


@pytest.mark.parametrize(
    "wrong",
    [
        {"under": "../x"},
        {"strip": ["a\x01"]},
        {"rewrite": [{"from": "(", "to": ""}]},
        {"links": "outside"},
        {"networks": ["10.0.0.1/8"]},
        {"mapped": True},
        {"path": ""},
    ],
)
def test_wrongOptions(tree: Path, wrong: dict[str, Any]) -> None:
    """Options that cannot work are found when they are read, and none is silently ignored."""
    with pytest.raises(ValidationError):
        DirectoryOptions.model_validate({"path": str(tree), **wrong})


def test_noRoot(tree: Path) -> None:
    """A root that is missing, no directory, or closed to the server is found at once, and named."""
    for path in (tree / "no", tree / "x"):
        with pytest.raises(OSError, match=path.name):
            directory(path)
    # Not beneath tmp_path, whose own parents are closed to everybody else.
    with tempfile.TemporaryDirectory() as closed:
        os.chmod(closed, 0o600)
        with nobody(), pytest.raises(PermissionError, match="cannot be searched"):
            directory(Path(closed))


@pytest.mark.parametrize(("number", "told"), [(errno.EACCES, True), (errno.ENOENT, False)])
def test_whoMayNot(tmp_path: Path, number: int, told: bool) -> None:
    """The fault of a directory that is closed says to whom, and what names the folder that is in the way."""
    fault = str(_unusable(DirectoryOptions(path=tmp_path), OSError(number, "no", str(tmp_path))))
    who = f", by user {os.geteuid()}: castd doctor --user {os.geteuid()} names each folder"
    assert fault.startswith(f"path: {tmp_path}: no")
    assert (who in fault) is told


def test_releasedWhileItIsAsked(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is released while a request waits for its disk answers that, and is not open afterwards."""
    monkeypatch.setattr(athand, "openat2", lambda *_: None)
    later = Later()
    source = Directory(DirectoryOptions(path=tree), later)
    asked = source.lookup("x", PEER)
    source.release()
    later.run()
    found = result(asked)
    assert found.read(0, 100) == b"the file x"
    found.close()
    assert descriptors(tree) == 0
    assert str(tree) not in openFiles()


def test_relativeRoot(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means what it meant at the start, whatever the working directory becomes."""
    monkeypatch.chdir(tree.parent)
    source = directory(Path("boot"))
    monkeypatch.chdir("/")
    assert content(source, "x") == b"the file x"


def test_withoutCtypes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python has no ctypes, as it may be where memory is locked down, everything is done in threads."""
    monkeypatch.setitem(sys.modules, "ctypes", None)
    spec = importlib.util.spec_from_file_location("athand", athand.__file__)
    assert spec is not None
    assert spec.loader is not None
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    assert without.openat2(b"/", os.O_PATH) is None
    assert without.versionOf(0) is None
    assert not without.fromMemory(0)
    assert "ctypes" in without.refusal()
    for name in ("openat2", "versionOf", "fromMemory"):
        monkeypatch.setattr(athand, name, getattr(without, name))
    assert content(directory(tree), "x") == b"the file x"


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSYS, "not implemented"), (errno.EPERM, "not permitted"), (errno.EAGAIN, None)]
)
def test_refusedOpenat2(monkeypatch: pytest.MonkeyPatch, number: int, told: str | None) -> None:
    """What refuses openat2, such as a seccomp filter, is told; a directory that is not in memory is no refusal."""

    def refused(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(athand, "_syscall", refused)
    assert (told in athand.refusal()) if told else (athand.refusal() == "")


def test_openat2() -> None:
    """Where it is not refused nothing is said, and no descriptor stays open."""
    before = set(os.listdir("/proc/self/fd"))
    assert "ctypes" not in athand.refusal()
    assert set(os.listdir("/proc/self/fd")) == before


def test_spellingsAreKept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A directory is listed once as long as it does not change, however many miss; one that has just changed is listed
    each time, as another change might not show; of the names of all directories only so many are kept.
    """
    listed, listdir, now = list[int](), os.listdir, time.time() + 100
    monkeypatch.setattr(os, "listdir", lambda fd: (listed.append(fd), listdir(fd))[1])
    monkeypatch.setattr(time, "time", lambda: now)
    places = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        for name in ("AbC", "aBC", "ABD"):
            (tmp_path / place / name).touch()
        places.append(os.open(tmp_path / place, os.O_RDONLY))
    kept = Spellings(most=3)
    for _ in range(5):
        assert kept.find(places[0], b"abc") == [b"AbC", b"aBC"]
        assert kept.find(places[0], b"none") == []
    assert len(listed) == 1
    (tmp_path / "one" / "ABC").touch()
    assert kept.find(places[0], b"abc") == [b"ABC", b"AbC", b"aBC"]
    assert len(listed) == 2
    for place in (1, 1, 0):
        kept.find(places[place], b"abc")
    assert len(listed) == 4
    now -= 100
    (tmp_path / "one" / "new").touch()
    for _ in range(3):
        assert kept.find(places[0], b"NEW") == [b"new"]
    assert len(listed) == 7
    for each in places:
        os.close(each)


def test_rootExchanged(tree: Path) -> None:
    """A tree that is exchanged as a whole is seen by the next request; one that vanishes is kept."""
    source = directory(tree)
    (tree.parent / "next").mkdir()
    (tree.parent / "next" / "x").write_bytes(b"next")
    tree.rename(tree.parent / "old")
    assert content(source, "x") == b"the file x"
    (tree.parent / "next").rename(tree)
    assert content(source, "x") == b"next"


def test_sharedDescriptor(tree: Path) -> None:
    """A thousand readers of one file take one descriptor, which is closed when the last of them leaves."""
    (tree / "same").hardlink_to(tree / "x")
    source = directory(tree)
    before = descriptors(tree)
    files = [source.lookup(name, PEER) for name in ("x", "same") for _ in range(500)]
    assert descriptors(tree) == before + 1
    assert len({file.version for file in files}) == 1
    for file in files[:-1]:
        file.close()
    assert files[-1].read(4, 4) == b"file"
    files[-1].close()
    assert descriptors(tree) == before


def test_replaced(tree: Path) -> None:
    """A replaced file is seen by the next request; the one under way goes on with what it opened."""
    source = directory(tree)
    old = source.lookup("x", PEER)
    (tree / "new").write_bytes(b"the new x!")
    (tree / "new").rename(tree / "x")
    new = source.lookup("x", PEER)
    assert (old.read(0, 10), new.read(0, 10)) == (b"the file x", b"the new x!")
    assert old.version != new.version
    old.close()
    new.close()


def test_writtenInPlace(tree: Path) -> None:
    """A file that is written anew in place is another version, even with as many octets."""
    source = directory(tree)
    old = source.lookup("x", PEER)
    (tree / "x").write_bytes(b"THE FILE X")
    os.utime(tree / "x", ns=(1, 1))
    new = source.lookup("x", PEER)
    assert old.version != new.version
    old.close()
    new.close()


def test_timeKept(tree: Path) -> None:
    """
    A file with other octets is another version, even if it has the size, the inode and the time of the one before:
    programs that copy set that time.  What is in memory of the old one is not sent for it.
    """
    os.utime(tree / "x", ns=(1, 1))
    with TftpStage(made=lambda network: memorySite(network, source=directory(tree))) as stage:
        assert stage.ask(rrq("x"), stage.client(2000))[1] == Data(1, b"the file x")
        before = (tree / "x").stat()
        while (tree / "x").stat().st_ctime_ns == before.st_ctime_ns:  # the clock of the kernel has coarse steps
            (tree / "x").write_bytes(b"THE FILE X")
            os.utime(tree / "x", ns=(1, 1))
        after = (tree / "x").stat()
        assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, 1)
        assert stage.ask(rrq("x"), stage.client(2001))[1] == Data(1, b"THE FILE X")
        stage.listener.stop()


def test_shrunk(tree: Path) -> None:
    """A file that shrinks while it is sent is ContentChanged, either way it is read; what is left can be read."""
    (tree / "long").write_bytes(bytes(HEAD + 10))
    file = directory(tree).lookup("long", PEER)
    os.truncate(tree / "long", HEAD + 4)
    assert file.read(HEAD, 4) == bytes(4)
    with pytest.raises(ContentChanged):
        file.read(HEAD, 8)
    with pytest.raises(ContentChanged):
        file.readInto([bytearray(3), bytearray(7)], HEAD)
    assert not file.readAtHand([bytearray(10)], HEAD)
    file.close()


def test_grown(tree: Path) -> None:
    """A file that grows while it is sent ends where it ended when it was opened."""
    file = directory(tree).lookup("x", PEER)
    with open(tree / "x", "ab") as more:
        more.write(b" and more")
    assert file.read(8, 512) == b" x"
    assert file.read(9, 512) == b"x"
    assert file.read(10, 512) == b""
    with pytest.raises(ContentChanged):
        file.readInto([bytearray(11)], 0)
    file.close()


def _change(path: Path, octets: bytes, mode: str) -> None:
    """Write to a file, and give it another time, whatever the steps of the kernel's clock."""
    with open(path, mode) as file:
        file.write(octets)
    os.utime(path, ns=(2, 2))


@pytest.mark.parametrize("octets", [bytes(HEAD + 10), b"new" + bytes(HEAD + 9)], ids=["as long", "longer"])
def test_writtenOver(tree: Path, octets: bytes) -> None:
    """A file that is written anew in its place while it is sent is ContentChanged: half of it was sent already."""
    (tree / "long").write_bytes(bytes(HEAD) + b"the file x")
    os.utime(tree / "long", (10**9, 10**9))
    file = directory(tree).lookup("long", PEER)
    assert file.read(HEAD, 4) == b"the "
    _change(tree / "long", octets, "wb")
    with pytest.raises(ContentChanged):
        file.read(HEAD, 4)
    with pytest.raises(ContentChanged):
        file.readInto([bytearray(3), bytearray(7)], HEAD)
    with pytest.raises(ContentChanged):
        result(file.fetch([bytearray(10)], HEAD))
    with suppress(ContentChanged):
        assert not file.readAtHand([bytearray(10)], HEAD)
    file.close()


def test_writtenOverAtOnce(tree: Path) -> None:
    """As above, of a file that was written only just before."""
    (tree / "long").write_bytes(bytes(HEAD) + b"the file x")
    file = directory(tree).lookup("long", PEER)
    if not file._file.opened.fromMemory:
        file.close()
        lack("the tests' own disk may tell the present time whenever it is asked")
    _change(tree / "long", bytes(HEAD + 10), "wb")
    with pytest.raises(ContentChanged):
        file.read(HEAD, 10)
    file.close()


def test_appendedTo(tree: Path) -> None:
    """Of a file that octets are appended to, as to a log, those that it had are sent."""
    (tree / "long").write_bytes(bytes(HEAD) + b"the file x")
    os.utime(tree / "long", ns=(1, 1))
    file = directory(tree).lookup("long", PEER)
    _change(tree / "long", b" and more", "ab")
    assert file.read(HEAD, 10) == b"the file x"
    result(file.fetch([bytearray(10)], HEAD))
    file.close()


@pytest.mark.parametrize("head", [HEAD, 50_000])
def test_writtenOverByOneThatBeginsAlike(tree: Path, head: int) -> None:
    """A longer file that is written in the place of another, and begins as that, is not one that was appended to."""
    old, new = bytes(head) + b"the file x", bytes(head) + b"another x, a longer one"
    (tree / "long").write_bytes(old)
    os.utime(tree / "long", (10**9, 10**9))
    file = directory(tree).lookup("long", PEER)
    _change(tree / "long", new, "wb")
    with pytest.raises(ContentChanged):
        file.read(head, 10)
    with pytest.raises(ContentChanged):
        result(file.fetch([bytearray(10)], head))
    with suppress(ContentChanged):
        assert not file.readAtHand([bytearray(10)], head)
    file.close()


def test_endHalfInMemory(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that has grown its end is read in a thread if a part of that is not in memory: it is not changed."""
    octets = bytes(HEAD) + b"the file x"
    (tree / "long").write_bytes(octets)
    os.utime(tree / "long", ns=(1, 1))
    file, preadv = directory(tree).lookup("long", PEER), os.preadv
    file._file.atHand = True  # not on each file system there is such a call
    _change(tree / "long", b" and more", "ab")

    def fromMemory(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        found = preadv(fd, buffers, offset)
        return found - 1 if flags and len(buffers) == 1 and offset else found

    monkeypatch.setattr(os, "preadv", fromMemory)
    halves = [bytearray(3), bytearray(7)]
    assert not file.readAtHand(halves, HEAD)
    result(file.fetch(halves, HEAD))
    assert b"".join(halves) == b"the file x"
    file.close()


def test_timesThatSayNothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system in user space that tells the present time whenever it is asked has its files sent."""
    monkeypatch.setattr(athand, "_available", False)
    (tree / "long").write_bytes(bytes(HEAD) + b"the file x")
    file = result(directory(tree).lookup("long", PEER))
    os.utime(tree / "long", ns=(1, 1))
    assert file.read(HEAD, 10) == b"the file x"
    file.close()


def test_timesThatSaySomething(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that tells another time after a change has no file sent of which half was written anew."""
    monkeypatch.setattr(athand, "_available", False)
    (tree / "long").write_bytes(bytes(HEAD) + b"the file x")
    os.utime(tree / "long", (10**9, 10**9))
    file = result(directory(tree).lookup("long", PEER))
    _change(tree / "long", bytes(HEAD + 10), "wb")
    with pytest.raises(ContentChanged):
        file.read(HEAD, 10)
    file.close()


def test_readAtHand(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory is read at once; if not all of it is there, it has to be fetched."""
    (tree / "long").write_bytes(bytes(HEAD) + b"the file x")
    file, preadv, most = directory(tree).lookup("long", PEER), os.preadv, 10
    file._file.atHand = True  # not on each file system there is such a call

    def fromMemory(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        return min(most, preadv(fd, buffers, offset))

    monkeypatch.setattr(os, "preadv", fromMemory)
    buffers = [bytearray(3), bytearray(7)]
    assert file.readAtHand(buffers, HEAD)
    assert b"".join(buffers) == b"the file x"
    most = 9
    assert not file.readAtHand(buffers, HEAD)
    file.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_notAtHand(tree: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where a file cannot be read from memory at all it is fetched, and that is not tried again."""
    (tree / "long").write_bytes(bytes(HEAD) + b"the file x")
    file, preadv, tried = directory(tree).lookup("long", PEER), os.preadv, list[int]()
    file._file.atHand = True  # not on each file system there is such a call

    def notFromMemory(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            tried.append(flags)
            raise OSError(number, os.strerror(number))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", notFromMemory)
    buffer = bytearray(10)
    for _ in range(2):
        assert not file.readAtHand([buffer], HEAD)
    assert len(tried) == 1
    result(file.fetch([buffer], HEAD))
    assert buffer == b"the file x"
    file.close()


def test_nearBounded(tree: Path) -> None:
    """For a few requests at once a file that was probably meant is looked for: who asks for many waits for no disk."""
    source, machine = directory(tree), KnownMachine(PEER)
    source.background = later = Later()
    seeking = [source.findNear("X", machine) for _ in range(MOST_SEEKING)]
    assert result(source.findNear("X", machine)) is None
    later.run()
    assert [result(each).name for each in seeking] == ["x"] * MOST_SEEKING


def test_near(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often nothing was found, or the disk has failed, a file that was probably meant is found again."""
    source, machine = directory(tree), KnownMachine(PEER)

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(nearest, "seek", failing)
        for _ in range(MOST_SEEKING):
            assert result(source.findNear("X", machine)) is None
    for _ in range(MOST_SEEKING + 1):
        near = result(source.findNear("X", machine))
        assert near is not None
        assert near.name == "x"


def test_readInto(tree: Path) -> None:
    """Buffers are filled one after the other, gaps between them left alone."""
    file = directory(tree).lookup("x", PEER)
    image = bytearray(b"." * 14)
    file.readInto([memoryview(image)[2:6], memoryview(image)[8:14]], 0)
    assert image == b"..the ..file x"
    file.close()


def test_shortReads(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that gives less than was asked for is asked for the rest."""
    (tree / "long").write_bytes(bytes(HEAD) + b"the file x")
    file = directory(tree).lookup("long", PEER)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [memoryview(buffers[0])[:2]], offset))
    assert file.read(HEAD, 10) == b"the file x"
    buffers = [bytearray(3), bytearray(0), bytearray(7)]
    file.readInto(buffers, HEAD)
    assert b"".join(buffers) == b"the file x"
    file.close()


def test_diskFails(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in the middle is ContentChanged, never another exception."""
    (tree / "long").write_bytes(bytes(HEAD + 4))
    file = directory(tree).lookup("long", PEER)

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(ContentChanged, match="Input/output"):
        file.read(HEAD, 4)
    with pytest.raises(ContentChanged, match="Input/output"):
        file.readInto([bytearray(4)], 0)
    with pytest.raises(ContentChanged, match="Input/output"):
        file.readAtHand([bytearray(4)], 0)
    file.close()


def test_noDescriptors(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without descriptors there is no answer, upon which clients ask again: at any ERROR they would give up."""
    source = directory(tree)

    def exhausted(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", exhausted)
    monkeypatch.setattr(athand, "openat2", exhausted)
    with pytest.raises(Unanswered):
        source.lookup("x", PEER)
    monkeypatch.undo()


def test_diskFailsAtOnce(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a disk fails when a file is opened, the client is told that, and not left to ask again for ever."""
    source = directory(tree)

    def broken(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "open", broken)
    monkeypatch.setattr(athand, "openat2", lambda *_: None)
    with pytest.raises(Busy) as refused:
        source.lookup("x", PEER)
    assert not isinstance(refused.value, Unanswered)
    monkeypatch.undo()


class Fixed:
    """A source that always does the same, and counts how often."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, 0

    def lookup(self, name: str, peer: Any) -> Any:
        self.asked += 1
        if isinstance(self.answer, Refused):
            raise self.answer
        return self.answer


def test_chain(tree: Path) -> None:
    """The first source that has the name answers; where none has it, it is not found."""
    (tree.parent / "second").mkdir()
    for name in ("x", "w"):
        (tree.parent / "second" / name).write_bytes(b"second")
    chain = SourceChain([directory(tree), directory(tree.parent / "second")])
    first, second = chain.lookup("x", PEER), chain.lookup("w", PEER)
    assert (first.read(0, 10), second.read(0, 10)) == (b"the file x", b"second")
    first.close()
    second.close()
    with pytest.raises(NotFound):
        chain.lookup("v", PEER)
    with pytest.raises(NotFound):
        SourceChain([]).lookup("x", PEER)


class Knowing:
    """Knows one machine, at once or later, and counts how often it was asked."""

    def __init__(self, later: bool) -> None:
        self.later, self.asked = later, 0

    def machineOf(self, peer: Any, server: Any = None) -> Any:
        self.asked += 1
        return succeed(MACHINE) if self.later else MACHINE


@pytest.mark.parametrize("later", [False, True])
def test_chainByMachine(tree: Path, later: bool) -> None:
    """The machine is looked for once, and only if a source needs it; without its folder it gets what all get."""
    (tree / "52-54-00-66-00-10").mkdir()
    (tree / "52-54-00-66-00-10" / "x").write_bytes(b"its own")
    (tree / "none").mkdir()
    machines: Any = Knowing(later)
    sources = [directory(tree / "none"), directory(tree / "{mac}"), directory(tree / "{arch}"), directory(tree)]
    chain = SourceChain(sources, (), machines)
    for name, octets in (("x", b"its own"), ("bios/y", b"the file y")):
        found = result(chain.lookup(name, PEER))
        assert found.read(0, found.size) == octets
        found.close()
    assert machines.asked == 2
    result(SourceChain(sources[::-1], (), machines).lookup("x", PEER)).close()
    assert machines.asked == 2, "the first source has it"
    known: Any = chain.lookup("x", PEER, None, MACHINE)
    known.close()
    assert machines.asked == 2
    assert chain.byMachine
    assert not SourceChain([sources[0]], (), machines).byMachine
    result(SourceChain(sources).lookup("x", PEER)).close()


_GOOD = {"x", "y", "pc", "pc/x", "/pc//bios/y", "bios/y", "boot/pc/x"}


@pytest.mark.parametrize(
    ("options", "asks"),
    [
        ({"under": "pc"}, {"pc/x", "/pc//bios/y"}),
        ({"under": "pc/{arch}"}, {"/pc//bios/y"}),
        ({"under": "{arch}"}, {"pc/x", "/pc//bios/y", "bios/y", "boot/pc/x"}),
        ({"under": "pc", "strip": ["boot"]}, {"pc/x", "/pc//bios/y", "boot/pc/x"}),
        ({"under": "pc", "rewrite": [{"from": "^y$", "to": "pc/x"}]}, {*_GOOD, "..", ""}),
        ({"networks": "10.9.0.0/16"}, set()),
        ({}, _GOOD),
    ],
)
def test_chainUnasked(tree: Path, options: dict[str, Any], asks: set[str]) -> None:
    """Who asks is not found out for a name that a folder of machines has for none; why it has it not is told."""
    source = directory(tree / "{mac}", **options)
    for name in (*_GOOD, "..", ""):
        machines: Any = Knowing(False)
        missed: list[NotFound] = []
        chain = SourceChain([source, directory(tree)], (), machines)
        with suppress(Refused):
            result(chain.lookup(name, PEER, missed=missed.append)).close()
        assert (bool(machines.asked), name) == (name in asks, name)
        if name not in asks:
            for machine in (MACHINE, KnownMachine(PEER)):
                with pytest.raises(Refused):
                    source.lookupFor(name, machine)
        if name == "x" and "networks" in options:
            assert str(missed[0]) == "not for this client"


def test_chainForbidden() -> None:
    """What one source forbids no other is asked for."""
    last = Fixed("found")
    with pytest.raises(Forbidden):
        SourceChain([Fixed(NotFound()), Fixed(Forbidden()), last]).lookup("x", PEER)
    assert last.asked == 0


def test_chainNow(tree: Path) -> None:
    """What a later source forbids is not known of a name of which an earlier one may have a file for some machine."""
    chain = SourceChain([directory(tree / "{mac}", under="pc"), Fixed(Forbidden())])
    assert chain.lookNow("pc/x", PEER, 1.0) is None
    assert isinstance(chain.lookNow("x", PEER, 1.0), Forbidden)


def test_chainLater() -> None:
    """A source may answer later, and the next is asked only when it says that it has it not."""
    slow: Deferred[Any] = Deferred()
    last = Fixed("found")
    answer = SourceChain([Fixed(slow), Fixed(fail(NotFound())), last]).lookup("x", PEER)
    assert last.asked == 0
    results: list[Any] = []
    answer.addBoth(results.append)
    slow.errback(NotFound())
    assert results == ["found"]
    assert last.asked == 1


@pytest.mark.parametrize(("rest", "error"), [([], NotFound), ([Fixed(Forbidden())], Forbidden)])
def test_chainLaterFails(rest: list[Fixed], error: type[Refused]) -> None:
    """After a late "not here", the others' refusal or the lack of others is what comes out; other failures pass."""
    results: list[Failure] = []
    SourceChain([Fixed(fail(NotFound())), *rest]).lookup("x", PEER).addErrback(results.append)
    SourceChain([Fixed(fail(Busy())), Fixed(succeed("no"))]).lookup("x", PEER).addErrback(results.append)
    assert [failure.type for failure in results] == [error, Busy]


def test_nothingIsLeftOfALookup(tree: Path) -> None:
    """A look-up leaves no circle for the collector, though its trace can tell paths; in a storm it would run often."""
    chain = SourceChain([directory(tree)])

    def traces() -> int:
        return sum(isinstance(each, Trace) for each in gc.get_objects())

    collecting = gc.isenabled()
    gc.disable()
    try:
        before = traces()
        for _ in range(10):
            trace = Trace()
            result(chain.lookup("x", PEER, trace=trace)).close()
            ((_, path),) = trace.places
            assert path is not None
            assert path("x") == str(tree / "x")
            del trace, path
        assert traces() == before
    finally:
        if collecting:
            gc.enable()
