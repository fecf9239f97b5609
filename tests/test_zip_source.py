"""A source of content from outside, whole: the archive of C{examples/zip}, found, checked, and served."""

from __future__ import annotations

import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred
from zope.interface.verify import verifyObject

from castd import plugins
from castd.config.plugin import Collected, ContentSourceMaker, collect
from castd.errors import Busy, ConfigError, Forbidden, NotFound
from castd.interfaces import IContent, IContentSource, IContentSourceMaker
from castd.service.service import compose, read
from castd.testing.network import Network
from castd.testing.site import memorySite
from tests.support.disks import result
from tests.support.server import SERVER, Client

EXAMPLE = Path(__file__).parent.parent / "examples" / "zip"
PEER = ("10.0.0.9", 1)
OCTETS = bytes(range(256)) * 10


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collected]:
    """What is found when the folder of the example is on the path; its threads are this one."""
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, str(EXAMPLE / "castd" / "plugins")])
    found = collect()
    monkeypatch.setattr(sys.modules["castd.plugins.castd_zip"], "deferToThread", maybeDeferred)
    yield found
    sys.modules.pop("castd.plugins.castd_zip", None)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "tree.zip", "w") as made:
        made.writestr("boot/file", OCTETS)
        made.writestr("large", bytes(2000), zipfile.ZIP_DEFLATED)
    return tmp_path / "tree.zip"


def source(collected: Collected, archive: Path, **options: Any) -> IContentSource:
    maker = collected.sources["zip"]
    made = maker.makeSource(maker.options.model_validate({"file": str(archive), **options}), memorySite(Network()))
    assert verifyObject(IContentSource, made)
    return made


def test_announced(collected: Collected) -> None:
    """The example is found, and keeps to what an announcement promises."""
    assert collected.faults == []
    assert isinstance(collected.sources["zip"], ContentSourceMaker)
    assert verifyObject(IContentSourceMaker, collected.sources["zip"])


def test_lookup(collected: Collected, archive: Path) -> None:
    """Names are parsed by castd's own rules, and each refusal is the right one."""
    made = source(collected, archive, largest=2560)
    content = result(made.lookup("/boot\\file", PEER))
    assert verifyObject(IContent, content)
    buffers = [bytearray(2), bytearray(3)]
    content.readInto(buffers, 254)
    assert (content.read(0, 9999), buffers) == (OCTETS, [OCTETS[254:256], OCTETS[256:259]])
    with pytest.raises(NotFound):
        result(made.lookup("nothing", PEER))
    with pytest.raises(Forbidden):
        made.lookup("../file", PEER)
    with pytest.raises(Forbidden):
        result(source(collected, archive, largest=1000).lookup("large", PEER))
    version = content.version
    archive.write_bytes(b"being replaced")
    with pytest.raises(Busy):
        result(made.lookup("boot/file", PEER))
    with zipfile.ZipFile(archive, "w") as again:
        again.writestr("boot/file", b"new")
    assert result(made.lookup("boot/file", PEER)).version != version


def test_replacedWhileOpened(collected: Collected, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of an archive that is replaced meanwhile is not taken for a file of the new one."""
    plugin = sys.modules["castd.plugins.castd_zip"]
    opened, newer = plugin.ZipFile, archive.with_name("newer.zip")

    def replaced(file: Any) -> zipfile.ZipFile:
        found: zipfile.ZipFile = opened(file)
        with zipfile.ZipFile(newer, "w") as made:
            made.writestr("boot/file", OCTETS[::-1])
        newer.rename(archive)
        return found

    served = source(collected, archive)
    monkeypatch.setattr(plugin, "ZipFile", replaced)
    old = result(served.lookup("boot/file", PEER))
    monkeypatch.setattr(plugin, "ZipFile", opened)
    new = result(served.lookup("boot/file", PEER))
    assert (old.read(0, 4000), new.read(0, 4000)) == (OCTETS, OCTETS[::-1])
    assert old.version != new.version


def test_wrongFile(collected: Collected, tmp_path: Path) -> None:
    """An archive that is not there, or is none, is a fault with its key."""
    (tmp_path / "none").write_text("no archive")
    for name in ("missing", "none"):
        with pytest.raises(ConfigError, match="file: "):
            source(collected, tmp_path / name)


def test_served(collected: Collected, archive: Path, tmp_path: Path) -> None:
    """A service file names it, and a client gets what is in it."""
    (tmp_path / "x.yaml").write_text("castd: 1\ncontent: [{zip: {file: tree.zip}}]\ntransports: {tftp: }\n")
    network = Network()
    host = network.host(SERVER)
    server = compose(read(tmp_path / "x.yaml", collected), collected, host, host, random.Random(0))
    server.privilegedStartService()
    server.startService()
    assert Client(network, name="boot/file").finish() == OCTETS
    server.stopService()
    network.advance(5)
